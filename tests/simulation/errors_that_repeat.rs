//! Calls of the system that fail again and again: the loop neither spins nor ends, and everybody else is served.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::sim::{self, Faults, Listener, PeerState, Sim};
use tidewheel::{Error, Limits, Options, Report};

use crate::harness::with;

use super::{heard, simulate};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A failure in a row that is one too many for being tried again at once; the default of [`Limits::failures_max`].
const IN_A_ROW: u64 = 64;

/// What a listener may say when it was destroyed or something forbids it, and what connections that broke before they
/// were accepted leave in accept.
const BROKEN: [i32; 6] =
    [libc::EINVAL, libc::EPERM, libc::EBADF, libc::ECONNABORTED, libc::ENETDOWN, libc::EOPNOTSUPP];

/// What it says when the system has no more descriptors or memory.
const SHORT: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// One of each kind.
const ADDRESSES: [&str; 4] =
    ["tcp://127.0.0.1:7007", "unix:/echo", "udp://192.0.2.1:7007", "unix-dgram:/echo-datagrams"];

/// A system that is as hostile as others, but does not add failures of its own to those of a scenario.
fn hostile() -> Faults {
    with!(Faults::hostile(), accept_exhausted = 0.0, interrupted = 0.0)
}

/// Runs a scenario with each address and each error on a kind system, and with some of them on hostile ones.
#[track_caller]
fn with_each(errors: &[i32], scenario: impl Fn(&mut Sim, &str, i32)) {
    for address in ADDRESSES {
        for &error in errors {
            scenario(&mut simulate(0, Faults::none(), Limits::default()), address, error);
        }
    }
    sim::check(0..16, |seed| {
        let (address, error) = (seed as usize % ADDRESSES.len(), seed as usize / ADDRESSES.len());
        scenario(
            &mut simulate(seed, hostile(), Limits::default()),
            ADDRESSES[address],
            errors[error % errors.len()],
        );
    });
}

/// Runs a scenario on a kind system and on hostile ones.
#[track_caller]
fn kind_and_hostile(limits: &Limits, scenario: impl Fn(&mut Sim)) {
    scenario(&mut simulate(0, Faults::none(), limits.clone()));
    sim::check(0..10, |seed| scenario(&mut simulate(seed, hostile(), limits.clone())));
}

fn listen(sim: &mut Sim, address: &str) -> Listener {
    sim.listen_with(address, Echo, Options::new("echo").messages(false))
}

/// What is reported of listeners and of the wait, from here on.
fn reports(sim: &mut Sim) -> Rc<RefCell<Vec<String>>> {
    let reports = Rc::<RefCell<Vec<String>>>::default();
    let heard = reports.clone();
    sim.reactor().observe_events(Box::new(move |report| {
        let line = match report {
            Report::ListenerPaused { address, .. } => format!("{address} paused"),
            Report::ListenerResumed { address, .. } => format!("{address} resumed"),
            Report::ListenerClosed { address, .. } => format!("{address} closed"),
            Report::WaitPaused { .. } => "wait paused".to_owned(),
            Report::WaitResumed => "wait resumed".to_owned(),
            _ => return,
        };
        heard.borrow_mut().push(line);
    }));
    reports
}

/// Lets somebody come to a listener or datagram socket.
fn come(sim: &mut Sim, listener: Listener, address: &str) {
    match address {
        _ if address.starts_with("udp") => sim.send_datagram(listener, "10.0.0.1:5000", b"hello"),
        _ if address.starts_with("unix-dgram") => sim.send_datagram(listener, "/somebody", b"hello"),
        _ => {
            let peer = sim.connect(listener);
            sim.send(peer, b"hello");
            sim.finish(peer);
        }
    }
}

/// How often calls have failed.
fn failed(sim: &mut Sim) -> u64 {
    let metrics = sim.reactor().metrics();
    metrics.accepts_aborted + metrics.accepts_exhausted + metrics.datagram_errors
}

/// Runs for so long, in which calls may be tried a hundred times a second and for as many turns. What the hostile system
/// adds by itself, wrong events among it, comes on top.
fn run_without_spinning(sim: &mut Sim, duration: Duration) {
    let (tries, turns) = (failed(sim), sim.reactor().metrics().turns);
    sim.run_for(duration);
    let allowed = 100 * duration.as_secs() + 2 * IN_A_ROW;
    let (tries, turns) = (failed(sim) - tries, sim.reactor().metrics().turns - turns);
    assert!(tries <= allowed, "{tries} tries in {duration:?}");
    assert!(turns <= 3 * allowed, "{turns} turns in {duration:?}");
}

