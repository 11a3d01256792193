//! `loadgen compare --calibrate`: how often the comparison is wrong on this machine, found out by having it done.
//!
//! The servers are tidewheel's echo, which loadgen brings along, and the same made slower: it counts to a number for each
//! request, which takes a known part of the CPU time that a request takes. Runs of all kinds are in shuffled order, so that
//! each kind meets the same hours. Few runs say little about rare mistakes. So the lives that were recorded are drawn again,
//! with repetition, and decided on as in a run; what real runs showed stands beside it, because a drawn run does not know
//! what lives of one hour have in common. Such runs also have a part added to them that is exact.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

use super::case::{Case, Side};
use super::decide::{Rules, is_look, look, median};
use super::paired::{Life, Paired, Round, SEATS, Slice};
use super::{Metric, Outcome, Setting, rules, timed_findings};
use crate::cli::Compare;
use crate::embedded::{SLOWED, count_to};
use crate::machine::{Host, now};
use crate::message::message;
use crate::os;
use crate::output::{Output, Written};
use crate::placement::Placement;
use crate::report::json;
use crate::{Usage, report};

/// The argument that makes this program take half of a processor's time.
const HOG: &str = "be-a-hog";

/// How long a hog works, and then rests.
const HOG_INTERVAL: Duration = Duration::from_millis(5);

/// Runs that are drawn from the recorded lives of each kind.
const REPLAYS: usize = 2000;

/// How far is counted for a request when it is measured how long that takes: some microseconds.
const COUNT: u64 = 5000;

/// Lives in which that is measured, and what a request takes without.
const LIVES: usize = 12;

/// What is compared in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Same,
    SameBesideHog,
    OnePercent,
    TwoPercent,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Same, Kind::SameBesideHog, Kind::OnePercent, Kind::TwoPercent];

    /// How much slower the head is made.
    fn added(self) -> f64 {
        match self {
            Kind::Same | Kind::SameBesideHog => 0.0,
            Kind::OnePercent => 0.01,
            Kind::TwoPercent => 0.02,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Same => "the same server twice",
            Kind::SameBesideHog => "the same, beside a hog that takes half a core",
            Kind::OnePercent => "slowed by 1 %",
            Kind::TwoPercent => "slowed by 2 %",
        }
    }
}

/// One run.
#[derive(Serialize, Deserialize)]
struct Run {
    kind: Kind,
    outcome: Outcome,
    change: f64,
    low: f64,
    high: f64,
    control: f64,
    why: Option<String>,
    elapsed_s: f64,
    /// Server CPU per request, in nanoseconds: by life and round, of base, base again, head and head again.
    cpu_ns: Vec<Vec<[f64; 4]>>,
    /// Of those rounds: the share of the machine's time that the hypervisor took.
    steal_share: Vec<Vec<f64>>,
}

impl Run {
    /// As far as its CPU time goes, with so much of it added to the head's.
    fn lives(&self, added: f64) -> impl Iterator<Item = Life> {
        self.cpu_ns.iter().zip(&self.steal_share).map(move |(rounds, steal_shares)| {
            let rounds = rounds.iter().zip(steal_shares).map(|(cpu_ns, &steal_share)| {
                let mut slices = cpu_ns.map(|cpu_ns| Slice {
                    cpu_ns,
                    throughput_per_s: f64::NAN,
                    p50_us: f64::NAN,
                    p99_us: f64::NAN,
                    is_starved: false,
                });
                for (slice, side) in slices.iter_mut().zip(SEATS) {
                    if side == Side::Head {
                        slice.cpu_ns *= 1.0 + added;
                    }
                }
                Round { slices, steal_share }
            });
            Life { rounds: rounds.collect() }
        })
    }
}

