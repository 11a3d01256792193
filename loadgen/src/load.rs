//! The loop: requests leave when the plan says so, or when a reply has made room for them; every reply is verified.
//!
//! One turn takes what is due, writes once on each connection that has something to send, waits for readiness and reads
//! all of it. In a closed loop nothing is written before that: so requests leave together, and the server finds many of
//! them at once. In an open loop what has become due meanwhile leaves between two reads: many replies at once must not
//! delay the plan.
//!
//! ```text
//!     plan ─► due requests ─► write ─► wait ─► read all ready ─► verify ─► record
//!                 ▲                                                 │ closed loop: room for the next request
//!                 └─────────────────────────────────────────────────┘
//! ```
//!
//! mio is edge-triggered. A read ends the edge when it hits WouldBlock, or on TCP when it is shorter than the buffer,
//! unless the event told of an end or an error, which only a further read brings out.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Interest, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::address::{Address, Peer};
use crate::exchange::{Exchange, Fault, Progress};
use crate::interval::{Intervals, Lane};
use crate::plan::{Agenda, Plan, Window};
use crate::readiness::Readiness;
use crate::record::{Record, note};
use crate::report::counted;
use crate::shortage::{self, Shortage};
use crate::size::Sizes;
use crate::sources::Sources;
use crate::stream::Stream;

/// One read takes this much at most: several requests of any common size.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Requests that are taken from the plan before they are written: whoever is behind must not write all of it at once.
const DUE_MAX: usize = 4096;

/// The load's form.
#[derive(Clone)]
pub struct Shape {
    /// Or rooms of a chat: what threads share.
    pub connections: usize,
    /// The index of the first one: threads have a share each.
    pub first: usize,
    pub sizes: Sizes,
    /// What a connection's opening and a reply may take.
    pub timeout: Duration,
    pub seed: u64,
    /// Where connections leave from.
    pub sources: Sources,
    /// What may be kept, whatever the server does.
    pub budget: Budget,
}

/// What the generator keeps at most of requests that are on their way, however many were planned.
#[derive(Clone, Copy)]
pub struct Budget {
    /// Requests that are neither answered nor given up.
    pub requests: usize,
    /// Bytes of requests that no socket has taken.
    pub bytes: usize,
}

impl Budget {
    /// Of a whole run: less than 200 MiB with all that belongs to it.
    pub const WHOLE: Budget = Budget { requests: 2 << 20, bytes: 64 << 20 };

    /// What each of several connections has of the bytes: enough for one write that is worth its system call.
    pub fn bytes_each(self, connections: usize) -> usize {
        (self.bytes / connections.max(1)).clamp(4 * 1024, 256 * 1024)
    }

    fn share(self, threads: usize) -> Budget {
        Budget { requests: self.requests / threads, bytes: self.bytes / threads }
    }
}

impl Shape {
    /// What one of several threads has of it. The first ones have one connection more where they cannot be divided evenly.
    pub fn share(&self, index: usize, threads: usize) -> Shape {
        let (each, more) = (self.connections / threads, self.connections % threads);
        Shape {
            connections: each + usize::from(index < more),
            first: index * each + index.min(more),
            seed: self.seed.wrapping_add(index as u64),
            budget: self.budget.share(threads),
            ..self.clone()
        }
    }
}

/// How much a stretch sends.
#[derive(Clone, Copy)]
pub enum Amount {
    Requests(u64),
    Time(Duration),
}

impl Amount {
    /// What one of several threads has of it.
    pub fn share(self, index: usize, threads: usize) -> Amount {
        match self {
            Amount::Requests(requests) => {
                let (each, more) = (requests / threads as u64, requests % threads as u64);
                Amount::Requests(each + u64::from((index as u64) < more))
            }
            Amount::Time(time) => Amount::Time(time),
        }
    }
}

