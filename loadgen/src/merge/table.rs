//! What logs came to, for a person at a terminal: a line for each log, then the sum.

use std::fmt;

use console::style;
use jiff::Timestamp;

use super::{Merged, Part, Times};
use crate::report::{Quantiles, figures, of_many, replies};
use crate::verdict::Verdict;

/// Names of kinds of times are as wide as this, if they are not wider.
const KIND_WIDTH: usize = 14;

const CELL_WIDTH: usize = 10;

impl Merged {
    /// How many logs of what time, in a line.
    pub fn title(&self) -> String {
        let logs = if self.files.len() == 1 { "log" } else { "logs" };
        let began = Timestamp::from_microsecond((self.started_unix_s * 1e6) as i64);
        let began = began.map(|began| format!(", from {began:.0}")).unwrap_or_default();
        format!("{} {logs} merged{began}", self.files.len())
    }

    /// How long they took, in a line.
    pub fn spans(&self) -> String {
        let whole = figures::time(self.span_s * 1e6);
        match self.common_span_s {
            Some(common_s) => {
                format!("{whole}, all were driving for {} of it", figures::time(common_s * 1e6))
            }
            None => format!("{whole}, there is no time at which all were driving"),
        }
    }

    /// The figures beside the times, each with its name, in words.
    pub fn figures(&self) -> Vec<(&'static str, String)> {
        let Some(counts) = &self.counts else {
            return vec![("requests", "not known: a log does not say how its run came out".into())];
        };
        let mut rest = String::new();
        if counts.late > 0 {
            rest += &format!(", {} late", counts.late);
        }
        if counts.peer_closed > 0 {
            rest += &format!(", {} closed by the peer", of_many(counts.peer_closed, "connection"));
        }
        let rate = |per_s: Option<f64>| per_s.map_or("not known".into(), figures::rate);
        let planned = counts.rate_per_s.map(|planned| format!(" of {}", figures::rate(planned)));
        vec![
            (
                "requests",
                format!(
                    "{}, {}, {} lost{rest}",
                    counts.requests,
                    replies(counts.errors, "wrong"),
                    counts.lost
                ),
            ),
            ("offered", rate(self.offered_per_s) + &planned.unwrap_or_default()),
            ("achieved", rate(self.throughput_per_s)),
        ]
    }
}

impl Part {
    /// When it began, after the first one.
    pub fn began(&self, merged: &Merged) -> String {
        format!("+{}", figures::time((self.started_unix_s - merged.started_unix_s).max(0.0) * 1e6))
    }

    /// Its verdict in a word.
    pub fn verdict_words(&self) -> &'static str {
        match self.verdict {
            Some(Verdict::Valid) => "VALID",
            Some(Verdict::Invalid) => "INVALID",
            None => "not known",
        }
    }
}

impl Times {
    /// A quantile in words.
    pub fn words(&self, of: fn(&Quantiles) -> f64) -> String {
        self.us.as_ref().map_or("–".into(), |times| figures::time(of(times)))
    }

    pub fn rate_words(&self) -> String {
        self.per_s.map_or("–".into(), figures::rate)
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(self.title()).bold())?;
        writeln!(f, "{}\n", style(self.spans()).dim())?;
        let width = self.files.iter().map(|part| part.path.chars().count()).max().unwrap_or_default();
        write!(f, "  {:<width$}", "")?;
        for name in ["began", "span", "count", "p50", "p99", "max"] {
            write!(f, " {name:>CELL_WIDTH$}")?;
        }
        writeln!(f, "  {:<KIND_WIDTH$} verdict", "kind")?;
        for part in &self.files {
            for (index, times) in part.main_times().iter().enumerate() {
                let (path, began, span) = match index {
                    0 => (part.path.as_str(), part.began(self), figures::time(part.span_s * 1e6)),
                    _ => ("", String::new(), String::new()),
                };
                write!(f, "  {path:<width$} {began:>CELL_WIDTH$} {span:>CELL_WIDTH$}")?;
                write!(f, " {:>CELL_WIDTH$}", times.count)?;
                for cell in [
                    times.words(|times| times.p50),
                    times.words(|times| times.p99),
                    times.words(|times| times.max),
                ] {
                    write!(f, " {cell:>CELL_WIDTH$}")?;
                }
                write!(f, "  {:<KIND_WIDTH$}", times.tag.words())?;
                match (index, part.verdict) {
                    (0, Some(Verdict::Invalid)) => {
                        writeln!(f, " {}", style(part.verdict_words()).red().bold())?;
                    }
                    (0, _) => writeln!(f, " {}", part.verdict_words())?,
                    _ => writeln!(f)?,
                }
            }
        }
        writeln!(f)?;
        for (name, words) in self.figures() {
            writeln!(f, "  {name:<KIND_WIDTH$} {words}")?;
        }
        write!(f, "\n  {:<KIND_WIDTH$}", "")?;
        for name in ["count", "rate", "p50", "p90", "p99", "p99.9", "max", "mean"] {
            write!(f, " {name:>CELL_WIDTH$}")?;
        }
        writeln!(f)?;
        for times in &self.times {
            write!(f, "  {:<KIND_WIDTH$}", times.tag.words())?;
            write!(f, " {:>CELL_WIDTH$} {:>CELL_WIDTH$}", times.count, times.rate_words())?;
            let quantiles = times.us.as_ref().map(Quantiles::named);
            for (_, us) in quantiles.iter().flatten() {
                write!(f, " {:>CELL_WIDTH$}", figures::time(*us))?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for condition in &self.failed_conditions {
            writeln!(f, "  {} --fail-if {condition} held", style("FAILED").red().bold())?;
        }
        if let Some(words) = self.interruption() {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        match self.verdict {
            Some(Verdict::Valid) => writeln!(f, "  {}", style("VALID").green().bold()),
            Some(Verdict::Invalid) => {
                self.complaints().try_for_each(|complaint| writeln!(f, "  {}", style(complaint).red().bold()))
            }
            None => writeln!(f, "  {}", style("the verdict is not known").yellow()),
        }
    }
}
