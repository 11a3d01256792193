//! The report for a person at a terminal.

use std::fmt;

use console::style;

use crate::report::{Report, figures, quantile_rows};
use crate::verdict::Verdict;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(self.title()).bold())?;
        writeln!(f, "{}", style(self.shape()).dim())?;
        writeln!(f)?;
        for (name, words) in self.figures() {
            writeln!(f, "  {name:<14} {words}")?;
        }
        writeln!(f)?;
        write!(f, "  {:<14}", "")?;
        for name in ["p50", "p90", "p99", "p99.9", "max", "mean"] {
            write!(f, " {name:>9}")?;
        }
        writeln!(f)?;
        for (name, times) in quantile_rows(self) {
            write!(f, "  {name:<14}")?;
            for (_, us) in times.named() {
                write!(f, " {:>9}", figures::time(us))?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        if let Some(words) = self.interruption() {
            writeln!(f, "  {} {words}", style("INTERRUPTED").yellow().bold())?;
        }
        for condition in &self.failed_conditions {
            writeln!(f, "  {} --fail-if {condition} held", style("FAILED").red().bold())?;
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
