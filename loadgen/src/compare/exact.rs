//! The exact tier: what is counted and not timed, of both servers in lock step. System calls by strace, instructions and
//! allocations by callgrind.
//!
//! Counts do not depend on what else the machine does, so they find what no clock could. Each is taken several times, base
//! and head in turn, because a server may differ from itself: by what it draws at random, by where its memory lies, by
//! what it does now and then. How much it does is how well the two can be told apart.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error, Result, ensure};

use super::callgrind::{self, Lives, Profile};
use super::case::{Case, Side};
use super::culprit;
use super::{Changed, Culprit, Finding, Metric, Outcome};
use crate::placement::Placement;
use crate::run::Watch;
use crate::syscalls::{self, SystemCalls};
use crate::trial::{lock_step, verified};

/// Counts of each side: as few as tell, because some servers are the same each time, and no more.
const REPEATS: RangeInclusive<usize> = 2..=6;

/// Of Student's t distribution, by how many counts of each side there are (0, 1, ...): how many standard errors a difference
/// is off by chance once in a thousand times, to either side. One count says nothing.
const STUDENT: [f64; 7] = [f64::INFINITY, f64::INFINITY, 31.60, 8.610, 5.959, 5.041, 4.587];

/// Before system calls are counted: what a server does once is done.
const WARMUP_REQUESTS: u64 = 200;

/// Instructions, as a share of the base's: no less fails, and so much is to be found always.
const INSTRUCTIONS_MIN: f64 = 0.002;
const INSTRUCTIONS_SOUGHT: f64 = 0.003;

/// The same of system calls and allocations, per request.
const CALLS_MIN: f64 = culprit::CALLS_MIN;
const CALLS_SOUGHT: f64 = 0.01;

/// What was counted.
#[derive(Default)]
pub struct Exact {
    pub findings: Vec<Finding>,
    /// What could not be counted, and why.
    pub notes: Vec<String>,
    /// Of base and head.
    pub profiles: Option<(Profile, Profile)>,
    /// Of base and head.
    pub system_calls: Option<(SystemCalls, SystemCalls)>,
}

impl Exact {
    /// What differs most.
    pub fn culprit(&self) -> Result<Culprit> {
        let profiles = self.profiles.as_ref().map(|(base, head)| (base, head));
        culprit::culprit(profiles, self.system_calls.as_ref().map(|(base, head)| (base, head)))
    }
}

/// Counts those of the exact metrics that are wanted. What cannot be counted here is noted; a server that answers wrong,
/// and a signal that ends it, are errors.
pub fn exact(case: &Case, wanted: &[Metric], placement: &Placement, stop: &AtomicBool) -> Result<Exact> {
    let mut exact = Exact::default();
    if wanted.contains(&Metric::Syscalls) {
        match syscalls::check() {
            Ok(()) => exact.count_system_calls(case, placement, stop)?,
            Err(words) => {
                let why = words.trim_start_matches("--syscalls").trim_start_matches([':', ' ']);
                exact.notes.push(format!("system calls are not counted: {why}"));
            }
        }
    }
    let of_callgrind = [Metric::Instructions, Metric::Allocations];
    let of_callgrind: Vec<_> = of_callgrind.into_iter().filter(|metric| wanted.contains(metric)).collect();
    if !of_callgrind.is_empty() {
        match callgrind::check() {
            Ok(()) => exact.count_instructions(case, &of_callgrind, placement, stop)?,
            Err(words) => exact.notes.push(format!("instructions and allocations are not counted: {words}")),
        }
    }
    Ok(exact)
}

