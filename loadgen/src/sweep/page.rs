//! A sweep as a page of curves that needs nothing else. An invalid step is a gap in them.

use std::fmt::Write;

use anyhow::Result;

use super::{COLUMNS, Spread, Step, Swept, Varied};
use crate::report::figures;
use crate::report::html::{END, begin, escape, section, short};
use crate::report::plot::{self, Axis, Line, Scale};
use crate::verdict::Verdict;

/// Steps that are farther apart than this would lie on top of each other on a linear axis.
const LINEAR_RATIO_MAX: f64 = 20.0;

pub fn page(swept: &Swept) -> Result<String> {
    let mut html = begin(&swept.title, &swept.shape);
    let (class, words) = match swept.verdict {
        Verdict::Valid => ("valid", "VALID"),
        Verdict::Invalid => ("invalid", "INVALID: all repeats of a step are"),
    };
    let _ = write!(html, "<div class=\"verdict {class}\"><strong>{words}</strong>");
    for step in swept.steps.iter().filter(|step| step.valid_repeats < step.repeats.len()) {
        let _ = write!(html, "<p>{}: {}</p>", swept.name(step), escape(&step.trouble()));
    }
    if let Some(words) = &swept.ended_early {
        let _ = write!(html, "<p><strong>INTERRUPTED</strong> {}</p>", escape(words));
    }
    html += "</div>\n";
    if swept.steps.iter().any(|step| step.valid_repeats > 0) {
        curves(&mut html, swept)?;
    }
    html += &table(swept);
    html += END;
    Ok(if swept.ended_early.is_some() { plot::marked(&html, "interrupted") } else { html })
}

fn curves(html: &mut String, swept: &Swept) -> Result<()> {
    let places: Vec<f64> = swept.steps.iter().map(|step| swept.place(step)).collect();
    let ratio = places.last().zip(places.first()).map_or(1.0, |(last, first)| last / first);
    let scale = if ratio > LINEAR_RATIO_MAX { Scale::Log } else { Scale::Linear };
    let steps = || match swept.varied {
        Varied::Rate => Axis { name: "planned rate", scale, label: figures::rate },
        Varied::Connections => Axis { name: "connections", scale, label: short },
    };
    let line = |name, of: fn(&Step) -> Option<Spread>| Line {
        name,
        points: swept
            .steps
            .iter()
            .map(|step| (swept.place(step), of(step).map(|spread| spread.median)))
            .collect(),
    };
    let kind = if swept.is_open_loop { "Response time" } else { "Service time" };
    section(
        html,
        kind,
        &steps(),
        &Axis { name: "time", scale: Scale::Log, label: figures::time },
        &[
            line("p50", |step| step.p50_us),
            line("p99", |step| step.p99_us),
            line("p99.9", |step| step.p999_us),
        ],
    )?;
    section(
        html,
        "Throughput",
        &steps(),
        &Axis { name: "requests", scale: Scale::Linear, label: figures::rate },
        &[line("offered", |step| step.offered_per_s), line("achieved", |step| step.throughput_per_s)],
    )?;
    if swept.steps.iter().any(|step| step.server_cpu_ns_per_request.is_some()) {
        section(
            html,
            "Server CPU per request",
            &steps(),
            &Axis { name: "time", scale: Scale::Linear, label: |ns| figures::time(ns / 1e3) },
            &[line("server CPU", |step| step.server_cpu_ns_per_request)],
        )?;
    }
    Ok(())
}

/// Medians, each with its least and its greatest.
fn table(swept: &Swept) -> String {
    let mut html = String::from("<h2>All figures</h2>\n<div class=wide><table>\n<tr><th></th>");
    for name in ["offered", "achieved", "p50", "p99", "p99.9", "server CPU", "verdict"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for step in &swept.steps {
        let _ = write!(html, "<tr><th>{}</th>", swept.name(step));
        for column in COLUMNS {
            let _ = match (column.of)(step) {
                Some(Spread { median, min, max }) => write!(
                    html,
                    "<td>{}<br><span class=soft>{}</span></td>",
                    (column.words)(median),
                    figures::range(&(column.words)(min), &(column.words)(max))
                ),
                None => write!(html, "<td>–</td>"),
            };
        }
        let _ = writeln!(html, "<td>{}</td></tr>", step.verdict_words());
    }
    html + "</table></div>\n"
}

impl Swept {
    /// Where a step is on the axis.
    fn place(&self, step: &Step) -> f64 {
        match (self.varied, step.rate_per_s) {
            (Varied::Rate, Some(rate)) => rate,
            _ => step.connections as f64,
        }
    }
}
