//! What logs came to, as a page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;

use super::{Kind, Merged, Row};
use crate::report::Quantiles;
use crate::report::figures;
use crate::report::html::{
    Belief, END, begin, distribution, escape, fail, quantile_table, quantiles, section, short, times,
    verdict_box, words_table,
};
use crate::report::plot::{self, Axis, COLOURS, Line, Scale};
use crate::verdict::Verdict;

pub fn page(merged: &Merged) -> Result<String> {
    let mut html = begin(&merged.title(), &merged.spans());
    let (mut belief, words) = match merged.verdict {
        Some(Verdict::Valid) if !merged.warnings.is_empty() => (Belief::Doubtful, "VALID"),
        Some(verdict @ Verdict::Valid) => (Belief::of(verdict), "VALID"),
        Some(verdict @ Verdict::Invalid) => (Belief::of(verdict), "INVALID"),
        None => (Belief::Doubtful, "The verdict is unknown"),
    };
    let mut words = words.to_owned();
    fail(&mut belief, &mut words, &merged.failed_conditions);
    let remarks = merged.complaints().chain(merged.warnings.iter().cloned());
    verdict_box(&mut html, belief, &words, remarks, merged.interruption().as_deref());
    html += &sums(merged);
    html += &files(merged);

    // More lines than colours could not be told apart.
    let kinds = || merged.sums.iter().take(COLOURS.len());
    let lines: Vec<_> =
        kinds().map(|(kind, sum)| Line { name: kind.words(), points: distribution(&sum.times) }).collect();
    section(&mut html, "Times by quantile", &quantiles(), &times(), &lines)?;
    // All over the same seconds, and times from the least to the greatest of any kind: they are there to be compared.
    let end_s = merged.rows.last().map_or(0.0, |row| row.start_s + row.length_s);
    let seconds =
        || Axis::new("seconds since the first log began", Scale::Linear, &short).with_range(0.0..end_s);
    let times_of = || merged.rows.iter().flat_map(|row| kinds().filter_map(|(kind, _)| row.quantiles(kind)));
    let least_us = times_of().map(|times| times.p50).fold(f64::INFINITY, f64::min);
    let drawn_us = times_of().map(|times| times.max).filter(|us| us.is_finite());
    let most_us = drawn_us.fold(f64::NEG_INFINITY, f64::max);
    for (kind, _) in kinds() {
        let line = |name, of: fn(&Quantiles) -> f64| Line {
            name,
            points: merged.over_time(kind, None, |row| row.quantiles(kind).map(of)),
        };
        let heading = format!("Over time: {}", kind.words());
        let lines =
            [line("p50", |times| times.p50), line("p99", |times| times.p99), line("max", |times| times.max)];
        section(&mut html, &heading, &seconds(), &times().with_range(least_us..most_us), &lines)?;
    }
    // The rate of the remainder at the end of a log says nothing.
    let longest_s = merged.rows.iter().map(|row| row.length_s).fold(0.0, f64::max);
    let is_long = |row: &Row| row.length_s > longest_s / 2.0;
    let rates: Vec<_> = kinds()
        .map(|(kind, _)| Line {
            name: kind.words(),
            points: merged.over_time(kind, Some(0.0), |row| Some(row.per_s(kind)).filter(|_| is_long(row))),
        })
        .collect();
    let per_s = Axis::new("times recorded", Scale::Linear, &figures::rate);
    section(&mut html, "Rates over time", &seconds(), &per_s, &rates)?;
    html += END;
    Ok(if merged.interrupted { plot::marked(&html, "interrupted") } else { html })
}

impl Merged {
    /// A point for each row in which a log with such times ran, and a gap wherever none did. A log that ran and has no times
    /// of it for a while had none: that is `idle`.
    fn over_time(
        &self,
        kind: &Kind,
        idle: Option<f64>,
        of: impl Fn(&Row) -> Option<f64>,
    ) -> Vec<(f64, Option<f64>)> {
        let ran_at = |at_s: f64| {
            self.files.iter().any(|part| {
                let start_s = part.started_unix_s - self.started_unix_s;
                part.sums.contains_key(kind) && (start_s..=start_s + part.span_s).contains(&at_s)
            })
        };
        let mut points = Vec::new();
        let mut end_s = 0.0;
        for row in &self.rows {
            // Ends that are rounded may be that much apart.
            if row.start_s > end_s + 0.001 {
                let value = if ran_at((end_s + row.start_s) / 2.0) { idle } else { None };
                points.extend([(end_s, value), (row.start_s, value)]);
            }
            let has_times = row.times.get(kind).is_some_and(|(count, _)| *count > 0);
            let value = if has_times { of(row) } else { idle.filter(|_| ran_at(row.middle_s())) };
            points.push((row.middle_s(), value));
            end_s = row.start_s + row.length_s;
        }
        points
    }
}

impl Row {
    fn middle_s(&self) -> f64 {
        self.start_s + self.length_s / 2.0
    }

    fn quantiles(&self, kind: &Kind) -> Option<&Quantiles> {
        self.times.get(kind)?.1.as_ref()
    }

    fn per_s(&self, kind: &Kind) -> f64 {
        figures::per_s(self.times.get(kind).map_or(0.0, |(count, _)| *count as f64), self.length_s)
    }
}

fn sums(merged: &Merged) -> String {
    let columns = merged.times.iter();
    let columns: Vec<_> = columns
        .map(|times| {
            (times.tag.words(), vec![times.count.to_string(), times.rate_words()], times.us.as_ref())
        })
        .collect();
    quantile_table(&["count", "rate"], &columns) + &words_table(&merged.figures())
}

/// What each log has, below a line of what it is.
fn files(merged: &Merged) -> String {
    let mut html = String::from("<h2>Logs</h2>\n<div class=wide><table>\n<tr><th></th>");
    for name in ["count", "p50", "p99", "max"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for part in &merged.files {
        let _ = writeln!(
            html,
            "<tr><th colspan=5>{}<br><span class=soft>{}</span></th></tr>",
            escape(&part.path),
            part.span_words(merged)
        );
        for times in &part.times {
            let _ = writeln!(
                html,
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(times.tag.words()),
                times.count,
                times.words(|times| times.p50),
                times.words(|times| times.p99),
                times.words(|times| times.max)
            );
        }
    }
    html + "</table></div>\n"
}
