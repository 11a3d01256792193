//! What comes out of a run: every file is read back, and compared with the others.

#![allow(clippy::unwrap_used, reason = "a test's server has nobody to report to but the test")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

/// Echoes on every connection; returns its HOST:PORT. Its threads end with the test program.
pub fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("loadgen-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// Runs against the echo server with all files, and returns the folder with them and what was printed. The tests share
/// their processors, so the generator may say that it had too little of them.
fn run_with_files(arguments: &[&str]) -> (Folder, String) {
    let folder = Folder::new();
    let target = format!("echo={}", echo_server());
    let files = ["--json", "--hgrm", "--hlog", "--csv", "--html"];
    let paths = files.map(|option| folder.path(&option[2..]));
    let outputs = files.iter().zip(&paths).flat_map(|(option, path)| [*option, path.as_str()]);
    let arguments: Vec<_> = ["run", target.as_str(), "-w", "0"]
        .into_iter()
        .chain(outputs)
        .chain(arguments.iter().copied())
        .collect();
    let output = loadgen(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{stderr}");
    // Nothing else is left behind.
    assert_eq!(folder.names(), ["csv", "hgrm", "hlog", "html", "json"]);
    (folder, String::from_utf8(output.stdout).unwrap())
}

fn json(folder: &Folder) -> Value {
    serde_json::from_str(&folder.read("json")).unwrap()
}

/// The log's histograms, added up for each tag, and how many there were of each.
pub fn sums(log: &[u8]) -> HashMap<String, (Histogram<u64>, usize)> {
    let mut sums = HashMap::new();
    let mut end = std::time::Duration::ZERO;
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        assert!(interval.start_timestamp() + interval.duration() >= end, "intervals are in order");
        end = interval.start_timestamp();
        let tag = interval.tag().unwrap().as_str().to_owned();
        let part: Histogram<u64> = decode(interval.encoded_histogram());
        let (sum, count) = sums.entry(tag).or_insert_with(|| (Histogram::new(3).unwrap(), 0));
        sum.add(&part).unwrap();
        *count += 1;
    }
    sums
}

fn decode(base64: &str) -> Histogram<u64> {
    let bytes = base64_bytes(base64);
    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap()
}

fn base64_bytes(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let digits = group.iter().map(|digit| DIGITS.iter().position(|known| known == digit).unwrap() as u32);
        let bits = digits.fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// The rows of a CSV, by column.
pub fn rows(csv: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = csv.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let values: Vec<_> = line.split(',').collect();
            assert_eq!(values.len(), columns.len(), "{line}");
            columns.iter().copied().zip(values).collect()
        })
        .collect()
}

fn sum(rows: &[HashMap<&str, &str>], column: &str) -> u64 {
    rows.iter().map(|row| row[column].parse::<u64>().unwrap()).sum()
}

#[test]
fn all_files_of_an_open_loop_say_the_same() {
    let arguments = ["-c", "5", "-r", "2k", "-n", "1000", "--threads", "2", "--arrivals", "poisson"];
    let (folder, _) = run_with_files(&arguments);
    let json = json(&folder);
    assert_eq!(json["requests"], 1000);

    let csv = folder.read("csv");
    let rows = rows(&csv);
    assert_eq!((sum(&rows, "requests"), sum(&rows, "answered")), (1000, 1000));
    assert_eq!((sum(&rows, "errors"), sum(&rows, "lost")), (0, 0));
    let starts: Vec<f64> = rows.iter().map(|row| row["start_s"].parse().unwrap()).collect();
    assert!(starts[0] == 0.0 && starts.is_sorted() && starts.len() > 10, "{starts:?}");

    let sums = sums(folder.read("hlog").as_bytes());
    assert_eq!(sums.len(), 3);
    for (tag, field) in
        [("response", "response_time_us"), ("service", "service_time_us"), ("lag", "send_lag_us")]
    {
        let (times, count) = &sums[tag];
        assert_eq!((times.len(), *count), (1000, rows.len()), "{tag}");
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let us = times.value_at_quantile(quantile) as f64 / 1e3;
            assert_eq!(json[field][name].as_f64().unwrap(), us, "{tag} {name}");
        }
    }

    let hgrm = folder.read("hgrm");
    let lines: Vec<Vec<&str>> = hgrm.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    let steps: Vec<&Vec<&str>> =
        lines[2..].iter().take_while(|line| !line[0].starts_with("#[Mean")).collect();
    let median = steps.iter().find(|step| step[1] == "0.500000000000").unwrap();
    let p50 = json["response_time_us"]["p50"].as_f64().unwrap();
    assert_eq!((median[0], median[3]), (format!("{p50:.3}").as_str(), "2.00"));
    let last = steps.last().unwrap();
    let max = json["response_time_us"]["max"].as_f64().unwrap();
    assert_eq!(last[..], [&format!("{max:.3}"), "1.000000000000", "1000"]);
    assert!(hgrm.contains("Total count    =         1000]"), "{hgrm}");
}

