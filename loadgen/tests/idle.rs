//! Connections that are held: beside busy ones, and against servers that close some of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::Value;

use super::{Signal, complaint, copy, echo_server, loadgen, serve, signal};

/// Runs with the JSON on standard output, and returns the exit code with it.
fn idle(target: &str, arguments: &[&str]) -> (i32, Value) {
    parsed(&loadgen(&[&["idle", target, "-q", "--json", "-"], arguments].concat()))
}

fn parsed(output: &Output) -> (i32, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).expect(&stderr))
}

/// As `idle` does, up to the moment when all connections are held.
fn holding(target: &str, arguments: &[&str], json: &std::path::Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["idle", target, "-q", "--json", json.to_str().unwrap()])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("holding "), "{line}");
    child
}

/// The counts of a kind: held and closed.
fn counts(result: &Value, kind: &str) -> (u64, u64) {
    let of = |name: &str| result[kind][name].as_u64().unwrap();
    (of("held"), of("closed"))
}

/// When the first and the last of a kind were closed.
fn closed_s(result: &Value, kind: &str) -> (f64, f64) {
    let of = |name: &str| result[kind][name].as_f64().unwrap();
    (of("first_closed_s"), of("last_closed_s"))
}

/// Answers lines. It closes a connection whose next byte takes too long, within a line or between lines.
fn impatient_server(byte_timeout: Duration, idle_timeout: Option<Duration>) -> String {
    serve(move |mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            let timeout = if line.is_empty() { idle_timeout } else { Some(byte_timeout) };
            stream.set_read_timeout(timeout).unwrap();
            match stream.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                _ => return,
            }
            if byte == *b"\n" {
                if stream.write_all(&line).is_err() {
                    return;
                }
                line.clear();
            }
        }
    })
}

#[test]
fn each_kind_is_what_its_name_says() {
    // What each connection has sent, once it has ended.
    let (ended, all) = channel::<Vec<u8>>();
    let ended = Mutex::new(ended);
    let address = serve(move |stream| {
        let ended = ended.lock().unwrap().clone();
        let mut received = Vec::new();
        copy(stream, |_, bytes| received.extend_from_slice(bytes));
        let _ = ended.send(received);
    });
    let arguments =
        ["-c", "12", "--slow", "4", "--slow-interval", "10ms", "--stopped", "3", "--hold", "300ms"];
    let (code, result) = idle(&address, &arguments);
    assert_eq!(code, 0, "{result}");
    let kinds = ["idle", "slow", "stopped"].map(|kind| counts(&result, kind));
    assert_eq!(kinds, [(5, 0), (4, 0), (3, 0)]);
    let received: Vec<_> = all.iter().take(12).collect();
    let of = |is: &dyn Fn(&[u8]) -> bool| received.iter().filter(|bytes| is(bytes)).count();
    assert_eq!(of(&|bytes| bytes == b"hello\n"), 5);
    assert_eq!(of(&|bytes| bytes.iter().all(|&byte| byte == b'a')), 4);
    assert_eq!(of(&|bytes| bytes.len() > 1000 && bytes.starts_with(b"hello\nhello\n")), 3);
    let slow = received.iter().filter(|bytes| bytes.starts_with(b"a"));
    let sent: u64 = slow.map(|bytes| bytes.len() as u64).sum();
    assert!(sent >= 4 && result["slow"]["sent_bytes"] == sent, "{sent} {result}");
    assert!(result["alone"].is_null() && result["beside"].is_null() && result["memory"].is_null());
}

#[test]
fn slow_requests_come_byte_by_byte() {
    for (service, arguments, due) in [
        ("http", &["--path", "/a"][..], &b"GET /a HTTP/1.1\r\nHost: "[..]),
        ("custom", &["--send", "PING {conn}\\r\\n", "--expect", "+PONG\\r\\n"], b"PING 0\r"),
        ("greeting", &[], b"aaa"),
        ("uppercase", &[], b"aaa"),
    ] {
        let (pieces, received) = channel::<Vec<u8>>();
        let pieces = Mutex::new(pieces);
        let address = serve(move |mut stream| {
            // Once all has come it closes, and so ends what is the only connection.
            let mut bytes = vec![0; due.len()];
            stream.read_exact(&mut bytes).unwrap();
            pieces.lock().unwrap().send(bytes).unwrap();
        });
        let kinds = ["-c", "1", "--slow", "1", "--slow-interval", "1ms", "--hold", "10m"];
        let (code, result) = idle(&format!("{service}={address}"), &[&kinds, arguments].concat());
        assert_eq!((code, counts(&result, "slow")), (0, (1, 1)), "{result}");
        let received = received.recv().unwrap();
        assert_eq!(received.escape_ascii().to_string(), due.escape_ascii().to_string());
        assert!(result["slow"]["sent_bytes"].as_u64().unwrap() >= due.len() as u64, "{result}");
    }
}

