//! Servers side by side: what is measured of them, and what is told when that cannot be.

use std::net::TcpListener;
use std::thread;

use serde_json::Value;

use super::outputs::Folder;
use super::{complaint, copy, loadgen};

/// What these tests put side by side: this very program, which echoes, and flips a bit if it is told to.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn an_echo_server_that_says_where_it_listens() {
    let Some(how) = std::env::var_os("LOADGEN_TEST_VERSUS") else { return };
    let mask = u8::from(how == "wrong");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nlistening echo tcp://{}\nready", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        thread::spawn(move || copy(stream, |_, bytes| bytes[0] ^= mask));
    }
}

/// As `--server` takes it.
pub fn server(name: &str, how: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "versus::an_echo_server_that_says_where_it_listens";
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
    let folder = Folder::new();
    let [json, markdown, html] = ["json", "md", "html"].map(|name| folder.path(name));
    let servers = [server("one", "right"), server("other", "right")];
    let output = loadgen(&[
        "versus",
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

    let compared: Value = serde_json::from_str(&folder.read("json")).unwrap();
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
    for text in [&table, &folder.read("md"), &folder.read("html")] {
        for words in ["other", "server CPU", "the figures mean nothing", "50 connections"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    assert!(folder.read("html").contains("<svg"));
}

#[test]
fn one_wrong_reply_ends_it() {
    let folder = Folder::new();
    let servers = [server("right", "right"), server("wrong", "wrong")];
    let only = ["--only", "right", "--only", "wrong", "--json", &folder.path("json")];
    let told = complaint(
        &[&["versus", "--quick", "-q", "--case", "1", &servers[0], &servers[1]], &only[..]].concat(),
        3,
    );
    assert!(told.contains("wrong: ") && told.contains("of its replies is 0x"), "{told}");
    let compared: Value = serde_json::from_str(&folder.read("json")).unwrap();
    assert!(compared["ended_early"].as_str().is_some_and(|words| words.contains("wrong")), "{compared}");
}

#[test]
fn what_cannot_be_is_told_in_a_line() {
    let silent = "--server=silent=sh -c 'echo ready; sleep 600'";
    let gone = "--server=gone=sh -c 'exit 7'";
    for (arguments, exit_code, told) in [
        (&["--only", "nobody"][..], 2, "there are asio, "),
        (&["--peers", "/"], 2, "no floor.c"),
        (&["--rounds", "2"], 2, "--rounds"),
        (&["--case", "7"], 2, "--case"),
        (&["--quick", "--rounds", "5"], 2, "--quick"),
        (&["--server", "floor=true"], 2, "another server has this name"),
        (&["--server", "mine"], 2, "NAME=COMMAND"),
        (&[silent, "--only", "silent", "--case", "1"], 3, "listening echo tcp://"),
        (&[gone, "--only", "gone", "--case", "1"], 3, "exit status: 7"),
    ] {
        let told_here = complaint(&[&["versus", "-q"], arguments].concat(), exit_code);
        assert!(told_here.contains(told), "{arguments:?}: {told_here}");
    }
}
