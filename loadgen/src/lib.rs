//! loadgen: a load generator for tidewheel or any other server that verifies every reply.
//!
//! It shares no code with the engine that it measures, because common bugs would hide each other. (`embedded` runs the
//! engine in a separate process.) Each of its threads has a loop:
//!
//! ```text
//!     plan, sizes ──► load: write ──► stream ──► the server
//!                                                   │
//!     verdict, report ◄── record ◄── exchange: verify ◄┘
//! ```
//!
//! or the one in `datagram`, where replies may be lost, duplicated and reordered, or the one in `chat`, where one member's
//! line is delivered to others, or the one in `churn`, where each exchange has its own connection.
//!
//! Exit codes: 0 success; 1 a condition of --fail-if was met; 2 bad usage; 3 INVALID: the figures, if there are any, are not
//! reliable (wrong replies, a connection that was refused or closed by the peer, a generator that could not keep to its plan).
//!
//! The library is only for the programs in this repository; its API is not stable.

#![deny(unsafe_code)]
#![allow(missing_docs, reason = "its items are public for the programs beside it alone")]
// They panic where a standard stream fails; see `message` and `output`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod address;
pub mod alarm;
pub mod chat;
pub mod churn;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod datagram;
pub mod embedded;
pub mod exchange;
pub mod fail_if;
pub mod history;
pub mod idle;
pub mod interval;
pub mod load;
pub mod machine;
pub mod meant;
pub mod merge;
pub mod message;
pub mod os;
pub mod output;
pub mod placement;
pub mod plan;
pub mod progress;
pub mod readiness;
pub mod record;
pub mod report;
pub mod run;
pub mod search;
pub mod server;
pub mod service;
pub mod shortage;
pub mod size;
pub mod sources;
pub mod standing;
pub mod steps;
pub mod stream;
pub mod sweep;
pub mod syscalls;
pub mod template;
pub mod text;
pub mod tour;
pub mod tree;
pub mod trial;
pub mod units;
pub mod verdict;

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{Cli, Command, Run, RunOnce};
use crate::fail_if::Measures;
use crate::message::message;
use crate::progress::Progress;
use crate::report::{Files, Report};
use crate::run::Watch;
use crate::server::Server;
use crate::trial::{first_reply, trial};
use crate::verdict::Verdict;

/// The exit code for figures that are not to be believed.
pub const EXIT_INVALID: u8 = 3;

/// The exit code for a condition of --fail-if that held, and for one of --slo that no rate keeps.
pub const EXIT_FAILED: u8 = 1;

/// The exit code for a command line that asks for what cannot be.
pub const EXIT_USAGE: u8 = 2;

/// What is wrong with the command line, found after it was read.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

