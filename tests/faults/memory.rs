//! Memory that peers make the server hold: it is counted as it is held, bounded by one limit, and given back.
//!
//! What is looked at is the resident memory of the program: never more than what it takes at rest, 1.25 times the limit,
//! and 4 MiB for the buffers of a turn.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::stopped_receivers::enter_to_stop;
use crate::harness::program::Server;
use crate::harness::{PATIENCE, await_that, expect, has_descriptors, now};

const MIB: u64 = 1 << 20;

/// A program with a memory limit, and what it takes at rest.
struct Bounded {
    server: Server,
    limit: u64,
    at_rest_kib: u64,
}

impl Bounded {
    fn start(service: &str, limit: u64, options: &[&str]) -> Bounded {
        let limit_option = format!("--max-memory={limit}");
        let address = format!("{service}=:0");
        let args = [&[address.as_str(), &limit_option, "--chat-rate=0", "--chat-burst=0"], options].concat();
        let mut server = Server::start_for_long(args);
        // The first connection brings what is allocated once.
        drop(server.tcp(service));
        server.await_counters("it is gone", |counters| {
            counters["connections_accepted"] == 1 && counters["connections_open"] == 0
        });
        let at_rest_kib = server.resident_kib();
        Bounded { server, limit, at_rest_kib }
    }

    #[track_caller]
    fn assert_bounded(&mut self, what: &str) {
        let peak = self.server.peak_kib().saturating_sub(self.at_rest_kib);
        println!("{what}: limit {} KiB, at most {peak} KiB above {}", self.limit >> 10, self.at_rest_kib);
        assert!(peak <= (self.limit * 5 / 4 + 4 * MIB) >> 10, "{what}: {peak} KiB more than at rest");
    }

    /// Waits until next to nothing is left of what those who are gone took.
    fn assert_given_back(&mut self) {
        self.server.await_counters("all are gone", |counters| {
            counters["connections_open"] == 0 && counters["memory_bytes"] == 0
        });
        let most = self.at_rest_kib + 4 * MIB / 1024;
        await_that("memory is given back", || (self.server.resident_kib() <= most).then_some(()));
        println!("given back: {} KiB after {}", self.server.resident_kib(), self.at_rest_kib);
    }
}

/// Connections that each send `text` and then nothing, or as much of it as is taken.
fn send_to(server: &Server, service: &str, count: usize, text: &[u8]) -> Vec<TcpStream> {
    let send = |_| {
        let mut stream = server.tcp(service);
        // Whoever is closed for holding the most may be so at any time.
        let _ = stream.write_all(text);
        stream
    };
    (0..count).map(send).collect()
}

/// A request whose head has so many bytes and no end.
fn unfinished_head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
    head.resize(bytes, b'a');
    head
}

fn unfinished_input(count: usize, limit: u64) {
    let mut bounded = Bounded::start("http", limit, &["--read-deadline=0"]);
    let streams = send_to(&bounded.server, "http", count, &unfinished_head(32_000));
    let sent = count as u64;
    bounded.server.await_counters("those who hold too much are closed", |counters| {
        let closed = counters["closed_memory_limit"];
        // In between, while one turn's closes were not enough, it may be a little more.
        closed + counters["connections_open"] == sent
            && (limit / 2..=limit).contains(&counters["memory_bytes"])
    });
    bounded.assert_bounded(&format!("{count} unfinished heads of 32,000 bytes"));
    drop(streams);
    bounded.assert_given_back();
    bounded.server.stop();
}

#[test]
fn unfinished_input_is_bounded_and_given_back() {
    unfinished_input(500, 2 * MIB);
}

#[test]
#[ignore = "long: 4,000 connections"]
fn four_thousand_unfinished_heads() {
    if has_descriptors(5_000).unwrap() {
        unfinished_input(4_000, 8 * MIB);
    }
}

/// Somebody who has said their name and gone to a room.
fn join(server: &Server, nick: &str, room: &str) -> TcpStream {
    let mut stream = server.tcp("chat");
    stream.write_all(format!("{nick}\n/join {room}\n").as_bytes()).unwrap();
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains("you are in") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0);
        heard.extend_from_slice(&piece[..count]);
    }
    stream
}

/// A room publishes much in one turn; in the next another one, in which somebody has stopped, publishes little.
fn large_turns_and_small_ones(rounds: usize, limit: u64) {
    const SPEAKERS: usize = 24;
    let mut bounded = Bounded::start("chat", limit, &["--chat-announce-max=1", "--output-soft-grace=10m"]);
    let server = &mut bounded.server;
    let mut loud: Vec<_> = (0..SPEAKERS).map(|number| join(server, &format!("a{number}"), "a")).collect();
    let stopped = enter_to_stop(&server.tcp_address("chat"), "stopped", 1);
    let mut quiet = server.tcp("chat");
    quiet.write_all(b"quiet\n").unwrap();
    expect(&mut quiet, b"nickname: * welcome to lobby, quiet: 2 people here; /help lists the commands\n");
    // Until the one who has stopped takes nothing any more.
    let line = [vec![b'z'; 4_000], b"\n".to_vec()].concat();
    let mut bytes_out = 0;
    await_that("somebody takes nothing", || {
        quiet.write_all(&line).unwrap();
        let counters = server.await_counters("it was said", |counters| {
            counters["memory_bytes"] > 0 || counters["bytes_out"] != bytes_out
        });
        bytes_out = counters["bytes_out"];
        (counters["memory_bytes"] > 0).then_some(())
    });
    let loud_line = [vec![b'x'; 30_000], b"\n".to_vec()].concat();
    let heard_each = (SPEAKERS - 1) * ("a0: ".len() + loud_line.len());
    let mut piece = vec![0; 1 << 20];
    for _ in 0..rounds {
        // All at once, so that it is one turn's.
        server.suspend();
        for stream in &mut loud {
            stream.write_all(&loud_line).unwrap();
        }
        server.resume();
        for stream in &mut loud {
            let mut heard = 0;
            // The names have one or two digits.
            while heard < heard_each {
                heard += stream.read(&mut piece).unwrap();
            }
        }
        quiet.write_all(&[vec![b'y'; 130], b"\n".to_vec()].concat()).unwrap();
    }
    let counters = server.counters();
    assert!(counters["memory_bytes"] > 0, "nobody has stopped");
    bounded.assert_bounded(&format!("{rounds} large turns and small ones"));
    drop((loud, quiet, stopped));
    bounded.assert_given_back();
    bounded.server.stop();
}

