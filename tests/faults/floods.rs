//! A flood of datagrams beside stream clients.

use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

use tidewheel::datagram::BATCH_MAX;
use tidewheel::services::echo::Echo;
use tidewheel::{Address, Limits};

use crate::harness::{Turned, expect, listen, socket_address, tcp};

#[test]
fn stream_clients_are_answered_in_the_same_turns() {
    const TURNS: usize = 2;
    let limits = Limits { datagrams_per_turn: 64, ..Limits::default() };
    let mut turned = Turned::new(limits.clone(), Echo);
    let udp = listen(&mut turned.reactor, Echo, &Address::Udp(([127, 0, 0, 1], 0).into()));
    let mut streams: Vec<_> = (0..5).map(|_| tcp(&turned.address)).collect();
    turned.turn_until("they are there", |metrics| metrics.connections_open == 5);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut full_rounds = 0;
    for round in 0..20_u8 {
        // What finds no room is dropped by the kernel.
        (0..1000).for_each(|_| assert_eq!(sender.send_to(b"flood", socket_address(&udp)).unwrap(), 5));
        streams.iter_mut().for_each(|stream| stream.write_all(&[round; 64]).unwrap());
        let before = turned.reactor.metrics().datagrams_in;
        for _ in 0..TURNS {
            turned.reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        streams.iter_mut().for_each(|stream| expect(stream, &[round; 64]));
        let taken = (turned.reactor.metrics().datagrams_in - before) as usize;
        assert!(taken <= TURNS * (limits.datagrams_per_turn + BATCH_MAX), "{taken} datagrams in {TURNS} turns");
        full_rounds += usize::from(taken >= TURNS * limits.datagrams_per_turn);
    }
    assert!(full_rounds > 0, "there was never more than the budget");
    turned.assert_rests();
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: how much slower stream clients' answers come"]
fn stream_clients_beside_a_flood() {
    use crate::harness::load::{ask_in_turn, describe, p99_ratio};
    use crate::harness::program::Server;
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut server = Server::start_for_long(["echo=:0", "time=:0"]);
    let mut streams: Vec<_> = (0..20).map(|_| server.tcp("echo")).collect();
    let to = server.address("time", "udp://").to_owned();
    ask_in_turn(&mut streams, Duration::from_secs(1));
    for _ in 0..3 {
        let without = ask_in_turn(&mut streams, Duration::from_secs(4));
        let before = server.counters()["datagrams_in"];
        let stop = AtomicBool::new(false);
        let (with, sent) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    sent += u64::from(socket.send_to(b"flood", &to).is_ok());
                }
                sent
            });
            let with = ask_in_turn(&mut streams, Duration::from_secs(4));
            stop.store(true, Ordering::Relaxed);
            (with, flood.join().unwrap())
        });
        println!(
            "row 20: {sent} datagrams sent, {} of them taken; {} without, {} with them: p99 x {:.2}",
            server.counters()["datagrams_in"] - before,
            describe(&without),
            describe(&with),
            p99_ratio(&with, &without)
        );
    }
    server.stop();
}
