//! Logs of several machines added up: real ones, and ones made for it, whose sums are known.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::{Value, json};

use super::outputs::{Folder, echo_server, rows, sums};
use super::{complaint, loadgen};

/// When the logs that are made here begin: seconds since 1970.
const BEGAN_S: f64 = 1_700_000_000.0;

/// A line of a log: its tag, its start and length in seconds, and the values in it.
type Line<'a> = (Option<&'a str>, f64, f64, &'a [u64]);

/// A log as another program writes it, that began so many seconds after the first one.
fn log_of(began_s: f64, lines: &[Line<'_>]) -> String {
    let mut serializer = V2DeflateSerializer::new();
    let mut bytes = Vec::new();
    let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut bytes, &mut serializer).unwrap();
    for &(tag, start_s, length_s, values) in lines {
        let mut times = Histogram::<u64>::new_with_max(1_000_000_000, 3).unwrap();
        values.iter().for_each(|&value| times.record(value).unwrap());
        let (start, length) = (Duration::from_secs_f64(start_s), Duration::from_secs_f64(length_s));
        log.write_histogram(&times, start, length, tag.map(|tag| Tag::new(tag).unwrap())).unwrap();
    }
    format!(
        "#[StartTime: {:.3} (seconds since epoch), once]\n\"StartTimestamp\",\"Interval_Length\"\n{}",
        BEGAN_S + began_s,
        String::from_utf8(bytes).unwrap()
    )
}

/// A log of service times as loadgen writes it: ten intervals of 100 ms, with so many times in each.
pub fn own_log(began_s: f64, per_interval: usize, outcome: &Value) -> String {
    let times = vec![50_000; per_interval];
    let lines: Vec<Line<'_>> =
        (0..10).map(|index| (Some("service"), f64::from(index) / 10.0, 0.1, &times[..])).collect();
    format!("#[loadgen 0.1.0: times in nanoseconds]\n{}#[Loadgen: {outcome}]\n", log_of(began_s, &lines))
}

pub fn outcome(requests: u64, errors: u64) -> Value {
    let is_valid = errors == 0;
    json!({
        "verdict": if is_valid { "valid" } else { "invalid" },
        "limiter": if is_valid { Value::Null } else { json!("wrong replies") },
        "complaint": if is_valid { Value::Null } else { json!(format!("INVALID: {errors} wrong replies")) },
        "counts": {
            "requests": requests, "offered": requests, "answered": requests - errors, "errors": errors,
            "lost": 0, "late": 0, "peer_closed": 0, "rate_per_s": requests, "elapsed_s": 1.0,
        },
    })
}