pub struct Load<E: Exchange> {
    exchange: E,
    /// Who is connected to again; none where a connection that has ended is left so.
    peer: Option<Peer>,
    shape: Shape,
    random: SmallRng,
    readiness: Readiness,
    conns: Vec<Conn<E::Conn>>,
    /// Connections that the peer has not ended.
    open: usize,
    /// The connection whose turn it is in an open loop.
    turn: usize,
    buffer: Box<[u8]>,
    /// Connections with requests that have not been written yet.
    dirty: Vec<usize>,
    /// Connections that were read from in this turn: in a closed loop these have room.
    read_from: Vec<usize>,
    unanswered: u64,
    /// Of these, the ones that are not given up.
    pending: u64,
    /// A connection has so many bytes of its requests at once.
    out_bytes_max: usize,
    /// The end of an open loop's window, in time.
    end_ns: u64,
    record: Record,
    /// Where the records of intervals go.
    intervals: Intervals,
}

struct Conn<S> {
    stream: Stream,
    state: S,
    is_open: bool,
    /// What is still to come of what the server says first.
    preamble_left: usize,
    /// Bytes of replies that have come.
    received: u64,
    /// Of these, the ones of the reply to the oldest request, and whether one of them was wrong.
    reply_bytes: usize,
    is_wrong: bool,
    /// Bytes of requests that the socket has not taken.
    out: Vec<u8>,
    out_at: usize,
    /// Requests of which bytes were made, the oldest first.
    flight: VecDeque<Request>,
    /// The oldest of these entries are given up, and keep their places for replies that come after all.
    given_up: usize,
    /// So many bytes of the newest of them were made; 0 if that is all.
    made_at: usize,
    /// Requests of which no bytes were made: they come after those in flight.
    waiting: VecDeque<Request>,
    /// How many there are of both.
    in_flight: usize,
    /// The newest of these entries have not been offered to the socket.
    fresh: usize,
    /// Why it is not written on, if so; the socket tells when that is over.
    blocked: Option<Blocked>,
    /// Set by the first write that the socket refused. Until then writability would only wake the loop for nothing.
    watches_writability: bool,
}

/// What writing has to wait for.
enum Blocked {
    /// Room in the socket's buffer.
    Full,
    /// The connection that takes the place of one that has ended.
    Reopening,
}

/// Requests on their way: several in a row that were planned and sent at once, of one size.
struct Request {
    /// [`UNPLANNED`] in a closed loop.
    planned_ns: u64,
    sent_ns: u64,
    size: u32,
    count: u32,
    is_lost: bool,
    /// It belongs to the window.
    counts: bool,
}

/// In place of a time, for requests that leave when there is room.
const UNPLANNED: u64 = u64::MAX;

/// Beyond so many entries of requests that are given up, which replies of other sizes may still come to, connections are
/// given up with them.
const GIVEN_UP_MAX: usize = 1 << 20;

impl<E: Exchange> Load<E> {
    /// Opens every connection, or tells which one could not be.
    pub fn connect(address: &Address, shape: Shape, exchange: E) -> Result<Load<E>> {
        let mut streams = Vec::with_capacity(shape.connections);
        for index in 0..shape.connections {
            let (number, of, source) = (index + 1, shape.connections, shape.sources.of(shape.first + index));
            let stream = Stream::connect(&address.peer, source, shape.timeout)
                .map_err(shortage::explained)
                .with_context(|| format!("connecting {number} of {of} to {address}"))?;
            streams.push(stream);
        }
        let peer = streams.first().map(|stream| stream.narrowed(&address.peer));
        Ok(Load { peer, ..Load::over(streams, shape, exchange)? })
    }

    /// Drives connections that are open, and on which nothing has been said.
    pub fn over(streams: Vec<Stream>, shape: Shape, exchange: E) -> Result<Load<E>> {
        let readiness = Readiness::new()?;
        let mut conns = Vec::with_capacity(streams.len());
        for (index, mut stream) in streams.into_iter().enumerate() {
            readiness.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            conns.push(Conn {
                stream,
                state: exchange.open(shape.first + index),
                is_open: true,
                preamble_left: exchange.preamble().len(),
                received: 0,
                reply_bytes: 0,
                is_wrong: false,
                out: Vec::new(),
                out_at: 0,
                flight: VecDeque::new(),
                given_up: 0,
                made_at: 0,
                waiting: VecDeque::new(),
                in_flight: 0,
                fresh: 0,
                blocked: None,
                watches_writability: false,
            });
        }
        Ok(Load {
            exchange,
            peer: None,
            random: SmallRng::seed_from_u64(shape.seed),
            out_bytes_max: shape.budget.bytes_each(conns.len()),
            turn: 0,
            shape,
            readiness,
            open: conns.len(),
            conns,
            buffer: vec![0; READ_BYTES_MAX].into(),
            dirty: Vec::new(),
            read_from: Vec::new(),
            unanswered: 0,
            pending: 0,
            end_ns: u64::MAX,
            record: Record::default(),
            intervals: Intervals::default(),
        })
    }

