//! `loadgen idle`: connections that are held, silent, slow and stopped ones, and what they cost the server and a busy few
//! beside them.
//!
//! ```text
//!     busy alone ─► memory ─► silent ones open ─► at rest, memory ─► slow and stopped ones ─► busy beside all of them
//! ```
//!
//! Those that are held have a thread of their own while the busy ones are measured, in the same way as by `run`.

mod held;
pub mod memory;
mod page;
mod script;
mod table;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::cli::{Asked, Idle, Run};
use crate::fail_if::{Condition, Measures};
use crate::message::{self, message};
use crate::output::Table;
use crate::progress::Progress;
use crate::report::{Files, Report, SCHEMA_VERSION, counted, of_many};
use crate::run::{Measured, Watch};
use crate::server::Server;
use crate::service::Service;
use crate::tree::Tree;
use crate::trial::{DEATH_PATIENCE, trial};
use crate::verdict::{Limiter, Verdict};
use crate::{EXIT_FAILED, EXIT_INVALID, Usage, os};

use held::{Held, Kept, Kind};
use memory::Count;
use script::Script;

/// What came of it. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Idled {
    schema_version: u32,
    loadgen_version: &'static str,
    verdict: Verdict,
    limiter: Option<Limiter>,
    /// The conditions of --fail-if that held of the measurement beside.
    failed_conditions: Vec<String>,
    /// A signal has ended it early.
    interrupted: bool,
    /// What else has.
    error: Option<String>,
    service: Service,
    address: String,
    /// To be held in all.
    connections: usize,
    slow_interval_s: f64,
    /// From the first connection to the last.
    opening_s: f64,
    /// From then on.
    held_s: f64,
    idle: Kept,
    slow: Kept,
    stopped: Kept,
    /// Silent connections may be closed.
    #[serde(skip)]
    may_close: bool,
    /// Nothing but silent connections was asked for.
    #[serde(skip)]
    is_silent: bool,
    /// Bytes that came on the first silent connection that got some.
    first_error: Option<String>,
    memory: Option<Memory>,
    at_rest: Option<AtRest>,
    /// CPU time of the thread that holds, as a share of one processor.
    holding_cpu_share: Option<f64>,
    /// The busy ones without those that are held, and with them.
    alone: Option<Report>,
    beside: Option<Report>,
    ratios: Option<Ratios>,
}

/// The server's user memory, all its processes together.
#[derive(Serialize)]
struct Memory {
    counted_as: Count,
    before_bytes: u64,
    with_idle_bytes: Option<u64>,
    with_held_bytes: Option<u64>,
    bytes_per_idle_connection: Option<f64>,
    bytes_per_connection: Option<f64>,
}

/// What the server did while there was nothing to do.
#[derive(Serialize)]
struct AtRest {
    elapsed_s: f64,
    /// Of one processor.
    server_cpu_share: f64,
    voluntary_switches_per_s: f64,
    involuntary_switches_per_s: f64,
}

/// Beside, as parts of alone.
#[derive(Serialize)]
struct Ratios {
    /// Of the response time in an open loop, of the service time in a closed one.
    p50: Option<f64>,
    p99: Option<f64>,
    throughput: Option<f64>,
    server_cpu_per_request: Option<f64>,
}

/// The busy ones: what was measured of them.
#[derive(Default)]
struct Busy {
    alone: Option<Measured>,
    beside: Option<Measured>,
}

