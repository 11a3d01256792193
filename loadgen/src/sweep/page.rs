//! A sweep as a page of curves that needs nothing else. An invalid step is a gap in them.

use std::fmt::Write;

use anyhow::Result;

use super::{COLUMNS, Spread, Step, Swept, Varied};
use crate::report::html::{Belief, END, begin, dated, section, short, times, verdict_box};
use crate::report::plot::{self, Axis, Line, Scale};
use crate::report::{counted, figures};
use crate::verdict::Verdict;

/// Steps that are farther apart than this would lie on top of each other on a linear axis.
const LINEAR_RATIO_MAX: f64 = 20.0;

pub fn page(swept: &Swept) -> Result<String> {
    let mut html = begin(&swept.title, &dated(&swept.shape));
    let troubled = || swept.steps.iter().filter(|step| step.valid_repeats < step.repeats.len());
    let repeats: usize = swept.steps.iter().map(|step| step.repeats.len()).sum();
    let valid: usize = swept.steps.iter().map(|step| step.valid_repeats).sum();
    let hopeless = swept.steps.iter().filter(|step| step.verdict == Some(Verdict::Invalid)).count();
    let words = match swept.verdict {
        Verdict::Invalid if hopeless == 0 => "INVALID: nothing was measured".to_owned(),
        Verdict::Invalid => {
            format!("INVALID: {hopeless} of {} without any valid repeat", counted(swept.steps.len(), "step"))
        }
        Verdict::Valid if valid < repeats => {
            format!("VALID without {} of {}", repeats - valid, counted(repeats, "repeat"))
        }
        Verdict::Valid => "VALID".to_owned(),
    };
    let belief = if swept.verdict == Verdict::Valid && valid < repeats {
        Belief::Doubtful
    } else {
        Belief::of(swept.verdict)
    };
    let remarks = troubled().map(|step| format!("{}: {}", swept.name(step), step.trouble()));
    verdict_box(&mut html, belief, &words, remarks, swept.ended_early.as_deref());
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
    // Steps without a point, too.
    let ends =
        places.iter().copied().fold(f64::INFINITY, f64::min)..places.iter().copied().fold(0.0, f64::max);
    let scale = if ratio > LINEAR_RATIO_MAX { Scale::Log } else { Scale::Linear };
    let name = match swept.varied {
        Varied::Rate => "planned rate",
        Varied::Connections => "connections",
    };
    let label: &dyn Fn(f64) -> String = if swept.varied == Varied::Rate { &figures::rate } else { &short };
    let steps = || Axis::new(name, scale, label).with_range(ends.clone());
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
        &times(),
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
        &Axis::new("requests", Scale::Linear, &figures::rate),
        &[line("offered", |step| step.offered_per_s), line("achieved", |step| step.throughput_per_s)],
    )?;
    if swept.steps.iter().any(|step| step.server_cpu_ns_per_request.is_some()) {
        section(
            html,
            "Server CPU per request",
            &steps(),
            &Axis::new("time", Scale::Linear, &|ns| figures::time(ns / 1e3)),
            &[line("server CPU", |step| step.server_cpu_ns_per_request)],
        )?;
    }
    Ok(())
}

/// Medians, each with its least and its greatest where they differ.
fn table(swept: &Swept) -> String {
    let mut html = String::from("<h2>All figures</h2>\n<div class=wide><table>\n<tr><th></th>");
    for name in ["verdict", "offered", "achieved", "p50", "p99", "p99.9", "server CPU"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for step in &swept.steps {
        let class = step.belief().map_or("", Belief::class);
        let _ = write!(html, "<tr><th>{}</th>", swept.name(step));
        let _ = write!(html, "<td class=\"{class}\">{}</td>", step.verdict_words());
        for column in COLUMNS {
            let Some(Spread { median, min, max }) = (column.of)(step) else {
                html += "<td>–</td>";
                continue;
            };
            let [median, min, max] = [median, min, max].map(column.words);
            let _ = write!(html, "<td>{median}");
            if min != max {
                let _ = write!(html, "<br><span class=soft>{}</span>", figures::range(&min, &max));
            }
            html += "</td>";
        }
        html += "</tr>\n";
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

impl Step {
    /// How far its figures can be believed; none if there are none.
    fn belief(&self) -> Option<Belief> {
        match self.verdict? {
            Verdict::Valid if self.valid_repeats < self.repeats.len() => Some(Belief::Doubtful),
            verdict => Some(Belief::of(verdict)),
        }
    }
}