#[test]
fn closing_slow_ones_is_no_failure_and_is_timed() {
    // A byte each 400 ms is too slow for it.
    let address = impatient_server(Duration::from_millis(100), None);
    let arguments = ["-c", "5", "--slow", "5", "--slow-interval", "400ms", "--hold", "10m"];
    let (code, result) = idle(&address, &arguments);
    assert_eq!(code, 0, "{result}");
    assert_eq!([counts(&result, "idle"), counts(&result, "slow")], [(0, 0), (5, 5)], "{result}");
    let (first, last) = closed_s(&result, "slow");
    // Each gets its first byte a fifth of the interval after the one before it.
    assert!(first >= 0.1 && last >= 0.1 + 4.0 * 0.08 - 0.01 && first < last, "{result}");
    assert!(result["idle"]["first_closed_s"].is_null());
}

#[test]
fn silent_ones_that_are_closed_are_a_failure_unless_they_may_be() {
    let address = impatient_server(Duration::from_secs(60), Some(Duration::from_millis(100)));
    // It ends with the last of them.
    let arguments = ["-c", "6", "--hold", "10m"];
    let (code, result) = idle(&address, &arguments);
    assert_eq!((code, &result["verdict"], &result["limiter"]), (3, &"invalid".into(), &"peer closed".into()));
    assert_eq!(counts(&result, "idle"), (6, 6));
    let (first, last) = closed_s(&result, "idle");
    assert!(0.1 <= first && first <= last, "{result}");
    let told = complaint(&[&["idle", &address], &arguments[..]].concat(), 3);
    assert!(told.contains("closed 6 of 6"), "{told}");

    let (code, result) = idle(&address, &[&arguments[..], &["--may-close"]].concat());
    assert_eq!((code, &result["verdict"], counts(&result, "idle")), (0, &"valid".into(), (6, 6)));
}

#[test]
fn a_server_that_never_reads_fills_the_sockets() {
    let (keep, kept) = channel();
    let address = never_read(keep);
    let arguments = ["-c", "3", "--stopped", "3", "--hold", "10ms"];
    let (code, result) = idle(&address, &arguments);
    assert_eq!((code, &result["stopped"]["blocked"]), (0, &3.into()), "{result}");
    assert_eq!(kept.iter().take(3).count(), 3);
    // The others are given up at their first exchange.
    let told = complaint(&["idle", &address, "-c", "2", "--timeout", "100ms"], 3);
    assert!(told.contains("connections 1 to 2") && told.contains("no reply within 100ms"), "{told}");
}

/// A server that accepts, and leaves the connections to somebody else.
fn never_read(accepted: Sender<TcpStream>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            accepted.send(stream.unwrap()).unwrap();
        }
    });
    address
}

