//! A tour for a person at a terminal: a row for each service at each load.

use std::env;
use std::fmt;

use console::{Style, style};

use super::{CONNECTIONS, RECEIVERS, ROOMS, Toured, Visit};
use crate::report::lines::{Cell, Grid};
use crate::report::{Report, figures};
use crate::service::Service;
use crate::verdict::Verdict;

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
        let mut full = Grid::new(["full load", "achieved", "server CPU", "errors", "lost"]);
        let mut half =
            Grid::new(["half load", "offered", "p50", "p99", "p99.9", "errors", "lost", "verdict"]);
        half.has_words_in(7);
        for visit in &self.services {
            let cells = |cells: Vec<Option<String>>| {
                let cells = cells.into_iter().map(|cell| Cell::from(cell.unwrap_or("–".into())));
                [Cell::from(visit.name())].into_iter().chain(cells).collect::<Vec<_>>()
            };
            full.row(cells(visit.at_full_load()));
            let verdict = match visit.verdict {
                Some(Verdict::Valid) => Cell::styled("VALID", Style::new().green()),
                Some(Verdict::Invalid) => Cell::styled("INVALID", Style::new().red().bold()),
                None => Cell::styled("not measured", Style::new().yellow()),
            };
            half.row(cells(visit.at_half_load()).into_iter().chain([verdict]));
        }
        writeln!(
            f,
            "{full}
{half}
  Full load: a closed loop, each connection waiting for its reply; server CPU is per request.
  Half load: an open loop at half that rate; response times, from the planned send to the reply.
  The verdict is that of both loads.
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
            let meaning = "INVALID: the figures of that row are not reliable:";
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
        writeln!(f, "\n  {}", style("Next, with your own server, or with tidewheel serve:").bold())?;
        writeln!(f, "    {program} run echo=127.0.0.1:7007 -c 50 -r 20k --html run.html")?;
        writeln!(f, "    {program} search echo=127.0.0.1:7007 -c 50 --slo 'p99<1ms'")?;
        writeln!(f, "    {program} --help")
    }
}

impl Visit {
    fn name(&self) -> String {
        if self.service.has_streams() { self.service.to_string() } else { format!("{} (UDP)", self.service) }
    }

    /// How many get each request's answer: a chat is told by deliveries.
    fn receivers(&self) -> f64 {
        if self.service == Service::Chat { RECEIVERS as f64 } else { 1.0 }
    }

    /// The cells of its row; none where nothing was measured.
    fn at_full_load(&self) -> Vec<Option<String>> {
        let full = self.full_load.as_ref();
        let achieved = |report: &Report| report.deliveries_per_s.unwrap_or(report.throughput_per_s);
        let cpu = |report: &Report| report.server_cpu_ns_per_delivery.or(report.server_cpu_ns_per_request);
        vec![
            full.map(|report| figures::rate(achieved(report))),
            full.and_then(cpu).map(|ns| figures::time(ns / 1e3)),
            full.map(|report| report.errors.to_string()),
            full.map(|report| report.lost.to_string()),
        ]
    }

    fn at_half_load(&self) -> Vec<Option<String>> {
        let half = self.half_load.as_ref();
        let times = half.and_then(Report::times_us);
        vec![
            half.map(|report| figures::rate(report.offered_per_s * self.receivers())),
            times.map(|times| figures::time(times.p50)),
            times.map(|times| figures::time(times.p99)),
            times.map(|times| figures::time(times.p999)),
            half.map(|report| report.errors.to_string()),
            half.map(|report| report.lost.to_string()),
        ]
    }
}