/// Holds, measures, and tells what came of it.
pub fn idle(idle: &Idle, stop: &AtomicBool) -> Result<ExitCode> {
    let options = &idle.options;
    let asked = options.asked(idle.connections).map_err(Usage)?;
    let script = Script::of(idle, &asked).map_err(Usage)?;
    let silent = idle.silent().map_err(Usage)?;
    let run = idle.busy_run();
    for condition in &idle.outputs.fail_if {
        let measures = Measures { open_loop: idle.rate.is_some(), server_cpu: options.knows_server() };
        condition.check(measures).map_err(|words| Usage(format!("--fail-if {words}")))?;
    }
    let mut files = Files::open(&idle.outputs, idle.rate.is_some())?;
    let table = files.table;
    // Before it starts a server, which inherits it.
    os::raise_descriptor_limit(idle.connections + idle.busy.unwrap_or_default())?;
    let mut server = Server::of(
        options,
        idle.outputs.quiet,
        &|patience, is_over| script.first_reply(options, patience, is_over),
        stop,
    )?;

    let mut idled = Idled::new(idle);
    let mut stretch = Stretch { idle, asked: &asked, script, silent, run, stop, server: server.as_mut() };
    let busy = stretch.measure(&mut idled, &mut files)?;
    idled.judge(&idle.outputs.fail_if);

    // What can be written is, even if something else cannot.
    let of = idled.beside.as_ref().zip(busy.beside.as_ref());
    if of.is_none() && files.want_measured() {
        message!("interrupted before the connections were held: only the JSON file is written");
    }
    let mut written = files.write_with(&idled, || page::page(&idled, &busy), of);
    written.add(table.print(&idled));
    for condition in &idle.outputs.fail_if {
        if let Some(figure) = idled.beside.as_ref().and_then(|report| condition.held(report)) {
            message!("failed: --fail-if {condition}: {figure}");
        }
    }
    match idled.verdict {
        Verdict::Invalid => message!("{}", idled.complaint()),
        Verdict::Valid if idled.idle.closed > 0 => message!("{}", idled.closings()),
        Verdict::Valid => {}
    }
    written.all()?;
    Ok(ExitCode::from(match idled.verdict {
        Verdict::Invalid => EXIT_INVALID,
        Verdict::Valid if idled.failed_conditions.is_empty() => 0,
        Verdict::Valid => EXIT_FAILED,
    }))
}

/// The way from the first connection to the last, with what it needs.
struct Stretch<'a> {
    idle: &'a Idle,
    asked: &'a Asked<'a>,
    script: Script<'a>,
    silent: usize,
    run: Option<Run>,
    stop: &'a AtomicBool,
    server: Option<&'a mut Server>,
}

