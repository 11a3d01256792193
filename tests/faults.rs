//! What must hold when peers, the network or the machine misbehave, on the real system. The simulated counterpart is
//! in [`simulation`](crate::simulation).
//!
//! What `cargo test` runs here depends on no speed: it awaits events and counts. Longer runs are ignored by default;
//! each prints its figure: `cargo test --release -- --ignored --nocapture faults`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[cfg(feature = "cli")]
mod accept_errors;
mod accept_storm;
mod connection_limits;
#[cfg(feature = "cli")]
mod datagram_errors;
#[cfg(feature = "cli")]
mod descriptors_run_out;
mod floods;
mod half_close;
#[cfg(feature = "cli")]
mod interruptions;
mod largest_durations;
mod lingering;
#[cfg(feature = "cli")]
mod many_idle;
mod many_names;
#[cfg(feature = "cli")]
mod many_stopped;
#[cfg(feature = "cli")]
mod memory;
mod never_reads;
mod passed_descriptors;
mod pipelining;
mod resets;
mod slot_reuse;
mod slow_readers;
mod slowloris;
#[cfg(feature = "cli")]
mod standard_error;
#[cfg(feature = "cli")]
mod starting;
#[cfg(feature = "cli")]
mod stopped;
mod stopped_receivers;
#[cfg(feature = "cli")]
mod termination;
mod uppercase_split;
mod urgent_data;
mod vanished;

use std::io::{Read, Write};
use std::net::TcpStream;
#[cfg(feature = "cli")]
use std::path::Path;
use std::time::Duration;

use tidewheel::{ConnId, Context, Reactor, Service};

#[cfg(feature = "cli")]
use crate::harness::skipped::skip;
use crate::harness::{PATIENCE, now};

#[cfg(feature = "cli")]
use crate::harness::program::{Server, tidewheel_through};

/// How long what fails again and again is paused for; the default of [`tidewheel::Limits::failure_pause`].
#[cfg(feature = "cli")]
const PAUSE_MS: u128 = 50;

/// Answers whatever comes with one long text.
struct Burst {
    bytes: Vec<u8>,
    /// And is finished then.
    closes: bool,
}

impl Service for Burst {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.send(conn, &self.bytes);
        if self.closes {
            cx.close(conn);
        }
        bytes.len()
    }
}

/// Sends lines back once they are complete.
struct Lines;

impl Service for Lines {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        cx.send_some(conn, &bytes[..end])
    }
}

/// Reads in small pieces, as a peer far away would, until the end, a reset or as many bytes as were hoped for.
fn read_slowly(stream: &mut impl Read, hoped_for: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 20_011];
    while all.len() < hoped_for {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) => {
                eprintln!("after {} bytes: {error}", all.len());
                break;
            }
        }
    }
    all
}

/// Whether strace is there and may trace a program that is already running; skips the calling test if not.
#[cfg(feature = "cli")]
#[track_caller]
fn has_strace() -> bool {
    let probe = std::process::Command::new("strace")
        .args(["-D", "-o", "/dev/null", "-e", "inject=accept4:error=EINTR:when=1", "true"])
        .output();
    let has = probe.is_ok_and(|output| output.status.success());
    if !has {
        skip("needs strace, and that it may trace: apt-get install strace");
    }
    has
}

/// A program under strace, which makes system calls fail: each of `inject` is what follows `inject=`.
#[cfg(feature = "cli")]
fn under_strace(inject: &[&str], args: &[&str]) -> Server {
    let expressions: Vec<String> = inject.iter().map(|inject| format!("inject={inject}")).collect();
    let expressions: Vec<&str> = expressions.iter().map(String::as_str).collect();
    under_strace_to(Path::new("/dev/null"), &expressions, args)
}

/// A program under strace with these expressions, which writes what it sees to `log`.
#[cfg(feature = "cli")]
fn under_strace_to(log: &Path, expressions: &[&str], args: &[&str]) -> Server {
    let log = log.to_str().expect("the tests choose paths of ASCII");
    // With -D the program stays our child and strace watches it from aside; only the loop's thread is traced.
    let mut starter = vec!["strace", "-D", "-o", log];
    for expression in expressions {
        starter.extend(["-e", expression]);
    }
    Server::spawn(tidewheel_through(&starter, ["serve"].iter().chain(args))).ready()
}

/// Turns until each of these connections has so many bytes to read, and returns how many turns that took.
fn turn_until_answered<'a>(
    reactor: &mut Reactor,
    streams: impl IntoIterator<Item = &'a TcpStream> + Clone,
    len: usize,
) -> u64 {
    let answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let there = stream.peek(&mut vec![0; len]);
        stream.set_nonblocking(false).unwrap();
        there.is_ok_and(|count| count == len)
    };
    let begun = now();
    for turn in 1.. {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
        if streams.clone().into_iter().all(answered) {
            return turn;
        }
        assert!(begun.elapsed() < PATIENCE, "after {turn} turns somebody has no answer");
    }
    unreachable!("there are more numbers than turns")
}

/// Asks a few times, and every answer must be right.
#[track_caller]
fn assert_served(stream: &mut (impl Read + Write)) {
    for question in ["still", "there?", "yes\n"] {
        crate::harness::ask(stream, question.as_bytes(), question.as_bytes());
    }
}
