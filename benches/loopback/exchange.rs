//! Load on streams that answer each byte with one: so many requests in flight on each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};

use crate::cycle::{Cycle, WINDOW_BYTES};
use crate::load::{Load, Waiting, now};

/// Bytes that one read asks for.
const READ_BYTES: usize = 64 << 10;

/// Connections with requests in flight.
pub struct Exchange {
    waiting: Waiting,
    conns: Vec<Conn>,
    asks: Cycle,
    answers: Cycle,
    depth: u64,
    input: Vec<u8>,
}

/// A connection, and how far it is: places in the streams of what is asked and answered.
struct Conn {
    stream: TcpStream,
    /// So much may be asked.
    allowed: u64,
    asked: u64,
    answered: u64,
}

impl Exchange {
    /// Connects. What `asks` and `answers` say is of the same length.
    pub fn connect(
        address: SocketAddr,
        connections: usize,
        depth: usize,
        (asks, answers): (Cycle, Cycle),
    ) -> Exchange {
        let waiting = Waiting::new();
        let connect = |index| {
            let stream = std::net::TcpStream::connect(address).expect("the server listens");
            let stream = waiting.register(stream, index);
            let start = asks.start(index);
            Conn { stream, allowed: start, asked: start, answered: start }
        };
        let conns = (0..connections).map(connect).collect();
        Exchange { waiting, conns, asks, answers, depth: depth as u64, input: vec![0; READ_BYTES] }
    }
}

impl Conn {
    /// Sends what may be asked, as far as there is room for it; of what is left an event will tell.
    fn ask(&mut self, asks: &Cycle) {
        while self.asked < self.allowed {
            let bytes = asks.from(self.asked, (self.allowed - self.asked).min(WINDOW_BYTES as u64) as usize);
            match self.stream.write(bytes) {
                Ok(count) => self.asked += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server broke a connection off: {error}"),
            }
        }
    }

    /// Reads what has come and checks it. Returns how many answers are complete that were not.
    fn hear(&mut self, answers: &Cycle, input: &mut [u8]) -> u64 {
        let before = self.answered / answers.message_len();
        loop {
            match self.stream.read(input) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(count) => {
                    assert!(input[..count] == *answers.from(self.answered, count), "a wrong answer came");
                    self.answered += count as u64;
                    if count < input.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server broke a connection off: {error}"),
            }
        }
        assert!(self.answered <= self.asked, "there are more answers than questions");
        self.answered / answers.message_len() - before
    }
}

impl Load for Exchange {
    fn elements(&self) -> u64 {
        self.conns.len() as u64 * self.depth
    }

    /// Every connection begins with as many requests as it may have in flight, and each answer permits one more, on the
    /// same connection, as long as there are any left.
    fn run(&mut self, iterations: u64) -> Duration {
        let Exchange { waiting, conns, asks, answers, depth, input } = self;
        let len = asks.message_len();
        let mut unanswered = conns.len() as u64 * *depth * iterations;
        let mut left = unanswered;
        let begun = now();
        for conn in &mut *conns {
            conn.allowed += *depth * len;
            left -= *depth;
            conn.ask(asks);
        }
        while unanswered > 0 {
            for event in waiting.wait() {
                let conn = &mut conns[event.token().0];
                if event.is_readable() {
                    let count = conn.hear(answers, input);
                    unanswered -= count;
                    let more = count.min(left);
                    left -= more;
                    conn.allowed += more * len;
                }
                conn.ask(asks);
            }
        }
        begun.elapsed()
    }
}

impl Waiting {
    /// Has events of a connection told under its index.
    pub fn register(&self, stream: std::net::TcpStream, index: usize) -> TcpStream {
        stream.set_nodelay(true).expect("TCP knows this option");
        stream.set_nonblocking(true).expect("every socket can");
        let mut stream = TcpStream::from_std(stream);
        self.registry()
            .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
            .expect("the system has memory for an event");
        stream
    }
}
