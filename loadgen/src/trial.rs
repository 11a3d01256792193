//! One measurement as its options ask for it, whatever the service is: what every command that measures is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Usage;
use crate::chat::{self, ChatLoad, Seating};
use crate::churn::{self, ChurnLoad};
use crate::cli::{Asked, Run};
use crate::datagram::{DatagramLoad, Dialogue};
use crate::exchange::{Custom, Exchange, FirstBody, Http, Said, Walk};
use crate::load::{Amount, Budget, Load, Shape};
use crate::report::Report;
use crate::run::{Driver, Measured, Pace, Task, Watch, measure};
use crate::server::Server;
use crate::service::Service;
use crate::size::Sizes;
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
    check_depth(run, asked)?;
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

/// So many requests of a closed loop may be in flight, on all connections together: each has to be remembered.
const IN_FLIGHT_MAX: usize = 4 << 20;

/// Fails if a closed loop is to keep more in flight than is remembered of it.
pub fn check_depth(run: &Run, asked: &Asked<'_>) -> Result<()> {
    let Pace::Closed { depth } = run.pace() else { return Ok(()) };
    let (asking, most) = match asked {
        Asked::Chat { rooms, senders, .. } => (rooms * senders, chat::lines_max(run.connections / rooms)),
        _ if run.churn.is_some() => return check_churn(run.connections),
        _ => (run.connections, IN_FLIGHT_MAX),
    };
    if asking.saturating_mul(depth) > most {
        let words =
            format!("--depth {depth}: at most {most} requests can be in flight on all connections together");
        return Err(Usage(words).into());
    }
    Ok(())
}

/// A connection that lasts for one exchange takes more than a request.
fn check_churn(connections: usize) -> Result<()> {
    let most = churn::conns_max(Budget::WHOLE);
    if connections > most {
        return Err(Usage(format!("-c {connections}: at most {most} connections can be in progress")).into());
    }
    Ok(())
}

/// The same requests one after the other, so that each run of them is the same work: one connection, and one request in
/// flight. Of a room one member talks and another hears.
pub fn lock_step(run: &Run, requests: u64) -> Run {
    let mut run = run.clone();
    run.connections = if run.options.target.service == Service::Chat { 2 } else { 1 };
    run.rate = None;
    run.pacing.depth = 1;
    run.options.rooms = run.options.rooms.map(|_| 1);
    run.options.senders = run.options.senders.map(|_| 1);
    run.options.threads = 1;
    run.options.requests = Some(requests);
    run.options.warmup = Duration::ZERO;
    run
}

/// One request of this run, on connections of its own: what shows that a server is ready.
pub fn first_reply(run: &Run) -> impl Fn(Duration, &dyn Fn() -> bool) -> Result<()> {
    let mut run = lock_step(run, 1);
    // A size that is drawn may be large, and one is enough.
    run.options.size = Sizes::fixed(run.options.size.bounds().0);
    move |patience, is_over| {
        let mut run = run.clone();
        run.options.timeout = Some(patience);
        let asked = run.asked().map_err(Usage)?;
        let mut driver = connector(&run, &asked)(shape(&run, &asked), 0)?;
        driver.hasten();
        driver.drive(Amount::Requests(1), 1, is_over)?;
        let record = driver.take_record();
        if let Some(words) = record.first_error {
            bail!(words);
        }
        ensure!(record.peer_closed == 0, "it closed the connection without a reply");
        ensure!(record.answered > 0, "no reply within {patience:?}");
        Ok(())
    }
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

/// Of requests, the part of which a comparison may lack the replies: what is lost costs a server nothing, and would be found
/// to be the faster one. So few of them make less of a difference than is looked for, and leave the p99 as it is.
const LOST_SHARE_MAX: f64 = 0.001;

/// A report that can be compared, though the generator may have had too little CPU time.
pub fn sound(report: Report, stop: &AtomicBool) -> Result<Report> {
    ensure!(!report.interrupted && !stop.load(Ordering::Relaxed), "interrupted");
    // What is so short that nothing was due in it has no figures.
    let is_tolerable = matches!(report.limiter, Some(Limiter::GeneratorCpu | Limiter::NoRequests));
    if report.verdict == Verdict::Invalid && !is_tolerable {
        bail!(report.complaint());
    }
    let (lost, requests) = (report.lost, report.requests);
    ensure!(
        lost as f64 <= LOST_SHARE_MAX * requests as f64,
        "{lost} of {requests} replies were lost, so there is no comparison"
    );
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
        budget: Budget::WHOLE,
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
