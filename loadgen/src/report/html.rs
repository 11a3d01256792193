//! The report as one page that needs nothing else: plots, and every figure in a table.

use std::fmt::Write;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::interval::Interval;
use crate::record::LOST_NS;
use crate::report::plot::{self, Axis, Line, Scale};
use crate::report::{Quantiles, Report, figures, quantile_rows};
use crate::run::Measured;
use crate::verdict::Verdict;

/// More points than this could not be told apart.
const POINTS_MAX: usize = 400;

/// Points for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 10;

/// Without the colours, which come from `colours`.
const STYLE: &str = "\
body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--page);color:var(--ink);\
font:15px/1.45 system-ui,sans-serif}\
h1{font-size:1.4rem;margin:0 0 .2rem}h2{font-size:1.05rem;margin:2rem 0 .3rem}p{margin:.2rem 0}\
.soft,.legend{color:var(--soft)}.wide{overflow-x:auto}\
.verdict{margin:1rem 0;padding:.6rem .9rem;border-left:4px solid}\
.valid{border-color:var(--good)}.invalid{border-color:var(--bad)}\
.key{display:inline-block;width:1.1rem;height:3px;vertical-align:middle;margin:0 .4rem 0 0}\
.key:not(:first-child){margin-left:1rem}\
table{margin:.7rem 0;border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .9rem .25rem 0;white-space:nowrap;border-bottom:1px solid var(--grid);text-align:right}\
th{font-weight:500;color:var(--soft)}th:first-child,.words td{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}\
svg{width:100%;height:auto;display:block}svg text{font:13px system-ui,sans-serif}";

/// Names of colours, with those of a light and of a dark screen.
const COLOURS: [(&str, &str, &str); 6] = [
    ("page", "#fcfcfb", "#1a1a19"),
    ("ink", "#1b1b1a", "#ececea"),
    ("soft", "#55544f", "#b3b2ab"),
    ("grid", "#e3e2dc", "#3a3a37"),
    ("good", "#0b7a3e", "#35b26f"),
    ("bad", "#c0271f", "#f0675e"),
];

/// The page of a run.
pub fn page(report: &Report, measured: &Measured) -> Result<String> {
    let mut html = begin(&report.title(), &report.shape());
    let (class, words) = match report.verdict {
        Verdict::Valid => ("valid", "VALID".to_owned()),
        Verdict::Invalid => ("invalid", report.complaint()),
    };
    let _ = write!(html, "<div class=\"verdict {class}\"><strong>{}</strong>", escape(&words));
    if let Some(hint) = report.hint() {
        let _ = write!(html, "<p>{hint}</p>");
    }
    if let Some(words) = report.interruption() {
        let _ = write!(html, "<p><strong>INTERRUPTED</strong> {words}</p>");
    }
    for failed in &report.failed_conditions {
        let _ = write!(html, "<p>--fail-if {} held</p>", escape(failed));
    }
    html += "</div>\n";
    html += &summary(report);

    let quantiles = quantile_lines(report, measured);
    section(
        &mut html,
        "Times by quantile",
        &Axis { name: "requests that took no longer", scale: Scale::Quantile, label: percent },
        &Axis { name: "time", scale: Scale::Log, label: figures::time },
        &quantiles,
    )?;
    let (points, kind) = points(report, &measured.intervals);
    let times = |name, of: fn(&Quantiles) -> f64| Line {
        name,
        points: points.iter().map(|point| (point.at_s, point.times.as_ref().map(of))).collect(),
    };
    section(
        &mut html,
        &format!("{kind} over time"),
        &seconds(),
        &Axis { name: "time", scale: Scale::Log, label: figures::time },
        &[times("p50", |times| times.p50), times("p99", |times| times.p99), times("max", |times| times.max)],
    )?;
    let per_s = |name, of: fn(&Point) -> f64| Line {
        name,
        points: points.iter().map(|point| (point.at_s, Some(of(point)))).collect(),
    };
    let mut lines =
        vec![per_s("sent", |point| point.sent_per_s), per_s("answered", |point| point.answered_per_s)];
    if report.errors + report.lost > 0 {
        lines.push(per_s("wrong or lost", |point| point.failed_per_s));
    }
    section(
        &mut html,
        "Throughput over time",
        &seconds(),
        &Axis { name: "requests", scale: Scale::Linear, label: figures::rate },
        &lines,
    )?;

    html += "<h2>All figures</h2>\n<div class=wide><table class=words>\n";
    rows(&mut html, "", &serde_json::to_value(report)?);
    html += "</table></div>\n";
    html += END;
    Ok(if report.interrupted { plot::marked(&html, "interrupted") } else { html })
}

/// The head of a page and its heading.
pub fn begin(title: &str, below: &str) -> String {
    begin_with("", title, below)
}

/// The same for a page with pictures in frames, which may have scripts of their own. Nothing may be loaded.
pub fn begin_with_frames(title: &str, below: &str) -> String {
    begin_with("script-src 'unsafe-inline';frame-src data:;", title, below)
}

fn begin_with(allowed: &str, title: &str, below: &str) -> String {
    let (title, below) = (escape(title), escape(below));
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none';{allowed}style-src 'unsafe-inline'\">\
         <title>{title}</title>\n<style>{}{STYLE}{}</style></head>\n<body>\n<h1>{title}</h1>\n\
         <p class=soft>{below}</p>\n",
        colours(),
        plot::style(),
    )
}