/// Files of these names and contents.
fn written(files: &[(&str, String)]) -> (Folder, Vec<String>) {
    let folder = Folder::new();
    let paths = files.iter().map(|(name, text)| {
        let path = folder.path(name);
        fs::write(&path, text).unwrap();
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

fn merge(paths: &[String], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("merge").args(paths).args(arguments).output().unwrap()
}

/// The JSON, the exit code and what was said.
fn merged(paths: &[String], arguments: &[&str]) -> (Value, i32, String) {
    let output = merge(paths, &[&["--json", "-"], arguments].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    (json, output.status.code().unwrap(), stderr)
}

fn close(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - expected).abs() < 1e-3 * expected)
}

#[test]
fn the_sum_of_two_runs_has_every_time_of_both() {
    let target = format!("echo={}", echo_server());
    let folder = Folder::new();
    let paths = [folder.path("one"), folder.path("other")];
    std::thread::scope(|scope| {
        for (path, requests) in paths.iter().zip(["400", "600"]) {
            let target = &target;
            scope.spawn(move || {
                let output = loadgen(&[
                    "run", target, "-c", "3", "-r", "1k", "-n", requests, "-w", "0", "--hlog", path,
                ]);
                assert!(matches!(output.status.code(), Some(0 | 3)));
            });
        }
    });
    let files = ["--hlog", "--hgrm", "--csv", "--html"];
    let outputs: Vec<_> = files.iter().map(|option| folder.path(&option[2..])).collect();
    let options: Vec<_> =
        files.iter().zip(&outputs).flat_map(|(option, path)| [option, path.as_str()]).collect();
    // The tests share their processors, so a run may have been invalid.
    let (json, code, stderr) = merged(&paths, &options);
    assert_eq!(code, if json["verdict"] == "valid" { 0 } else { 3 }, "{stderr}");
    assert!(!json["verdict"].is_null());
    assert_eq!((&json["requests"], &json["errors"], &json["lost"]), (&1000.into(), &0.into(), &0.into()));
    assert_eq!(json["rate_per_s"], 2000.0);

    let parts = paths.map(|path| sums(&fs::read(path).unwrap()));
    let all = sums(folder.read("hlog").as_bytes());
    let csv = folder.read("csv");
    let csv = rows(&csv);
    for (place, tag) in ["response", "service", "lag"].into_iter().enumerate() {
        let (sum, cells) = &all[tag];
        let mut expected = parts[0][tag].0.clone();
        expected.add(&parts[1][tag].0).unwrap();
        assert_eq!((sum, sum.len()), (&expected, 1000), "{tag}");
        let told = &json["times"][place];
        assert_eq!((&told["tag"], &told["count"]), (&tag.into(), &1000.into()));
        assert!(close(&told["us"]["p99"], expected.value_at_quantile(0.99) as f64 / 1e3), "{told}");
        assert!(close(&told["us"]["max"], expected.max() as f64 / 1e3), "{told}");
        let count: u64 =
            csv.iter().map(|row| row[format!("{tag}_count").as_str()].parse::<u64>().unwrap()).sum();
        assert_eq!((count, csv.len()), (1000, *cells), "{tag}");
    }
    assert!(folder.read("hgrm").contains("Total count    =         1000]"));
    let html = folder.read("html");
    assert_eq!(html.matches("<svg class=\"on-wide\"").count(), 5);
    assert!(html.contains("response time") && html.trim_end().ends_with("</html>"));

    // A sum can be added to others.
    let (again, ..) = merged(&[folder.path("hlog")], &[]);
    for field in ["verdict", "requests", "errors", "lost", "rate_per_s"] {
        assert_eq!(again[field], json[field], "{field}");
    }
    for (one, other) in again["times"].as_array().unwrap().iter().zip(json["times"].as_array().unwrap()) {
        assert_eq!((&one["tag"], &one["us"]), (&other["tag"], &other["us"]));
    }
}

#[test]
fn intervals_are_aligned_by_the_clock_and_rates_are_those_of_the_common_span() {
    let (folder, paths) = written(&[
        ("one", own_log(0.0, 100, &outcome(1000, 0))),
        ("other", own_log(0.5, 10, &outcome(100, 0))),
    ]);
    let hlog = folder.path("hlog");
    let (json, code, stderr) = merged(&paths, &["--hlog", &hlog]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!((&json["verdict"], &json["requests"]), (&"valid".into(), &1100.into()));
    assert!(close(&json["span_s"], 1.5) && close(&json["common_span_s"], 0.5), "{json}");
    for rate in ["offered_per_s", "throughput_per_s"] {
        assert!(close(&json[rate], 1100.0), "{json}");
    }
    assert!(close(&json["times"][0]["per_s"], 1100.0), "{json}");
    // Alone, both together, alone.
    let (mut before, mut together, mut after) = (0, 0, 0);
    let log = folder.read("hlog");
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("Tag=service,")).collect();
    for line in &lines {
        let (start_s, line) = line["Tag=service,".len()..].split_once(',').unwrap();
        let start_s: f64 = start_s.parse().unwrap();
        let line = format!("Tag=at,{start_s:.3},{line}\n");
        let count = sums(line.as_bytes())["at"].0.len();
        *match start_s {
            start_s if start_s < 0.45 => &mut before,
            start_s if start_s < 0.95 => &mut together,
            _ => &mut after,
        } += count;
    }
    assert_eq!((before, together, after, lines.len()), (500, 550, 50, 15), "{log}");
    assert!(log.contains(&format!("#[StartTime: {BEGAN_S:.3} ")), "{log}");
}

#[test]
fn one_invalid_part_makes_the_sum_invalid_and_errors_are_added() {
    let (_folder, paths) = written(&[
        ("right", own_log(0.0, 100, &outcome(1000, 0))),
        ("wrong", own_log(0.0, 100, &outcome(1000, 7))),
    ]);
    let (json, code, stderr) = merged(&paths, &["--fail-if", "errors>5"]);
    assert_eq!(code, 3, "it wins over 1");
    assert_eq!(
        [&json["verdict"], &json["limiter"], &json["errors"], &json["failed_conditions"][0]],
        [&json!("invalid"), &json!("wrong replies"), &json!(7), &json!("errors>5")]
    );
    assert!(close(&json["throughput_per_s"], 1993.0), "{json}");
    assert!(stderr.contains("wrong: INVALID: 7 wrong replies") && !stderr.contains("right: "), "{stderr}");
    assert!(stderr.contains("--fail-if errors>5: errors is 7"), "{stderr}");
    let table = String::from_utf8(merge(&paths, &[]).stdout).unwrap();
    assert!(table.contains("2000, 7 wrong replies, 0 lost") && table.contains("wrong: INVALID"), "{table}");
}

#[test]
fn logs_of_other_programs_have_any_tags_and_units_and_no_verdict() {
    let (_folder, paths) = written(&[
        ("own", own_log(0.0, 100, &outcome(1000, 0))),
        (
            "others",
            log_of(
                0.0,
                &[
                    (None, 0.0, 1.0, &[70; 5][..]),
                    (Some("get"), 0.0, 1.0, &[20; 3]),
                    (Some("set"), 0.0, 1.0, &[30; 2]),
                ],
            ),
        ),
    ]);
    let (json, code, stderr) = merged(&paths, &["--unit", "us"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(json["verdict"].is_null() && json["requests"].is_null() && json["throughput_per_s"].is_null());
    assert!(stderr.contains("the verdict of ") && stderr.contains("another program"), "{stderr}");
    let times: HashMap<_, _> = json["times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|times| (times["tag"].as_str().unwrap_or("none"), times))
        .collect();
    for (tag, count, p50_us) in
        [("none", 5, 70.0), ("get", 3, 20.0), ("set", 2, 30.0), ("service", 1000, 50.0)]
    {
        assert_eq!(times[tag]["count"], count, "{tag}");
        assert!(close(&times[tag]["us"]["p50"], p50_us), "{tag}: {json}");
    }
    // A figure that is not there is refused, and one that is not needed does not matter.
    for condition in ["p99>1s", "errors>0", "throughput<1", "cpu>1us", "lag_p50>1us"] {
        let output = merge(&paths, &["--fail-if", condition]);
        assert_eq!(output.status.code(), Some(2), "{condition}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("do not have that figure"), "{condition}");
    }
    assert_eq!(merge(&paths, &["--fail-if", "service_p99>1us"]).status.code(), Some(1));
    assert_eq!(merge(&paths[..1], &["--fail-if", "p99>1s", "--fail-if", "lost>0"]).status.code(), Some(0));
}

#[test]
fn logs_that_never_ran_together_are_added_with_a_warning() {
    let (folder, paths) = written(&[
        ("late", own_log(100.0, 100, &outcome(1000, 0))),
        ("early", own_log(0.0, 100, &outcome(1000, 0))),
    ]);
    let (json, code, stderr) = merged(&paths, &[]);
    assert_eq!((code, &json["requests"], &json["common_span_s"]), (0, &2000.into(), &Value::Null));
    assert!(json["throughput_per_s"].is_null() && json["times"][0]["per_s"].is_null(), "{json}");
    assert_eq!(json["times"][0]["count"], 2000);
    // No line is drawn across the time in which nothing ran: each has a part for either log.
    let html = folder.path("html");
    merged(&paths, &["--html", &html]);
    let page = folder.read("html");
    let (_, rates) = page.split_once("Rates over time").unwrap();
    let (wide, _) = rates.split_once("</svg>").unwrap();
    assert_eq!(wide.matches("<polyline fill=\"none\" opacity=\"1\" stroke=\"#100000\"").count(), 2, "{wide}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("early had ended when") && stderr.contains("late began"), "{stderr}");
}

#[test]
fn what_is_no_whole_log_is_told_with_its_line() {
    let good = own_log(0.0, 100, &outcome(1000, 0));
    let lines: Vec<_> = good.lines().collect();
    let with = |index: usize, line: &str| {
        let mut text = String::new();
        for (place, old) in lines.iter().enumerate() {
            writeln!(text, "{}", if place == index { line } else { old }).unwrap();
        }
        text
    };
    let corrupt = |at: usize| {
        let mut line = lines[5].as_bytes().to_vec();
        line[at] = if line[at] == b'A' { b'B' } else { b'A' };
        with(5, std::str::from_utf8(&line).unwrap())
    };
    let len = lines[5].len();
    for (content, line, words) in [
        (String::new(), 1, "the file is empty"),
        ("Hello\nworld\n".into(), 1, "no line of an HdrHistogram log"),
        (lines[..3].join("\n") + "\n", 4, "without any interval"),
        (good[..good.len() - 1].to_owned(), lines.len(), "has no end"),
        (lines[..4].join("\n")[..150].to_owned(), 4, "has no end"),
        (with(5, &lines[5][..len - 8]), 6, "the histogram"),
        (with(5, &lines[5].replace("0.200", "soon")), 6, "no line of an HdrHistogram log"),
        (with(5, "Tag=a b,0.2,0.1,1,AAAA"), 6, "a tag"),
        (corrupt(len - 20), 6, "the histogram"),
        (corrupt(len - 60), 6, "the histogram"),
        (corrupt(lines[5].find("HIST").unwrap()), 6, "not one of version 2"),
        (with(lines.len() - 1, "#[Loadgen: {\"verdict\":\"good\"}]"), lines.len(), "cannot be read"),
    ] {
        let (_folder, paths) = written(&[("good", good.clone()), ("bad", content)]);
        let output = merge(&paths, &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(words), "{words}: {stderr}");
        assert!(stderr.contains(&format!("bad, line {line}: ")), "{words}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    let (_folder, paths) = written(&[("good", good.clone())]);
    let told = complaint(&["merge", &paths[0], &paths[0]], 2);
    assert!(told.contains("given twice"), "{told}");
    assert!(complaint(&["merge", "/nowhere/log"], 2).contains("reading /nowhere/log"));
}
