//! `loadgen compare`, of servers that loadgen brings along: an echo that counts to a number for each request.

use serde_json::Value;

use super::{complaint, loadgen};

/// So far that a request takes much longer.
const SLOW: u64 = 5_000;

fn server(counts: u64) -> String {
    format!("'{}' be-the-slowed-server {{port}} {counts}", env!("CARGO_BIN_EXE_loadgen"))
}

/// Compares the two; returns the exit code and the JSON.
fn compared(base: u64, head: u64, arguments: &[&str]) -> (i32, Value) {
    let (base, head) = (server(base), server(head));
    let common = ["compare", "-c", "4", "-q", "--base", &base, "--head", &head, "--json", "-"];
    let budget = if arguments.contains(&"--budget") { &[][..] } else { &["--budget", "15s"] };
    let output = loadgen(&[&common, budget, arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    (output.status.code().unwrap(), json)
}

#[test]
fn what_is_much_slower_fails() {
    let (code, json) = compared(0, SLOW, &["--metric", "cpu,p50"]);
    let case = &json["cases"][0];
    let findings = case["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 2, "{json}");
    for finding in findings {
        assert!(finding["change"].as_f64().unwrap() > 0.2, "{finding}");
        // The tests share their processors: loadgen may say that it had too little of them, and nothing else.
        match finding["outcome"].as_str().unwrap() {
            "FAIL" => assert!(finding["low"].as_f64().unwrap() > 0.0, "{finding}"),
            "UNRELIABLE" | "INCONCLUSIVE" => assert!(!finding["why"].is_null(), "{finding}"),
            other => panic!("{other}: {finding}"),
        }
    }
    assert!(matches!(
        (json["outcome"].as_str(), code),
        (Some("FAIL"), 1) | (Some("UNRELIABLE"), 3) | (Some("INCONCLUSIVE"), 4)
    ));
    assert_eq!(json["exit_code"], code);
    // Every slice is there: of four servers, in twenty rounds of each life.
    let lives = case["slices"].as_array().unwrap();
    assert_eq!(case["lives"], lives.len());
    for life in lives {
        let rounds = life["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 20);
        assert!(rounds.iter().all(|round| round["slices"].as_array().unwrap().len() == 4));
    }
}

#[test]
fn what_is_faster_does_not_fail() {
    let (code, json) = compared(SLOW, 0, &["--metric", "cpu"]);
    let finding = &json["cases"][0]["findings"][0];
    assert!(finding["change"].as_f64().unwrap() < 0.0, "{finding}");
    assert!(matches!(code, 0 | 3 | 4), "{json}");
}

#[test]
fn a_time_that_is_too_short_is_told() {
    // One life, of which there is no interval, and two bounds that nothing is within.
    let arguments = ["--metric", "cpu", "--budget", "1ms", "--margin", "0.0001%", "--floor", "99%"];
    let (code, json) = compared(0, 0, &arguments);
    assert!(matches!(code, 3 | 4), "{json}");
    assert!(matches!(json["outcome"].as_str(), Some("INCONCLUSIVE" | "UNRELIABLE")), "{json}");
}

#[test]
fn files_have_what_the_table_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, markdown, html, history) = (path("a.json"), path("a.md"), path("a.html"), path("a.jsonl"));
    let (base, head) = (server(0), server(SLOW));
    let output = loadgen(&[
        "compare",
        "-c",
        "4",
        "-q",
        "--base",
        &base,
        "--head",
        &head,
        "--metric",
        "cpu",
        "--budget",
        "30s",
        "--json",
        &json,
        "--markdown",
        &markdown,
        "--html",
        &html,
        "--history",
        &history,
    ]);
    let table = String::from_utf8(output.stdout).unwrap();
    let read = |path| std::fs::read_to_string(path).unwrap();
    let result: Value = serde_json::from_str(&read(&json)).unwrap();
    let outcome = result["outcome"].as_str().unwrap();
    assert!(
        table.contains("echo, 4 connections, 64 B") && table.contains(&format!("{outcome}: cpu of echo")),
        "{table}"
    );
    assert!(read(&markdown).starts_with(&format!("**{outcome}: cpu of echo")), "{}", read(&markdown));
    assert!(read(&html).contains("<svg"));
    let line: Value = serde_json::from_str(read(&history).lines().next().unwrap()).unwrap();
    assert_eq!((line["metric"].as_str(), line["outcome"].as_str()), (Some("cpu"), Some(outcome)));
}

#[test]
fn mistakes_are_told_before_anything_is_started() {
    for (arguments, words) in [
        (&["compare"][..], "--base COMMAND and --head COMMAND, or --base-rev REV"),
        (&["compare", "--base", "a {port}"], "or --base-rev REV"),
        (&["compare", "--base", "a", "--head", "b {port}"], "has no {port}"),
        (&["compare", "echo=127.0.0.1:7007", "--base", "a", "--head", "b"], "write {port}"),
        (&["compare", "talk", "--base", "a {port}", "--head", "b {port}"], "unknown service"),
        (&["compare", "--base", "a {port}", "--head", "b {port}", "--margin", "2"], "needs a unit"),
        (&["compare", "--base", "a {port}", "--head", "b {port}", "--pid", "1"], "starts the servers itself"),
        (
            &["compare", "--base", "a {port}", "--head", "b {port}", "--html", "/nowhere/a.html"],
            "/nowhere/a.html",
        ),
        (&["compare", "--calibrate", "--base", "a {port}"], "cannot be used with"),
    ] {
        let told = complaint(arguments, 2);
        assert!(told.contains(words) && told.lines().count() == 1, "{arguments:?}: {told}");
    }
}

#[test]
fn a_server_that_does_not_come_up_is_told() {
    let told = complaint(
        &["compare", "--metric", "cpu", "-q", "--base", "false {port}", "--head", "false {port}"],
        3,
    );
    assert!(told.contains("did not come up") && told.contains("exit status: 1"), "{told}");
}
