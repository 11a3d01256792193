//! Running a scenario over many seeds, and again over the one that failed.

use std::env;

/// The variable that names the one seed to run.
const SEED: &str = "TIDEWHEEL_SEED";

/// The variable that says how many seeds to run.
const SEEDS: &str = "TIDEWHEEL_SEEDS";

/// Runs a scenario once for each seed. When it panics, the seed is printed to standard error, with how to replay it.
///
/// With the environment variable `TIDEWHEEL_SEED=N`, every call runs only seed `N`, so name the test too:
/// `TIDEWHEEL_SEED=5 cargo test NAME`. With `TIDEWHEEL_SEEDS=N`, it runs `N` seeds from the first of `seeds` on.
///
/// ```
/// use tidewheel::sim::{self, Faults, Sim};
/// sim::check(0..10, |seed| {
///     let mut sim = Sim::new(seed, Faults::hostile());
///     sim.run();
/// });
/// ```
///
/// # Panics
/// When the scenario does, and when one of the variables is not a number.
pub fn check(seeds: impl IntoIterator<Item = u64>, mut scenario: impl FnMut(u64)) {
    let mut run = |seed| {
        let _announcement = Announcement { seed };
        scenario(seed);
    };
    let mut seeds = seeds.into_iter();
    match (number(SEED), number(SEEDS)) {
        (Some(seed), _) => run(seed),
        (None, Some(count)) => {
            let first = seeds.next().unwrap_or(0);
            (first..first.saturating_add(count)).for_each(run);
        }
        (None, None) => seeds.for_each(run),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} must be a number, not {text:?}"),
    }
}

/// Says which seed it was if the scenario panics.
struct Announcement {
    seed: u64,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0}; replay with {SEED}={0}", self.seed);
        }
    }
}
