//! When requests are due, decided before any reply is there.
//!
//! A plan is never thinned and never made anew from completions: whoever falls behind catches up, and the wait counts as
//! response time (the omission of such waits is what Gil Tene calls coordinated omission).

use std::str::FromStr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::load::Amount;

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

/// The planned times of a run, or of one thread's share of it, in nanoseconds from its beginning.
pub struct Plan {
    arrivals: Arrivals,
    /// Between two requests of this share.
    gap_ns: f64,
    /// Evenly spaced requests of several threads lie between each other: where this share's lie, in its own gaps.
    phase: f64,
    /// The part of a gap of this share that is a gap of all of them together.
    share: f64,
    taken: u64,
    /// The time of the last request that was taken, and of the next one, in units of requests.
    last_work: f64,
    next_work: f64,
    next_ns: f64,
    random: SmallRng,
}

impl Plan {
    /// The share of one of so many threads in `rate_per_s` requests a second. The shares of evenly spaced requests make an evenly
    /// spaced plan together.
    pub fn new(rate_per_s: f64, arrivals: Arrivals, seed: u64, (index, threads): (usize, usize)) -> Plan {
        let threads = threads as f64;
        let mut plan = Plan {
            arrivals,
            gap_ns: 1e9 * threads / rate_per_s,
            phase: index as f64 / threads,
            share: 1.0 / threads,
            taken: 0,
            last_work: 0.0,
            next_work: 0.0,
            next_ns: 0.0,
            random: SmallRng::seed_from_u64(seed),
        };
        plan.next_work = match arrivals {
            Arrivals::Constant => plan.phase,
            Arrivals::Poisson => plan.exponential(),
        };
        plan.next_ns = plan.time_ns(plan.next_work);
        plan
    }

    /// When the next request is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// One gap of the whole plan after the last request that was taken: up to there it is what was planned.
    pub fn end_ns(&self) -> u64 {
        self.time_ns(self.last_work + self.share) as u64
    }

    /// Takes the next request from the plan.
    pub fn advance(&mut self) {
        self.taken += 1;
        self.last_work = self.next_work;
        self.next_work = match self.arrivals {
            Arrivals::Constant => self.taken as f64 + self.phase,
            Arrivals::Poisson => self.next_work + self.exponential(),
        };
        self.next_ns = self.time_ns(self.next_work);
    }

    /// Takes the requests that are due before a time, so many at most; returns how many.
    pub fn skip(&mut self, before_ns: u64, most: u64) -> u64 {
        let from = self.taken;
        if self.arrivals == Arrivals::Constant && most > 0 {
            // All but the last few at once: rounding may be off by one.
            let due = (self.work(before_ns as f64) - self.phase).max(0.0) as u64;
            let skipped = due.saturating_sub(from + 2).min(most - 1);
            if skipped > 0 {
                self.taken += skipped - 1;
                self.next_work = self.taken as f64 + self.phase;
                self.advance();
            }
        }
        while self.next_ns() < before_ns && self.taken - from < most {
            self.advance();
        }
        self.taken - from
    }

    /// The gap before the next of requests that come independently, in units of requests.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.random.random::<f64>()).ln()
    }

    /// The plan is made in units of requests and stretched to time.
    fn time_ns(&self, work: f64) -> f64 {
        work * self.gap_ns
    }

    /// A time in units of requests.
    fn work(&self, time_ns: f64) -> f64 {
        time_ns / self.gap_ns
    }
}

/// What an open loop has still to send, by its clock, and what its window was.
pub struct Agenda<'a> {
    plan: &'a mut Plan,
    /// When the plan begins.
    base_ns: u64,
    /// When the warm-up ends, and after when nothing is sent.
    from_ns: u64,
    end_ns: u64,
    /// Requests of the window that are left.
    left: u64,
    window: Option<Window>,
}

/// The window of an open loop: from the first request that was planned in it to one gap after the last, in nanoseconds
/// from the beginning of the plan. So its requests, divided by its length, are the planned rate, however few they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub begin_ns: u64,
    pub end_ns: u64,
}

impl Window {
    /// One that begins at once.
    pub fn of(length: Duration) -> Window {
        Window { begin_ns: 0, end_ns: length.as_nanos() as u64 }
    }

    /// From the beginning of the one or the other to the end of the one or the other.
    pub fn around(self, other: Window) -> Window {
        Window { begin_ns: self.begin_ns.min(other.begin_ns), end_ns: self.end_ns.max(other.end_ns) }
    }

    pub fn length(self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(self.begin_ns))
    }
}