    /// What is recorded from now on is handed over interval by interval.
    pub fn hand_over_to(&mut self, lane: Lane) {
        self.intervals.hand_over_to(lane);
    }

    /// Hands over what has been recorded since the last interval ended.
    pub fn hand_over_rest(&mut self) {
        let now_ns = self.readiness.now_ns();
        self.intervals.end(&mut self.record, now_ns);
    }

    /// What has been recorded since the last call.
    pub fn take_record(&mut self) -> Record {
        std::mem::take(&mut self.record)
    }

    /// A closed loop: each connection keeps `depth` requests in flight, until the amount is sent, and every reply is
    /// waited for. It begins and ends with nothing in flight: the time and the CPU between are those of exactly these
    /// requests, at the price of one round trip at the end that is not at full depth. Returns how long that took.
    pub fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        self.readiness.restart_clock();
        let (mut left, end_ns) = match amount {
            Amount::Requests(requests) => (requests, u64::MAX),
            Amount::Time(time) => (u64::MAX, time.as_nanos() as u64),
        };
        let look_interval_ns = self.look_interval_ns();
        let mut look_ns = look_interval_ns;
        self.intervals.begin(0);
        self.read_from = (0..self.conns.len()).collect();
        let mut is_first = true;
        loop {
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.record, now_ns);
            // However short the time, something is asked in it.
            let is_over = now_ns >= end_ns && !is_first;
            if is_over || stop() {
                left = 0;
            }
            is_first = false;
            // Taken out and put back with its memory.
            let mut read_from = std::mem::take(&mut self.read_from);
            for index in read_from.drain(..) {
                let conn = &self.conns[index];
                let room = if conn.is_open { depth.saturating_sub(conn.in_flight) as u64 } else { 0 };
                let fresh = room.min(left);
                left -= fresh;
                self.fill(index, fresh as usize);
            }
            self.read_from = read_from;
            self.write()?;
            if self.unanswered == 0 {
                return Ok(Duration::from_nanos(self.readiness.now_ns()));
            }
            if now_ns >= look_ns {
                self.abandon_stuck();
                look_ns = now_ns + look_interval_ns;
            }
            let left_ns = look_ns.min(self.intervals.end_ns()).saturating_sub(now_ns);
            self.readiness.wait(Some(Duration::from_nanos(left_ns).max(Duration::from_millis(1))))?;
            self.read(None)?;
        }
    }

    /// An open loop: requests leave when the plan says, whatever comes back. Those planned within the window are
    /// recorded, and waited for. Returns what the window was, if any were planned in it.
    pub fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        amount: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>> {
        self.readiness.restart_clock();
        let mut agenda = Agenda::new(plan, 0, warmup, amount);
        self.intervals.begin(agenda.begin_ns());
        // What is planned just before the end may be sent just after it.
        self.end_ns = agenda.end_ns().saturating_add(1_000_000);
        let look_interval_ns = self.look_interval_ns();
        let mut look_ns = look_interval_ns;
        self.turn = 0;
        loop {
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.record, now_ns);
            if stop() {
                agenda.end_at(now_ns);
            }
            self.send_due(&mut agenda, now_ns)?;
            let is_over = agenda.is_over() || self.open == 0;
            if is_over && self.record.unresolved() == 0 {
                return Ok(agenda.window());
            }
            if now_ns >= look_ns {
                self.find_lost();
                look_ns = now_ns + look_interval_ns;
            }
            let until_ns = if is_over { look_ns } else { agenda.next_ns().min(look_ns) };
            self.readiness.wait_until(until_ns.min(self.intervals.end_ns()))?;
            self.read(Some(&mut agenda))?;
            self.read_from.clear();
        }
    }

    /// Sends what is due now.
    fn send_due(&mut self, agenda: &mut Agenda<'_>, now_ns: u64) -> Result<()> {
        // What was due so long ago that it is overdue is given up as it is, however much that is.
        let skipped = agenda.skip(now_ns.saturating_sub(self.shape.timeout.as_nanos() as u64));
        self.record.requests += skipped;
        self.record.lose(skipped, true);
        let mut due = 0;
        while agenda.next_ns() <= now_ns && self.open > 0 && due < DUE_MAX {
            let (planned_ns, counts) = agenda.take();
            due += 1;
            // Each open connection in its turn.
            while !self.conns[self.turn].is_open {
                self.turn = (self.turn + 1) % self.conns.len();
            }
            if self.pending >= self.shape.budget.requests as u64 {
                self.give_up_unsent(counts);
                continue;
            }
            let size = self.shape.sizes.draw(&mut self.random);
            self.enqueue(self.turn, planned_ns, size, 1, counts);
            self.turn = (self.turn + 1) % self.conns.len();
        }
        self.write()
    }

    /// So many requests are on their way that no more can be kept.
    #[cold]
    fn give_up_unsent(&mut self, counts: bool) {
        let count = u64::from(counts);
        self.record.requests += count;
        self.record.unsent += count;
        self.record.lose(count, true);
        let most = self.shape.budget.requests;
        self.record.note_error(|| format!("{most} requests wait for replies, which is the limit"));
    }

    /// The connections, for whoever watches them from now on.
    pub fn into_streams(self) -> Result<Vec<Stream>> {
        let mut streams = Vec::with_capacity(self.conns.len());
        for Conn { mut stream, is_open, .. } in self.conns {
            if is_open {
                self.readiness.registry().deregister(&mut stream)?;
            }
            streams.push(stream);
        }
        Ok(streams)
    }

    /// Looking at every connection's oldest request costs time: rarely enough not to count, often enough that a lost
    /// reply is told within an eighth of the timeout.
    fn look_interval_ns(&self) -> u64 {
        self.shape.timeout.as_nanos() as u64 / 8
    }

    /// Takes so many requests of a closed loop.
    fn fill(&mut self, index: usize, count: usize) {
        match self.shape.sizes.only() {
            Some(size) if count > 0 => self.enqueue(index, UNPLANNED, size, count, true),
            _ => (0..count).for_each(|_| {
                let size = self.shape.sizes.draw(&mut self.random);
                self.enqueue(index, UNPLANNED, size, 1, true);
            }),
        }
    }

    #[inline]
    fn enqueue(&mut self, index: usize, planned_ns: u64, size: usize, count: usize, counts: bool) {
        let conn = &mut self.conns[index];
        let bytes = self.exchange.request_bytes_max(size).saturating_mul(count);
        let entry = Request {
            planned_ns,
            sent_ns: 0,
            size: size as u32,
            count: count as u32,
            is_lost: false,
            counts,
        };
        if conn.takes_bytes() && conn.out.len() + bytes <= self.out_bytes_max {
            self.exchange.requests(&mut conn.state, size, count, &mut conn.out);
            conn.flight.push_back(entry);
        } else {
            // Its bytes are made when the socket has room for them: a plan that cannot be sent takes no memory.
            conn.waiting.push_back(entry);
        }
        conn.in_flight += count;
        if conn.fresh == 0 {
            self.dirty.push(index);
        }
        conn.fresh += 1;
        self.unanswered += count as u64;
        self.pending += count as u64;
        if counts {
            self.record.requests += count as u64;
        }
    }

    /// Writes on each connection with requests that have not been offered to its socket.
    fn write(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let now_ns = self.readiness.now_ns();
            let conn = &mut self.conns[index];
            let fresh = std::mem::take(&mut conn.fresh);
            let waiting = fresh.min(conn.waiting.len());
            let (in_flight, from) = (conn.flight.len() + waiting - fresh, conn.waiting.len() - waiting);
            for request in conn.flight.range_mut(in_flight..).chain(conn.waiting.range_mut(from..)) {
                request.sent_ns = now_ns;
                if request.counts && request.planned_ns != UNPLANNED {
                    note(&mut self.record.send_lags, now_ns.saturating_sub(request.planned_ns), 1);
                    self.record.sent_in_time += u64::from(now_ns <= self.end_ns);
                }
            }
            if let Some(blocked) = &conn.blocked {
                self.record.blocked_writes += u64::from(matches!(blocked, Blocked::Full));
            } else {
                self.write_out(index)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn write_out(&mut self, index: usize) -> Result<()> {
        loop {
            let conn = &mut self.conns[index];
            if self.exchange.announced_end(&conn.state) {
                // Kept for the connection that takes its place.
                return Ok(());
            }
            while conn.out_at < conn.out.len() {
                match conn.stream.write(&conn.out[conn.out_at..]) {
                    Ok(written) => conn.out_at += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        conn.blocked = Some(Blocked::Full);
                        self.record.blocked_writes += 1;
                        if !conn.watches_writability {
                            let both = Interest::READABLE | Interest::WRITABLE;
                            self.readiness.registry().reregister(&mut conn.stream, Token(index), both)?;
                            conn.watches_writability = true;
                        }
                        // What the socket has taken is not kept for ever.
                        conn.out.drain(..conn.out_at);
                        conn.out_at = 0;
                        return Ok(());
                    }
                    Err(error) => {
                        self.end(index, Some(error));
                        return Ok(());
                    }
                }
            }
            conn.out.clear();
            conn.out_at = 0;
            if conn.made_at == 0 && conn.waiting.is_empty() {
                return Ok(());
            }
            conn.make(&mut self.exchange, self.out_bytes_max);
        }
    }

    /// Reads what is ready. What becomes due meanwhile is sent.
    fn read(&mut self, mut agenda: Option<&mut Agenda<'_>>) -> Result<()> {
        let found = self.readiness.take();
        for (index, event) in found.iter() {
            if !self.conns[index].is_open {
                continue;
            }
            if event.is_writable() && self.conns[index].blocked.take().is_some() {
                self.write_out(index)?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                let now_ns = self.read_from_conn(index, event);
                self.read_from.push(index);
                if let Some(agenda) = agenda.as_deref_mut().filter(|agenda| agenda.next_ns() <= now_ns) {
                    self.send_due(agenda, now_ns)?;
                }
            }
        }
        self.readiness.put_back(found);
        Ok(())
    }

    /// Reads until nothing is left, and returns when it last did.
    fn read_from_conn(&mut self, index: usize, event: &Event) -> u64 {
        let mut now_ns = 0;
        while self.conns[index].is_open {
            let read = match self.conns[index].stream.read(&mut self.buffer) {
                Ok(0) => {
                    self.end(index, None);
                    break;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.end(index, Some(error));
                    break;
                }
            };
            now_ns = self.readiness.now_ns();
            self.take(index, read, now_ns);
            if is_drained(event, &self.conns[index].stream, read < self.buffer.len()) {
                break;
            }
        }
        now_ns
    }

    /// Verifies what was read and records the replies that end in it.
    fn take(&mut self, index: usize, read: usize, now_ns: u64) {
        self.intervals.cut(&mut self.record, now_ns);
        let Load { conns, exchange, buffer, record, .. } = self;
        let conn = &mut conns[index];
        let mut bytes = &buffer[..read];
        if conn.preamble_left > 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(conn.preamble_left));
            let preamble = exchange.preamble();
            let from = preamble.len() - conn.preamble_left;
            if part != &preamble[from..from + part.len()] {
                record.unasked_bytes += part.len() as u64;
                record.note_error(|| format!("connection {index}: the greeting is wrong"));
            }
            conn.preamble_left -= part.len();
            bytes = rest;
        }
        while !bytes.is_empty() {
            let Some(request) = conn.flight.front_mut() else {
                record.unasked_bytes += bytes.len() as u64;
                record.note_error(|| {
                    format!("connection {index}: {} received without a request", counted(bytes.len(), "byte"))
                });
                return;
            };
            let right = match conn.reply_bytes {
                0 => exchange.right_replies(
                    &mut conn.state,
                    request.size as usize,
                    request.count as usize,
                    bytes,
                ),
                _ => 0,
            };
            if right > 0 {
                let taken = right * request.size as usize;
                conn.received += taken as u64;
                bytes = &bytes[taken..];
                self.pending -= if request.is_lost { 0 } else { right as u64 };
                record.answer(request, right as u32, false, now_ns);
                conn.answer(right as u32);
                self.unanswered -= right as u64;
                continue;
            }
            let Progress { taken, is_complete, wrong } =
                exchange.verify(&mut conn.state, request.size as usize, conn.reply_bytes, bytes);
            let is_astray = wrong.as_ref().is_some_and(|wrong| matches!(wrong.fault, Fault::Astray(_)));
            if let Some(wrong) = wrong
                && !std::mem::replace(&mut conn.is_wrong, true)
            {
                record.note_error(|| {
                    let offset = conn.received + wrong.at as u64;
                    let near = &bytes[wrong.at.saturating_sub(16)..];
                    let near = near[..near.len().min(48)].escape_ascii();
                    format!(
                        "connection {index}: byte {offset} of its replies {}, near \"{near}\"",
                        wrong.fault
                    )
                });
            }
            conn.reply_bytes += taken;
            conn.received += taken as u64;
            bytes = &bytes[taken..];
            if is_complete || is_astray {
                self.pending -= u64::from(!request.is_lost);
                record.answer(request, 1, std::mem::take(&mut conn.is_wrong), now_ns);
                conn.reply_bytes = 0;
                conn.answer(1);
                self.unanswered -= 1;
            }
            if is_astray {
                return self.close(index);
            }
        }
    }

    /// The peer has ended a connection, in order unless there was an error.
    #[cold]
    fn end(&mut self, index: usize, error: Option<io::Error>) {
        if error.is_none() {
            self.end_reply(index);
        }
        let conn = &self.conns[index];
        let is_announced = self.exchange.announced_end(&conn.state);
        // No reply may be cut off by it. It may end with a reset: that is what bytes get that the server does not read any
        // more.
        if is_announced
            && conn.reply_bytes == 0
            && let Some(peer) = self.peer.clone()
        {
            return self.reopen(index, &peer);
        }
        self.record.peer_closed += 1;
        if let Some(error) = error {
            self.record.note_error(|| format!("connection {index}: {error}"));
        } else if is_announced {
            self.record.note_error(|| format!("connection {index}: the server had sent `Connection: close`"));
        }
        self.close(index);
    }

    /// The end of a connection may be that of a reply.
    fn end_reply(&mut self, index: usize) {
        let now_ns = self.readiness.now_ns();
        self.intervals.cut(&mut self.record, now_ns);
        let conn = &mut self.conns[index];
        let Some(request) = conn.flight.front_mut().filter(|_| conn.reply_bytes > 0) else { return };
        let Some(said) = self.exchange.end(&mut conn.state, conn.reply_bytes) else { return };
        if let Err(fault) = said
            && !std::mem::replace(&mut conn.is_wrong, true)
        {
            let at = conn.received;
            self.record
                .note_error(|| format!("connection {index}: the end of its replies, byte {at}, {fault}"));
        }
        self.pending -= u64::from(!request.is_lost);
        self.record.answer(request, 1, std::mem::take(&mut conn.is_wrong), now_ns);
        conn.reply_bytes = 0;
        conn.answer(1);
        self.unanswered -= 1;
    }

    /// Puts another connection in the place of one that has ended as announced. What was never written goes out on it;
    /// what was written, even in part, is lost.
    fn reopen(&mut self, index: usize, peer: &Peer) {
        let number = self.shape.first + index;
        let opened = Stream::begin(peer, self.shape.sources.of(number)).and_then(|(mut stream, _)| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.readiness.registry().register(&mut stream, Token(index), both)?;
            Ok(stream)
        });
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                match Shortage::of(&error) {
                    Some(shortage) => self.record.note_shortage(shortage),
                    None => self.record.peer_closed += 1,
                }
                self.record.note_error(|| format!("connection {index}: {}", shortage::words(&error)));
                return self.close(index);
            }
        };
        self.record.reopened += 1;
        let conn = &mut self.conns[index];
        // Dropped, the old one leaves the poll by itself.
        conn.stream = stream;
        conn.state = self.exchange.open(number);
        conn.preamble_left = self.exchange.preamble().len();
        // It tells when it is open.
        conn.blocked = Some(Blocked::Reopening);
        conn.watches_writability = true;
        conn.take_back(&mut self.exchange, number);
        for request in conn.flight.drain(..) {
            self.record.give_up(&request);
            conn.in_flight -= request.count as usize;
            self.unanswered -= u64::from(request.count);
            self.pending -= if request.is_lost { 0 } else { u64::from(request.count) };
        }
        conn.given_up = 0;
    }

    /// Uses a connection no more: what was in flight is lost.
    fn close(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.is_open = false;
        // It cannot be watched any more, whatever the answer.
        let _ = self.readiness.registry().deregister(&mut conn.stream);
        self.open -= 1;
        for request in conn.flight.drain(..).chain(conn.waiting.drain(..)) {
            self.unanswered -= u64::from(request.count);
            self.pending -= if request.is_lost { 0 } else { u64::from(request.count) };
            self.record.give_up(&request);
        }
        (conn.in_flight, conn.fresh, conn.given_up, conn.made_at) = (0, 0, 0, 0);
        conn.out = Vec::new();
        conn.out_at = 0;
        self.dirty.retain(|&dirty| dirty != index);
    }

    /// Gives up the requests that have waited for too long. Those of which bytes were made keep their place in the order,
    /// for a reply that comes later; the others are never sent.
    fn find_lost(&mut self) {
        let (now_ns, timeout) = (self.readiness.now_ns(), self.shape.timeout);
        let given_up_max = GIVEN_UP_MAX / self.conns.len();
        for index in 0..self.conns.len() {
            let conn = &mut self.conns[index];
            while let Some(request) =
                conn.flight.get_mut(conn.given_up).filter(|request| request.is_overdue(now_ns, timeout))
            {
                self.record.give_up(request);
                self.pending -= u64::from(request.count);
                request.is_lost = true;
                conn.join_given_up();
            }
            while conn.waiting.front().is_some_and(|request| request.is_overdue(now_ns, timeout))
                && let Some(request) = conn.waiting.pop_front()
            {
                let count = u64::from(request.count);
                self.record.give_up(&request);
                self.record.unsent += if request.counts { count } else { 0 };
                self.record.note_error(|| {
                    format!("connection {index}: the socket accepted no byte of a request within {timeout:?}")
                });
                self.pending -= count;
                self.unanswered -= count;
                conn.in_flight -= request.count as usize;
            }
            if conn.given_up > given_up_max {
                let words = format!("connection {index}: {given_up_max} replies are missing");
                self.record.note_error(|| words);
                self.close(index);
            }
        }
    }

    /// Closes the connections whose oldest request has waited for too long: in a closed loop they would wait for ever.
    fn abandon_stuck(&mut self) {
        let now_ns = self.readiness.now_ns();
        for index in 0..self.conns.len() {
            let conn = &self.conns[index];
            let oldest = conn.flight.front().or(conn.waiting.front());
            if oldest.is_some_and(|request| request.is_overdue(now_ns, self.shape.timeout)) {
                self.record
                    .note_error(|| format!("connection {index}: no reply within {:?}", self.shape.timeout));
                self.close(index);
            }
        }
    }
}

