//! `loadgen run` with several rates or connection counts: one measurement for each step, each of them several times.
//!
//! Every round visits all steps in an order of its own, so that whatever else changes with time (heat, neighbours, a
//! cache that fills) falls on all steps alike. What a step comes to is the median over its valid repeats, with the least
//! and the greatest beside it; the others are counted, and no figure of theirs is in it.

mod page;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::cli::{Asked, Run, RunOnce};
use crate::message::message;
use crate::output::{Output, Written};
use crate::report::{Quantiles, Report, SCHEMA_VERSION, counted, figures, write, write_page};
use crate::run::Watch;
use crate::server::Server;
use crate::service::Service;
use crate::trial::{first_reply, trial};
use crate::verdict::{Limiter, Verdict};
use crate::{EXIT_INVALID, Usage, os};

/// What the sweep came to. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Swept {
    schema_version: u32,
    loadgen_version: &'static str,
    /// Invalid if that is what all repeats of a step are.
    verdict: Verdict,
    service: Service,
    address: String,
    varied: Varied,
    /// Whether times are response times; else they are service times.
    #[serde(skip)]
    is_open_loop: bool,
    #[serde(skip)]
    title: String,
    #[serde(skip)]
    shape: String,
    seed: u64,
    repeats: usize,
    /// Why some repeats are missing.
    ended_early: Option<String>,
    steps: Vec<Step>,
}

/// What the steps differ in.
#[derive(Clone, Copy, PartialEq, Serialize)]
enum Varied {
    #[serde(rename = "rate_per_s")]
    Rate,
    #[serde(rename = "connections")]
    Connections,
}

/// Figures over the valid repeats; null if there are none.
#[derive(Serialize)]
struct Step {
    rate_per_s: Option<f64>,
    connections: usize,
    /// Invalid if no repeat is valid; null if none was made.
    verdict: Option<Verdict>,
    valid_repeats: usize,
    /// What stood in the way of the others.
    limiters: Vec<Limiter>,
    offered_per_s: Option<Spread>,
    throughput_per_s: Option<Spread>,
    /// Of the response time in an open loop, of the service time in a closed one.
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
    p999_us: Option<Spread>,
    server_cpu_ns_per_request: Option<Spread>,
    repeats: Vec<Repeat>,
}

/// The median of several figures, between the least and the greatest of them. Times may be those of lost replies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    #[serde(serialize_with = "figures::serialize_us")]
    median: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    min: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    max: f64,
}

/// One measurement of a step.
#[derive(Serialize)]
struct Repeat {
    /// Its place in the order of the whole sweep, from 1.
    place: usize,
    report: Option<Report>,
    /// Why there is no report.
    error: Option<String>,
}

/// The columns, each with its name, how it is written, and where it is in a step.
const COLUMNS: [Column; 6] = [
    Column { name: "offered_per_s", words: figures::rate, of: |step| step.offered_per_s },
    Column { name: "throughput_per_s", words: figures::rate, of: |step| step.throughput_per_s },
    Column { name: "p50_us", words: figures::time, of: |step| step.p50_us },
    Column { name: "p99_us", words: figures::time, of: |step| step.p99_us },
    Column { name: "p999_us", words: figures::time, of: |step| step.p999_us },
    Column {
        name: "server_cpu_ns_per_request",
        words: |ns| figures::time(ns / 1e3),
        of: |step| step.server_cpu_ns_per_request,
    },
];

struct Column {
    name: &'static str,
    words: fn(f64) -> String,
    of: fn(&Step) -> Option<Spread>,
}

/// Measures every step, and tells what came of it.
pub fn sweep(once: &RunOnce, runs: &[Run], stop: &AtomicBool) -> Result<ExitCode> {
    let fewest = runs.iter().min_by_key(|run| run.connections).context("there is no step")?;
    let asked = fewest.asked().map_err(Usage)?;
    let outputs = &once.outputs;
    let ([json, csv, html], shown) = Output::open_all([
        ("--json", outputs.json.as_deref()),
        ("--csv", outputs.csv.as_deref()),
        ("--html", outputs.html.as_deref()),
    ])?;
    os::raise_descriptor_limit(runs.iter().map(|run| run.connections).max().unwrap_or_default())?;
    let first = runs.first().context("there is no step")?;
    let mut server = Server::of(&once.options, outputs.quiet, &first_reply(first), stop)?;

    let mut swept = Swept::new(once, runs);
    swept.measure(runs, &asked, server.as_mut(), stop, outputs.quiet);

    // What can be written is, even if something else cannot.
    let mut written = Written::default();
    written.add(write(json, |out| swept.write_json(out)));
    written.add(write(csv, |out| swept.write_csv(out)));
    written.add(write_page(html, || page::page(&swept)));
    written.add(shown.print(&swept));
    if let Some(words) = &swept.ended_early {
        message!("{words}");
    }
    for step in swept.steps.iter().filter(|step| step.verdict == Some(Verdict::Invalid)) {
        message!("{}: {}", swept.name(step), step.trouble());
    }
    written.all()?;
    match swept.verdict {
        Verdict::Valid => Ok(ExitCode::SUCCESS),
        Verdict::Invalid => Ok(ExitCode::from(EXIT_INVALID)),
    }
}

