//! Thousands of people in a chat room who do not read, for the figures: what those who read notice, and what it costs.
//!
//! Lines are said when the plan says, whatever comes back, and a delivery's time counts from the plan. The server has
//! a processor to itself.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::stopped_receivers::{enter, enter_to_stop};
use crate::harness::load::{p99_ratio, stay_on};
use crate::harness::program::Server;
use crate::harness::{PATIENCE, has_descriptors, now};

const LINE_BYTES: usize = 64;
const LARGE_LINE_BYTES: usize = 16 << 10;

/// The room: one who talks, and those who read.
struct Room {
    server: Server,
    talker: std::net::TcpStream,
    healthy: Vec<Reader>,
    /// Of those who have entered, how many are still there.
    people: usize,
    poll: Poll,
    events: Events,
    lines: u64,
}

struct Reader {
    stream: TcpStream,
    /// The beginning of a line.
    begun: Vec<u8>,
    /// How many lines it has heard.
    heard: u64,
}

fn line(number: u64, bytes: usize) -> String {
    format!("{number:08} {}\n", "x".repeat(bytes - 10))
}

impl Room {
    /// So many who will not read enter first, for those who came first are also written to first.
    fn new(stopped: usize, healthy: usize) -> (Room, Vec<std::net::TcpStream>) {
        stay_on(0);
        let args = ["chat=:0", "--chat-rate=0", "--chat-announce-max=1"];
        let server = Server::start_for_long(args);
        stay_on(1);
        let talker = enter(&server.tcp_address("chat"), "talker", 1);
        let mut room = Room {
            server,
            talker,
            healthy: Vec::new(),
            people: 1,
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(1024),
            lines: 0,
        };
        let stopped = room.let_stopped_enter(stopped);
        for number in 0..healthy {
            room.people += 1;
            let stream = enter(&room.server.tcp_address("chat"), &format!("h{number}"), room.people);
            stream.set_nonblocking(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            room.poll.registry().register(&mut stream, Token(number), Interest::READABLE).unwrap();
            room.healthy.push(Reader { stream, begun: Vec::new(), heard: 0 });
        }
        (room, stopped)
    }

    /// Lets so many enter who will not read.
    fn let_stopped_enter(&mut self, count: usize) -> Vec<std::net::TcpStream> {
        let address = self.server.tcp_address("chat");
        let enter = |number| {
            self.people += 1;
            enter_to_stop(&address, &format!("s{number}"), self.people)
        };
        (0..count).map(enter).collect()
    }

    fn let_leave(&mut self, stopped: Vec<std::net::TcpStream>) {
        drop(stopped);
        self.people = self.healthy.len() + 1;
        let open = self.people as u64;
        self.server.await_counters("they are gone", |counters| counters["connections_open"] == open);
    }

    /// Says a line of so many bytes every so often, and returns how long each delivery to those who read took.
    fn talk(&mut self, bytes: usize, every: Duration, lines: u64) -> Histogram<u64> {
        let mut times = Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap();
        let Room { talker, healthy, poll, events, lines: first, .. } = self;
        let last = *first + lines;
        let begun = now();
        let due = |number: u64| begun + every * (number - *first) as u32;
        let texts: Vec<_> = (*first..last).map(|number| line(number, bytes)).collect();
        let heard_len = "talker: ".len() + bytes;
        let (mut said, mut all_heard) = (*first, 0);
        let mut buffer = vec![0; 256 << 10];
        while all_heard < healthy.len() {
            if said < last && now() >= due(said) {
                talker.write_all(texts[(said - *first) as usize].as_bytes()).unwrap();
                said += 1;
            }
            assert!(begun.elapsed() < every * lines as u32 + PATIENCE, "{all_heard} have heard everything");
            poll.poll(events, Some(Duration::ZERO)).unwrap();
            for event in &*events {
                let Reader { stream, begun, heard } = &mut healthy[event.token().0];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => panic!("somebody who reads was closed"),
                        Ok(count) => {
                            begun.extend_from_slice(&buffer[..count]);
                            if count < buffer.len() {
                                break;
                            }
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock);
                            break;
                        }
                    }
                }
                let at = now();
                let whole = begun.len() / heard_len * heard_len;
                for got in begun[..whole].chunks_exact(heard_len) {
                    assert!(
                        got.strip_prefix(b"talker: ") == Some(texts[(*heard - *first) as usize].as_bytes())
                    );
                    times.saturating_record((at - due(*heard)).as_nanos() as u64);
                    *heard += 1;
                }
                begun.drain(..whole);
                all_heard += usize::from(whole > 0 && *heard == last);
            }
        }
        *first = last;
        times
    }

    /// Talks until nothing goes out to anybody but those who read: what others do not read waits in the server.
    fn talk_until_blocked(&mut self) {
        let (mut quiet, mut before) = (0, self.server.counters()["bytes_out"]);
        while quiet < 3 {
            self.talk(LARGE_LINE_BYTES, Duration::ZERO, 1);
            let after = self.server.counters()["bytes_out"];
            let heard = self.healthy.len() * ("talker: ".len() + LARGE_LINE_BYTES);
            quiet = if after - before == heard as u64 { quiet + 1 } else { 0 };
            before = after;
        }
    }

    fn evicted(&mut self) -> u64 {
        let counters = self.server.counters();
        let evicted = counters
            .iter()
            .filter(|(name, _)| name.starts_with("closed_output") || *name == "closed_memory_limit");
        evicted.map(|(_, count)| count).sum()
    }
}

