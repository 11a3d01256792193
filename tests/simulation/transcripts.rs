//! What peers hear depends on what they say, and on nothing that the system does.

use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::sim::{self, Faults, PeerState, Random, Trace};
use tidewheel::{Limits, Options, Service};

use crate::harness::with;

use super::{assert_nothing_leaks, simulate};

/// Peers that say random things, in parts, some of them slow readers, and then end their side. Returns what each
/// said, what each heard and how it ended.
struct Conversation {
    said: Vec<Vec<u8>>,
    heard: Vec<Vec<u8>>,
    states: Vec<PeerState>,
    trace: Trace,
}

fn converse(
    seed: u64,
    faults: Faults,
    address: &str,
    service: impl Service,
    words: impl Fn(&mut Random) -> Vec<u8>,
) -> Conversation {
    let mut sim = simulate(seed, faults, Limits::default());
    let options = Options::new("conversation").messages(false);
    let listener = sim.listen_with(address, service, options);
    let descriptors = sim.descriptors();
    // What peers say must not depend on what the system does.
    let mut random = Random::new(!seed);
    let mut peers = Vec::new();
    let mut said = Vec::new();
    for _ in 0..40 {
        let peer = sim.connect(listener);
        let bytes = words(&mut random);
        let cut = random.below(bytes.len() + 1);
        sim.send(peer, &bytes[..cut]);
        if random.chance(0.2) {
            sim.read_slowly(peer, 1 + random.below(200), Duration::from_millis(3));
        }
        if random.chance(0.2) {
            sim.run_for(Duration::from_micros(random.below(20_000) as u64));
        }
        sim.try_send(peer, &bytes[cut..]);
        sim.finish(peer);
        peers.push(peer);
        said.push(bytes);
    }
    assert!(sim.run(), "it comes to an end");
    assert_nothing_leaks(&mut sim, descriptors);
    Conversation {
        said,
        heard: peers.iter().map(|&peer| sim.received(peer).to_vec()).collect(),
        states: peers.iter().map(|&peer| sim.state(peer)).collect(),
        trace: sim.trace().clone(),
    }
}

/// Mostly short, now and then more than every buffer on the way holds.
fn noise(random: &mut Random) -> Vec<u8> {
    let most = if random.chance(0.05) { 30_000 } else { 300 };
    let count = random.below(most);
    random.bytes(count)
}

/// Text of one to four bytes a character, with characters that grow when they are put in upper case, and a few
/// bytes that are no text.
fn prose(random: &mut Random) -> Vec<u8> {
    const LETTERS: [&str; 10] = ["a", "Z", "ß", "é", "ŉ", "ﬃ", "я", "漢", "𐐨", "\n"];
    let mut text = Vec::new();
    for _ in 0..random.below(200) {
        if random.chance(0.02) {
            text.push(0x80 | random.next_u64() as u8);
        } else {
            text.extend(LETTERS[random.below(LETTERS.len())].as_bytes());
        }
    }
    text
}

/// Upper case of the text in `bytes`; what is no text stays as it is.
fn upper(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.utf8_chunks() {
        out.extend(chunk.valid().to_uppercase().as_bytes());
        out.extend(chunk.invalid());
    }
    out
}

#[test]
fn everything_that_has_come_is_answered_before_anything_else_comes() {
    sim::check(0..20, |seed| {
        for faults in [Faults::none(), Faults::hostile(), one_byte_at_a_time()] {
            for address in ["127.0.0.1:7007", "unix:/echo"] {
                let mut sim = simulate(seed, faults.clone(), Limits::default());
                let echo = sim.listen(address, Echo);
                let peer = sim.connect(echo);
                let mut said = Vec::new();
                for round in 1..6 {
                    // No end and no next message comes to the rescue of a reply that is stuck.
                    let message = vec![b'0' + round; 10 * usize::from(round * round)];
                    sim.send(peer, &message);
                    said.extend(message);
                    sim.settle();
                    let heard = sim.received(peer).len();
                    assert!(heard == said.len(), "{heard} of {} bytes came back", said.len());
                }
                assert!(sim.received(peer) == said);
            }
        }
    });
}

