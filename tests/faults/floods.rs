//! A flood of datagrams beside stream clients.

use std::io::Write;
use std::net::UdpSocket;

use tidewheel::datagram::BATCH_MAX;
use tidewheel::services::echo::Echo;
use tidewheel::{Address, Limits};

use super::turn_until_answered;
use crate::harness::{Turned, expect, listen, socket_address, tcp};

#[test]
fn stream_clients_are_answered_in_the_same_turns() {
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
        let turns = turn_until_answered(&mut turned.reactor, &streams, 64) as usize;
        streams.iter_mut().for_each(|stream| expect(stream, &[round; 64]));
        let taken = (turned.reactor.metrics().datagrams_in - before) as usize;
        assert!(
            taken <= turns * (limits.datagrams_per_turn + BATCH_MAX),
            "{taken} datagrams in {turns} turns"
        );
        full_rounds += usize::from(taken >= turns * limits.datagrams_per_turn);
    }
    assert!(full_rounds > 0, "there was never more than the budget");
    turned.assert_rests();
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: how much slower stream clients' answers come"]
fn stream_clients_beside_a_flood() {
    use std::sync::atomic::Ordering;

    crate::harness::load::compare("row 20", &["echo=:0", "time=:0"], 20, |server, stop| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.address("time", "udp://")).unwrap();
        let mut sent = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            sent += u64::from(socket.send(b"flood").is_ok());
        }
        format!("{sent} datagrams sent")
    });
}
