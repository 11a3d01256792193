//! The loop: each connection keeps `depth` requests in flight, and a reply is what lets the next request go.
//!
//! One turn waits for readiness, reads whatever has come on every ready connection, then sends on each of them.
//! Reading all before writing any lets the requests leave together, so the server finds as many of them at once as
//! there were replies, and it keeps the verification in one place.
//!
//! ```text
//!     wait ─► read all ready ─► verify ─► service times
//!       ▲                                     │ connections with room for a request
//!       └──────────── send on each of them ◄──┘
//! ```
//!
//! mio is edge-triggered. A read ends the edge when it hits WouldBlock, or on TCP when it is shorter than the buffer,
//! unless the event told of an end or an error, which only a further read brings out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use crate::address::Address;
use crate::os::CpuClock;
use crate::stream::Stream;
use crate::text::Text;

/// One read takes this much at most: several requests of any common size.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Readiness taken from one wait. More connections than that take turns.
const EVENTS_MAX: usize = 1024;

/// Service times are kept to three digits from 1 ns; beyond the largest value they count as that.
const SERVICE_TIME_NS_MAX: u64 = 24 * 60 * 60 * 1_000_000_000;

/// The load's form.
pub struct Shape {
    pub connections: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Bytes in a request and in its reply.
    pub size: usize,
    /// What a connection's opening and a reply may take.
    pub timeout: Duration,
}

/// How much a stretch sends.
#[derive(Clone, Copy)]
pub enum Amount {
    Requests(u64),
    Time(Duration),
}

/// What a stretch came to: from quiet to quiet, so that requests, time and CPU all speak of the same work.
pub struct Stretch {
    /// Requests sent, all of them answered.
    pub requests: u64,
    /// From the first request to the last reply.
    pub elapsed: Duration,
    /// Nanoseconds from each request's send to the last byte of its reply. Wrong replies are not in it.
    pub service_times: Histogram<u64>,
    pub server_cpu: Option<Duration>,
    pub own_cpu: Duration,
}

pub struct ClosedLoop {
    shape: Shape,
    text: Text,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
    /// Connections to send on at the end of this turn. At most one entry each, since a wait tells of each once.
    due: Vec<usize>,
    unanswered: u64,
    service_times: Histogram<u64>,
    wrong_replies: u64,
    first_wrong_reply: Option<String>,
}

struct Connection {
    stream: Stream,
    /// Position in the text where its requests begin.
    start: u64,
    /// Bytes of requests that are to be sent, that the socket has taken, and of replies received.
    planned: u64,
    written: u64,
    received: u64,
    /// When each request in flight was handed to the socket, the oldest first.
    sent_at: VecDeque<Instant>,
    /// Bytes received of the reply to the oldest, and whether one of them was wrong.
    reply_bytes: usize,
    reply_is_wrong: bool,
    /// Set by the first write that the socket refused. Until then writability would only wake the loop for nothing.
    watches_writability: bool,
}

/// What a stretch still may send.
struct Plan {
    amount: Amount,
    began: Instant,
    sent: u64,
}

impl Plan {
    /// Takes up to `room` requests from the plan.
    fn take(&mut self, room: usize, now: Instant) -> usize {
        let taken = match self.amount {
            Amount::Requests(requests) => (room as u64).min(requests - self.sent) as usize,
            Amount::Time(time) if now.duration_since(self.began) < time => room,
            Amount::Time(_) => 0,
        };
        self.sent += taken as u64;
        taken
    }
}

