//! Load of connections that come and go: each exchanges one message and is closed, and the next one takes its place.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::SockRef;

use crate::cycle::Cycle;
use crate::load::{Load, Waiting, now};

const READ_BYTES: usize = 64 << 10;

/// Connections to a server that echoes.
pub struct Churn {
    waiting: Waiting,
    address: SocketAddr,
    places: usize,
    messages: Cycle,
    /// How many connections there were.
    begun: usize,
    input: Vec<u8>,
}

struct Conn {
    stream: TcpStream,
    /// Where in the stream of messages its own begins.
    start: u64,
    asked: u64,
    answered: u64,
}

impl Churn {
    /// So many connections at a time, each with one message of so many bytes.
    pub fn new(address: SocketAddr, places: usize, message_bytes: usize) -> Churn {
        Churn {
            waiting: Waiting::new(),
            address,
            places,
            messages: Cycle::lines(message_bytes),
            begun: 0,
            input: vec![0; READ_BYTES],
        }
    }

    fn connect(&mut self, place: usize) -> Conn {
        let mut stream = TcpStream::connect(self.address).expect("loopback has a free port");
        // Closing is a reset: the ports of connections that end in the ordinary way rest for a while, and there would
        // soon be none left.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("TCP knows this option");
        let registered = self.waiting.registry().register(
            &mut stream,
            Token(place),
            Interest::READABLE | Interest::WRITABLE,
        );
        registered.expect("the system has memory for an event");
        self.begun += 1;
        let mut conn = Conn { stream, start: self.messages.start(self.begun), asked: 0, answered: 0 };
        // On loopback it is established by now, as a rule.
        conn.ask(&self.messages);
        conn
    }
}

impl Conn {
    fn ask(&mut self, messages: &Cycle) {
        while self.asked < messages.message_len() {
            let bytes =
                messages.from(self.start + self.asked, (messages.message_len() - self.asked) as usize);
            match self.stream.write(bytes) {
                Ok(count) => self.asked += count as u64,
                // Not connected yet, or no room.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return;
                }
                Err(error) => panic!("a connection failed: {error}"),
            }
        }
    }

    /// Whether the answer is complete.
    fn hear(&mut self, messages: &Cycle, input: &mut [u8]) -> bool {
        while self.answered < messages.message_len() {
            match self.stream.read(input) {
                Ok(0) => panic!("the server closed a connection before its answer"),
                Ok(count) => {
                    let right = messages.from(self.start + self.answered, count);
                    assert!(input[..count] == *right, "a wrong answer came");
                    self.answered += count as u64;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return false;
                }
                Err(error) => panic!("a connection failed: {error}"),
            }
        }
        true
    }
}

impl Load for Churn {
    fn elements(&self) -> u64 {
        self.places as u64
    }

    fn run(&mut self, iterations: u64) -> Duration {
        let mut unanswered = self.elements() * iterations;
        let mut left = unanswered - self.elements();
        let begun = now();
        let mut conns: Vec<_> = (0..self.places).map(|place| Some(self.connect(place))).collect();
        let mut ready = Vec::new();
        while unanswered > 0 {
            ready.extend(self.waiting.wait().iter().map(|event| event.token().0));
            for place in ready.drain(..) {
                // One that has been closed meanwhile may have left an event.
                let Some(conn) = &mut conns[place] else { continue };
                conn.ask(&self.messages);
                if !conn.hear(&self.messages, &mut self.input) {
                    continue;
                }
                unanswered -= 1;
                conns[place] = None;
                if left > 0 {
                    left -= 1;
                    conns[place] = Some(self.connect(place));
                }
            }
        }
        begun.elapsed()
    }
}
