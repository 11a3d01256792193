//! The report as one page that needs nothing else: plots, and every figure in a table.

use std::fmt::Write;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::interval::Interval;
use crate::machine::date;
use crate::record::LOST_NS;
use crate::report::lines::unbroken;
use crate::report::plot::{self, Axis, Line, Scale};
use crate::report::{Quantiles, Report, figures, quantile_rows};
use crate::run::Measured;
use crate::verdict::Verdict;

/// More points than this could not be told apart.
const POINTS_MAX: usize = 400;

/// Points for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 10;

/// Without the colours, which come from `colours`. On a phone, names of figures stand above them.
const STYLE: &str = "\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--page);color:var(--ink);\
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}\
h1{font-size:1.4rem;margin:0 0 .2rem}h2{font-size:1.05rem;margin:2rem 0 .3rem}h3{font-size:.95rem;margin:1.3rem 0 .2rem}p{margin:.2rem 0}\
.soft,.legend{color:var(--soft)}\
.wide{overflow-x:auto;background:linear-gradient(to left,var(--page) 50%,transparent) right/2rem 100% no-repeat local,\
linear-gradient(to left,var(--grid),transparent) right/1rem 100% no-repeat}\
.verdict{margin:1rem 0;padding:.6rem .9rem;border-left:4px solid}\
.verdict.valid{border-color:var(--good)}.verdict.doubtful{border-color:var(--doubt)}.verdict.invalid{border-color:var(--bad)}\
td.valid{color:var(--good)}td.doubtful{color:var(--doubt)}td.invalid{color:var(--bad)}\
.key{display:inline-block;width:1.1rem;height:3px;vertical-align:middle;margin:0 .4rem 0 0}\
.entry{margin-right:1rem;white-space:nowrap}\
table{margin:.7rem 0;border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--grid);text-align:right;vertical-align:top}\
td{white-space:nowrap}th{font-weight:500;color:var(--soft);overflow-wrap:normal}\
th:first-child{text-align:left;overflow-wrap:anywhere;min-width:6.5rem}\
th[colspan]{color:var(--ink);padding-top:.8rem}.words td,.words th{text-align:left}.words td{white-space:normal}.words th{overflow-wrap:anywhere}.figure,.words .figure{white-space:nowrap}\
.dense{font-size:13px}.dense th,.dense td{padding-right:.6rem}.dense th:first-child{min-width:5rem}\
svg{width:100%;height:auto;display:block}svg text{font:13px system-ui,sans-serif}\
svg text[font-weight]{font-weight:600}\
iframe{border:0;width:100%}\
@media(max-width:44rem){body{padding:1rem .9rem}th,td{padding-right:.6rem}\
.words,.words tbody,.words tr,.words th,.words td{display:block;text-align:left}\
.words th{border:0;padding:.35rem 0 0}.words td{padding:0 0 .35rem}.words tr:first-child:not(:has(td)){display:none}\
.wide th:first-child{position:sticky;left:0;background:var(--page);max-width:40vw}.wide th[colspan]{position:static;max-width:none}\
svg.on-phone{max-width:36rem}}\
@media(prefers-color-scheme:dark){iframe{filter:invert(.9) hue-rotate(180deg)}}";

/// Names of colours, with those of a light and of a dark screen.
const COLOURS: [(&str, &str, &str); 8] = [
    ("page", "#fcfcfb", "#1a1a19"),
    ("ink", "#1b1b1a", "#ececea"),
    ("soft", "#55544f", "#b3b2ab"),
    ("grid", "#e3e2dc", "#3a3a37"),
    ("good", "#0b7a3e", "#35b26f"),
    ("doubt", "#8a5a00", "#e0a93a"),
    ("bad", "#c0271f", "#f0675e"),
    ("other", "#b7b6af", "#6b6a65"),
];

/// The page of a run.
pub fn page(report: &Report, measured: &Measured) -> Result<String> {
    let mut html = begin(&report.title(), &dated(&report.shape()));
    let mut words = match report.verdict {
        Verdict::Valid => "VALID".to_owned(),
        Verdict::Invalid => report.complaint(),
    };
    let hint = report.hint().map(str::to_owned);
    let mut belief = match report.verdict {
        Verdict::Valid if report.interrupted => Belief::Doubtful,
        verdict => Belief::of(verdict),
    };
    fail(&mut belief, &mut words, &report.failed_conditions);
    verdict_box(&mut html, belief, &words, hint, report.interruption().as_deref());
    html += &summary(report);

    section(&mut html, "Times by quantile", &quantiles(), &times(), &quantile_lines(report, measured))?;
    let (points, kind) = points(report, &measured.intervals);
    let end_s = measured.intervals.last().map_or(0.0, |last| last.start_s + last.length_s);
    let seconds =
        || Axis::new("seconds since the window began", Scale::Linear, &short).with_range(0.0..end_s);
    let quantile = |name, of: fn(&Quantiles) -> f64| Line {
        name,
        points: points.iter().map(|point| (point.at_s, point.times.as_ref().map(of))).collect(),
    };
    section(
        &mut html,
        &format!("{kind} over time"),
        &seconds(),
        &times(),
        &[
            quantile("p50", |times| times.p50),
            quantile("p99", |times| times.p99),
            quantile("max", |times| times.max),
        ],
    )?;
    let per_s = |name, of| Line { name, points: rates(&points, of) };
    let mut lines =
        vec![per_s("sent", |point| point.sent_per_s), per_s("answered", |point| point.answered_per_s)];
    if report.errors + report.lost > 0 {
        lines.push(per_s("wrong or lost", |point| point.failed_per_s));
    }
    let requests = Axis::new("requests", Scale::Linear, &figures::rate);
    section(&mut html, "Throughput over time", &seconds(), &requests, &lines)?;

    all_figures(&mut html, &serde_json::to_value(report)?);
    html += END;
    Ok(if report.interrupted { plot::marked(&html, "interrupted") } else { html })
}

