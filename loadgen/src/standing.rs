//! A load whose connections stay from one measurement to the next, so that measurements can be short.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};

use crate::Usage;
use crate::cli::Run;
use crate::load::Amount;
use crate::machine::MachineClock;
use crate::os::{CpuClock, RunDelay};
use crate::plan::{Plan, Window};
use crate::record::Record;
use crate::report::Report;
use crate::run::{Driver, Measured, Pace};
use crate::server::Server;
use crate::tree::Tree;
use crate::trial::{DEATH_PATIENCE, check_depth, connector, shape, sound};

/// Connections to a server, and what drives them.
pub struct Standing {
    run: Run,
    drivers: Vec<Box<dyn Driver>>,
    server: Tree,
}

/// What one thread has done.
struct Part {
    record: Record,
    window: Option<Window>,
    run_delay: Duration,
}

impl Standing {
    /// Opens the connections.
    pub fn connect(run: Run, server: &Server) -> Result<Standing> {
        let asked = run.asked().map_err(Usage)?;
        let (connect, whole) = (connector(&run, &asked), shape(&run, &asked));
        check_depth(&run, &asked)?;
        let threads = run.options.threads.min(whole.connections);
        let shares = (0..threads).map(|index| whole.share(index, threads));
        let drivers = shares.map(|share| {
            let first = share.first;
            connect(share, first)
        });
        let mut drivers: Vec<Box<dyn Driver>> = drivers.collect::<Result<_>>()?;
        drivers.iter_mut().for_each(|driver| driver.hasten());
        drop(connect);
        let server = Tree::of(server.pid()).context("the CPU clock of the server")?;
        Ok(Standing { run, drivers, server })
    }

    /// Measures once, and verifies what comes back: a wrong reply is an error; that the generator had too little CPU time
    /// is not.
    pub fn measure(&mut self, server: &mut Server, amount: Amount, stop: &AtomicBool) -> Result<Report> {
        let measured = self.drive(amount, &|| stop.load(Ordering::Relaxed));
        let is_fine = measured.as_ref().is_ok_and(|measured| measured.record.peer_closed == 0);
        server.check(if is_fine { Duration::ZERO } else { DEATH_PATIENCE }).context("the server failed")?;
        let mut run = self.run.clone();
        run.options.requests = match amount {
            Amount::Requests(requests) => Some(requests),
            Amount::Time(_) => None,
        };
        let asked = run.asked().map_err(Usage)?;
        sound(Report::new(&run, &asked, &measured?), stop)
    }

    fn drive(&mut self, amount: Amount, stop: &(dyn Fn() -> bool + Sync)) -> Result<Measured> {
        let pace = self.run.pace();
        let (threads, seed) = (self.drivers.len(), self.run.options.seed);
        let (started_at, began, machine) = (SystemTime::now(), Instant::now(), MachineClock::read());
        let own_before = CpuClock::OWN.read()?;
        let before = self.server.look().context("reading the server's CPU clock (has it ended?)")?;
        let mut parts: Vec<Part> = if let [driver] = &mut self.drivers[..] {
            vec![part(driver, pace, amount, (0, 1), seed, stop)?]
        } else {
            thread::scope(|scope| {
                let driving: Vec<_> = (0..)
                    .zip(&mut self.drivers)
                    .map(|(index, driver)| {
                        let (amount, seed) = (amount.share(index, threads), seed.wrapping_add(index as u64));
                        scope.spawn(move || part(driver, pace, amount, (index, threads), seed, stop))
                    })
                    .collect();
                let end = |driven: thread::ScopedJoinHandle<'_, Result<Part>>| {
                    driven
                        .join()
                        .map_err(|_| anyhow!("a thread of the generator panicked: please report it"))?
                };
                driving.into_iter().map(end).collect::<Result<_>>()
            })?
        };
        let after = self.server.look().context("reading the server's CPU clock (has it ended?)")?;
        let (server_cpu, own_cpu) =
            (after.cpu.saturating_sub(before.cpu), CpuClock::OWN.read()? - own_before);
        let mut record = parts.pop().map(|part| (part.record, part.window, part.run_delay));
        for part in parts {
            if let Some((record, window, run_delay)) = &mut record {
                record.add(&part.record);
                *window = window.take().into_iter().chain(part.window).reduce(Window::around);
                *run_delay = part.run_delay.max(*run_delay);
            }
        }
        let (record, window, run_delay) = record.context("there is no thread to drive")?;
        let now = MachineClock::read();
        let machine = machine.zip(now).and_then(|(before, now)| now.since(&before, own_cpu + server_cpu));
        Ok(Measured {
            record,
            intervals: Vec::new(),
            started_at,
            elapsed: window.map_or(Duration::ZERO, Window::length),
            server_cpu: Some(server_cpu),
            server_switches: Some(after.switches.since(before.switches)),
            own_cpu,
            clocks_apart: began.elapsed(),
            machine,
            run_delay,
            server_drops: None,
            interrupted: stop(),
            system_calls: None,
        })
    }
}

/// What one of the threads does.
fn part(
    driver: &mut dyn Driver,
    pace: Pace,
    amount: Amount,
    share: (usize, usize),
    seed: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Part> {
    let delay = RunDelay::read();
    let window = match pace {
        Pace::Closed { depth } => Some(Window::of(driver.drive(amount, depth, stop)?)),
        Pace::Open { rate_per_s, arrivals, .. } => {
            let mut plan = Plan::new(rate_per_s, arrivals, seed, share);
            driver.follow(&mut plan, Duration::ZERO, amount, stop)?
        }
    };
    Ok(Part { record: driver.take_record(), window, run_delay: delay.since() })
}
