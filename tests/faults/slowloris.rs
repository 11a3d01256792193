//! Peers that hold connections open with next to nothing: silence, or a byte now and then.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::{CloseReason, Limits, Options};

use super::{Lines, assert_served};
use crate::harness::{Served, any_tcp, ask, await_that, listen, listen_with, read_to_end, tcp, with};

#[test]
fn a_byte_now_and_then_does_not_outlast_the_read_deadline() {
    let limits = with!(Limits::default(), read_deadline = Some(Duration::from_millis(150)));
    let served =
        Served::start(limits, |reactor| vec![listen_with(reactor, Lines, Options::new("lines"), &any_tcp())]);
    let mut healthy = tcp(&served.addresses[0]);
    let mut slow: Vec<_> = (0..30).map(|_| tcp(&served.addresses[0])).collect();
    slow.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    await_that("all of the slow are closed", || {
        slow.retain_mut(still_open);
        ask(&mut healthy, b"a whole line\n", b"a whole line\n");
        slow.is_empty().then_some(())
    });
    ask(&mut healthy, b"a whole line\n", b"a whole line\n");
    let metrics = served.await_metrics("they are gone", |metrics| metrics.connections_open == 1);
    assert_eq!(metrics.closed_for(CloseReason::ReadDeadline), 30);
    assert_eq!(metrics.connections_closed(), 30);
}

/// Sends one byte more, unless the other side has ended.
fn still_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(0) => false,
        Ok(_) => panic!("an incomplete line was answered"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => stream.write(b"x").is_ok(),
        Err(_) => false,
    }
}

#[test]
fn silence_does_not_outlast_the_idle_timeout() {
    let served = Served::start(Limits::default(), |reactor| {
        let options = Options::new("impatient").idle_timeout(Duration::from_millis(100)).messages(false);
        vec![listen_with(reactor, Echo, options, &any_tcp()), listen(reactor, Echo, &any_tcp())]
    });
    let mut healthy = tcp(&served.addresses[1]);
    let mut silent: Vec<_> = (0..30).map(|_| tcp(&served.addresses[0])).collect();
    for stream in &mut silent {
        assert_eq!(read_to_end(stream), (vec![], false));
        assert_served(&mut healthy);
    }
    drop(silent);
    let metrics = served.await_metrics("they are gone", |metrics| metrics.connections_open == 1);
    assert_eq!(metrics.closed_for(CloseReason::IdleTimeout), 30);
    assert_served(&mut healthy);
}

#[test]
#[ignore = "long: ten thousand of them beside healthy ones"]
fn ten_thousand_beside_healthy_ones() {
    use crate::harness::load::{ask_beside, ask_together, describe, p99_ratio, stay_on};
    use crate::harness::{has_descriptors, now};
    const MANY: usize = 9_000;
    if !has_descriptors(2 * MANY as u64 + 500).unwrap() {
        return;
    }
    let limits = with!(Limits::default(), read_deadline = Some(Duration::from_secs(15)));
    let served = Served::start(limits, |reactor| {
        stay_on(0);
        vec![
            listen_with(reactor, Lines, Options::new("lines"), &any_tcp()),
            listen(reactor, Echo, &any_tcp()),
        ]
    });
    stay_on(1);
    let mut healthy: Vec<_> = (0..50).map(|_| tcp(&served.addresses[1])).collect();
    let without = ask_together(&mut healthy, Duration::from_secs(4));
    let mut slow: Vec<_> = (0..MANY).map(|_| Some(tcp(&served.addresses[0]))).collect();
    slow.iter().flatten().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let begun = now();
    // Each sends a byte every 0.8 s, until it is closed.
    let between = Duration::from_millis(800) / MANY as u32;
    let (mut due, mut turn, mut ended) = (Duration::ZERO, 0, Vec::new());
    let with = ask_beside(
        &mut (Box::new(|| {
            if begun.elapsed() > due {
                due += between;
                turn = (turn + 1) % MANY;
                if slow[turn].as_mut().is_some_and(|stream| !still_open(stream)) {
                    slow[turn] = None;
                    ended.push(begun.elapsed().as_secs_f64());
                }
            }
        }) as Box<dyn FnMut()>),
        &mut healthy,
        Duration::from_secs(18),
    );
    let metrics = served.await_metrics("they are gone", |metrics| metrics.connections_open == 50);
    println!(
        "row 8: {MANY} slow ones, {} closed at their deadline of 15 s (noticed after {:.1} to {:.1} s); healthy: {} \
         without, {} with them: p99 x {:.2}",
        metrics.closed_for(CloseReason::ReadDeadline),
        ended[0],
        ended[ended.len() - 1],
        describe(&without),
        describe(&with),
        p99_ratio(&with, &without)
    );
}