pub fn main() -> ExitCode {
    if let Some(exit) = be_a_child() {
        return exit;
    }
    if let Some(now) = std::env::args().nth(1).and_then(|name| moved(&name)) {
        message!("{now}");
        return ExitCode::from(EXIT_USAGE);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            message!("{}", complaint(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let outcome = match cli.command {
        None => stop_on_signal().and_then(|stop| tour::tour(&cli.tour, &stop)),
        Some(Command::Run(run)) => self::run(&run),
        Some(Command::Search(search)) => stop_on_signal().and_then(|stop| search::search(&search, &stop)),
        Some(Command::Merge(merge)) => merge::merge(&merge),
        Some(Command::Idle(idle)) => stop_on_signal().and_then(|stop| idle::idle(&idle, &stop)),
        Some(Command::Compare(compare)) => {
            stop_on_signal().and_then(|stop| compare::compare(&compare, &stop))
        }
        Some(Command::History(history)) => history::history(&history),
    };
    outcome.unwrap_or_else(|error| {
        message!("{error:#}");
        ExitCode::from(if error.is::<Usage>() { EXIT_USAGE } else { EXIT_INVALID })
    })
}

/// What this program does instead, if it was started by itself as a part of a measurement.
pub fn be_a_child() -> Option<ExitCode> {
    if embedded::is_asked_for() {
        return Some(embedded::serve());
    }
    if server::keeper::is_asked_for() {
        return Some(server::keeper::keep());
    }
    compare::calibrate::hog_is_asked_for().then(compare::calibrate::be_a_hog)
}

/// Where what a former command did is found now.
fn moved(command: &str) -> Option<&'static str> {
    match command {
        "churn" => Some("loadgen churn is now loadgen run --reconnect"),
        "sweep" => Some(
            "loadgen sweep is now loadgen run with several rates or connection counts: -r 10k,20k or -c 1,10",
        ),
        "versus" => Some("versus is now a separate program: cargo run --release -p versus"),
        _ => None,
    }
}

/// Shows the help that was asked for and ends the program, or returns in one line what is wrong with the command line.
pub fn complaint(error: &clap::Error) -> String {
    if !error.use_stderr() {
        error.exit();
    }
    // clap's tip for -1 would make it a positional argument.
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
        && word.starts_with('-')
        && word[1..].starts_with(|first: char| first.is_ascii_digit())
    {
        return format!("unexpected argument '{word}': values must not be negative");
    }
    let text = error.to_string();
    let words: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let tips = text.lines().map(str::trim).filter(|line| line.starts_with("tip:"));
    let line: Vec<_> = words.into_iter().chain(tips).collect();
    line.join(" ").trim_start_matches("error: ").to_owned()
}

/// One measurement, or one of each rate or number of connections that is given.
fn run(once: &RunOnce) -> Result<ExitCode> {
    let runs = once.runs().map_err(Usage)?;
    match runs.as_slice() {
        [run] if once.repeats(1) == 1 => run_once(run, once),
        runs => {
            once.check_several().map_err(Usage)?;
            sweep::sweep(once, runs, &*stop_on_signal()?)
        }
    }
}

/// Warm-up, then the measured window, then the report.
fn run_once(run: &Run, RunOnce { syscalls, outputs, .. }: &RunOnce) -> Result<ExitCode> {
    let asked = run.asked().map_err(Usage)?;
    let open_loop = run.rate.is_some();
    for condition in &outputs.fail_if {
        let measures = Measures { open_loop, server_cpu: run.options.knows_server() };
        condition.check(measures).map_err(|words| Usage(format!("--fail-if {words}")))?;
    }
    if *syscalls {
        if !run.options.knows_server() {
            return Err(Usage("--syscalls needs --pid or --spawn".into()).into());
        }
        syscalls::check().map_err(Usage)?;
    }
    let mut files = Files::open(outputs, open_loop)?;
    // Before it starts a server, which inherits it.
    os::raise_descriptor_limit(run.connections)?;
    let stop = stop_on_signal()?;
    let mut server = Server::of(&run.options, outputs.quiet, &first_reply(run), &stop)?;
    let watch = Watch {
        progress: Progress::new(outputs.quiet),
        keeps_rows: files.want_rows(),
        log: files.log.as_mut(),
        counts_system_calls: *syscalls,
    };
    let measured = trial(run, &asked, server.as_mut(), &stop, watch)?;

    let mut report = Report::new(run, &asked, &measured);
    report.check(&outputs.fail_if);
    // What can be written is, even if something else cannot.
    let table = files.table;
    let mut written = files.write(&report, &measured);
    written.add(table.print(&report));
    if let Some(Err(error)) = &measured.system_calls {
        message!("--syscalls: {error:#}");
    }
    for condition in &outputs.fail_if {
        if let Some(figure) = condition.held(&report) {
            message!("failed: --fail-if {condition}: {figure}");
        }
    }
    if report.verdict == Verdict::Invalid {
        message!("{}", report.complaint());
    }
    written.all()?;
    Ok(ExitCode::from(match report.verdict {
        Verdict::Valid if report.failed_conditions.is_empty() => 0,
        Verdict::Valid => EXIT_FAILED,
        Verdict::Invalid => EXIT_INVALID,
    }))
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the program.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("catching signals")?;
    }
    Ok(stop)
}