/// How far what a page says can be believed.
#[derive(Clone, Copy)]
pub enum Belief {
    Valid,
    /// In part, or nobody knows.
    Doubtful,
    Invalid,
}

impl Belief {
    pub fn of(verdict: Verdict) -> Belief {
        match verdict {
            Verdict::Valid => Belief::Valid,
            Verdict::Invalid => Belief::Invalid,
        }
    }

    /// As the style calls it.
    pub fn class(self) -> &'static str {
        match self {
            Belief::Valid => "valid",
            Belief::Doubtful => "doubtful",
            Belief::Invalid => "invalid",
        }
    }
}

/// Where a condition of --fail-if holds, whatever is valid has failed.
pub fn fail(belief: &mut Belief, words: &mut String, failed_conditions: &[String]) {
    if !failed_conditions.is_empty() {
        *belief = Belief::Invalid;
        *words += &format!(", FAILED --fail-if {}", failed_conditions.join(", "));
    }
}

/// What came out, in words that are not escaped yet, with what is to be said of it, and that it was ended before its time.
pub fn verdict_box(
    html: &mut String,
    belief: Belief,
    words: &str,
    remarks: impl IntoIterator<Item = String>,
    interruption: Option<&str>,
) {
    let _ = write!(html, "<div class=\"verdict {}\"><strong>{}</strong>", belief.class(), figures_in(words));
    for remark in remarks {
        let _ = write!(html, "<p>{}</p>", figures_in(&remark));
    }
    if let Some(words) = interruption {
        let _ = write!(html, "<p><strong>INTERRUPTED</strong> {}</p>", escape(words));
    }
    *html += "</div>\n";
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
    let (title, below) = (escape(title), with_whole_dates(&figures_in(below)));
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

/// What a page says below its title of something that was measured just now, with the date.
pub fn dated(words: &str) -> String {
    format!("{words}; {} UTC", date())
}

/// A plot with its heading and its legend.
pub fn section(
    html: &mut String,
    heading: &str,
    x: &Axis<'_>,
    y: &Axis<'_>,
    lines: &[Line<'_>],
) -> Result<()> {
    let _ = write!(html, "<h2>{}</h2>\n{}\n", escape(heading), plot::legend(lines));
    html.push_str(&plot::titled(&plot::svg(x, y, lines)?, heading));
    Ok(())
}

/// The axis of shares of requests.
pub fn quantiles() -> Axis<'static> {
    Axis::new("requests that took no longer", Scale::Quantile, &percent)
}

/// The axis of times in microseconds.
pub fn times() -> Axis<'static> {
    Axis::new("time", Scale::Log, &figures::time)
}

