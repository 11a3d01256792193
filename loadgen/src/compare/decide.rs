//! What the lives of a comparison say, and when they have said enough.
//!
//! A life's change is the median of its rounds', of which some are far off: what else a machine does comes in bursts. Lives
//! are independent of each other: each has servers of its own. The interval of the mean over lives is that of a hierarchical
//! bootstrap (lives are drawn, and rounds within them), and no narrower than Student's interval of the lives' changes, which
//! knows that few of them may lie close together by chance.
//!
//! It is looked at several times, and each look could cry wolf. So each has only its part of the error rate that the whole
//! run may have: that is divided by the number of looks, and by the number of cases and metrics (Bonferroni). Looks at the
//! same lives agree more often than not, so the true rate is lower.

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::paired::{Contrasts, Life};
use super::{Metric, Outcome};

/// How often a run may say that something is worse that is not: its share of false alarms.
const ALARM_RATE: f64 = 0.005;

/// How often a run may find that the control moved when it did not.
const CONTROL_RATE: f64 = 0.01;

/// Lives at the first look, and how many times as many at the next one.
const FIRST_LOOK: usize = 12;
const LOOK_FACTOR: f64 = 1.5;

/// Looks of a run, up to 205 lives, beside the one when the time is over.
const LOOKS_MAX: usize = 8;

/// How often the bootstrap draws anew: enough that some lie outside of the smallest tail that is asked for.
const RESAMPLES: usize = 5000;

/// So many changes that a life might have had as well, by its rounds, are drawn once for all of these.
const RESAMPLES_OF_LIFE: usize = 64;

/// How sure it has to be at a look that nothing is there to be found, to look no more.
const LIKELY: f64 = 0.99;

/// More than this share of slices in which the generator had too little CPU time, or of rounds that were set aside, and
/// nothing can be said.
const SPOILT_SHARE_MAX: f64 = 0.5;

/// What is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// PASS needs the upper bound below this.
    pub margin: f64,
    /// FAIL needs the estimate above this.
    pub floor: f64,
    /// Cases and metrics that share the error rate.
    pub findings: usize,
}

/// An estimate with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounded {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    /// It is less than this with a likelihood of [`LIKELY`], at this look alone.
    #[serde(skip)]
    likely_high: f64,
}

/// What is known after a look.
#[derive(Clone, Debug)]
pub struct Decision {
    pub outcome: Outcome,
    /// More lives would change nothing.
    pub is_final: bool,
    pub change: Bounded,
    pub control: Bounded,
    pub why: Option<String>,
    /// How many lives it would need, if it knows.
    pub lives_needed: Option<usize>,
}

impl Decision {
    /// On the way.
    pub fn in_words(&self) -> String {
        let Bounded { estimate, low, high, .. } = self.change;
        format!("{:+.2} % [{:+.2} {:+.2}]", estimate * 100.0, low * 100.0, high * 100.0)
    }
}

/// Whether so many lives are looked at.
pub fn is_look(lives: usize) -> bool {
    looks().any(|look| look == lives)
}

fn looks() -> impl Iterator<Item = usize> {
    let mut next = FIRST_LOOK as f64;
    (0..LOOKS_MAX).map(move |_| {
        let look = next;
        next *= LOOK_FACTOR;
        look.round() as usize
    })
}

/// Looks at the lives. None if fewer than two of them have a figure.
pub fn look(lives: &[Life], metric: Metric, rules: Rules, random: &mut SmallRng) -> Option<Decision> {
    let rounds: Vec<Vec<Contrasts>> = lives.iter().map(|life| life.contrasts(metric)).collect();
    let kept: Vec<&[Contrasts]> =
        rounds.iter().map(Vec::as_slice).filter(|rounds| !rounds.is_empty()).collect();
    let tail = ALARM_RATE / (rules.findings * (LOOKS_MAX + 1)) as f64;
    let control_tail = CONTROL_RATE / (rules.findings * (LOOKS_MAX + 1) * 2) as f64;
    let change = interval(&kept, |contrasts| contrasts.change, tail, random)?;
    let control = interval(&kept, |contrasts| contrasts.control, control_tail, random)?;
    let mut decision = Decision {
        outcome: Outcome::Inconclusive,
        is_final: false,
        change,
        control,
        why: None,
        lives_needed: None,
    };
    if let Some(words) = spoilt(lives) {
        decision.outcome = Outcome::Unreliable;
        decision.why = Some(words);
    } else if control.estimate.abs() > rules.floor && (control.low > 0.0 || control.high < 0.0) {
        decision.outcome = Outcome::Unreliable;
        decision.is_final = true;
        let percent = control.estimate.abs() * 100.0;
        decision.why =
            Some(format!("servers of the same side differ by {percent:.1} %: the measurement is disturbed"));
    } else if change.low > 0.0 && change.estimate > rules.floor {
        decision.outcome = Outcome::Fail;
        decision.is_final = true;
    } else if change.high < rules.margin {
        decision.outcome = Outcome::Pass;
        // What is worse by a half of the margin is to be found where time allows it.
        decision.is_final = change.estimate < rules.floor && change.likely_high < rules.margin / 2.0;
    } else {
        decision.lives_needed = lives_needed(kept.len(), change, rules);
        decision.why = Some("the interval is too wide for PASS or FAIL".into());
    }
    Some(decision)
}

