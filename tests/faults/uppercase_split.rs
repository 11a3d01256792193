//! Upper case of UTF-8 that is split at each byte, on a real TCP stream.

use std::io::Write;
use std::thread;

use tidewheel::Limits;
use tidewheel::services::uppercase::Uppercase;

use crate::harness::{Served, any_tcp, ask, expect, tcp};

fn serve() -> Served {
    Served::start(Limits::default(), |reactor| vec![listen_uppercase(reactor)])
}

fn listen_uppercase(reactor: &mut tidewheel::Reactor) -> tidewheel::Address {
    crate::harness::listen(reactor, Uppercase::default(), &any_tcp())
}

#[test]
fn every_code_point_that_changes_may_be_split_at_each_byte() {
    let served = serve();
    let mut stream = tcp(&served.addresses[0]);
    let mut splits = 0;
    for c in (char::MIN..=char::MAX).filter(|c| !c.is_ascii() && !c.to_uppercase().eq([*c])) {
        let said = format!("{c}b");
        let answer = said.to_uppercase();
        for at in 1..c.len_utf8() {
            let (head, tail) = said.as_bytes().split_at(at);
            // When the answer to what stands before the first part is there, that part has been read.
            ask(&mut stream, &[b"a", head].concat(), b"A");
            ask(&mut stream, tail, answer.as_bytes());
            splits += 1;
        }
    }
    assert!(splits > 1400, "{splits}");
}

#[test]
fn all_code_points_in_pieces_of_all_sizes_are_those_of_the_whole() {
    let served = serve();
    let mut stream = tcp(&served.addresses[0]);
    let said: String = (char::MIN..=char::MAX).collect();
    let answer = said.to_uppercase();
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.set_nodelay(true).unwrap();
            let mut rest = said.as_bytes();
            for size in (1..=1013).cycle() {
                let (piece, after) = rest.split_at(rest.len().min(size));
                writer.write_all(piece).unwrap();
                if after.is_empty() {
                    break;
                }
                rest = after;
            }
        });
        expect(&mut stream, answer.as_bytes());
    });
}
