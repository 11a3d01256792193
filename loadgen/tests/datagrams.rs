//! Load over datagrams: run against small servers that answer right, and wrong in one way each, which is counted exactly.

#![allow(clippy::unwrap_used, reason = "a test's servers have nobody to report to but the test")]

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Zoned;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::{Value, json};

use super::outputs::{Folder, rows};
use super::{Signal, signal};

/// Larger than any datagram.
const ROOM: usize = 70_000;

/// A server that hands each datagram to `answer`, with its number from 0 on, the socket, and whom to reply to. Returns its
/// address as it is written for loadgen. Its thread ends with the test program.
fn serve(mut answer: impl FnMut(u64, &mut [u8], &UdpSocket, SocketAddr) + Send + 'static) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Room for what comes while this thread does not run; the default of 208 KiB holds some hundred datagrams.
    set_socket_recv_buffer_size(&socket, 4 << 20).unwrap();
    let address = format!("udp://{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = vec![0; ROOM];
        for number in 0.. {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            answer(number, &mut buffer[..len], &socket, peer);
        }
    });
    address
}

/// A reply may find its socket closed: a run has ended that did not wait for it.
fn reply(socket: &UdpSocket, bytes: &[u8], peer: SocketAddr) {
    let _ = socket.send_to(bytes, peer);
}

fn echo_server() -> String {
    serve(|_, bytes, socket, peer| reply(socket, bytes, peer))
}

fn loadgen(target: &str, arguments: &[&str]) -> Output {
    let first = ["run", target, "-w", "0", "--json", "-"];
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(first).args(arguments).output().unwrap()
}

