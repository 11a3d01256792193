//! The README's chart: tidewheel beside a thread for each connection. Throughput is criterion's, from `cargo bench`; CPU time
//! is what was measured here.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use loadgen::output::Output;
use loadgen::report::html::{colours, escape};
use loadgen::report::{figures, json, plot};

use crate::record::Conditions;
use crate::statistics::Estimate;
use crate::{CPU, Compared};

/// The two servers, under which names they are known here and in criterion's results alike.
pub const SERVERS: [&str; 2] = ["tidewheel", "threads"];

/// How they are called in the chart.
const NAMES: [&str; 2] = ["tidewheel", "a thread each"];

/// How many connections criterion's benchmarks have.
const CONNECTIONS: [usize; 5] = [1, 10, 50, 200, 1000];

/// A figure of both servers at a number of connections.
#[derive(Serialize)]
struct Point {
    connections: usize,
    tidewheel: Estimate,
    threads: Estimate,
}

#[derive(Serialize)]
struct Headline<'a> {
    conditions: &'a Conditions,
    /// From criterion.
    requests_per_s: Vec<Point>,
    /// From slices of both servers in turn.
    server_cpu_ns_per_request: Vec<Point>,
}

/// Runs the benchmarks, and draws the chart to `path`, with its figures in a JSON beside it.
pub fn draw(compared: &Compared, root: &Path, path: &str) -> Result<()> {
    let headline = Headline {
        conditions: &compared.conditions,
        requests_per_s: throughput(root, compared.conditions.is_quick)?,
        server_cpu_ns_per_request: cpu(compared)?,
    };
    let figures = PathBuf::from(path).with_extension("json").display().to_string();
    Output::open(&figures)?.keep_with(|out| json::write(out, &headline))?;
    Output::open(path)?.keep_with(|out| io::Write::write_all(out, headline.svg().as_bytes()))
}

/// Criterion's figures of echo, 64 bytes, one request in flight.
fn throughput(root: &Path, is_quick: bool) -> Result<Vec<Point>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["bench", "--bench", "loopback", "--", r"^echo/.*x64B/depth1$"]);
    if is_quick {
        cargo.args(["--warm-up-time", "0.1", "--measurement-time", "0.2"]);
    }
    let status = cargo.current_dir(root).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("cargo bench")?;
    ensure!(status.success(), "cargo bench: {status}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let results = target.join("criterion/echo");
    CONNECTIONS
        .iter()
        .map(|&connections| {
            let [tidewheel, threads] = SERVERS.map(|server| {
                let folder = results.join(format!("{server}_{connections}x64B_depth1/new"));
                per_second(&folder, connections).with_context(|| folder.display().to_string())
            });
            Ok(Point { connections, tidewheel: tidewheel?, threads: threads? })
        })
        .collect()
}

/// An iteration is one request on each connection.
fn per_second(folder: &Path, connections: usize) -> Result<Estimate> {
    let text = fs::read_to_string(folder.join("estimates.json"))?;
    let estimates: Value = serde_json::from_str(&text)?;
    let median = &estimates["median"];
    let rate = |ns: &Value| ns.as_f64().map(|ns| connections as f64 * 1e9 / ns);
    let interval = &median["confidence_interval"];
    let [median, low95, high95] =
        [&median["point_estimate"], &interval["upper_bound"], &interval["lower_bound"]].map(rate);
    let all = median.zip(low95).zip(high95).context("estimates.json has no median")?;
    let ((median, low95), high95) = all;
    Ok(Estimate { median, low95, high95 })
}

fn cpu(compared: &Compared) -> Result<Vec<Point>> {
    let of = |case: usize, server: &str| {
        let rows = &compared.cases[case].servers;
        let row = rows.iter().find(|row| row.name == server);
        row.and_then(|row| Some(row.figures.get(CPU)?.as_ref()?.estimate))
            .with_context(|| format!("no CPU time of {server}"))
    };
    let measured = (0..compared.cases.len()).map(|case| {
        let connections = compared.cases[case].connections;
        Ok(Point { connections, tidewheel: of(case, SERVERS[0])?, threads: of(case, SERVERS[1])? })
    });
    measured.collect()
}

/// The width of the picture, and of what stands left and right of its bars.
const WIDTH: f64 = 480.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = 78.0;

const ROW_HEIGHT: usize = 20;

impl Headline<'_> {
    fn svg(&self) -> String {
        let mut body = String::new();
        let mut top = 0;
        let title = "Echo, 64 bytes: tidewheel beside a thread for each connection";
        text(&mut body, 0.0, &mut top, title, " class=\"ink\" font-weight=\"600\"");
        panel(
            &mut body,
            &mut top,
            "Requests per second: more is better",
            &self.requests_per_s,
            figures::rate,
        );
        let time = |ns: f64| figures::time(ns / 1e3);
        let cpu = &self.server_cpu_ns_per_request;
        panel(&mut body, &mut top, "CPU time of the server per request: less is better", cpu, time);
        top += ROW_HEIGHT / 2;
        for line in [self.conditions.machine(), "Lines: 95 % intervals of the medians.".to_owned()] {
            for line in loadgen::report::lines::folded(&line, 68) {
                text(&mut body, 0.0, &mut top, &line, "");
            }
        }
        format!(
            "{}<style>{}{}{}</style>\n<title>{title}</title>\n{body}</svg>\n",
            plot::begin_alone(WIDTH, (top + ROW_HEIGHT / 2) as f64),
            colours(),
            plot::style(),
            plot::STYLE_ALONE
        )
    }
}

fn text(svg: &mut String, x: f64, top: &mut usize, words: &str, attributes: &str) {
    *top += ROW_HEIGHT;
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{top}\"{attributes}>{}</text>", escape(words));
}

/// A bar for each server at each number of connections, all on one scale from zero.
fn panel(svg: &mut String, top: &mut usize, heading: &str, points: &[Point], words: fn(f64) -> String) {
    *top += ROW_HEIGHT / 2;
    text(svg, 0.0, top, heading, " class=\"ink\"");
    let most =
        points.iter().map(|point| point.tidewheel.high95.max(point.threads.high95)).fold(0.0, f64::max);
    let at = |value: f64| LEFT + value / most * (WIDTH - LEFT - RIGHT);
    for point in points {
        *top += ROW_HEIGHT / 4;
        let plural = if point.connections == 1 { "" } else { "s" };
        let count = format!("{} connection{plural}", point.connections);
        let _ = writeln!(svg, "<text x=\"0\" y=\"{}\">{count}</text>", *top + ROW_HEIGHT);
        let colours = ["fill=\"var(--line0)\"", "class=\"other\""];
        for ((name, figure), colour) in NAMES.iter().zip([point.tidewheel, point.threads]).zip(colours) {
            *top += ROW_HEIGHT;
            let middle = *top - 4;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{top}\" text-anchor=\"end\">{name}</text>\
                 <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"13\" {colour}/>\
                 <path d=\"M{:.1} {middle}H{:.1}\" class=\"ink\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{top}\">{}</text>",
                LEFT - 6.0,
                middle - 7,
                at(figure.median) - LEFT,
                at(figure.low95),
                at(figure.high95),
                at(figure.high95) + 6.0,
                escape(&words(figure.median)),
            );
        }
    }
}
