//! People who make up nicknames and rooms without end.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::{Limits, Options};

use crate::harness::{Served, any_tcp, ask, expect, listen_with, tcp, with};

/// Takes new nicknames and goes to new rooms, hundreds of each at once.
fn make_up(stream: &mut TcpStream, from: u32, to: u32) {
    let numbers: Vec<u32> = (from..to).collect();
    for some in numbers.chunks(200) {
        let (mut said, mut heard) = (String::new(), String::new());
        for number in some {
            said += &format!("/nick n{number}\n/join r{number}\n");
            heard += &format!("* you are now n{number}\n* you are in r{number}: 1 person here\n");
        }
        ask(stream, said.as_bytes(), heard.as_bytes());
    }
}

fn serve() -> Served {
    Served::start(Limits::default(), |reactor| {
        let limits = with!(ChatLimits::default(), rate = 0);
        let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
        vec![listen_with(reactor, chat, Options::new("chat"), &any_tcp())]
    })
}

fn enter(served: &Served) -> TcpStream {
    let mut stream = tcp(&served.addresses[0]);
    ask(
        &mut stream,
        b"first\n",
        b"nickname: * welcome to lobby, first: 1 person here; /help lists the commands\n",
    );
    stream
}

#[test]
fn names_that_were_given_up_are_gone() {
    let served = serve();
    let mut stream = enter(&served);
    make_up(&mut stream, 0, 1_000);
    ask(&mut stream, b"/rooms\n", b"* rooms: lobby (0), r999 (1)\n");
    let mut other = tcp(&served.addresses[0]);
    for taken in ["n999", "first", "n0"] {
        other.write_all(format!("{taken}\n").as_bytes()).unwrap();
    }
    expect(
        &mut other,
        b"nickname: * the name n999 is taken\nnickname: * welcome to lobby, first: 1 person here;",
    );
    // What was the next nickname is a message by now, and nobody is there to hear it.
    expect(&mut other, b" /help lists the commands\n");
    served.stop();
}

#[test]
#[ignore = "long: memory after a million of each"]
fn a_million_nicknames_and_rooms() {
    let resident_kib = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
    };
    let served = serve();
    let mut stream = enter(&served);
    // The first ones bring what is allocated once.
    make_up(&mut stream, 0, 10_000);
    let before = resident_kib();
    make_up(&mut stream, 10_000, 1_010_000);
    println!("row 14: a million nicknames and rooms grew memory by {} KiB", resident_kib() - before);
    // A line without end: it is closed at the limit.
    let before = (resident_kib(), served.metrics().bytes_in);
    let block = [b'x'; 16 << 10];
    while stream.write_all(&block).is_ok() {}
    let mut told = String::new();
    let _ = stream.read_to_string(&mut told);
    let taken = served.metrics().bytes_in - before.1;
    println!(
        "row 14: an endless line was refused after {taken} bytes, memory grew by {} KiB; told {told:?}",
        resident_kib() - before.0
    );
}
