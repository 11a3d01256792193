//! `loadgen run`: threads that each drive a share of the load, beside one that watches the clocks.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::address::Address;
use crate::datagram::server_drops;
use crate::exchange::Exchange;
use crate::interval::{Interval, Lane, Timeline, length_for};
use crate::load::{Amount, Load, Shape};
use crate::machine::{MachineClock, MachineShares};
use crate::os::{CpuClock, RunDelay};
use crate::plan::{Arrivals, Plan, Window};
use crate::progress::{Progress, TICK};
use crate::record::Record;
use crate::report::hlog::Log;
use crate::syscalls::{self, SystemCalls};
use crate::tree::{Switches, Tree, Usage};

/// Between two looks at the server's processes, so that those that end are missed by little. Looking takes a hundredth
/// of the time at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// When requests leave.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection keeps so many in flight.
    Closed { depth: usize },
    /// So many a second, whatever comes back.
    Open { rate_per_s: f64, arrivals: Arrivals },
}

impl Pace {
    /// What was planned; nothing in a closed loop.
    pub fn rate_per_s(self) -> Option<f64> {
        match self {
            Pace::Closed { .. } => None,
            Pace::Open { rate_per_s, .. } => Some(rate_per_s),
        }
    }
}

/// What is to be done.
pub struct Task<'a> {
    pub address: &'a Address,
    pub shape: Shape,
    pub threads: usize,
    pub pace: Pace,
    pub warmup: Duration,
    pub window: Amount,
    /// The id of the server's first process.
    pub server: Option<i32>,
}

/// Who looks on.
pub struct Watch<'a> {
    pub progress: Progress,
    /// Whether the intervals are to be kept.
    pub keeps_rows: bool,
    /// Where they are logged.
    pub log: Option<&'a mut Log>,
    /// Whether the server's system calls are counted, after the window.
    pub counts_system_calls: bool,
}

impl Watch<'_> {
    /// Nobody does, until it is over.
    pub fn nobody() -> Self {
        Watch { progress: Progress::new(true), keeps_rows: false, log: None, counts_system_calls: false }
    }
}

/// What it came to.
pub struct Measured {
    pub record: Record,
    /// In their order; none if nobody wanted them.
    pub intervals: Vec<Interval>,
    pub started_at: SystemTime,
    /// From the first request of the window to one gap after the last, in a closed loop to its last reply.
    pub elapsed: Duration,
    pub server_cpu: Option<Duration>,
    pub server_switches: Option<Switches>,
    pub own_cpu: Duration,
    /// The time between the two looks at the CPU clocks.
    pub clocks_apart: Duration,
    /// None where the system does not tell.
    pub machine: Option<MachineShares>,
    /// How long the threads that drive were ready to run and did not: the longest of them.
    pub run_delay: Duration,
    /// Datagrams that were dropped on their way into the server's socket; `None` where that is not known.
    pub server_drops: Option<u64>,
    /// Told to stop before the end.
    pub interrupted: bool,
    /// Of a stretch after the window; none if they were not to be counted.
    pub system_calls: Option<Result<SystemCalls>>,
}

/// Clocks and counters at one moment.
struct Clocks {
    at: Instant,
    server: Option<Usage>,
    own: Duration,
    machine: Option<MachineClock>,
    server_drops: Option<u64>,
}

impl Clocks {
    fn read(task: &Task<'_>, server: Option<&mut Tree>) -> Result<Clocks> {
        // Before the look at the server, which takes time of its own.
        let own = CpuClock::OWN.read()?;
        let server =
            server.map(Tree::look).transpose().context("reading the server's CPU clock (has it ended?)")?;
        Ok(Clocks {
            at: Instant::now(),
            server,
            own,
            machine: MachineClock::read(),
            server_drops: server_drops(task.address),
        })
    }
}

/// What a thread drives its share of the load with.
pub trait Driver: Send {
    /// A closed loop that begins and ends with nothing in flight. Returns how long it took.
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration>;

