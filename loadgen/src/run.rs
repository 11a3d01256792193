//! `loadgen run`: threads that each drive a share of the load, beside one that watches the clocks.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::address::Address;
use crate::exchange::Exchange;
use crate::load::{Amount, Load, Shape};
use crate::os::{CpuClock, RunDelay};
use crate::plan::{Arrivals, Plan};
use crate::record::Record;

/// When requests leave.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection keeps so many in flight.
    Closed { depth: usize },
    /// So many a second, whatever comes back.
    Open { rate_per_s: f64, arrivals: Arrivals, ramp: Duration },
}

/// What is to be done.
pub struct Task<'a> {
    pub address: &'a Address,
    pub shape: Shape,
    pub threads: usize,
    pub pace: Pace,
    pub warmup: Duration,
    pub window: Amount,
    pub server_clock: Option<CpuClock>,
}

/// What it came to.
pub struct Measured {
    pub record: Record,
    /// From the first to the last request of the window, in a closed loop to its last reply.
    pub elapsed: Duration,
    pub server_cpu: Option<Duration>,
    pub own_cpu: Duration,
    /// How long the threads that drive were ready to run and did not: the longest of them.
    pub run_delay: Duration,
    /// Told to stop before the end.
    pub interrupted: bool,
}

/// Clocks at one moment.
struct Clocks {
    at: Instant,
    server: Option<Duration>,
    own: Duration,
}

impl Clocks {
    fn read(server: Option<CpuClock>) -> Result<Clocks> {
        let server = server
            .map(CpuClock::read)
            .transpose()
            .context("reading the server's CPU clock (has it ended?)")?;
        Ok(Clocks { at: Instant::now(), server, own: CpuClock::OWN.read()? })
    }
}

/// What a thread drives its share of the load with.
pub trait Driver: Sized {
    /// A closed loop that begins and ends with nothing in flight. Returns how long it took.
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration>;

    /// An open loop. Returns how long its window was.
    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Duration>;

    /// What has been recorded since the last call.
    fn take_record(&mut self) -> Record;
}

impl<E: Exchange> Driver for Load<E> {
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        self.drive(amount, depth, stop)
    }

    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Duration> {
        self.follow(plan, warmup, window, stop)
    }

    fn take_record(&mut self) -> Record {
        self.take_record()
    }
}

/// Does the task over streams. `make` makes the exchange of each thread; `stop` ends it early.
pub fn measure<E: Exchange>(
    task: &Task<'_>,
    make: impl Fn() -> E + Sync,
    stop: &AtomicBool,
) -> Result<Measured> {
    measure_with(task, |shape, _| Load::connect(task.address, shape, make()), stop)
}

/// Does the task on threads of its own. `connect` makes the driver of each, given its shape and how many connections the
/// threads before it have; `stop` ends it early.
pub fn measure_with<D: Driver>(
    task: &Task<'_>,
    connect: impl Fn(Shape, usize) -> Result<D> + Sync,
    stop: &AtomicBool,
) -> Result<Measured> {
    let threads = task.threads.min(task.shape.connections);
    let failed = AtomicBool::new(false);
    let stopping = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    // Everybody is connected; everybody is warm; everybody has read that this is so.
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let drivers: Vec<_> = (0..threads)
            .map(|index| {
                let (barrier, connect, failed, stopping) = (&barrier, &connect, &failed, &stopping);
                scope.spawn(move || {
                    let driven = drive(task, index, threads, connect, barrier, stopping);
                    failed.fetch_or(driven.is_err(), Ordering::Relaxed);
                    driven
                })
            })
            .collect();
        barrier.wait();
        if let Pace::Open { .. } = task.pace {
            let until = Instant::now() + task.warmup;
            while Instant::now() < until && !stopping() {
                thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
            }
        } else {
            barrier.wait();
        }
        let before = Clocks::read(task.server_clock);
        if let Pace::Closed { .. } = task.pace {
            barrier.wait();
        }
        let (mut record, mut elapsed, mut run_delay) = (Record::new(), Duration::ZERO, Duration::ZERO);
        let mut result = Ok(());
        for driver in drivers {
            match driver.join().map_err(|_| anyhow!("a thread of the generator panicked: please report it")) {
                Ok(Ok(part)) => {
                    record.add(&part.record);
                    elapsed = elapsed.max(part.elapsed);
                    run_delay = run_delay.max(part.run_delay);
                }
                Ok(Err(error)) | Err(error) => result = Err(error),
            }
        }
        result?;
        let (before, after) = (before?, Clocks::read(task.server_clock)?);
        Ok(Measured {
            record,
            elapsed,
            server_cpu: before.server.zip(after.server).map(|(before, after)| after.saturating_sub(before)),
            own_cpu: after.own.saturating_sub(before.own),
            run_delay,
            interrupted: stop.load(Ordering::Relaxed) && after.at > before.at,
        })
    })
}

/// What one thread has measured.
struct Part {
    record: Record,
    elapsed: Duration,
    run_delay: Duration,
}

/// One thread's share, from connecting to the end.
fn drive<D: Driver>(
    task: &Task<'_>,
    index: usize,
    threads: usize,
    connect: &(impl Fn(Shape, usize) -> Result<D> + Sync),
    barrier: &Barrier,
    stopping: &dyn Fn() -> bool,
) -> Result<Part> {
    let of = |total: u64| total / threads as u64 + u64::from((index as u64) < total % threads as u64);
    let connections = task.shape.connections;
    // The first threads have one connection more where they cannot be divided evenly.
    let before = index * (connections / threads) + index.min(connections % threads);
    let shape = Shape {
        connections: of(connections as u64) as usize,
        seed: task.shape.seed.wrapping_add(index as u64),
        ..task.shape.clone()
    };
    let seed = shape.seed;
    let window = match task.window {
        Amount::Requests(requests) => Amount::Requests(of(requests)),
        time => time,
    };
    let connected = connect(shape, before);
    barrier.wait();
    match task.pace {
        Pace::Open { rate_per_s, arrivals, ramp } => {
            let mut load = connected?;
            let rate = rate_per_s / threads as f64;
            let mut plan = Plan::new(rate, arrivals, ramp.as_nanos() as u64, seed);
            let delay = RunDelay::read();
            let elapsed = load.follow(&mut plan, task.warmup, window, stopping)?;
            Ok(Part { record: load.take_record(), elapsed, run_delay: delay.since() })
        }
        Pace::Closed { depth } => {
            let warm = connected.and_then(|mut load| {
                if !task.warmup.is_zero() {
                    load.drive(Amount::Time(task.warmup), depth, stopping).context("while warming up")?;
                    let record = load.take_record();
                    if let Some(error) = record.first_error {
                        bail!("while warming up: {error}");
                    }
                }
                Ok(load)
            });
            barrier.wait();
            barrier.wait();
            let mut load = warm?;
            let delay = RunDelay::read();
            let elapsed = load.drive(window, depth, stopping)?;
            Ok(Part { record: load.take_record(), elapsed, run_delay: delay.since() })
        }
    }
}