impl<S> Conn<S> {
    /// Bytes of its requests can be made: those before went to the socket.
    #[inline]
    fn takes_bytes(&self) -> bool {
        self.blocked.is_none() && self.made_at == 0 && self.waiting.is_empty()
    }

    /// So many of the oldest requests, which are of one entry, are answered.
    fn answer(&mut self, count: u32) {
        self.in_flight -= count as usize;
        let oldest = self.flight.front_mut().expect("whoever is answered has asked");
        oldest.count -= count;
        if oldest.count == 0 {
            self.given_up -= usize::from(oldest.is_lost);
            self.flight.pop_front();
        }
    }

    /// Makes bytes of the requests whose turn it is, so many at most.
    fn make<E: Exchange<Conn = S>>(&mut self, exchange: &mut E, bytes_max: usize) {
        while self.out.len() < bytes_max {
            let room = bytes_max - self.out.len();
            if self.made_at == 0 {
                let Some(next) = self.waiting.front_mut() else { return };
                let size = next.size as usize;
                let whole = (room / exchange.request_bytes_max(size).max(1)).min(next.count as usize);
                let count = whole.max(1) as u32;
                self.flight.push_back(Request { count, ..*next });
                next.count -= count;
                if next.count == 0 {
                    self.waiting.pop_front();
                }
                if whole > 0 {
                    exchange.requests(&mut self.state, size, whole, &mut self.out);
                    continue;
                }
            }
            let Some(newest) = self.flight.back() else { return };
            let (size, before) = (newest.size as usize, self.out.len());
            let is_whole = exchange.request_part(&mut self.state, size, self.made_at, room, &mut self.out);
            self.made_at = if is_whole { 0 } else { self.made_at + self.out.len() - before };
        }
    }

