//! The program as it is used: run against small blocking servers that answer right, and wrong in one way each.

#![allow(clippy::unwrap_used, reason = "a test's servers have nobody to report to but the test")]

mod background;
mod chat;
mod churn;
mod compare;
mod datagrams;
mod dialects;
mod embedded;
mod exact;
mod history;
mod idle;
mod interrupted;
mod losses;
mod merge;
mod output_places;
mod outputs;
mod pages;
mod readiness;
mod revisions;
mod search;
mod services;
mod standard_streams;
mod sweep;
mod syscalls;

#[path = "../../tests/harness/skipped.rs"]
mod skipped;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// A server of one thread per connection; returns its HOST:PORT. Its threads end with the test program.
fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

/// Reads until the peer ends or resets, and writes what `change` makes of the bytes, given their offset.
fn copy(mut stream: impl Read + Write, mut change: impl FnMut(u64, &mut Vec<u8>)) {
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut reply = buffer[..read].to_vec();
        change(offset, &mut reply);
        offset += read as u64;
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

fn echo_server() -> String {
    serve(|stream| copy(stream, |_, _| {}))
}

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap()
}

/// Sends a signal to a process that has not been waited for.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Runs without warm-up and returns the JSON. The tests share their processors, so the generator may say that it had
/// too little of them, and nothing else.
fn measure(target: &str, arguments: &[&str]) -> serde_json::Value {
    let output = loadgen(&[&["run", target, "-w", "0", "--json", "-"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&stderr);
    match (output.status.code(), result["verdict"].as_str(), result["limiter"].as_str()) {
        (Some(0), Some("valid"), None) | (Some(3), Some("invalid"), Some("generator's CPU")) => result,
        _ => panic!("{stderr}{result}"),
    }
}

/// Runs what has to fail, and returns what it says.
fn complaint(arguments: &[&str], exit_code: i32) -> String {
    let output = loadgen(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    stderr
}

#[test]
fn exactly_the_requests_asked_for_are_sent_and_answered() {
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let address = serve(move |stream| {
        copy(stream, |_, bytes| {
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    });
    let result = measure(&format!("echo={address}"), &["-c", "7", "-d", "3", "-s", "64", "-n", "1000"]);
    assert_eq!(result["requests"], 1000);
    assert_eq!(result["errors"], 0);
    // Every reply has been read, so every request had been counted before.
    assert_eq!(received.load(Ordering::Relaxed), 64_000);
}

#[test]
fn the_json_holds_what_scripts_rely_on() {
    let pid = std::process::id().to_string();
    let target = format!("echo={}", echo_server());
    let result = measure(&target, &["-c", "2", "-d", "4", "-s", "100", "-n", "5000", "--pid", &pid]);
    assert_eq!(result["size"], "100");
    for (field, value) in [("connections", 2), ("depth", 4), ("requests", 5000), ("errors", 0), ("lost", 0)] {
        assert_eq!(result[field], value, "{field}");
    }
    assert!(result["response_time_us"].is_null());
    // The server's threads are this test's, so its CPU time is not nothing.
    for field in ["throughput_per_s", "server_cpu_ns_per_request", "loadgen_cpu_ns_per_request"] {
        assert!(result[field].as_f64().unwrap() > 0.0, "{field}");
    }
    let time = &result["service_time_us"];
    let quantiles = ["p50", "p90", "p99", "p999", "max"].map(|name| time[name].as_f64().unwrap());
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{time}");
    assert!(time["mean"].as_f64().unwrap() <= quantiles[4], "{time}");
}

#[test]
fn a_window_of_time_follows_a_warm_up_that_is_not_counted() {
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let address = serve(move |stream| {
        copy(stream, |_, bytes| {
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    });
    let target = format!("echo={address}");
    let output = loadgen(&["run", &target, "-s", "10", "-w", "50ms", "-t", "100ms", "--json", "-"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let requests = result["requests"].as_u64().unwrap();
    assert!(requests > 0 && requests * 10 < received.load(Ordering::Relaxed), "{result}");
    assert!(result["elapsed_s"].as_f64().unwrap() >= 0.1, "{result}");
}

#[test]
fn large_and_deep_requests_outgrow_every_socket_buffer() {
    let target = format!("echo={}", echo_server());
    for arguments in [
        ["-c", "3", "-d", "16", "-s", "1MiB", "-n", "200"],
        ["-c", "50", "-d", "16", "-s", "16KiB", "-n", "3000"],
    ] {
        measure(&target, &arguments);
    }
}

#[test]
fn uppercase_is_verified_as_such() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes.make_ascii_uppercase()));
    measure(&format!("uppercase={address}"), &["-c", "5", "-s", "1000", "-n", "500"]);
    let told = complaint(&["run", &format!("echo={address}"), "-w", "0", "-n", "5"], 3);
    assert!(told.contains("wrong replies"), "{told}");
}

#[test]
fn a_unix_socket_and_the_table() {
    let folder = std::env::temp_dir().join(format!("loadgen-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || copy(stream.unwrap(), |_, _| {}));
        }
    });
    let target = format!("echo=unix:{}", path.display());
    let json = folder.join("result.json");
    let json_path = json.to_str().unwrap();
    let output = loadgen(&[
        "run", &target, "-c", "4", "-d", "16", "-s", "16KiB", "-n", "2000", "-w", "0", "--json", json_path,
    ]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("2000 in") && table.contains("0 wrong replies"), "{table}");
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["requests"], 2000);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn one_wrong_byte_is_an_error_with_its_offset_and_no_service_time() {
    let address = serve(|stream| {
        copy(stream, |offset, bytes| {
            if let Some(byte) = 1000_u64.checked_sub(offset).and_then(|at| bytes.get_mut(at as usize)) {
                *byte ^= 0x80;
            }
        })
    });
    let target = format!("echo={address}");
    let output = loadgen(&["run", &target, "-s", "64", "-n", "500", "-w", "0", "--json", "-"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(told.contains("1 wrong reply") && told.contains("connection 0: byte 1000 "), "{told}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["errors"], 1);
    assert_eq!(result["requests"], 500);
}

#[test]
fn one_wrong_byte_in_a_million_is_found() {
    let address = serve(|stream| {
        copy(stream, |offset, bytes| {
            let in_million = (offset % 1_000_000) as usize;
            if let Some(byte) = bytes.get_mut(999_999 - in_million) {
                *byte ^= 0x20;
            }
        })
    });
    for arguments in [&["-c", "1", "-d", "16"][..], &["-c", "1", "-d", "1"], &["-c", "1", "-r", "200k"]] {
        let arguments = [&["-n", "70000", "-s", "64", "--timeout", "60s", "--json", "-"], arguments].concat();
        let output = loadgen(&[&["run", &format!("echo={address}"), "-w", "0"], &arguments[..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        // 4,480,000 bytes.
        assert_eq!([&result["requests"], &result["errors"], &result["lost"]], [70_000, 4, 0], "{stderr}");
        assert!(stderr.contains("byte 999999 of its replies is"), "{stderr}");
    }
}

#[test]
fn a_wrong_reply_in_the_warm_up_ends_the_run() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes.make_ascii_uppercase()));
    let target = format!("echo={address}");
    let output = loadgen(&["run", &target, "-w", "10ms", "-n", "5"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("while warming up"));
    assert!(output.stdout.is_empty(), "no figures");
}

#[test]
fn swapped_replies_are_seen() {
    let address = serve(|mut stream| {
        let mut pair = [0; 128];
        while stream.read_exact(&mut pair).is_ok() {
            pair.rotate_left(64);
            if stream.write_all(&pair).is_err() {
                return;
            }
        }
    });
    let target = format!("echo={address}");
    let told = complaint(&["run", &target, "-d", "2", "-s", "64", "-n", "100", "-w", "0"], 3);
    assert!(told.contains("100 wrong replies"), "{told}");
}

#[test]
fn bytes_that_nobody_asked_for_end_the_run() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes.push(b'!')));
    let told = complaint(&["run", &format!("echo={address}"), "-s", "64", "-n", "9", "-w", "0"], 3);
    assert!(told.contains("1 byte received without a request"), "{told}");
}

#[test]
fn a_peer_that_closes_is_named_as_the_cause() {
    let address = serve(|mut stream| {
        let mut request = [0; 64];
        let _ = stream.read_exact(&mut request);
        let _ = stream.write_all(&request);
    });
    let told = complaint(&["run", &format!("echo={address}"), "-n", "10", "-w", "0"], 3);
    assert!(told.contains("1 connection closed by the peer"), "{told}");
}

#[test]
fn silence_is_a_lost_reply() {
    let address = serve(|mut stream| {
        let mut ignored = Vec::new();
        let _ = stream.read_to_end(&mut ignored);
    });
    let told = complaint(&["run", &format!("echo={address}"), "-n", "1", "-w", "0", "--timeout", "200ms"], 3);
    assert!(told.contains("no reply within 200ms"), "{told}");
}

#[test]
fn a_refused_connection_is_told_before_any_load() {
    // Port 1 is reserved, and unlike a port just released no other test can be given it.
    let told = complaint(&["run", "echo=127.0.0.1:1", "-c", "3"], 3);
    assert!(told.contains("connecting 1 of 3") && told.contains("refused"), "{told}");
}

#[test]
fn bad_usage_has_an_exit_code_of_its_own() {
    for arguments in [
        &["run"][..],
        &["run", "echo"],
        &["run", "talk=127.0.0.1:1"],
        &["run", "echo=http://127.0.0.1:1"],
        &["run", "echo=127.0.0.1:1", "-c", "0"],
        &["run", "echo=127.0.0.1:1", "-t", "5"],
        &["run", "echo=127.0.0.1:1", "-t", "5s", "-n", "5"],
        &["idle", "127.0.0.1"],
    ] {
        complaint(arguments, 2);
    }
}

#[test]
fn idle_connections_are_verified_held_and_watched() {
    let address = serve(|mut stream| {
        let mut line = [0; 6];
        while stream.read_exact(&mut line).is_ok() && stream.write_all(&line).is_ok() {}
    });
    let arguments = ["idle", &address, "-c", "200", "--hold", "10ms"];
    let output = loadgen(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.starts_with("holding 200\n") && told.contains("200 held, 0 closed"), "{told}");
}

#[test]
fn idle_connections_that_the_peer_closes_are_counted() {
    let (held, wait_for_held) = std::sync::mpsc::channel::<()>();
    let wait_for_held = std::sync::Mutex::new(wait_for_held);
    let address = serve(move |mut stream| {
        let mut line = [0; 6];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&line).unwrap();
        // Closes once the test has read that all are held.
        let _ = wait_for_held.lock().unwrap().recv();
    });
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["idle", &address, "-c", "5", "--hold", "10m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut holding = String::new();
    BufReader::new(loadgen.stdout.take().unwrap()).read_line(&mut holding).unwrap();
    assert_eq!(holding, "holding 5\n");
    drop(held);
    let output = loadgen.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("closed 5 of 5"), "{told}");
}

#[test]
fn an_open_loop_counts_what_was_planned_whatever_the_server_does() {
    // It answers nothing for a while, and then all of it.
    let address = serve(|mut stream| {
        let mut bytes = vec![0; 6400];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    let target = format!("echo={address}");
    let result = measure(&target, &["-c", "4", "-r", "2k", "-n", "800", "-s", "64"]);
    assert_eq!(result["requests"], 800);
    assert_eq!((&result["errors"], &result["lost"]), (&0.into(), &0.into()));
    // Each of 4 connections has 500 a second, and the hundredth lets all before it go: the first has waited for 198 ms.
    let (response, service) = (&result["response_time_us"], &result["service_time_us"]);
    for times in [response, service] {
        assert!(times["max"].as_f64().unwrap() > 190_000.0, "{result}");
        assert!(times["p50"].as_f64().unwrap() > 80_000.0, "{result}");
    }
}

#[test]
fn what_is_not_answered_in_time_is_lost_and_at_the_top_of_the_quantiles() {
    let address = serve(|mut stream| {
        // Every tenth request is swallowed with all that follow on its connection.
        let mut request = [0; 64];
        for _ in 0..9 {
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let target = format!("echo={address}");
    let result = measure(&target, &["-c", "10", "-r", "1k", "-n", "100", "--timeout", "300ms"]);
    assert_eq!((&result["requests"], &result["lost"]), (&100.into(), &10.into()));
    let times = &result["response_time_us"];
    assert!(times["p50"].as_f64().unwrap() < 300_000.0, "{result}");
    for above in ["p99", "p999", "max", "mean"] {
        assert_eq!(times[above], "lost", "{result}");
    }
}

#[test]
fn every_option_has_a_use_in_the_documents() {
    let pages = ["measuring.md", "loadgen-files.md"].map(|page| {
        let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    });
    for command in ["run", "search", "idle", "merge", "compare", "history"] {
        let help = String::from_utf8(loadgen(&[command, "--help"]).stdout).unwrap();
        // In front of an option stands nothing, or its short name.
        let options = help.lines().filter(|line| !line.starts_with("       "));
        let options = options.filter_map(|line| line.split_once("--"));
        let options =
            options.map(|(short, name)| (short.trim(), name.split([' ', ',']).next().unwrap_or(name)));
        let options: Vec<_> = options.filter(|(short, _)| short.is_empty() || short.len() == 3).collect();
        assert!(options.len() > 3, "{command} --help is not laid out as it was: {help}");
        for (short, name) in options.into_iter().filter(|(_, name)| !matches!(*name, "help" | "version")) {
            let short = short.trim_end_matches(',');
            let is_named = |page: &String| {
                let words = page.split(|other: char| !other.is_alphanumeric() && other != '-');
                words
                    .into_iter()
                    .any(|word| word.strip_prefix("--") == Some(name) || (word == short && !short.is_empty()))
            };
            assert!(pages.iter().any(is_named), "{command} --{name}: the documents name no use of it");
        }
    }
}