#[test]
fn a_small_turn_behind_a_large_one_keeps_little() {
    large_turns_and_small_ones(30, 2 * MIB);
}

#[test]
#[ignore = "long: the same for half a minute, with several limits"]
fn small_turns_behind_large_ones() {
    for limit in [8 * MIB, 256 * MIB] {
        large_turns_and_small_ones(700, limit);
    }
}

/// People who do not read in many rooms, who are told large lines: each room's are its own.
fn stopped_in_many_rooms(rooms: usize, lines: usize, limit: u64) {
    let mut bounded = Bounded::start(
        "chat",
        limit,
        &["--chat-announce-max=1", "--output-soft-limit=0", "--output-hard-limit=0"],
    );
    let server = &mut bounded.server;
    let address = server.tcp_address("chat");
    let mut people: Vec<_> = (0..rooms)
        .map(|number| {
            let mut stopped = enter_to_stop(&address, &format!("s{number}"), 1);
            stopped.write_all(format!("/join r{number}\n").as_bytes()).unwrap();
            (join(server, &format!("t{number}"), &format!("r{number}")), stopped)
        })
        .collect();
    let line = [vec![b'x'; 30_000], b"\n".to_vec()].concat();
    for _ in 0..lines {
        for (talker, _) in &mut people {
            talker.write_all(&line).unwrap();
        }
    }
    server.await_counters("somebody is closed", |counters| counters["closed_memory_limit"] > 0);
    let said = (rooms * lines) as u64;
    server.await_counters("all was said", |counters| counters["messages_in"] >= said);
    bounded.assert_bounded(&format!("{rooms} rooms, {lines} large lines in each"));
    drop(people);
    bounded.assert_given_back();
    bounded.server.stop();
}

#[test]
#[ignore = "long: what the system buffers for each comes first"]
fn large_lines_to_stopped_people_in_many_rooms() {
    stopped_in_many_rooms(60, 150, 8 * MIB);
}

/// Echo clients that never read, beside connections that never end their requests.
#[test]
#[ignore = "long: what the system buffers for each comes first"]
fn input_and_output_together() {
    let limit = 4 * MIB;
    let mut bounded =
        Bounded::start("echo", limit, &["http=:0", "--read-deadline=0", "--progress-timeout=0"]);
    let block = vec![b'e'; 64 << 10];
    let mut echoes: Vec<_> = (0..150).map(|_| bounded.server.tcp("echo")).collect();
    let mut moved_at = now();
    while moved_at.elapsed() < Duration::from_secs(1) {
        for stream in &mut echoes {
            // Whoever is closed for holding the most may be so at any time.
            if is_open(stream) && stream.write(&block).is_ok_and(|count| count > 0) {
                moved_at = now();
            }
        }
    }
    let heads = send_to(&bounded.server, "http", 400, &unfinished_head(20_000));
    let counters =
        bounded.server.await_counters("some are closed", |counters| counters["closed_memory_limit"] > 100);
    println!("{} closed", counters["closed_memory_limit"]);
    bounded.assert_bounded("echoes that are not read, and unfinished heads");
    drop((echoes, heads));
    bounded.assert_given_back();
    bounded.server.stop();
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Input that comes a byte at a time, on as many connections as there are descriptors for.
#[test]
#[ignore = "long: a byte at a time"]
fn a_byte_at_a_time() {
    let limit = 2 * MIB;
    let mut bounded = Bounded::start("http", limit, &["--read-deadline=0"]);
    let mut streams = send_to(&bounded.server, "http", 2_000, &unfinished_head(900));
    let begun = now();
    for byte in unfinished_head(600) {
        for stream in &mut streams {
            let _ = stream.write_all(&[byte]);
        }
        assert!(begun.elapsed() < 5 * PATIENCE);
    }
    bounded.assert_bounded("2,000 heads that come a byte at a time");
    drop(streams);
    bounded.assert_given_back();
    bounded.server.stop();
}

/// Lines as long as the whole limit.
#[test]
fn a_line_as_long_as_the_limit_is_bounded_too() {
    let limit = 4 * MIB;
    let mut bounded = Bounded::start("chat", limit, &["--max-line=4MiB", "--read-deadline=0"]);
    // With a newline first nothing but a newline ends a message.
    let text = [b"nick\n".to_vec(), vec![b'x'; 3 << 20]].concat();
    let streams = send_to(&bounded.server, "chat", 10, &text);
    let warning = "memory limit reached (--max-memory): closed the connections that use the most, 8 so far";
    bounded.server.await_err(warning);
    bounded.server.await_counters("some are closed", |counters| {
        counters["closed_memory_limit"] + counters["connections_open"] == 10
            && counters["closed_memory_limit"] >= 8
    });
    bounded.assert_bounded("ten lines of 3 MiB");
    drop(streams);
    bounded.assert_given_back();
    bounded.server.stop();
}
