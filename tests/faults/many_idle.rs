//! Thousands of idle connections beside busy ones.

use std::time::Duration;

use crate::harness::load::{ask_together, describe, p99_ratio, stay_on};
use crate::harness::program::Server;
use crate::harness::{ask, has_descriptors};

#[test]
fn idle_connections_are_there_when_they_are_needed() {
    let mut server = Server::start(["echo=:0"]);
    let mut idle: Vec<_> = (0..300).map(|_| server.tcp("echo")).collect();
    let mut busy: Vec<_> = (0..5).map(|_| server.tcp("echo")).collect();
    for _ in 0..100 {
        busy.iter_mut().for_each(|stream| ask(stream, b"question", b"question"));
    }
    idle.iter_mut().for_each(|stream| ask(stream, b"woken", b"woken"));
    assert_eq!(server.counters()["connections_open"], 305);
    drop((idle, busy));
    server.stop();
}

#[test]
#[ignore = "long: ten thousand idle beside fifty busy"]
fn ten_thousand_idle_beside_fifty_busy() {
    const MANY: usize = 10_000;
    if !has_descriptors(MANY as u64 + 500).unwrap() {
        return;
    }
    stay_on(0);
    let mut server = Server::start_for_long(["echo=:0"]);
    stay_on(1);
    let mut busy: Vec<_> = (0..50).map(|_| server.tcp("echo")).collect();
    ask_together(&mut busy, Duration::from_secs(1));
    let without = ask_together(&mut busy, Duration::from_secs(5));
    let before = server.resident_kib();
    let mut idle: Vec<_> = (0..MANY).map(|_| server.tcp("echo")).collect();
    idle.iter_mut().for_each(|stream| ask(stream, b"a line\n", b"a line\n"));
    let memory = server.resident_kib() - before;
    let with = ask_together(&mut busy, Duration::from_secs(5));

    // Nothing happens: then nothing is done either.
    let (first, used) = (server.counters(), server.processor_time());
    std::thread::sleep(Duration::from_secs(5));
    let (second, used) = (server.counters(), server.processor_time() - used);
    idle.iter_mut().for_each(|stream| ask(stream, b"woken", b"woken"));
    println!(
        "{MANY} idle: {} bytes of memory each; busy: {} without, {} with them: p99 x {:.2}; at rest {} turns and \
         {used:?} of CPU in 5 s",
        memory * 1024 / MANY as u64,
        describe(&without),
        describe(&with),
        p99_ratio(&with, &without),
        second["turns"] - first["turns"] - 1
    );
    drop((idle, busy));
    server.stop();
}
