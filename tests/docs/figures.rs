//! The pages claim nothing that was not measured: each figure stands in a record.

use super::pages::prose;
use super::{assert_none, files_in, read};

/// Figures of time, rates and shares that were measured are written with these units; limits are written with others.
const UNITS: [&str; 5] = ["µs", "ns", "k/s", "M/s", "%"];

fn pages() -> Vec<String> {
    [vec!["README.md".to_owned()], files_in("docs", ".md")].concat()
}

#[test]
fn quoted_tables_are_those_of_the_record_that_they_name() {
    let mut found = Vec::new();
    let mut records = 0;
    for page in pages() {
        for part in read(&page).split("<!-- from ").skip(1) {
            let (record, rest) = part.split_once(" -->").expect("a record is named in a comment that ends");
            let (quoted, _) =
                rest.split_once("<!-- end -->").expect("what is quoted from a record has an end");
            let text = read(record);
            let rows = quoted.lines().filter(|line| line.starts_with('|'));
            let other = rows.filter(|row| !text.lines().any(|line| line == *row));
            found.extend(other.map(|row| format!("{page}: {record}: {row}")));
            records += 1;
        }
    }
    assert!(records > 1, "README.md and docs/ quote no record");
    assert_none(&found, "These rows are not in the record that they name.");
}

#[test]
fn figures_in_sentences_are_in_a_record_that_the_page_names() {
    let records = files_in("benches/record", ".md");
    let mut found = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        let named: String =
            records.iter().filter(|record| text.contains(*record)).map(|record| read(record)).collect();
        let lines = prose(&text);
        for (index, (line, text)) in lines.iter().enumerate() {
            // A unit may stand in the next line.
            let next =
                lines.get(index + 1).and_then(|(_, next)| next.split_whitespace().next()).unwrap_or_default();
            for figure in figures_of(&format!("{} {next}", without_code(text))) {
                count += 1;
                if !is_in(&named, &figure) {
                    found.push(format!("{page}:{line}: {figure}"));
                }
            }
        }
    }
    assert!(count > 20, "the pages have figures, and few were seen");
    assert_none(
        &found,
        "No record in benches/record that the page links says so. A limit or an option is written as code (`2%`) or in \
         other units.",
    );
}

/// A line without what stands in backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// The numbers with a unit of a line, and multiples: `143 k/s`, `×1.04`.
fn figures_of(line: &str) -> Vec<String> {
    let words: Vec<&str> = line
        .split_whitespace()
        .map(|word| word.trim_matches(|letter: char| ",.;:|*()[]".contains(letter)))
        .collect();
    let is_number = |word: &str| {
        word.starts_with(|letter: char| letter.is_ascii_digit())
            && word.chars().all(|letter| letter.is_ascii_digit() || ",.".contains(letter))
    };
    let mut figures: Vec<String> =
        words.iter().filter(|word| word.starts_with('×')).map(|word| (*word).to_owned()).collect();
    for pair in words.windows(2) {
        if is_number(pair[0]) && UNITS.contains(&pair[1]) {
            figures.push(pair.join(" "));
        }
    }
    figures
}

/// Whether a figure stands in the records, and not as the end of a longer number.
fn is_in(records: &str, figure: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_digit() || letter == '.';
    records.match_indices(figure).any(|(at, _)| {
        !records[..at].ends_with(is_part)
            && !records[at + figure.len()..].starts_with(|letter: char| letter.is_ascii_digit())
    })
}

#[test]
fn figures_are_seen() {
    let line = "At 50 it takes ×1.04 (0.9), 3.8 % more, 1,143 k/s and 5.02 µs; `7 %` and 50 ms are limits.";
    assert_eq!(figures_of(&without_code(line)), ["×1.04", "3.8 %", "1,143 k/s", "5.02 µs"]);
    assert!(is_in("a 3.8 %.", "3.8 %") && !is_in("13.8 %", "3.8 %") && !is_in("×1.041", "×1.04"));
}