impl Exact {
    fn count_system_calls(&mut self, case: &Case, placement: &Placement, stop: &AtomicBool) -> Result<()> {
        let count = |side| system_calls(case, side, placement, stop);
        let judge = |counts: &Sides<SystemCalls>| {
            let totals = counts.figures(|calls| Some(calls.total));
            totals.map(|totals| judge(Metric::Syscalls, &totals)).into_iter().collect()
        };
        let (counts, mut findings) = match repeat(&count, &judge)? {
            Ok(counted) => counted,
            Err(error) => return self.note("system calls", &error, stop),
        };
        self.system_calls = SystemCalls::mean(&counts.base).zip(SystemCalls::mean(&counts.head));
        let changed = self.system_calls.as_ref().map(|(base, head)| culprit::changed_calls(base, head));
        let changed = changed.and_then(|changed| in_words(&changed));
        for finding in &mut findings {
            let why = [finding.why.take(), changed.clone()].into_iter().flatten();
            finding.why = why.reduce(|one, other| format!("{one}; {other}"));
        }
        self.findings.append(&mut findings);
        Ok(())
    }

    fn count_instructions(
        &mut self,
        case: &Case,
        wanted: &[Metric],
        placement: &Placement,
        stop: &AtomicBool,
    ) -> Result<()> {
        let lives = Lives::new(case, placement, stop);
        // Some programs do not run under valgrind.
        let count = |side| Ok(lives.profile(side));
        let judge = |counts: &Sides<Profile>| {
            let figures = |metric| counts.figures(|profile| figure(profile, metric));
            let judged = wanted.iter().filter_map(|&metric| Some(judge(metric, &figures(metric)?)));
            judged.collect()
        };
        let (counts, mut findings) = match repeat(&count, &judge)? {
            Ok(counted) => counted,
            Err(error) => return self.note("instructions and allocations", &error, stop),
        };
        if findings.len() < wanted.len() {
            let is_nameless = |profile: &Profile| profile.allocations.is_none();
            let side = if counts.base.iter().any(is_nameless) { Side::Base } else { Side::Head };
            self.notes.push(format!(
                "allocations are not counted: {} has neither malloc nor main by name (it seems to be static, without \
                 symbols)",
                named(side)
            ));
        }
        self.findings.append(&mut findings);
        self.profiles = Profile::mean(&counts.base).zip(Profile::mean(&counts.head));
        Ok(())
    }

    /// What cannot be counted, unless that is because nothing is to be counted any more.
    fn note(&mut self, what: &str, error: &Error, stop: &AtomicBool) -> Result<()> {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        self.notes.push(format!("{what} are not counted: {error:#}"));
        Ok(())
    }
}

fn figure(profile: &Profile, metric: Metric) -> Option<f64> {
    if metric == Metric::Allocations { profile.allocations } else { Some(profile.instructions) }
}

/// Counted in a life of its own of the server. That it answers wrong is the outer error, that they cannot be counted the
/// inner one.
fn system_calls(
    case: &Case,
    side: Side,
    placement: &Placement,
    stop: &AtomicBool,
) -> Result<Result<SystemCalls>> {
    placement.pin_server()?;
    let started = case.start(side, "", stop);
    placement.pin_loadgen()?;
    let (mut server, run) = started.with_context(|| named(side))?;
    let run = lock_step(&run, WARMUP_REQUESTS);
    let watch = Watch { counts_system_calls: true, ..Watch::nobody() };
    let (_, measured) = verified(&run, &mut server, watch, stop).with_context(|| named(side))?;
    measured.system_calls.context("they were not counted")
}

/// Counts of both sides.
struct Sides<T> {
    base: Vec<T>,
    head: Vec<T>,
}

impl<T> Sides<T> {
    /// One figure of each count, if all of them have it.
    fn figures(&self, figure: impl Fn(&T) -> Option<f64>) -> Option<Sides<f64>> {
        let figures = |counts: &[T]| counts.iter().map(&figure).collect::<Option<Vec<_>>>();
        Some(Sides { base: figures(&self.base)?, head: figures(&self.head)? })
    }
}

