//! Slots are used again, as soon as the turn after their connection ended.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::{CloseReason, ConnId, Context, Limits, Service};

use super::turn_until_answered;
use crate::harness::{Turned, expect, reset, tcp};

/// In each round, in one batch of events: some end, others come in their place, and all say who they are.
fn come_go_and_say(service: impl Service, limits: Limits, rounds: u32) -> Turned {
    const COUNT: usize = 24;
    let mut turned = Turned::new(limits, service);
    let mut count = 0;
    let connect = |address: &_, count: &mut u32| {
        *count += 1;
        (tcp(address), *count)
    };
    let name = |number: u32| format!("<{number:06}>").into_bytes();
    let mut streams: Vec<(TcpStream, u32)> =
        (0..COUNT).map(|_| connect(&turned.address, &mut count)).collect();
    for round in 0..rounds {
        for (index, peer) in streams.iter_mut().enumerate() {
            // Another third in each round.
            if (index as u32 + round).is_multiple_of(3) {
                let new = connect(&turned.address, &mut count);
                let (mut stream, number) = std::mem::replace(peer, new);
                match index % 4 {
                    0 => drop(stream),
                    1 => reset(stream),
                    // What it still says must reach nobody else either.
                    2 => stream.write_all(&name(number)).unwrap(),
                    _ => {
                        stream.write_all(&name(number)).unwrap();
                        reset(stream);
                    }
                }
            }
            let (stream, number) = peer;
            stream.write_all(&name(*number)).unwrap();
        }
        let accepted = u64::from(count);
        turned.turn_until("the old are gone and the new are there", |metrics| {
            metrics.connections_open == COUNT as u64 && metrics.connections_accepted == accepted
        });
        turn_until_answered(&mut turned.reactor, streams.iter().map(|(stream, _)| stream), name(0).len());
        turned.assert_rests();
        for (stream, number) in &mut streams {
            expect(stream, &name(*number));
        }
    }
    // Nothing came that nobody asked for.
    for (stream, _) in &mut streams {
        stream.set_nonblocking(true).unwrap();
        assert!(stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
    turned
}

#[test]
fn nothing_that_was_meant_for_an_earlier_connection_reaches_a_later_one() {
    let turned = come_go_and_say(Echo, Limits::default(), 60);
    assert_eq!(turned.reactor.metrics().stale_effects, 0);
}

/// Answers each time for the connection that spoke before, too: most of them are gone by then.
#[derive(Default)]
struct Late {
    before: Option<ConnId>,
}

impl Service for Late {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        if let Some(before) = self.before.take() {
            cx.send(before, b"");
            let soon = cx.now() + Duration::from_millis(1);
            cx.set_deadline(before, soon);
        }
        self.before = Some(conn);
        cx.send(conn, bytes);
        bytes.len()
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        cx.send(conn, b"too late");
        cx.close(conn);
        self.before = Some(conn);
    }
}

#[test]
fn what_a_service_still_says_to_those_that_are_gone_reaches_nobody() {
    come_go_and_say(Late::default(), Limits::default(), 30);
}
