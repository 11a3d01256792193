//! Slices of the same fixed work, one of each server a round, in shuffled order.
//!
//! All servers are alive at once, on one processor; loadgen drives them from another. Slices of one round are a second
//! apart and met the same weather, which is why ratios are taken within it: absolute figures drift on a shared machine,
//! ratios much less.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::peers::{Kind, Peer, Running};
use super::{Case, Effort};
use loadgen::cli::{Options, Run};
use loadgen::load::Amount;
use loadgen::report::Report;
use loadgen::run::Watch;
use loadgen::size::Sizes;
use loadgen::trial::verified;

/// Before each slice, on its connections.
const WARMUP: Duration = Duration::from_millis(50);

/// A slice has so many requests at least for each that is in flight.
const ROUNDS_MIN: u64 = 10;

/// A server that takes part, and what has been measured of it.
pub struct Contender {
    pub peer: Peer,
    pub running: Running,
    /// One of each round.
    pub slices: Vec<Report>,
}

impl Contender {
    pub fn start(peer: Peer, stop: &AtomicBool) -> Result<Contender> {
        Ok(Contender { running: peer.start("", stop)?, peer, slices: Vec::new() })
    }

    /// Drives it once, and verifies what comes back.
    pub fn slice(&mut self, case: Case, amount: Amount, stop: &AtomicBool) -> Result<Report> {
        let run = run(&self.peer, &self.running, case, amount, WARMUP)?;
        let (report, _) = verified(&run, &mut self.running.server, Watch::nobody(), stop)
            .with_context(|| format!("{}, {}", case.name(), self.peer.name))?;
        Ok(report)
    }
}

/// A case as a run at this server.
pub fn run(peer: &Peer, running: &Running, case: Case, amount: Amount, warmup: Duration) -> Result<Run> {
    let load = case.load();
    let mut run = Run::of(&running.target)?;
    run.connections = load.connections;
    run.pacing.depth = load.depth;
    let (requests, duration) = match amount {
        Amount::Requests(requests) => (Some(requests), run.options.duration),
        Amount::Time(duration) => (None, duration),
    };
    run.options = Options {
        size: Sizes::fixed(load.size),
        dialect: peer.dialect,
        requests,
        duration,
        warmup,
        ..run.options
    };
    Ok(run)
}

/// Measures all of them, and returns how many requests each slice had.
pub fn measure(
    contenders: &mut [Contender],
    case: Case,
    effort: &Effort,
    order: &mut SmallRng,
    stop: &AtomicBool,
) -> Result<u64> {
    let (load, slice) = (case.load(), effort.slice);
    let reference = contenders.first_mut().context("there is no server to measure")?;
    // The same number for all, so that no server has more warm caches or fewer edges than another.
    let trial = reference.slice(case, Amount::Time(slice), stop)?;
    let in_flight = match load.kind {
        Kind::Room => load.depth,
        _ => load.connections * load.depth,
    };
    let requests = ((trial.throughput_per_s * slice.as_secs_f64()) as u64).max(in_flight as u64 * ROUNDS_MIN);
    for contender in contenders.iter_mut() {
        contender.slices.clear();
    }
    let mut turns: Vec<usize> = (0..contenders.len()).collect();
    for _ in 0..effort.rounds {
        turns.shuffle(order);
        for &turn in &turns {
            let report = contenders[turn].slice(case, Amount::Requests(requests), stop)?;
            contenders[turn].slices.push(report);
        }
    }
    Ok(requests)
}