/// Counts both sides in turn until it is clear what is to be said of them. The inner error is that they cannot be counted.
fn repeat<T>(
    count: &dyn Fn(Side) -> Result<Result<T>>,
    judge: &dyn Fn(&Sides<T>) -> Vec<Finding>,
) -> Result<Result<(Sides<T>, Vec<Finding>)>> {
    let mut counts = Sides { base: Vec::new(), head: Vec::new() };
    loop {
        for (side, counts) in [(Side::Base, &mut counts.base), (Side::Head, &mut counts.head)] {
            match count(side)? {
                Ok(counted) => counts.push(counted),
                Err(error) => return Ok(Err(error.context(named(side)))),
            }
        }
        let findings = judge(&counts);
        let are_clear = findings.iter().all(|finding| finding.outcome != Outcome::Inconclusive);
        let repeats = counts.base.len();
        if repeats >= *REPEATS.end() || are_clear && repeats >= *REPEATS.start() {
            return Ok(Ok((counts, findings)));
        }
    }
}

/// What counts of both sides say of a metric.
fn judge(metric: Metric, counts: &Sides<f64>) -> Finding {
    let (base, head) = (mean(&counts.base), mean(&counts.head));
    let (least, sought) = match metric {
        Metric::Instructions => (INSTRUCTIONS_MIN * base, INSTRUCTIONS_SOUGHT * base),
        _ => (CALLS_MIN, CALLS_SOUGHT),
    };
    let (more, doubt) = (head - base, doubt(counts));
    let (outcome, why) = if more > least.max(doubt) {
        (Outcome::Fail, None)
    } else if more + doubt < sought {
        (Outcome::Pass, None)
    } else {
        let why = format!(
            "it differs from one life of a server to the next: in the base from {}, in the head from {}",
            range(metric, &counts.base),
            range(metric, &counts.head)
        );
        (Outcome::Inconclusive, Some(why))
    };
    // Of nothing there is no share.
    let share = |more: f64| if base > 0.0 { more / base } else { more };
    Finding {
        metric,
        unit: metric.unit(),
        outcome,
        base,
        head,
        change: share(more),
        low: share(more - doubt),
        high: share(more + doubt),
        control: None,
        why,
    }
}

fn mean(counts: &[f64]) -> f64 {
    counts.iter().sum::<f64>() / counts.len() as f64
}

/// By how much the difference of the means may be off by chance, as counts of the same side differ from one another.
fn doubt(counts: &Sides<f64>) -> f64 {
    let squares = |counts: &[f64]| {
        let mean = mean(counts);
        counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>()
    };
    let repeats = counts.base.len();
    let Some(&student) = STUDENT.get(repeats).filter(|_| repeats > 1) else { return f64::INFINITY };
    let variance = (squares(&counts.base) + squares(&counts.head)) / (2 * repeats - 2) as f64;
    student * (variance * 2.0 / repeats as f64).sqrt()
}

/// The least and the greatest.
fn range(metric: Metric, counts: &[f64]) -> String {
    let (min, max) = counts
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), &count| (min.min(count), max.max(count)));
    match metric {
        Metric::Instructions => format!("{min:.1} to {max:.1}"),
        _ => format!("{min:.4} to {max:.4}"),
    }
}

fn named(side: Side) -> &'static str {
    match side {
        Side::Base => "the base",
        Side::Head => "the head",
    }
}