fn describe(times: &Histogram<u64>) -> String {
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    format!(
        "{} deliveries, p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        times.len(),
        micros(0.5),
        micros(0.99),
        micros(1.0)
    )
}

#[test]
#[ignore = "long: thousands who do not read beside a hundred who do"]
fn a_hundred_beside_thousands_who_do_not_read() {
    const EVERY: Duration = Duration::from_millis(10);
    for (stopped, bytes) in [(5_000, LINE_BYTES), (10_000, LINE_BYTES), (10_000, 1 << 10)] {
        if !has_descriptors(stopped as u64 + 500).unwrap() {
            return;
        }
        let (mut room, _) = Room::new(0, 100);
        room.talk(bytes, EVERY, 100);
        let used = room.server.processor_time();
        let alone = room.talk(bytes, EVERY, 300);
        let used_alone = room.server.processor_time() - used;
        let at_first = room.server.resident_kib();
        room.server.stop();
        let (mut room, some) = Room::new(stopped, 100);
        let entered = room.server.resident_kib();
        room.talk_until_blocked();
        let (blocked, used, turns) =
            (room.server.resident_kib(), room.server.processor_time(), room.server.counters()["turns"]);
        let beside = room.talk(bytes, EVERY, 300);
        let used = room.server.processor_time() - used;
        let turns = room.server.counters()["turns"] - turns;
        println!(
            "row 12: lines of {bytes} bytes; alone {}, {used_alone:?} of CPU; beside {stopped} who do not read {}, \
             {used:?} of CPU in {turns} turns: p99 x {:.2}; memory {at_first} KiB, with all of them {entered}, blocked {blocked}, then {}, at \
             most {}; {} evicted",
            describe(&alone),
            describe(&beside),
            p99_ratio(&beside, &alone),
            room.server.resident_kib(),
            room.server.peak_kib(),
            room.evicted(),
        );
        room.let_leave(some);
        room.server.stop();
    }
}

#[test]
#[ignore = "long: one in a hundred does not read"]
fn a_thousand_of_whom_one_in_a_hundred_does_not_read() {
    const STOPPED: usize = 10;
    const ROUNDS: usize = 9;
    const EVERY: Duration = Duration::from_millis(20);
    const LINES: u64 = 100;
    let (mut room, _) = Room::new(0, 1000 - STOPPED);
    room.talk(LINE_BYTES, EVERY, 100);
    let (mut p50, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let used = room.server.processor_time();
        let without = room.talk(LINE_BYTES, EVERY, LINES);
        let used_without = room.server.processor_time() - used;
        let some = room.let_stopped_enter(STOPPED);
        room.talk_until_blocked();
        let used = room.server.processor_time();
        let with = room.talk(LINE_BYTES, EVERY, LINES);
        cpu.push((room.server.processor_time() - used).as_secs_f64() / used_without.as_secs_f64());
        room.let_leave(some);
        println!(
            "row 12: without {}; with {STOPPED} who do not read {}",
            describe(&without),
            describe(&with)
        );
        p50.push(crate::harness::load::ratio(&with, &without, 0.5));
        p99.push(p99_ratio(&with, &without));
    }
    p50.sort_by(f64::total_cmp);
    p99.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    println!(
        "row 12: one in a hundred does not read: p50 x {p50:.2?}, p99 x {p99:.2?}, CPU x {cpu:.2?}, {} evicted",
        room.evicted()
    );
    room.server.stop();
}