#[test]
fn a_source_that_is_broken_is_paused_and_closed_after_a_minute_and_no_other_notices() {
    with_each(&BROKEN, |sim, address, error| {
        let other = sim.listen("127.0.0.1:9999", Echo);
        let live = sim.connect(other);
        let broken = listen(sim, address);
        sim.settle();
        let reports = reports(sim);
        sim.fail_source(broken, error, u64::MAX);
        come(sim, broken, address);
        for second in 0..39 {
            run_without_spinning(sim, SECOND);
            assert_eq!(*reports.borrow(), [format!("{address} paused")], "after {second} s");
            sim.send(live, b".");
            let newcomer = sim.connect(other);
            sim.send(newcomer, b"new");
            sim.finish(newcomer);
            sim.run_for(500 * MS);
            assert_eq!(heard(sim, newcomer), "new");
        }
        assert_eq!(heard(sim, live), ".*39");
        sim.run_for(2 * SECOND);
        assert_eq!(
            *reports.borrow(),
            [format!("{address} paused"), format!("{address} closed")],
            "{error} of {address}"
        );
        assert_eq!(sim.reactor().metrics().listeners_closed, 1);
        // Its descriptor is closed, the other listener and the live connection are there.
        assert_eq!(sim.descriptors(), 2);
        // What is closed is not tried any more.
        let tries = failed(sim);
        sim.run_for(10 * SECOND);
        assert_eq!(failed(sim), tries);
        sim.finish(live);
        sim.run();
        assert_eq!(sim.state(live), PeerState::Ended);
    });
}

#[test]
fn a_source_is_never_closed_for_want_of_descriptors_or_memory() {
    with_each(&SHORT, |sim, address, error| {
        let short = listen(sim, address);
        let reports = reports(sim);
        sim.fail_source(short, error, u64::MAX);
        come(sim, short, address);
        run_without_spinning(sim, 120 * SECOND);
        assert_eq!(*reports.borrow(), [format!("{address} paused")]);
        sim.fail_source(short, error, 0);
        sim.run_for(SECOND);
        assert_eq!(*reports.borrow(), [format!("{address} paused"), format!("{address} resumed")]);
        assert_eq!(sim.reactor().metrics().listeners_closed, 0);
        let metrics = sim.reactor().metrics();
        assert_eq!(metrics.connections_accepted + metrics.datagrams_in, 1);
    });
}

#[test]
fn where_each_freed_descriptor_lets_in_one_the_listener_is_reported_paused_once() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen(sim, "127.0.0.1:7007");
        sim.faults().descriptors_max = 3;
        let reports = reports(sim);
        let live = [sim.connect(echo), sim.connect(echo)];
        sim.settle();
        let waiting = [0; 20].map(|_| sim.connect(echo));
        for &peer in &waiting {
            sim.send(peer, b"late");
            sim.finish(peer);
        }
        sim.run_for(SECOND);
        sim.finish(live[0]);
        sim.run_for(20 * SECOND);
        for peer in waiting {
            assert_eq!(heard(sim, peer), "late");
        }
        sim.finish(live[1]);
        sim.run();
        assert_eq!(*reports.borrow(), ["tcp://127.0.0.1:7007 paused", "tcp://127.0.0.1:7007 resumed"]);
    });
}

#[test]
fn so_many_failures_as_are_no_row_pause_nobody() {
    with_each(&BROKEN, |sim, address, error| {
        let source = listen(sim, address);
        let reports = reports(sim);
        // Each time the row ends with somebody who is served, or with nobody left.
        for _ in 0..5 {
            sim.fail_source(source, error, IN_A_ROW - 1);
            let before = sim.reactor().metrics().clone();
            come(sim, source, address);
            sim.run_for(40 * MS);
            let metrics = sim.reactor().metrics();
            assert!(
                metrics.connections_accepted + metrics.datagrams_in
                    > before.connections_accepted + before.datagrams_in
            );
        }
        assert_eq!(*reports.borrow(), [""; 0]);
        // One more is a row.
        sim.fail_source(source, error, IN_A_ROW);
        come(sim, source, address);
        sim.run_for(SECOND);
        assert_eq!(*reports.borrow(), [format!("{address} paused"), format!("{address} resumed")]);
        sim.run();
        assert_eq!(failed(sim), 5 * (IN_A_ROW - 1) + IN_A_ROW);
    });
}

