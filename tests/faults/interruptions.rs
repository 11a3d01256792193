//! System calls that are interrupted, would block or fail now and then: what peers see is the same.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};

use super::{has_strace, under_strace};
use crate::harness::program::Server;
use crate::harness::{Folder, PATIENCE, pattern, unix};

/// Calls of sendto that may fail: fewer than the transcript takes. What comes after it is left alone, for the signal that
/// asks for the counters is passed on with a sendto as well, and nobody repeats that.
const SENDS: u32 = 40;

/// Everything that peers on all transports see, in order.
fn transcript(server: &Server, folder: &Folder) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    let mut see = |stream: &mut dyn ReadWrite, said: &[u8], len: usize| {
        stream.write_all(said).unwrap();
        let mut answer = vec![0; len];
        stream.read_exact(&mut answer).unwrap();
        seen.push(answer);
    };
    let large = pattern(100_000);
    for _ in 0..6 {
        let mut echo = server.tcp("echo");
        let mut upper = server.tcp("uppercase");
        let mut local = unix(&folder.unix("echo"));
        for said in [&b"a"[..], b"question", &large, b"and on"] {
            see(&mut echo, said, said.len());
            see(&mut local, said, said.len());
        }
        see(&mut upper, "straße, gr\u{fc}n \u{fb03}".as_bytes(), "STRASSE, GR\u{dc}N FFI".len());
        echo.shutdown(Shutdown::Write).unwrap();
        local.shutdown(Shutdown::Write).unwrap();
        for stream in [&mut echo as &mut dyn ReadWrite, &mut local] {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert!(rest.is_empty());
        }
    }
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    datagrams.connect(server.address("echo", "udp://")).unwrap();
    for number in 0..20_u8 {
        datagrams.send(&[number; 100]).unwrap();
        let mut answer = vec![0; 200];
        let len = datagrams.recv(&mut answer).unwrap();
        answer.truncate(len);
        seen.push(answer);
    }
    seen
}

trait ReadWrite: Read + Write {}
impl<S: Read + Write> ReadWrite for S {}

fn args(folder: &Folder) -> Vec<String> {
    ["echo=:0", "uppercase=:0", "echo=udp://:0"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("echo={}", folder.unix("echo"))])
        .collect()
}

/// The transcript with system calls that fail is that without.
fn assert_same_transcript(inject: &[&str]) {
    if !has_strace() {
        return;
    }
    let folder = Folder::new();
    let undisturbed = Server::start(args(&folder));
    let expected = transcript(&undisturbed, &folder);
    undisturbed.stop();

    let args = args(&folder);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut server = under_strace(inject, &args);
    assert!(transcript(&server, &folder) == expected, "with {inject:?} peers see something else");
    let counters = server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
    assert_eq!(counters["closed_peer_closed"], counters["connections_accepted"]);
    assert_eq!(counters["datagrams_dropped_send_failed"], 0);
    server.stop();
}

#[test]
fn constant_interruptions_change_nothing() {
    assert_same_transcript(&[
        "?epoll_wait,?epoll_pwait:error=EINTR:when=2+2",
        "accept4,recvfrom,sendmsg,recvmmsg,sendmmsg:error=EINTR:when=2+2",
        &format!("sendto:error=EINTR:when=2..{SENDS}+2"),
    ]);
}

#[test]
fn a_send_that_would_block_goes_out_when_there_is_room() {
    // Only first attempts: what would block again later is told by the system alone.
    assert_same_transcript(&[
        &format!("sendto:error=EAGAIN:when=1..{SENDS}+2"),
        "sendmmsg:error=EAGAIN:when=1+2",
    ]);
}

#[test]
fn failures_of_datagrams_are_counted_and_the_next_ones_served() {
    if !has_strace() {
        return;
    }
    let mut server = under_strace(
        &["sendmmsg:error=ENOBUFS:when=1+2", "recvmmsg:error=ECONNREFUSED:when=2+2"],
        &["echo=udp://:0"],
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server.address("echo", "udp://")).unwrap();
    // Of each two answers the first one finds no buffer.
    for number in 0..10_u8 {
        socket.send(&[2 * number]).unwrap();
        server.await_counters("it is dropped", |counters| {
            counters["datagrams_dropped_send_failed"] == u64::from(number) + 1
        });
        socket.send(&[2 * number + 1]).unwrap();
        let mut answer = [0; 8];
        assert_eq!(socket.recv(&mut answer).unwrap(), 1);
        assert_eq!(answer[0], 2 * number + 1);
    }
    let counters = server.counters();
    assert_eq!((counters["datagrams_in"], counters["datagrams_out"]), (20, 10));
    assert!(counters["datagram_errors"] > 0);
    server.stop();
}
