//! Receiving and sending datagrams fails for reasons of the system: counted exactly, and never the end.

use std::net::UdpSocket;

use super::{has_strace, under_strace};
use crate::harness::PATIENCE;
use crate::harness::program::Counters;

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