impl Agenda<'_> {
    /// A plan that begins at `base_ns`.
    pub fn new(plan: &mut Plan, base_ns: u64, warmup: Duration, amount: Amount) -> Agenda<'_> {
        let from_ns = base_ns.saturating_add(warmup.as_nanos() as u64);
        let (end_ns, left) = match amount {
            Amount::Time(time) => (from_ns.saturating_add(time.as_nanos() as u64), u64::MAX),
            Amount::Requests(requests) => (u64::MAX, requests),
        };
        Agenda { plan, base_ns, from_ns, end_ns, left, window: None }
    }

    /// When the warm-up ends.
    pub fn begin_ns(&self) -> u64 {
        self.from_ns
    }

    /// After when nothing is sent; never where requests are counted.
    pub fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// Nothing that is due from now on is sent.
    pub fn end_at(&mut self, now_ns: u64) {
        self.end_ns = self.end_ns.min(now_ns);
    }

    /// When the next request is due; never if there is none.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        let next_ns = self.base_ns + self.plan.next_ns();
        if next_ns < self.end_ns && self.left > 0 { next_ns } else { u64::MAX }
    }

    /// There is nothing left to send.
    pub fn is_over(&self) -> bool {
        self.next_ns() == u64::MAX
    }

    /// Takes the next request: when it was due, and whether it counts.
    #[inline]
    pub fn take(&mut self) -> (u64, bool) {
        let planned_ns = self.base_ns + self.plan.next_ns();
        self.plan.advance();
        let counts = planned_ns >= self.from_ns;
        if counts {
            self.left -= 1;
            self.note(planned_ns);
        }
        (planned_ns, counts)
    }

    /// Takes all requests that were due before a time, and returns how many of them count: those that can only be given
    /// up.
    pub fn skip(&mut self, before_ns: u64) -> u64 {
        let before_ns = before_ns.min(self.end_ns);
        if self.base_ns + self.plan.next_ns() >= before_ns || self.left == 0 {
            return 0;
        }
        self.plan.skip(before_ns.min(self.from_ns).saturating_sub(self.base_ns), u64::MAX);
        let first_ns = self.base_ns + self.plan.next_ns();
        let skipped = self.plan.skip(before_ns.saturating_sub(self.base_ns), self.left);
        if skipped > 0 {
            self.left -= skipped;
            self.note(first_ns);
        }
        skipped
    }

    /// What its window was; none if no request of it was due.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    fn note(&mut self, planned_ns: u64) {
        let end_ns = self.plan.end_ns();
        let begin_ns = self.window.map_or(planned_ns - self.base_ns, |window| window.begin_ns);
        self.window = Some(Window { begin_ns, end_ns });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: (usize, usize) = (0, 1);

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
        let times = times(Plan::new(3.0, Arrivals::Constant, 1, ALL), 3_000_001);
        assert_eq!(times[..4], [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(times[3_000_000], 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_ones() {
        for seed in 0..5 {
            let times = times(Plan::new(1000.0, Arrivals::Poisson, seed, ALL), 100_001);
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
        let plan = |seed| times(Plan::new(10.0, Arrivals::Poisson, seed, ALL), 100);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn both_spacings_offer_the_rate() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let times = times(Plan::new(10_000.0, arrivals, 3, ALL), 30_000);
            for second in 0..2 {
                let offered = times.iter().filter(|&&at| at / 1_000_000_000 == second).count() as f64;
                assert!((offered - 10_000.0).abs() < 5.0 * 100.0, "{arrivals:?}, second {second}: {offered}");
            }
        }
    }

    #[test]
    fn threads_share_one_evenly_spaced_plan() {
        let whole = times(Plan::new(100.0, Arrivals::Constant, 1, ALL), 301);
        let share = |index| times(Plan::new(100.0, Arrivals::Constant, 1, (index, 3)), 101);
        let mut shares: Vec<u64> = (0..3).flat_map(share).collect();
        shares.sort_unstable();
        let apart = whole.iter().zip(&shares).map(|(one, other)| one.abs_diff(*other));
        assert!(apart.max() <= Some(1), "{whole:?} {shares:?}");
    }

    /// The length of the window, and how many requests it has.
    fn window(amount: Amount, warmup: Duration, rate: f64, arrivals: Arrivals) -> (Duration, u64) {
        let mut plan = Plan::new(rate, arrivals, 5, ALL);
        let mut agenda = Agenda::new(&mut plan, 7, warmup, amount);
        let mut count = 0;
        while !agenda.is_over() {
            count += u64::from(agenda.take().1);
        }
        (agenda.window().map_or(Duration::ZERO, Window::length), count)
    }

    #[test]
    fn the_requests_of_a_window_make_the_planned_rate_however_few_they_are() {
        let ms = Duration::from_millis;
        for warmup in [ms(0), ms(3), ms(250)] {
            for amount in [1, 2, 3, 1000].map(Amount::Requests).into_iter().chain([Amount::Time(ms(1234))]) {
                for rate in [0.7, 3.0, 100.0] {
                    let (length, count) = window(amount, warmup, rate, Arrivals::Constant);
                    if count > 0 {
                        let planned = count as f64 / length.as_secs_f64();
                        assert!((planned / rate - 1.0).abs() < 1e-6, "{count} in {length:?}, not {rate}");
                    }
                }
                let (length, count) = window(amount, warmup, 100.0, Arrivals::Poisson);
                assert!(length >= ms(10) && count > 0, "{count} in {length:?}");
            }
        }
        assert_eq!(window(Amount::Time(ms(5)), ms(1), 10.0, Arrivals::Constant), (Duration::ZERO, 0));
    }

    #[test]
    fn what_is_skipped_is_what_would_have_been_taken() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            for (index, before_ns) in
                [0, 1, 9_999_999, 10_000_000, 123_456_789, 2_000_000_000].into_iter().enumerate()
            {
                let plan = || Plan::new(100.0, arrivals, 9, (index % 3, 3));
                let (mut skipped, mut taken) = (plan(), plan());
                let count = skipped.skip(before_ns, u64::MAX);
                let mut by_one = 0;
                while taken.next_ns() < before_ns {
                    taken.advance();
                    by_one += 1;
                }
                assert_eq!((count, skipped.next_ns()), (by_one, taken.next_ns()), "{arrivals:?} {before_ns}");
                if count > 0 {
                    assert_eq!(skipped.end_ns(), taken.end_ns());
                }
            }
            // As many as there may be, even where those are years of a gigahertz.
            let mut plan = Plan::new(1e9, Arrivals::Constant, 1, ALL);
            assert_eq!(plan.skip(1 << 50, u64::MAX), 1 << 50);
            assert_eq!(plan.skip(u64::MAX, 5), 5);
        }
    }
}
