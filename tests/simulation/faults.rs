//! What must happen when the system or the network fails.

use std::time::Duration;

use tidewheel::sim::{self, Faults, PeerState, Random};
use tidewheel::{CloseReason, Limits};

use crate::harness::with;

use super::{Notebook, assert_nothing_leaks, heard, kind_and_hostile, listen_echo, simulate};

const MS: Duration = Duration::from_millis(1);

#[test]
fn when_descriptors_run_out_accepting_rests_and_resumes_by_itself() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        sim.faults().descriptors_max = 4;
        let admitted = [0; 3].map(|_| sim.connect(echo));
        sim.settle();
        let waiting = [0; 5].map(|_| sim.connect(echo));
        for &peer in &waiting {
            sim.send(peer, b"late");
            sim.finish(peer);
        }
        let before = sim.reactor().metrics().clone();
        sim.run_for(10_000 * MS);
        let after = sim.reactor().metrics().clone();
        let failed = after.accepts_exhausted - before.accepts_exhausted;
        assert!((10..=1000).contains(&failed), "{failed} failed accepts in 10 s");
        assert!(after.turns - before.turns < 3000, "{} turns in 10 s", after.turns - before.turns);
        // Live connections go on.
        for &peer in &admitted {
            sim.send(peer, b"live");
        }
        sim.run_for(50 * MS);
        for &peer in &admitted {
            assert_eq!(heard(sim, peer), "live");
        }
        // One is freed, and the next is accepted, within 100 ms and the network's own delays, if nothing else fails.
        (sim.faults().accept_exhausted, sim.faults().accept_aborted) = (0.0, 0.0);
        sim.finish(admitted[0]);
        sim.run_for(130 * MS);
        assert!(waiting.iter().any(|&peer| sim.received(peer) == b"late"), "accepting did not resume");
        for peer in admitted {
            sim.finish(peer);
        }
        sim.run();
        for &peer in &waiting {
            assert_eq!(heard(sim, peer), "late");
        }
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn accept_errors_are_counted_and_never_the_end() {
    sim::check(0..20, |seed| {
        let faults = with!(Faults::hostile(), accept_exhausted = 0.4, accept_aborted = 0.3);
        let mut sim = simulate(seed, faults, Limits::default());
        let echo = listen_echo(&mut sim);
        let peers = [0; 30].map(|_| sim.connect(echo));
        for &peer in &peers {
            sim.send(peer, b"hello");
            sim.finish(peer);
        }
        sim.run();
        let served = peers.iter().filter(|&&peer| sim.received(peer) == b"hello").count() as u64;
        let metrics = sim.reactor().metrics();
        assert!(metrics.accepts_exhausted > 0);
        assert_eq!(metrics.accepts_aborted, 30 - served);
        assert_eq!(metrics.connections_accepted, served);
        assert_nothing_leaks(&mut sim, 1);
    });
}

/// Peers that reset at any moment: before they are accepted, in the middle, with replies under way.
fn resets(seeds: std::ops::Range<u64>, rounds: usize) {
    sim::check(seeds, |seed| {
        let mut random = Random::new(!seed);
        let mut sim = simulate(seed, with!(Faults::hostile(), reset = 0.01), Limits::default());
        let echo = listen_echo(&mut sim);
        let mut reset = 0;
        for _ in 0..rounds {
            let peer = sim.connect(echo);
            sim.send(peer, &vec![b'x'; random.below(3000)]);
            if random.chance(0.3) {
                sim.stop_reading(peer);
            }
            sim.run_for(Duration::from_micros(random.below(8_000) as u64));
            match random.below(4) {
                0 => _ = sim.close(peer),
                1 => _ = sim.finish(peer),
                _ => {
                    sim.reset(peer);
                    reset += 1;
                }
            }
        }
        sim.run();
        let metrics = sim.reactor().metrics().clone();
        assert!(metrics.closed_for(CloseReason::Reset) > reset / 10, "hardly a reset was noticed");
        assert_nothing_leaks(&mut sim, 1);
    });
}

#[test]
fn resets_at_any_moment_leave_nothing_behind() {
    resets(0..20, 200);
}

