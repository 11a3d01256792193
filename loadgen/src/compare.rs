//! `loadgen compare`: whether one server is worse than another, with an error rate that is known, and what has made it so.
//!
//! ```text
//!     revision, suite ─► cases ─┬► exact: strace, callgrind, in lock step ──────────┬► findings ─► outcome
//!                               └► paired: lives of four servers ─► decide: looks ──┘        └► culprit
//! ```
//!
//! What is counted is the same each time, so a small difference is a finding. What is timed is not: `paired` says how it is
//! measured, and `decide` when it is enough.

mod asked;
mod binary;
pub mod calibrate;
mod callgrind;
mod cargo;
pub mod case;
mod culprit;
mod decide;
mod exact;
mod paired;
pub mod report;
mod revision;
mod suite;

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use crate::cli::Compare;
use crate::machine::{Host, now};
use crate::message::message;
use crate::output::{Output, STDOUT, Written};
use crate::placement::Placement;
use crate::report::{SCHEMA_VERSION, json, write, write_page};
use crate::{EXIT_FAILED, EXIT_INVALID, Usage, history, os};

use asked::Asked;
use case::{Case, Side};
use decide::{Decision, Rules, is_look, median};
use paired::{Life, Paired};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// CPU time of the server for each request.
    Cpu,
    Throughput,
    P50,
    P99,
    /// In user space, for each request.
    Instructions,
    /// System calls for each request.
    Syscalls,
    /// Calls of the allocator for each request.
    Allocations,
}

impl Metric {
    /// Whether it is counted, and not timed.
    pub fn is_exact(self) -> bool {
        matches!(self, Metric::Instructions | Metric::Syscalls | Metric::Allocations)
    }

    pub fn name(self) -> &'static str {
        match self {
            Metric::Cpu => "cpu",
            Metric::Throughput => "throughput",
            Metric::P50 => "p50",
            Metric::P99 => "p99",
            Metric::Instructions => "instructions",
            Metric::Syscalls => "syscalls",
            Metric::Allocations => "allocations",
        }
    }

    /// Of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::Cpu => "ns per request",
            Metric::Throughput => "requests per second",
            Metric::P50 | Metric::P99 => "us",
            Metric::Instructions | Metric::Syscalls | Metric::Allocations => "per request",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is said of it, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Both revisions build the same binary: there was nothing to measure.
    Identical,
    /// It is not worse by more than the margin.
    Pass,
    /// There was too little time to tell.
    Inconclusive,
    /// What was measured is not to be believed.
    Unreliable,
    /// It is worse.
    Fail,
}

impl Outcome {
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Identical | Outcome::Pass => 0,
            Outcome::Fail => EXIT_FAILED,
            Outcome::Unreliable => EXIT_INVALID,
            Outcome::Inconclusive => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Identical => "IDENTICAL",
            Outcome::Pass => "PASS",
            Outcome::Inconclusive => "INCONCLUSIVE",
            Outcome::Unreliable => "UNRELIABLE",
            Outcome::Fail => "FAIL",
        })
    }
}

/// What came of one metric of one case. Changes are fractions of the base's value, and positive is worse.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub metric: Metric,
    pub unit: &'static str,
    pub outcome: Outcome,
    /// Medians of what was timed.
    pub base: f64,
    pub head: f64,
    pub change: f64,
    pub low: f64,
    pub high: f64,
    /// What servers of one side showed against each other; null of what is counted.
    pub control: Option<f64>,
    /// Why it is so, if that is not plain.
    pub why: Option<String>,
}

/// A name with its value on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    pub name: String,
    pub base: f64,
    pub head: f64,
}

/// What has made the difference.
#[derive(Clone, Debug, Serialize)]
pub struct Culprit {
    /// The functions whose instructions per request changed most, by that.
    pub functions: Vec<Changed>,
    /// Calls per request: those that differ.
    pub system_calls: Vec<Changed>,
    #[serde(skip)]
    pub flame_svg: Option<String>,
}

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    pub name: String,
    /// The servers' commands.
    pub base: String,
    pub head: String,
    /// The worst of the findings.
    pub outcome: Outcome,
    pub findings: Vec<Finding>,
    /// What could not be done.
    pub notes: Vec<String>,
    pub requests_per_slice: Option<u64>,
    /// Of four servers each.
    pub lives: usize,
    /// Of a slice of each of the four.
    pub rounds: usize,
    /// Of these, without a part in the figures.
    pub rounds_set_aside: usize,
    pub elapsed_s: f64,
    pub culprit: Option<Culprit>,
    /// Every slice.
    pub slices: Vec<Life>,
}