fn result_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs without warm-up and returns the JSON. The tests share their processors, so the generator may say that it had
/// too little of them, and nothing else.
fn measure(target: &str, arguments: &[&str]) -> Value {
    let output = loadgen(target, arguments);
    let result = result_of(&output);
    match (output.status.code(), result["verdict"].as_str(), result["limiter"].as_str()) {
        (Some(0), Some("valid"), None) | (Some(3), Some("invalid"), Some("generator's CPU")) => result,
        _ => panic!("{}{result}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Runs what has to be INVALID, and returns what it says and the JSON.
fn invalid(target: &str, arguments: &[&str], limiter: &str) -> (String, Value) {
    let output = loadgen(target, arguments);
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    let result = result_of(&output);
    assert_eq!(result["limiter"], limiter, "{told}{result}");
    (told, result)
}

/// Every count that is not 0 of what became of datagrams.
#[track_caller]
fn assert_counts(result: &Value, expected: &Value) {
    let counts = result["datagrams"].as_object().unwrap();
    let told: serde_json::Map<_, _> = counts
        .iter()
        .filter(|(_, count)| **count != 0)
        .map(|(name, count)| (name.clone(), count.clone()))
        .collect();
    assert_eq!(Value::Object(told), *expected, "{result}");
}

#[test]
fn exactly_the_requests_asked_for_are_sent_and_answered() {
    let target = format!("echo={}", echo_server());
    for arguments in [
        &["-c", "7", "-d", "3"][..],
        &["-c", "1", "-d", "100", "-s", "12"],
        &["-c", "3", "--threads", "2", "-s", "uniform:12-1500", "-d", "8"],
        &["-c", "3", "--threads", "2", "-r", "2k", "-s", "zipf:64-9000"],
        &["-r", "2k", "--arrivals", "poisson"],
    ] {
        let result = measure(&target, &[&["-n", "1000", "--timeout", "60s"], arguments].concat());
        assert_counts(&result, &json!({"sent": 1000, "received": 1000}));
        assert_eq!(result["requests"], 1000);
        assert!(result["service_time_us"]["p50"].as_f64().unwrap() > 0.0, "{result}");
        assert_eq!(
            result["response_time_us"].is_null(),
            arguments[0] == "-c" && arguments[2] == "-d" || arguments.contains(&"-d")
        );
    }
}

#[test]
fn the_largest_datagrams_there_are() {
    let target = format!("echo={}", echo_server());
    let result = measure(&target, &["-n", "50", "-s", "65507", "--timeout", "60s"]);
    assert_counts(&result, &json!({"sent": 50, "received": 50}));
}

#[test]
fn uppercase_is_verified_as_such() {
    let address = serve(|_, bytes, socket, peer| {
        bytes.make_ascii_uppercase();
        reply(socket, bytes, peer);
    });
    let result = measure(&format!("uppercase={address}"), &["-n", "500", "-d", "4", "--timeout", "60s"]);
    assert_counts(&result, &json!({"sent": 500, "received": 500}));
    let (told, result) =
        invalid(&format!("echo={address}"), &["-n", "5", "--timeout", "60s"], "wrong replies");
    assert!(told.contains("5 corrupted datagrams"), "{told}");
    assert_counts(&result, &json!({"sent": 5, "received": 5, "corrupted": 5}));
}

#[test]
fn one_wrong_byte_is_found_wherever_it_is() {
    // In every seventh reply, at another place in each.
    let address = || {
        serve(|number, bytes, socket, peer| {
            if number % 7 == 6 {
                let at = (number / 7) as usize % bytes.len();
                bytes[at] ^= 1;
            }
            reply(socket, bytes, peer);
        })
    };
    for arguments in [&["-d", "1"][..], &["-d", "16", "-c", "3"], &["-r", "5k"]] {
        let target = format!("echo={}", address());
        let arguments = [&["-n", "1000", "-s", "64", "--timeout", "60s"], arguments].concat();
        let (told, result) = invalid(&target, &arguments, "wrong replies");
        assert_counts(&result, &json!({"sent": 1000, "received": 1000, "corrupted": 142}));
        assert_eq!(result["errors"], 142);
        assert!(told.contains("142 corrupted datagrams"), "{told}");
        assert!(told.contains("byte 0 of its reply is"), "{told}");
    }
}

#[test]
fn too_short_and_too_long_replies_are_wrong() {
    let address = serve(|number, bytes, socket, peer| match number {
        3 => reply(socket, &bytes[..bytes.len() - 1], peer),
        5 => reply(socket, &[&*bytes, b"!"].concat(), peer),
        7 => reply(socket, b"", peer),
        _ => reply(socket, bytes, peer),
    });
    let arguments = ["-n", "10", "-s", "100", "--timeout", "60s"];
    let (told, result) = invalid(&format!("echo={address}"), &arguments, "wrong replies");
    assert_counts(&result, &json!({"sent": 10, "received": 10, "corrupted": 3}));
    assert!(told.contains("socket 0, request 3: its reply has 99 bytes, not 100"), "{told}");
}

#[test]
fn lost_replies_are_counted_and_no_reason_to_doubt_the_rest() {
    let address = || {
        serve(|number, bytes, socket, peer| {
            if number % 1000 != 999 {
                reply(socket, bytes, peer);
            }
        })
    };
    let measure_one = |arguments: &[&str]| {
        let target = format!("echo={}", address());
        let result = measure(&target, &[&["-n", "4000", "--timeout", "1s"], arguments].concat());
        assert_counts(&result, &json!({"sent": 4000, "received": 3996, "lost": 4}));
        assert_eq!([&result["requests"], &result["lost"], &result["errors"]], [4000, 4, 0]);
        assert_eq!(result["service_time_us"]["max"], "lost");
    };
    // Side by side: it is the timeout that takes time.
    std::thread::scope(|scope| {
        for arguments in [&["-d", "1"][..], &["-d", "16", "-c", "2"], &["-r", "4k"]] {
            scope.spawn(move || measure_one(arguments));
        }
    });
}

#[test]
fn doubled_replies_are_duplicates() {
    let address = || {
        serve(|number, bytes, socket, peer| {
            reply(socket, bytes, peer);
            if number % 10 == 5 {
                reply(socket, bytes, peer);
                reply(socket, bytes, peer);
            }
        })
    };
    for arguments in [&["-d", "1"][..], &["-d", "16", "-c", "2"], &["-r", "5k"]] {
        let target = format!("echo={}", address());
        let result = measure(&target, &[&["-n", "1000", "--timeout", "60s"], arguments].concat());
        assert_counts(&result, &json!({"sent": 1000, "received": 1200, "duplicated": 200}));
    }
}

#[test]
fn neighbours_that_change_places_are_reordered() {
    // Of each ten the fourth and the fifth.
    let address = || {
        let mut held = Vec::new();
        serve(move |number, bytes, socket, peer| {
            if number % 10 == 3 {
                held = bytes.to_vec();
                return;
            }
            reply(socket, bytes, peer);
            if number % 10 == 4 {
                reply(socket, &held, peer);
            }
        })
    };
    for arguments in [&["-d", "8"][..], &["-r", "5k"]] {
        let target = format!("echo={}", address());
        let result = measure(&target, &[&["-n", "1000", "--timeout", "60s"], arguments].concat());
        assert_counts(&result, &json!({"sent": 1000, "received": 1000, "reordered": 100}));
    }
}

#[test]
fn faults_of_all_kinds_are_told_apart() {
    // Of each thousand: one dropped, ten doubled, five that change places with the next, and one with a wrong byte.
    let address = || {
        let mut held = Vec::new();
        serve(move |number, bytes, socket, peer| match (number % 1000, number % 100, number % 200) {
            (999, ..) => {}
            (501, ..) => {
                bytes[40] ^= 1;
                reply(socket, bytes, peer);
            }
            (_, 50, _) => (0..2).for_each(|_| reply(socket, bytes, peer)),
            (.., 17) => held = bytes.to_vec(),
            (.., 18) => {
                reply(socket, bytes, peer);
                reply(socket, &held, peer);
            }
            _ => reply(socket, bytes, peer),
        })
    };
    // So many in flight that those which are dropped leave room for those that wait for the next.
    for arguments in [&["-d", "32"][..], &["-r", "5k"]] {
        let target = format!("echo={}", address());
        let arguments = [&["-n", "8000", "-s", "64", "--timeout", "3s"], arguments].concat();
        let (_, result) = invalid(&target, &arguments, "wrong replies");
        let expected = json!({
            "sent": 8000, "received": 8000 - 8 + 80, "lost": 8, "duplicated": 80, "reordered": 40, "corrupted": 8
        });
        assert_counts(&result, &expected);
    }
}

#[test]
fn a_reply_after_the_timeout_is_late_and_its_request_lost() {
    // The first reply comes once its request has been given up, which the second request shows.
    let mut first = Vec::new();
    let address = serve(move |number, bytes, socket, peer| {
        if number == 0 {
            first = bytes.to_vec();
            return;
        }
        reply(socket, bytes, peer);
        if number == 1 {
            reply(socket, &first, peer);
            reply(socket, &first, peer);
        }
    });
    let result = measure(&format!("echo={address}"), &["-n", "10", "--timeout", "300ms"]);
    let expected = json!({"sent": 10, "received": 11, "lost": 1, "late": 1, "duplicated": 1});
    assert_counts(&result, &expected);
}

#[test]
fn the_reply_to_another_socket_is_wrong() {
    let mut waiting: Option<(Vec<u8>, SocketAddr)> = None;
    let address = serve(move |_, bytes, socket, peer| match waiting.take() {
        None => waiting = Some((bytes.to_vec(), peer)),
        Some((first, first_peer)) => {
            reply(socket, bytes, first_peer);
            reply(socket, &first, peer);
        }
    });
    let arguments = ["-n", "2", "-c", "2", "--timeout", "100ms"];
    let (told, result) = invalid(&format!("echo={address}"), &arguments, "wrong replies");
    assert_counts(&result, &json!({"sent": 2, "received": 2, "corrupted": 2, "lost": 2}));
    assert!(told.contains("answers request 0 of socket"), "{told}");
}

#[test]
fn the_warm_up_is_no_part_of_the_counts() {
    // Far more is wrong than is counted: the first hundred replies are all doubled.
    let address = || {
        serve(|number, bytes, socket, peer| {
            reply(socket, bytes, peer);
            if number < 100 {
                reply(socket, bytes, peer);
            }
        })
    };
    for arguments in [&["-d", "1"][..], &["-r", "2k"]] {
        let target = format!("echo={}", address());
        let arguments = [&["-w", "1s", "-n", "1000", "--timeout", "60s"], arguments].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["run", &target, "--json", "-"])
            .args(&arguments)
            .output()
            .unwrap();
        assert_counts(&result_of(&output), &json!({"sent": 1000, "received": 1000}));
    }
}

#[test]
fn what_is_awaited_after_the_window_stretches_no_interval() {
    let target = format!("echo={}", echo_server());
    for pace in ["-r", "-d"] {
        let folder = Folder::new();
        let csv = folder.path("csv");
        let arguments = [pace, if pace == "-r" { "500" } else { "4" }, "-t", "500ms", "--csv", &csv];
        measure(&target, &[&["--timeout", "60s"], &arguments[..]].concat());
        let csv = folder.read("csv");
        let rows = rows(&csv);
        let number = |row: &HashMap<&str, &str>, column| row[column].parse::<f64>().unwrap();
        // Of 10 ms each, and the last one up to half longer.
        assert!(rows.iter().all(|row| number(row, "length_s") < 0.0151), "{csv}");
        // After the last reply duplicates are waited for, and there are none.
        let last = rows.last().unwrap();
        let end_s = number(last, "start_s") + number(last, "length_s");
        let replied = rows.iter().rfind(|row| number(row, "answered") > 0.0).unwrap();
        assert!(end_s - number(replied, "start_s") > 0.19, "{csv}");
    }
}

#[test]
fn a_server_that_never_answers_is_no_result() {
    let address = serve(|_, _, _, _| {});
    let (told, result) = invalid(&format!("echo={address}"), &["-n", "3", "--timeout", "50ms"], "server");
    assert!(told.contains("3 replies lost"), "{told}");
    assert_counts(&result, &json!({"sent": 3, "lost": 3}));
}

#[test]
fn a_port_where_nobody_listens_is_told_at_once() {
    for arguments in [&["-d", "3"][..], &["-r", "100"]] {
        // Port 1 is reserved, and unlike a port just released no other test can be given it.
        let output =
            loadgen("echo=udp://127.0.0.1:1", &[&["-t", "10m", "--timeout", "10m"], arguments].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(told.contains("nobody answers at udp://127.0.0.1:1: Connection refused"), "{told}");
    }
}

#[test]
fn a_server_that_goes_away_is_named_as_the_cause() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("echo=udp://{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..10 {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], peer).unwrap();
        }
    });
    let result = measure(&target, &["-n", "12", "--timeout", "100ms"]);
    let counts = &result["datagrams"];
    assert_eq!((&counts["received"], &counts["lost"]), (&10.into(), &2.into()), "{result}");
    assert!(counts["refused"].as_u64().unwrap() > 0, "{result}");
    assert!(result["first_error"].as_str().unwrap().contains("Connection refused"), "{result}");
}