#[test]
fn a_closed_loop_has_service_times_alone() {
    let (folder, table) = run_with_files(&["-c", "3", "-d", "4", "-n", "500"]);
    let json = json(&folder);
    assert!(json["response_time_us"].is_null() && json["send_lag_us"].is_null());
    let csv = folder.read("csv");
    let rows = rows(&csv);
    assert_eq!(sum(&rows, "answered"), 500);
    assert!(rows[0]["response_p50_us"].is_empty() && !rows[0]["service_p50_us"].is_empty(), "{csv}");
    let sums = sums(folder.read("hlog").as_bytes());
    assert_eq!(sums.keys().collect::<Vec<_>>(), ["service"]);
    assert_eq!(sums["service"].0.len(), 500);
    assert!(table.contains("service time") && !table.contains("response time"), "{table}");
    assert!(!table.contains('\x1b'), "no colour where there is no terminal");
}

#[test]
fn the_page_needs_nothing_else_and_has_every_figure() {
    let (folder, _) = run_with_files(&["-r", "1k", "-n", "200"]);
    // Long names may be broken.
    let html = folder.read("html").replace("<wbr>", "");
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    for screen in ["on-wide", "on-phone"] {
        assert_eq!(html.matches(&format!("<svg class=\"{screen}\"")).count(), 3);
    }
    for loading in ["src=", "<script", "<link", "url(", "@import", "http-equiv=refresh"] {
        assert!(!html.contains(loading), "{loading}");
    }
    // The one address is the name of SVG, which nobody loads.
    assert_eq!(html.matches("http://").count(), html.matches("\"http://www.w3.org/2000/svg\"").count());
    for (field, value) in json(&folder).as_object().unwrap() {
        let is_there = |path: &str| html.contains(&format!("<th>{path}</th>"));
        match value {
            Value::Object(parts) => {
                assert!(parts.keys().all(|part| is_there(&format!("{field}.{part}"))), "{field}");
            }
            _ => assert!(is_there(field), "{field}"),
        }
    }
}

#[test]
fn the_documents_name_every_field_of_the_json_and_no_other() {
    let (folder, _) = run_with_files(&["-n", "10"]);
    let page = include_str!("../../docs/loadgen-files.md");
    let (_, schema) = page.split_once("## The JSON").unwrap();
    let (schema, _) = schema.split_once("\n## ").unwrap();
    let documented: BTreeSet<String> = schema
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(" |"))
        .flat_map(|(fields, _)| fields.split([',', '`', ' ']).filter(|field| !field.is_empty()))
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<String> = json(&folder).as_object().unwrap().keys().cloned().collect();
    assert_eq!(there, documented);
}

#[test]
fn a_condition_that_held_is_printed_and_fails_the_run() {
    let target = format!("echo={}", echo_server());
    let run = |conditions: &[&str]| {
        let conditions = conditions.iter().flat_map(|condition| ["--fail-if", condition]);
        let arguments: Vec<_> =
            ["run", &target, "-n", "100", "-w", "0", "--json", "-"].into_iter().chain(conditions).collect();
        let output = loadgen(&arguments);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        // A generator that had too little CPU is invalid, which wins.
        let expected = |code| if json["verdict"] == "invalid" { 3 } else { code };
        let stderr = String::from_utf8(output.stderr).unwrap();
        (json["failed_conditions"].clone(), stderr, output.status.code().unwrap(), expected(0), expected(1))
    };
    let (failed, stderr, code, fine, _) = run(&["p99>1000s", "errors>0", "throughput<0.001"]);
    assert_eq!((failed, code), (Value::Array(vec![]), fine), "{stderr}");
    let (failed, stderr, code, _, fails) = run(&["p50>1ns", "lost>=0", "service_max<1ns"]);
    assert_eq!((&failed[0], &failed[1], &failed[2]), (&"p50>1ns".into(), &"lost>=0".into(), &Value::Null));
    assert_eq!(code, fails, "{stderr}");
    assert!(
        stderr.contains("--fail-if p50>1ns: p50 is ") && stderr.contains("--fail-if lost>=0: lost is 0"),
        "{stderr}"
    );
}

