//! What logs came to, as a page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;

use super::{Kind, Merged, Row};
use crate::report::Quantiles;
use crate::report::figures;
use crate::report::html::{END, begin, distribution, escape, percent, section, short};
use crate::report::plot::{self, Axis, COLOURS, Line, Scale};
use crate::verdict::Verdict;

pub fn page(merged: &Merged) -> Result<String> {
    let mut html = begin(&merged.title(), &merged.spans());
    let class = if merged.verdict == Some(Verdict::Invalid) { "invalid" } else { "valid" };
    let words = match merged.verdict {
        Some(Verdict::Valid) => "VALID",
        Some(Verdict::Invalid) => "INVALID",
        None => "The verdict is not known",
    };
    let _ = write!(html, "<div class=\"verdict {class}\"><strong>{words}</strong>");
    let failed = merged.failed_conditions.iter().map(|failed| format!("--fail-if {failed} held"));
    for line in merged.complaints().chain(merged.warnings.iter().cloned()).chain(failed) {
        let _ = write!(html, "<p>{}</p>", escape(&line));
    }
    if let Some(words) = merged.interruption() {
        let _ = write!(html, "<p><strong>INTERRUPTED</strong> {}</p>", escape(&words));
    }
    html += "</div>\n";
    html += &sums(merged);
    html += &files(merged);

    // More lines than colours could not be told apart.
    let kinds = || merged.sums.iter().take(COLOURS.len());
    let time = || Axis { name: "time", scale: Scale::Log, label: figures::time };
    let seconds = || Axis { name: "seconds since the first log began", scale: Scale::Linear, label: short };
    let lines: Vec<_> =
        kinds().map(|(kind, sum)| Line { name: kind.words(), points: distribution(&sum.times) }).collect();
    section(
        &mut html,
        "Times by quantile",
        &Axis { name: "requests that took no longer", scale: Scale::Quantile, label: percent },
        &time(),
        &lines,
    )?;
    for (kind, _) in kinds() {
        let line = |name, of: fn(&Quantiles) -> f64| Line {
            name,
            points: merged.rows.iter().map(|row| (row.middle_s(), row.quantiles(kind).map(of))).collect(),
        };
        let heading = format!("Over time: {}", kind.words());
        let lines =
            [line("p50", |times| times.p50), line("p99", |times| times.p99), line("max", |times| times.max)];
        section(&mut html, &heading, &seconds(), &time(), &lines)?;
    }
    let rates: Vec<_> = kinds()
        .map(|(kind, _)| Line {
            name: kind.words(),
            points: merged.rows.iter().map(|row| (row.middle_s(), Some(row.per_s(kind)))).collect(),
        })
        .collect();
    let per_s = Axis { name: "times taken", scale: Scale::Linear, label: figures::rate };
    section(&mut html, "Rates over time", &seconds(), &per_s, &rates)?;
    html += END;
    Ok(if merged.interrupted { plot::marked(&html, "interrupted") } else { html })
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
    let mut html = String::from("<div class=wide><table>\n<tr><th></th>");
    for name in ["count", "rate", "p50", "p90", "p99", "p99.9", "max", "mean"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for times in &merged.times {
        let _ = write!(html, "<tr><th>{}</th>", escape(times.tag.words()));
        let _ = write!(html, "<td>{}</td><td>{}</td>", times.count, times.rate_words());
        for (_, us) in times.us.iter().flat_map(Quantiles::named) {
            let _ = write!(html, "<td>{}</td>", figures::time(us));
        }
        html += "</tr>\n";
    }
    html += "</table></div>\n<table class=words>\n";
    for (name, words) in merged.figures() {
        let _ = writeln!(html, "<tr><th>{name}</th><td>{}</td></tr>", escape(&words));
    }
    html + "</table>\n"
}

fn files(merged: &Merged) -> String {
    let mut html = String::from("<h2>Logs</h2>\n<div class=wide><table>\n<tr><th></th>");
    for name in ["began", "span", "kind", "count", "p50", "p99", "max", "verdict"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for part in &merged.files {
        for times in &part.times {
            let _ = writeln!(
                html,
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&part.path),
                part.began(merged),
                figures::time(part.span_s * 1e6),
                escape(times.tag.words()),
                times.count,
                times.words(|times| times.p50),
                times.words(|times| times.p99),
                times.words(|times| times.max),
                part.verdict_words()
            );
        }
    }
    html + "</table></div>\n"
}
