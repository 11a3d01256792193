//! `loadgen search`: the highest rate of an open loop at which the conditions are kept.

mod edge;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use console::style;
use serde::Serialize;

use crate::cli::{Asked, Options, Pacing, Run, Search};
use crate::fail_if::{Condition, Measures};
use crate::message::message;
use crate::output::{Output, Written};
use crate::report::{Report, SCHEMA_VERSION, counted, figures, write};
use crate::run::Watch;
use crate::server::Server;
use crate::service::Service;
use crate::trial::{first_reply, trial};
use crate::verdict::{Limiter, Verdict};
use crate::{EXIT_FAILED, EXIT_INVALID, Usage, os};

use edge::{Edge, Outcome, Tally};

/// What the search came to. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Found {
    schema_version: u32,
    loadgen_version: &'static str,
    /// Invalid if it was the generator that set the bound, or if nothing came of it.
    verdict: Verdict,
    /// What kept the generator from offering more; the server if it has never answered.
    limiter: Option<Limiter>,
    #[serde(skip)]
    is_silent: bool,
    service: Service,
    address: String,
    connections: usize,
    slo: Vec<String>,
    precision: f64,
    repeats: usize,
    seed: u64,
    ended: Ended,
    elapsed_s: f64,
    /// Who set the upper bound; null if there is none.
    limited_by: Option<LimitedBy>,
    /// The highest rate of which all repeats passed.
    all_passed: Option<Tally>,
    /// The lowest rate that most repeats failed, or that the generator could not keep to.
    upper: Option<Tally>,
    /// Everything that was tried, in ascending order.
    rates: Vec<Tally>,
    /// Every measurement, in the order in which they were made.
    measurements: Vec<Measurement>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Ended {
    /// The bounds are as close as they were asked to be.
    Precision,
    /// There was no time for another measurement.
    Budget,
    /// Somebody has had enough.
    Signal,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum LimitedBy {
    Server,
    Generator,
}

#[derive(Serialize)]
struct Measurement {
    rate_per_s: f64,
    outcome: Outcome,
    /// Why it did not pass.
    reason: Option<String>,
    report: Option<Report>,
}

/// Searches, and tells what it has found.
pub fn search(search: &Search, stop: &AtomicBool) -> Result<ExitCode> {
    let asked = search.options.asked(search.connections).map_err(Usage)?;
    let measures = Measures { open_loop: true, server_cpu: search.options.knows_server() };
    for condition in &search.slo {
        condition.check(measures).map_err(|words| Usage(format!("--slo {words}")))?;
    }
    let ([json], table) = Output::open_all([("--json", search.json.as_deref())])?;
    os::raise_descriptor_limit(search.connections)?;
    let first = search.run(search.start, search.options.clone());
    let mut server = Server::of(&search.options, search.quiet, &first_reply(&first), stop)?;

    let mut edge = Edge::new(search.start, search.precision, search.repeat);
    let began = Instant::now();
    let (measurements, ended) = measure(search, &asked, &mut edge, server.as_mut(), stop)?;
    let found = Found::new(search, &edge, measurements, ended, began.elapsed());

    let mut written = Written::default();
    written.add(write(json, |out| found.write_json(out)));
    written.add(table.print(&found));
    if found.verdict == Verdict::Invalid {
        message!("INVALID: {}", found.summary());
    }
    written.all()?;
    if found.verdict == Verdict::Invalid {
        return Ok(ExitCode::from(EXIT_INVALID));
    }
    match found.all_passed {
        Some(_) => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::from(EXIT_FAILED)),
    }
}

impl Search {
    /// One measurement.
    fn run(&self, rate_per_s: f64, options: Options) -> Run {
        let pacing = Pacing { depth: 1, arrivals: self.arrivals };
        Run { connections: self.connections, rate: Some(rate_per_s), pacing, options, churn: None }
    }
}