/// The local time so many seconds from now, as C's ctime writes it.
fn ctime(from_now_s: i64) -> String {
    let time = Zoned::now().saturating_add(jiff::Span::new().seconds(from_now_s));
    time.strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[test]
fn time_is_verified_to_the_second() {
    let target = |prefix: fn() -> String| {
        let address = serve(move |_, bytes, socket, peer| {
            reply(socket, &[prefix().as_bytes(), bytes].concat(), peer);
        });
        // Time's first transport is UDP.
        format!("time={}", address.strip_prefix("udp://").unwrap())
    };
    let arguments = ["-n", "100", "-d", "4", "--timeout", "60s"];
    for right in [|| format!("[{}]", ctime(0)), || format!("[{}]", ctime(-1))] {
        let result = measure(&target(right), &[&arguments[..], &["-s", "uniform:12-1500"]].concat());
        assert_counts(&result, &json!({"sent": 100, "received": 100}));
    }
    for wrong in [
        || format!("[{}]", ctime(3600)),
        || format!("[{}]", ctime(-100)),
        || format!("[{}]", ctime(10)),
        || format!("<{}>", ctime(0)),
        || format!("[{}\n]", ctime(0)),
        || format!("[{}]", ctime(0).to_uppercase()),
        || format!("[{}]", Zoned::now()),
        String::new,
    ] {
        let (told, result) = invalid(&target(wrong), &arguments, "wrong replies");
        assert_counts(&result, &json!({"sent": 100, "received": 100, "corrupted": 100}));
        assert!(told.contains("its reply begins with"), "{told}");
    }
}

/// The path of a socket that is not there yet.
fn socket_path(name: &str) -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    std::env::temp_dir().join(format!("loadgen-{name}-{}-{since}", std::process::id()))
}

