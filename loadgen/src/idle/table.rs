//! What came of holding connections, for a person at a terminal.

use std::fmt;

use console::style;

use super::Idled;
use super::held::Kept;
use crate::report::lines::Grid;
use crate::report::{Report, counted, figures};
use crate::verdict::Verdict;

/// A figure of the busy ones, alone, beside, and one as a part of the other.
pub struct Compared {
    pub name: &'static str,
    pub alone: String,
    pub beside: String,
    pub ratio: String,
}

impl Idled {
    pub fn title(&self) -> String {
        format!("{} at {}, {} held", self.service, self.address, counted(self.opened(), "connection"))
    }

    /// How they were held.
    pub fn shape(&self) -> String {
        let mut words = format!("opened in {:.2} s, held for {:.2} s", self.opening_s, self.held_s);
        if self.slow.held > 0 {
            words += &format!(", slow ones with a byte each {}", figures::time(self.slow_interval_s * 1e6));
        }
        words
    }

    fn opened(&self) -> usize {
        self.idle.held + self.slow.held + self.stopped.held
    }

    /// What became of those that were held, and what they cost, each with a name.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let kinds = [("idle", &self.idle), ("slow", &self.slow), ("stopped", &self.stopped)];
        for (name, kept) in kinds.into_iter().filter(|(_, kept)| kept.held > 0) {
            rows.push((name, kept.words()));
        }
        if let Some(memory) = &self.memory {
            let bytes =
                |bytes: Option<u64>| bytes.map_or("not known".into(), |bytes| figures::bytes(bytes as f64));
            let each = |bytes: Option<f64>| bytes.map_or("not known".into(), figures::bytes);
            let mut words = format!("{} before", bytes(Some(memory.before_bytes)));
            if self.idle.held > 0 {
                let (all, each) = (bytes(memory.with_idle_bytes), each(memory.bytes_per_idle_connection));
                words += &format!(", {all} with the idle ones: {each} each");
            }
            if self.slow.held + self.stopped.held > 0 {
                let (all, each) = (bytes(memory.with_held_bytes), each(memory.bytes_per_connection));
                words += &format!(", {all} with all of them: {each} each");
            }
            rows.push(("server memory", words + " (without the kernel's socket buffers)"));
        }
        if let Some(rest) = &self.at_rest {
            let words = format!(
                "{} of a core, {:.1} voluntary and {:.1} involuntary switches a second, in {:.2} s",
                share(rest.server_cpu_share),
                rest.voluntary_switches_per_s,
                rest.involuntary_switches_per_s,
                rest.elapsed_s
            );
            rows.push(("server idle", words));
        }
        if let Some(cpu) = self.holding_cpu_share {
            rows.push(("loadgen CPU", format!("{} of a core to hold them", share(cpu))));
        }
        rows
    }

    /// The busy ones alone and beside.
    pub fn compared(&self) -> Vec<Compared> {
        let (Some(alone), Some(beside), Some(ratios)) = (&self.alone, &self.beside, &self.ratios) else {
            return Vec::new();
        };
        let row = |name, of: &dyn Fn(&Report) -> Option<String>, ratio: Option<f64>| {
            let words = |report| of(report).unwrap_or_else(|| "–".into());
            let ratio = ratio.map_or("–".into(), |ratio| format!("× {ratio:.3}"));
            Compared { name, alone: words(alone), beside: words(beside), ratio }
        };
        let cpu = |report: &Report| report.server_cpu_ns_per_request.map(|ns| figures::time(ns / 1e3));
        vec![
            row("p50", &|report| report.times_us().map(|times| figures::time(times.p50)), ratios.p50),
            row("p99", &|report| report.times_us().map(|times| figures::time(times.p99)), ratios.p99),
            row("achieved", &|report| Some(figures::rate(report.throughput_per_s)), ratios.throughput),
            row("server CPU", &cpu, ratios.server_cpu_per_request),
        ]
    }

    /// What kind of times p50 and p99 are of.
    pub fn kind_of_times(&self) -> &'static str {
        match &self.beside {
            Some(beside) if beside.is_open_loop() => "response time",
            _ => "service time",
        }
    }
}

impl Kept {
    fn words(&self) -> String {
        let mut words = format!("{} held, {} closed by the server", self.held, self.closed);
        match (self.first_closed_s, self.last_closed_s) {
            (Some(first), Some(last)) if self.closed > 1 => {
                words += &format!(", the first after {first:.2} s, the last after {last:.2} s");
            }
            (Some(first), _) => words += &format!(", after {first:.2} s"),
            _ => {}
        }
        if self.sent_bytes > 0 {
            let each = figures::bytes(self.sent_bytes as f64 / self.held as f64);
            words += &format!(", {each} sent on each");
        }
        if self.blocked > 0 {
            words += &format!(", {} with a full socket", self.blocked);
        }
        words
    }
}

/// For a person at a terminal.
impl fmt::Display for Idled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(self.title()).bold())?;
        writeln!(f, "{}\n", style(self.shape()).dim())?;
        for (name, words) in self.words() {
            writeln!(f, "  {name:<14}  {words}")?;
        }
        let compared = self.compared();
        if !compared.is_empty() {
            let mut grid = Grid::new(["busy", "alone", "beside", "ratio"]);
            for Compared { name, alone, beside, ratio } in compared {
                grid.row([name.to_owned(), alone, beside, ratio]);
            }
            write!(f, "\n{grid}  p50 and p99 are of the {}.\n", self.kind_of_times())?;
        }
        // What run prints, of the measurement of interest: its verdict is the last word unless there is more to say.
        let report = self.beside.as_ref().or(self.alone.as_ref());
        if let Some(report) = report {
            write!(f, "\n{report}")?;
        }
        // The report says so of its own measurement.
        if self.interrupted && report.is_none_or(|report| !report.interrupted) {
            writeln!(f, "\n  {} ended by a signal", style("INTERRUPTED").yellow().bold())?;
        }
        match (self.verdict, report) {
            (Verdict::Valid, None) => writeln!(f, "\n  {}", style("VALID").green().bold()),
            (Verdict::Invalid, report) if report.is_none_or(|report| report.verdict == Verdict::Valid) => {
                writeln!(f, "\n  {}", style(self.complaint()).red().bold())
            }
            _ => Ok(()),
        }
    }
}

/// A share of which a hundredth of a percent matters.
fn share(of_one: f64) -> String {
    format!("{:.2} %", of_one * 100.0)
}