impl CaseResult {
    /// Of servers that are the same file.
    fn identical(case: &Case) -> CaseResult {
        CaseResult {
            name: case.name.clone(),
            base: case.base.clone(),
            head: case.head.clone(),
            outcome: Outcome::Identical,
            findings: Vec::new(),
            notes: Vec::new(),
            requests_per_slice: None,
            lives: 0,
            rounds: 0,
            rounds_set_aside: 0,
            elapsed_s: 0.0,
            culprit: None,
            slices: Vec::new(),
        }
    }
}

/// What came of all of it. Field names end in their unit; they are the JSON's.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub schema_version: u32,
    pub loadgen_version: &'static str,
    /// In UTC.
    pub date: String,
    /// In a line: the processor, how many there are, the system.
    pub machine: String,
    /// Where the servers and loadgen ran.
    pub placement: String,
    /// What they are called: a revision, or "base".
    pub base: String,
    pub head: String,
    pub base_commit: Option<String>,
    pub head_commit: Option<String>,
    /// Of the binaries, if they were built for this.
    pub base_sha256: Option<String>,
    pub head_sha256: Option<String>,
    pub outcome: Outcome,
    pub exit_code: u8,
    pub margin: f64,
    pub floor: f64,
    pub budget_s: f64,
    pub seed: u64,
    pub cases: Vec<CaseResult>,
}

/// Compares, tells what came of it, and what it means for whoever asked.
pub fn compare(asked: &Compare, stop: &AtomicBool) -> Result<ExitCode> {
    if asked.calibrate {
        return calibrate::calibrate(asked, stop);
    }
    let to_stdout = |path: &&Path| *path == Path::new(STDOUT);
    let ([json, markdown, html, history_out], table) = Output::open_all([
        ("--json", asked.json.as_deref()),
        ("--markdown", asked.markdown.as_deref()),
        ("--html", asked.html.as_deref()),
        // A file is appended to, and opened for that below.
        ("--history", asked.history.as_deref().filter(to_stdout).map(|_| STDOUT)),
    ])?;
    if let Some(folder) = &asked.flames {
        fs::create_dir_all(folder)
            .map_err(|error| Usage(format!("--flames {}: {error}", folder.display())))?;
    }
    let history_file = asked.history.as_deref().filter(|path| !to_stdout(path));
    if let Some(path) = history_file {
        history::check(path).map_err(|error| Usage(format!("--history: {error:#}")))?;
    }
    let Asked { cases, built } = asked::gather(asked, stop)?;
    let is_identical = built.as_ref().is_some_and(|built| built.base_sha256 == built.head_sha256);
    let connections = cases.iter().map(|case| case.run.connections).max();
    os::raise_descriptor_limit(connections.unwrap_or_default())?;
    // Where processors are pinned there are fewer to be seen.
    let host = Host::here();
    let placement = Placement::choose()?;
    let setting = Setting { placement: &placement, is_quiet: asked.quiet, stop };
    let until = Instant::now() + asked.budget;
    let timed = metrics(asked).iter().filter(|metric| !metric.is_exact()).count();
    let rules = rules(asked.margin, asked.floor, &placement, cases.len() * timed);
    let mut written = Written::default();
    let mut results = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        // What one case did not need is for those that follow.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / (cases.len() - index) as u32;
        let result = match is_identical {
            true => CaseResult::identical(case),
            false => compare_case(asked, case, rules, share, &setting)?,
        };
        written.add(table.print(format_args!("{result}\n")));
        results.push(result);
    }
    let outcome = results.iter().map(|result| result.outcome).max().unwrap_or(Outcome::Inconclusive);
    let compared = Compared {
        schema_version: SCHEMA_VERSION,
        loadgen_version: env!("CARGO_PKG_VERSION"),
        date: now(),
        machine: host.to_string(),
        placement: placement.to_string(),
        base: built.as_ref().map_or("base".into(), |built| built.base_label.clone()),
        head: built.as_ref().map_or("head".into(), |built| built.head_label.clone()),
        base_commit: built.as_ref().and_then(|built| built.base_commit.clone()),
        head_commit: built.as_ref().and_then(|built| built.head_commit.clone()),
        base_sha256: built.as_ref().map(|built| built.base_sha256.clone()),
        head_sha256: built.as_ref().map(|built| built.head_sha256.clone()),
        outcome,
        exit_code: outcome.exit_code(),
        margin: rules.margin.exp_m1(),
        floor: rules.floor.exp_m1(),
        budget_s: asked.budget.as_secs_f64(),
        seed: asked.run.options.seed,
        cases: results,
    };
    // What can be written is, even if something else cannot.
    written.add(table.print(report::End(&compared)));
    written.add(write(json, |out| json::write(out, &compared)));
    written.add(write(markdown, |out| report::write_markdown(out, &compared)));
    written.add(write_page(html, || report::page(&compared)));
    if let Some(folder) = &asked.flames {
        for case in &compared.cases {
            let Some(svg) = case.culprit.as_ref().and_then(|culprit| culprit.flame_svg.as_ref()) else {
                continue;
            };
            let path = folder.join(format!("{}.svg", file_name(&case.name)));
            let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            let out = Output::open(path);
            written.add(out.and_then(|out| out.keep_with(|out| out.write_all(svg.as_bytes()))));
        }
    }
    if let Some(path) = history_file {
        written.add(history::append(path, &compared));
    }
    written.add(write(history_out, |out| history::write(out, &compared)));
    written.all()?;
    Ok(ExitCode::from(outcome.exit_code()))
}

