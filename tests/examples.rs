//! The programs of examples/, started as a newcomer would and talked to over real sockets.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

use tidewheel::Address;

use crate::harness::{PATIENCE, ask, await_that, expect, read_to_end, socket_address, tcp};

/// The features that this test was built with.
const FEATURES: [(&str, bool); 3] = [
    ("services", cfg!(feature = "services")),
    ("cli", cfg!(feature = "cli")),
    ("clients", cfg!(feature = "clients")),
];

/// The program of an example. `cargo test` builds all of them, `cargo test --test tests` none: then it is built here.
fn program(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock();
    let tests = std::env::current_exe().unwrap();
    let profile = tests.ancestors().nth(2).expect("tests are built in target/PROFILE/deps");
    let program = profile.join("examples").join(name);
    if changed_at(&program) < newest_source() {
        let features: Vec<_> = FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        let profile_name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let built = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--package", "tidewheel", "--examples", "--no-default-features", "--features"])
            .arg(features.join(","))
            .args(["--profile", profile_name, "--target-dir"])
            .arg(profile.parent().unwrap())
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    program
}

fn changed_at(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn newest_source() -> SystemTime {
    let mut paths = ["src", "examples", "Cargo.toml"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .to_vec();
    let mut newest = SystemTime::UNIX_EPOCH;
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            newest = newest.max(changed_at(&path));
        }
    }
    newest
}

/// An example that runs. It ends with the test.
struct Example {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    addresses: Vec<Address>,
}

impl Example {
    /// Starts it with the addresses that it is to listen on, and waits until it does.
    fn start(name: &str, listen: &[&str], others: &[&str]) -> Example {
        let mut child = Command::new(program(name))
            .args(listen)
            .args(others)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut example = Example { child, stdin, output, addresses: Vec::new() };
        for _ in listen {
            let line = example.line();
            let address = line.trim_end().strip_prefix("listening on ").expect("it says where it listens");
            example.addresses.push(address.parse().unwrap());
        }
        example
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn connect(&self) -> TcpStream {
        tcp(&self.addresses[0])
    }

    /// Waits until it ends by itself, and returns what it still wrote.
    fn end(mut self) -> String {
        let status = await_that("it ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn words_counts_words() {
    let words = Example::start("words", &["127.0.0.1:0"], &[]);
    let mut peer = words.connect();
    ask(&mut peer, b"one two three\n\n", b"3\n0\n");
    peer.write_all(b"four five").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut peer), (b"2\n".to_vec(), false));
}

#[test]
fn echo_answers_what_had_come_before_a_signal() {
    let mut echo = Example::start("echo", &["127.0.0.1:0", "udp://127.0.0.1:0"], &[]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    udp.send_to(b"hello", socket_address(&echo.addresses[1])).unwrap();
    let mut answer = [0; 10];
    assert_eq!(udp.recv(&mut answer).unwrap(), 5);

    let mut peer = echo.connect();
    ask(&mut peer, b"hello", b"hello");
    peer.write_all(b"and this").unwrap();
    let pid = rustix::process::Pid::from_child(&echo.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(read_to_end(&mut peer), (b"and this".to_vec(), false));
    assert_eq!(echo.line(), "stopped: 1 answered, 0 reset\n");
    assert_eq!(echo.end(), "");
}

#[test]
fn proxy_carries_both_directions() {
    let backend = Example::start("words", &["127.0.0.1:0"], &[]);
    let proxy = Example::start("proxy", &["127.0.0.1:0"], &[&backend.addresses[0].to_string()]);
    let mut peer = proxy.connect();
    ask(&mut peer, b"one two three\n", b"3\n");
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut peer), (vec![], false));
}

#[test]
fn chat_lite_sends_each_line_to_all_others() {
    let chat = Example::start("chat_lite", &["127.0.0.1:0"], &[]);
    let mut ann = chat.connect();
    expect(&mut ann, b"You are guest 1. Others here: 0\n");
    let mut bob = chat.connect();
    expect(&mut bob, b"You are guest 2. Others here: 1\n");
    expect(&mut ann, b"* guest 2 joined\n");
    bob.write_all(b"hello\x1b[31m\n").unwrap();
    expect(&mut ann, b"guest 2: hello[31m\n");
    drop(bob);
    expect(&mut ann, b"* guest 2 left\n");
}

#[test]
fn datagrams_stores_values() {
    let store = Example::start("datagrams", &["udp://127.0.0.1:0"], &[]);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    for (question, expected) in [
        ("get tea\n", "unknown key\n"),
        ("set tea green, hot\n", "ok\n"),
        ("get tea", "green, hot\n"),
        ("", "write: get KEY, or set KEY VALUE\n"),
    ] {
        peer.send_to(question.as_bytes(), socket_address(&store.addresses[0])).unwrap();
        let mut answer = [0; 100];
        let len = peer.recv(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..len]), expected, "{question}");
    }
}

