//! What logs came to, for a person at a terminal: a line for each log, then the sum.

use std::fmt;

use console::style;
use jiff::Timestamp;

use super::{Merged, Part, Times};
use crate::report::lines::Grid;
use crate::report::{Quantiles, figures, of_many, replies};
use crate::verdict::Verdict;

/// As wide as the name of a figure gets.
const NAME_WIDTH: usize = 14;

impl Merged {
    /// How many logs they are.
    pub fn title(&self) -> String {
        let logs = if self.files.len() == 1 { "log" } else { "logs" };
        format!("{} {logs} merged", self.files.len())
    }

    /// When they began and how long they took, in a line.
    pub fn spans(&self) -> String {
        let began = Timestamp::from_microsecond((self.started_unix_s * 1e6) as i64);
        let began = began.map(|began| format!("from {} UTC, ", began.strftime("%Y-%m-%d %H:%M:%S")));
        let whole = began.unwrap_or_default() + &figures::time(self.span_s * 1e6);
        match self.common_span_s {
            Some(common_s) => {
                format!("{whole}; all ran at the same time for {} of it", figures::time(common_s * 1e6))
            }
            None => format!("{whole}; there is no time at which all ran"),
        }
    }

    /// The figures beside the times, each with its name, in words.
    pub fn figures(&self) -> Vec<(&'static str, String)> {
        let Some(counts) = &self.counts else {
            return vec![("requests", "unknown: a log has no counts".into())];
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
    /// When it began, after the first one, how long it took, and its verdict.
    pub fn span_words(&self, merged: &Merged) -> String {
        let began_us = (self.started_unix_s - merged.started_unix_s).max(0.0) * 1e6;
        let verdict = match self.verdict {
            Some(Verdict::Valid) => "VALID",
            Some(Verdict::Invalid) => "INVALID",
            None => "verdict not known",
        };
        let began =
            if began_us < 1.0 { "first".to_owned() } else { format!("at +{}", figures::time(began_us)) };
        format!("began {began}, ran for {}, {verdict}", figures::time(self.span_s * 1e6))
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
        for part in &self.files {
            let words = part.span_words(self);
            let words = if part.is_invalid() { style(words).red() } else { style(words) };
            writeln!(f, "  {}\n  {words}", style(&part.path).bold())?;
            let mut grid = Grid::new(["", "count", "p50", "p99", "max"]);
            for times in part.main_times() {
                grid.row([
                    times.tag.words().to_owned(),
                    times.count.to_string(),
                    times.words(|times| times.p50),
                    times.words(|times| times.p99),
                    times.words(|times| times.max),
                ]);
            }
            writeln!(f, "{grid}")?;
        }
        for (name, words) in self.figures() {
            writeln!(f, "  {name:<NAME_WIDTH$}  {words}")?;
        }
        writeln!(f)?;
        let mut grid = Grid::new(["all logs", "count", "rate", "p50", "p90", "p99", "p99.9", "max", "mean"]);
        for times in &self.times {
            let quantiles = times
                .us
                .as_ref()
                .map_or([const { String::new() }; 6], |times| times.named().map(|(_, us)| figures::time(us)));
            let cells = [times.tag.words().to_owned(), times.count.to_string(), times.rate_words()];
            grid.row(cells.into_iter().chain(quantiles));
        }
        writeln!(f, "{grid}")?;
        for condition in &self.failed_conditions {
            writeln!(f, "  {} --fail-if {condition}", style("FAILED").red().bold())?;
        }
        if let Some(words) = self.interruption() {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        match self.verdict {
            Some(Verdict::Valid) => writeln!(f, "  {}", style("VALID").green().bold()),
            Some(Verdict::Invalid) => {
                self.complaints().try_for_each(|complaint| writeln!(f, "  {}", style(complaint).red().bold()))
            }
            None => writeln!(f, "  {}", style("the verdict is unknown").yellow()),
        }
    }
}