#[test]
fn unix_datagrams_wait_for_room() {
    let path = socket_path("dgram");
    let socket = UnixDatagram::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; ROOM];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            let _ = socket.send_to_addr(&buffer[..len], &peer);
        }
    });
    let target = format!("echo=unix-dgram:{}", path.display());
    for arguments in [&["-c", "4", "-d", "32"][..], &["-c", "2", "-r", "5k"], &["-s", "65507"]] {
        let result = measure(&target, &[&["-n", "1000", "--timeout", "60s"], arguments].concat());
        let counts = &result["datagrams"];
        assert_eq!((&counts["sent"], &counts["received"]), (&1000.into(), &1000.into()), "{result}");
        assert_eq!((&counts["lost"], &counts["reordered"]), (&0.into(), &0.into()), "{result}");
    }
    std::fs::remove_file(&path).unwrap();
    let output = loadgen(&target, &["-n", "1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("opening socket 1 to unix-dgram:"));
}

/// A server for one run that is handed its process id once it has been started.
fn run_with_pid(target: &str, arguments: &[&str], pid: &std::sync::mpsc::Sender<u32>) -> Output {
    let loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", target, "-w", "0", "--json", "-"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    pid.send(loadgen.id()).unwrap();
    loadgen.wait_with_output().unwrap()
}

#[test]
fn what_the_generators_own_socket_drops_is_told_apart() {
    // While the generator is stopped, more comes than its socket can hold.
    const REPLIES: u64 = 40_000;
    let (pid, pids): (_, Receiver<u32>) = channel();
    let address = serve(move |_, bytes, socket, peer| {
        let pid = pids.recv().unwrap();
        signal(pid, Signal::STOP);
        (0..REPLIES).for_each(|_| reply(socket, bytes, peer));
        signal(pid, Signal::CONT);
    });
    let arguments = ["-n", "1", "-s", "1400", "--timeout", "60s"];
    let output = run_with_pid(&format!("echo={address}"), &arguments, &pid);
    let told = String::from_utf8_lossy(&output.stderr);
    let result = result_of(&output);
    assert_eq!(
        (output.status.code(), &result["limiter"]),
        (Some(3), &json!("generator's socket buffer")),
        "{told}"
    );
    let count = |name: &str| result["datagrams"][name].as_u64().unwrap();
    let dropped = count("dropped_by_generator");
    assert!(dropped > 0 && count("received") + dropped == REPLIES, "{result}");
    assert!(told.contains(&format!("{dropped} datagrams dropped")), "{told}");
}

#[test]
fn what_the_servers_socket_drops_is_told_apart() {
    // It answers ten, and then it reads nothing more.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("echo=udp://{}", socket.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut buffer = vec![0; ROOM];
        for _ in 0..10 {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], peer).unwrap();
        }
        socket
    });
    let result = measure(&target, &["-n", "3000", "-d", "3000", "-s", "1400", "--timeout", "2s"]);
    // What it has not read is in its socket's buffer.
    let socket = server.join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let unread = std::iter::from_fn(|| socket.recv_from(&mut [0; 1]).ok()).count() as u64;
    let dropped = 3000 - 10 - unread;
    assert!(dropped > 0);
    let expected = json!({"sent": 3000, "received": 10, "lost": 2990, "dropped_by_server": dropped});
    assert_counts(&result, &expected);
}

