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
    // Most of them have sent the next request when they learn that theirs was the last.
    let [answered, unanswered, reset] = counts(&mut server);
    assert_eq!((answered + unanswered, reset), (peers, 0));
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

/// How many connections were answered, closed unanswered, and reset, as the log says in the end.
fn counts(server: &mut Server) -> [usize; 3] {
    loop {
        let line = server.err_line();
        assert!(!line.is_empty(), "the log ends before it says how it went");
        if let Some((_, counts)) = line.split_once("stopped: ") {
            let words = counts.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
            let numbers: Vec<usize> = words.map(|word| word.parse().unwrap()).collect();
            return [numbers[0], numbers[1], numbers[2]];
        }
    }
}

/// Peers connect, and some send a request, while the server is stopped; it is told to end before it goes on.
fn terminate_with_a_backlog(http: usize, echo: usize, echo_bytes: usize) {
    let mut server = Server::start_for_long(["--drain-deadline", "60s", "http=:0", "echo=:0"]);
    let mut early: Vec<_> = (0..echo).map(|_| server.tcp("echo")).collect();
    early.iter_mut().for_each(|stream| crate::harness::ask(stream, b"hello", b"hello"));
    server.suspend();
    let request = b"GET / HTTP/1.1\r\nHost: me\r\n\r\n";
    let mut late: Vec<_> = (0..http).map(|_| server.tcp("http")).collect();
    late.iter_mut().for_each(|stream| stream.write_all(request).unwrap());
    let _silent = server.tcp("http");
    let bytes = pattern(echo_bytes);
    let sent: Vec<_> = early.iter_mut().map(|stream| send_what_goes(stream, &bytes)).collect();
    server.signal(Signal::TERM);
    server.resume();
    let (mut answered, mut announced) = (0, 0);
    for stream in &mut late {
        let (response, is_reset) = crate::harness::read_to_end(stream);
        let response = String::from_utf8_lossy(&response);
        assert!(!is_reset, "reset after {response:?}");
        announced += usize::from(response.contains("\r\nConnection: close\r\n"));
        answered += usize::from(response.ends_with("<h1>Hello world!</h1>"));
    }
    assert_eq!(answered, http, "each request that had come is answered");
    // The turn in which the signal is noticed may answer some before that.
    assert!(announced >= http / 2, "{announced} of {http} replies announced the end");
    for (stream, &count) in early.iter_mut().zip(&sent) {
        let (echoed, _) = crate::harness::read_to_end(stream);
        assert!(echoed == bytes[..count], "{} of {count} bytes came back", echoed.len());
    }
    assert_eq!(counts(&mut server), [http + echo + 1, 0, 0]);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn requests_that_stand_in_the_backlog_when_it_is_told_to_stop_are_answered() {
    terminate_with_a_backlog(300, 4, 60_000);
}

#[test]
#[ignore = "long: four thousand connections"]
fn four_thousand_requests_in_the_backlog_are_answered() {
    terminate_with_a_backlog(4000, 18, 60_000);
    println!(
        "row 27: 4000 requests in the accept backlog and 1 MiB in the receive buffers of 18 others: 0 lost"
    );
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
