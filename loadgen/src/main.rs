//! loadgen: drives load at a server, at tidewheel or at any other, and verifies every reply.
//!
//! It is an instrument, so it shares no code with the engine that it measures: faults that both had in common would
//! hide each other. Each of its threads has a loop:
//!
//! ```text
//!     plan, sizes ──► load: write ──► stream ──► the server
//!                                                   │
//!     verdict, report ◄── record ◄── exchange: verify ◄┘
//! ```
//!
//! Exit codes: 0 fine; 2 bad usage; 3 INVALID: the figures, if there are any, are not to be believed (wrong replies, a
//! connection that was refused or closed by the peer, a generator that could not keep to its plan).

#![deny(unsafe_code)]

mod address;
mod alarm;
mod cli;
mod exchange;
mod load;
mod os;
mod plan;
mod record;
mod report;
mod run;
mod service;
mod size;
mod stream;
mod text;
mod units;
mod verdict;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{Cli, Command, Idle, Run};
use crate::exchange::Walk;
use crate::load::{Amount, Load, Shape};
use crate::report::Report;
use crate::run::{Task, measure};
use crate::service::Service;
use crate::size::Sizes;
use crate::text::Text;
use crate::verdict::Verdict;

/// The exit code for figures that are not to be believed.
const EXIT_INVALID: u8 = 3;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => self::run(&run),
        Command::Idle(idle) => self::idle(&idle).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("loadgen: {error:#}");
        ExitCode::from(EXIT_INVALID)
    })
}

/// Warm-up, then the measured window, then the report.
fn run(run: &Run) -> Result<ExitCode> {
    os::raise_descriptor_limit(run.connections)?;
    let server_clock = match run.pid {
        Some(pid) => {
            Some(os::CpuClock::of_process(pid).with_context(|| format!("the CPU clock of process {pid}"))?)
        }
        None => None,
    };
    let task = Task {
        address: &run.target.address,
        shape: Shape {
            connections: run.connections,
            sizes: run.size.clone(),
            timeout: run.timeout,
            seed: run.seed,
        },
        threads: run.threads,
        pace: run.pace(),
        warmup: run.warmup,
        window: run.amount(),
        server_clock,
    };
    let stop = stop_on_signal()?;
    let measured = match run.target.service {
        service @ (Service::Echo | Service::Uppercase) => measure(&task, || Walk::of(service), &stop)?,
    };

    let report = Report::new(run, &measured);
    match run.json.as_deref() {
        Some("-") => writeln!(io::stdout(), "{}", report.json())?,
        Some(path) => {
            std::fs::write(path, report.json() + "\n").with_context(|| format!("writing {path}"))?;
            write!(io::stdout(), "{report}")?;
        }
        None => write!(io::stdout(), "{report}")?,
    }
    match report.verdict() {
        Verdict::Valid => Ok(ExitCode::SUCCESS),
        Verdict::Invalid => {
            eprintln!("loadgen: {}", report.complaint());
            Ok(ExitCode::from(EXIT_INVALID))
        }
    }
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the program.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("catching signals")?;
    }
    Ok(stop)
}

/// Opens the connections, has one line echoed on each, and holds them.
fn idle(idle: &Idle) -> Result<()> {
    os::raise_descriptor_limit(idle.connections)?;
    let line = format!("{}\n", idle.line).into_bytes();
    let shape = Shape {
        connections: idle.connections,
        sizes: Sizes::fixed(line.len()),
        timeout: idle.timeout,
        seed: 0,
    };
    let mut load = Load::connect(&idle.address, shape, Walk::new(Text::repeated(&line)))?;
    // From quiet and at depth 1, as many requests as connections are one on each.
    load.drive(Amount::Requests(idle.connections as u64), 1, &|| false)?;
    if let Some(error) = load.take_record().first_error {
        bail!("{error}");
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "holding {}", idle.connections)?;
    stdout.flush()?;
    match load.hold(idle.hold)? {
        0 => Ok(()),
        closed => bail!("the peer closed {closed} of {} idle connections", idle.connections),
    }
}
