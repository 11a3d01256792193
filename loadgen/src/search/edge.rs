//! Where the edge is between rates that keep the conditions and rates that do not: which rate to try next, and what is
//! known so far. It knows outcomes alone; measuring is somebody else's business.
//!
//! ```text
//!     ──✓──────✓──────────────✓────────✓─✓✓✓┊✗✓✗─✗✗────────────✗✗──► rate
//!     start    doubled…                 │      │
//!                          all repeats passed  most failed
//! ```
//!
//! Rates are doubled while they pass. One failure may be chance: a rate is an upper bound when most of its repeats have
//! failed. Then the middle is tried, with one repeat where it passes, until the bounds are close enough, and at last the
//! lower bound is repeated until all of its repeats have passed, or moves down.
//!
//! A rate that the generator could not offer is tried again. If it never can, that is an upper bound too, of its own kind.

use serde::Serialize;

/// Below this there is hardly anything to measure.
const RATE_MIN: f64 = 1.0;

/// The bound of what a rate may be.
const RATE_MAX: f64 = 1e9;

/// What came of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All conditions were kept.
    Passed,
    /// The server did not keep one of them.
    Failed,
    /// The generator could not offer the rate: this says nothing about the server.
    Limited,
}

/// The outcomes at one rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tally {
    pub rate_per_s: f64,
    pub passed: usize,
    pub failed: usize,
    pub limited: usize,
}

impl Tally {
    /// How often the rate could be offered.
    pub fn repeats(&self) -> usize {
        self.passed + self.failed
    }
}

pub struct Edge {
    start_per_s: f64,
    /// How far apart the bounds may be in the end, as a part of the lower one.
    precision: f64,
    repeats: usize,
    /// In ascending order of their rates.
    tallies: Vec<Tally>,
}

impl Edge {
    /// Begins at a rate. Each rate is tried up to `repeats` times.
    pub fn new(start_per_s: f64, precision: f64, repeats: usize) -> Edge {
        Edge { start_per_s, precision, repeats, tallies: Vec::new() }
    }

    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// The highest rate of which every repeat has passed, however many there were, below the upper bound.
    pub fn all_passed(&self) -> Option<&Tally> {
        self.below_upper().iter().rfind(|tally| tally.failed == 0 && tally.passed > 0)
    }

    /// The lowest rate that most of its repeats have failed, or that could not be offered.
    pub fn upper(&self) -> Option<&Tally> {
        self.tallies.get(self.below_upper().len())
    }

    /// The rate to try next; none if the edge is known.
    pub fn next(&self) -> Option<f64> {
        let Some(upper) = self.upper() else {
            return match self.tallies.last() {
                None => Some(self.start_per_s),
                Some(top) if top.passed > top.failed => {
                    Some(top.rate_per_s * 2.0).filter(|&rate| rate <= RATE_MAX)
                }
                Some(top) => Some(top.rate_per_s),
            };
        };
        let half = |rate: f64| (rate > RATE_MIN).then_some((rate / 2.0).max(RATE_MIN));
        let Some(lower) = self.below_upper().last() else { return half(upper.rate_per_s) };
        let is_undecided = lower.failed > 0 && !self.is_most(lower.passed) && lower.repeats() < self.repeats;
        if is_undecided || lower.repeats() == 0 {
            return Some(lower.rate_per_s);
        }
        if let Some(middle) = self.middle(lower.rate_per_s, upper.rate_per_s) {
            return Some(middle);
        }
        // Most have passed at the lower bound. Now for the highest rate at which all do.
        let Some(floor) = self.all_passed() else {
            let lowest = self.tallies.first()?;
            return if lowest.repeats() == 0 { Some(lowest.rate_per_s) } else { half(lowest.rate_per_s) };
        };
        let above = self.tallies.iter().find(|tally| tally.rate_per_s > floor.rate_per_s)?;
        if above.repeats() == 0 && !self.is_upper(above) {
            return Some(above.rate_per_s);
        }
        let middle = self.middle(floor.rate_per_s, above.rate_per_s);
        middle.or_else(|| (floor.passed < self.repeats).then_some(floor.rate_per_s))
    }

    /// Takes down what came of a measurement at a rate.
    pub fn note(&mut self, rate_per_s: f64, outcome: Outcome) {
        let place = self.tallies.partition_point(|tally| tally.rate_per_s < rate_per_s);
        if self.tallies.get(place).is_none_or(|tally| tally.rate_per_s > rate_per_s) {
            self.tallies.insert(place, Tally { rate_per_s, passed: 0, failed: 0, limited: 0 });
        }
        let tally = &mut self.tallies[place];
        match outcome {
            Outcome::Passed => tally.passed += 1,
            Outcome::Failed => tally.failed += 1,
            Outcome::Limited => tally.limited += 1,
        }
    }

    fn below_upper(&self) -> &[Tally] {
        let upper = self.tallies.iter().position(|tally| self.is_upper(tally));
        &self.tallies[..upper.unwrap_or(self.tallies.len())]
    }