impl Swept {
    fn new(once: &RunOnce, runs: &[Run]) -> Swept {
        let options = &once.options;
        let repeats = once.repeats(runs.len());
        let is_open_loop = once.rates.is_some();
        let varied =
            if is_open_loop && once.connections.0.len() == 1 { Varied::Rate } else { Varied::Connections };
        let pace = match (varied, runs.first().and_then(|run| run.rate)) {
            (Varied::Connections, Some(rate)) => format!("open loop at {}", figures::rate(rate)),
            (_, Some(_)) if once.reconnect => "open loop, a connection for each request".to_owned(),
            (_, Some(_)) => "open loop".to_owned(),
            (_, None) if once.reconnect => "closed loop, a connection for each request".to_owned(),
            (_, None) => format!("closed loop, depth {}", once.pacing.depth),
        };
        let connections = match varied {
            Varied::Rate => runs.first().map(|run| format!("connections: {}, ", run.connections)),
            Varied::Connections => None,
        };
        let steps = runs.iter().map(|run| Step {
            rate_per_s: run.rate,
            connections: run.connections,
            verdict: None,
            valid_repeats: 0,
            limiters: Vec::new(),
            offered_per_s: None,
            throughput_per_s: None,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            server_cpu_ns_per_request: None,
            repeats: Vec::new(),
        });
        Swept {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::Invalid,
            service: options.target.service,
            address: options.target.address.to_string(),
            varied,
            is_open_loop,
            title: format!("{} at {}, {pace}", options.target.service, options.target.address),
            shape: format!(
                "{}{} of each step in random order, seed {}",
                connections.unwrap_or_default(),
                counted(repeats, "repeat"),
                options.seed
            ),
            seed: options.seed,
            repeats,
            ended_early: None,
            steps: steps.collect(),
        }
    }

    /// Round by round, until all are done, the server is gone or somebody has had enough.
    fn measure(
        &mut self,
        runs: &[Run],
        asked: &Asked<'_>,
        mut server: Option<&mut Server>,
        stop: &AtomicBool,
        is_quiet: bool,
    ) {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let all = runs.len() * self.repeats;
        let mut order: Vec<_> = (0..runs.len()).collect();
        let mut place = 0;
        'rounds: for round in 0..self.repeats {
            order.shuffle(&mut random);
            for &index in &order {
                place += 1;
                let mut run = runs[index].clone();
                // The same plan and sizes for all steps, others in each round; threads count on from the seed.
                run.options.seed = self.seed.wrapping_add((round as u64) << 32);
                let repeat = Repeat::measure(&run, asked, server.as_deref_mut(), stop, place);
                if stop.load(Ordering::Relaxed) {
                    self.ended_early = Some(format!("ended by a signal after {} of {all}", place - 1));
                    break 'rounds;
                }
                if !is_quiet {
                    let step = self.name(&self.steps[index]);
                    message!("{place} of {all}: {step}: {}", repeat.words());
                }
                self.steps[index].repeats.push(repeat);
                if let Some(Err(error)) = server.as_deref_mut().map(|server| server.check(Duration::ZERO)) {
                    self.ended_early = Some(format!("ended after {place} of {all}: {error:#}"));
                    break 'rounds;
                }
            }
        }
        for step in &mut self.steps {
            step.sum_up();
        }
        let mut made = self.steps.iter().filter_map(|step| step.verdict).peekable();
        if made.peek().is_some() && made.all(|verdict| verdict == Verdict::Valid) {
            self.verdict = Verdict::Valid;
        }
    }

    /// What a step is called.
    fn name(&self, step: &Step) -> String {
        match (self.varied, step.rate_per_s) {
            (Varied::Rate, Some(rate)) => figures::rate(rate),
            _ => counted(step.connections, "connection"),
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "rate_per_s,connections,repeats,valid_repeats,limiters")?;
        for Column { name, .. } in COLUMNS {
            write!(out, ",{name}_median,{name}_min,{name}_max")?;
        }
        writeln!(out, ",interrupted")?;
        for step in &self.steps {
            let rate = step.rate_per_s.map(|rate| rate.to_string()).unwrap_or_default();
            let limiters: Vec<_> = step.limiters.iter().map(|limiter| limiter.words()).collect();
            let (made, valid) = (step.repeats.len(), step.valid_repeats);
            write!(out, "{rate},{},{made},{valid},{}", step.connections, limiters.join(";"))?;
            for Column { of, .. } in COLUMNS {
                match of(step) {
                    Some(Spread { median, min, max }) => {
                        let [median, min, max] = [median, min, max].map(figures::csv_us);
                        write!(out, ",{median},{min},{max}")?;
                    }
                    None => write!(out, ",,,")?,
                }
            }
            writeln!(out, ",{}", u8::from(self.ended_early.is_some()))?;
        }
        Ok(())
    }
}