#[test]
fn a_source_that_recovers_after_a_while_serves_who_waits_and_its_minute_begins_anew() {
    with_each(&[libc::EINVAL], |sim, address, error| {
        let source = listen(sim, address);
        let reports = reports(sim);
        for round in 1..=3 {
            sim.fail_source(source, error, u64::MAX);
            come(sim, source, address);
            run_without_spinning(sim, 50 * SECOND);
            sim.fail_source(source, error, 0);
            sim.run_for(SECOND);
            assert_eq!(reports.borrow().len(), 2 * round);
            let metrics = sim.reactor().metrics();
            assert_eq!(metrics.connections_accepted + metrics.datagrams_in, round as u64);
        }
    });
}

#[test]
fn a_wait_that_fails_a_few_times_is_no_matter() {
    for error in [libc::EBADF, libc::EINVAL, libc::ENOMEM, libc::EFAULT] {
        kind_and_hostile(&Limits::default(), |sim| {
            let echo = sim.listen("127.0.0.1:7", Echo);
            let reports = reports(sim);
            let peer = sim.connect(echo);
            for round in 1..10 {
                sim.send(peer, b"x");
                sim.fail_waits(error, IN_A_ROW - 1);
                sim.run_for(SECOND);
                assert_eq!(sim.received(peer).len(), round);
                assert_eq!(sim.reactor().metrics().wait_errors, round as u64 * (IN_A_ROW - 1));
            }
            assert_eq!(*reports.borrow(), [""; 0]);
        });
    }
}

#[test]
fn a_wait_that_fails_for_a_while_is_tried_now_and_then_and_deadlines_go_on() {
    let limits = with!(Limits::default(), idle_timeout = Some(20 * SECOND));
    kind_and_hostile(&limits, |sim| {
        let echo = sim.listen("127.0.0.1:7", Echo);
        let (idle, waiting) = (sim.connect(echo), sim.connect(echo));
        sim.settle();
        let reports = reports(sim);
        sim.run_for(10 * SECOND);
        sim.fail_waits(libc::ENOMEM, u64::MAX);
        let turns = sim.reactor().metrics().turns;
        sim.run_for(9 * SECOND);
        // It comes while nobody hears of it.
        sim.send(waiting, b"hello");
        sim.run_for(30 * SECOND);
        assert_eq!(*reports.borrow(), ["wait paused"]);
        let metrics = sim.reactor().metrics().clone();
        assert!(metrics.wait_errors <= 39 * 100 + IN_A_ROW, "{} tries", metrics.wait_errors);
        assert!(metrics.turns - turns <= 39 * 100 + IN_A_ROW, "{} turns", metrics.turns - turns);
        // What is due is done in time, and input that has come counts.
        assert_eq!(sim.state(idle), PeerState::Ended);
        sim.fail_waits(0, 0);
        sim.run_for(SECOND);
        assert_eq!(*reports.borrow(), ["wait paused", "wait resumed"]);
        assert_eq!(heard(sim, waiting), "hello");
    });
}

#[test]
fn a_wait_that_fails_for_a_minute_is_given_up() {
    for error in [libc::EBADF, libc::ENOMEM] {
        kind_and_hostile(&Limits::default(), |sim| {
            sim.listen("127.0.0.1:7", Echo);
            let reports = reports(sim);
            sim.fail_waits(error, u64::MAX);
            let (begun, mut turns) = (sim.now(), 0);
            let given_up = loop {
                turns += 1;
                assert!(turns < 60 * 100, "{turns} turns");
                if let Err(given_up) = sim.reactor().turn(None) {
                    break given_up;
                }
            };
            let lasted = sim.now() - begun;
            assert!(
                matches!(&given_up, Error::Poll(told) if told.raw_os_error() == Some(error)),
                "{given_up}"
            );
            assert!(lasted >= 60 * SECOND && lasted < 61 * SECOND, "given up after {lasted:?}");
            assert_eq!(*reports.borrow(), ["wait paused"]);
        });
    }
}