/// Which system calls differ.
fn in_words(changed: &[Changed]) -> Option<String> {
    let is_there = |count: f64| count >= culprit::CALLS_MIN;
    let mut parts = Vec::new();
    let mut tell = |head: &str, of: &dyn Fn(&Changed) -> Option<String>| {
        let those: Vec<_> = changed.iter().filter_map(of).collect();
        if !those.is_empty() {
            parts.push(format!("{head} {}", those.join(", ")));
        }
    };
    tell("that appeared:", &|one| {
        (!is_there(one.base)).then(|| format!("{} {:.2} per request", one.name, one.head))
    });
    tell("that are gone:", &|one| {
        (!is_there(one.head)).then(|| format!("{} {:.2} per request", one.name, one.base))
    });
    tell("that changed:", &|one| {
        (is_there(one.base) && is_there(one.head))
            .then(|| format!("{} from {:.2} to {:.2} per request", one.name, one.base, one.head))
    });
    (!parts.is_empty()).then(|| format!("system calls {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use anyhow::{anyhow, bail};

    use super::*;

    use Metric::{Allocations, Instructions, Syscalls};

    fn judged(metric: Metric, base: &[f64], head: &[f64]) -> Finding {
        judge(metric, &Sides { base: base.to_vec(), head: head.to_vec() })
    }

    #[track_caller]
    fn assert_outcome(outcome: Outcome, metric: Metric, base: &[f64], head: &[f64]) {
        let finding = judged(metric, base, head);
        assert_eq!(finding.outcome, outcome, "{base:?} {head:?} {finding:?}");
    }

    #[test]
    fn what_is_to_be_found_is() {
        let assert_found = |metric, base: &[f64], head: &[f64]| {
            assert_outcome(Outcome::Fail, metric, base, head);
        };
        assert_found(Instructions, &[10_000.0, 10_000.0], &[10_030.0, 10_030.0]);
        assert_found(Instructions, &[10_000.0, 10_001.0], &[10_031.0, 10_030.0]);
        assert_found(
            Instructions,
            &[10_000.0, 10_005.0, 10_003.0, 9999.0],
            &[10_031.0, 10_030.0, 10_035.0, 10_033.0],
        );
        assert_found(Syscalls, &[3.0, 3.0], &[3.01, 3.01]);
        assert_found(Allocations, &[0.0, 0.0], &[0.01, 0.01]);
        // Much more is more, however much the sides differ from themselves.
        assert_found(Instructions, &[10_000.0, 10_200.0], &[20_000.0, 20_200.0]);
    }

    #[test]
    fn what_is_no_more_passes() {
        let assert_passes = |metric, base: &[f64], head: &[f64]| {
            assert_outcome(Outcome::Pass, metric, base, head);
        };
        assert_passes(Instructions, &[10_000.0, 10_000.0], &[10_000.0, 10_000.0]);
        assert_passes(Instructions, &[10_000.0, 10_001.0], &[10_001.0, 10_000.0]);
        assert_passes(Instructions, &[10_000.0, 10_000.0], &[10_019.0, 10_019.0]);
        assert_passes(Instructions, &[10_000.0, 10_000.0], &[8000.0, 8010.0]);
        assert_passes(Syscalls, &[3.0, 3.0], &[3.004, 3.004]);
        assert_passes(Syscalls, &[3.0, 3.001, 3.0], &[3.0, 3.0, 3.001]);
        assert_passes(Allocations, &[0.0, 0.0], &[0.0, 0.0]);
    }

    #[test]
    fn a_server_that_differs_from_itself_is_not_told_to_be_the_same_nor_to_be_another() {
        for (metric, base, head) in [
            (Instructions, [10_000.0, 10_020.0], [10_000.0, 10_000.0]),
            (Instructions, [10_000.0, 10_000.0], [10_100.0, 10_200.0]),
            (Syscalls, [3.0, 3.0], [3.0, 3.003]),
        ] {
            assert_outcome(Outcome::Inconclusive, metric, &base, &head);
        }
        let why = judged(Syscalls, &[1.0, 1.5], &[1.25, 1.0]).why.unwrap();
        assert!(
            why.contains("in the base from 1.0000 to 1.5000, in the head from 1.0000 to 1.2500"),
            "{why}"
        );
    }

    #[test]
    fn chance_finds_next_to_nothing() {
        use rand::rngs::SmallRng;
        use rand::{Rng, SeedableRng};
        // Counts that differ from themselves by some tenths of a percent, of servers that are the same.
        let (mut random, mut found) = (SmallRng::seed_from_u64(1), 0);
        for _ in 0..10_000 {
            let mut counts = || -> Vec<f64> {
                let one = |_| 10_000.0 + 20.0 * (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>();
                (0..*REPEATS.end()).map(one).collect()
            };
            let (base, head) = (counts(), counts());
            let looks =
                REPEATS.map(|repeats| judged(Instructions, &base[..repeats], &head[..repeats]).outcome);
            found += usize::from(
                looks.into_iter().find(|&outcome| outcome != Outcome::Inconclusive) == Some(Outcome::Fail),
            );
        }
        assert!(found <= 20, "{found} of 10000");
    }

    #[test]
    fn the_interval_is_as_wide_as_the_counts_are_apart() {
        let finding = judged(Instructions, &[1000.0, 1010.0], &[1100.0, 1130.0]);
        // The standard error is the root of (50 + 450) / 2.
        let half = 31.60 * 250_f64.sqrt();
        assert!((finding.change - 110.0 / 1005.0).abs() < 1e-9);
        assert!((finding.low - (110.0 - half) / 1005.0).abs() < 1e-9);
        assert!((finding.high - (110.0 + half) / 1005.0).abs() < 1e-9);
        // Of nothing there is no share.
        assert_eq!(judged(Allocations, &[0.0, 0.0], &[2.0, 2.0]).change, 2.0);
        assert_eq!(judged(Allocations, &[0.0], &[2.0]).outcome, Outcome::Inconclusive);
    }

    #[test]
    fn it_is_counted_until_it_is_clear() {
        let counted = |counts: &dyn Fn(usize) -> f64| {
            let calls = std::cell::Cell::new(0);
            let count = |side| {
                calls.set(calls.get() + 1);
                Ok(Ok(if side == Side::Base { 100_000.0 } else { counts(calls.get() / 2) }))
            };
            let judge = |counts: &Sides<f64>| vec![judge(Instructions, counts)];
            let (counts, findings) = repeat(&count, &judge).unwrap().unwrap();
            (counts.base.len(), counts.head.len(), findings[0].outcome)
        };
        assert_eq!(counted(&|_| 100_000.0), (2, 2, Outcome::Pass));
        assert_eq!(counted(&|_| 200_000.0), (2, 2, Outcome::Fail));
        assert_eq!(counted(&|index| 100_000.0 + 30.0 * (index % 2) as f64), (3, 3, Outcome::Pass));
        assert_eq!(counted(&|index| 100_000.0 + 9e4 * (index % 2) as f64), (6, 6, Outcome::Inconclusive));
    }

    #[test]
    fn what_cannot_be_counted_is_no_failure() {
        let repeated = |count: &dyn Fn(Side) -> Result<Result<f64>>| repeat(count, &|_| Vec::new());
        let cannot =
            repeated(&|side| Ok(if side == Side::Head { Err(anyhow!("no")) } else { Ok(1.0) })).unwrap();
        assert_eq!(format!("{:#}", cannot.err().unwrap()), "the head: no");
        assert!(repeated(&|_| bail!("a wrong reply")).is_err());
    }

    #[test]
    fn system_calls_that_differ_are_named() {
        let changed = |name: &str, base, head| Changed { name: name.into(), base, head };
        assert_eq!(
            in_words(&[
                changed("getpid", 0.0, 1.0),
                changed("sendto", 1.0, 2.5),
                changed("epoll_wait", 1.0, 0.0),
                changed("gettid", 0.001, 0.25),
            ])
            .unwrap(),
            "system calls that appeared: getpid 1.00 per request, gettid 0.25 per request; that are gone: epoll_wait 1.00 \
             per request; that changed: sendto from 1.00 to 2.50 per request"
        );
        assert_eq!(
            in_words(&[changed("epoll_wait", 1.0, 0.0)]).unwrap(),
            "system calls that are gone: epoll_wait 1.00 per request"
        );
        assert_eq!(in_words(&[]), None);
    }
}