/// Measures one rate after the other, until the edge is known or time is up.
fn measure(
    search: &Search,
    asked: &Asked<'_>,
    edge: &mut Edge,
    mut server: Option<&mut Server>,
    stop: &AtomicBool,
) -> Result<(Vec<Measurement>, Ended)> {
    let began = Instant::now();
    let mut measurements = Vec::new();
    let mut longest = Duration::ZERO;
    while let Some(rate_per_s) = edge.next() {
        // The first is made in any case.
        if !measurements.is_empty() && began.elapsed() + longest > search.budget {
            return Ok((measurements, Ended::Budget));
        }
        let mut options = search.options.clone();
        // Each has a plan of its own; threads count on from the seed.
        options.seed = options.seed.wrapping_add((measurements.len() as u64) << 32);
        let run = search.run(rate_per_s, options);
        let started = Instant::now();
        let measured = trial(&run, asked, server.as_deref_mut(), stop, Watch::nobody());
        longest = longest.max(started.elapsed());
        if stop.load(Ordering::Relaxed) {
            return Ok((measurements, Ended::Signal));
        }
        if let Some(server) = server.as_deref_mut() {
            server.check(Duration::ZERO).with_context(|| format!("at {}", figures::rate(rate_per_s)))?;
        }
        let measurement = match measured {
            Ok(measured) => Measurement::of(rate_per_s, Report::new(&run, asked, &measured), &search.slo)?,
            // A server that has never answered has no edge to be found.
            Err(error) if measurements.is_empty() => return Err(error),
            Err(error) => {
                let reason = Some(format!("{error:#}"));
                // That this machine has run out of something says nothing about the server.
                let outcome = if error.is::<Usage>() { Outcome::Limited } else { Outcome::Failed };
                Measurement { rate_per_s, outcome, reason, report: None }
            }
        };
        if !search.quiet {
            let reason = measurement.reason.as_deref().unwrap_or("passed");
            message!("{}: {reason}", figures::rate(rate_per_s));
        }
        edge.note(rate_per_s, measurement.outcome);
        measurements.push(measurement);
    }
    Ok((measurements, Ended::Precision))
}

impl Measurement {
    /// Fails on wrong replies: a server that gives them has no rate.
    fn of(rate_per_s: f64, report: Report, slo: &[Condition]) -> Result<Measurement> {
        let broken = slo.iter().find(|condition| !condition.is_met(&report));
        let (outcome, reason) = match (report.verdict, report.limiter) {
            (Verdict::Valid, _) => match broken {
                None => (Outcome::Passed, None),
                Some(condition) => (
                    Outcome::Failed,
                    Some(format!("{condition} not met: {}", condition.figure_in_words(&report))),
                ),
            },
            (Verdict::Invalid, Some(Limiter::WrongReplies)) => {
                bail!("at {}: {}", figures::rate(rate_per_s), report.complaint())
            }
            (Verdict::Invalid, limiter) => {
                let is_generator = limiter.is_some_and(Limiter::is_generator);
                let outcome = if is_generator { Outcome::Limited } else { Outcome::Failed };
                (outcome, Some(report.complaint()))
            }
        };
        Ok(Measurement { rate_per_s, outcome, reason, report: Some(report) })
    }
}