    /// An open loop. Returns what its window was, in time from its beginning; none if nothing was planned in it.
    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>>;

    /// What has been recorded since the last call.
    fn take_record(&mut self) -> Record;

    /// What is recorded from now on is handed over interval by interval.
    fn hand_over_to(&mut self, lane: Lane);

    /// Hands over what has been recorded since the last interval ended.
    fn hand_over_rest(&mut self);

    /// Stretches will follow on each other: waits no longer than it must for what nobody expects.
    fn hasten(&mut self) {}
}

/// Of whatever kind.
impl Driver for Box<dyn Driver> {
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        (**self).drive(amount, depth, stop)
    }

    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>> {
        (**self).follow(plan, warmup, window, stop)
    }

    fn take_record(&mut self) -> Record {
        (**self).take_record()
    }

    fn hand_over_to(&mut self, lane: Lane) {
        (**self).hand_over_to(lane);
    }

    fn hand_over_rest(&mut self) {
        (**self).hand_over_rest();
    }

    fn hasten(&mut self) {
        (**self).hasten();
    }
}

impl<E: Exchange<Conn: Send> + Send> Driver for Load<E> {
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        self.drive(amount, depth, stop)
    }

    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>> {
        self.follow(plan, warmup, window, stop)
    }

    fn take_record(&mut self) -> Record {
        self.take_record()
    }

    fn hand_over_to(&mut self, lane: Lane) {
        self.hand_over_to(lane);
    }

    fn hand_over_rest(&mut self) {
        self.hand_over_rest();
    }
}

