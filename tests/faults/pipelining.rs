//! One peer pipelines without end, and the others get their answers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use tidewheel::Limits;
use tidewheel::services::echo::Echo;

use crate::harness::{Turned, expect, pattern, send_what_goes, tcp};

/// Reads what is there.
fn take_what_is_there(stream: &mut TcpStream, into: &mut Vec<u8>) {
    stream.set_nonblocking(true).unwrap();
    match stream.take(64 << 20).read_to_end(into) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn the_others_are_answered_in_the_same_turns() {
    const TURNS: u64 = 2;
    let limits = Limits::default();
    // What is left of a budget is not what a read asks for.
    let budget = 2 * limits.read_bytes_per_turn as u64;
    let mut turned = Turned::new(limits, Echo);
    let mut loud = tcp(&turned.address);
    let mut others: Vec<_> = (0..20).map(|_| tcp(&turned.address)).collect();
    turned.turn_until("all are there", |metrics| metrics.connections_open == 21);

    let sent = pattern(64 << 20);
    let (mut count, mut came) = (0, Vec::new());
    let mut rounds_with_more_to_read = 0;
    for round in 0..40 {
        count += send_what_goes(&mut loud, &sent[count..]);
        let question = [round; 64];
        others.iter_mut().for_each(|stream| stream.write_all(&question).unwrap());
        let before = turned.reactor.metrics().bytes_in;
        for _ in 0..TURNS {
            turned.reactor.turn(Some(std::time::Duration::ZERO)).unwrap();
        }
        // Nobody turns the loop meanwhile: whoever has no answer now does not get one.
        others.iter_mut().for_each(|stream| expect(stream, &question));
        let taken = turned.reactor.metrics().bytes_in - before;
        assert!(taken <= TURNS * budget + 20 * 64, "{taken} bytes in {TURNS} turns");
        rounds_with_more_to_read += u32::from(taken > budget / 2);
        take_what_is_there(&mut loud, &mut came);
    }
    assert!(rounds_with_more_to_read > 20, "it was loud in {rounds_with_more_to_read} rounds only");
    assert!(sent.starts_with(&came));

    // It is not treated worse than it deserves either.
    while came.len() < count {
        turned.reactor.turn(Some(std::time::Duration::from_millis(1))).unwrap();
        take_what_is_there(&mut loud, &mut came);
    }
    assert!(came == sent[..count]);
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: how much slower the others' answers come"]
fn the_others_beside_a_loud_one() {
    use crate::harness::load::{ask_in_turn, describe, p99_ratio};
    use crate::harness::program::Server;
    use std::net::Shutdown;
    use std::time::Duration;
    let server = Server::start_for_long(["echo=:0"]);
    let mut others: Vec<_> = (0..20).map(|_| server.tcp("echo")).collect();
    ask_in_turn(&mut others, Duration::from_secs(1));
    for _ in 0..3 {
        let without = ask_in_turn(&mut others, Duration::from_secs(4));
        let mut loud = server.tcp("echo");
        let mut writer = loud.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            let (mut total, mut buffer) = (0, vec![0; 256 << 10]);
            while let Ok(count @ 1..) = loud.read(&mut buffer) {
                total += count;
            }
            total
        });
        let (block, closer) = (pattern(1 << 20), writer.try_clone().unwrap());
        let writing = std::thread::spawn(move || while writer.write_all(&block).is_ok() {});
        let with = ask_in_turn(&mut others, Duration::from_secs(4));
        closer.shutdown(Shutdown::Both).unwrap();
        writing.join().unwrap();
        println!(
            "row 13: {} MB echoed beside them; {} without, {} with it: p99 x {:.2}",
            reading.join().unwrap() / 1_000_000,
            describe(&without),
            describe(&with),
            p99_ratio(&with, &without)
        );
    }
    server.stop();
}
