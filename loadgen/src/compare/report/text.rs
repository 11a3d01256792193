//! What came out, for a person at a terminal.

use std::fmt;

use console::{Style, StyledObject, style};

use super::LEGEND;
use crate::compare::{CaseResult, Compared, Outcome};
use crate::report::lines::{Cell, Grid};

/// How a case came out.
impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", style(&self.name).bold(), coloured(self.outcome))?;
        if self.outcome == Outcome::Identical {
            return Ok(());
        }
        let mut grid = Grid::new(["metric", "base", "head", "change", "control", "outcome"]);
        grid.has_words_in(3);
        grid.has_words_in(5);
        for finding in &self.findings {
            let metric = finding.metric;
            let figures = [
                metric.words().to_owned(),
                metric.value_words(finding.base),
                metric.value_words(finding.head),
                finding.change_words(),
                finding.control_words(),
            ];
            let outcome = Cell::styled(finding.outcome.to_string(), look(finding.outcome));
            grid.row(figures.into_iter().map(Cell::from).chain([outcome]));
        }
        write!(f, "{grid}")?;
        writeln!(f, "  {}", style(self.effort()).dim())?;
        for remark in self.remarks() {
            writeln!(f, "  {remark}")?;
        }
        for part in self.culprit.iter().flat_map(|culprit| culprit.parts()) {
            let mut grid = Grid::new([part.heading, "base", "head", "change"]);
            for (name, [base, head, change]) in part.rows {
                grid.row([name.to_owned(), base, head, change]);
            }
            write!(f, "\n{grid}")?;
        }
        Ok(())
    }
}

/// All of it together, after the cases.
pub struct End<'a>(pub &'a Compared);

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End(compared) = self;
        if compared.outcome != Outcome::Identical {
            writeln!(f, "{}", style(LEGEND).dim())?;
        }
        if let Some(hashes) = compared.hashes() {
            writeln!(f, "{}", style(hashes).dim())?;
        }
        let words = compared.outcome_words();
        let rest = words.trim_start_matches(&compared.outcome.to_string());
        writeln!(f, "{}{}", coloured(compared.outcome), style(rest).bold())
    }
}

fn coloured(outcome: Outcome) -> StyledObject<Outcome> {
    look(outcome).apply_to(outcome)
}

fn look(outcome: Outcome) -> Style {
    let look = Style::new().bold();
    match outcome {
        Outcome::Identical | Outcome::Pass => look.green(),
        Outcome::Fail => look.red(),
        Outcome::Unreliable | Outcome::Inconclusive => look.yellow(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::compared;
    use super::*;

    #[test]
    fn a_case_is_a_table_with_what_changed() {
        console::set_colors_enabled(false);
        let compared = compared();
        let text = compared.cases[0].to_string();
        for line in [
            "  cpu           5.72 µs  5.89 µs  +2.97 % [+2.10, +3.80]  -0.10 %  FAIL",
            "  instructions    421.0    433.0  +2.85 %                       –  FAIL",
            "  system calls    3.000    4.000  +1.000                        –  FAIL",
            "  6 rounds in 2 lives of the servers, 1 set aside, 41.3 s",
            "  system calls: system calls that appeared: epoll_ctl 1.00",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        assert!(
            text.contains("<a::B<u8> as C>::d|e") && text.contains("+12.0") && text.contains("-3.0"),
            "{text}"
        );
        let title = text.lines().next().unwrap();
        assert!(title.starts_with("echo, 50 connections, 64 B  ") && title.ends_with("FAIL"), "{text}");
        let end = End(&compared).to_string();
        let lines: Vec<_> = end.lines().collect();
        assert_eq!(lines[0], LEGEND);
        assert!(
            lines[1].starts_with("SHA-256 of the binaries: base bbb") && lines[2].starts_with("FAIL: "),
            "{end}"
        );
    }
}