/// The end of a page.
pub const END: &str = "</body></html>\n";

/// CSS that gives every name its colour.
pub fn colours() -> String {
    let mut light = String::from("color-scheme:light dark;");
    let mut dark = String::new();
    let lines = plot::COLOURS.iter().enumerate();
    let lines = lines.map(|(index, &(light, dark))| (format!("line{index}"), light, dark));
    let names = COLOURS.iter().map(|&(name, light, dark)| (name.to_owned(), light, dark));
    for (name, on_light, on_dark) in names.chain(lines) {
        let _ = write!(light, "--{name}:{on_light};");
        let _ = write!(dark, "--{name}:{on_dark};");
    }
    format!(":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}")
}

/// A plot with its heading and its legend.
pub fn section(html: &mut String, heading: &str, x: &Axis, y: &Axis, lines: &[Line<'_>]) -> Result<()> {
    let _ = write!(html, "<h2>{}</h2>\n{}\n", escape(heading), plot::legend(lines));
    html.push_str(&plot::svg(x, y, lines)?);
    Ok(())
}

pub fn seconds() -> Axis {
    Axis { name: "seconds since the window began", scale: Scale::Linear, label: short }
}

/// As few digits as tell it.
pub fn short(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

pub fn percent(quantile: f64) -> String {
    format!("{} %", short(quantile * 100.0))
}

/// What people look for first.
fn summary(report: &Report) -> String {
    let mut html = String::from("<div class=wide><table>\n<tr><th></th>");
    for name in ["p50", "p90", "p99", "p99.9", "max", "mean"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr>\n";
    for (name, times) in quantile_rows(report) {
        let _ = write!(html, "<tr><th>{name}</th>");
        for (_, us) in times.named() {
            let _ = write!(html, "<td>{}</td>", figures::time(us));
        }
        html += "</tr>\n";
    }
    html += "</table></div>\n<table class=words>\n";
    for (name, words) in report.figures() {
        let _ = writeln!(html, "<tr><th>{name}</th><td>{}</td></tr>", escape(&words));
    }
    html + "</table>\n"
}

fn quantile_lines(report: &Report, measured: &Measured) -> Vec<Line<'static>> {
    let line = |name, times: &Histogram<u64>| Line { name, points: distribution(times) };
    let record = &measured.record;
    if report.is_open_loop() {
        vec![
            line("response time", &record.response_times),
            line("service time", &record.service_times),
            line("send lag", &record.send_lags),
        ]
    } else {
        vec![line("service time", &record.service_times)]
    }
}

/// Microseconds by quantile, for a line.
pub fn distribution(times: &Histogram<u64>) -> Vec<(f64, Option<f64>)> {
    times
        .iter_quantiles(TICKS_PER_HALF_DISTANCE)
        // That nothing took longer than the longest is so far to the right that it has no place.
        .filter(|step| step.quantile_iterated_to() < 1.0 && step.value_iterated_to() < LOST_NS)
        .map(|step| (step.quantile_iterated_to(), Some(step.value_iterated_to() as f64 / 1e3)))
        .collect()
}

/// What is drawn of one interval, or of several that share a point.
struct Point {
    at_s: f64,
    sent_per_s: f64,
    answered_per_s: f64,
    failed_per_s: f64,
    times: Option<Quantiles>,
}

/// The points over time, and the kind of their times. Of intervals that share a point the longest times are drawn: a peak
/// must not vanish in a long run.
fn points(report: &Report, intervals: &[Interval]) -> (Vec<Point>, &'static str) {
    let shared = intervals.len().div_ceil(POINTS_MAX).max(1);
    let points = intervals.chunks(shared).map(|chunk| {
        let sum = |of: fn(&Interval) -> f64| chunk.iter().map(of).sum::<f64>();
        let length_s = sum(|interval| interval.length_s);
        let times = chunk.iter().filter_map(|interval| {
            if report.is_open_loop() {
                interval.response_time_us.as_ref()
            } else {
                interval.service_time_us.as_ref()
            }
        });
        Point {
            at_s: chunk.first().map_or(0.0, |first| first.start_s + length_s / 2.0),
            sent_per_s: figures::per_s(sum(|interval| interval.requests as f64), length_s),
            answered_per_s: figures::per_s(sum(|interval| interval.answered as f64), length_s),
            failed_per_s: figures::per_s(sum(|interval| (interval.errors + interval.lost) as f64), length_s),
            times: times.cloned().reduce(|one, other| one.longest(&other)),
        }
    });
    (points.collect(), if report.is_open_loop() { "Response time" } else { "Service time" })
}

/// Every value of the JSON under its path.
pub fn rows(html: &mut String, path: &str, value: &Value) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                rows(html, &below(name), value);
            }
        }
        other => {
            let words = match other {
                Value::Null => "–".into(),
                Value::String(text) => text.clone(),
                Value::Number(number) if number.is_f64() => {
                    number.as_f64().map_or_else(String::new, |number| format!("{number:.3}"))
                }
                other => other.to_string(),
            };
            let _ = writeln!(html, "<tr><th>{}</th><td>{}</td></tr>", escape(path), escape(&words));
        }
    }
}

/// Text as it stands in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
