//! A run that a signal ends early says so in everything that it writes.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::outputs::{Folder, rows};
use super::{Signal, echo_server, loadgen, signal};

/// More than any of them takes to begin, on whichever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts it, and interrupts it once this is so.
fn interrupted(arguments: &[&str], is_time: impl Fn() -> bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + PATIENCE;
    while !is_time() {
        assert!(Instant::now() < until, "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(child.id(), Signal::INT);
    child.wait_with_output().unwrap()
}

/// An echo that counts its requests.
fn counting_echo() -> (String, impl Fn(u64) -> bool) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let received = Arc::<AtomicU64>::default();
    let counter = received.clone();
    let address = super::serve(move |stream| {
        super::copy(stream, |_, bytes| {
            counter.fetch_add(bytes.len() as u64 / 64, Ordering::Relaxed);
        })
    });
    (address, move |count| received.load(Ordering::Relaxed) >= count)
}

#[test]
fn every_format_of_a_run_marks_that_it_was_interrupted() {
    let folder = Folder::new();
    let files = ["json", "hgrm", "hlog", "csv", "html"];
    let paths = files.map(|name| folder.path(name));
    let outputs = files.iter().zip(&paths).flat_map(|(name, path)| [format!("--{name}"), path.clone()]);
    let outputs: Vec<_> = outputs.collect();
    for pace in [&["-r", "1k"][..], &["-d", "2"]] {
        let (address, has_received) = counting_echo();
        let target = format!("echo={address}");
        let mut arguments = vec!["run", &target, "-q", "-w", "0", "-t", "600s"];
        arguments.extend(pace);
        arguments.extend(outputs.iter().map(String::as_str));
        let output = interrupted(&arguments, || has_received(100));
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "{table}");
        assert!(table.contains("INTERRUPTED"), "{table}");
        let json: Value = serde_json::from_str(&folder.read("json")).unwrap();
        assert_eq!(json["interrupted"], true);
        let csv = folder.read("csv");
        let rows = rows(&csv);
        assert!(!rows.is_empty() && rows.iter().all(|row| row["interrupted"] == "1"), "{csv}");
        let hgrm = folder.read("hgrm");
        assert!(hgrm.lines().any(|line| line.starts_with("#[Interrupted")), "{hgrm}");
        let html = folder.read("html");
        assert!(html.contains("INTERRUPTED"), "{html}");
        // Each plot may be copied out of the page.
        for svg in html.split("<svg").skip(1) {
            let (svg, _) = svg.split_once("</svg>").unwrap();
            assert!(svg.contains("interrupted"), "{svg}");
        }
        let hlog = folder.read("hlog");
        assert!(hlog.lines().last().unwrap().contains(r#""interrupted":true"#), "{hlog}");
        // And so does what is made of the log.
        let merged = folder.path("merged");
        let merge = loadgen(&["merge", &paths[2], "--hlog", &merged]);
        let table = String::from_utf8(merge.stdout).unwrap();
        assert!(table.contains("INTERRUPTED"), "{table}");
        let merge = loadgen(&["merge", &paths[2], "--json", "-"]);
        let json: Value = serde_json::from_slice(&merge.stdout).unwrap();
        assert_eq!(json["interrupted"], true, "{json}");
        assert!(folder.read("merged").lines().last().unwrap().contains(r#""interrupted":true"#));
        let page = folder.path("page");
        loadgen(&[
            "merge",
            &paths[2],
            "--html",
            &page,
            "--csv",
            &folder.path("rows"),
            "--hgrm",
            &folder.path("q"),
        ]);
        assert!(folder.read("page").contains("INTERRUPTED"));
        assert!(folder.read("rows").lines().nth(1).unwrap().ends_with(",1"), "{}", folder.read("rows"));
        assert!(folder.read("q").contains("#[Interrupted"));
    }
}

#[test]
fn a_run_that_was_not_interrupted_does_not_say_so() {
    let folder = Folder::new();
    let target = format!("echo={}", echo_server());
    let files = ["hgrm", "hlog", "csv", "html"].map(|name| (format!("--{name}"), folder.path(name)));
    let mut arguments = vec!["run", &target, "-n", "50", "-w", "0"];
    arguments.extend(files.iter().flat_map(|(option, path)| [option.as_str(), path]));
    let output = loadgen(&arguments);
    let table = String::from_utf8(output.stdout).unwrap().to_lowercase();
    assert!(!table.contains("interrupted"), "{table}");
    assert!(!folder.read("hgrm").to_lowercase().contains("interrupted"));
    let csv = folder.read("csv");
    assert!(rows(&csv).iter().all(|row| row["interrupted"] == "0"), "{csv}");
    assert!(folder.read("hlog").contains(r#""interrupted":false"#));
    assert!(!folder.read("html").contains("INTERRUPTED"));
}

#[test]
fn a_sweep_and_a_search_that_are_interrupted_say_so_everywhere() {
    let folder = Folder::new();
    let (address, has_received) = counting_echo();
    let target = format!("echo={address}");
    let [json, csv, html] = ["json", "csv", "html"].map(|name| folder.path(name));
    let common = ["run", &target, "-q", "-c", "1,2", "-w", "0", "-t", "600s"];
    let files = ["--json", &json, "--csv", &csv, "--html", &html];
    let output = interrupted(&[&common[..], &files].concat(), || has_received(10));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("ended by a signal"), "{table}");
    for name in ["json", "html"] {
        assert!(folder.read(name).contains("ended by a signal"), "{name}");
    }
    let text = fs::read_to_string(&csv).unwrap();
    let rows = rows(&text);
    assert!(!rows.is_empty() && rows.iter().all(|row| row["interrupted"] == "1"), "{text}");

    let (address, has_received) = counting_echo();
    let target = format!("echo={address}");
    let arguments = ["search", &target, "-q", "--slo", "p99<1s", "-w", "0", "-t", "600s", "--json", &json];
    let output = interrupted(&arguments, || has_received(10));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("INTERRUPTED"), "{table}");
    assert!(folder.read("json").contains(r#""ended": "signal""#), "{}", folder.read("json"));
}

#[test]
fn what_is_held_and_interrupted_says_so() {
    let folder = Folder::new();
    let (address, has_received) = counting_echo();
    let json = folder.path("json");
    let arguments =
        ["idle", &address, "-q", "-c", "2", "--busy", "1", "-w", "0", "-t", "600s", "--json", &json];
    let output = interrupted(&arguments, || has_received(100));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("INTERRUPTED"), "{table}");
    assert!(folder.read("json").contains(r#""interrupted": true"#), "{}", folder.read("json"));
}
