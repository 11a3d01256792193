//! Receiving and sending datagrams fails for reasons of the system: counted exactly, and never the end.

use std::io::{Read, Write};
use std::net::UdpSocket;

use super::{PAUSE_MS, assert_served, has_strace, under_strace};
use crate::harness::program::{Counters, Server, tidewheel_through};
use crate::harness::{PATIENCE, now};

const ASKED: u64 = 10;

/// Every other call of `call` fails with `error` while questions come one by one. Returns the answers that came, and what
/// was counted.
fn every_other_call_fails(call: &str, error: &str) -> (Vec<u64>, Counters) {
    let inject = format!("{call}:error={error}:when=1+2");
    let mut server = under_strace(&[&inject], &["echo=udp://127.0.0.1:0"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(server.address("echo", "udp://")).unwrap();
    for number in 0..ASKED {
        client.send(&number.to_be_bytes()).unwrap();
        server.await_counters("it has come", |counters| counters["datagrams_in"] == number + 1);
    }
    let counters = server.counters();
    let mut answer = [0; 8];
    let answers = (0..counters["datagrams_out"]).map(|_| {
        assert_eq!(client.recv(&mut answer).unwrap(), 8);
        u64::from_be_bytes(answer)
    });
    let answers = answers.collect();
    server.stop();
    (answers, counters)
}

#[test]
fn an_answer_that_the_system_does_not_send_is_counted_and_the_next_one_sent() {
    if has_strace() {
        for error in ["ENOBUFS", "ENOMEM", "EPERM", "ENETUNREACH", "ECONNREFUSED"] {
            let (answers, counters) = every_other_call_fails("sendmmsg", error);
            assert_eq!(answers, [1, 3, 5, 7, 9], "{error}");
            assert_eq!(counters["datagrams_dropped_send_failed"], ASKED / 2, "{error}");
        }
    }
}

#[test]
fn an_error_that_the_system_tells_instead_of_a_datagram_costs_none() {
    if has_strace() {
        for error in ["ECONNREFUSED", "EHOSTUNREACH", "ENOBUFS", "ENOMEM"] {
            let (answers, counters) = every_other_call_fails("recvmmsg", error);
            assert_eq!(answers, (0..ASKED).collect::<Vec<_>>(), "{error}");
            assert!(counters["datagram_errors"] >= ASKED, "{error}: {}", counters["datagram_errors"]);
            assert_eq!(counters["datagrams_dropped_send_failed"], 0, "{error}");
        }
    }
}

#[test]
fn receiving_that_always_fails_is_tried_now_and_then_and_streams_are_served() {
    if !has_strace() {
        return;
    }
    for error in ["ENOMEM", "EINVAL", "EBADF"] {
        let begun = now();
        let mut server =
            under_strace(&[&format!("recvmmsg:error={error}")], &["echo=udp://127.0.0.1:0", "echo=:0"]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"anybody?", server.address("echo", "udp://")).unwrap();
        let line = server.await_err("is paused");
        assert!(line.contains("udp://"), "{line}");
        let mut stream = server.tcp("echo");
        for _ in 0..20 {
            assert_served(&mut stream);
        }
        let counters = server.counters();
        let allowed = 64 + (begun.elapsed().as_millis() / PAUSE_MS) as u64 + 1;
        let tried = counters["datagram_errors"];
        assert!(tried >= 64 && tried <= allowed, "{error}: {tried} tries where {allowed} are allowed");
        drop(stream);
        server.stop();
    }
}

#[test]
fn a_socket_that_receives_again_after_a_while_answers_what_has_waited() {
    if has_strace() {
        let mut server = under_strace(&["recvmmsg:error=ENOMEM:when=1..80"], &["echo=udp://127.0.0.1:0"]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(server.address("echo", "udp://")).unwrap();
        client.send(b"anybody?").unwrap();
        server.await_err("is paused");
        server.await_err("is resumed");
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 8);
        let counters = server.counters();
        assert_eq!((counters["datagram_errors"], counters["listeners_closed"]), (80, 0));
        server.stop();
    }
}

/// The system call that waits for readiness, whose name depends on the machine.
const WAIT: &str = "?epoll_wait,epoll_pwait";

#[test]
fn a_wait_that_fails_is_tried_again() {
    if !has_strace() {
        return;
    }
    // Not so often that it is paused, and often enough.
    for (when, failed) in [("20..60", 41), ("20..100", 81)] {
        let mut server = under_strace(&[&format!("{WAIT}:error=ENOMEM:when={when}")], &["echo=:0"]);
        let mut stream = server.tcp("echo");
        for _ in 0..40 {
            assert_served(&mut stream);
        }
        if failed > 64 {
            server.await_err("waiting for readiness fails repeatedly");
            server.await_err("waiting for readiness works again");
        }
        assert_eq!(server.counters()["wait_errors"], failed);
        drop(stream);
        server.stop();
    }
}

#[test]
#[ignore = "long: a minute until the wait is given up"]
fn a_wait_that_always_fails_ends_the_program() {
    if has_strace() {
        let inject = format!("inject={WAIT}:error=EINVAL:when=20+");
        let starter = ["strace", "-D", "-o", "/dev/null", "-e", &inject];
        let mut server = Server::spawn_for_long(tidewheel_through(&starter, ["serve", "echo=:0"])).ready();
        let mut stream = server.tcp("echo");
        stream.set_read_timeout(Some(20 * PATIENCE)).unwrap();
        let begun = now();
        while stream.write_all(b"x").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|count| count > 0) {}
        let (status, log) = (server.wait(), server.rest_of_err());
        println!("row 26: a wait that fails ends the program after {:.1} s", begun.elapsed().as_secs_f64());
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(
            log.ends_with("tidewheel: cannot wait for readiness: Invalid argument (os error 22)\n"),
            "{log}"
        );
    }
}
