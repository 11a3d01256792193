//! Finds a fault in a service by simulation, and replays it by its seed.
//!
//! The service answers each line of numbers with their sum. The careless variant treats the bytes of each read as a line,
//! which works on an idle loopback and fails on a real network.
//!
//!     cargo run --example simulation                                 # passes with each of 200 seeds
//!     cargo run --example simulation careless                        # fails, and prints the seed
//!     TIDEWHEEL_SEED=0 cargo run --example simulation careless       # that seed again, the same in every step

use tidewheel::sim::{self, Faults, Sim};
use tidewheel::{ConnId, Context, Service};

struct Sums {
    careless: bool,
}

impl Service for Sums {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut consumed = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let is_whole = line.ends_with(b"\n") || self.careless;
            if !is_whole || cx.room(conn) == 0 {
                break;
            }
            let numbers = String::from_utf8_lossy(line);
            let sum: u64 = numbers.split_whitespace().filter_map(|number| number.parse::<u64>().ok()).sum();
            cx.send(conn, format!("{sum}\n").as_bytes());
            consumed += line.len();
        }
        consumed
    }
}

fn main() {
    let careless = std::env::args().nth(1).as_deref() == Some("careless");
    sim::check(0..200, |seed| {
        let mut sim = Sim::new(seed, Faults::hostile());
        let sums = sim.listen("127.0.0.1:7", Sums { careless });
        let peers: Vec<_> = (0..3).map(|_| sim.connect(sums)).collect();
        for &peer in &peers {
            sim.send(peer, b"1 2 3\n10 20 30\n");
            sim.send(peer, b"400 500\n");
            sim.finish(peer);
        }
        assert!(sim.run(), "it comes to an end");
        for &peer in &peers {
            assert_eq!(String::from_utf8_lossy(sim.received(peer)), "6\n60\n900\n");
        }
    });
    println!("all seeds passed");
}
