//! A flood of datagrams beside stream clients.

use std::io::Write;
use std::net::UdpSocket;

use tidewheel::services::echo::Echo;
use tidewheel::{Address, Limits};

use super::turn_until_answered;
use crate::harness::{Turned, expect, listen, socket_address, tcp};

#[test]
fn stream_clients_are_answered_in_the_same_turns() {
    let limits = Limits::default();
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
        // Once the streams have been noticed they share their turns.
        let alone = if round == 0 { turns } else { 0 };
        let most = alone * limits.datagrams_per_turn + (turns - alone) * limits.datagrams_per_shared_turn;
        assert!(taken <= most, "{taken} datagrams in {turns} turns");
        full_rounds += usize::from(taken == most);
    }
    assert!(full_rounds > 0, "there was never more than the budget");
    turned.assert_rests();
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: how much slower stream clients' answers come"]
fn stream_clients_beside_a_flood() {
    crate::harness::load::compare("row 20", &["echo=:0", "time=:0"], 20, |server| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Nobody reads there.
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        match server {
            Some(server) => socket.connect(server.address("time", "udp://")).unwrap(),
            None => socket.connect(nobody.local_addr().unwrap()).unwrap(),
        }
        Box::new(move || {
            let _ = &nobody;
            for _ in 0..16 {
                // What finds no room is dropped by the kernel.
                let _ = socket.send(b"flood");
            }
        })
    });
}
