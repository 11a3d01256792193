//! Services of messages, and those that speak first, on real sockets: greeting, reply, banner and daytime.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};

use tidewheel::framing::{Answer, Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::banner::{Banner, default_text};
use tidewheel::services::daytime::Daytime;
use tidewheel::services::greeting::Greeting;
use tidewheel::services::reply::Reply;
use tidewheel::{Address, CloseReason, Limits, Options, Service};

use crate::harness::{
    PATIENCE, Served, any_tcp, ask, expect, listen, listen_with, pattern, read_to_end, send_what_goes,
    socket_address, tcp, unix,
};

fn served(answer: impl Answer + Send) -> Served {
    let framed = Framed::new(answer, Rules::default());
    Served::start(Limits::default(), |reactor| {
        vec![listen_with(reactor, framed, Options::new("messages"), &any_tcp())]
    })
}

fn speaking(service: impl Service + Send) -> Served {
    Served::start(Limits::default(), |reactor| vec![listen(reactor, service, &any_tcp())])
}

#[test]
fn a_simple_peer_sends_text_without_a_line_ending_and_waits() {
    let served = served(Greeting::default());
    let mut peer = tcp(&served.addresses[0]);
    expect(&mut peer, b"Welcome!");
    ask(&mut peer, b"bob", b"Hello, bob!");
    ask(&mut peer, "世界".as_bytes(), "Hello, 世界!".as_bytes());
    peer.write_all(b"exit").unwrap();
    assert_eq!(read_to_end(&mut peer), (vec![], false));
    drop(peer);
    let metrics = served.await_metrics("it is gone", |metrics| metrics.connections_open == 0);
    assert_eq!(metrics.closed_for(CloseReason::Service), 1);
    assert_eq!(metrics.messages_in, 3);
}

#[test]
fn an_answer_ends_as_its_message_did() {
    let served = served(Greeting::default());
    let mut peer = tcp(&served.addresses[0]);
    expect(&mut peer, b"Welcome!");
    ask(&mut peer, b"one", b"Hello, one!");
    ask(&mut peer, b"two\r\nthree\n\n", b"Hello, two!\r\nHello, three!\nHello, !\n");
    // From the first newline on nothing else ends a message but the end of the stream.
    ask(&mut peer, b"fo", b"");
    ask(&mut peer, b"ur\nfive", b"Hello, four!\n");
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut peer), (b"Hello, five!".to_vec(), false));
}

#[test]
fn what_follows_the_last_message_of_a_conversation_does_not_destroy_its_answers() {
    let served = served(Greeting::default());
    let mut peer = tcp(&served.addresses[0]);
    let late = pattern(50_000);
    peer.write_all(&[b"one\nexit\ntwo\n", &late[..]].concat()).unwrap();
    assert_eq!(read_to_end(&mut peer), (b"Welcome!Hello, one!\n".to_vec(), false));
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_with_its_reason() {
    let served = served(Greeting::default());
    let mut peer = tcp(&served.addresses[0]);
    let longest = vec![b'x'; Rules::default().line_bytes_max];
    expect(&mut peer, b"Welcome!");
    ask(&mut peer, &[&longest[..], b"\r\n"].concat(), &[b"Hello, ", &longest[..], b"!\r\n"].concat());
    send_what_goes(&mut peer, &vec![b'x'; 1 << 20]);
    assert_eq!(read_to_end(&mut peer).0, b"");
    let metrics = served.await_metrics("it is gone", |metrics| metrics.connections_open == 0);
    assert_eq!(metrics.closed_for(CloseReason::InputLimit), 1);
}

#[test]
fn a_thousand_messages_in_one_piece_are_all_answered() {
    let served = served(Reply::new("received", ""));
    let mut peer = tcp(&served.addresses[0]);
    let asked = std::thread::spawn({
        let mut writer = peer.try_clone().unwrap();
        move || {
            writer.write_all(&b"some message\n".repeat(100_000)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    asked.join().unwrap();
    assert!(all == b"received\n".repeat(100_000), "{} bytes came", all.len());
}

#[test]
fn reply_has_one_text_for_streams_and_one_for_datagrams() {
    let path = std::env::temp_dir().join(format!("tidewheel-{}-reply", std::process::id()));
    // A test that failed may have left it.
    let _ = std::fs::remove_file(&path);
    let served = Served::start(Limits::default(), move |reactor| {
        let framed = Framed::new(Reply::new("来自流", "from a datagram"), Rules::default());
        let service = reactor.add_service(framed, Options::new("reply"));
        [any_tcp(), Address::Unix(path), Address::Udp(([127, 0, 0, 1], 0).into())]
            .map(|address| reactor.listen(&address, service).unwrap().1)
            .into()
    });
    ask(&mut tcp(&served.addresses[0]), b"hello", "来自流".as_bytes());
    ask(&mut unix(&served.addresses[1]), b"hello\n", "来自流\n".as_bytes());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    for question in [&b"hello\n"[..], b"", &[0; 65_507]] {
        udp.send_to(question, socket_address(&served.addresses[2])).unwrap();
        let mut answer = [0; 100];
        let len = udp.recv(&mut answer).unwrap();
        assert_eq!(answer[..len], *b"from a datagram");
    }
}

#[test]
fn a_banner_reaches_peers_that_talk_meanwhile() {
    for (language, text) in
        [(Language::English, "Welcome to tidewheel!\r\n"), (Language::Chinese, "欢迎访问菜鸟教程！\r\n")]
    {
        let served = speaking(Banner::new(default_text(language)));
        let mut silent = tcp(&served.addresses[0]);
        assert_eq!(read_to_end(&mut silent), (text.as_bytes().to_vec(), false));
        let mut loud = tcp(&served.addresses[0]);
        loud.write_all(&pattern(40_000)).unwrap();
        assert_eq!(read_to_end(&mut loud), (text.as_bytes().to_vec(), false));
    }
}

#[test]
fn daytime_is_told_once_and_then_the_connection_ends() {
    let served = Served::start(Limits::default(), |reactor| {
        let service = reactor.add_service(Daytime::local(), Options::new("daytime"));
        [any_tcp(), Address::Udp(([127, 0, 0, 1], 0).into())]
            .map(|address| reactor.listen(&address, service).unwrap().1)
            .into()
    });
    let (told, was_reset) = read_to_end(&mut tcp(&served.addresses[0]));
    assert!(!was_reset);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    udp.send_to(b"", socket_address(&served.addresses[1])).unwrap();
    let mut answer = [0; 100];
    let len = udp.recv(&mut answer).unwrap();
    for told in [&told[..], &answer[..len]] {
        let shape: String =
            told.iter().map(|byte| if byte.is_ascii_digit() { '0' } else { char::from(*byte) }).collect();
        assert_eq!(shape, "0000-00-00 00:00:00.000000");
    }
}