impl Stretch<'_> {
    fn measure(&mut self, idled: &mut Idled, files: &mut Files) -> Result<Busy> {
        let stop = self.stop;
        let ended = move || stop.load(Ordering::Relaxed);
        let mut busy = Busy::default();
        if let Some(run) = &self.run {
            let progress = Progress::new(self.idle.outputs.quiet);
            let watch = Watch { progress, keeps_rows: false, log: None, counts_system_calls: false };
            let measured = trial(run, self.asked, self.server.as_deref_mut(), stop, watch)
                .context("the busy connections alone")?;
            idled.alone = Some(Report::new(run, self.asked, &measured));
            busy.alone = Some(measured);
        }
        let mut held = Held::new(&mut self.script, self.idle.slow_interval)?;
        if !ended() {
            self.hold(&mut held, idled, files, &mut busy, &ended)?;
        }
        idled.interrupted = ended();
        if self.run.is_some() && idled.beside.is_none() && idled.interrupted {
            let words = "interrupted before the busy connections were measured beside those held";
            idled.error.get_or_insert(words.to_owned());
        }
        [idled.idle, idled.slow, idled.stopped] =
            [Kind::Idle, Kind::Slow, Kind::Stopped].map(|kind| held.kept(kind).clone());
        idled.first_error = held.first_unasked().map(|(index, bytes)| {
            format!("connection {index}: {} received without a request", of_many(bytes, "byte"))
        });
        if let Some(server) = self.server.as_deref_mut() {
            let patience = if idled.idle.closed > 0 { DEATH_PATIENCE } else { Duration::ZERO };
            if let Err(error) = server.check(patience) {
                idled.error.get_or_insert(format!("the server failed: {error:#}"));
            }
        }
        Ok(busy)
    }

    /// Opens what is to be held, and holds it.
    fn hold(
        &mut self,
        held: &mut Held,
        idled: &mut Idled,
        files: &mut Files,
        busy: &mut Busy,
        ended: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let Idle { slow, stopped, .. } = *self.idle;
        let pid = self.server.as_deref().map(Server::pid).or(self.idle.options.pid);
        let mut tree = pid
            .map(|pid| Tree::of(pid).with_context(|| format!("the CPU clock of process {pid}")))
            .transpose()?;
        idled.memory = tree.as_ref().and_then(Memory::before);

        let began = Instant::now();
        self.open(held, Kind::Idle, self.silent, ended)?;
        let memory = |tree: &mut Option<Tree>| -> Option<u64> {
            let tree = tree.as_mut()?;
            tree.look().ok()?;
            idled.memory.as_ref()?.counted_as.bytes(tree.pids())
        };
        let with_idle = memory(&mut tree);
        if self.silent > 0
            && !idled.is_silent
            && let Some(tree) = &mut tree
        {
            idled.at_rest = rest(held, tree, self.idle.rest, ended)?;
        }
        self.open(held, Kind::Slow, slow, ended)?;
        self.open(held, Kind::Stopped, stopped, ended)?;
        let with_held = memory(&mut tree);
        if let Some(memory) = &mut idled.memory {
            memory.note(with_idle, held.kept(Kind::Idle).held, with_held, held.opened());
        }
        let opening = began.elapsed();
        idled.opening_s = opening.as_secs_f64() - idled.at_rest.as_ref().map_or(0.0, |rest| rest.elapsed_s);
        if ended() {
            return Ok(());
        }
        self.announce(held.opened(), files.table);

        let (began, cpu_before) = (Instant::now(), held.cpu());
        match (self.run.clone(), &mut tree) {
            (Some(run), _) => self.beside(held, &run, idled, files, busy)?,
            (None, Some(tree)) if idled.is_silent => {
                idled.at_rest = rest(held, tree, self.idle.hold, ended)?;
            }
            (None, _) => held.hold(Some(began + self.idle.hold), ended)?,
        }
        idled.held_s = began.elapsed().as_secs_f64();
        let cpu_s = (held.cpu() - cpu_before).as_secs_f64();
        idled.holding_cpu_share = (idled.held_s > 0.0).then(|| cpu_s / idled.held_s);
        Ok(())
    }

    fn open(&self, held: &mut Held, kind: Kind, count: usize, ended: &dyn Fn() -> bool) -> Result<()> {
        held.open(kind, count, &self.idle.options, &self.script, ended)
    }

    /// Prints that all connections are open, for scripts that wait for it. Standard output may be taken by a result.
    fn announce(&self, count: usize, table: Table) {
        if table.is_shown() {
            // If this cannot be printed, neither can the table, which reports the failure.
            let _ = table.print(format_args!("holding {count}\n"));
        } else {
            message::line(format_args!("holding {count}"));
        }
    }

    /// Measures the busy ones while a thread holds the others.
    fn beside(
        &mut self,
        held: &mut Held,
        run: &Run,
        idled: &mut Idled,
        files: &mut Files,
        busy: &mut Busy,
    ) -> Result<()> {
        let is_over = AtomicBool::new(false);
        let measured = thread::scope(|scope| {
            let holding = scope.spawn(|| held.hold(None, &|| is_over.load(Ordering::Relaxed)));
            let watch = Watch {
                progress: Progress::new(self.idle.outputs.quiet),
                keeps_rows: files.want_rows(),
                log: files.log.as_mut(),
                counts_system_calls: false,
            };
            let measured = trial(run, self.asked, self.server.as_deref_mut(), self.stop, watch);
            is_over.store(true, Ordering::Relaxed);
            holding.join().map_err(|_| anyhow!("the thread that holds panicked: please report it"))??;
            anyhow::Ok(measured)
        })?;
        match measured {
            Ok(measured) => {
                idled.beside = Some(Report::new(run, self.asked, &measured));
                busy.beside = Some(measured);
            }
            // That this machine has run out of something says nothing about the server.
            Err(error) if error.is::<Usage>() => {
                return Err(error.context("the busy connections beside those held"));
            }
            // That it serves nobody else is a result: what is known of the others is told.
            Err(error) => idled.error = Some(format!("the busy connections beside those held: {error:#}")),
        }
        idled.ratios = idled.alone.as_ref().zip(idled.beside.as_ref()).map(Ratios::of);
        Ok(())
    }
}

/// Holds and looks at the server before and after. Nothing is known if it has gone meanwhile.
fn rest(
    held: &mut Held,
    tree: &mut Tree,
    time: Duration,
    ended: &dyn Fn() -> bool,
) -> Result<Option<AtRest>> {
    let before = tree.look();
    let began = Instant::now();
    held.hold(Some(began + time), ended)?;
    let elapsed_s = began.elapsed().as_secs_f64();
    let used = before.ok().zip(tree.look().ok()).filter(|_| elapsed_s > 0.0);
    Ok(used.map(|(before, after)| {
        let switches = after.switches.since(before.switches);
        AtRest {
            elapsed_s,
            server_cpu_share: after.cpu.saturating_sub(before.cpu).as_secs_f64() / elapsed_s,
            voluntary_switches_per_s: switches.voluntary as f64 / elapsed_s,
            involuntary_switches_per_s: switches.involuntary as f64 / elapsed_s,
        }
    }))
}