#[test]
#[ignore = "a longer run of the test above: 100,000 connections"]
fn a_hundred_thousand_resets_leave_nothing_behind() {
    resets(1000..1020, 5_000);
}

#[test]
fn nothing_that_was_meant_for_an_earlier_connection_reaches_a_later_one() {
    let mut stale = 0;
    sim::check(0..20, |seed| {
        let mut random = Random::new(!seed);
        let faults = with!(Faults::hostile(), stale_event = 1.0, doubled_event = 0.5, spurious_event = 0.5);
        let mut sim = simulate(seed, with!(faults, reset = 0.01), Limits::default());
        let echo = listen_echo(&mut sim);
        let mut peers = Vec::new();
        for number in 0..150_u8 {
            // A few at a time, so that slots are used again and again.
            let peer = sim.connect(echo);
            sim.send(peer, &vec![number; 1 + random.below(2000)]);
            sim.run_for(Duration::from_micros(random.below(4000) as u64));
            if random.chance(0.3) {
                sim.reset(peer);
            } else {
                sim.finish(peer);
            }
            peers.push(peer);
        }
        sim.run();
        for (number, &peer) in peers.iter().enumerate() {
            let strange = sim.received(peer).iter().find(|&&byte| usize::from(byte) != number);
            assert_eq!(strange, None, "{peer:?} heard what was said on another connection");
        }
        stale += sim.reactor().metrics().stale_events;
        assert_nothing_leaks(&mut sim, 1);
    });
    assert!(stale > 0, "no event was stale: the scenario shows nothing");
}

#[test]
fn replies_that_are_under_way_when_the_peer_ends_its_side_all_arrive() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        let peer = sim.connect(echo);
        sim.read_slowly(peer, 1000, MS);
        let said = Random::new(1).bytes(150_000);
        sim.send(peer, &said);
        sim.finish(peer);
        sim.run();
        assert!(sim.received(peer) == said);
        assert_eq!(sim.state(peer), PeerState::Ended);
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::PeerClosed), 1);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn an_end_or_an_error_that_nobody_reads_does_not_make_the_loop_spin() {
    kind_and_hostile(&with!(Limits::default(), progress_timeout = None), |sim| {
        let listener = sim.listen("127.0.0.1:7", Notebook::default());
        let echo = listen_echo(sim);
        // Paused, with the peer's end waiting to be read.
        let paused = sim.connect(listener);
        sim.settle();
        sim.reactor().with(listener.service, |notebook: &mut Notebook, cx| cx.pause(notebook.last.unwrap()));
        sim.settle();
        sim.send(paused, b"unread");
        sim.finish(paused);
        // Its input rests because its output does, and so does its end.
        let blocked = sim.connect(echo);
        sim.stop_reading(blocked);
        sim.send(blocked, &vec![b'x'; 400_000]);
        sim.finish(blocked);
        sim.settle();
        let before = sim.reactor().metrics().turns;
        sim.run_for(60_000 * MS);
        let turns = sim.reactor().metrics().turns - before;
        assert!(turns < 20, "{turns} turns in a minute in which nothing happened");
        assert_eq!(sim.reactor().connections(), 2);
        // Whoever breaks is noticed, though nobody reads it.
        sim.reset(paused);
        sim.resume_reading(blocked);
        sim.run();
        let (notes, _) = Notebook::of(sim, listener.service);
        assert_eq!(notes.last().map(String::as_str), Some("closed: reset"));
        assert_eq!(sim.received(blocked).len(), 400_000);
        assert_nothing_leaks(sim, 2);
    });
}

