//! The engine on the simulated system: what must hold whatever the network and the system do.

#![allow(clippy::unwrap_used, reason = "whatever fails here is to fail the test")]

mod bounds;
mod chaos;
mod chat;
mod datagrams;
mod drain;
mod effects;
mod errors_that_repeat;
mod fanout;
mod faults;
mod held;
mod http;
mod limits;
mod memory;
mod messages;
mod model;
mod panics;
mod progress;
mod proxies;
mod stale;
mod transcripts;
mod unit_test;

use crate::harness::memory::{held_by_engine, service};
use tidewheel::services::echo::Echo;
use tidewheel::sim::{self, Faults, Listener, PeerId, Sim};
use tidewheel::{Arrival, CloseReason, ConnId, Context, Limits, Options, Service};

/// What the engine may hold beside what it accounts for: for each connection there has been at once, in bytes, its state and its
/// place in lists and topics; the same of the services here, which remember little; and the buffers of a turn.
const CONNECTION_BYTES: usize = 2_048;
const TURN_BYTES: usize = 64 << 10;

/// The table of the networks that have been answered, which there is from the first datagram on.
const NETWORKS_BYTES: usize = 1536 << 10;

/// A simulation in which after every turn the memory of the engine is compared with what it accounts for.
fn simulate(seed: u64, faults: Faults, limits: Limits) -> Sim {
    let mut sim = Sim::with_limits(seed, faults, limits);
    let before = held_by_engine();
    let mut most = 0;
    sim.check_each_turn(move |sim| {
        most = most.max(sim.descriptors()).max(sim.metrics().connections_open as usize);
        let held = held_by_engine() - before;
        let accounted = sim.accounted_bytes();
        let networks = if sim.metrics().datagrams_in > 0 { NETWORKS_BYTES } else { 0 };
        let allowed = accounted + most * CONNECTION_BYTES + TURN_BYTES + networks;
        assert!(
            held <= allowed as isize,
            "the engine holds {held} bytes, accounts for {accounted}, and has had {most} connections at once"
        );
    });
    sim
}

/// Runs a scenario on a kind system and, with several seeds, on a hostile one that loses nothing.
#[track_caller]
fn kind_and_hostile(limits: &Limits, scenario: impl Fn(&mut Sim)) {
    scenario(&mut simulate(0, Faults::none(), limits.clone()));
    sim::check(0..20, |seed| scenario(&mut simulate(seed, Faults::hostile(), limits.clone())));
}

/// The slots, descriptors and counters are where they were before anybody connected.
#[track_caller]
fn assert_nothing_leaks(sim: &mut Sim, descriptors_before: usize) {
    assert_eq!(sim.reactor().connections(), 0, "connections are left");
    assert_eq!(sim.descriptors(), descriptors_before, "descriptors are left");
    let metrics = sim.reactor().metrics();
    let begun = metrics.connections_accepted + metrics.connections_refused + metrics.connections_begun;
    assert_eq!(begun, metrics.connections_closed(), "each connection is closed once, for one reason");
    assert_eq!(metrics.connections_open, 0);
}

/// An echo server, whose input is no message that comes to an end.
fn listen_echo(sim: &mut Sim) -> Listener {
    let options = Options::new("echo").messages(false);
    sim.listen_with("127.0.0.1:7007", Echo, options)
}

/// What a peer has read, as text, with long runs of one letter counted: `hellox*1000`.
fn heard(sim: &mut Sim, peer: PeerId) -> String {
    let mut text = String::new();
    for run in sim.received(peer).chunk_by(|one, next| one == next) {
        let letter = char::from(run[0]);
        match run.len() {
            1..4 => run.iter().for_each(|_| text.push(letter)),
            count => text += &format!("{letter}*{count}"),
        }
    }
    text
}

/// A service that remembers what it hears, and does nothing else.
#[derive(Default)]
struct Notebook {
    notes: Vec<String>,
    input: Vec<u8>,
    last: Option<ConnId>,
}

impl Notebook {
    fn of(sim: &mut Sim, service: tidewheel::ServiceId) -> (Vec<String>, String) {
        sim.reactor().with(service, |notebook: &mut Notebook, _| {
            (notebook.notes.clone(), String::from_utf8_lossy(&notebook.input).into_owned())
        })
    }
}

impl Service for Notebook {
    fn open(&mut self, conn: ConnId, arrival: Arrival, _: &mut Context<'_>) {
        self.last = Some(conn);
        self.notes.push(match arrival {
            Arrival::Accepted(_) => "accepted".to_owned(),
            Arrival::Connected(peer) => format!("connected to {peer}"),
            _ => "handed over".to_owned(),
        });
    }

    fn input(&mut self, _: ConnId, bytes: &[u8], _: &mut Context<'_>) -> usize {
        service(|| self.input.extend(bytes));
        bytes.len()
    }

    fn eof(&mut self, conn: ConnId, _: &[u8], cx: &mut Context<'_>) {
        self.notes.push("eof".to_owned());
        cx.close(conn);
    }

    fn deadline(&mut self, _: ConnId, cx: &mut Context<'_>) {
        self.notes.push(format!("deadline at {} ms", cx.now().since_start().as_millis()));
    }

    fn closed(&mut self, _: ConnId, reason: CloseReason, _: &mut Context<'_>) {
        self.notes.push(format!("closed: {}", reason.name()));
    }
}
