//! When requests are due, decided before any reply is there.
//!
//! A plan is never thinned and never made anew from completions: whoever falls behind catches up, and the wait counts as
//! response time (the omission of such waits is what Gil Tene calls coordinated omission).

use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How requests are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly.
    #[default]
    Constant,
    /// As independent users would send them: gaps are exponentially distributed.
    Poisson,
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrivals, String> {
        match text {
            "constant" => Ok(Arrivals::Constant),
            "poisson" => Ok(Arrivals::Poisson),
            other => Err(format!("{other:?} is no kind of arrivals; there are constant and poisson")),
        }
    }
}

/// The planned times of a run, in nanoseconds from its beginning.
pub struct Plan {
    arrivals: Arrivals,
    gap_ns: f64,
    /// The rate rises evenly from 0 for so long.
    ramp_ns: f64,
    taken: u64,
    next_ns: f64,
    random: SmallRng,
}

impl Plan {
    /// `rate_per_s` requests a second, reached after a ramp.
    pub fn new(rate_per_s: f64, arrivals: Arrivals, ramp_ns: u64, seed: u64) -> Plan {
        let mut plan = Plan {
            arrivals,
            gap_ns: 1e9 / rate_per_s,
            ramp_ns: ramp_ns as f64,
            taken: 0,
            next_ns: 0.0,
            random: SmallRng::seed_from_u64(seed),
        };
        if arrivals == Arrivals::Poisson {
            plan.advance();
        }
        plan
    }

    /// When the next request is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next request from the plan.
    pub fn advance(&mut self) {
        self.taken += 1;
        // The plan is made in units of requests and stretched to time: in the ramp, where the rate is proportional to
        // the time, the n-th request is due after the root of n.
        let work = match self.arrivals {
            Arrivals::Constant => self.taken as f64,
            Arrivals::Poisson => self.work() - (1.0 - self.random.random::<f64>()).ln(),
        };
        let ramp_work = self.ramp_ns / self.gap_ns / 2.0;
        self.next_ns = if work < ramp_work {
            (2.0 * work * self.gap_ns * self.ramp_ns).sqrt()
        } else {
            self.ramp_ns + (work - ramp_work) * self.gap_ns
        };
    }

    /// The time of the next request in units of requests.
    fn work(&self) -> f64 {
        if self.next_ns < self.ramp_ns {
            self.next_ns * self.next_ns / (2.0 * self.gap_ns * self.ramp_ns)
        } else {
            (self.next_ns - self.ramp_ns / 2.0) / self.gap_ns
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut plan: Plan, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let at = plan.next_ns();
                plan.advance();
                at
            })
            .collect()
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        let times = times(Plan::new(3.0, Arrivals::Constant, 0, 1), 3_000_001);
        assert_eq!(times[..4], [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(times[3_000_000], 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_ones() {
        for seed in 0..5 {
            let times = times(Plan::new(1000.0, Arrivals::Poisson, 0, seed), 100_001);
            let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            // Both are 1 ms, within five standard errors.
            assert!((mean / 1e6 - 1.0).abs() < 0.016, "seed {seed}: mean {mean}");
            assert!((variance.sqrt() / 1e6 - 1.0).abs() < 0.03, "seed {seed}: deviation {}", variance.sqrt());
        }
    }

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let plan = |seed| times(Plan::new(10.0, Arrivals::Poisson, 0, seed), 100);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn a_ramp_offers_half_and_then_the_whole() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let times = times(Plan::new(10_000.0, arrivals, 1_000_000_000, 3), 30_000);
            let within = |from: u64, to: u64| {
                times.iter().filter(|&&at| (from..to).contains(&(at / 1_000_000))).count() as f64
            };
            for (from, to, expected) in [(0, 500, 1250.0), (500, 1000, 3750.0), (1000, 2000, 10_000.0)] {
                let got = within(from, to);
                assert!(
                    (got - expected).abs() < 5.0 * expected.sqrt(),
                    "{from}..{to} ms: {got}, not {expected}"
                );
            }
        }
    }
}
