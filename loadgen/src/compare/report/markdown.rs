//! What came out, for the summary of a pull request: the outcome first, then one table, then what stands behind it.

use std::io::{self, Write};

use super::LEGEND;
use crate::compare::{Compared, Outcome};

pub fn write_markdown(out: &mut impl Write, compared: &Compared) -> io::Result<()> {
    writeln!(out, "**{}**\n\n{}\n", text(&compared.outcome_words()), text(&compared.sides()))?;
    if let Some(hashes) = compared.hashes() {
        writeln!(out, "{}\n", text(&hashes))?;
    }
    if compared.outcome == Outcome::Identical {
        return Ok(());
    }
    writeln!(out, "| case | metric | base | head | change | control | outcome |")?;
    writeln!(out, "|---|---|--:|--:|---|--:|---|")?;
    for case in &compared.cases {
        for (index, finding) in case.findings.iter().enumerate() {
            let outcome = finding.outcome;
            let outcome =
                if finding.outcome == Outcome::Pass { outcome.to_string() } else { format!("**{outcome}**") };
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {outcome} |",
                if index == 0 { text(&case.name) } else { String::new() },
                finding.metric.words(),
                finding.metric.value_words(finding.base),
                finding.metric.value_words(finding.head),
                finding.change_words(),
                finding.control_words()
            )?;
        }
    }
    writeln!(out, "\n{LEGEND}")?;
    for case in &compared.cases {
        let mut parts = case.culprit.iter().flat_map(|culprit| culprit.parts()).peekable();
        if parts.peek().is_none() {
            continue;
        }
        writeln!(out, "\n<details><summary>What changed: {}</summary>", text(&case.name))?;
        for part in parts {
            writeln!(out, "\n| {} | base | head | change |\n|---|--:|--:|--:|", part.heading)?;
            for (name, [base, head, change]) in part.rows {
                writeln!(out, "| {} | {base} | {head} | {change} |", code(name))?;
            }
        }
        writeln!(out, "\n</details>")?;
    }
    writeln!(out)?;
    for case in &compared.cases {
        writeln!(out, "- {}: {}", text(&case.name), case.effort())?;
        for remark in case.remarks() {
            writeln!(out, "  - {}", text(&remark))?;
        }
    }
    writeln!(out, "\n{}", text(&compared.bounds()))
}

/// What would be read as markup stands as it is.
fn text(words: &str) -> String {
    let mut escaped = String::with_capacity(words.len());
    for character in words.chars() {
        match character {
            '<' => escaped += "&lt;",
            '&' => escaped += "&amp;",
            '\n' => escaped.push(' '),
            '|' | '*' | '_' | '`' | '\\' | '[' | '~' => escaped.extend(['\\', character]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Names from code, in a table, whose columns end at any bar.
fn code(name: &str) -> String {
    let name = name.replace(['`', '\n'], " ").replace('|', "\\|");
    format!("`{}`", name.trim())
}

#[cfg(test)]
mod tests {
    use super::super::tests::compared;
    use super::*;

    fn markdown(compared: &Compared) -> String {
        let mut out = Vec::new();
        write_markdown(&mut out, compared).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_outcome_comes_first_and_every_row_has_all_columns() {
        let markdown = markdown(&compared());
        assert!(markdown.starts_with("**FAIL: system calls of echo"), "{markdown}");
        let row = "| echo, 50 connections, 64 B | cpu | 5.72 µs | 5.89 µs | +2.97 % [+2.10, +3.80] | -0.10 % | **FAIL** |";
        assert!(markdown.lines().any(|line| line == row), "{markdown}");
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let tables: Vec<_> = markdown.split("\n\n").filter(|block| block.starts_with('|')).collect();
        assert_eq!(tables.len(), 3, "{markdown}");
        for table in tables {
            let mut lines = table.lines().map(columns);
            let first = lines.next().unwrap();
            assert!(lines.all(|columns| columns == first), "{table}");
        }
        assert!(markdown.contains("| `<a::B<u8> as C>::d\\|e` | 100.0 | 112.0 | +12.0 |"), "{markdown}");
        assert_eq!(markdown.matches("<details>").count(), 1);
        assert_eq!(markdown.matches("</details>").count(), 1);
        assert!(markdown.contains("  - valgrind is not installed\n"), "{markdown}");
    }

    #[test]
    fn binaries_have_their_hashes_and_the_same_one_has_no_table() {
        let mut compared = compared();
        let hashes = format!("SHA-256 of the binaries: base {}, head {}\n", "b".repeat(64), "c".repeat(64));
        assert!(markdown(&compared).contains(&hashes));
        compared.outcome = Outcome::Identical;
        let same = markdown(&compared);
        assert!(
            same.starts_with("**IDENTICAL: both revisions") && same.contains(&hashes) && !same.contains('|'),
            "{same}"
        );
        compared.base_sha256 = None;
        assert!(!markdown(&compared).contains("SHA-256"));
    }

    #[test]
    fn what_looks_like_markup_is_none() {
        assert_eq!(text("a_b*c|<d> [e]"), "a\\_b\\*c\\|&lt;d> \\[e]");
    }
}