/// Why the lives say nothing, if it is so.
pub fn spoilt(lives: &[Life]) -> Option<String> {
    let rounds = || lives.iter().flat_map(|life| &life.rounds);
    let share = |count: usize, all: usize| count as f64 / all.max(1) as f64;
    let all = rounds().count();
    let set_aside = share(rounds().filter(|round| round.is_set_aside()).count(), all);
    let slices = rounds().flat_map(|round| round.slices);
    let starved = share(slices.filter(|slice| slice.is_starved).count(), all * super::paired::SEATS.len());
    if set_aside > SPOILT_SHARE_MAX {
        Some(format!("the hypervisor took CPU time in {:.0} % of the rounds", set_aside * 100.0))
    } else if starved > SPOILT_SHARE_MAX {
        Some(format!("loadgen had too little CPU time in {:.0} % of the slices", starved * 100.0))
    } else {
        None
    }
}

/// How many lives would bring one of the bounds to where something is decided, if the estimate stays where it is.
fn lives_needed(lives: usize, change: Bounded, rules: Rules) -> Option<usize> {
    let Bounded { estimate, low, high, .. } = change;
    let to_pass = (rules.margin - estimate > 0.0).then(|| (high - estimate) / (rules.margin - estimate));
    let to_fail = (estimate > rules.floor).then(|| (estimate - low) / estimate);
    let factor = [to_pass, to_fail].into_iter().flatten().reduce(f64::min)?;
    // A width falls with the root of the number.
    Some((lives as f64 * factor * factor).ceil() as usize)
}

/// The mean over lives of what their rounds say, with bounds that leave out `tail` on each side.
fn interval(
    lives: &[&[Contrasts]],
    of: impl Fn(&Contrasts) -> f64,
    tail: f64,
    random: &mut SmallRng,
) -> Option<Bounded> {
    let values: Vec<Vec<f64>> = lives.iter().map(|rounds| rounds.iter().map(&of).collect()).collect();
    let changes: Vec<f64> = values.iter().map(|rounds| median(&mut rounds.clone())).collect();
    let count = changes.len() as f64;
    if changes.len() < 2 {
        return None;
    }
    let estimate = mean(&changes);
    let variance = changes.iter().map(|change| (change - estimate).powi(2)).sum::<f64>() / (count - 1.0);
    let student = StudentsT::new(0.0, 1.0, count - 1.0).ok()?;
    let error = (variance / count).sqrt();
    let width = student.inverse_cdf(1.0 - tail) * error;
    let (low, high) = bootstrap(&values, tail, random);
    Some(Bounded {
        estimate,
        low: low.min(estimate - width),
        high: high.max(estimate + width),
        likely_high: estimate + student.inverse_cdf(LIKELY) * error,
    })
}

