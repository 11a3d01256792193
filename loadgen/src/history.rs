//! `loadgen history`: what compare found, commit after commit, and where it changed.
//!
//! ```text
//!     file ──► entry ──► series: one metric of one case, on one scale
//!                          └► chain, change: steps and creep ──► table, page
//! ```

mod chain;
mod change;
mod entry;
mod page;
mod series;
mod table;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::cli::History;
use crate::compare::Compared;
use crate::output::{Output, Written};
use crate::report::{self, SCHEMA_VERSION, json, write_page};
use crate::{EXIT_FAILED, Usage};

use entry::Entry;
use series::Series;

/// What a file says. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Told {
    schema_version: u32,
    loadgen_version: &'static str,
    file: String,
    entries: usize,
    /// How often anything is found where nothing changed, in all series together.
    significance: f64,
    min_change: f64,
    /// What to keep in mind.
    notes: Vec<String>,
    /// Too short for anything to be found.
    short_series: usize,
    series: Vec<Series>,
}

impl Told {
    /// Those that are worse at the end than they once were.
    fn worse(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| series.is_worse(self.min_change))
    }
}

/// Fails if nothing can be appended to a file. It is there then.
pub fn check(path: &Path) -> Result<()> {
    entry::open(path).map(|_| ())
}

/// Appends what was compared to a file, a line for each case and metric.
pub fn append(path: &Path, compared: &Compared) -> Result<()> {
    entry::append(path, &Entry::all_of(compared))
}

/// Writes the same lines elsewhere.
pub fn write(out: &mut impl Write, compared: &Compared) -> io::Result<()> {
    entry::lines(&Entry::all_of(compared)).and_then(|lines| out.write_all(lines.as_bytes()))
}

/// Reads a file, looks for changes, and tells what came of it.
pub fn history(asked: &History) -> Result<ExitCode> {
    let (entries, mut notes) = entry::read(&asked.file)?;
    let ([json, html, svg], table) = Output::open_all([
        ("--json", asked.json.as_deref()),
        ("--html", asked.html.as_deref()),
        ("--svg", asked.svg.as_deref()),
    ])?;

    let count = entries.len();
    let chosen = chosen(asked, entries)?;
    let (all, of_series) = Series::all_of(&chosen);
    notes.extend(of_series);
    let (mut series, short): (Vec<_>, Vec<_>) = all.into_iter().partition(Series::is_long_enough);
    notes.extend(table::machines(&series));
    let each = asked.significance / series.len().max(1) as f64;
    series.iter_mut().for_each(|series| series.look(each));
    let told = Told {
        schema_version: SCHEMA_VERSION,
        loadgen_version: env!("CARGO_PKG_VERSION"),
        file: asked.file.clone(),
        entries: count,
        significance: asked.significance,
        min_change: asked.min_change,
        notes,
        short_series: short.len(),
        series,
    };

    let mut written = Written::default();
    written.add(report::write(json, |out| json::write(out, &told)));
    written.add(write_page(html, || page::page(&told)));
    written.add(write_page(svg, || page::panels(&told)));
    written.add(table.print(&told));
    written.all()?;
    Ok(if told.worse().next().is_some() { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// The entries that were asked for. A case that is not there would be a mistake in its name.
fn chosen(asked: &History, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    for case in &asked.cases {
        if !entries.iter().any(|entry| entry.case == *case) {
            let mut cases: Vec<_> = entries.iter().map(|entry| entry.case.as_str()).collect();
            cases.sort();
            cases.dedup();
            return Err(
                Usage(format!("--case {case}: unknown case; the cases are {}", cases.join("; "))).into()
            );
        }
    }
    let is_asked = |entry: &Entry| {
        (asked.cases.is_empty() || asked.cases.contains(&entry.case))
            && (asked.metrics.is_empty()
                || entry.metric().is_some_and(|metric| asked.metrics.contains(&metric)))
    };
    let chosen: Vec<_> = entries.into_iter().filter(is_asked).collect();
    if chosen.is_empty() {
        return Err(Usage("no entry has this case and metric".into()).into());
    }
    Ok(chosen)
}
