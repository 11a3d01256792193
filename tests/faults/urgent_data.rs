//! Urgent data (MSG_OOB) in the middle of a stream splits reads. The bytes around it are echoed; it itself is not part
//! of the stream.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use socket2::SockRef;
use tidewheel::Limits;
use tidewheel::services::echo::Echo;

use super::assert_served;
use crate::harness::{Served, Turned, ask, expect, pattern, read_to_end, tcp};

#[track_caller]
fn send_urgent(stream: &TcpStream) {
    assert_eq!(SockRef::from(stream).send_out_of_band(b"!").unwrap(), 1);
}

#[test]
fn what_is_around_urgent_data_comes_back() {
    let served = Served::echo(Limits::default());
    let mut stream = tcp(&served.addresses[0]);
    for round in 0..100 {
        stream.write_all(b"before").unwrap();
        send_urgent(&stream);
        if round % 2 == 0 {
            stream.write_all(b"after").unwrap();
            expect(&mut stream, b"beforeafter");
        } else {
            expect(&mut stream, b"before");
        }
        assert_served(&mut stream);
    }
    // With nothing else, and at the end.
    send_urgent(&stream);
    assert_served(&mut stream);
    stream.write_all(b"last").unwrap();
    send_urgent(&stream);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), (b"last".to_vec(), false));
}

#[test]
fn urgent_data_among_megabytes_hides_nothing() {
    let served = Served::echo(Limits::default());
    let mut stream = tcp(&served.addresses[0]);
    let mut writer = stream.try_clone().unwrap();
    let pieces: Vec<_> = (0..10).map(|index| pattern(300_000 + 1013 * index)).collect();
    let all = pieces.concat();
    // Only the last of several urgent bytes is one: those before it become part of the stream unless they have been
    // passed. So the next follows when the echo of what came before it is there.
    for piece in &pieces {
        let (first, second) = piece.split_at(piece.len() / 2);
        thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(first).unwrap();
                send_urgent(&writer);
                writer.write_all(second).unwrap();
            });
            expect(&mut stream, piece);
        });
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), (vec![], false));
    assert_eq!(
        served.await_metrics("it is gone", |metrics| metrics.connections_open == 0).bytes_in,
        all.len() as u64
    );
}

#[test]
fn urgent_data_that_nobody_takes_does_not_make_the_loop_spin() {
    let mut turned = Turned::new(Limits::default(), Echo);
    let mut stream = tcp(&turned.address);
    turned.turn_until("it is there", |metrics| metrics.connections_open == 1);
    send_urgent(&stream);
    turned.turn_until("it was told", |metrics| metrics.events > 1);
    turned.assert_rests();
    stream.write_all(b"and on").unwrap();
    turned.turn_until("it is answered", |metrics| metrics.bytes_out == 6);
    ask(&mut stream, b"", b"and on");
    turned.assert_rests();
}
