//! The server's system calls per request: of servers that make a known number of them, and what is told if they cannot be
//! counted.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::outputs::Folder;
use super::services::{SPAWNED, echo_command};
use super::{complaint, echo_server, loadgen};

/// What the test of datagrams starts: this very program, which answers each datagram, and reads in vain from a socket to
/// which nobody writes.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn a_datagram_server_in_a_process_of_its_own() {
    if std::env::var_os("LOADGEN_TEST_DATAGRAMS").is_none() {
        return;
    }
    let [socket, idle] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    idle.set_nonblocking(true).unwrap();
    println!("\nserving {}", socket.local_addr().unwrap());
    let mut buffer = [0; 2048];
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).unwrap();
        // A run that has ended is not told.
        let _ = socket.send_to(&buffer[..len], peer);
        idle.recv(&mut buffer).unwrap_err();
    }
}

/// A process that ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The server, and its address.
fn datagram_server() -> (Serving, String) {
    let name = "syscalls::a_datagram_server_in_a_process_of_its_own";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("LOADGEN_TEST_DATAGRAMS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("serving ").map(str::to_owned)).unwrap();
    // Whoever writes to a pipe that nobody reads ends.
    std::thread::spawn(move || lines.for_each(drop));
    (Serving(child), address)
}

/// Calls per request by name. None where the system has no strace, or forbids to trace: then it is that which is told.
fn calls(arguments: &[&str]) -> Option<Value> {
    let output = loadgen(
        &[arguments, &["--syscalls", "-n", "500", "-w", "0", "--timeout", "60s", "--json", "-"]].concat(),
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(2) {
        assert!(stderr.contains("needs strace") || stderr.contains("does not permit tracing"), "{stderr}");
        return None;
    }
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    assert_eq!((&json["requests"], &json["errors"], &json["lost"]), (&500.into(), &0.into(), &0.into()));
    let calls = json["server_system_calls_per_request"].clone();
    assert!(calls.is_object(), "{stderr}");
    Some(calls)
}

#[track_caller]
fn assert_calls(calls: &Value, expected: &[(&str, f64)]) {
    for &(name, expected) in expected {
        let is = calls[name].as_f64().unwrap_or_else(|| panic!("{name}: {calls}"));
        assert!((is - expected).abs() < 1e-9, "{name}: {calls}");
    }
}

#[test]
fn calls_are_those_of_all_threads_and_descendants() {
    // The second is a grandchild of loadgen.
    let child = format!("sh -c '{} & wait'", echo_command("").replace('\'', ""));
    for (command, arguments) in [
        (echo_command(""), &["-c", "5", "--threads", "2"][..]),
        (echo_command(""), &["-c", "5", "-r", "2k"]),
        (child, &["-c", "3"]),
    ] {
        let arguments = [&["run", SPAWNED, "--spawn", &command], arguments].concat();
        let Some(calls) = calls(&arguments) else { return };
        assert_calls(&calls, &[("recvfrom", 1.0), ("sendto", 1.0), ("failed", 0.0), ("total", 2.0)]);
    }
}

#[test]
fn calls_that_fail_are_counted_apart_and_datagrams_have_calls_too() {
    let (server, address) = datagram_server();
    let (target, pid) = (format!("echo=udp://{address}"), server.0.id().to_string());
    let Some(calls) = calls(&["run", &target, "-c", "4", "--pid", &pid]) else { return };
    assert_calls(&calls, &[("recvfrom", 2.0), ("sendto", 1.0), ("failed", 1.0), ("total", 3.0)]);
}

#[test]
fn what_is_needed_is_told_before_the_load() {
    let target = format!("echo={}", echo_server());
    let told = complaint(&["run", &target, "--syscalls"], 2);
    assert!(told.lines().count() == 1 && told.contains("needs --pid or --spawn"), "{told}");
    let output = with_path("/nowhere", &target);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.lines().count() == 1 && told.contains("apt install strace"), "{told}");
    assert!(output.stdout.is_empty());
}

/// Runs with what is found in that folder as strace, against this process.
fn with_path(folder: &str, target: &str) -> Output {
    let pid = std::process::id().to_string();
    let arguments = ["run", target, "-n", "50", "-w", "0", "--pid", &pid, "--syscalls", "--json", "-"];
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).env("PATH", folder).output().unwrap()
}

#[test]
fn a_strace_that_fails_is_told_and_costs_no_other_figure() {
    let target = format!("echo={}", echo_server());
    let attached = r#"while [ "$1" != -p ]; do shift; done; while [ "$1" = -p ]; do echo "strace: Process $2 attached" >&2; shift 2; done"#;
    for (script, words) in [
        (
            "echo 'strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted' >&2; exit 1",
            "Operation not permitted",
        ),
        ("exit 1", "ended before it attached"),
        // It ends as it is told, and has counted nothing, or half of it.
        (&format!("trap 'exit 0' INT; {attached}; while :; do /bin/sleep 0.01; done"), "not whole"),
        (
            &format!(
                "O=$4; trap 'echo \"------\" > \"$O\"; exit 0' INT; {attached}; while :; do /bin/sleep 0.01; done"
            ),
            "not whole",
        ),
    ] {
        let folder = Folder::new();
        let path = folder.path("strace");
        // By a process of its own: what this one has open to be written while another test forks cannot be executed.
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod +x \"$0\"", &path])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(shell.stdin.take().unwrap(), "#!/bin/sh\n[ \"$1\" = -V ] && exit 0\n{script}").unwrap();
        assert!(shell.wait().unwrap().success());
        let path = std::path::Path::new(&path).parent().unwrap().to_str().unwrap().to_owned();
        let output = with_path(&path, &target);
        let stderr = String::from_utf8(output.stderr).unwrap();
        if stderr.contains("does not permit tracing") {
            return;
        }
        assert!(matches!(output.status.code(), Some(0 | 3)), "{stderr}");
        assert!(stderr.contains("--syscalls: ") && stderr.contains(words), "{words}: {stderr}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["server_system_calls_per_request"].is_null(), "{json}");
        assert_eq!(json["requests"], 50);
    }
}