/// What a case is called where nothing but letters, digits and dashes may stand.
fn file_name(case: &str) -> String {
    let words = case.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Where it is measured, and who looks on.
struct Setting<'a> {
    placement: &'a Placement,
    is_quiet: bool,
    stop: &'a AtomicBool,
}

/// One processor is the servers' and loadgen's: they wait for each other, and figures are that much less sure.
const SHARED_FACTOR: f64 = 2.0;

fn rules(margin: f64, floor: f64, placement: &Placement, findings: usize) -> Rules {
    let factor = if placement.is_apart() { 1.0 } else { SHARED_FACTOR };
    Rules { margin: (margin * factor).ln_1p(), floor: (floor * factor).ln_1p(), findings: findings.max(1) }
}

/// Those that were asked for, or the usual ones.
fn metrics(asked: &Compare) -> Vec<Metric> {
    match asked.metrics.as_slice() {
        [] => vec![Metric::Cpu, Metric::Instructions, Metric::Syscalls, Metric::Allocations],
        metrics => {
            let mut metrics = metrics.to_vec();
            metrics.sort();
            metrics.dedup();
            metrics
        }
    }
}

fn compare_case(
    asked: &Compare,
    case: &Case,
    rules: Rules,
    budget: Duration,
    setting: &Setting<'_>,
) -> Result<CaseResult> {
    let began = Instant::now();
    let (exact, timed): (Vec<Metric>, Vec<Metric>) =
        metrics(asked).into_iter().partition(|metric| metric.is_exact());
    if !exact.is_empty() {
        tell(setting, &format!("{}: counting", case.name));
    }
    let counted =
        exact::exact(case, &exact, setting.placement, setting.stop).with_context(|| case.name.clone())?;
    let mut findings = counted.findings.clone();
    let mut notes = counted.notes.clone();
    if !setting.placement.is_apart() && !timed.is_empty() {
        notes.push("the servers and loadgen share one processor: margin and floor are doubled".into());
    }
    let (mut lives, mut requests) = (Vec::new(), None);
    if !timed.is_empty() {
        let measured = timed_findings(case, &timed, rules, began + budget, asked.run.options.seed, setting)
            .with_context(|| case.name.clone())?;
        findings.extend(measured.findings);
        (lives, requests) = (measured.lives, measured.requests);
    }
    findings.sort_by_key(|finding| finding.metric);
    let outcome = findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Inconclusive);
    let mut culprit = None;
    if outcome == Outcome::Fail || asked.profile {
        // Whoever asked for nothing but times has nothing counted yet.
        let counted = if counted.profiles.is_some() {
            counted
        } else {
            tell(setting, &format!("{}: looking for the functions that changed", case.name));
            exact::exact(case, &[Metric::Instructions, Metric::Syscalls], setting.placement, setting.stop)
                .with_context(|| case.name.clone())?
        };
        notes.extend(counted.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>());
        culprit = Some(counted.culprit()?);
    }
    let rounds = || lives.iter().flat_map(|life| &life.rounds);
    let rounds_set_aside = rounds().filter(|round| round.is_set_aside()).count();
    Ok(CaseResult {
        name: case.name.clone(),
        base: case.base.clone(),
        head: case.head.clone(),
        outcome,
        findings,
        notes,
        requests_per_slice: requests,
        lives: lives.len(),
        rounds: rounds().count(),
        rounds_set_aside,
        elapsed_s: began.elapsed().as_secs_f64(),
        culprit,
        slices: lives,
    })
}

