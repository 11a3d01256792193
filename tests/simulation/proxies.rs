//! A service with pairs of connections, as the proxy of the examples has, on networks that cut, delay and break.

use std::time::Duration;

use tidewheel::sim::{self, Faults, PeerId, PeerState, Random, Reach, Sim};
use tidewheel::{Address, Arrival, CloseReason, ConnId, Context, Limits, Service};

use crate::harness::with;

use super::{assert_nothing_leaks, kind_and_hostile, simulate};
use crate::proxy::example::Proxy;

const BACKEND: &str = "192.0.2.1:80";

/// A proxy, and as many connections through it, of each both ends.
fn pairs(sim: &mut Sim, count: usize) -> Vec<(PeerId, PeerId)> {
    sim.remote(BACKEND, Reach::Answers);
    let proxy = Proxy::add_to(sim.reactor(), Address::Tcp(BACKEND.parse().unwrap()));
    let listener = sim.listen_for("127.0.0.1:8000", proxy);
    let mut pairs = Vec::new();
    for _ in 0..count {
        let near = sim.connect(listener);
        // One after the other, so that both ends are in the same order.
        sim.settle();
        let far = *sim.callers(BACKEND).last().unwrap();
        assert!(pairs.iter().all(|&(_, other)| other != far));
        pairs.push((near, far));
    }
    pairs
}

/// Both ends of many pairs say something, in parts and of any length, and end their sides. Returns how many broke.
fn talk(seed: u64, faults: Faults) -> usize {
    let loses = faults.reset > 0.0;
    // Without faults until they are connected.
    let mut sim = simulate(seed, with!(faults.clone(), reset = 0.0, accept_aborted = 0.0), Limits::default());
    let mut random = Random::new(!seed);
    let mut ends = Vec::new();
    for (near, far) in pairs(&mut sim, 20) {
        let size = [0, 1, 3_000, 100_000][random.below(4)];
        let lens = [size / 2 + random.below(size + 1), random.below(size + 1)];
        let [there, back] = lens.map(|len| random.bytes(len));
        ends.push((near, there.clone(), back.clone()));
        ends.push((far, back, there));
    }
    *sim.faults() = faults;
    for (peer, says, _) in &ends {
        // Who is told to stay ends its side when it is told so, and not when it sees the other end.
        sim.stay(*peer);
        sim.send(*peer, says);
        if random.chance(0.2) {
            sim.read_slowly(*peer, 1 + random.below(2_000), Duration::from_millis(3));
        }
        if random.chance(0.5) {
            sim.run_for(Duration::from_micros(random.below(5_000) as u64));
        }
        sim.finish(*peer);
    }
    assert!(sim.run(), "it comes to an end");
    assert_nothing_leaks(&mut sim, 1);
    let mut broken = 0;
    for (peer, _, hears) in &ends {
        let has_ended = sim.state(*peer) == PeerState::Ended;
        assert!(has_ended || loses);
        let heard = sim.received(*peer);
        assert!(
            if has_ended { heard == hears } else { hears.starts_with(heard) },
            "of {} bytes",
            hears.len()
        );
        broken += usize::from(!has_ended);
    }
    broken
}

#[test]
fn every_byte_of_both_directions_arrives_and_both_ends_are_seen() {
    sim::check(0..10, |seed| {
        talk(seed, Faults::none());
        talk(seed, Faults::hostile());
    });
}

#[test]
fn what_breaks_is_broken_off_on_both_sides() {
    let mut broken = 0;
    sim::check(0..10, |seed| broken += talk(seed, Faults::lossy()));
    assert!(broken > 0, "no connection broke: the scenario shows nothing");
}

#[test]
fn one_direction_goes_on_while_nobody_reads_the_other() {
    kind_and_hostile(&with!(Limits::default(), progress_timeout = None), |sim| {
        let (near, far) = pairs(sim, 1)[0];
        sim.stop_reading(near);
        sim.send(far, &vec![b'd'; 700_000]);
        sim.run_for(Duration::from_secs(1));
        sim.send(near, &vec![b'u'; 100_000]);
        sim.run_for(Duration::from_secs(10));
        assert_eq!(sim.received(far).len(), 100_000);
        sim.resume_reading(near);
        sim.finish(near);
        sim.finish(far);
        sim.run();
        assert_eq!(sim.received(near).len(), 700_000);
        assert_nothing_leaks(sim, 1);
    });
}

/// Ends its side when a byte comes or when it opens, and does nothing at the end of the other.
struct Ender {
    at_once: bool,
    closed: Vec<CloseReason>,
}

impl Service for Ender {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        if self.at_once {
            cx.send(conn, &[b'e'; 5_000]);
            cx.half_close(conn);
        }
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.send(conn, &[b'e'; 5_000]);
        cx.half_close(conn);
        bytes.len()
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        assert!(rest.is_empty());
        // Also when it has been asked for already.
        cx.half_close(conn);
    }

    fn closed(&mut self, _: ConnId, reason: CloseReason, _: &mut Context<'_>) {
        self.closed.push(reason);
    }
}

#[test]
fn a_connection_whose_sides_have_both_ended_is_closed_by_itself() {
    for at_once in [false, true] {
        for said in [&b""[..], b"x"] {
            for reads in [false, true] {
                kind_and_hostile(&Limits::default(), |sim| {
                    let ender = sim.listen("127.0.0.1:7", Ender { at_once, closed: Vec::new() });
                    let peer = sim.connect(ender);
                    sim.stay(peer);
                    if !reads {
                        sim.stop_reading(peer);
                    }
                    sim.send(peer, said);
                    sim.finish(peer);
                    sim.run_for(Duration::from_secs(1));
                    sim.resume_reading(peer);
                    sim.run();
                    let answer = if at_once || !said.is_empty() { 5_000 } else { 0 };
                    assert_eq!((sim.received(peer).len(), sim.state(peer)), (answer, PeerState::Ended));
                    let closed =
                        sim.reactor().with(ender.service, |ender: &mut Ender, _| ender.closed.clone());
                    assert_eq!(closed, [CloseReason::PeerClosed]);
                    assert_nothing_leaks(sim, 1);
                });
            }
        }
    }
}
