//! One measurement as its options ask for it, whatever the service is: what every command that measures is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::chat::{ChatLoad, Seating};
use crate::churn::{ChurnLoad, Close};
use crate::cli::{Asked, Run};
use crate::datagram::{DatagramLoad, Dialogue};
use crate::exchange::{Custom, Exchange, FirstBody, Http, Said, Walk};
use crate::load::Shape;
use crate::run::{Measured, Task, Watch, measure, measure_with};
use crate::server::Server;

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
    let address = &options.target.address;
    let task = Task {
        address,
        shape: Shape {
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
        },
        threads: options.threads,
        pace: run.pace(),
        warmup: options.warmup,
        window: options.amount(),
        server: server.as_deref().map(Server::pid).or(options.pid),
    };
    let measured = match asked {
        Asked::Datagrams(service) => {
            let connect =
                |shape, first| DatagramLoad::connect(task.address, shape, first, Dialogue::of(*service));
            measure_with(&task, connect, stop, watch)
        }
        Asked::Walk(service) => over_streams(&task, run.churn, || Walk::of(*service), stop, watch),
        Asked::Said(service) => over_streams(&task, run.churn, || Said::of(*service), stop, watch),
        Asked::Greeting => over_streams(&task, run.churn, Custom::greeting, stop, watch),
        Asked::Chat { rooms, senders, dialect } => {
            let seating =
                Seating { members: run.connections, rooms: *rooms, senders: *senders, dialect: *dialect };
            measure_with(&task, |shape, _| ChatLoad::connect(address, shape, seating), stop, watch)
        }
        Asked::Custom { send, expect } => {
            over_streams(&task, run.churn, || Custom::new(send, expect), stop, watch)
        }
        Asked::Page { path, status } => {
            let host = address.host();
            let first_body = FirstBody::default();
            let make = || Http::new(path, &host, *status, first_body.clone());
            over_streams(&task, run.churn, make, stop, watch)
        }
    };
    if let Some(server) = server {
        let is_fine = measured.as_ref().is_ok_and(|measured| measured.record.peer_closed == 0);
        let patience = if is_fine { Duration::ZERO } else { DEATH_PATIENCE };
        server.check(patience).context("the server failed")?;
    }
    measured
}

/// On connections that stay, or on one for each exchange.
fn over_streams<E: Exchange<Conn: Send> + Send>(
    task: &Task<'_>,
    churn: Option<Close>,
    make: impl Fn() -> E + Sync,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<Measured> {
    let Some(close) = churn else { return measure(task, make, stop, watch) };
    let numbers = Arc::<AtomicUsize>::default();
    let begin = |shape, _| ChurnLoad::new(task.address, shape, close, numbers.clone(), make());
    measure_with(task, begin, stop, watch)
}
