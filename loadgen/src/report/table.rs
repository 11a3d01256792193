//! The report for a person at a terminal.

use std::fmt;

use console::style;

use crate::report::lines::Grid;
use crate::report::{Report, figures, quantile_rows};
use crate::verdict::Verdict;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(self.title()).bold())?;
        writeln!(f, "{}", style(self.shape()).dim())?;
        writeln!(f)?;
        for (name, words) in self.figures() {
            writeln!(f, "  {name:<14}  {words}")?;
        }
        writeln!(f)?;
        let mut grid = Grid::new(["", "p50", "p90", "p99", "p99.9", "max", "mean"]);
        for (name, times) in quantile_rows(self) {
            grid.row([name.to_owned()].into_iter().chain(times.named().map(|(_, us)| figures::time(us))));
        }
        writeln!(f, "{grid}")?;
        if let Some(words) = self.interruption() {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        for condition in &self.failed_conditions {
            writeln!(f, "  {} --fail-if {condition}", style("FAILED").red().bold())?;
        }
        match self.verdict {
            Verdict::Valid => writeln!(f, "  {}", style("VALID").green().bold())?,
            Verdict::Invalid => writeln!(f, "  {}", style(self.complaint()).red().bold())?,
        }
        match self.hint() {
            Some(hint) => writeln!(f, "  {hint}"),
            None => Ok(()),
        }
    }
}
