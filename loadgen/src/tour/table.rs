//! A tour for a person at a terminal: a row for each service.

use std::env;
use std::fmt;

use console::style;

use super::{CONNECTIONS, RECEIVERS, ROOMS, Toured, Visit};
use crate::report::{Report, figures};
use crate::service::Service;
use crate::verdict::Verdict;

/// As wide as the name of a service gets.
const NAME_WIDTH: usize = 10;

/// The columns, with how wide they are: first those of the full load, then those of the half, then those of both.
const COLUMNS: [(&str, usize); 8] = [
    ("achieved", 10),
    ("server CPU", 12),
    ("offered", 10),
    ("p50", 9),
    ("p99", 9),
    ("p99.9", 9),
    ("errors", 8),
    ("lost", 7),
];

impl fmt::Display for Toured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style("The embedded tidewheel, service by service").bold())?;
        let shape = format!(
            "{CONNECTIONS} connections, {} B, {} at each load; chat: {} rooms with one sender in each; seed {}",
            self.size,
            figures::time(self.duration.as_secs_f64() * 1e6),
            ROOMS,
            self.seed
        );
        writeln!(f, "{}\n", style(shape).dim())?;
        let width = |columns: &[(&str, usize)]| columns.iter().map(|(_, width)| width).sum::<usize>();
        let (full, half) = (width(&COLUMNS[..2]), width(&COLUMNS[2..6]));
        let heads = format!("  {:NAME_WIDTH$}{}{}", "", rule("full load", full), rule("half load", half));
        writeln!(f, "{heads}")?;
        write!(f, "  {:NAME_WIDTH$}", "service")?;
        for (name, width) in COLUMNS {
            write!(f, "{name:>width$}")?;
        }
        writeln!(f, "  verdict")?;
        for visit in &self.services {
            write!(f, "  {:NAME_WIDTH$}", visit.name())?;
            for (cell, (_, width)) in visit.cells().into_iter().zip(COLUMNS) {
                write!(f, "{:>width$}", cell.unwrap_or("–".into()))?;
            }
            match visit.verdict {
                Some(Verdict::Valid) => writeln!(f, "  {}", style("VALID").green())?,
                Some(Verdict::Invalid) => writeln!(f, "  {}", style("INVALID").red().bold())?,
                None => writeln!(f, "  {}", style("not measured").yellow())?,
            }
        }
        writeln!(
            f,
            "
  Full load: a closed loop, each connection waiting for its reply; server CPU is for each request.
  Half load: an open loop at half that rate; response times, from the planned send to the reply.
  chat: deliveries in place of requests; each line is delivered to the {RECEIVERS} others of its room."
        )?;
        let most = |share: fn(&Report) -> Option<f64>| {
            let shares =
                self.services.iter().flat_map(Visit::reports).filter_map(|(report, _)| share(report));
            shares.reduce(f64::max).map_or("not known".into(), figures::share)
        };
        let (stolen, others) = (most(|report| report.steal_share), most(|report| report.other_cpu_share));
        writeln!(f, "  Measured with {}. Of the machine's CPU time", self.placement)?;
        writeln!(f, "  other programs had {others} at most, and the hypervisor took {stolen} at most.")?;

        let troubles = self.troubles();
        if !troubles.is_empty() {
            let meaning =
                "INVALID: something stood in the way, so the figures of that row are not to be believed:";
            writeln!(f, "\n  {}", style(meaning).red().bold())?;
            for trouble in troubles {
                writeln!(f, "  {trouble}")?;
            }
            let reports = self.services.iter().flat_map(Visit::reports);
            let mut hints: Vec<_> = reports.filter_map(|(report, _)| report.hint()).collect();
            hints.sort_unstable();
            hints.dedup();
            for hint in hints {
                writeln!(f, "  {hint}")?;
            }
        }
        if let Some(words) = &self.ended_early {
            writeln!(f, "\n  {}", style(words).yellow())?;
        }

        // As it was called, so that the lines can be copied.
        let program = env::args().next().unwrap_or_else(|| "loadgen".into());
        writeln!(f, "\n  {}", style("Next, with a server of yours, or with tidewheel serve:").bold())?;
        writeln!(f, "    {program} run echo=127.0.0.1:7007 -c 50 -r 20k --html result.html")?;
        writeln!(f, "    {program} search echo=127.0.0.1:7007 -c 50 --slo 'p99<1ms'")?;
        writeln!(f, "    {program} --help")
    }
}

/// A head over several columns.
fn rule(words: &str, width: usize) -> String {
    // One column of space on the left keeps it apart from its neighbour.
    format!("  {:─^width$}", format!(" {words} "), width = width - 2)
}

impl Visit {
    fn name(&self) -> String {
        if self.service.has_streams() { self.service.to_string() } else { format!("{} (UDP)", self.service) }
    }

    /// One for each of the columns; none where nothing was measured.
    fn cells(&self) -> [Option<String>; COLUMNS.len()] {
        let (full, half) = (self.full_load.as_ref(), self.half_load.as_ref());
        let ns = |ns: f64| figures::time(ns / 1e3);
        // A chat is told by deliveries.
        let each = if self.service == Service::Chat { RECEIVERS as f64 } else { 1.0 };
        let achieved = |report: &Report| report.deliveries_per_s.unwrap_or(report.throughput_per_s);
        let cpu = |report: &Report| report.server_cpu_ns_per_delivery.or(report.server_cpu_ns_per_request);
        let times = half.and_then(Report::times_us);
        let sum = |count: fn(&Report) -> u64| {
            self.reports().map(|(report, _)| count(report)).reduce(|one, other| one + other)
        };
        [
            full.map(|report| figures::rate(achieved(report))),
            full.and_then(cpu).map(ns),
            half.map(|report| figures::rate(report.offered_per_s * each)),
            times.map(|times| figures::time(times.p50)),
            times.map(|times| figures::time(times.p99)),
            times.map(|times| figures::time(times.p999)),
            sum(|report| report.errors).map(|count| count.to_string()),
            sum(|report| report.lost).map(|count| count.to_string()),
        ]
    }
}