/// What the tests of `--spawn` start: this very program, as a server of echo that exits after so many requests.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn an_echo_server_in_a_process_of_its_own() {
    let variable = |name| std::env::var(name).ok();
    let mut left: u64 = variable("REQUESTS").map_or(u64::MAX, |requests| requests.parse().unwrap());
    let mut buffer = [0; 2048];
    let mut count = || {
        if left == 0 {
            std::process::exit(9);
        }
        left -= 1;
    };
    // A run that has ended is not told.
    if let Some(port) = variable("LOADGEN_TEST_UDP_PORT") {
        let socket = UdpSocket::bind(format!("127.0.0.1:{port}")).unwrap();
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            count();
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
    if let Some(path) = variable("LOADGEN_TEST_DGRAM_PATH") {
        let socket = UnixDatagram::bind(path).unwrap();
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            count();
            let _ = socket.send_to_addr(&buffer[..len], &peer);
        }
    }
}

/// The command for it, with these variables.
fn echo_command(variables: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let name = "datagrams::an_echo_server_in_a_process_of_its_own";
    format!("env {variables} '{}' --exact {name} --ignored --nocapture", program.display())
}

const SPAWNED: &str = "echo=udp://127.0.0.1:{port}";

#[test]
fn a_spawned_server_is_awaited_measured_and_ended() {
    let path = socket_path("spawned");
    let at_path = format!("echo=unix-dgram:{}", path.display());
    for (target, variables, dropped) in [
        (SPAWNED, "LOADGEN_TEST_UDP_PORT={port}".to_owned(), json!(0)),
        (&at_path, format!("LOADGEN_TEST_DGRAM_PATH={}", path.display()), Value::Null),
    ] {
        let command = echo_command(&variables);
        let result = measure(target, &["-n", "500", "-c", "4", "--timeout", "60s", "--spawn", &command]);
        let counts = &result["datagrams"];
        assert_eq!((&counts["sent"], &counts["received"]), (&500.into(), &500.into()), "{result}");
        // Those of a file have none: whoever sends waits.
        assert_eq!(counts["dropped_by_server"], dropped, "{result}");
        assert!(result["server_cpu_ns_per_request"].as_f64().unwrap() > 100.0, "{result}");
        let address = result["address"].as_str().unwrap();
        if let Some(address) = address.strip_prefix("udp://") {
            UdpSocket::bind(address).expect("nobody has the port any more");
        } else {
            assert!(UnixDatagram::unbound().unwrap().connect(&path).is_err(), "nobody is behind it any more");
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_spawned_server_that_is_not_there_is_told() {
    let told = |target: &str, command: &str, timeout: &str| {
        let command = format!("{command} {{port}}");
        let output = loadgen(target, &["-c", "1", "-n", "101", "--spawn", &command, "--timeout", timeout]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{told}");
        told
    };
    let never = told(SPAWNED, "sleep 600", "200ms");
    assert!(never.contains("opened no socket at udp://127.0.0.1:"), "{never}");
    let early = told(SPAWNED, "sh -c 'exit 7'", "60s");
    assert!(early.contains("exited: exit status: 7"), "{early}");
    let late = told(SPAWNED, &echo_command("LOADGEN_TEST_UDP_PORT={port} REQUESTS=100"), "5s");
    assert!(late.contains("exited: exit status: 9"), "{late}");
    // Its figures would be those of another server.
    let target = format!("echo={}", echo_server());
    let output = loadgen(&target, &["--spawn", "sleep 600"]);
    let other = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{other}");
    assert!(other.contains("another server is already listening on"), "{other}");
}

#[test]
fn bad_usage_has_an_exit_code_of_its_own() {
    for (target, size, reason) in [
        ("echo=udp://127.0.0.1:1", "11", "must have 12"),
        ("echo=udp://127.0.0.1:1", "uniform:12-65508", "to 65507"),
        ("time=127.0.0.1:1", "65482", "to 65481"),
        ("time=tcp://127.0.0.1:1", "64", "datagrams only"),
        ("time=unix:/run/time", "64", "datagrams only"),
        ("echo=unix-dgram:", "64", "needs a path"),
    ] {
        let output = loadgen(target, &["-s", size]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(reason), "{target} {size}: {told}");
    }
}