/// Peers that all speak while the reactor sleeps, so that one turn finds everything at once.
fn speak_at_once(faults: Faults, service: impl Service, peers: usize, bytes_max: usize) {
    let mut sim = simulate(1, faults, Limits::default());
    let options = Options::new("crowd").messages(false);
    let listener = sim.listen_with("127.0.0.1:7007", service, options);
    let descriptors = sim.descriptors();
    let peers: Vec<_> = (0..peers).map(|_| sim.connect(listener)).collect();
    sim.settle();
    let mut random = Random::new(2);
    let mut said = vec![Vec::new(); peers.len()];
    for _ in 0..3 {
        for (&peer, said) in peers.iter().zip(&mut said) {
            let letter = b'A' + random.below(26) as u8;
            let words = vec![letter; random.below(bytes_max)];
            sim.send(peer, &words);
            said.extend(words);
        }
        sim.sleep(Duration::from_secs(1));
        sim.settle();
    }
    for (&peer, said) in peers.iter().zip(&said) {
        sim.finish(peer);
        assert!(sim.received(peer) == said, "{peer:?} heard something else than it said");
    }
    sim.run();
    assert_nothing_leaks(&mut sim, descriptors);
}

#[test]
fn thousands_who_speak_at_once_are_all_answered() {
    let crowd = || with!(Faults::hostile(), backlog_max = 4096, events_max = 4096);
    speak_at_once(with!(Faults::none(), events_max = 4096), Echo, 3000, 1400);
    speak_at_once(with!(Faults::none(), events_max = 4096), Uppercase::default(), 3000, 1400);
    speak_at_once(crowd(), Echo, 1000, 400);
    speak_at_once(crowd(), Uppercase::default(), 1000, 400);
    // More in one turn than a turn takes, from few.
    speak_at_once(Faults::none(), Echo, 60, 120_000);
    speak_at_once(Faults::none(), Uppercase::default(), 60, 120_000);
}

fn one_byte_at_a_time() -> Faults {
    with!(
        Faults::hostile(),
        segment_bytes_max = 1,
        short_read = 1.0,
        short_write = 1.0,
        interrupted = 0.3,
        would_block = 0.3
    )
}

#[test]
fn echo_loses_no_byte() {
    sim::check(0..12, |seed| {
        for faults in [Faults::none(), Faults::hostile()] {
            for address in ["127.0.0.1:7007", "unix:/echo"] {
                let talk = converse(seed, faults.clone(), address, Echo, noise);
                assert!(talk.heard == talk.said, "echo on {address} changed something");
                assert!(talk.states.iter().all(|&state| state == PeerState::Ended));
            }
        }
    });
}

#[test]
fn uppercase_is_that_of_the_whole_wherever_it_is_cut() {
    sim::check(0..12, |seed| {
        for faults in [Faults::none(), Faults::hostile(), one_byte_at_a_time()] {
            let talk = converse(seed, faults, "127.0.0.1:6666", Uppercase::default(), prose);
            let expected: Vec<_> = talk.said.iter().map(|said| upper(said)).collect();
            assert!(talk.heard == expected, "uppercase depends on where its input is cut");
        }
    });
}

#[test]
fn one_byte_at_a_time_and_constant_interruptions_change_nothing() {
    let short = |random: &mut Random| {
        let count = random.below(200);
        random.bytes(count)
    };
    sim::check(0..4, |seed| {
        let kind = converse(seed, Faults::none(), "127.0.0.1:7007", Echo, short);
        let cruel = converse(seed, one_byte_at_a_time(), "127.0.0.1:7007", Echo, short);
        assert!(kind.heard == cruel.heard);
    });
}

#[test]
fn who_is_cut_off_has_heard_the_beginning() {
    let mut broken = 0;
    sim::check(0..12, |seed| {
        for address in ["127.0.0.1:7007", "unix:/echo"] {
            let talk = converse(seed, Faults::lossy(), address, Echo, noise);
            for ((said, heard), state) in talk.said.iter().zip(&talk.heard).zip(&talk.states) {
                assert!(said.starts_with(heard), "somebody heard what was not said there");
                if *state == PeerState::Ended {
                    assert!(said == heard, "a connection that ended in order lost something");
                }
                broken += usize::from(*state == PeerState::Reset);
            }
        }
    });
    assert!(broken > 0, "no connection broke: the scenario shows nothing");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = Vec::new();
    sim::check(0..6, |seed| {
        let [one, other] = [(), ()].map(|()| converse(seed, Faults::lossy(), "127.0.0.1:7", Echo, noise));
        assert_eq!(one.trace, other.trace);
        assert!(one.trace.steps() > 100, "next to nothing happened");
        assert!(one.heard == other.heard);
        hashes.push(one.trace.hash());
    });
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count, "different seeds give different traces");
}
