//! loadgen: drives load at a server, at tidewheel or at any other, and verifies every reply.
//!
//! It is an instrument, so it shares no code with the engine that it measures: faults that both had in common would
//! hide each other. One thread, one loop:
//!
//! ```text
//!     text ──► closed_loop: send ──► stream ──► the server
//!                                                  │
//!     report ◄── service times ◄── text: verify ◄──┘
//! ```
//!
//! Exit codes: 0 fine; 2 bad usage; 3 the figures, if there are any, are not to be believed (a wrong reply, a lost
//! one, a connection that was refused or closed by the peer).

#![deny(unsafe_code)]

mod address;
mod cli;
mod closed_loop;
mod os;
mod report;
mod stream;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cli::{Cli, Command, Idle, Run};
use crate::closed_loop::{Amount, ClosedLoop, Shape};
use crate::report::Report;
use crate::text::Text;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(run) => self::run(&run),
        Command::Idle(idle) => self::idle(&idle),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// Warm-up, then the measured window, then the report.
fn run(run: &Run) -> Result<()> {
    os::raise_descriptor_limit(run.connections)?;
    let server_clock = match run.pid {
        Some(pid) => {
            Some(os::CpuClock::of_process(pid).with_context(|| format!("the CPU clock of process {pid}"))?)
        }
        None => None,
    };
    let shape =
        Shape { connections: run.connections, depth: run.depth, size: run.size, timeout: run.timeout };
    let mut load = ClosedLoop::connect(&run.target.address, shape, Text::random(run.target.service))?;
    if !run.warmup.is_zero() {
        load.drive(Amount::Time(run.warmup), server_clock).context("while warming up")?;
        all_right(&load).context("while warming up")?;
    }
    let window = load.drive(run.amount(), server_clock)?;

    let report = Report::new(run, &window, load.wrong_replies());
    match run.json.as_deref() {
        Some("-") => writeln!(io::stdout(), "{}", report.json())?,
        Some(path) => {
            std::fs::write(path, report.json() + "\n").with_context(|| format!("writing {path}"))?;
            write!(io::stdout(), "{report}")?;
        }
        None => write!(io::stdout(), "{report}")?,
    }
    all_right(&load)
}

/// The verdict on the replies so far.
fn all_right(load: &ClosedLoop) -> Result<()> {
    match load.first_wrong_reply() {
        None => Ok(()),
        Some(first) => bail!("{} wrong replies, the first on {first}", load.wrong_replies()),
    }
}

/// Opens the connections, has one line echoed on each, and holds them.
fn idle(idle: &Idle) -> Result<()> {
    os::raise_descriptor_limit(idle.connections)?;
    let line = format!("{}\n", idle.line).into_bytes();
    let shape = Shape { connections: idle.connections, depth: 1, size: line.len(), timeout: idle.timeout };
    let mut load = ClosedLoop::connect(&idle.address, shape, Text::repeated(&line))?;
    // From quiet and at depth 1, as many requests as connections are one on each.
    load.drive(Amount::Requests(idle.connections as u64), None)?;
    all_right(&load)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "holding {}", idle.connections)?;
    stdout.flush()?;
    match load.hold(idle.hold)? {
        0 => Ok(()),
        closed => bail!("the peer closed {closed} of {} idle connections", idle.connections),
    }
}