/// As few digits as tell it.
pub fn short(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

fn percent(quantile: f64) -> String {
    format!("{} %", short(quantile * 100.0))
}

/// What people look for first.
fn summary(report: &Report) -> String {
    let columns: Vec<_> = quantile_rows(report).map(|(name, times)| (name, vec![], Some(times))).collect();
    quantile_table(&[], &columns) + &words_table(&report.figures())
}

/// A kind of time: its name, the cells above its quantiles, and those.
pub type Column<'a> = (&'a str, Vec<String>, Option<&'a Quantiles>);

/// A row for each quantile, and a column for each kind of time, which a phone has room for; above the quantiles, rows of the
/// columns' own cells.
pub fn quantile_table(names: &[&str], columns: &[Column<'_>]) -> String {
    let mut html = String::from("<div class=wide><table>\n<tr><th></th>");
    for (name, ..) in columns {
        let _ = write!(html, "<th>{}</th>", escape(name));
    }
    html += "</tr>\n";
    let mut row = |name: &str, cell: &dyn Fn(&Column<'_>) -> String| {
        let _ = write!(html, "<tr><th>{}</th>", escape(name));
        for column in columns {
            let _ = write!(html, "<td>{}</td>", escape(&cell(column)));
        }
        html += "</tr>\n";
    };
    for (place, name) in names.iter().enumerate() {
        row(name, &|(_, cells, _)| cells.get(place).cloned().unwrap_or_default());
    }
    for (place, name) in ["p50", "p90", "p99", "p99.9", "max", "mean"].into_iter().enumerate() {
        row(name, &|(.., times)| times.map_or("–".into(), |times| figures::time(times.named()[place].1)));
    }
    html + "</table></div>\n"
}

/// Figures in words, each with its name.
pub fn words_table(figures: &[(&str, String)]) -> String {
    let mut html = String::from("<table class=words>\n");
    for (name, words) in figures {
        let _ = writeln!(html, "<tr><th>{}</th><td>{}</td></tr>", escape(name), figures_in(words));
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
    length_s: f64,
    sent_per_s: f64,
    answered_per_s: f64,
    failed_per_s: f64,
    /// It began before the last request was sent.
    is_in_window: bool,
    times: Option<Quantiles>,
}

/// What is drawn of a rate. That of the remainder at the end says nothing. Behind the window nothing is sent and replies are
/// waited for: that none comes then is no throughput of 0, and that there are few in which the last one comes no low one.
fn rates(points: &[Point], of: fn(&Point) -> f64) -> Vec<(f64, Option<f64>)> {
    let longest_s = points.iter().map(|point| point.length_s).fold(0.0, f64::max);
    let last = points.iter().rposition(|point| of(point) > 0.0).unwrap_or_default();
    let whole = points.iter().enumerate().filter(|(_, point)| point.length_s > longest_s / 2.0);
    whole
        .map(|(place, point)| {
            let is_drawn = point.is_in_window || (place < last && of(point) > 0.0);
            (point.at_s, Some(of(point)).filter(|_| is_drawn))
        })
        .collect()
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
        let start_s = chunk.first().map_or(0.0, |first| first.start_s);
        Point {
            at_s: start_s + length_s / 2.0,
            length_s,
            is_in_window: start_s < report.elapsed_s,
            sent_per_s: figures::per_s(sum(|interval| interval.requests as f64), length_s),
            answered_per_s: figures::per_s(sum(|interval| interval.answered as f64), length_s),
            failed_per_s: figures::per_s(sum(|interval| (interval.errors + interval.lost) as f64), length_s),
            times: times.cloned().reduce(|one, other| one.longest(&other)),
        }
    });
    (points.collect(), if report.is_open_loop() { "Response time" } else { "Service time" })
}

/// Every value of the JSON under its path.
pub fn all_figures(html: &mut String, json: &Value) {
    *html += "<h2>All figures</h2>\n<p class=soft>As in the JSON: names end in their unit.</p>\n<table class=words>\n";
    rows(html, "", json);
    *html += "</table>\n";
}

fn rows(html: &mut String, path: &str, value: &Value) {
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
            let path = breakable(&escape(path), &[".", "_"]);
            let _ = writeln!(html, "<tr><th>{path}</th><td>{}</td></tr>", escape(&words));
        }
    }
}

/// Text in which figures keep their units, as it stands in a page.
pub fn figures_in(text: &str) -> String {
    escape(&unbroken(text))
}

/// The same text, with no line that ends within a date.
fn with_whole_dates(html: &str) -> String {
    let is_date = |word: &str| {
        let part = |from, to| word.get(from..to).is_some_and(|part: &str| part.parse::<u32>().is_ok());
        word.get(4..5) == Some("-") && word.get(7..8) == Some("-") && part(0, 4) && part(5, 7) && part(8, 10)
    };
    let words = html.split(' ').map(|word| match is_date(word) {
        true => format!("<span class=figure>{word}</span>"),
        false => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A long name of a page, of which a line may end behind these.
pub fn breakable(name: &str, ends: &[&str]) -> String {
    ends.iter().fold(name.to_owned(), |name, end| name.replace(end, &format!("{end}<wbr>")))
}

/// Text as it stands in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rate_falls_behind_the_window() {
        let point = |at_s: f64, length_s, answered_per_s| Point {
            at_s,
            length_s,
            sent_per_s: 0.0,
            answered_per_s,
            failed_per_s: 0.0,
            is_in_window: at_s < 3.0,
            times: None,
        };
        let drawn = |rates: &[f64]| {
            let points: Vec<_> =
                (0_u32..).zip(rates).map(|(at, &rate)| point(at.into(), 1.0, rate)).collect();
            super::rates(&points, |point| point.answered_per_s)
                .iter()
                .map(|(_, rate)| rate.unwrap_or(-1.0))
                .collect::<Vec<_>>()
        };
        // A stop within the window is one. Behind it, all that came late is drawn but what ends it.
        assert_eq!(drawn(&[9.0, 0.0, 9.0]), [9.0, 0.0, 9.0]);
        assert_eq!(drawn(&[9.0, 9.0, 9.0, 1.0]), [9.0, 9.0, 9.0, -1.0]);
        assert_eq!(drawn(&[9.0, 9.0, 9.0, 8.0, 8.0, 1.0, 0.0]), [9.0, 9.0, 9.0, 8.0, 8.0, -1.0, -1.0]);
        let points = [point(0.0, 1.0, 5.0), point(1.0, 0.1, 20.0)];
        assert_eq!(super::rates(&points, |point| point.answered_per_s), [(0.0, Some(5.0))]);
    }
}
