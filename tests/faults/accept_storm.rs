//! Many connect at once and then nobody says anything: readiness comes once, and nobody may be left in the queue.

use std::io::Write;
use std::net::TcpStream;

use tidewheel::services::echo::Echo;
use tidewheel::{CloseReason, Limits};

use crate::harness::{PATIENCE, Turned, ask, read_to_end, tcp, with};

/// More than are accepted in one turn.
const COUNT: usize = 300;

#[test]
fn nobody_is_left_in_the_queue() {
    let mut turned = Turned::new(Limits::default(), Echo);
    assert!(COUNT > Limits::default().accepts_per_turn);
    let streams: Vec<_> = (0..COUNT).map(|_| tcp(&turned.address)).collect();
    turned.turn_until("all are accepted", |metrics| metrics.connections_accepted == COUNT as u64);
    turned.assert_rests();
    assert_eq!(turned.reactor.connections(), COUNT);
    drop(streams);
    turned.turn_until("all are gone", |metrics| metrics.connections_open == 0);
}

#[test]
fn nobody_is_left_in_the_queue_when_the_limit_is_passed() {
    let limits =
        with!(Limits::default(), connections_max = Some(100), refusals_max = 150, linger_timeout = PATIENCE);
    let mut turned = Turned::new(limits, Echo);
    let mut streams: Vec<_> = (0..COUNT).map(|_| tcp(&turned.address)).collect();
    turned.turn_until("all are decided", |metrics| {
        metrics.connections_accepted + metrics.connections_refused == COUNT as u64
    });
    turned.assert_rests();
    let metrics = turned.reactor.metrics();
    assert_eq!((metrics.connections_accepted, metrics.connections_refused), (100, 200));

    // Those that could still be told so were told so, the others see the end.
    for (index, stream) in streams.drain(100..).enumerate() {
        let line: &[u8] = if index < 150 { b"too many connections, try again later\n" } else { b"" };
        assert_eq!(read_to_end(&mut { stream }), (line.to_vec(), false), "number {index}");
    }
    turned.turn_until("those are gone", |metrics| metrics.connections_open == 100);
    assert_eq!(turned.reactor.metrics().closed_for(CloseReason::RefusedFull), 200);

    // The first of them are served.
    let say = |stream: &mut TcpStream| stream.write_all(b"me").unwrap();
    streams.iter_mut().for_each(say);
    turned.turn_until("they are answered", |metrics| metrics.bytes_in == 2 * 100);
    streams.iter_mut().for_each(|stream| ask(stream, b"", b"me"));
    turned.assert_rests();
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: ten thousand at once"]
fn ten_thousand_at_once() {
    use crate::harness::program::Server;
    use crate::harness::{has_descriptors, now};
    const MANY: usize = 10_000;
    if !has_descriptors(MANY as u64 + 1000).unwrap() {
        return;
    }
    let mut server = Server::start_for_long(["echo=:0"]);
    let address = server.tcp_address("echo");
    let begun = now();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || (0..MANY / 8).map(|_| tcp(&address)).collect::<Vec<_>>())
        })
        .collect();
    let streams: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let connected = begun.elapsed();
    let counters = server.await_counters("nobody is stranded", |counters| {
        counters["connections_accepted"] + counters["connections_refused"] == MANY as u64
    });
    println!(
        "row 4: {} accepted, {} refused, 0 stranded; connected within {:.2} s, decided {:.0} ms later",
        counters["connections_accepted"],
        counters["connections_refused"],
        connected.as_secs_f64(),
        (begun.elapsed() - connected).as_secs_f64() * 1e3
    );
    drop(streams);
    server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
    server.stop();
}
