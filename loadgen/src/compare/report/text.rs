//! What came out, for a person at a terminal.

use std::fmt;

use console::{StyledObject, style};

use super::LEGEND;
use crate::compare::{CaseResult, Compared, Outcome};

/// As wide as each column gets.
const METRIC_WIDTH: usize = 14;
const VALUE_WIDTH: usize = 11;
const CHANGE_WIDTH: usize = 28;
const CONTROL_WIDTH: usize = 9;

/// Up to the outcome.
const TITLE_WIDTH: usize = METRIC_WIDTH + 2 * VALUE_WIDTH + CHANGE_WIDTH + CONTROL_WIDTH + 2;

/// What a row of the culprit has for the name.
const NAME_WIDTH: usize = 56;

/// How a case came out.
impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = style(format!("{:<TITLE_WIDTH$}", self.name)).bold();
        writeln!(f, "{title}  {}", coloured(self.outcome))?;
        if self.outcome == Outcome::Identical {
            return Ok(());
        }
        writeln!(
            f,
            "  {:<METRIC_WIDTH$}{:<VALUE_WIDTH$}{:<VALUE_WIDTH$}{:<CHANGE_WIDTH$}{:>CONTROL_WIDTH$}  outcome",
            "metric", "base", "head", "change", "control"
        )?;
        for finding in &self.findings {
            let metric = finding.metric;
            writeln!(
                f,
                "  {:<METRIC_WIDTH$}{:<VALUE_WIDTH$}{:<VALUE_WIDTH$}{:<CHANGE_WIDTH$}{:>CONTROL_WIDTH$}  {}",
                metric.words(),
                metric.value_words(finding.base),
                metric.value_words(finding.head),
                finding.change_words(),
                finding.control_words(),
                coloured(finding.outcome)
            )?;
        }
        writeln!(f, "  {}", style(self.effort()).dim())?;
        for remark in self.remarks() {
            writeln!(f, "  {remark}")?;
        }
        for part in self.culprit.iter().flat_map(|culprit| culprit.parts()) {
            writeln!(f, "\n  {:<NAME_WIDTH$} {:>10} {:>10} {:>10}", part.heading, "base", "head", "change")?;
            for (name, [base, head, change]) in part.rows {
                writeln!(f, "  {:<NAME_WIDTH$} {base:>10} {head:>10} {change:>10}", cut(name))?;
            }
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
    let word = style(outcome).bold();
    match outcome {
        Outcome::Identical | Outcome::Pass => word.green(),
        Outcome::Fail => word.red(),
        Outcome::Unreliable | Outcome::Inconclusive => word.yellow(),
    }
}

/// The end of a name says more than its beginning.
fn cut(name: &str) -> String {
    let len = name.chars().count();
    if len <= NAME_WIDTH {
        return name.to_owned();
    }
    let kept: String = name.chars().skip(len - NAME_WIDTH + 1).collect();
    format!("…{kept}")
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
            "  cpu           5.72 µs    5.89 µs    +2.97 % [+2.10, +3.80]        -0.10 %  FAIL",
            "  instructions  421.0      433.0      +2.85 %                             –  FAIL",
            "  system calls  3.000      4.000      +1.000                              –  FAIL",
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

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("{}::the_end", "x".repeat(100));
        assert!(cut(&name).starts_with('…') && cut(&name).ends_with("x::the_end"));
        assert_eq!(cut(&name).chars().count(), NAME_WIDTH);
    }
}