#[test]
fn invalid_wins_over_a_condition_that_held() {
    let target = format!("uppercase={}", echo_server());
    let output = loadgen(&["run", &target, "-n", "10", "-w", "0", "--fail-if", "errors>0"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("--fail-if errors>0: errors is 10") && stderr.contains("INVALID"), "{stderr}");
}

#[test]
fn what_cannot_be_is_told_in_a_line_before_anything_is_started() {
    let folder = Folder::new();
    let (missing, here) = (folder.path("missing/file"), folder.path("file"));
    let is_a_folder = folder.0.to_str().unwrap();
    for (arguments, words) in [
        (&["--fail-if", "p98>2ms"][..], "unknown figure 'p98'"),
        (&["--fail-if", "p99>2"], "is not a time"),
        (&["--fail-if", "cpu>5us"], "needs --pid"),
        (&["--fail-if", "response_p99>1ms"], "needs --rate"),
        (&["--json", &missing], "missing/file"),
        (&["--hgrm", &missing], "missing/file"),
        (&["--hlog", &missing], "missing/file"),
        (&["--csv", &missing], "missing/file"),
        (&["--html", is_a_folder], "directory"),
        (&["--html", &here, "--csv", &here], "have the same file"),
    ] {
        // Nobody listens there: a connection would be another complaint.
        let output = loadgen(&[&["run", "echo=127.0.0.1:1"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(words), "{arguments:?}: {stderr}");
        assert_eq!(folder.names(), Vec::<String>::new(), "{arguments:?}");
    }
}

#[test]
fn a_run_that_fails_leaves_files_as_they_were() {
    let folder = Folder::new();
    fs::write(folder.0.join("csv"), "older").unwrap();
    let (csv, hlog) = (folder.path("csv"), folder.path("hlog"));
    let output = loadgen(&["run", "echo=127.0.0.1:1", "--csv", &csv, "--hlog", &hlog]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(folder.names(), ["csv"]);
    assert_eq!(folder.read("csv"), "older");
}

#[test]
fn what_leads_elsewhere_stays_and_what_is_no_file_is_written_straight() {
    let folder = Folder::new();
    fs::write(folder.0.join("there"), "older").unwrap();
    std::os::unix::fs::symlink("there", folder.0.join("link")).unwrap();
    let target = format!("echo={}", echo_server());
    let link = folder.path("link");
    loadgen(&["run", &target, "-n", "10", "-w", "0", "--csv", &link, "--hgrm", "/dev/null"]);
    assert!(fs::symlink_metadata(folder.0.join("link")).unwrap().is_symlink());
    assert!(folder.read("there").starts_with("start_s,"));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn progress_is_told_in_lines_where_there_is_no_terminal_unless_quiet() {
    let target = format!("echo={}", echo_server());
    let arguments = ["run", &target, "-r", "100", "-t", "6s", "-w", "0", "--json", "-"];
    let told = |output: Output| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        stderr.lines().filter(|line| line.contains("/6 s ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (loud, quiet) = std::thread::scope(|scope| {
        let loud = scope.spawn(|| told(loadgen(&arguments)));
        let quiet = told(loadgen(&[&arguments[..], &["--quiet"]].concat()));
        (loud.join().unwrap(), quiet)
    });
    assert_eq!(quiet, Vec::<String>::new());
    assert!(!loud.is_empty());
    assert!(loud[0].contains("/s  p99 ") && loud[0].contains("0 errors  0 lost"), "{loud:?}");
}

#[test]
fn a_terminal_that_knows_its_width_alone_gets_tables_that_fit() {
    if !crate::skipped::is_installed("script", "bsdutils") {
        return;
    }
    let (loadgen, pid) = (env!("CARGO_BIN_EXE_loadgen"), std::process::id());
    let run = format!("'{loadgen}' run echo={} -r 1k -n 50 -w 0 -q --pid {pid}", echo_server());
    let output = Command::new("script")
        .args(["-qc", &format!("stty rows 0 cols 80; {run} 2>/dev/null"), "/dev/null"])
        .env_remove("COLUMNS")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    // 85 columns where there is room.
    assert!(table.contains("involuntary"), "{table}");
    for line in table.lines() {
        assert!(console::measure_text_width(line.trim_end()) <= 80, "{line:?}");
    }
}