/// Bounds of the mean: lives are drawn with repetition, and rounds of each.
fn bootstrap(lives: &[Vec<f64>], tail: f64, random: &mut SmallRng) -> (f64, f64) {
    let mut drawn = Vec::new();
    let others: Vec<[f64; RESAMPLES_OF_LIFE]> = lives
        .iter()
        .map(|rounds| {
            [(); RESAMPLES_OF_LIFE].map(|()| {
                drawn.clear();
                drawn.extend((0..rounds.len()).map(|_| rounds[random.random_range(0..rounds.len())]));
                median(&mut drawn)
            })
        })
        .collect();
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let one =
                |_| others[random.random_range(0..others.len())][random.random_range(0..RESAMPLES_OF_LIFE)];
            (0..lives.len()).map(one).sum::<f64>() / lives.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let outside = (tail * RESAMPLES as f64) as usize;
    (means[outside], means[RESAMPLES - 1 - outside])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sorts the values, of which there is one at least.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_distr::{Distribution, Normal};

    use super::super::paired::{ROUNDS, Round, Slice};
    use super::*;

    const RULES: Rules = Rules { margin: 0.02, floor: 0.005, findings: 1 };

    /// A life whose head takes `change` more; servers differ by 0.4 % and slices by 3 %, by chance.
    fn life(change: f64, random: &mut SmallRng) -> Life {
        let (server, slice) = (Normal::new(0.0, 0.004).unwrap(), Normal::new(0.0, 0.03).unwrap());
        let servers = [0.0, 0.0, change, change].map(|change: f64| change.ln_1p() + server.sample(random));
        let rounds = (0..ROUNDS).map(|_| {
            let slices = servers.map(|server| Slice {
                cpu_ns: 6000.0 * f64::exp(server + slice.sample(random)),
                throughput_per_s: 100_000.0,
                p50_us: 300.0,
                p99_us: 900.0,
                is_starved: false,
            });
            Round { slices, steal_share: 0.0 }
        });
        Life { rounds: rounds.collect() }
    }

    /// What a run of at most 137 lives says, and after how many.
    fn run(change: f64, seed: u64) -> (Decision, usize) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut lives = Vec::new();
        loop {
            lives.push(life(change, &mut random));
            let is_last = lives.len() == 137;
            if is_look(lives.len()) || is_last {
                let decision = look(&lives, Metric::Cpu, RULES, &mut random).unwrap();
                if decision.is_final || is_last {
                    return (decision, lives.len());
                }
            }
        }
    }

    fn count(outcome: Outcome, change: f64, runs: u64) -> usize {
        (0..runs).filter(|&seed| run(change, seed).0.outcome == outcome).count()
    }

    #[test]
    fn the_same_server_twice_passes() {
        assert_eq!(count(Outcome::Pass, 0.0, 40), 40);
    }

    #[test]
    fn what_is_worse_by_a_percent_or_two_fails() {
        assert_eq!(count(Outcome::Fail, 0.02, 30), 30);
        let found = count(Outcome::Fail, 0.01, 40);
        assert!(found >= 38, "{found}");
    }

    #[test]
    fn less_of_everything_passes_and_less_throughput_is_worse() {
        assert_eq!(count(Outcome::Pass, -0.03, 20), 20);
        let mut random = SmallRng::seed_from_u64(1);
        let mut lives: Vec<Life> = (0..12).map(|_| life(0.0, &mut random)).collect();
        for (index, round) in lives.iter_mut().flat_map(|life| &mut life.rounds).enumerate() {
            for slice in &mut round.slices[2..] {
                slice.throughput_per_s *= 0.95 + 0.001 * (index % 3) as f64;
            }
        }
        let decision = look(&lives, Metric::Throughput, RULES, &mut random).unwrap();
        assert_eq!(decision.outcome, Outcome::Fail);
        assert!((0.04..0.06).contains(&decision.change.estimate), "{decision:?}");
    }

    #[test]
    fn a_control_that_moves_spoils_it() {
        let mut random = SmallRng::seed_from_u64(3);
        let mut lives: Vec<Life> = (0..12).map(|_| life(0.0, &mut random)).collect();
        for round in lives.iter_mut().flat_map(|life| &mut life.rounds) {
            round.slices[1].cpu_ns *= 1.06;
        }
        let decision = look(&lives, Metric::Cpu, RULES, &mut random).unwrap();
        assert_eq!(decision.outcome, Outcome::Unreliable);
        assert!(decision.why.unwrap().contains("the same side"));
    }

    #[test]
    fn what_the_hypervisor_took_part_in_is_set_aside_on_both_sides() {
        let mut random = SmallRng::seed_from_u64(4);
        let mut lives: Vec<Life> = (0..20).map(|_| life(0.0, &mut random)).collect();
        for life in &mut lives {
            life.rounds[1].slices[2].cpu_ns *= 2.0;
            life.rounds[1].steal_share = 0.2;
        }
        let decision = look(&lives, Metric::Cpu, RULES, &mut random).unwrap();
        assert_eq!(decision.outcome, Outcome::Pass, "{decision:?}");
        assert_eq!(lives[0].contrasts(Metric::Cpu).len(), ROUNDS - 1);
        for round in lives.iter_mut().flat_map(|life| &mut life.rounds).skip(2 * ROUNDS) {
            round.steal_share = 0.2;
        }
        let decision = look(&lives, Metric::Cpu, RULES, &mut random).unwrap();
        assert_eq!(decision.outcome, Outcome::Unreliable, "{decision:?}");
        // Of one life there is no interval.
        for round in &mut lives[1].rounds {
            round.steal_share = 0.2;
        }
        assert!(look(&lives, Metric::Cpu, RULES, &mut random).is_none());
        assert!(spoilt(&lives).unwrap().contains("95 % of the rounds"), "{:?}", spoilt(&lives));
    }

    #[test]
    fn too_few_lives_say_how_many_it_would_need() {
        let mut random = SmallRng::seed_from_u64(5);
        let lives: Vec<Life> = (0..3).map(|_| life(0.0, &mut random)).collect();
        let decision = look(&lives, Metric::Cpu, RULES, &mut random).unwrap();
        assert_eq!(decision.outcome, Outcome::Inconclusive, "{decision:?}");
        assert!(decision.lives_needed.unwrap() > 3);
        assert!(look(&lives[..1], Metric::Cpu, RULES, &mut random).is_none());
    }

    #[test]
    fn looks_are_farther_and_farther_apart() {
        assert!(looks().eq([12, 18, 27, 41, 61, 91, 137, 205]));
        assert!(is_look(27) && !is_look(28));
    }
}