impl ClosedLoop {
    /// Opens every connection, or tells which one could not be.
    pub fn connect(address: &Address, shape: Shape, text: Text) -> Result<ClosedLoop> {
        let poll = Poll::new().context("creating the poll")?;
        let mut connections = Vec::with_capacity(shape.connections);
        for index in 0..shape.connections {
            let mut stream = Stream::connect(&address.peer, shape.timeout)
                .with_context(|| format!("connecting {} of {} to {address}", index + 1, shape.connections))?;
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                start: text.start(index),
                planned: 0,
                written: 0,
                received: 0,
                sent_at: VecDeque::new(),
                reply_bytes: 0,
                reply_is_wrong: false,
                watches_writability: false,
            });
        }
        Ok(ClosedLoop {
            shape,
            text,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            due: Vec::with_capacity(connections.len()),
            connections,
            buffer: vec![0; READ_BYTES_MAX].into(),
            unanswered: 0,
            service_times: Histogram::new_with_max(SERVICE_TIME_NS_MAX, 3)
                .expect("three digits and a maximum above two are what the histogram asks for"),
            wrong_replies: 0,
            first_wrong_reply: None,
        })
    }

    /// Replies with a wrong byte since the beginning.
    pub fn wrong_replies(&self) -> u64 {
        self.wrong_replies
    }

    /// The first of them, with the offset of its first wrong byte.
    pub fn first_wrong_reply(&self) -> Option<&str> {
        self.first_wrong_reply.as_deref()
    }

    /// Sends the amount and waits for every reply. It begins and ends with nothing in flight: the time and the CPU
    /// between are those of exactly these requests, at the price of one round trip at the end that is not at full
    /// depth. A peer that closes, and a reply that does not come in time, are errors: figures of fewer connections
    /// than asked for would answer another question.
    pub fn drive(&mut self, amount: Amount, server_clock: Option<CpuClock>) -> Result<Stretch> {
        self.service_times.reset();
        self.due.extend(0..self.connections.len());
        let server_cpu_before = read_server_clock(server_clock)?;
        let own_cpu_before = CpuClock::OWN.read()?;
        let began = Instant::now();
        let mut plan = Plan { amount, began, sent: 0 };
        // Looking at every connection's oldest request costs time: rarely enough not to count, often enough that a
        // lost reply is told within an eighth of the timeout.
        let look_interval = self.shape.timeout / 8;
        let mut look_at = began + look_interval;
        loop {
            self.send(&mut plan)?;
            if self.unanswered == 0 {
                break;
            }
            let now = Instant::now();
            if now >= look_at {
                self.find_lost(now)?;
                look_at = now + look_interval;
            }
            self.wait(look_at.duration_since(now))?;
            self.receive()?;
        }
        let elapsed = began.elapsed();
        let own_cpu = CpuClock::OWN.read()?.saturating_sub(own_cpu_before);
        let server_cpu_after = read_server_clock(server_clock)?;
        let server_cpu = server_cpu_before.zip(server_cpu_after).map(|(before, after)| after - before);
        Ok(Stretch {
            requests: plan.sent,
            elapsed,
            service_times: self.service_times.clone(),
            server_cpu,
            own_cpu,
        })
    }

    /// Keeps the connections open without a request, as long as one is left, and counts those that the peer closes
    /// meanwhile.
    pub fn hold(&mut self, time: Duration) -> Result<usize> {
        let until = Instant::now() + time;
        let mut closed = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || closed == self.connections.len() {
                return Ok(closed);
            }
            self.wait(left)?;
            for event in &self.events {
                let index = event.token().0;
                let stream = &mut self.connections[index].stream;
                match stream.read(&mut self.buffer) {
                    Ok(1..) => bail!("connection {index}: bytes came that nobody asked for"),
                    Err(error) if would_wait(&error) => {}
                    Ok(0) | Err(_) => {
                        self.poll.registry().deregister(stream)?;
                        closed += 1;
                    }
                }
            }
        }
    }

    fn wait(&mut self, longest: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(longest)) {
            Ok(()) => Ok(()),
            // A debugger or a stop and continue; there is nothing to read, and the next turn waits again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(error).context("waiting for readiness"),
        }
    }

    fn receive(&mut self) -> Result<()> {
        for event in &self.events {
            let index = event.token().0;
            let connection = &mut self.connections[index];
            loop {
                let read = match connection.stream.read(&mut self.buffer) {
                    Ok(0) => bail!("{}", closed_by_peer(index, connection, "")),
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => bail!("{}", closed_by_peer(index, connection, &format!(" ({error})"))),
                };
                let now = Instant::now();
                let bytes = &self.buffer[..read];
                if connection.received + read as u64 > connection.written {
                    bail!(
                        "connection {index}: {} bytes came back for {} sent",
                        connection.received + read as u64,
                        connection.written
                    );
                }
                let replies = connection.take(bytes, self.shape.size, &self.text, |reply| match reply {
                    Reply::Right { sent_at } => {
                        let service_time = now.duration_since(sent_at).as_nanos() as u64;
                        self.service_times.saturating_record(service_time);
                    }
                    Reply::Wrong { offset, got, due } => {
                        self.wrong_replies += 1;
                        self.first_wrong_reply.get_or_insert_with(|| {
                            format!("connection {index}: byte {offset} of its replies is {got:#04x}, not {due:#04x}")
                        });
                    }
                });
                self.unanswered -= replies;
                if is_drained(event, &connection.stream, read < self.buffer.len()) {
                    break;
                }
            }
            self.due.push(index);
        }
        Ok(())
    }

    /// Sends on every due connection: what it may have in flight, and what an earlier write left.
    fn send(&mut self, plan: &mut Plan) -> Result<()> {
        for index in self.due.drain(..) {
            let connection = &mut self.connections[index];
            let now = Instant::now();
            let fresh = plan.take(self.shape.depth - connection.sent_at.len(), now);
            connection.sent_at.extend(std::iter::repeat_n(now, fresh));
            connection.planned += fresh as u64 * self.shape.size as u64;
            self.unanswered += fresh as u64;
            while connection.written < connection.planned {
                let left = connection.planned - connection.written;
                let bytes = self.text.requests(connection.start + connection.written, left);
                match connection.stream.write(bytes) {
                    Ok(written) => connection.written += written as u64,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if !connection.watches_writability {
                            let both = Interest::READABLE | Interest::WRITABLE;
                            self.poll.registry().reregister(&mut connection.stream, Token(index), both)?;
                            connection.watches_writability = true;
                        }
                        break;
                    }
                    Err(error) => bail!("{}", closed_by_peer(index, connection, &format!(" ({error})"))),
                }
            }
        }
        Ok(())
    }

    fn find_lost(&self, now: Instant) -> Result<()> {
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some(oldest) = connection.sent_at.front()
                && now.duration_since(*oldest) >= self.shape.timeout
            {
                bail!(
                    "connection {index}: no reply within {:?}; {} requests unanswered on it, {} in all",
                    self.shape.timeout,
                    connection.sent_at.len(),
                    self.unanswered
                );
            }
        }
        Ok(())
    }
}

