//! The history file: a line of JSON for each case and metric that was compared.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::Usage;
use crate::compare::{Compared, Metric};
use crate::message::message;

/// A line. What else is in it is for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub date: String,
    /// Commits; null where there is none.
    pub base: Option<String>,
    pub head: Option<String>,
    pub machine: String,
    pub case: String,
    pub metric: String,
    pub unit: String,
    /// Null where a figure is not finite.
    pub base_value: Option<f64>,
    pub head_value: Option<f64>,
    pub change: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub outcome: String,
}

impl Entry {
    /// What a comparison has to say.
    pub fn all_of(compared: &Compared) -> Vec<Entry> {
        let entries = compared.cases.iter().flat_map(|case| {
            case.findings.iter().map(|finding| Entry {
                date: compared.date.clone(),
                base: compared.base_commit.clone(),
                head: compared.head_commit.clone(),
                machine: compared.machine.clone(),
                case: case.name.clone(),
                metric: finding.metric.name().into(),
                unit: finding.unit.into(),
                base_value: finite(finding.base),
                head_value: finite(finding.head),
                change: finite(finding.change),
                low: finite(finding.low),
                high: finite(finding.high),
                outcome: finding.outcome.to_string(),
            })
        });
        entries.collect()
    }

    /// None of those that this version knows.
    pub fn metric(&self) -> Option<Metric> {
        Metric::from_str(&self.metric, false).ok()
    }
}

fn finite(figure: f64) -> Option<f64> {
    figure.is_finite().then_some(figure)
}

/// Opens a file to append to it.
pub fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
    opened.with_context(|| format!("appending to {}", path.display()))
}

/// Appends whole lines, at once: who appends at the same time does so before or after.
pub fn append(path: &Path, entries: &[Entry]) -> Result<()> {
    let told = || format!("appending to {}", path.display());
    let mut file = open(path)?;
    let mut text = String::new();
    if is_cut_short(&mut file).with_context(told)? {
        message!("{}: the last line is incomplete; a new line is started", path.display());
        text.push('\n');
    }
    text += &lines(entries)?;
    let written = file.write(text.as_bytes()).with_context(told)?;
    ensure!(written == text.len(), "{}: only {written} of {} bytes were taken", told(), text.len());
    file.sync_all().with_context(told)
}

/// A line for each.
pub fn lines(entries: &[Entry]) -> std::io::Result<String> {
    entries.iter().map(|entry| Ok(serde_json::to_string(entry)? + "\n")).collect()
}

/// Whether the last line has no end.
fn is_cut_short(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Reads a file; also what is to be told of lines that were cut short.
pub fn read(path: &str) -> Result<(Vec<Entry>, Vec<String>)> {
    let usage = |words: String| anyhow::Error::from(Usage(words));
    let bytes = fs::read(path).map_err(|error| usage(format!("reading {path}: {error}")))?;
    let mut entries = Vec::new();
    let mut notes = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = index + 1;
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            // What is a beginning of a line, and nothing else, was cut short while it was written.
            Err(error) if error.classify() == Category::Eof => {
                notes.push(format!("line {number} is incomplete and was skipped"));
            }
            Err(error) => {
                // It names a line of its own, the first of one.
                let words = error.to_string();
                let (what, column) = words.split_once(" at line 1 column ").unwrap_or((&words, ""));
                let column = if column.is_empty() { "" } else { &format!(", column {column}") };
                return Err(usage(format!("{path}, line {number}{column}: {what}")));
            }
        }
    }
    if entries.is_empty() {
        return Err(usage(format!("{path} has no entries: loadgen compare --history {path} appends them")));
    }
    Ok((entries, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(head: &str) -> Entry {
        Entry {
            date: "2026-11-26T10:00:00Z".into(),
            base: None,
            head: Some(head.into()),
            machine: "a machine".into(),
            case: "echo, \"50\" – connections".into(),
            metric: "cpu".into(),
            unit: "ns".into(),
            base_value: Some(5720.1),
            head_value: Some(5741.0),
            change: Some(0.0037),
            low: None,
            high: Some(0.009),
            outcome: "PASS".into(),
        }
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let entries = [entry("a"), entry("b"), entry("c")];
        append(&path, &entries[..2]).unwrap();
        append(&path, &entries[2..]).unwrap();
        let (read, notes) = read(path.to_str().unwrap()).unwrap();
        assert_eq!((read, notes), (entries.to_vec(), vec![]));
    }

    #[test]
    fn a_comparison_is_an_entry_for_each_case_and_metric() {
        let mut compared = crate::compare::report::tests::compared();
        compared.cases[0].findings[2].change = f64::INFINITY;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        crate::history::append(&path, &compared).unwrap();
        let (entries, _) = read(path.to_str().unwrap()).unwrap();
        let told: Vec<_> =
            entries.iter().map(|entry| (entry.case.as_str(), entry.metric().unwrap())).collect();
        let (one, other) = ("echo, 50 connections, 64 B", "http, a page");
        assert_eq!(
            told,
            [
                (one, Metric::Cpu),
                (one, Metric::Instructions),
                (one, Metric::Syscalls),
                (other, Metric::Throughput),
                (other, Metric::Allocations)
            ]
        );
        let cpu = &entries[0];
        assert_eq!((cpu.head_value, cpu.change, cpu.low), (Some(5890.0), Some(0.0297), Some(0.021)));
        assert_eq!(
            (cpu.base.as_deref().map(str::len), &cpu.head, cpu.outcome.as_str()),
            (Some(40), &None, "FAIL")
        );
        assert_eq!((entries[2].change, entries[2].head_value), (None, Some(4.0)));
    }

    #[test]
    fn wherever_a_line_was_cut_the_rest_of_the_file_stays_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let text = serde_json::to_string(&entry("cut")).unwrap();
        for cut in 1..=text.len() {
            fs::write(&path, [text.as_bytes(), b"\n", &text.as_bytes()[..cut]].concat()).unwrap();
            append(&path, &[entry("next")]).unwrap();
            let (read, notes) = read(path.to_str().unwrap()).unwrap();
            let is_whole = cut == text.len();
            assert_eq!((read.len(), notes.len()), if is_whole { (3, 0) } else { (2, 1) }, "{cut}: {notes:?}");
            assert_eq!(read.last().and_then(|entry| entry.head.as_deref()), Some("next"));
        }
    }

    #[test]
    fn what_is_no_entry_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let good = serde_json::to_string(&entry("a")).unwrap();
        for (bad, told) in [
            ("{\"date\":\"2026\"}", ", line 2, column 15: missing field"),
            ("\0\0\0", ", line 2, column 1: expected value"),
            ("no entry", ", line 2, column 2: expected"),
        ] {
            fs::write(&path, format!("{good}\n{bad}\n{good}\n")).unwrap();
            let error = format!("{:#}", read(path.to_str().unwrap()).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
        fs::write(&path, format!("{}\n\n", good.replacen('{', "{\"more\": [1, {}], ", 1))).unwrap();
        assert_eq!(read(path.to_str().unwrap()).unwrap().0, [entry("a")]);
    }
}