#[test]
fn urgent_data_hides_nothing_that_follows_it() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        let peer = sim.connect(echo);
        sim.settle();
        for round in 0..10_u8 {
            sim.send(peer, &[b'0' + round; 3]);
            sim.run_for(Duration::from_micros(200));
            assert!(sim.send_urgent(peer));
            sim.send(peer, &[b'0' + round; 2]);
        }
        sim.finish(peer);
        sim.run();
        let expected: Vec<u8> = (b'0'..=b'9').flat_map(|digit| [digit; 5]).collect();
        assert_eq!(sim.received(peer).escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn a_ring_that_takes_nothing_more_loses_nothing_and_delays_nobody() {
    sim::check(0..10, |seed| {
        let faults = with!(Faults::hostile(), ring = 1.0, ring_failed = 0.3);
        let mut sim = simulate(seed, faults, Limits::default());
        let echo = listen_echo(&mut sim);
        let peers = [0; 40].map(|_| sim.connect(echo));
        sim.settle();
        for round in 1..4_usize {
            for (number, &peer) in peers.iter().enumerate() {
                sim.send(peer, &vec![number as u8; 300 * round]);
            }
            // What each said comes back before anything else happens.
            sim.settle();
            for (number, &peer) in peers.iter().enumerate() {
                let expected = vec![number as u8; 300 * (1..=round).sum::<usize>()];
                assert!(sim.received(peer) == expected, "{peer:?} was not answered");
            }
        }
        for peer in peers {
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(&mut sim, 1);
    });
}

#[test]
fn a_connection_that_fails_again_and_again_is_closed_and_the_next_one_is_served() {
    const EIO: i32 = 5;
    for writes in [false, true] {
        kind_and_hostile(&Limits::default(), |sim| {
            let echo = listen_echo(sim);
            let peers = [0; 5].map(|_| sim.connect(echo));
            sim.settle();
            let error = if writes { &mut sim.faults().write_error } else { &mut sim.faults().read_error };
            *error = Some(EIO);
            peers.iter().for_each(|&peer| sim.send(peer, b"hello"));
            sim.settle();
            assert_eq!(sim.reactor().metrics().closed_for(CloseReason::Failed), 5);
            (sim.faults().write_error, sim.faults().read_error) = (None, None);
            let next = sim.connect(echo);
            sim.send(next, b"and I");
            sim.finish(next);
            sim.run();
            assert_eq!(heard(sim, next), "and I");
            assert_nothing_leaks(sim, 1);
        });
    }
}

#[test]
fn deadlines_go_by_the_monotonic_clock() {
    let limits = with!(Limits::default(), idle_timeout = Some(10_000 * MS));
    kind_and_hostile(&limits, |sim| {
        let listener = sim.listen("127.0.0.1:7", Notebook::default());
        let peer = sim.connect(listener);
        sim.faults().wall_step = 0.0;
        sim.settle();
        let (wall, now) = (sim.wall(), sim.now());
        sim.step_wall(86_400);
        assert!(sim.wall().duration_since(wall).unwrap() >= Duration::from_secs(86_400));
        sim.run_for(5_000 * MS);
        sim.step_wall(-2 * 86_400);
        assert!(sim.wall() < wall);
        sim.run_for(4_000 * MS);
        assert_eq!(sim.state(peer), PeerState::Open, "the wall clock moved a deadline");
        sim.run_for(1_500 * MS);
        assert_eq!(sim.state(peer), PeerState::Ended, "the wall clock moved a deadline");
        assert!(sim.now() - now < 10_600 * MS);
    });
}

#[test]
fn after_a_sleep_of_the_machine_everything_goes_on() {
    kind_and_hostile(&with!(Limits::default(), idle_timeout = Some(3_000 * MS)), |sim| {
        let echo = listen_echo(sim);
        let (idle, busy) = (sim.connect(echo), sim.connect(echo));
        sim.settle();
        sim.send(busy, b"sent while it slept");
        sim.sleep(5_000 * MS);
        sim.run_for(100 * MS);
        assert_eq!(heard(sim, busy), "sent while it slept");
        assert_eq!(sim.state(busy), PeerState::Open, "what came in time counts before the deadline does");
        assert_eq!(sim.state(idle), PeerState::Ended);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn closing_a_listener_leaves_its_connections_alone() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        let before = sim.connect(echo);
        sim.settle();
        let meanwhile = sim.connect(echo);
        sim.reactor().unlisten(echo.id);
        sim.send(before, b"still here");
        sim.finish(before);
        sim.run();
        assert_eq!(heard(sim, before), "still here");
        assert_eq!(sim.state(meanwhile), PeerState::Refused);
        let again = listen_echo(sim);
        let after = sim.connect(again);
        sim.finish(after);
        sim.run();
        assert_eq!(sim.state(after), PeerState::Ended);
        assert_nothing_leaks(sim, 1);
    });
}
