//! What ends a message, by the clock of the simulation, and conversations of messages on bad networks.

use std::time::Duration;

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::greeting::Greeting;
use tidewheel::sim::{self, Faults, PeerState, Random, Sim};
use tidewheel::{CloseReason, Limits};

use super::{assert_nothing_leaks, kind_and_hostile};

const PAUSE: Duration = Duration::from_millis(50);

/// A peer in a conversation with the greeting that has read the welcome.
fn greeted(sim: &mut Sim, rules: Rules) -> sim::PeerId {
    let listener = sim.listen("127.0.0.1:9999", Framed::new(Greeting::default(), rules));
    let peer = sim.connect(listener);
    sim.settle();
    peer
}

fn text(sim: &mut Sim, peer: sim::PeerId) -> String {
    String::from_utf8_lossy(sim.received(peer)).into_owned()
}

#[test]
fn text_without_a_newline_is_a_message_after_the_pause_and_not_before() {
    let mut sim = Sim::new(1, Faults::none());
    let peer = greeted(&mut sim, Rules::default());
    for (sent, rest, heard) in [
        ("he", PAUSE - Duration::from_millis(10), "Welcome!"),
        // The pause begins with the last byte.
        ("llo", PAUSE - Duration::from_millis(10), "Welcome!"),
        ("", Duration::from_millis(20), "Welcome!Hello, hello!"),
        ("a", PAUSE * 2, "Welcome!Hello, hello!Hello, a!"),
        // A newline: from now on a pause means nothing.
        ("b\nc", PAUSE * 4, "Welcome!Hello, hello!Hello, a!Hello, b!\n"),
        ("d\n", PAUSE, "Welcome!Hello, hello!Hello, a!Hello, b!\nHello, cd!\n"),
    ] {
        sim.send(peer, sent.as_bytes());
        sim.run_for(rest);
        assert_eq!(text(&mut sim, peer), heard, "after {sent:?}");
    }
    sim.send(peer, b"exit");
    sim.finish(peer);
    assert!(sim.run());
    assert_eq!(sim.state(peer), PeerState::Ended);
}

#[test]
fn without_a_pause_only_newlines_end_messages() {
    let mut sim = Sim::new(1, Faults::none());
    let peer = greeted(&mut sim, Rules { message_pause: None, ..Rules::default() });
    sim.send(peer, b"hello");
    sim.run_for(Duration::from_secs(5));
    assert_eq!(text(&mut sim, peer), "Welcome!");
    sim.send(peer, b"\n");
    sim.run_for(PAUSE);
    assert_eq!(text(&mut sim, peer), "Welcome!Hello, hello!\n");
}

#[test]
fn a_line_that_is_not_ended_does_not_outlast_the_read_deadline() {
    kind_and_hostile(&Limits::default(), |sim| {
        let peer = greeted(sim, Rules::default());
        sim.send(peer, b"first\n");
        for _ in 0..30 {
            sim.send(peer, b"x");
            sim.run_for(Duration::from_millis(900));
        }
        assert!(sim.run());
        assert_eq!(text(sim, peer), "Welcome!Hello, first!\n");
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::ReadDeadline), 1);
    });
}

#[test]
fn an_endless_line_is_refused_at_the_limit() {
    kind_and_hostile(&Limits::default(), |sim| {
        let rules = Rules { line_bytes_max: 5000, ..Rules::default() };
        let peer = greeted(sim, rules);
        sim.send(peer, &[b'x'; 5000]);
        sim.send(peer, b"\r\n");
        sim.send(peer, &vec![b'y'; 200_000]);
        assert!(sim.run());
        assert_eq!(text(sim, peer).len(), b"Welcome!Hello, !\r\n".len() + 5000);
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::InputLimit), 1);
    });
}

#[test]
fn conversations_come_whole_however_the_network_cuts_them() {
    for faults in [Faults::hostile(), Faults::lossy()] {
        sim::check(0..40, |seed| {
            let mut sim = Sim::new(seed, faults.clone());
            let listener = sim.listen("127.0.0.1:9999", Framed::new(Greeting::default(), Rules::default()));
            let descriptors = sim.descriptors();
            let mut random = Random::new(!seed);
            let mut conversations = Vec::new();
            for number in 0..30 {
                let peer = sim.connect(listener);
                let (mut said, mut expected) = (Vec::new(), b"Welcome!".to_vec());
                for line in 0..random.below(40) {
                    let word = format!("{number}/{line}{}", "z".repeat(random.below(300)));
                    let ending = if random.chance(0.5) { "\n" } else { "\r\n" };
                    said.extend(format!("{word}{ending}").as_bytes());
                    expected.extend(format!("Hello, {word}!{ending}").as_bytes());
                }
                // The first newline comes at once, so that no pause of the network ends a message.
                sim.send(peer, b"\n");
                expected.splice(8..8, *b"Hello, !\n");
                sim.send(peer, &said);
                sim.finish(peer);
                conversations.push((peer, expected));
            }
            assert!(sim.run(), "it comes to an end");
            assert_nothing_leaks(&mut sim, descriptors);
            for (peer, expected) in conversations {
                let ended = sim.state(peer) == PeerState::Ended;
                let heard = sim.received(peer);
                assert!(expected.starts_with(heard), "a wrong answer");
                assert!(!ended || heard.len() == expected.len(), "it ended early");
            }
        });
    }
}