impl Memory {
    /// None where it cannot be read.
    fn before(tree: &Tree) -> Option<Memory> {
        let pids: Vec<_> = tree.pids().collect();
        let count = Count::of(pids.iter().copied())?;
        Some(Memory {
            counted_as: count,
            before_bytes: count.bytes(pids.into_iter())?,
            with_idle_bytes: None,
            with_held_bytes: None,
            bytes_per_idle_connection: None,
            bytes_per_connection: None,
        })
    }

    /// Notes what there was with so many idle connections, and with so many in all.
    fn note(&mut self, with_idle: Option<u64>, idle: usize, with_held: Option<u64>, held: usize) {
        let before = self.before_bytes as f64;
        let each = |with: Option<u64>, count: usize| {
            with.filter(|_| count > 0).map(|bytes| (bytes as f64 - before) / count as f64)
        };
        self.with_idle_bytes = with_idle;
        self.with_held_bytes = with_held;
        self.bytes_per_idle_connection = each(with_idle, idle);
        self.bytes_per_connection = each(with_held, held);
    }
}

impl Ratios {
    fn of((alone, beside): (&Report, &Report)) -> Ratios {
        let ratio = |of: &dyn Fn(&Report) -> Option<f64>| {
            of(beside).zip(of(alone)).map(|(beside, alone)| beside / alone).filter(|ratio| ratio.is_finite())
        };
        Ratios {
            p50: ratio(&|report| report.times_us().map(|times| times.p50)),
            p99: ratio(&|report| report.times_us().map(|times| times.p99)),
            throughput: ratio(&|report| Some(report.throughput_per_s)),
            server_cpu_per_request: ratio(&|report| report.server_cpu_ns_per_request),
        }
    }
}

impl Idled {
    fn new(idle: &Idle) -> Idled {
        let target = &idle.options.target;
        Idled {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::Valid,
            limiter: None,
            failed_conditions: Vec::new(),
            interrupted: false,
            error: None,
            service: target.service,
            address: target.address.to_string(),
            connections: idle.connections,
            slow_interval_s: idle.slow_interval.as_secs_f64(),
            opening_s: 0.0,
            held_s: 0.0,
            idle: Kept::default(),
            slow: Kept::default(),
            stopped: Kept::default(),
            may_close: idle.may_close,
            is_silent: idle.slow == 0 && idle.stopped == 0 && idle.busy.is_none(),
            first_error: None,
            memory: None,
            at_rest: None,
            holding_cpu_share: None,
            alone: None,
            beside: None,
            ratios: None,
        }
    }

    /// That slow and stopped connections are closed is the server's right. Where others are held or measured as well, so
    /// is it with silent ones, and is told.
    fn judge(&mut self, conditions: &[Condition]) {
        if let Some(beside) = &mut self.beside {
            beside.check(conditions);
            self.failed_conditions.clone_from(&beside.failed_conditions);
        }
        let mut invalid = [&self.alone, &self.beside].into_iter().flatten();
        let invalid = invalid.find(|report| report.verdict == Verdict::Invalid);
        self.limiter = if self.first_error.is_some() {
            Some(Limiter::WrongReplies)
        } else if self.idle.held + self.slow.held + self.stopped.held == 0 {
            Some(Limiter::NoRequests)
        } else if self.is_silent && self.idle.closed > 0 && !self.may_close {
            Some(Limiter::PeerClosed)
        } else {
            invalid.and_then(|report| report.limiter)
        };
        if self.limiter.is_some() || self.error.is_some() {
            self.verdict = Verdict::Invalid;
        }
    }

    /// Why it is invalid, in a line.
    fn complaint(&self) -> String {
        let measured = [("alone", &self.alone), ("beside", &self.beside)];
        let invalid = measured.into_iter().filter_map(|(name, report)| Some((name, report.as_ref()?)));
        let mut invalid = invalid.filter(|(_, report)| report.verdict == Verdict::Invalid);
        match (&self.error, &self.first_error, self.limiter) {
            (Some(error), ..) => format!("INVALID: {error}"),
            (_, Some(first), Some(limiter)) => format!("INVALID, limited by {}: {first}", limiter.words()),
            (_, _, limiter) => match invalid.next() {
                Some((name, report)) => format!("{name}: {}", report.complaint()),
                None if limiter == Some(Limiter::NoRequests) => "INVALID: no connection was held".to_owned(),
                None => {
                    let limiter = limiter.map_or("", Limiter::words);
                    format!("INVALID, limited by {limiter}: {}", self.closings())
                }
            },
        }
    }

    /// That silent connections were closed, in words.
    fn closings(&self) -> String {
        format!("the server closed {} of {}", self.idle.closed, counted(self.idle.held, "idle connection"))
    }
}