/// What came of all runs of one kind.
#[derive(Serialize)]
struct Tally {
    kind: Kind,
    runs: usize,
    pass: usize,
    fail: usize,
    inconclusive: usize,
    unreliable: usize,
    /// The share of FAIL, with its exact (Clopper-Pearson) 95 % interval.
    fail_share: f64,
    fail_low95: f64,
    fail_high95: f64,
    /// Of runs that were drawn from the recorded lives, as they are, and of servers that are the same also with a known part added
    /// to the head's CPU time.
    replayed: Vec<Replayed>,
    change_mean: f64,
    elapsed_median_s: f64,
    elapsed_max_s: f64,
}

/// What came of drawn runs.
#[derive(Serialize)]
struct Replayed {
    added: f64,
    fail_share: f64,
    /// INCONCLUSIVE or UNRELIABLE.
    undecided_share: f64,
}

/// What runs depend on.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Conditions {
    machine: String,
    placement: String,
    budget_s: f64,
    margin: f64,
    floor: f64,
}

/// What a file has of an earlier calibration.
#[derive(Deserialize)]
struct Recorded {
    date: String,
    #[serde(flatten)]
    conditions: Conditions,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Calibration {
    schema_version: u32,
    loadgen_version: &'static str,
    /// When it was measured.
    date: String,
    #[serde(flatten)]
    conditions: Conditions,
    replays: usize,
    tallies: Vec<Tally>,
    runs: Vec<Run>,
}

/// Whether this process is to be the hog.
pub fn hog_is_asked_for() -> bool {
    env::args_os().nth(1).is_some_and(|argument| argument == HOG)
}

/// Takes half of a processor's time, and never ends by itself.
pub fn be_a_hog() -> ExitCode {
    loop {
        let until = Instant::now() + HOG_INTERVAL;
        while Instant::now() < until {
            black_box(count_to(black_box(1000)));
        }
        thread::sleep(HOG_INTERVAL);
    }
}

/// A hog that runs as long as this is kept.
struct Hog(Child);

impl Hog {
    fn start() -> Result<Hog> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("loadgen").arg(HOG).stdin(Stdio::null()).process_group(0);
        os::end_with_parent(&mut command);
        Ok(Hog(command.spawn().context("starting this program again, as the hog")?))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // It does nothing that would be lost, and there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calibrates, and shows what came of it.
pub fn calibrate(asked: &Compare, stop: &AtomicBool) -> Result<ExitCode> {
    let ([json, markdown], shown) =
        Output::open_all([("--json", asked.json.as_deref()), ("--markdown", asked.markdown.as_deref())])?;
    let (date, conditions, runs) = if asked.recorded.is_empty() {
        let placement = Placement::choose()?;
        let conditions = Conditions {
            // Where processors are pinned there are fewer to be seen.
            machine: Host::here().to_string(),
            placement: placement.to_string(),
            budget_s: asked.budget.as_secs_f64(),
            margin: asked.margin,
            floor: asked.floor,
        };
        (now(), conditions, measure(asked, &placement, stop)?)
    } else {
        recorded(&asked.recorded).map_err(|error| Usage(format!("--from {error:#}")))?
    };
    let rules = Rules { margin: conditions.margin.ln_1p(), floor: conditions.floor.ln_1p(), findings: 1 };
    let mut random = SmallRng::seed_from_u64(asked.run.options.seed);
    let tallies = Kind::ALL.into_iter().filter(|kind| runs.iter().any(|run| run.kind == *kind));
    let tallies = tallies.map(|kind| tally(kind, &runs, conditions.budget_s, rules, &mut random)).collect();
    let calibration = Calibration {
        schema_version: report::SCHEMA_VERSION,
        loadgen_version: env!("CARGO_PKG_VERSION"),
        date,
        conditions,
        replays: REPLAYS,
        tallies,
        runs,
    };
    let text = calibration.markdown();
    let mut written = Written::default();
    written.add(report::write(json, |out| json::write(out, &calibration)));
    written.add(report::write(markdown, |out| out.write_all(text.as_bytes())));
    written.add(shown.print(&text));
    written.all()?;
    Ok(ExitCode::SUCCESS)
}

/// The runs of all files, which have to be of the same conditions.
fn recorded(paths: &[PathBuf]) -> Result<(String, Conditions, Vec<Run>)> {
    let (mut dates, mut runs, mut all) = (Vec::new(), Vec::new(), None);
    for path in paths {
        let told = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(told)?;
        let recorded: Recorded = serde_json::from_str(&text).with_context(told)?;
        let conditions = all.get_or_insert_with(|| recorded.conditions.clone());
        ensure!(*conditions == recorded.conditions, "{}: it was measured in another way", told());
        dates.push(recorded.date);
        runs.extend(recorded.runs);
    }
    Ok((dates.join(", "), all.context("there is no file")?, runs))
}

/// Real runs of all kinds that are wanted.
fn measure(asked: &Compare, placement: &Placement, stop: &AtomicBool) -> Result<Vec<Run>> {
    let calibrator = Calibrator::new(asked, placement, stop)?;
    let mut random = SmallRng::seed_from_u64(asked.run.options.seed);
    let few = asked.runs.div_ceil(3);
    let wanted = match asked.kinds.as_slice() {
        [] => &Kind::ALL,
        kinds => kinds,
    };
    let mut kinds: Vec<Kind> = wanted
        .iter()
        .flat_map(|&kind| vec![kind; if kind == Kind::Same { asked.runs } else { few }])
        .collect();
    kinds.shuffle(&mut random);
    let mut runs = Vec::new();
    for (index, &kind) in kinds.iter().enumerate() {
        let run = calibrator.run(kind, random.random(), stop)?;
        if !asked.quiet {
            message!(
                "run {} of {}, {}: {} {:+.2} % [{:+.2} {:+.2}] after {:.0} s",
                index + 1,
                kinds.len(),
                kind.words(),
                run.outcome,
                run.change * 100.0,
                run.low * 100.0,
                run.high * 100.0,
                run.elapsed_s
            );
        }
        runs.push(run);
    }
    Ok(runs)
}

struct Calibrator<'a> {
    asked: &'a Compare,
    placement: &'a Placement,
    rules: Rules,
    base_cpu_ns: f64,
    /// That the server counts to for a nanosecond more.
    counts_per_ns: f64,
}

impl<'a> Calibrator<'a> {
    fn new(asked: &'a Compare, placement: &'a Placement, stop: &AtomicBool) -> Result<Self> {
        let rules = rules(asked.margin, asked.floor, placement, 1);
        let mut calibrator =
            Calibrator { asked, placement, rules, base_cpu_ns: f64::NAN, counts_per_ns: 0.0 };
        // Measured where it is to work: beside the other servers, on their processor.
        let paired = Paired::prepare(&calibrator.case_with(COUNT)?, placement, stop)?;
        let mut random = SmallRng::seed_from_u64(asked.run.options.seed);
        let (mut base, mut added) = (Vec::new(), Vec::new());
        for _ in 0..LIVES {
            for round in paired.life(&mut random)?.rounds {
                let [one, again, slowed, slowed_again] = round.slices.map(|slice| slice.cpu_ns);
                base.extend([one, again]);
                added.push((slowed + slowed_again - one - again) / 2.0);
            }
        }
        calibrator.base_cpu_ns = median(&mut base);
        calibrator.counts_per_ns = COUNT as f64 / median(&mut added);
        Ok(calibrator)
    }