#[test]
fn own_loop_serves_while_it_waits_for_standard_input() {
    let mut example = Example::start("own_loop", &["127.0.0.1:0"], &[]);
    let mut stdin = example.stdin.take().unwrap();
    let mut peer = example.connect();
    // What was typed before it was accepted does not reach it.
    let mut first = [0];
    peer.set_nonblocking(true).unwrap();
    await_that("it is accepted, and what is typed reaches it", || {
        stdin.write_all(b".").unwrap();
        peer.read(&mut first).ok()
    });
    peer.set_nonblocking(false).unwrap();
    stdin.write_all(b"hello\n").unwrap();
    drop(stdin);
    let (rest, was_reset) = read_to_end(&mut peer);
    assert_eq!((String::from_utf8_lossy(&rest).trim_start_matches('.'), was_reset), ("hello\n", false));
    assert_eq!(example.end(), "");
}

#[test]
fn tokio_bridge_answers_in_order() {
    let bridge = Example::start("tokio_bridge", &["127.0.0.1:0"], &[]);
    let mut peer = bridge.connect();
    ask(&mut peer, b"127.0.0.1\n", b"127.0.0.1: 127.0.0.1\n");
    let (questions, answers): (Vec<_>, Vec<_>) =
        (1..100).map(|last| (format!("10.0.0.{last}\n"), format!("10.0.0.{last}: 10.0.0.{last}\n"))).unzip();
    peer.write_all(questions.concat().as_bytes()).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let (came, was_reset) = read_to_end(&mut peer);
    assert_eq!((String::from_utf8(came).unwrap(), was_reset), (answers.concat(), false));
}

/// Runs the simulation to its end.
fn simulate(args: &[&str], seed: Option<&str>) -> Output {
    let mut command = Command::new(program("simulation"));
    command.args(args).env_remove("TIDEWHEEL_SEED").env_remove("TIDEWHEEL_SEEDS").env("RUST_BACKTRACE", "0");
    if let Some(seed) = seed {
        command.env("TIDEWHEEL_SEED", seed);
    }
    command.output().unwrap()
}

#[test]
fn simulation_finds_a_fault_and_replays_it() {
    let passed = simulate(&[], None);
    assert!(passed.status.success(), "{}", String::from_utf8_lossy(&passed.stderr));
    assert_eq!(passed.stdout, b"all seeds passed\n");

    let failed = simulate(&["careless"], None);
    assert!(!failed.status.success());
    let report = String::from_utf8(failed.stderr).unwrap();
    let (_, seed) = report.split_once("replay with TIDEWHEEL_SEED=").expect("the seed is printed");
    let again = simulate(&["careless"], Some(seed.trim()));
    assert!(!again.status.success());
    let steps = |report: &str| -> Vec<String> {
        let (_, steps) =
            report.split_once("the last steps of the simulation").expect("the steps are printed");
        steps.lines().map(str::to_owned).collect()
    };
    assert_eq!(steps(&String::from_utf8(again.stderr).unwrap()), steps(&report), "the same in every step");
}
