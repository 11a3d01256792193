//! Servers side by side: what is measured of them, and what is told when that cannot be.

#![allow(clippy::unwrap_used, reason = "a test's servers have nobody to report to but the test")]

#[path = "../../../tests/harness/browser.rs"]
mod browser;
#[path = "../../../tests/harness/skipped.rs"]
mod skipped;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::{fs, thread};

use serde_json::Value;
use tempfile::TempDir;

fn versus(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_versus")).args(arguments).output().unwrap()
}

fn complaint(arguments: &[&str], exit_code: i32) -> String {
    let output = versus(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    stderr
}

/// A path in a folder, as an argument.
fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// Reads until the peer ends, and writes what it has read with some of its bits flipped.
fn echo(mut stream: TcpStream, mask: u8) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        buffer[0] ^= mask;
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// What these tests put side by side: this very program, which echoes, and flips a bit if it is told to.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn an_echo_server_that_says_where_it_listens() {
    let Some(how) = std::env::var_os("LOADGEN_TEST_VERSUS") else { return };
    let mask = u8::from(how == "wrong");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening echo tcp://{}\nready", listener.local_addr().unwrap());
    // The first one only sees whether it serves.
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        thread::spawn(move || echo(stream, if number > 0 { mask } else { 0 }));
    }
}

/// As `--server` takes it.
fn server(name: &str, how: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "an_echo_server_that_says_where_it_listens";
    format!(
        "--server={name}=env LOADGEN_TEST_VERSUS={how} '{}' --exact {test} --ignored --nocapture",
        program.display()
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn two_servers_are_measured_on_the_same_work() {
    let folder = TempDir::new().unwrap();
    let [json, markdown, html] = ["json", "md", "page.html"].map(|name| path(&folder, name));
    let servers = [server("one", "right"), server("other", "right")];
    let output = versus(&[
        "--quick",
        "-q",
        "--case",
        "50",
        &servers[0],
        &servers[1],
        "--only",
        "one",
        "--only",
        "other",
        "--json",
        &json,
        "--markdown",
        &markdown,
        "--html",
        &html,
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");

    let compared: Value = serde_json::from_str(&read(path(&folder, "json"))).unwrap();
    assert!(compared["conditions"]["is_quick"].as_bool().unwrap() && compared["ended_early"].is_null());
    let case = &compared["cases"][0];
    assert_eq!((&case["case"], &case["reference"]), (&"50".into(), &"one".into()));
    let rows = case["servers"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "other"]);
    for row in rows {
        for key in ["throughput_per_s", "p50_us", "p99_us", "p999_us", "server_cpu_ns"] {
            let figure = &row["figures"][key];
            assert_eq!(figure["values"].as_array().unwrap().len(), 3, "a slice in each round: {figure}");
            let [low, median, high] = ["low95", "median", "high95"].map(|name| number(&figure[name]));
            assert!(0.0 < low && low <= median && median <= high, "{key}: {figure}");
        }
        // A thread for each connection takes memory. A page each, at least.
        let memory = &row["figures"]["idle_connection_bytes"];
        assert!(number(&memory["median"]) > 4096.0, "{memory}");
    }
    // The first beside itself is 1, in every round.
    for row in rows {
        let throughput = |row: &Value| {
            let values = row["figures"]["throughput_per_s"]["values"].as_array().unwrap();
            values.iter().map(number).collect::<Vec<_>>()
        };
        let mut ratios: Vec<f64> =
            throughput(row).iter().zip(throughput(&rows[0])).map(|(own, first)| own / first).collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = number(&row["figures"]["throughput_per_s"]["ratio"]["median"]);
        assert!((ratio - ratios[1]).abs() < 1e-9, "{ratio} {ratios:?}");
    }

    let table = String::from_utf8(output.stdout).unwrap();
    for text in [&table, &read(path(&folder, "md")), &read(&html)] {
        for words in ["other", "server CPU", "the figures are not meaningful", "50 connections"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    if skipped::is_installed("chromium", "chromium") {
        let seen = browser::Browser::start().look_at(&html);
        assert!(seen.faults.is_empty() && seen.plots == 1, "{}", seen.faults.join("\n"));
    }
}

#[test]
fn one_wrong_reply_ends_it() {
    let folder = TempDir::new().unwrap();
    let servers = [server("right", "right"), server("wrong", "wrong")];
    let only = ["--only", "right", "--only", "wrong", "--json", &path(&folder, "json")];
    let told =
        complaint(&[&["--quick", "-q", "--case", "1", &servers[0], &servers[1]], &only[..]].concat(), 3);
    assert!(told.contains("wrong: ") && told.contains("of its replies is 0x"), "{told}");
    let compared: Value = serde_json::from_str(&read(path(&folder, "json"))).unwrap();
    assert!(compared["ended_early"].as_str().is_some_and(|words| words.contains("wrong")), "{compared}");
}

#[test]
fn what_cannot_be_is_told_in_a_line() {
    let silent = "--server=silent=sh -c 'echo ready; sleep 600'";
    let gone = "--server=gone=sh -c 'exit 7'";
    for (arguments, exit_code, told) in [
        (&["--only", "nobody"][..], 2, "the servers are asio, "),
        (&["--peers", "/"], 2, "no floor.c"),
        (&["--rounds", "2"], 2, "--rounds"),
        (&["--case", "7"], 2, "--case"),
        (&["--quick", "--rounds", "5"], 2, "--quick"),
        (&["--server", "floor=true"], 2, "another server has this name"),
        (&["--server", "mine"], 2, "NAME=COMMAND"),
        (&[silent, "--only", "silent", "--case", "1"], 3, "listening echo tcp://"),
        (&[gone, "--only", "gone", "--case", "1"], 3, "exit status: 7"),
    ] {
        let told_here = complaint(&[&["-q"], arguments].concat(), exit_code);
        assert!(told_here.contains(told), "{arguments:?}: {told_here}");
    }
}

#[test]
fn a_server_that_says_ready_before_it_is_is_waited_for() {
    let program = std::env::current_exe().unwrap();
    let name = "a_server_that_says_that_it_is_ready";
    let command =
        format!("LOADGEN_TEST_READY=1 '{}' --exact {name} --ignored --nocapture", program.display());
    let output = versus(&[
        "--quick",
        "-q",
        "--case",
        "1",
        "--only",
        "one",
        "--json",
        "-",
        "--server",
        &format!("one={command}"),
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(compared["ended_early"].is_null(), "{compared}");
}

/// It says so before it is.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn a_server_that_says_that_it_is_ready() {
    if std::env::var_os("LOADGEN_TEST_READY").is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening echo tcp://{}\nready", listener.local_addr().unwrap());
    for stream in listener.incoming().skip(3) {
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        std::thread::spawn(move || echo(stream, 0));
    }
}

#[test]
fn every_output_takes_standard_output() {
    let servers = server("one", "right");
    for (option, begins) in [("--json", "{"), ("--markdown", ""), ("--html", "<!doctype html>")] {
        let output = versus(&["--quick", "--case", "1", &servers, "--only", "one", option, "-"]);
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{option}");
        assert!(out.starts_with(begins), "{option}: {out}");
        match option {
            "--json" => drop(serde_json::from_str::<Value>(&out).unwrap()),
            "--markdown" => assert!(out.contains("|--"), "{out}"),
            _ => assert!(out.trim_end().ends_with("</html>"), "{out}"),
        }
    }
}