impl Found {
    fn new(
        search: &Search,
        edge: &Edge,
        measurements: Vec<Measurement>,
        ended: Ended,
        elapsed: Duration,
    ) -> Found {
        let (all_passed, upper) = (edge.all_passed().copied(), edge.upper().copied());
        let limited_by = upper
            .map(|tally| if tally.limited > tally.failed { LimitedBy::Generator } else { LimitedBy::Server });
        let is_limited = limited_by == Some(LimitedBy::Generator);
        let asked = measurements.iter().filter_map(|measurement| measurement.report.as_ref());
        // A rate so low that nothing was due in time says nothing.
        let mut asked = asked.filter(|report| report.requests > 0).peekable();
        // A server that never answers has no rate at all, not a low one.
        let is_silent = asked.peek().is_some() && asked.all(Report::is_silent);
        let at_upper = |measurement: &&Measurement| {
            measurement.outcome == Outcome::Limited
                && upper.is_some_and(|tally| tally.rate_per_s == measurement.rate_per_s)
        };
        let limiter = measurements
            .iter()
            .find(at_upper)
            .filter(|_| is_limited && !is_silent)
            .and_then(|measurement| measurement.report.as_ref()?.limiter)
            .or(is_silent.then_some(Limiter::Server));
        let is_nothing = all_passed.is_none() && upper.is_none();
        Found {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            is_silent,
            verdict: if is_limited || is_nothing || is_silent { Verdict::Invalid } else { Verdict::Valid },
            limiter,
            service: search.options.target.service,
            address: search.options.target.address.to_string(),
            connections: search.connections,
            slo: search.slo.iter().map(Condition::to_string).collect(),
            precision: search.precision,
            repeats: search.repeat,
            seed: search.options.seed,
            ended,
            elapsed_s: elapsed.as_secs_f64(),
            limited_by,
            all_passed,
            upper,
            rates: edge.tallies().to_vec(),
            measurements,
        }
    }

    /// What was found, in a line.
    fn summary(&self) -> String {
        let tally = |tally: &Tally| {
            format!("{} ({} of {} passed)", figures::rate(tally.rate_per_s), tally.passed, tally.repeats())
        };
        if self.is_silent {
            return "no replies at any rate".into();
        }
        match (&self.all_passed, &self.upper, self.limited_by) {
            (None, None, _) => "no measurement was completed".into(),
            (Some(lower), None, _) => format!("at least {}", tally(lower)),
            (lower, Some(upper), Some(LimitedBy::Generator)) => {
                let limiter = self.limiter.map_or("generator", Limiter::words);
                let at_least = lower
                    .as_ref()
                    .map_or("no rate passed".into(), |lower| format!("at least {}", tally(lower)));
                format!(
                    "{at_least}; the generator could not offer {}: limited by {limiter}",
                    figures::rate(upper.rate_per_s)
                )
            }
            (Some(lower), Some(upper), _) => {
                format!("between {}, and {}", tally(lower), tally(upper))
            }
            (None, Some(upper), _) => format!("less than {}", tally(upper)),
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

/// For a person at a terminal.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("{} at {}: {}", self.service, self.address, self.slo.join(", "));
        writeln!(f, "{}", style(title).bold())?;
        let shape = format!(
            "open loop, {}, up to {} of each rate, seed {}",
            counted(self.connections, "connection"),
            counted(self.repeats, "repeat"),
            self.seed
        );
        writeln!(f, "{}\n", style(shape).dim())?;
        for tally in &self.rates {
            let Tally { rate_per_s, passed, limited, .. } = *tally;
            write!(f, "  {:>10}   {passed} of {} passed", figures::rate(rate_per_s), tally.repeats())?;
            if limited > 0 {
                write!(f, ", {limited} INVALID")?;
            }
            let at = |measurement: &&Measurement| measurement.rate_per_s == rate_per_s;
            let mut reasons =
                self.measurements.iter().filter(at).filter_map(|measurement| measurement.reason.as_ref());
            match reasons.next() {
                Some(reason) => writeln!(f, " ({})", reason.trim_start_matches("INVALID, "))?,
                None => writeln!(f)?,
            }
        }
        let summary = match self.verdict {
            Verdict::Valid => style(self.summary()).green().bold(),
            Verdict::Invalid => style(format!("INVALID: {}", self.summary())).red().bold(),
        };
        let ended = match self.ended {
            Ended::Precision if self.upper.is_none() => "no rate is high enough".to_owned(),
            Ended::Precision => format!("precision reached: {}", figures::share(self.precision)),
            Ended::Budget => "ended by --budget: raise it for a more precise result".into(),
            Ended::Signal => "INTERRUPTED: ended by a signal".into(),
        };
        writeln!(f, "\n  {summary}\n  {}, in {:.1} s", style(ended).dim(), self.elapsed_s)
    }
}
