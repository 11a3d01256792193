//! What `loadgen compare` counts: of a server that makes one needless system call and one needless allocation for each
//! request, both are found and named.

use std::hint::black_box;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use super::{copy, loadgen};

/// What is compared: this very program, which echoes.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn an_echo_server_that_may_do_more_than_it_needs() {
    let Some(port) = std::env::var_os("LOADGEN_TEST_EXACT_PORT") else { return };
    let port: u16 = port.to_str().unwrap().parse().unwrap();
    let is_needless = std::env::var_os("LOADGEN_TEST_EXACT").is_some_and(|how| how == "needless");
    // One after the other, on one thread: all that it does is the same each time.
    for stream in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming() {
        copy(stream.unwrap(), |_, _| {
            if is_needless {
                needless_work();
            }
        });
    }
}

#[inline(never)]
fn needless_work() {
    black_box(vec![0_u8; black_box(64)]);
    black_box(std::os::unix::process::parent_id());
}

fn server(how: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "exact::an_echo_server_that_may_do_more_than_it_needs";
    format!(
        "env LOADGEN_TEST_EXACT={how} LOADGEN_TEST_EXACT_PORT={{port}} '{}' --exact {test} --ignored --nocapture",
        program.display()
    )
}

/// The findings by metric, and the whole case. None where this system has no valgrind or no strace, or forbids to trace.
fn compared(head: &str, exit_code: i32) -> Option<(impl Fn(&str) -> Value, Value)> {
    let metrics = "instructions,syscalls,allocations";
    let (base, head) = (server("plain"), server(head));
    let output = loadgen(&[
        "compare",
        "-q",
        "--base",
        &base,
        "--head",
        &head,
        "--metric",
        metrics,
        "--profile",
        "--json",
        "-",
        "--timeout",
        "60s",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let case = json["cases"][0].clone();
    if case["notes"].as_array().is_some_and(|notes| !notes.is_empty()) {
        let notes = case["notes"].to_string();
        assert!(notes.contains("is not installed") || notes.contains("does not permit tracing"), "{notes}");
        let package = if notes.contains("valgrind") { "valgrind" } else { "strace" };
        crate::skipped::skip(&format!("needs {package}, and that it may trace: apt-get install {package}"));
        return None;
    }
    assert_eq!(output.status.code(), Some(exit_code), "{json}");
    let findings = case["findings"].as_array().unwrap().clone();
    let finding = move |metric: &str| {
        let found = findings.iter().find(|finding| finding["metric"] == metric);
        found.unwrap_or_else(|| panic!("{metric}: {findings:?}")).clone()
    };
    Some((finding, case))
}

#[track_caller]
fn assert_count(value: &Value, expected: f64) {
    assert!(
        value.as_f64().is_some_and(|count| (count - expected).abs() < 0.005),
        "{value} is not {expected}"
    );
}

#[test]
fn needless_work_is_found_and_named() {
    let Some((finding, case)) = compared("needless", 1) else { return };
    let calls = finding("syscalls");
    assert_eq!(calls["outcome"], "FAIL");
    assert_count(&calls["base"], 2.0);
    assert_count(&calls["head"], 3.0);
    let why = calls["why"].as_str().unwrap();
    assert!(why.contains("system calls that appeared: getppid 1.00 per request"), "{why}");
    let allocations = finding("allocations");
    assert_eq!(allocations["outcome"], "FAIL");
    // Its reply takes one.
    assert_count(&allocations["base"], 1.0);
    assert_count(&allocations["head"], 2.0);
    assert_eq!(finding("instructions")["outcome"], "FAIL");

    let culprit = &case["culprit"];
    assert_eq!(culprit["system_calls"][0]["name"], "getppid");
    let functions = culprit["functions"].as_array().unwrap();
    let is_needless =
        |function: &&Value| function["name"].as_str().is_some_and(|name| name.contains("needless_work"));
    let needless = functions.iter().find(is_needless).unwrap_or_else(|| panic!("{functions:?}"));
    assert_count(&needless["base"], 0.0);
    assert!(needless["head"].as_f64().unwrap() > 1.0, "{needless}");
}

#[test]
fn a_server_is_no_worse_than_itself() {
    // What may differ is where it runs and how often, and none of that is counted.
    let Some((finding, _)) = compared("plain", 0) else { return };
    for metric in ["instructions", "syscalls", "allocations"] {
        assert_eq!(finding(metric)["outcome"], "PASS", "{}", finding(metric));
    }
}

#[test]
fn what_cannot_be_counted_is_noted() {
    let (base, head) = (server("plain"), server("plain"));
    // env is needed to start the server, and has a path of its own.
    let [base, head] = [base, head].map(|command| command.replacen("env", "/usr/bin/env", 1));
    let arguments =
        ["compare", "-q", "--base", &base, "--head", &head, "--metric", "instructions", "--json", "-"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).env("PATH", "/nowhere").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let case = &json["cases"][0];
    assert!(case["notes"][0].as_str().is_some_and(|note| note.contains("apt install valgrind")), "{case}");
    assert_eq!(case["findings"].as_array().map(Vec::len), Some(0), "{case}");
    assert_ne!(output.status.code(), Some(0), "nothing was compared");
}
