//! A sweep for a person at a terminal: for each step its medians, and under them from where to where they went.

use std::fmt;

use console::style;

use super::{COLUMNS, Column, Spread, Swept, Varied};
use crate::report::figures;
use crate::verdict::Verdict;

/// As wide as a range gets, with a space before it.
const WIDTH: usize = 15;

/// As wide as a step's name gets.
const NAME_WIDTH: usize = 11;

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(&self.title).bold())?;
        writeln!(f, "{}", style(&self.shape).dim())?;
        writeln!(f)?;
        // Without the server's CPU time, if it is known of no step.
        let columns: Vec<_> = COLUMNS
            .into_iter()
            .zip(["offered", "achieved", "p50", "p99", "p99.9", "server CPU"])
            .filter(|(column, name)| {
                *name != "server CPU" || self.steps.iter().any(|step| (column.of)(step).is_some())
            })
            .collect();
        let varied = if self.varied == Varied::Rate { "rate" } else { "connections" };
        write!(f, "  {varied:<NAME_WIDTH$}")?;
        for (_, name) in &columns {
            write!(f, "{name:>WIDTH$}")?;
        }
        writeln!(f, "  verdict")?;
        for step in &self.steps {
            let name = match step.rate_per_s {
                Some(rate) if self.varied == Varied::Rate => figures::rate(rate),
                _ => step.connections.to_string(),
            };
            write!(f, "  {name:<NAME_WIDTH$}")?;
            let cells = |cell: fn(&Column, Spread) -> String| -> String {
                let cell =
                    |column: &Column| (column.of)(step).map_or("–".into(), |spread| cell(column, spread));
                columns.iter().map(|(column, _)| format!("{:>WIDTH$}", cell(column))).collect()
            };
            write!(f, "{}  ", cells(|column, spread| (column.words)(spread.median)))?;
            let words = step.verdict_words();
            match step.verdict {
                Some(Verdict::Valid) if step.valid_repeats == step.repeats.len() => {
                    writeln!(f, "{}", style(words).green())?;
                }
                Some(Verdict::Invalid) => writeln!(f, "{}", style(words).red().bold())?,
                _ => writeln!(f, "{}", style(words).yellow())?,
            }
            if step.valid_repeats > 1 {
                let ranges = cells(|column, Spread { min, max, .. }| {
                    figures::range(&(column.words)(min), &(column.words)(max))
                });
                writeln!(f, "  {:NAME_WIDTH$}{}", "", style(ranges).dim())?;
            }
        }
        let kind = if self.is_open_loop { "Response" } else { "Service" };
        writeln!(f, "\n  {kind} times; medians of the valid repeats, the least and the greatest below.")?;
        for step in self.steps.iter().filter(|step| step.valid_repeats < step.repeats.len()) {
            writeln!(f, "  {}: {}", self.name(step), style(step.trouble()).red())?;
        }
        if let Some(words) = &self.ended_early {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        Ok(())
    }
}