    /// The head takes `added` more of the CPU time that the base takes.
    fn case(&self, added: f64) -> Result<Case> {
        self.case_with((added * self.base_cpu_ns * self.counts_per_ns) as u64)
    }

    /// The head counts so far for each request.
    fn case_with(&self, counts: u64) -> Result<Case> {
        let program = env::current_exe().context("where loadgen is")?;
        let program = program.to_str().context("the path of loadgen is not UTF-8")?;
        let program = shlex::try_quote(program).context("the path of loadgen")?;
        let command = |counts: u64| format!("{program} {SLOWED} {{port}} {counts}");
        let run = self.asked.run.clone();
        Ok(Case { name: super::case::title(&run), run, base: command(0), head: command(counts) })
    }

    fn run(&self, kind: Kind, seed: u64, stop: &AtomicBool) -> Result<Run> {
        let began = Instant::now();
        let case = self.case(kind.added())?;
        let hog = (kind == Kind::SameBesideHog).then(|| self.placement.unpinned(Hog::start)).transpose()?;
        let until = began + self.asked.budget;
        let setting = Setting { placement: self.placement, is_quiet: true, stop };
        let timed = timed_findings(&case, &[Metric::Cpu], self.rules, until, seed, &setting)?;
        drop(hog);
        let finding = timed.findings.first().context("a run without a figure")?;
        let rounds = |of: &dyn Fn(&super::paired::Round) -> f64| -> Vec<Vec<f64>> {
            timed.lives.iter().map(|life| life.rounds.iter().map(of).collect()).collect()
        };
        let steal_share = rounds(&|round| round.steal_share);
        // A tenth of a nanosecond is beyond what is seen.
        let cpu_ns = timed.lives.iter().map(|life| {
            life.rounds
                .iter()
                .map(|round| round.slices.map(|slice| (slice.cpu_ns * 10.0).round() / 10.0))
                .collect()
        });
        Ok(Run {
            kind,
            outcome: finding.outcome,
            change: finding.change,
            low: finding.low,
            high: finding.high,
            control: finding.control.unwrap_or(f64::NAN),
            why: finding.why.clone(),
            elapsed_s: began.elapsed().as_secs_f64(),
            cpu_ns: cpu_ns.collect(),
            steal_share,
        })
    }
}

fn tally(kind: Kind, runs: &[Run], budget_s: f64, rules: Rules, random: &mut SmallRng) -> Tally {
    let runs: Vec<&Run> = runs.iter().filter(|run| run.kind == kind).collect();
    let count = |outcome| runs.iter().filter(|run| run.outcome == outcome).count();
    let mut elapsed: Vec<f64> = runs.iter().map(|run| run.elapsed_s).collect();
    elapsed.sort_by(f64::total_cmp);
    let lives = runs.iter().map(|run| run.cpu_ns.len()).sum::<usize>();
    let each_s = elapsed.iter().sum::<f64>() / lives.max(1) as f64;
    let lives_max = ((budget_s / each_s) as usize).max(1);
    let additions = if kind.added() > 0.0 { &[0.0][..] } else { &[0.0, 0.01, 0.02] };
    let mut replayed = |&added: &f64| {
        let lives: Vec<Life> = runs.iter().flat_map(|run| run.lives(added)).collect();
        let outcomes: Vec<Outcome> =
            (0..REPLAYS).filter_map(|_| replay(&lives, lives_max, rules, random)).collect();
        let share = |of: &[Outcome]| {
            outcomes.iter().filter(|outcome| of.contains(outcome)).count() as f64
                / outcomes.len().max(1) as f64
        };
        Replayed {
            added,
            fail_share: share(&[Outcome::Fail]),
            undecided_share: share(&[Outcome::Inconclusive, Outcome::Unreliable]),
        }
    };
    let (fail_low95, fail_high95) = binomial_interval(count(Outcome::Fail), runs.len());
    Tally {
        kind,
        runs: runs.len(),
        pass: count(Outcome::Pass),
        fail: count(Outcome::Fail),
        inconclusive: count(Outcome::Inconclusive),
        unreliable: count(Outcome::Unreliable),
        fail_share: count(Outcome::Fail) as f64 / runs.len().max(1) as f64,
        fail_low95,
        fail_high95,
        replayed: additions.iter().map(&mut replayed).collect(),
        change_mean: runs.iter().map(|run| run.change).sum::<f64>() / runs.len().max(1) as f64,
        elapsed_median_s: elapsed.get(elapsed.len() / 2).copied().unwrap_or_default(),
        elapsed_max_s: elapsed.last().copied().unwrap_or_default(),
    }
}

/// A run of lives that are drawn from the recorded ones.
fn replay(lives: &[Life], lives_max: usize, rules: Rules, random: &mut SmallRng) -> Option<Outcome> {
    let mut drawn: Vec<Life> = Vec::new();
    loop {
        drawn.push(lives.get(random.random_range(0..lives.len().max(1)))?.clone());
        let is_last = drawn.len() == lives_max;
        if is_last || is_look(drawn.len()) {
            let decision = look(&drawn, Metric::Cpu, rules, random);
            if is_last || decision.as_ref().is_some_and(|decision| decision.is_final) {
                return decision.map(|decision| decision.outcome);
            }
        }
    }
}

/// The exact 95 % interval of a share, of which so many of so many were seen (Clopper and Pearson 1934).
fn binomial_interval(seen: usize, of: usize) -> (f64, f64) {
    let quantile = |share: f64, seen: usize, unseen: usize| {
        Beta::new(seen as f64, unseen as f64).map_or(f64::NAN, |beta| beta.inverse_cdf(share))
    };
    let low = if seen == 0 { 0.0 } else { quantile(0.025, seen, of - seen + 1) };
    let high = if seen == of { 1.0 } else { quantile(0.975, seen + 1, of - seen) };
    (low, high)
}

impl Calibration {
    fn markdown(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let Conditions { machine, placement, budget_s, margin, floor } = &self.conditions;
        let mut text = format!(
            "# How often `loadgen compare` is wrong\n\n{machine}; {}; {placement}.\n\nReal runs, of CPU time alone: budget {budget_s} s, \
             margin {}, floor {}.\n\n| head | runs | PASS | FAIL | INCONCLUSIVE | UNRELIABLE | share of FAIL, exact 95 % | mean \
             change | seconds, median and longest |\n|---|--:|--:|--:|--:|--:|---|--:|---|\n",
            self.date,
            percent(*margin),
            percent(*floor),
        );
        for tally in &self.tallies {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} [{} {}] | {:+.2} % | {:.0}, {:.0} |",
                tally.kind.words(),
                tally.runs,
                tally.pass,
                tally.fail,
                tally.inconclusive,
                tally.unreliable,
                percent(tally.fail_share),
                percent(tally.fail_low95),
                percent(tally.fail_high95),
                tally.change_mean * 100.0,
                tally.elapsed_median_s,
                tally.elapsed_max_s,
            );
        }
        text += "\nThe mean change tells how much slower the server really was: what is added overlaps with what the processor does \
                 beside it, and shows in part.\n";
        let _ = writeln!(
            text,
            "\nReplayed: {} runs of each kind, of lives drawn with repetition from those that were recorded. What is added here \
             is exact: a part of the head's CPU time in every slice.\n\n| lives of | added | FAIL | INCONCLUSIVE or UNRELIABLE |\n\
             |---|--:|--:|--:|",
            self.replays
        );
        for tally in &self.tallies {
            for Replayed { added, fail_share, undecided_share } in &tally.replayed {
                let added = if *added > 0.0 { percent(*added) } else { "nothing".into() };
                let _ = writeln!(
                    text,
                    "| {} | {added} | {:.2} % | {:.2} % |",
                    tally.kind.words(),
                    fail_share * 100.0,
                    undecided_share * 100.0
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_their_exact_interval() {
        // As tables have it: 0 of 60, 3 of 20, 20 of 20.
        for (seen, of, low, high) in [(0, 60, 0.0, 0.0596), (3, 20, 0.0321, 0.3789), (20, 20, 0.8316, 1.0)] {
            let interval = binomial_interval(seen, of);
            assert!((interval.0 - low).abs() < 1e-3 && (interval.1 - high).abs() < 1e-3, "{interval:?}");
        }
    }
}
