//! Load on a chat: one speaks, all others in the room hear it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use mio::net::TcpStream;

use crate::cycle::{Cycle, WINDOW_BYTES};
use crate::load::{Load, Waiting, now};

const READ_BYTES: usize = 64 << 10;

/// The name of the one who speaks.
const SPEAKER: &str = "speaker";

/// A room.
pub struct Fanout {
    waiting: Waiting,
    speaker: TcpStream,
    hearers: Vec<Hearer>,
    lines: Cycle,
    heard: Cycle,
    depth: u64,
    input: Vec<u8>,
    /// Lines that all have heard.
    finished: u64,
    /// How many have heard each of the lines that are in flight, by the number of the line modulo the depth.
    counts: Vec<usize>,
    /// How much of the stream of lines has been said.
    said: u64,
}

struct Hearer {
    stream: TcpStream,
    /// How much of the stream of lines it has heard.
    heard: u64,
}

impl Fanout {
    /// Sits so many down in a room, and the one who speaks, who keeps `depth` lines in flight.
    pub fn connect(address: SocketAddr, hearers: usize, depth: usize, line_bytes: usize) -> Fanout {
        let waiting = Waiting::new();
        let hearer = |index| {
            let stream = waiting.register(join(address, &format!("m{index}")), index);
            Hearer { stream, heard: 0 }
        };
        let hearers: Vec<_> = (0..hearers).map(hearer).collect();
        let speaker = waiting.register(join(address, SPEAKER), hearers.len());
        Fanout {
            waiting,
            speaker,
            hearers,
            lines: Cycle::lines(line_bytes),
            heard: Cycle::lines_of(SPEAKER, line_bytes),
            depth: depth as u64,
            input: vec![0; READ_BYTES],
            finished: 0,
            counts: vec![0; depth],
            said: 0,
        }
    }

    /// Says lines up to the one with this number, as far as there is room; of what is left an event will tell.
    fn say_until(&mut self, line: u64) {
        let end = line * self.lines.message_len();
        while self.said < end {
            let bytes = self.lines.from(self.said, (end - self.said).min(WINDOW_BYTES as u64) as usize);
            match self.speaker.write(bytes) {
                Ok(count) => self.said += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server broke the speaker off: {error}"),
            }
        }
    }

    /// Reads what has come for one of the hearers and checks it.
    fn hear(&mut self, index: usize) {
        let Some(hearer) = self.hearers.get_mut(index) else {
            // Nobody hears what they say themselves.
            let nothing = self.speaker.read(&mut self.input).map_err(|error| error.kind());
            return assert_eq!(nothing, Err(ErrorKind::WouldBlock), "the speaker was told something");
        };
        let before = hearer.heard / self.heard.message_len();
        loop {
            match hearer.stream.read(&mut self.input) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(count) => {
                    let right = self.heard.from(hearer.heard, count);
                    assert!(self.input[..count] == *right, "a wrong line was heard");
                    hearer.heard += count as u64;
                    if count < self.input.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server broke a connection off: {error}"),
            }
        }
        for line in before..hearer.heard / self.heard.message_len() {
            let count = &mut self.counts[(line % self.depth) as usize];
            *count += 1;
            if *count == self.hearers.len() {
                *count = 0;
                self.finished += 1;
            }
        }
    }
}

/// Connects, is asked for a nickname and welcomed.
fn join(address: SocketAddr, nick: &str) -> StdStream {
    let stream = StdStream::connect(address).expect("the server listens");
    let mut reader = BufReader::new(&stream);
    let mut prompt = [0; b"nickname: ".len()];
    reader.read_exact(&mut prompt).expect("the server asks for a nickname");
    (&stream).write_all(format!("{nick}\n").as_bytes()).expect("the connection is open");
    let mut welcome = String::new();
    reader.read_line(&mut welcome).expect("the server welcomes everybody");
    assert!(welcome.starts_with("* welcome") && reader.buffer().is_empty(), "{nick} is told: {welcome}");
    stream
}

impl Load for Fanout {
    fn elements(&self) -> u64 {
        self.hearers.len() as u64 * self.depth
    }

    /// The next line is said when the one that is `depth` before it was heard by all.
    fn run(&mut self, iterations: u64) -> Duration {
        let end = self.finished + self.depth * iterations;
        let begun = now();
        self.say_until(self.finished + self.depth);
        let mut ready = Vec::new();
        while self.finished < end {
            ready.extend(
                self.waiting.wait().iter().filter(|event| event.is_readable()).map(|event| event.token().0),
            );
            for index in ready.drain(..) {
                self.hear(index);
            }
            self.say_until((self.finished + self.depth).min(end));
        }
        begun.elapsed()
    }
}