/// What has come back for one request.
enum Reply {
    /// Its last byte has come, and all were right.
    Right { sent_at: Instant },
    /// Its first wrong byte has come, at this offset from the connection's first reply.
    Wrong { offset: u64, got: u8, due: u8 },
}

impl Connection {
    /// Verifies what was read, tells `saw` of each reply that ends or goes wrong in it, and returns how many ended.
    fn take(&mut self, mut bytes: &[u8], size: usize, text: &Text, mut saw: impl FnMut(Reply)) -> u64 {
        let mut ended = 0;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(size - self.reply_bytes));
            if let Some((at, due)) = text.first_wrong(self.start + self.received, piece)
                && !self.reply_is_wrong
            {
                self.reply_is_wrong = true;
                saw(Reply::Wrong { offset: self.received + at as u64, got: piece[at], due });
            }
            self.received += piece.len() as u64;
            self.reply_bytes += piece.len();
            if self.reply_bytes == size {
                self.reply_bytes = 0;
                let sent_at = self
                    .sent_at
                    .pop_front()
                    .expect("no more bytes are taken than requests in flight asked for");
                if !std::mem::take(&mut self.reply_is_wrong) {
                    saw(Reply::Right { sent_at });
                }
                ended += 1;
            }
            bytes = rest;
        }
        ended
    }
}

fn read_server_clock(clock: Option<CpuClock>) -> Result<Option<Duration>> {
    clock.map(|clock| clock.read().context("reading the server's CPU clock")).transpose()
}

fn is_drained(event: &Event, stream: &Stream, read_was_short: bool) -> bool {
    read_was_short && stream.short_read_means_drained() && !event.is_read_closed() && !event.is_error()
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn closed_by_peer(index: usize, connection: &Connection, cause: &str) -> String {
    format!(
        "connection {index} was closed by the peer{cause} after {} bytes of replies, with {} requests unanswered",
        connection.received,
        connection.sent_at.len()
    )
}
