//! A case as a table: for a person at a terminal, and for a document.

use std::fmt;
use std::io::{self, Write};

use console::{Style, style};

use super::peers::Missing;
use super::statistics::Estimate;
use super::{COLUMNS, CPU, Column, Compared, Figure, Measurement, Row};
use loadgen::report::figures;
use loadgen::report::lines::{Cell, Grid};

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(format!("{}: {}", self.case, self.title)).bold())?;
        writeln!(f, "{}", style(self.legend()).dim())?;
        if !self.servers.is_empty() {
            writeln!(f, "\n{}", self.grid())?;
        }
        let remarks = self.remarks();
        for remark in remarks {
            writeln!(f, "  {remark}")?;
        }
        Ok(())
    }
}

impl Measurement {
    /// For each server its medians, their intervals, and both as multiples of the reference.
    fn grid(&self) -> Grid {
        let heads = self.columns().map(|column| column.head);
        let mut grid = Grid::new(["server"].into_iter().chain(heads));
        for row in &self.servers {
            let mut add = |name: &str, look: Style, cell: fn(&Column, &Figure) -> Option<String>| {
                let cells = self.columns().map(|column| {
                    let words = row.figure(column).and_then(|figure| cell(column, figure));
                    Cell::styled(words.unwrap_or("–".into()), look.clone())
                });
                grid.row([Cell::from(name)].into_iter().chain(cells));
            };
            let (plain, dim) = (Style::new(), Style::new().dim());
            add(&row.name, plain.clone(), |column, figure| Some((column.words)(figure.estimate.median)));
            add("", dim.clone(), |column, figure| Some(range(column.words, &figure.estimate)));
            if row.name != self.reference {
                add("", plain, |_, figure| figure.ratio.as_ref().map(ratio));
                add("", dim, |_, figure| Some(range(in_digits, figure.ratio.as_ref()?)));
            }
        }
        grid
    }

    /// Those of which anything is known.
    pub fn columns(&self) -> impl Iterator<Item = &'static Column> {
        COLUMNS.iter().filter(|column| self.servers.iter().any(|row| row.figure(column).is_some()))
    }

    /// How to read it.
    pub fn legend(&self) -> String {
        if self.servers.is_empty() {
            return "No server of this case can be measured here.".into();
        }
        format!(
            "{} requests a slice. Medians with their 95 % interval, and as multiples of {}.",
            self.requests_per_slice, self.reference
        )
    }

    /// What is missing, and what to keep in mind.
    pub fn remarks(&self) -> Vec<String> {
        let missing = self.missing.iter().map(Missing::to_string);
        let starved = self.servers.iter().filter(|row| row.starved_slices > 0);
        let starved: Vec<_> = starved.map(|row| format!("{} {}", row.name, row.starved_slices)).collect();
        let starved = (!starved.is_empty())
            .then(|| format!("Slices in which loadgen had too little CPU time: {}", starved.join(", ")));
        missing.chain(starved).chain(self.notes.iter().cloned()).collect()
    }
}

impl Row {
    pub fn figure(&self, column: &Column) -> Option<&Figure> {
        self.figures.get(column.key)?.as_ref()
    }
}

/// `×1.02`.
fn ratio(ratio: &Estimate) -> String {
    format!("×{}", in_digits(ratio.median))
}

fn in_digits(ratio: f64) -> String {
    if ratio < 99.5 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

fn range(words: fn(f64) -> String, estimate: &Estimate) -> String {
    figures::range(&words(estimate.low95), &words(estimate.high95))
}

/// A figure, its interval and its ratio.
pub fn cell(column: &Column, figure: &Figure, is_reference: bool) -> [String; 2] {
    let median = (column.words)(figure.estimate.median);
    let ratio = match &figure.ratio {
        Some(of) if !is_reference => format!("{} ({})", ratio(of), range(in_digits, of)),
        _ => String::new(),
    };
    [format!("{median} ({})", range(column.words, &figure.estimate)), ratio]
}

/// The CPU time of all servers in all cases for a document: a table for the cases that have the same servers.
pub fn write_summary(out: &mut impl Write, compared: &Compared) -> io::Result<()> {
    let names = |measurement: &Measurement| -> Vec<String> {
        measurement.servers.iter().map(|row| row.name.clone()).collect()
    };
    let measured: Vec<_> =
        compared.cases.iter().filter(|measurement| !measurement.servers.is_empty()).collect();
    for cases in measured.chunk_by(|one, next| names(one) == names(next)) {
        let heads: Vec<_> = cases.iter().map(|measurement| measurement.case.as_str()).collect();
        writeln!(out, "| server | {} |\n|---|{}", heads.join(" | "), "--:|".repeat(heads.len()))?;
        for name in names(cases[0]) {
            let cell = |measurement: &&Measurement| {
                let row = measurement.servers.iter().find(|row| row.name == name)?;
                let figure = row.figures.get(CPU)?.as_ref()?;
                if name == measurement.reference {
                    return Some(figures::time(figure.estimate.median / 1e3));
                }
                let of = figure.ratio.as_ref()?;
                Some(format!("{} ({})", ratio(of), range(in_digits, of)))
            };
            let cells = cases.iter().map(|measurement| cell(measurement).unwrap_or("–".into()));
            writeln!(out, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// All cases for a document.
pub fn write_markdown(out: &mut impl Write, compared: &Compared) -> io::Result<()> {
    let conditions = &compared.conditions;
    writeln!(out, "{}\n\n{}", conditions.machine(), conditions.way())?;
    writeln!(out, "\n### CPU per request or delivery, and as multiples of the first server's\n")?;
    write_summary(out, compared)?;
    for missing in &compared.not_counted {
        writeln!(out, "\n{missing}")?;
    }
    for measurement in &compared.cases {
        writeln!(out, "\n### {}: {}\n\n{}\n", measurement.case, measurement.title, measurement.legend())?;
        if !measurement.servers.is_empty() {
            let columns: Vec<_> = measurement.columns().collect();
            let heads: Vec<_> = columns.iter().map(|column| column.head).collect();
            writeln!(out, "| server | {} |\n|---|{}", heads.join(" | "), "--:|".repeat(heads.len()))?;
            for row in &measurement.servers {
                let cells = columns.iter().map(|column| match row.figure(column) {
                    Some(figure) => {
                        let [figure, ratio] = cell(column, figure, row.name == measurement.reference);
                        if ratio.is_empty() { figure } else { format!("{figure}<br>{ratio}") }
                    }
                    None => "–".into(),
                });
                writeln!(out, "| {} | {} |", row.name, cells.collect::<Vec<_>>().join(" | "))?;
            }
        }
        for (index, remark) in measurement.remarks().iter().enumerate() {
            writeln!(out, "{}- {remark}", if index == 0 { "\n" } else { "" })?;
        }
    }
    if let Some(words) = &compared.ended_early {
        writeln!(out, "\nEnded early: {words}")?;
    }
    Ok(())
}
