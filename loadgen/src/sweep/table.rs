//! A sweep for a person at a terminal: for each step its medians, and under them from where to where they went.

use std::fmt;

use console::{Style, style};

use super::{COLUMNS, Spread, Swept, Varied};
use crate::report::figures;
use crate::report::lines::{Cell, Grid};
use crate::verdict::Verdict;

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
        let heads = columns.iter().map(|(_, name)| *name);
        let mut grid = Grid::new([varied].into_iter().chain(heads).chain(["verdict"]));
        grid.has_words_in(columns.len() + 1);
        for step in &self.steps {
            let name = match step.rate_per_s {
                Some(rate) if self.varied == Varied::Rate => figures::rate(rate),
                _ => step.connections.to_string(),
            };
            let mut row = |name: &str, look: Style, of: fn(Spread) -> f64, verdict: Cell| {
                let cells = columns.iter().map(|(column, _)| {
                    let words = (column.of)(step).map_or("–".into(), |spread| (column.words)(of(spread)));
                    Cell::styled(words, look.clone())
                });
                grid.row([Cell::styled(name, look.clone())].into_iter().chain(cells).chain([verdict]));
            };
            let look = match step.verdict {
                Some(Verdict::Valid) if step.valid_repeats == step.repeats.len() => Style::new().green(),
                Some(Verdict::Invalid) => Style::new().red().bold(),
                _ => Style::new().yellow(),
            };
            let verdict = Cell::styled(step.verdict_words(), look);
            row(&name, Style::new(), |spread| spread.median, verdict);
            if step.valid_repeats > 1 {
                row(" least", Style::new().dim(), |spread| spread.min, Cell::default());
                row(" greatest", Style::new().dim(), |spread| spread.max, Cell::default());
            }
        }
        write!(f, "{grid}")?;
        let kind = if self.is_open_loop { "Response" } else { "Service" };
        writeln!(
            f,
            "\n  {kind} times. Medians of the valid repeats, with the least and the greatest below."
        )?;
        for step in self.steps.iter().filter(|step| step.valid_repeats < step.repeats.len()) {
            writeln!(f, "  {}: {}", self.name(step), style(step.trouble()).red())?;
        }
        if let Some(words) = &self.ended_early {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        Ok(())
    }
}
