//! What ends a message, by the clock of the simulation, and conversations of messages on bad networks.

use std::time::Duration;

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::banner::Banner;
use tidewheel::services::daytime::Daytime;
use tidewheel::services::greeting::Greeting;
use tidewheel::services::http::Http;
use tidewheel::services::reply::Reply;
use tidewheel::sim::{self, Faults, PeerState, Random, Sim};
use tidewheel::{CloseReason, Limits, Service};

use crate::harness::with;

use super::{assert_nothing_leaks, kind_and_hostile, simulate};

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
    let mut sim = simulate(1, Faults::none(), Limits::default());
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
    let mut sim = simulate(1, Faults::none(), Limits::default());
    let peer = greeted(&mut sim, with!(Rules::default(), message_pause = None));
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
            sim.try_send(peer, b"x");
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
        let rules = with!(Rules::default(), line_bytes_max = 5000);
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
            let mut sim = simulate(seed, faults.clone(), Limits::default());
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

#[test]
fn what_is_said_on_connect_comes_whole_whatever_the_peer_does() {
    for faults in [Faults::hostile(), Faults::lossy()] {
        sim::check(0..40, |seed| {
            let mut sim = simulate(seed, faults.clone(), Limits::default());
            let banner = sim.listen("127.0.0.1:9998", Banner::new("欢迎"));
            let daytime = sim.listen("127.0.0.1:6789", Daytime::local());
            let descriptors = sim.descriptors();
            let mut random = Random::new(!seed);
            let mut peers = Vec::new();
            for number in 0..40 {
                let peer = sim.connect(if number % 2 == 0 { banner } else { daytime });
                sim.send(peer, &random.bytes(100));
                if random.chance(0.3) {
                    sim.finish(peer);
                }
                peers.push(peer);
            }
            assert!(sim.run(), "it comes to an end");
            assert_nothing_leaks(&mut sim, descriptors);
            for (number, peer) in peers.into_iter().enumerate() {
                let ended = sim.state(peer) == PeerState::Ended;
                let heard = sim.received(peer);
                if number % 2 == 0 {
                    assert!("欢迎\r\n".as_bytes().starts_with(heard));
                    assert!(!ended || heard.len() == 8, "it ended early");
                } else {
                    assert!(!ended || heard.len() == "2026-11-21 04:05:06.123456".len(), "it ended early");
                }
            }
        });
    }
}

#[test]
fn a_peer_that_asks_and_never_reads_is_read_from_no_more_and_closed_in_the_end() {
    fn ask_without_reading(service: impl Service, question: &[u8]) {
        let limits = with!(Limits::default(), read_deadline = None);
        // All that is held: what waits to go out, and what one read may bring on top.
        let bound = limits.output_high_water_bytes + limits.output_hard_bytes.unwrap_or_default();
        let mut sim = simulate(1, Faults::none(), limits);
        let listener = sim.listen("127.0.0.1:7", service);
        let peer = sim.connect(listener);
        sim.stop_reading(peer);
        sim.stay(peer);
        sim.send(peer, &question.repeat((8 << 20) / question.len()));
        sim.run_for(Duration::from_secs(20));
        let metrics = sim.reactor().metrics();
        let asked = metrics.bytes_in as usize;
        assert!(asked < bound, "{asked} bytes were read from a peer that reads nothing");
        assert_eq!(metrics.connections_open, 1);
        sim.run_for(Duration::from_secs(20));
        let metrics = sim.reactor().metrics();
        assert_eq!(metrics.closed_for(CloseReason::ProgressTimeout), 1, "{metrics:?}");
    }

    ask_without_reading(Framed::new(Greeting::default(), Rules::default()), b"somebody\n");
    ask_without_reading(Framed::new(Reply::new("received", ""), Rules::default()), b"?\n");
    ask_without_reading(Http::default(), b"GET / HTTP/1.1\r\nHost: me\r\n\r\n");
}

#[test]
fn every_datagram_is_answered_by_reply_and_daytime() {
    kind_and_hostile(&Limits::default(), |sim| {
        let reply =
            sim.listen("udp://192.0.2.1:8888", Framed::new(Reply::new("", "a name"), Rules::default()));
        let daytime = sim.listen("udp://192.0.2.1:6789", Daytime::local());
        for text in [&b""[..], b"hello", &[0xff; 1000]] {
            sim.send_datagram(reply, "10.0.0.1:5000", text);
            sim.send_datagram(daytime, "10.0.0.2:5000", text);
        }
        sim.run();
        assert_eq!(sim.replies("10.0.0.1:5000"), vec![b"a name".to_vec(); 3]);
        assert!(sim.replies("10.0.0.2:5000").iter().all(|told| told.len() == 26));
        assert_eq!(sim.replies("10.0.0.2:5000").len(), 3);
    });
}
