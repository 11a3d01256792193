//! Servers that leave the foreground, and servers of several processes: the error message, and that no process is left.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::services::{SPAWNED, echo_command};
use super::{Signal, signal};

/// What belongs to a run can be told by this variable of its environment.
fn mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn loadgen(mark: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments).env("LOADGEN_TEST", mark);
    command
}

/// Processes that have the mark.
fn marked(mark: &str) -> Vec<String> {
    let mark = format!("LOADGEN_TEST={mark}\0");
    let folders = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    // What has ended meanwhile, or is somebody else's, cannot be read.
    let marked = folders.filter(|folder| {
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        environment.windows(mark.len()).any(|part| part == mark.as_bytes())
    });
    marked.map(|folder| fs::read_to_string(folder.join("cmdline")).unwrap_or_default()).collect()
}

#[track_caller]
fn assert_none_left(mark: &str) {
    let left = marked(mark);
    assert!(left.is_empty(), "{left:?}");
}

/// Ways to leave the foreground.
fn in_background() -> Vec<String> {
    let server = echo_command("").replace('\'', "");
    vec![
        format!("setsid {server}"),
        format!("sh -c '{server} & exit 0'"),
        // Twice, and in a session of its own, as daemons do.
        format!("sh -c '(setsid {server} &) ; exit 0'"),
        format!("sh -c 'trap \"\" HUP TERM; setsid nohup {server} > /dev/null 2>&1 & exit 0'"),
    ]
}

#[test]
fn a_server_in_the_background_is_told_before_the_load_and_ended() {
    for command in in_background() {
        let mark = mark();
        let output = loadgen(&mark, &["run", SPAWNED, "-t", "10m", "--spawn", &command, "--timeout", "60s"])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(output.stdout.is_empty(), "there was no load");
        assert!(told.contains("runs in the background") && told.contains("foreground: start it"), "{told}");
        if command.starts_with("setsid") {
            assert!(told.contains("setsid --wait"), "{told}");
        }
        assert_none_left(&mark);
    }
}

#[test]
fn compare_tells_it_as_well() {
    let (mark, good, bad) = (mark(), echo_command(""), &in_background()[0]);
    let arguments =
        ["compare", "--base", &good, "--head", bad, "--metric", "cpu", "-q", "--start-timeout", "60s"];
    let output = loadgen(&mark, &arguments).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("runs in the background"), "{told}");
    assert_none_left(&mark);
}

/// Servers that stay in the foreground, with processes in sessions of their own.
fn of_several_processes(variables: &str) -> Vec<String> {
    let server = echo_command(variables).replace('\'', "");
    vec![
        format!("setsid --wait {server}"),
        format!("sh -c 'setsid {server} & wait'"),
        // One has no parent any more, and ignores to be asked to end.
        format!("sh -c '(trap \"\" TERM; setsid sleep 600 &); exec {server}'"),
    ]
}

#[test]
fn a_server_of_several_processes_is_measured_and_ended_whole() {
    for command in of_several_processes("") {
        let mark = mark();
        let arguments =
            ["run", SPAWNED, "-n", "200", "-w", "0", "--spawn", &command, "--timeout", "60s", "--json", "-"];
        let output = loadgen(&mark, &arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&told);
        assert_eq!((&result["requests"], &result["lost"]), (&200.into(), &0.into()), "{told}");
        assert_none_left(&mark);
    }
}

#[test]
fn nothing_is_left_however_loadgen_ends() {
    for name in [Signal::INT, Signal::TERM, Signal::KILL] {
        for index in 0..of_several_processes("").len() {
            let mark = mark();
            let told = TcpListener::bind("127.0.0.1:0").unwrap();
            let tell = format!("TELL={}", told.local_addr().unwrap());
            let command = &of_several_processes(&tell)[index];
            let arguments = ["run", SPAWNED, "-w", "0", "-t", "10m", "--timeout", "60s", "--spawn", command];
            let mut loadgen =
                loadgen(&mark, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let (mut server, _) = told.accept().unwrap();
            // The reply that shows that it is ready, and the first of the load.
            server.read_exact(&mut [0; 2]).unwrap();
            signal(loadgen.id(), name);
            loadgen.wait().unwrap();
            if name != Signal::KILL {
                assert_none_left(&mark);
            }
            // Killed, it waits for nobody.
            let give_up = Instant::now() + Duration::from_secs(60);
            while !marked(&mark).is_empty() {
                assert!(Instant::now() < give_up, "{:?}", marked(&mark));
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn nothing_is_left_after_an_error() {
    // It answers, and ends while it is measured.
    let server = echo_command("REQUESTS=100").replace('\'', "");
    let command = format!("sh -c '(setsid sleep 600 &); exec {server}'");
    let mark = mark();
    let output =
        loadgen(&mark, &["run", SPAWNED, "-w", "0", "-n", "1000", "--spawn", &command, "--timeout", "60s"])
            .output()
            .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("exited: exit status: 9"), "{told}");
    assert_none_left(&mark);
}

#[test]
fn nginx_is_told_what_to_do() {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        crate::skipped::skip("needs nginx: apt-get install nginx");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {place}/{of};"));
    let conf = format!(
        "worker_processes 2; pid {place}/pid; error_log stderr; events {{ worker_connections 64; }} http {{ access_log off; {} \
         server {{ listen unix:{place}/socket; location / {{ return 200 hello; }} }} }}",
        paths.concat()
    );
    fs::write(folder.path().join("nginx.conf"), conf).unwrap();
    let target = format!("http=unix:{place}/socket");
    let run = |command: &str| {
        loadgen(&mark(), &["run", &target, "-n", "100", "-w", "0", "--spawn", command, "--timeout", "60s"])
            .output()
            .unwrap()
    };
    let command = format!("nginx -e stderr -p {place} -c {place}/nginx.conf");
    let output = run(&command);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("runs in the background") && told.contains("-g 'daemon off;'"), "{told}");
    // nginx writes over its environment, but its pid file goes with it.
    assert!(!folder.path().join("pid").exists());
    let output = run(&format!("{command} -g 'daemon off;'"));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("100 in"), "{told}");
    assert!(!folder.path().join("pid").exists());
}
