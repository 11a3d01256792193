//! One measurement as its options ask for it, whatever the service is: what every command that measures is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Usage;
use crate::chat::{ChatLoad, Seating};
use crate::churn::ChurnLoad;
use crate::cli::{Asked, Run};
use crate::datagram::{DatagramLoad, Dialogue};
use crate::exchange::{Custom, Exchange, FirstBody, Http, Said, Walk};
use crate::load::{Load, Shape};
use crate::report::Report;
use crate::run::{Driver, Measured, Task, Watch, measure};
use crate::server::Server;
use crate::verdict::{Limiter, Verdict};

/// A server that dies closes its connections a little before it is gone.
pub const DEATH_PATIENCE: Duration = Duration::from_millis(200);

/// Measures once. `server` is the one that was started for it, if one was: it is an error if it has ended.
pub fn trial(
    run: &Run,
    asked: &Asked<'_>,
    server: Option<&mut Server>,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<Measured> {
    let options = &run.options;
    let task = Task {
        address: &options.target.address,
        shape: shape(run, asked),
        threads: options.threads,
        pace: run.pace(),
        warmup: options.warmup,
        window: options.amount(),
        server: server.as_deref().map(Server::pid).or(options.pid),
    };
    let measured = measure(&task, connector(run, asked), stop, watch);
    if let Some(server) = server {
        let is_fine = measured.as_ref().is_ok_and(|measured| measured.record.peer_closed == 0);
        let patience = if is_fine { Duration::ZERO } else { DEATH_PATIENCE };
        server.check(patience).context("the server failed")?;
    }
    measured
}

/// Measures once what is to be compared. One wrong reply is an error; that the generator had too little CPU time is not.
pub fn verified(
    run: &Run,
    server: &mut Server,
    watch: Watch<'_>,
    stop: &AtomicBool,
) -> Result<(Report, Measured)> {
    let asked = run.asked().map_err(Usage)?;
    let measured = trial(run, &asked, Some(server), stop, watch)?;
    Ok((sound(Report::new(run, &asked, &measured), stop)?, measured))
}

/// A report that can be compared, though the generator may have had too little CPU time.
pub fn sound(report: Report, stop: &AtomicBool) -> Result<Report> {
    ensure!(!report.interrupted && !stop.load(Ordering::Relaxed), "interrupted");
    if report.verdict == Verdict::Invalid && report.limiter != Some(Limiter::GeneratorCpu) {
        bail!(report.complaint());
    }
    Ok(report)
}

/// What all threads have together.
pub fn shape(run: &Run, asked: &Asked<'_>) -> Shape {
    let options = &run.options;
    Shape {
        connections: match asked {
            Asked::Chat { rooms, .. } => *rooms,
            // Of an open loop nobody knows how many there will be: each thread has a share of the rate.
            _ if run.churn.is_some() && run.rate.is_some() => options.threads,
            _ => run.connections,
        },
        first: 0,
        sizes: options.size.clone(),
        timeout: options.timeout(),
        seed: options.seed,
        sources: options.source_ips.clone().unwrap_or_default(),
    }
}

/// What connects, and returns what drives a share of the load: given its shape and how many connections the threads before
/// it have.
type Connector<'a> = Box<dyn Fn(Shape, usize) -> Result<Box<dyn Driver>> + Sync + 'a>;

pub fn connector<'a>(run: &'a Run, asked: &'a Asked<'_>) -> Connector<'a> {
    let address = &run.options.target.address;
    match asked {
        Asked::Datagrams(service) => Box::new(|shape, first| {
            boxed(DatagramLoad::connect(address, shape, first, Dialogue::of(*service)))
        }),
        Asked::Walk(service) => over_streams(run, || Walk::of(*service)),
        Asked::Said(service) => over_streams(run, || Said::of(*service)),
        Asked::Greeting => over_streams(run, Custom::greeting),
        Asked::Chat { rooms, senders, dialect } => {
            let seating =
                Seating { members: run.connections, rooms: *rooms, senders: *senders, dialect: *dialect };
            Box::new(move |shape, _| boxed(ChatLoad::connect(address, shape, seating)))
        }
        Asked::Custom { send, expect } => over_streams(run, || Custom::new(send, expect)),
        Asked::Page { path, status } => {
            let host = address.host();
            let first_body = FirstBody::default();
            over_streams(run, move || Http::new(path, &host, *status, first_body.clone()))
        }
    }
}

/// On connections that stay, or on one for each exchange.
fn over_streams<'a, E: Exchange<Conn: Send> + Send + 'static>(
    run: &'a Run,
    make: impl Fn() -> E + Sync + 'a,
) -> Connector<'a> {
    let address = &run.options.target.address;
    match run.churn {
        None => Box::new(move |shape, _| boxed(Load::connect(address, shape, make()))),
        Some(close) => {
            let numbers = Arc::<AtomicUsize>::default();
            Box::new(move |shape, _| boxed(ChurnLoad::new(address, shape, close, numbers.clone(), make())))
        }
    }
}

fn boxed(load: Result<impl Driver + 'static>) -> Result<Box<dyn Driver>> {
    load.map(|load| Box::new(load) as Box<dyn Driver>)
}