    /// Has the requests of which nothing was written wait, to be made anew.
    fn take_back<E: Exchange<Conn = S>>(&mut self, exchange: &mut E, number: usize) {
        let mut unwritten = self.out.len() - self.out_at;
        self.out.clear();
        self.out_at = 0;
        let mut made_at = std::mem::take(&mut self.made_at);
        let mut request = Vec::new();
        while let Some(newest) = self.flight.back_mut().filter(|newest| !newest.is_lost) {
            let bytes = if made_at > 0 {
                std::mem::take(&mut made_at)
            } else {
                request.clear();
                exchange.request(&mut exchange.open(number), newest.size as usize, &mut request);
                request.len()
            };
            let whole = (unwritten / bytes.max(1)).min(newest.count as usize);
            if whole == 0 {
                return;
            }
            unwritten -= whole * bytes;
            self.waiting.push_front(Request { count: whole as u32, ..*newest });
            newest.count -= whole as u32;
            if newest.count == 0 {
                self.flight.pop_back();
            }
        }
    }

    /// The oldest entry that is not counted as given up is now. It joins the one before it, if only their number matters.
    fn join_given_up(&mut self) {
        let at = self.given_up;
        if let [Some(before), Some(request)] =
            [at.checked_sub(1).and_then(|at| self.flight.get(at)), self.flight.get(at)]
            && (before.size, before.counts) == (request.size, request.counts)
            && let Some(count) = before.count.checked_add(request.count)
        {
            self.flight[at - 1].count = count;
            self.flight.remove(at);
        } else {
            self.given_up += 1;
        }
    }
}