impl Repeat {
    fn measure(
        run: &Run,
        asked: &Asked<'_>,
        server: Option<&mut Server>,
        stop: &AtomicBool,
        place: usize,
    ) -> Repeat {
        match trial(run, asked, server, stop, Watch::nobody()) {
            Ok(measured) => Repeat { place, report: Some(Report::new(run, asked, &measured)), error: None },
            Err(error) => Repeat { place, report: None, error: Some(format!("{error:#}")) },
        }
    }

    fn valid(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| report.verdict == Verdict::Valid)
    }

    /// What came of it, in a line.
    fn words(&self) -> String {
        match (&self.report, &self.error) {
            (Some(report), _) => report.summary(),
            (None, error) => format!("INVALID: {}", error.as_deref().unwrap_or_default()),
        }
    }
}

impl Step {
    /// Makes the step's figures of those of its valid repeats.
    fn sum_up(&mut self) {
        let valid: Vec<_> = self.repeats.iter().filter_map(Repeat::valid).collect();
        let spread = |of: &dyn Fn(&Report) -> Option<f64>| {
            Spread::of(valid.iter().filter_map(|report| of(report)).collect())
        };
        let time = |of: fn(&Quantiles) -> f64| spread(&|report| report.times_us().map(of));
        self.offered_per_s = spread(&|report| Some(report.offered_per_s));
        self.throughput_per_s = spread(&|report| Some(report.throughput_per_s));
        self.p50_us = time(|times| times.p50);
        self.p99_us = time(|times| times.p99);
        self.p999_us = time(|times| times.p999);
        self.server_cpu_ns_per_request = spread(&|report| report.server_cpu_ns_per_request);
        self.valid_repeats = valid.len();
        let reports = self.repeats.iter().filter_map(|repeat| repeat.report.as_ref());
        for limiter in reports.filter_map(|report| report.limiter) {
            if !self.limiters.contains(&limiter) {
                self.limiters.push(limiter);
            }
        }
        self.verdict = match (self.repeats.is_empty(), self.valid_repeats) {
            (true, _) => None,
            (false, 0) => Some(Verdict::Invalid),
            (false, _) => Some(Verdict::Valid),
        };
    }

    /// What came of its repeats, in a few words.
    fn verdict_words(&self) -> String {
        let (made, valid) = (self.repeats.len(), self.valid_repeats);
        match self.verdict {
            None => "not measured".into(),
            Some(Verdict::Valid) if made == valid => "VALID".into(),
            Some(Verdict::Valid) => format!("{valid} of {made} VALID"),
            Some(Verdict::Invalid) => "INVALID".into(),
        }
    }

    /// The first thing that went wrong with it.
    fn trouble(&self) -> String {
        let trouble = self.repeats.iter().find(|repeat| repeat.valid().is_none());
        trouble.map_or("not measured".into(), Repeat::words)
    }
}

impl Spread {
    /// None of none.
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_around_the_middle() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of(vec![3.0, 1.0, 9.0]), spread(3.0, 1.0, 9.0));
        assert_eq!(Spread::of(vec![4.0, 2.0]), spread(3.0, 2.0, 4.0));
        assert_eq!(Spread::of(vec![]), None);
    }
}