    fn is_upper(&self, tally: &Tally) -> bool {
        self.is_most(tally.failed) || (tally.limited >= self.repeats && tally.limited > tally.passed)
    }

    /// Between two rates, if they are too far apart.
    fn middle(&self, low: f64, high: f64) -> Option<f64> {
        (high > low * (1.0 + self.precision)).then(|| (low * high).sqrt())
    }

    fn is_most(&self, count: usize) -> bool {
        count * 2 > self.repeats
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Searches until the edge is known; returns how many measurements that took.
    fn search(edge: &mut Edge, mut outcome: impl FnMut(f64) -> Outcome) -> usize {
        let mut count = 0;
        while let Some(rate) = edge.next() {
            edge.note(rate, outcome(rate));
            count += 1;
            assert!(count < 1000, "no end: {:?}", edge.tallies);
        }
        count
    }

    fn passes_up_to(limit: f64) -> impl Fn(f64) -> Outcome {
        move |rate| if rate <= limit { Outcome::Passed } else { Outcome::Failed }
    }

    #[test]
    fn a_sharp_edge_is_found_from_either_side() {
        for limit in [1.3, 7.0, 999.0, 1000.0, 48_000.0, 3e6] {
            let mut edge = Edge::new(1000.0, 0.02, 3);
            let count = search(&mut edge, passes_up_to(limit));
            let (lower, upper) = (edge.all_passed().unwrap(), edge.upper().unwrap());
            assert!(lower.rate_per_s <= limit && limit < upper.rate_per_s, "{limit}: {lower:?} {upper:?}");
            assert!(upper.rate_per_s <= lower.rate_per_s * 1.02, "{limit}: {lower:?} {upper:?}");
            assert_eq!((lower.passed, lower.failed, upper.passed, upper.failed), (3, 0, 0, 2));
            assert!(count < 45, "{limit}: {count}");
        }
    }

    #[test]
    fn chance_widens_the_interval_and_no_more() {
        // From 40 k on a repeat passes ever more rarely; at 50 k none does.
        let mut close = 0;
        for seed in 0..100 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut edge = Edge::new(1000.0, 0.02, 3);
            search(&mut edge, |rate| {
                let chance = ((50_000.0 - rate) / 10_000.0).clamp(0.0, 1.0);
                if random.random_bool(chance) { Outcome::Passed } else { Outcome::Failed }
            });
            let (lower, upper) = (edge.all_passed().unwrap(), edge.upper().unwrap());
            assert_eq!((lower.passed, lower.failed), (3, 0), "seed {seed}");
            assert!(upper.failed >= 2 && lower.rate_per_s < upper.rate_per_s, "seed {seed}");
            assert!((40_000.0..=52_000.0).contains(&upper.rate_per_s), "seed {seed}: {upper:?}");
            close += usize::from((37_000.0..50_000.0).contains(&lower.rate_per_s));
        }
        assert!(close > 90, "{close}");
    }

    #[test]
    fn one_hiccup_on_the_way_up_is_no_edge() {
        let mut edge = Edge::new(1000.0, 0.02, 3);
        let mut count = 0;
        search(&mut edge, |rate| {
            count += 1;
            if count == 3 { Outcome::Failed } else { passes_up_to(48_000.0)(rate) }
        });
        assert!(edge.all_passed().unwrap().rate_per_s > 47_000.0, "{:?}", edge.tallies);
    }

    #[test]
    fn what_passes_never_or_always_has_an_end() {
        let mut edge = Edge::new(1000.0, 0.02, 3);
        search(&mut edge, |_| Outcome::Failed);
        assert!(edge.all_passed().is_none());
        assert!(edge.upper().unwrap().rate_per_s < 2.0);
        let mut edge = Edge::new(1000.0, 0.02, 1);
        search(&mut edge, |_| Outcome::Passed);
        assert!(edge.upper().is_none());
        assert!(edge.all_passed().unwrap().rate_per_s > 5e8);
    }

    #[test]
    fn what_the_generator_cannot_offer_is_told_apart() {
        let mut edge = Edge::new(1000.0, 0.05, 3);
        search(&mut edge, |rate| if rate < 90_000.0 { Outcome::Passed } else { Outcome::Limited });
        let upper = edge.upper().unwrap();
        assert_eq!((upper.failed, upper.limited), (0, 3));
        assert!(edge.all_passed().unwrap().rate_per_s > 85_000.0);
    }

    #[test]
    fn a_generator_that_is_disturbed_now_and_then_tries_again() {
        let mut found = 0;
        for seed in 0..100 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut edge = Edge::new(1000.0, 0.02, 3);
            search(&mut edge, |rate| {
                if random.random_bool(0.2) { Outcome::Limited } else { passes_up_to(48_000.0)(rate) }
            });
            let (lower, upper) = (edge.all_passed().unwrap(), edge.upper().unwrap());
            assert_eq!((lower.passed, lower.failed), (3, 0), "seed {seed}");
            found += usize::from(lower.rate_per_s > 47_000.0 && upper.failed == 2);
        }
        assert!(found > 80, "{found}");
    }
}
