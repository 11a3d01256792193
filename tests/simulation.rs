//! The engine on the simulated system: what must hold whatever the network and the system do.

use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::sim::{self, Faults, PeerState, Random, Sim};

/// The slots, descriptors and counters are where they were before anybody connected.
#[track_caller]
fn assert_nothing_leaks(sim: &mut Sim, descriptors_before: usize) {
    assert_eq!(sim.reactor().connections(), 0, "connections are left");
    assert_eq!(sim.descriptors(), descriptors_before, "descriptors are left");
    let metrics = sim.reactor().metrics();
    let begun = metrics.connections_accepted + metrics.connections_refused + metrics.connections_begun;
    assert_eq!(begun, metrics.closed.iter().sum(), "each connection is closed once, for one reason");
    assert_eq!(metrics.connections_open, 0);
}

fn echo_scenario(seed: u64, faults: Faults, peers: usize, address: &str) -> (Vec<(Vec<u8>, PeerState)>, sim::Trace) {
    let lossless = faults.reset == 0.0 && faults.accept_aborted == 0.0;
    let mut sim = Sim::new(seed, faults);
    let echo = sim.listen(address, Echo);
    let descriptors = sim.descriptors();
    let mut random = Random::new(!seed);
    let mut said = Vec::new();
    for number in 0..peers {
        let peer = sim.connect(echo);
        let count = random.below(if number % 10 == 0 { 20_000 } else { 300 });
        let bytes = random.bytes(count);
        // In parts, with pauses.
        let cut = random.below(count + 1);
        sim.send(peer, &bytes[..cut]);
        if random.chance(0.1) {
            sim.read_slowly(peer, 100, Duration::from_millis(3));
        }
        if random.chance(0.1) {
            sim.run_for(Duration::from_millis(5));
        }
        sim.send(peer, &bytes[cut..]);
        sim.finish(peer);
        said.push((peer, bytes));
    }
    assert!(sim.run(), "nothing is left to do");
    for (peer, bytes) in &said {
        let received = sim.received(*peer);
        if lossless {
            assert!(received == bytes, "{peer:?} sent {} bytes, received {}", bytes.len(), received.len());
            assert_eq!(sim.state(*peer), PeerState::Ended);
        } else {
            assert!(bytes.starts_with(received), "{peer:?} received what it did not send");
        }
    }
    assert_nothing_leaks(&mut sim, descriptors);
    let heard = said.iter().map(|(peer, _)| (sim.received(*peer).to_vec(), sim.state(*peer))).collect();
    (heard, sim.trace().clone())
}

#[test]
fn echo_loses_no_byte_whatever_the_system_does() {
    sim::check(0..40, |seed| {
        echo_scenario(seed, Faults::none(), 50, "127.0.0.1:7007");
        echo_scenario(seed, Faults::hostile(), 50, "127.0.0.1:7007");
        echo_scenario(seed, Faults::hostile(), 50, "unix:/echo");
        echo_scenario(seed, Faults::lossy(), 50, "127.0.0.1:7007");
    });
}
