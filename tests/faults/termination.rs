//! The program is told to stop while replies are under way.

use std::fs;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;

use super::{has_strace, under_strace_to};
use crate::harness::program::Server;
use crate::harness::{Folder, PATIENCE, ask, pattern, send_what_goes, unix};

const MESSAGE_BYTES: usize = 64;

/// Sends numbered messages, several ahead of their replies, until the end, and returns how many replies came.
fn pipeline(
    mut stream: impl Read + Write,
    peer: usize,
    depth: usize,
    answered: &mpsc::Sender<usize>,
) -> usize {
    let message = |number: usize| format!("{peer:031}:{number:031}\n");
    let (mut sent, mut came) = (0, 0);
    let mut reply = [0; MESSAGE_BYTES];
    loop {
        while sent < came + depth && stream.write_all(message(sent).as_bytes()).is_ok() {
            sent += 1;
        }
        let mut have = 0;
        while have < MESSAGE_BYTES {
            match stream.read(&mut reply[have..]) {
                Ok(count @ 1..) => have += count,
                // Whoever is too slow for the time to linger sees a reset, behind the last reply too.
                end => {
                    assert_eq!(have, 0, "the last reply is cut after {have} bytes: {end:?}");
                    return came;
                }
            }
        }
        assert_eq!(String::from_utf8_lossy(&reply), message(came));
        came += 1;
        if came % 50 == 0 {
            // The test has heard enough by then.
            let _ = answered.send(peer);
        }
    }
}

fn terminate_under_load(peers: usize, depth: usize) -> (usize, f64) {
    let folder = Folder::new();
    let mut server = Server::start(["echo=:0".to_owned(), format!("echo={}", folder.unix("echo"))]);
    let (answered, is_answered) = mpsc::channel();
    let threads: Vec<_> = (0..peers)
        .map(|peer| {
            let answered = answered.clone();
            if peer % 4 == 0 {
                let stream = unix(&folder.unix("echo"));
                thread::spawn(move || pipeline(stream, peer, depth, &answered))
            } else {
                let stream = server.tcp("echo");
                thread::spawn(move || pipeline(stream, peer, depth, &answered))
            }
        })
        .collect();
    let mut heard = vec![0; peers];
    while heard.contains(&0) {
        heard[is_answered.recv_timeout(PATIENCE).expect("the peers are being served")] += 1;
    }
    let begun = crate::harness::now();
    server.signal(Signal::TERM);
    let replies = threads.into_iter().map(|thread| thread.join().expect("no reply is cut")).sum();
    server.await_err(&format!("{peers} connections closed in order, 0 broken off"));
    assert_eq!(server.wait().code(), Some(0));
    (replies, begun.elapsed().as_secs_f64() * 1e3)
}

#[test]
fn no_reply_is_cut_when_it_is_told_to_stop_under_load() {
    terminate_under_load(8, 16);
}

#[test]
#[ignore = "long: a hundred times"]
fn no_reply_is_cut_in_a_hundred_times() {
    let (mut replies, mut slowest) = (0, 0.0_f64);
    for _ in 0..100 {
        let (more, took) = terminate_under_load(8, 16);
        replies += more;
        slowest = slowest.max(took);
    }
    println!("row 21: 100 times, {replies} replies, 0 truncated; the slowest exit took {slowest:.0} ms");
}

#[test]
fn a_peer_that_leaves_before_its_reply_raises_no_signal() {
    if !has_strace() {
        return;
    }
    let folder = Folder::new();
    let log = folder.path("signals");
    let address = format!("echo={}", folder.unix("echo"));
    let mut server = under_strace_to(&log, &["trace=none", "signal=SIGPIPE"], &["echo=:0", address.as_str()]);
    let bytes = pattern(1 << 20);
    for round in 0..20 {
        // Those that read the beginning have a reply under way when they leave.
        let (mut tcp, mut local) = (server.tcp("echo"), unix(&folder.unix("echo")));
        send_what_goes(&mut tcp, &bytes);
        send_what_goes(&mut local, &bytes);
        if round % 2 == 0 {
            ask(&mut tcp, b"", &bytes[..1000]);
            ask(&mut local, b"", &bytes[..1000]);
        }
    }
    let counters = server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
    assert!(counters["closed_reset"] > 0, "nobody left too early: {counters:?}");
    server.stop();
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("SIGPIPE"), "{log}");
}
