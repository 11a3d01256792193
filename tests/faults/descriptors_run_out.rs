//! Descriptors run out while connections are open.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::{PAUSE_MS, assert_served};
use crate::harness::program::Server;
use crate::harness::{ask, expect, now};

/// A server without a descriptor to spare, connections that it has, and some that it cannot accept, which have sent
/// `waiting` already.
fn exhausted(mut server: Server, live: usize, waiting: usize) -> (Server, Vec<TcpStream>, Vec<TcpStream>) {
    server.limit_descriptors(live as u64);
    let mut live: Vec<_> = (0..live).map(|_| server.tcp("echo")).collect();
    live.iter_mut().for_each(|stream| assert_served(stream));
    let waiting = (0..waiting)
        .map(|_| {
            let mut stream = server.tcp("echo");
            stream.write_all(b"waiting").unwrap();
            stream
        })
        .collect();
    server.await_err("is paused: Too many open files");
    (server, live, waiting)
}

#[test]
fn the_listener_rests_and_live_connections_go_on() {
    const ASKED: u64 = 1000;
    let begun = now();
    let (mut server, mut live, mut waiting) = exhausted(Server::start(["echo=:0"]), 10, 5);

    let before = server.counters();
    for round in 0..ASKED as usize {
        ask(&mut live[round % 10], b"question", b"question");
    }
    let after = server.counters();
    assert_eq!(after["connections_accepted"], 10);
    assert_eq!(after["connections_open"], 10);
    // It tries again after each pause and at no other time, however many turns there are: however slow the machine is,
    // that can only make it less often.
    let tried = after["accepts_exhausted"];
    let allowed = (begun.elapsed().as_millis() / PAUSE_MS) as u64 + 2;
    assert!(tried >= 1 && tried <= allowed, "{tried} tries where {allowed} are allowed");
    let turns = after["turns"] - before["turns"];
    assert!(turns <= 2 * ASKED + allowed + 10, "{turns} turns for {ASKED} questions: it spins");

    // One that leaves makes room for the first that waits, and nobody has to ask for it.
    drop(live.pop());
    expect(&mut waiting[0], b"waiting");
    live.iter_mut().for_each(|stream| assert_served(stream));
    // With room for all, all are served.
    server.unlimit_descriptors();
    waiting[1..].iter_mut().for_each(|stream| expect(stream, b"waiting"));
    server.await_err("is resumed");
    assert_served(&mut server.tcp("echo"));
    live.iter_mut().chain(&mut waiting).for_each(|stream| assert_served(stream));
    drop((live, waiting));
    server.stop();
}

#[test]
fn each_listener_rests_for_itself() {
    let (mut server, mut live, mut waiting) = exhausted(Server::start(["echo=:0", "uppercase=:0"]), 3, 2);
    let mut other = server.tcp("uppercase");
    other.write_all(b"waiting").unwrap();
    server.await_err("is paused: Too many open files");
    live.iter_mut().for_each(|stream| assert_served(stream));
    server.unlimit_descriptors();
    expect(&mut other, b"WAITING");
    waiting.iter_mut().for_each(|stream| expect(stream, b"waiting"));
    drop((live, waiting, other));
    server.stop();
}

#[test]
#[ignore = "long: how often it tries, what that costs, and how soon it accepts again"]
fn the_cost_of_having_no_descriptors() {
    let (mut server, mut live, mut waiting) = exhausted(Server::start_for_long(["echo=:0"]), 100, 100);
    let (tried, used, begun) = (server.counters()["accepts_exhausted"], server.processor_time(), now());
    std::thread::sleep(Duration::from_secs(10));
    let seconds = begun.elapsed().as_secs_f64();
    let tried = server.counters()["accepts_exhausted"] - tried;
    let used = (server.processor_time() - used).as_secs_f64();

    let mut resumed = Vec::new();
    for stream in &mut waiting {
        let freed = now();
        drop(live.remove(0));
        expect(stream, b"waiting");
        resumed.push(freed.elapsed().as_secs_f64() * 1e3);
    }
    let worst = resumed.iter().copied().fold(0.0, f64::max);
    println!(
        "row 1: {:.0} failed accepts/s, CPU {:.1} %, accepts again after {:.0} ms on average, {worst:.0} ms at worst",
        tried as f64 / seconds,
        100.0 * used / seconds,
        resumed.iter().sum::<f64>() / resumed.len() as f64
    );
    drop((live, waiting));
    server.stop();
}