fn tell(setting: &Setting<'_>, words: &str) {
    if !setting.is_quiet {
        message!("{words}");
    }
}

/// What was timed.
struct Timed {
    findings: Vec<Finding>,
    lives: Vec<Life>,
    requests: Option<u64>,
}

fn timed_findings(
    case: &Case,
    metrics: &[Metric],
    rules: Rules,
    until: Instant,
    seed: u64,
    setting: &Setting<'_>,
) -> Result<Timed> {
    let paired = Paired::prepare(case, setting.placement, setting.stop)?;
    let began = Instant::now();
    // The same lives are decided on in the same way: what the bootstrap draws depends on nothing else.
    let decide = |lives: &[Life], metric: Metric| {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(lives.len() as u64));
        decide::look(lives, metric, rules, &mut random)
    };
    let mut order = SmallRng::seed_from_u64(seed);
    let lives = paired.lives(until, &mut order, |lives| {
        is_look(lives.len()) && {
            let decisions: Vec<_> = metrics.iter().map(|&metric| (metric, decide(lives, metric))).collect();
            let known = decisions.iter().filter_map(|(metric, decision)| Some((metric, decision.as_ref()?)));
            let words: Vec<_> =
                known.clone().map(|(metric, decision)| format!("{metric} {}", decision.in_words())).collect();
            tell(setting, &format!("{}, after {} lives: {}", case.name, lives.len(), words.join("; ")));
            let fails = |decision: &Decision| decision.outcome == Outcome::Fail && decision.is_final;
            known.clone().any(|(_, decision)| fails(decision))
                || decisions.iter().all(|(_, decision)| decision.as_ref().is_some_and(|known| known.is_final))
        }
    })?;
    let each = began.elapsed() / lives.len() as u32;
    let findings =
        metrics.iter().map(|&metric| finding(metric, decide(&lives, metric), &lives, each)).collect();
    Ok(Timed { findings, lives, requests: paired.case.run.options.requests })
}

/// A decision as it is told, with the medians of both sides. A life takes `each`.
fn finding(metric: Metric, decision: Option<Decision>, lives: &[Life], each: Duration) -> Finding {
    let value = |side: Side| {
        let rounds = lives.iter().flat_map(|life| &life.rounds).filter(|round| !round.is_set_aside());
        let slices = rounds.flat_map(|round| paired::SEATS.into_iter().zip(round.slices));
        let mut values: Vec<f64> =
            slices.filter(|(of, _)| *of == side).filter_map(|(_, slice)| slice.value(metric)).collect();
        if values.is_empty() { f64::NAN } else { median(&mut values) }
    };
    let mut finding = Finding {
        metric,
        unit: metric.unit(),
        outcome: Outcome::Inconclusive,
        base: value(Side::Base),
        head: value(Side::Head),
        change: f64::NAN,
        low: f64::NAN,
        high: f64::NAN,
        control: None,
        why: Some("the time did not suffice to restart the servers once: raise --budget".into()),
    };
    let Some(decision) = decision else {
        if let Some(words) = decide::spoilt(lives) {
            (finding.outcome, finding.why) = (Outcome::Unreliable, Some(words));
        }
        return finding;
    };
    finding.outcome = decision.outcome;
    finding.change = decision.change.estimate.exp_m1();
    finding.low = decision.change.low.exp_m1();
    finding.high = decision.change.high.exp_m1();
    finding.control = Some(decision.control.estimate.exp_m1());
    let more = decision.lives_needed.map(|needed| each * needed.saturating_sub(lives.len()) as u32);
    finding.why = match more.filter(|more| !more.is_zero()) {
        Some(more) if decision.outcome == Outcome::Inconclusive => {
            Some(format!("about {:.0} s more are needed: raise --budget", more.as_secs_f64().max(1.0)))
        }
        _ => decision.why,
    };
    finding
}
