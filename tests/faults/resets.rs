//! Peers reset their connections, before they are accepted and at any moment after.

use std::io::Write;

use tidewheel::services::echo::Echo;
use tidewheel::{CloseReason, Limits};

use super::turn_until_answered;
use crate::harness::{Turned, expect, reset, tcp};

#[test]
fn a_reset_before_accept_leaves_nothing_behind() {
    let mut turned = Turned::new(Limits::default(), Echo);
    for _ in 0..10 {
        for number in 0..10 {
            let mut stream = tcp(&turned.address);
            if number % 2 == 0 {
                stream.write_all(b"never to be answered").unwrap();
            }
            reset(stream);
        }
        let mut healthy = tcp(&turned.address);
        healthy.write_all(b"and me?").unwrap();
        turn_until_answered(&mut turned.reactor, [&healthy], 7);
        expect(&mut healthy, b"and me?");
        turned.turn_until("the others are gone", |metrics| metrics.connections_open == 1);
        drop(healthy);
        turned.turn_until("it is gone too", |metrics| metrics.connections_open == 0);
        turned.assert_rests();
    }
    let metrics = turned.reactor.metrics();
    // The system may keep some of them from us altogether.
    let ended = metrics.connections_closed();
    assert_eq!(ended, metrics.connections_accepted);
    assert!(ended + metrics.accepts_aborted <= 110);
    assert_eq!(turned.reactor.connections(), 0);
}

#[test]
fn resets_at_any_moment_are_counted_under_their_reasons() {
    const ROUNDS: u64 = 50;
    let mut turned = Turned::new(Limits::default(), Echo);
    for _ in 0..ROUNDS {
        let mut stream = tcp(&turned.address);
        stream.write_all(b"hello").unwrap();
        let before = turned.reactor.metrics().bytes_out;
        turned.turn_until("it is answered", |metrics| metrics.bytes_out == before + 5);
        reset(stream);
        turned.turn_until("it is gone", |metrics| metrics.connections_open == 0);
    }
    turned.assert_rests();
    assert_eq!(turned.reactor.metrics().closed_for(CloseReason::Reset), ROUNDS);
}

#[cfg(feature = "cli")]
mod of_the_program {
    use std::io::Write;
    use std::net::TcpStream;
    use std::thread;

    use crate::harness::program::Server;
    use crate::harness::{ask, now, reset, tcp};

    /// One connection and its end, in one of several ways.
    fn come_and_go(mut stream: TcpStream, way: usize) {
        match way % 6 {
            // At once, or after some talk.
            0 => reset(stream),
            1 => {
                ask(&mut stream, b"question", b"question");
                reset(stream);
            }
            // With input under way, or a reply that nobody reads.
            2 => {
                stream.write_all(&[b'x'; 4096]).unwrap();
                reset(stream);
            }
            3 => {
                ask(&mut stream, &[b'x'; 4096], &[b'x'; 1000]);
                reset(stream);
            }
            // In order, with and without a reply that nobody reads, which makes the kernel reset it.
            4 => ask(&mut stream, b"question", b"question"),
            _ => stream.write_all(&[b'x'; 100_000]).unwrap(),
        }
    }

    /// Connections that come and go in every way leave no descriptor and no slot behind.
    fn come_and_go_often(server: &mut Server, threads: usize, rounds: usize) {
        let before = server.descriptors();
        let address = server.tcp_address("echo");
        let peers: Vec<_> = (0..threads)
            .map(|_| {
                let address = address.clone();
                thread::spawn(move || (0..rounds).for_each(|way| come_and_go(tcp(&address), way)))
            })
            .collect();
        peers.into_iter().for_each(|peer| peer.join().unwrap());
        let counters = server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
        assert_eq!(server.descriptors(), before, "descriptors are left");
        let closed: u64 =
            counters.iter().filter(|(name, _)| name.starts_with("closed_")).map(|(_, count)| count).sum();
        assert_eq!(closed, counters["connections_accepted"], "each ends once, for one reason");
    }

    #[test]
    fn resets_at_any_moment_leave_nothing_behind() {
        let mut server = Server::start(["echo=:0"]);
        come_and_go_often(&mut server, 2, 150);
        super::super::assert_served(&mut server.tcp("echo"));
        server.stop();
    }

    #[test]
    #[ignore = "long: a hundred thousand connections"]
    fn a_hundred_thousand_resets_leave_nothing_behind() {
        let mut server = Server::start_for_long(["echo=:0"]);
        // Once, so that memory that is kept for later is there.
        come_and_go_often(&mut server, 4, 600);
        let (before, begun) = (server.resident_kib(), now());
        come_and_go_often(&mut server, 4, 25_000);
        println!(
            "row 5: 100,000 connections of which two thirds were reset, in {:.0} s: no descriptor and no slot is \
             left; memory {before} KiB, then {} KiB",
            begun.elapsed().as_secs_f64(),
            server.resident_kib()
        );
        server.stop();
    }
}
