//! Load of datagrams on a server that sends each back with the time before it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use jiff::tz::TimeZone;
use mio::net::UdpSocket;
use mio::{Interest, Token};

use crate::cycle::Cycle;
use crate::load::{Load, Waiting, now};
use crate::threads::{TIME_BYTES, time_text, unix_seconds};

/// The clock may have moved on since a reply was made, and the server makes the time once a second.
const LATE_SECONDS: i64 = 5;

/// Sockets that ask.
pub struct Datagrams {
    waiting: Waiting,
    sources: Vec<Source>,
    messages: Cycle,
    /// Indices of sources that may ask, each as often as it may.
    permitted: VecDeque<usize>,
    /// So many datagrams may be in flight in all.
    in_flight_max: usize,
    in_flight: usize,
    elements: u64,
    clock: Clock,
    input: Vec<u8>,
}

struct Source {
    socket: UdpSocket,
    /// Places in the stream of messages.
    asked: u64,
    answered: u64,
}

impl Datagrams {
    /// So many sources with `depth` datagrams each in flight, but no more than `in_flight_max` in all: what finds no room
    /// in the server's buffer would be lost.
    pub fn new(
        address: SocketAddr,
        sources: usize,
        depth: usize,
        message_bytes: usize,
        in_flight_max: usize,
    ) -> Datagrams {
        let waiting = Waiting::new();
        let messages = Cycle::lines(message_bytes);
        let source = |index| {
            let mut socket =
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
            socket.connect(address).expect("loopback is reachable");
            let registered = waiting.registry().register(&mut socket, Token(index), Interest::READABLE);
            registered.expect("the system has memory for an event");
            let start = messages.start(index);
            Source { socket, asked: start, answered: start }
        };
        let all: Vec<_> = (0..sources).map(source).collect();
        Datagrams {
            waiting,
            sources: all,
            messages,
            permitted: (0..depth).flat_map(|_| 0..sources).collect(),
            in_flight_max,
            in_flight: 0,
            elements: (sources * depth) as u64,
            clock: Clock::default(),
            input: vec![0; TIME_BYTES + message_bytes + 1],
        }
    }

    /// Asks as often as is permitted, `left` times at most.
    fn ask(&mut self, left: &mut u64) {
        while *left > 0 && self.in_flight < self.in_flight_max {
            let Some(index) = self.permitted.pop_front() else { return };
            let source = &mut self.sources[index];
            let message = self.messages.from(source.asked, self.messages.message_len() as usize);
            let sent = source.socket.send(message).expect("loopback takes a datagram at once");
            assert_eq!(sent, message.len(), "a datagram is sent whole or not at all");
            source.asked += self.messages.message_len();
            self.in_flight += 1;
            *left -= 1;
        }
    }

    /// Receives the answers for one source and checks them. Returns how many there were.
    fn hear(&mut self, index: usize) -> u64 {
        let source = &mut self.sources[index];
        let mut count = 0;
        // When nothing is due any more nothing can have come.
        while source.answered < source.asked {
            let len = match source.socket.recv(&mut self.input) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server is gone: {error}"),
            };
            let right = self.messages.from(source.answered, self.messages.message_len() as usize);
            let (time, message) = self.input[..len].split_at(TIME_BYTES.min(len));
            assert!(message == right, "a wrong answer came");
            self.clock.check(time);
            source.answered += self.messages.message_len();
            self.permitted.push_back(index);
            self.in_flight -= 1;
            count += 1;
        }
        count
    }
}

/// What the time is, as text.
#[derive(Default)]
struct Clock {
    /// What was right last, which it still is as a rule.
    last: Vec<u8>,
}

impl Clock {
    /// Panics if that is not the time.
    fn check(&mut self, time: &[u8]) {
        if time == self.last {
            return;
        }
        let (now, zone) = (unix_seconds(), TimeZone::system());
        let is_right = (now - LATE_SECONDS..=now).any(|at| time_text(at, &zone).as_bytes() == time);
        assert!(is_right, "a wrong time came: {}", time.escape_ascii());
        self.last = time.to_vec();
    }
}

impl Load for Datagrams {
    fn elements(&self) -> u64 {
        self.elements
    }

    fn run(&mut self, iterations: u64) -> Duration {
        let mut unanswered = self.elements * iterations;
        let mut left = unanswered;
        let begun = now();
        let mut ready = Vec::new();
        self.ask(&mut left);
        while unanswered > 0 {
            ready.extend(self.waiting.wait().iter().map(|event| event.token().0));
            for index in ready.drain(..) {
                unanswered -= self.hear(index);
                self.ask(&mut left);
            }
        }
        begun.elapsed()
    }
}
