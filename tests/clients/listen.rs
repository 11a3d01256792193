//! `tidewheel talk --listen` in pipes: one peer after another on streams, whoever wrote last on datagrams.

use std::fs;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use super::console::Client;
use crate::harness::program::refused;
use crate::harness::{Folder, PATIENCE, expect, read_to_end};

fn start() -> (Client, String) {
    start_at("127.0.0.1:0")
}

fn start_at(address: &str) -> (Client, String) {
    let mut client = Client::start(["talk", "--listen", address]);
    let at = client.listening();
    (client, at)
}

fn connect(address: &str) -> TcpStream {
    let stream =
        TcpStream::connect(address.strip_prefix("tcp://").expect("it is of tcp")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    stream
}

#[test]
fn one_peer_after_another_and_either_side_speaks_first() {
    let (mut operator, address) = start();
    let mut first = connect(&address);
    // It waits in the backlog meanwhile.
    let mut second = connect(&address);
    operator.say("who is there?\n");
    expect(&mut first, b"who is there?\n");
    assert!(operator.err_line().ends_with(" connected"));
    first.write_all(b"me\n").expect("it is open");
    assert_eq!(operator.out_line(), "me");
    first.write_all(b"Bye\r\n").expect("it is open");
    assert_eq!(operator.out_line(), "Bye\r");
    assert_eq!(read_to_end(&mut first).0, b"", "the word ends the conversation");
    assert!(operator.err_line().ends_with(" disconnected"));

    second.write_all(b"hello?\n").expect("it is open");
    assert_eq!(operator.out_line(), "hello?");
    assert!(operator.err_line().ends_with(" connected"));
    operator.say("hello!\nBYE\n");
    expect(&mut second, b"hello!\nBYE\n");
    assert_eq!(read_to_end(&mut second).0, b"", "from this side, too");
    drop(second);
    assert!(operator.err_line().ends_with(" disconnected"));

    let mut third = connect(&address);
    third.write_all(b"without an end: bye").expect("it is open");
    operator.expect("without an end: bye");
    drop(third);
    assert!(operator.err_line().ends_with(" connected"));
    assert!(operator.err_line().ends_with(" disconnected"));
    operator.signal(Signal::INT);
    let ended = operator.wait();
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
}

#[test]
fn a_peer_without_line_endings_is_understood() {
    let (mut operator, address) = start();
    let mut peer = connect(&address);
    peer.write_all(b"BYE").expect("it is open");
    operator.expect("BYE");
    assert_eq!(read_to_end(&mut peer).0, b"");
}

#[test]
fn the_end_of_input_ends_it_after_the_conversation() {
    let (mut operator, address) = start();
    operator.say("only this\n");
    operator.end_input();
    let mut peer = connect(&address);
    assert_eq!(read_to_end(&mut peer).0, b"only this\n", "what was said before anybody came is not lost");
    peer.write_all(b"thank you\n").expect("the operator still reads");
    drop(peer);
    let ended = operator.wait();
    assert_eq!((ended.code, &*ended.out), (Some(0), "thank you\n"), "{}", ended.err);
}

#[test]
fn input_that_ends_between_two_conversations_ends_it() {
    let (mut operator, address) = start();
    let mut peer = connect(&address);
    operator.say("hello\n");
    expect(&mut peer, b"hello\n");
    drop(peer);
    assert!(operator.err_line().ends_with(" connected"));
    assert!(operator.err_line().ends_with(" disconnected"));
    operator.end_input();
    assert_eq!(operator.wait().code, Some(0));

    let (mut operator, address) = start_at("udp://127.0.0.1:0");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
    peer.send_to(b"bye", address.strip_prefix("udp://").expect("it is of udp")).expect("it listens");
    assert_eq!(operator.out_line(), "bye");
    assert!(operator.err_line().ends_with(" connected"));
    assert!(operator.err_line().ends_with(" disconnected"));
    operator.end_input();
    assert_eq!(operator.wait().code, Some(0));
}

#[test]
fn after_the_end_of_input_the_word_ends_it_too() {
    let mut operator = Client::start(["talk", "--listen", "127.0.0.1:0", "--wait", "0"]);
    let mut peer = connect(&operator.listening());
    operator.end_input();
    assert_eq!(read_to_end(&mut peer).0, b"");
    peer.write_all(b"bye\n").expect("the operator still reads");
    let ended = operator.wait();
    assert_eq!((ended.code, &*ended.out), (Some(0), "bye\n"), "{}", ended.err);

    let mut operator = Client::start(["talk", "--listen", "udp://127.0.0.1:0", "--wait", "0"]);
    let address = operator.listening();
    operator.end_input();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
    for word in ["hello", "bye"] {
        peer.send_to(word.as_bytes(), address.strip_prefix("udp://").expect("it is of udp"))
            .expect("it listens");
        assert_eq!(operator.out_line(), word);
    }
    assert_eq!(operator.wait().code, Some(0));
}

#[test]
fn datagrams_are_answered_to_whoever_wrote_last_with_the_time_before_the_text() {
    let (mut operator, address) = start_at("udp://127.0.0.1:0");
    let address = address.strip_prefix("udp://").expect("it is of udp");
    let peers = [(); 2].map(|()| {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
        peer.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        peer.connect(address).expect("an address of loopback");
        peer
    });
    let receive = |peer: &UdpSocket| {
        let mut bytes = [0; 128];
        let count = peer.recv(&mut bytes).expect("the operator answers");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    for peer in [&peers[0], &peers[1], &peers[0]] {
        peer.send(b"hello").expect("the operator is there");
        assert_eq!(operator.out_line(), "hello");
        let name = peer.local_addr().expect("it is bound");
        assert_eq!(operator.err_line(), format!("tidewheel: {name} connected"));
        operator.say("an answer\n");
        let answer = receive(peer);
        // [Sat Nov 21 04:05:06 2026]:an answer
        let (time, text) = answer.split_at(26);
        assert_eq!(text, ":an answer", "{answer}");
        assert!(time.starts_with('[') && time.ends_with(']') && time.matches(':').count() == 2, "{answer}");
    }
    operator.say("bye\n");
    assert_eq!(receive(&peers[0]), "bye", "whoever compares it knows it");
    assert!(operator.err_line().ends_with(" disconnected"));
    // What is said now waits for whoever comes.
    operator.say("next\n");
    peers[1].send(b"me").expect("the operator is there");
    assert!(receive(&peers[1]).ends_with("]:next"));
    assert_eq!(operator.out_line(), "me");
    let ended = operator.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn unix_sockets_are_served_and_removed_and_stale_ones_replaced() {
    let folder = Folder::new();
    let (stream, datagrams) = (folder.path("stream"), folder.path("datagrams"));
    // Left behind by somebody who was killed.
    drop(UnixListener::bind(&stream).expect("the folder takes a socket"));
    drop(UnixDatagram::bind(&datagrams).expect("the folder takes a socket"));

    let (mut operator, _) = start_at(&format!("unix:{}", stream.display()));
    let line = refused(["talk", "--listen", &format!("unix:{}", stream.display())]);
    assert!(line.contains("in use"), "{line}");
    let mut peer = UnixStream::connect(&stream).expect("it listens");
    operator.say("hello\n");
    expect(&mut peer, b"hello\n");
    drop(peer);
    // The server and the client know each other's lock.
    let line = refused(["serve", &format!("echo=unix:{}", stream.display())]);
    assert!(line.contains("another program serves it"), "{line}");
    operator.signal(Signal::TERM);
    assert_eq!(operator.wait().code, Some(0));
    assert!(!stream.exists());

    let (mut operator, _) = start_at(&format!("unix-dgram:{}", datagrams.display()));
    let peer = UnixDatagram::bind(folder.path("peer")).expect("the folder takes a socket");
    peer.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    peer.send_to(b"hello", &datagrams).expect("it listens");
    assert_eq!(operator.out_line(), "hello");
    operator.say("answer\n");
    let mut bytes = [0; 128];
    let count = peer.recv(&mut bytes).expect("the operator answers");
    assert!(bytes[..count].ends_with(b"]:answer"));
    assert_eq!(operator.finish().code, Some(0));
    assert!(!datagrams.exists());
}

#[test]
fn whoever_has_a_relative_name_is_heard_and_not_answered() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let victim = UnixDatagram::bind(folder.path("victim")).expect("the folder takes a socket");
    // It leads there from everywhere.
    let name = format!("{}..{}", "../".repeat(10), folder.path("victim").display());
    let (mut operator, _) = start_at(&format!("unix-dgram:{}", path.display()));
    let script = "import os, socket, sys\nname, to = sys.argv[1:]\nos.rename(name, name + '.')\n\
                  s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.bind(name)\nos.unlink(name)\n\
                  os.rename(name + '.', name)\ns.sendto(b'forged', to)";
    let sent = Command::new("python3").args(["-c", script, &name]).arg(&path).status();
    if sent.is_ok_and(|status| status.success()) {
        assert_eq!(operator.out_line(), "forged");
        operator.say("a secret\n");
        let peer = UnixDatagram::bind(folder.path("peer")).expect("the folder takes a socket");
        peer.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        peer.send_to(b"hello", &path).expect("it listens");
        assert_eq!(operator.out_line(), "hello");
        operator.say("answer\n");
        let mut bytes = [0; 128];
        peer.recv(&mut bytes).expect("the operator answers");
    } else {
        eprintln!("skipped: no python3");
    }
    victim.set_nonblocking(true).expect("a socket can be non-blocking");
    assert!(victim.recv(&mut [0; 10]).is_err(), "somebody else was answered");
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let folder = Folder::new();
    for transport in ["unix", "unix-dgram"] {
        let path = folder.path("notes");
        fs::write(&path, "do not lose me").expect("the folder takes a file");
        let line = refused(["talk", "--listen", &format!("{transport}:{}", path.display())]);
        assert!(line.contains("in use"), "{line}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "do not lose me");
    }
}

#[test]
fn the_socket_of_a_successor_stays() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let (operator, _) = start_at(&format!("unix:{}", path.display()));
    fs::remove_file(&path).expect("it is there");
    let _successor = UnixListener::bind(&path).expect("the folder takes a socket");
    operator.signal(Signal::TERM);
    assert_eq!(operator.wait().code, Some(0));
    UnixStream::connect(&path).expect("it still listens");
}

#[test]
fn whoever_reads_slowly_gets_every_datagram() {
    const LINES: usize = 500;
    let folder = Folder::new();
    let path = folder.path("socket");
    let (mut operator, _) = start_at(&format!("unix-dgram:{}", path.display()));
    let peer = UnixDatagram::bind(folder.path("peer")).expect("the folder takes a socket");
    peer.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    peer.send_to(b"hello", &path).expect("it listens");
    assert_eq!(operator.out_line(), "hello");
    let said: String = (0..LINES).map(|number| format!("line {number}\n")).collect();
    operator.say(&said);
    operator.end_input();
    // The system keeps only a few for the peer; the others wait, and nothing turns meanwhile.
    operator.await_rest();
    for number in 0..LINES {
        let mut bytes = [0; 64];
        let count = peer.recv(&mut bytes).expect("the operator answers");
        assert!(bytes[..count].ends_with(format!("]:line {number}").as_bytes()));
    }
    assert_eq!(operator.wait().code, Some(0));
}

#[test]
fn a_datagram_to_a_peer_that_has_gone_is_told_and_the_next_is_served() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let (mut operator, _) = start_at(&format!("unix-dgram:{}", path.display()));
    let peer = UnixDatagram::bind(folder.path("peer")).expect("the folder takes a socket");
    peer.send_to(b"hello", &path).expect("it listens");
    assert_eq!(operator.out_line(), "hello");
    assert!(operator.err_line().ends_with("/peer connected"));
    drop(peer);
    operator.say("where are you?\n");
    let line = operator.err_line();
    assert!(
        line.contains("cannot send to unix-dgram:") && line.contains("no server is listening there"),
        "{line}"
    );
    assert!(operator.err_line().ends_with("/peer disconnected"));
    let next = UnixDatagram::bind(folder.path("next")).expect("the folder takes a socket");
    next.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    next.send_to(b"it is me now", &path).expect("it listens");
    assert_eq!(operator.out_line(), "it is me now");
    operator.say("welcome\n");
    let mut bytes = [0; 64];
    let count = next.recv(&mut bytes).expect("the operator answers");
    assert!(bytes[..count].ends_with(b"]:welcome"));
}

#[test]
fn it_sleeps_while_nobody_says_anything() {
    let (operator, _) = start();
    operator.await_rest();
    let (mut operator, address) = start();
    let peer = connect(&address);
    assert!(operator.err_line().ends_with(" connected"));
    operator.await_rest();
    drop(peer);
    assert!(operator.err_line().ends_with(" disconnected"));
    operator.await_rest();

    let (mut operator, address) = start_at("udp://127.0.0.1:0");
    operator.await_rest();
    // It waits in the pipe until somebody comes.
    operator.say("hello\n");
    operator.await_rest();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
    for word in [&b"hello"[..], b"bye"] {
        peer.send_to(word, address.strip_prefix("udp://").expect("it is of udp")).expect("it listens");
        operator.out_line();
        operator.await_rest();
    }
    operator.end_input();
    assert_eq!(operator.wait().code, Some(0));
}

#[test]
fn output_that_nobody_reads_ends_it() {
    for address in ["127.0.0.1:0", "udp://127.0.0.1:0"] {
        let (mut operator, at) = start_at(address);
        operator.close_out();
        match at.split_once("://") {
            Some(("tcp", _)) => connect(&at).write_all(b"nobody reads this\n").expect("it is open"),
            Some((_, at)) => {
                let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
                peer.send_to(b"nobody reads this", at).expect("it listens");
            }
            None => unreachable!("it has a transport"),
        }
        let ended = operator.wait();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("cannot write to standard output: "), "{ended:?}");
    }
}

#[test]
fn two_of_them_talk_to_each_other() {
    let (mut operator, address) = start();
    let mut caller = Client::start(["talk", &address, "--until", "bye"]);
    thread::scope(|scope| {
        scope.spawn(|| {
            caller.say("over\n");
            assert_eq!(caller.out_line(), "and out");
        });
        assert_eq!(operator.out_line(), "over");
        operator.say("and out\n");
    });
    operator.say("bye\n");
    assert_eq!(caller.wait().fine(), "bye\n");
}

#[test]
fn an_address_that_cannot_be_had_is_bad_usage() {
    let (_operator, address) = start();
    let line = refused(["talk", "--listen", &address]);
    assert!(line.contains(&address) && line.contains("in use"), "{line}");
}
