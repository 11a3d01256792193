//! One peer pipelines without end, and the others get their answers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use tidewheel::Limits;
use tidewheel::services::echo::Echo;

use super::turn_until_answered;
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
    let limits = Limits::default();
    // One large portion until the others are noticed, then small ones; what is left of a budget is not what a read
    // asks for.
    let first = limits.read_bytes_per_turn as u64;
    let budget = 2 * limits.read_bytes_per_shared_turn as u64;
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
        let turns = turn_until_answered(&mut turned.reactor, &others, question.len());
        others.iter_mut().for_each(|stream| expect(stream, &question));
        let taken = turned.reactor.metrics().bytes_in - before;
        assert!(taken <= first + turns * budget + 20 * 64, "{taken} bytes in {turns} turns");
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
    use std::net::TcpListener;

    let block = pattern(64 << 10);
    crate::harness::load::compare("row 13", &["echo=:0"], 20, |server| {
        // To nobody is to ourselves: as much is written and read.
        let (mut write, mut read) = match server {
            Some(server) => {
                let loud = server.tcp("echo");
                (loud.try_clone().unwrap(), loud)
            }
            None => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let write = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (write, listener.accept().unwrap().0)
            }
        };
        write.set_nonblocking(true).unwrap();
        read.set_nonblocking(true).unwrap();
        let (mut buffer, block) = (vec![0; 64 << 10], block.clone());
        Box::new(move || {
            for moved in [write.write(&block), read.read(&mut buffer)] {
                assert!(moved.is_ok() || moved.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
            }
        })
    });
}
