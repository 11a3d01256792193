//! `loadgen` without a command: a tidewheel of its own, and each of its services measured twice.
//!
//! First in a closed loop, as fast as the service goes; what that comes to says how much an open loop may ask for. At
//! half of it the response times are those of a server that keeps up.

mod table;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::cli::{Options, Run, Tour};
use crate::embedded::Embedded;
use crate::message::message;
use crate::output::{Output, Written};
use crate::placement::Placement;
use crate::progress::Progress;
use crate::report::{Report, SCHEMA_VERSION, write};
use crate::run::Watch;
use crate::server::Server;
use crate::service::Service;
use crate::trial::trial;
use crate::verdict::Verdict;
use crate::{EXIT_INVALID, Usage, os};

/// On each service. It divides into rooms of the same size.
const CONNECTIONS: usize = 50;

/// Of chat, with one sender in each.
const ROOMS: usize = 5;

/// Those who hear a line: all in the room but its sender.
const RECEIVERS: usize = CONNECTIONS / ROOMS - 1;

/// Of the time that is measured, so much is driven before.
const WARMUP_SHARE: u32 = 5;

/// What the tour came to. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Toured {
    schema_version: u32,
    loadgen_version: &'static str,
    /// Valid if all that was measured is, and if anything was.
    verdict: Verdict,
    /// Why some of it is missing.
    ended_early: Option<String>,
    seed: u64,
    #[serde(flatten)]
    placement: Placement,
    /// Of a request, as it is told.
    #[serde(skip)]
    size: String,
    /// Of each measurement.
    #[serde(skip)]
    duration: Duration,
    services: Vec<Visit>,
}

/// One service.
#[derive(Serialize)]
struct Visit {
    service: Service,
    /// Null if nothing of it was measured.
    verdict: Option<Verdict>,
    /// The closed loop.
    full_load: Option<Report>,
    /// The open loop.
    half_load: Option<Report>,
    /// Why a report is missing.
    error: Option<String>,
}

/// How much is asked of a service.
#[derive(Clone, Copy)]
enum Demand {
    Full,
    Half,
}

impl Demand {
    fn words(self) -> &'static str {
        match self {
            Demand::Full => "full load",
            Demand::Half => "half load",
        }
    }
}

/// Starts the server, measures it, ends it, and tells what came of it.
pub fn tour(tour: &Tour, stop: &AtomicBool) -> Result<ExitCode> {
    let ([json], table) = Output::open_all([("--json", tour.json.as_deref())])?;
    os::raise_descriptor_limit(CONNECTIONS)?;
    let placement = Placement::choose()?;
    placement.pin_server()?;
    let embedded = Embedded::start()?;
    placement.pin_loadgen()?;
    let toured = Toured::of(tour, placement, embedded, stop)?;

    // What can be written is, even if something else cannot.
    let mut written = Written::default();
    written.add(write(json, |out| toured.write_json(out)));
    written.add(table.print(&toured));
    if let Some(words) = &toured.ended_early {
        message!("{words}");
    }
    if toured.verdict == Verdict::Invalid {
        let troubles = toured.troubles();
        let first = troubles.first().map_or("no measurement was completed", String::as_str);
        let others = match troubles.len().saturating_sub(1) {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        message!("INVALID: {first}{others}");
    }
    written.all()?;
    Ok(match toured.verdict {
        Verdict::Valid => ExitCode::SUCCESS,
        Verdict::Invalid => ExitCode::from(EXIT_INVALID),
    })
}

impl Toured {
    /// Measures the server until all is done, it is gone, or somebody has had enough; and ends it.
    fn of(tour: &Tour, placement: Placement, mut embedded: Embedded, stop: &AtomicBool) -> Result<Toured> {
        let runs = embedded.targets.iter().map(|target| Ok(as_asked(Run::of(target)?, tour)));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let services = runs.iter().map(|run| Visit {
            service: run.options.target.service,
            verdict: None,
            full_load: None,
            half_load: None,
            error: None,
        });
        let mut toured = Toured {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::Invalid,
            ended_early: None,
            seed: tour.seed,
            placement,
            size: runs.first().map(|run| run.options.size.to_string()).unwrap_or_default(),
            duration: tour.duration,
            services: services.collect(),
        };
        let stretches = [Demand::Full, Demand::Half];
        let all = runs.len() * stretches.len();
        let mut place = 0;
        'services: for (visit, run) in toured.services.iter_mut().zip(&runs) {
            for demand in stretches {
                place += 1;
                let title = format!("{place} of {all}: {}, {}", visit.service, demand.words());
                let progress = Progress::new(tour.quiet).of(&title);
                let words = visit.measure(run, demand, &mut embedded.server, stop, progress);
                if stop.load(Ordering::Relaxed) {
                    toured.ended_early = Some(format!("ended by a signal after {} of {all}", place - 1));
                    break 'services;
                }
                if !tour.quiet {
                    message!("{title}: {words}");
                }
                if let Err(error) = embedded.server.check(Duration::ZERO) {
                    toured.ended_early = Some(format!("ended after {place} of {all}: {error:#}"));
                    break 'services;
                }
            }
        }
        for visit in &mut toured.services {
            visit.judge();
        }
        let mut made = toured.services.iter().filter_map(|visit| visit.verdict).peekable();
        if made.peek().is_some() && made.all(|verdict| verdict == Verdict::Valid) {
            toured.verdict = Verdict::Valid;
        }
        Ok(toured)
    }

    /// What went wrong, a line for each.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for visit in &self.services {
            for (report, demand) in visit.reports() {
                if report.verdict == Verdict::Invalid {
                    troubles.push(format!("{}, {}: {}", visit.service, demand.words(), report.cause()));
                }
            }
            if let Some(error) = &visit.error {
                troubles.push(format!("{}: {error}", visit.service));
            }
        }
        troubles
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