impl Request {
    fn is_overdue(&self, now_ns: u64, timeout: Duration) -> bool {
        self.sent_ns.min(self.planned_ns).saturating_add(timeout.as_nanos() as u64) <= now_ns
    }
}

impl Record {
    /// So many replies have come whole, all right or all wrong.
    fn answer(&mut self, request: &Request, count: u32, is_wrong: bool, now_ns: u64) {
        let count = u64::from(count);
        if request.is_lost {
            self.late += if request.counts { count } else { 0 };
        } else if request.counts && is_wrong {
            self.errors += count;
        } else if request.counts {
            self.answered += count;
            note(&mut self.service_times, now_ns.saturating_sub(request.sent_ns), count);
            if request.planned_ns != UNPLANNED {
                note(&mut self.response_times, now_ns.saturating_sub(request.planned_ns), count);
            }
        }
    }

    /// Requests are given up.
    fn give_up(&mut self, request: &Request) {
        if !request.is_lost && request.counts {
            self.lose(u64::from(request.count), request.planned_ns != UNPLANNED);
        }
    }
}

/// Whether the last read has taken everything, so that the next one would only meet WouldBlock.
pub fn is_drained(event: &Event, stream: &Stream, read_was_short: bool) -> bool {
    read_was_short
        && stream.short_read_means_drained()
        && !(event.is_read_closed() || event.is_error() || event.is_priority())
}
