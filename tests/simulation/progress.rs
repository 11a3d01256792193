//! Who takes its output, however slowly, is kept; who takes none of it is closed, wherever the output waits.

use std::time::Duration;

use tidewheel::sim::{Faults, Sim};
use tidewheel::{CloseReason, Limits, Options};

use super::{assert_nothing_leaks, listen_echo, simulate};

const MS: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The system takes a megabyte for each connection, and reports room only when a third of that is free.
fn with_large_buffers(limits: Limits, receive_buffer_bytes: usize) -> Sim {
    let mut sim = simulate(0, Faults::none(), limits);
    sim.faults().send_buffer_bytes = 1 << 20;
    sim.faults().receive_buffer_bytes = receive_buffer_bytes;
    sim
}

fn closed_for_progress(sim: &mut Sim) -> u64 {
    sim.reactor().metrics().closed_for(CloseReason::ProgressTimeout)
}

#[test]
fn a_slow_but_steady_reader_behind_large_buffers_is_kept() {
    for receive_buffer_bytes in [16 << 10, 64 << 10, 128 << 10] {
        for (address, idle_timeout) in
            [("127.0.0.1:7", None), ("unix:/echo", None), ("127.0.0.1:7", Some(Duration::from_secs(5)))]
        {
            let mut sim = with_large_buffers(Limits::default(), receive_buffer_bytes);
            let options = Options::new("echo").messages(false).idle_timeout(idle_timeout);
            let echo = sim.listen_with(address, tidewheel::services::echo::Echo, options);
            let peer = sim.connect(echo);
            let long: Vec<u8> = (0..1_300_000_u32).map(|index| index as u8).collect();
            sim.send(peer, &long);
            sim.read_slowly(peer, 4 << 10, 500 * MS);
            sim.run_for(Duration::from_secs(120));
            assert_eq!(sim.reactor().connections(), 1, "{:?}", sim.metrics());
            sim.finish(peer);
            sim.run();
            assert!(sim.received(peer) == long, "{address}: {} bytes", sim.received(peer).len());
        }
    }
}

#[test]
fn whoever_takes_nothing_is_closed_whether_its_output_waits_here_or_in_the_system() {
    for (address, bytes) in [("127.0.0.1:7", 10), ("127.0.0.1:7", 1_500_000), ("unix:/echo", 1_500_000)] {
        let mut sim = with_large_buffers(Limits::default(), 64 << 10);
        let echo = sim.listen(address, tidewheel::services::echo::Echo);
        let (stopped, gone, idle) = (sim.connect(echo), sim.connect(echo), sim.connect(echo));
        sim.settle();
        sim.send(stopped, &vec![b'x'; bytes]);
        sim.stop_reading(stopped);
        sim.send(gone, b"hello?");
        // The request has arrived when its sender vanishes; the reply never does.
        sim.sleep(1 * MS);
        if address.starts_with("unix") {
            sim.reset(gone);
        } else {
            sim.cut_off(gone);
        }
        let begun = sim.now();
        sim.run_for(TIMEOUT - 100 * MS);
        assert_eq!(closed_for_progress(&mut sim), 0);
        sim.run_for(TIMEOUT / 4 + 200 * MS);
        // What fits the peer's own buffer has been taken: its system has acknowledged it.
        let expected = u64::from(bytes > 1000) + u64::from(!address.starts_with("unix"));
        assert_eq!(closed_for_progress(&mut sim), expected, "{address}, {bytes} bytes");
        assert!(sim.now() - begun <= TIMEOUT * 5 / 4 + 200 * MS);
        assert!(sim.received(idle).is_empty());
    }
}

#[test]
fn nothing_wakes_a_reactor_whose_output_has_arrived() {
    let mut sim = simulate(0, Faults::none(), Limits::default());
    let echo = listen_echo(&mut sim);
    let peers = [0; 50].map(|_| sim.connect(echo));
    for &peer in &peers {
        sim.send(peer, b"hello");
    }
    sim.run_for(TIMEOUT);
    let before = sim.reactor().metrics().turns;
    sim.run_for(100 * TIMEOUT);
    // The runs themselves turn once or twice.
    assert!(sim.reactor().metrics().turns - before <= 3);
    for &peer in &peers {
        sim.finish(peer);
    }
    sim.run();
    assert_nothing_leaks(&mut sim, 1);
}