/// Does the task on threads of its own. `connect` makes the driver of each, given its shape and how many connections the
/// threads before it have; `stop` ends it early.
pub fn measure<D: Driver>(
    task: &Task<'_>,
    connect: impl Fn(Shape, usize) -> Result<D> + Sync,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<Measured> {
    let tree = |pid| Tree::of(pid).with_context(|| format!("the CPU clock of process {pid}"));
    let mut tree = task.server.map(tree).transpose()?;
    let threads = task.threads.min(task.shape.connections);
    let failed = AtomicBool::new(false);
    let stopping = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    // Everybody is connected; everybody is warm; everybody has read that this is so.
    let barrier = Barrier::new(threads + 1);
    let Watch { mut progress, keeps_rows, mut log, counts_system_calls } = watch;
    thread::scope(|scope| {
        let length = if keeps_rows || log.is_some() {
            length_for(task.window, task.pace.rate_per_s())
        } else {
            progress.patience()
        };
        let (mut timeline, lanes, arriving) = Timeline::new(threads, length, keeps_rows);
        let drivers: Vec<_> = lanes
            .into_iter()
            .enumerate()
            .map(|(index, lane)| {
                let (barrier, connect, failed, stopping) = (&barrier, &connect, &failed, &stopping);
                scope.spawn(move || {
                    let driven = drive(task, index, threads, connect, lane, barrier, stopping);
                    failed.fetch_or(driven.is_err(), Ordering::Relaxed);
                    driven
                })
            })
            .collect();
        barrier.wait();
        progress.warm_up();
        if let Pace::Open { .. } = task.pace {
            let until = Instant::now() + task.warmup;
            while Instant::now() < until && !stopping() {
                thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
            }
        } else {
            barrier.wait();
        }
        let started_at = SystemTime::now();
        if let Some(log) = &mut log {
            log.begin(started_at);
        }
        progress.begin(task.window);
        let before = Clocks::read(task, tree.as_mut());
        if let Pace::Closed { .. } = task.pace {
            barrier.wait();
        }
        // Until every thread has ended.
        let mut looked_at = Instant::now();
        let mut look_interval = LOOK_INTERVAL;
        loop {
            let tick = if progress.is_shown() { TICK } else { Duration::MAX };
            let patience = if tree.is_some() { tick.min(LOOK_INTERVAL) } else { tick };
            match arriving.recv_timeout(patience) {
                Ok(part) => timeline.add(part, log.as_deref_mut()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.show(timeline.total());
            if let Some(tree) = tree.as_mut().filter(|_| looked_at.elapsed() >= look_interval) {
                let began = Instant::now();
                // If it fails the last one does too, and is reported.
                let _ = tree.look();
                looked_at = Instant::now();
                look_interval = LOOK_INTERVAL.max(began.elapsed() * 100);
            }
        }
        // The threads' connections are still open: servers end threads and processes with them.
        let after = Clocks::read(task, tree.as_mut());
        drop(progress);
        let (mut window, mut run_delay): (Option<Window>, _) = (None, Duration::ZERO);
        let mut result = Ok(());
        let mut loads = Vec::with_capacity(threads);
        for driver in drivers {
            match driver.join().map_err(|_| anyhow!("a thread of the generator panicked: please report it")) {
                Ok(Ok((part, load))) => {
                    loads.push(load);
                    window = window.into_iter().chain(part.window).reduce(Window::around);
                    run_delay = run_delay.max(part.run_delay);
                }
                Ok(Err(error)) | Err(error) => result = Err(error),
            }
        }
        result?;
        let (before, after) = (before?, after?);
        let server = before.server.zip(after.server);
        let server_cpu = server.map(|(before, after)| after.cpu.saturating_sub(before.cpu));
        let own_cpu = after.own.saturating_sub(before.own);
        let known = own_cpu + server_cpu.unwrap_or_default();
        let (record, intervals) = timeline.finish(log);
        let interrupted = stop.load(Ordering::Relaxed) && after.at > before.at;
        // All clocks are read: what comes now is in no figure but its own.
        let system_calls = tree.as_mut().filter(|_| counts_system_calls).map(|server| {
            ensure!(
                record.lost + record.peer_closed == 0,
                "the window has left connections that lack a reply"
            );
            let depth = match task.pace {
                Pace::Closed { depth } => depth,
                Pace::Open { .. } => 1,
            };
            syscalls::count(server, &mut loads, task.shape.connections, depth, &stopping)
        });
        Ok(Measured {
            record,
            intervals,
            started_at,
            elapsed: window.map_or(Duration::ZERO, Window::length),
            server_cpu,
            server_switches: server.map(|(before, after)| after.switches.since(before.switches)),
            own_cpu,
            clocks_apart: after.at - before.at,
            machine: before
                .machine
                .zip(after.machine)
                .and_then(|(before, after)| after.since(&before, known)),
            run_delay,
            server_drops: before
                .server_drops
                .zip(after.server_drops)
                .map(|(before, after)| after.saturating_sub(before)),
            interrupted,
            system_calls,
        })
    })
}

/// What one thread has measured.
struct Part {
    window: Option<Window>,
    run_delay: Duration,
}

/// One thread's share, from connecting to the end; the connections are still open.
fn drive<D: Driver>(
    task: &Task<'_>,
    index: usize,
    threads: usize,
    connect: &(impl Fn(Shape, usize) -> Result<D> + Sync),
    lane: Lane,
    barrier: &Barrier,
    stopping: &dyn Fn() -> bool,
) -> Result<(Part, D)> {
    let shape = task.shape.share(index, threads);
    let (seed, before) = (shape.seed, shape.first);
    let window = task.window.share(index, threads);
    let connected = connect(shape, before);
    barrier.wait();
    match task.pace {
        Pace::Open { rate_per_s, arrivals } => {
            let mut load = connected?;
            let mut plan = Plan::new(rate_per_s, arrivals, seed, (index, threads));
            let delay = RunDelay::read();
            load.hand_over_to(lane);
            let window = load.follow(&mut plan, task.warmup, window, stopping)?;
            load.hand_over_rest();
            Ok((Part { window, run_delay: delay.since() }, load))
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
            load.hand_over_to(lane);
            let elapsed = load.drive(window, depth, stopping)?;
            load.hand_over_rest();
            Ok((Part { window: Some(Window::of(elapsed)), run_delay: delay.since() }, load))
        }
    }
}