/// A run as the tour makes it: short, and on many connections.
fn as_asked(run: Run, tour: &Tour) -> Run {
    let rooms = (run.options.target.service == Service::Chat).then_some(ROOMS);
    let options = Options {
        duration: tour.duration,
        warmup: tour.duration / WARMUP_SHARE,
        seed: tour.seed,
        rooms,
        ..run.options
    };
    Run { connections: CONNECTIONS, options, ..run }
}

impl Visit {
    /// Measures it, and says in a line what came of that.
    fn measure(
        &mut self,
        run: &Run,
        demand: Demand,
        server: &mut Server,
        stop: &AtomicBool,
        progress: Progress,
    ) -> String {
        match self.report(run, demand, server, stop, progress) {
            Ok(report) => {
                let words = report.summary();
                let place = match demand {
                    Demand::Full => &mut self.full_load,
                    Demand::Half => &mut self.half_load,
                };
                // A signal may come before there is anything to tell.
                *place = Some(report).filter(|report| report.requests > 0);
                words
            }
            Err(error) => {
                let words = format!("{error:#}");
                self.error.get_or_insert_with(|| words.clone());
                format!("INVALID: {words}")
            }
        }
    }

    fn report(
        &self,
        run: &Run,
        demand: Demand,
        server: &mut Server,
        stop: &AtomicBool,
        progress: Progress,
    ) -> Result<Report> {
        let rate = match demand {
            Demand::Full => None,
            Demand::Half => match self.full_load.as_ref().map(|full| full.throughput_per_s / 2.0) {
                Some(rate) if rate > 0.0 => Some(rate),
                _ => bail!("no throughput at full load, so there is no half load"),
            },
        };
        let run = Run { rate, ..run.clone() };
        let asked = run.options.asked(run.connections).map_err(Usage)?;
        let watch = Watch { progress, ..Watch::nobody() };
        let report = Report::new(&run, &asked, &trial(&run, &asked, Some(server), stop, watch)?);
        ensure!(report.requests > 0 || report.interrupted, "no request could be sent");
        Ok(report)
    }

    /// What there is, in its order.
    fn reports(&self) -> impl Iterator<Item = (&Report, Demand)> {
        [(&self.full_load, Demand::Full), (&self.half_load, Demand::Half)]
            .into_iter()
            .filter_map(|(report, demand)| Some((report.as_ref()?, demand)))
    }

    fn judge(&mut self) {
        let is_valid =
            self.error.is_none() && self.reports().all(|(report, _)| report.verdict == Verdict::Valid);
        self.verdict = match (self.reports().count(), is_valid) {
            (_, false) => Some(Verdict::Invalid),
            (0, true) => None,
            (_, true) => Some(Verdict::Valid),
        };
    }
}
