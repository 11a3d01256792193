//! Accept fails for reasons of the system or of a connection that is gone already.

use super::{assert_served, has_strace, under_strace};

/// Every other accept fails with `error`, which is to be counted under `counter`.
fn every_other_accept_fails(error: &str, counter: &str) {
    let mut server = under_strace(&[&format!("accept4:error={error}:when=1+2")], &["echo=:0"]);
    let mut streams: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = server.tcp("echo");
            assert_served(&mut stream);
            stream
        })
        .collect();
    streams.iter_mut().for_each(|stream| assert_served(stream));
    let counters = server.counters();
    assert_eq!(counters["connections_accepted"], 4, "{error}");
    for (name, failed) in [("accepts_exhausted", 0), ("accepts_aborted", 0)] {
        let failed = if name == counter { counters[name] > 0 } else { counters[name] == failed };
        assert!(failed, "{error}: {name} {}", counters[name]);
    }
    drop(streams);
    server.stop();
}

#[test]
fn a_system_without_means_is_waited_for() {
    if has_strace() {
        for error in ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"] {
            every_other_accept_fails(error, "accepts_exhausted");
        }
    }
}

#[test]
fn a_connection_that_is_gone_is_passed_over() {
    if has_strace() {
        for error in ["ECONNABORTED", "EPROTO", "EPERM", "EHOSTUNREACH"] {
            every_other_accept_fails(error, "accepts_aborted");
        }
    }
}

#[test]
fn a_system_that_recovers_after_a_while_is_noticed() {
    if !has_strace() {
        return;
    }
    // Nothing but its own pause makes it try again: the connections have all come by then.
    let mut server = under_strace(&["accept4:error=ENFILE:when=1..6"], &["echo=:0"]);
    let mut streams: Vec<_> = (0..3).map(|_| server.tcp("echo")).collect();
    streams.iter_mut().for_each(|stream| assert_served(stream));
    let counters = server.counters();
    assert_eq!((counters["accepts_exhausted"], counters["connections_accepted"]), (6, 3));
    drop(streams);
    server.stop();
}