#[test]
fn stopped_ones_that_are_closed_are_counted_as_such() {
    let folder = std::env::temp_dir().join(format!("loadgen-idle-stopped-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let json = folder.join("result.json");
    let (keep, kept): (_, Receiver<TcpStream>) = channel();
    let address = never_read(keep);
    let child = holding(&address, &["-c", "4", "--stopped", "4", "--hold", "10m"], &json);
    // There is much that it has not read, so they are reset. With the last of them it is over.
    kept.iter().take(4).for_each(drop);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((counts(&result, "stopped"), &result["stopped"]["blocked"]), ((4, 4), &0.into()), "{result}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn busy_ones_are_measured_alone_and_beside() {
    let pid = std::process::id().to_string();
    let address = echo_server();
    for (arguments, times, depth) in [
        (&["-d", "2", "-n", "2000"][..], "service_time_us", Value::from(2)),
        (&["-r", "1k", "-t", "300ms", "--threads", "2"], "response_time_us", Value::Null),
    ] {
        let common =
            ["-c", "20", "--slow", "5", "--stopped", "2", "--busy", "3", "-w", "0", "--rest", "50ms"];
        let (code, result) = idle(&address, &[&common, arguments, &["--pid", &pid]].concat());
        // The tests share their processors: the generator may have had too little of them.
        let is_fine = (code, &result["limiter"]) == (0, &Value::Null);
        assert!(is_fine || (code, &result["limiter"]) == (3, &"generator's CPU".into()), "{result}");
        assert_eq!(
            ["idle", "slow", "stopped"].map(|kind| counts(&result, kind)),
            [(13, 0), (5, 0), (2, 0)],
            "{result}"
        );
        let number = |path: &str| result.pointer(path).and_then(Value::as_f64).expect(path);
        for name in ["alone", "beside"] {
            assert_eq!((&result[name]["connections"], &result[name]["depth"]), (&3.into(), &depth));
            assert_eq!((&result[name]["errors"], &result[name]["lost"]), (&0.into(), &0.into()));
        }
        for (ratio, of) in [
            ("p50", format!("{times}/p50")),
            ("p99", format!("{times}/p99")),
            ("throughput", "throughput_per_s".into()),
            ("server_cpu_per_request", "server_cpu_ns_per_request".into()),
        ] {
            let due = number(&format!("/beside/{of}")) / number(&format!("/alone/{of}"));
            assert!((number(&format!("/ratios/{ratio}")) - due).abs() < 1e-9, "{ratio}");
        }
        for path in ["/memory/before_bytes", "/memory/with_idle_bytes", "/memory/with_held_bytes"] {
            assert!(number(path) > 0.0);
        }
        let each = (number("/memory/with_idle_bytes") - number("/memory/before_bytes")) / 13.0;
        assert!((number("/memory/bytes_per_idle_connection") - each).abs() < 1e-6);
        assert!(number("/at_rest/elapsed_s") >= 0.05 && number("/at_rest/server_cpu_share") >= 0.0);
        assert!(number("/beside/elapsed_s") <= number("/held_s"));
    }
}

#[test]
fn the_server_at_rest_is_looked_at_while_nothing_else_is_held() {
    let pid = std::process::id().to_string();
    let (code, result) = idle(&echo_server(), &["-c", "5", "--hold", "100ms", "--pid", &pid]);
    assert_eq!(code, 0);
    assert!(result["at_rest"]["elapsed_s"].as_f64().unwrap() >= 0.1, "{result}");
    assert!(result["memory"]["bytes_per_connection"].is_number(), "{result}");
}

#[test]
fn tables_pages_and_conditions() {
    let folder = std::env::temp_dir().join(format!("loadgen-idle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (json, html, hlog) = (path("result.json"), path("result.html"), path("result.hlog"));
    let address = echo_server();
    let output = loadgen(&[
        "idle",
        &address,
        "-c",
        "9",
        "--slow",
        "2",
        "--busy",
        "2",
        "-n",
        "500",
        "-w",
        "0",
        "--json",
        &json,
        "--html",
        &html,
        "--hlog",
        &hlog,
        "--fail-if",
        "throughput>0",
    ]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let due = if result["verdict"] == "valid" { 1 } else { 3 };
    assert_eq!(output.status.code(), Some(due), "{stderr}");
    assert!(stderr.contains("failed: --fail-if throughput>0: throughput is "), "{stderr}");
    assert_eq!(result["failed_conditions"], serde_json::json!(["throughput>0"]));
    let table = String::from_utf8(output.stdout).unwrap();
    let (first, table) = table.split_once('\n').unwrap();
    assert_eq!(first, "holding 9");
    for words in
        ["7 held, 0 closed", "2 held, 0 closed", "alone", "beside", "500 in", "not known without --pid"]
    {
        assert!(table.contains(words), "{words}: {table}");
    }
    let page = std::fs::read_to_string(&html).unwrap().replace("<wbr>", "");
    for words in ["beside those held", "<svg", "beside.throughput_per_s", "7 held, 0 closed"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(std::fs::read_to_string(&hlog).unwrap().contains("Tag=service"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_signal_ends_it_with_what_there_is() {
    let folder = std::env::temp_dir().join(format!("loadgen-idle-signal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let json = folder.join("result.json");
    let child = holding(&echo_server(), &["-c", "7", "--stopped", "1", "--hold", "10m"], &json);
    signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&result["interrupted"], counts(&result, "idle")), (&true.into(), (6, 0)), "{result}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn bytes_that_a_silent_connection_did_not_ask_for_are_told() {
    let folder = std::env::temp_dir().join(format!("loadgen-idle-unasked-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (accepted, streams) = channel();
    let address = serve(move |mut stream| {
        let mut line = [0; 6];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&line).unwrap();
        accepted.send(stream).unwrap();
    });
    let child = holding(&address, &["-c", "1", "--hold", "10m"], &folder.join("result.json"));
    let mut stream = streams.recv().unwrap();
    stream.write_all(b"!").unwrap();
    signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("wrong replies") && told.contains("1 byte received without a request"), "{told}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_cannot_be_held_is_bad_usage() {
    for (arguments, words) in [
        (&["udp://127.0.0.1:1"][..], "datagrams have none"),
        (&["chat=127.0.0.1:1"], "idle holds connections to echo"),
        (&["127.0.0.1:1", "-c", "5", "--slow", "3", "--stopped", "3"], "6, but there are 5 connections"),
        (&["127.0.0.1:1", "--html", "x.html"], "--busy"),
        (&["127.0.0.1:1", "-t", "1s"], "--busy"),
        (&["127.0.0.1:1", "--rate", "5"], "--busy"),
        (&["127.0.0.1:1", "--busy", "1", "--hold", "5s"], "--hold"),
        (&["127.0.0.1:1", "--busy", "1", "--fail-if", "cpu>1us"], "--pid"),
    ] {
        let told = complaint(&[&["idle"], arguments].concat(), 2);
        assert!(told.contains(words), "{told}");
    }
}
