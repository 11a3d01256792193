//! The loop: requests leave when the plan says so, or when a reply has made room for them; every reply is verified.
//!
//! One turn takes what is due, writes once on each connection that has something to send, waits for readiness and reads
//! all of it before anything is written again: so requests leave together, and the server finds many of them at once.
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
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::address::Address;
use crate::alarm::Alarm;
use crate::exchange::{Exchange, Fault, Progress};
use crate::interval::Lane;
use crate::plan::Plan;
use crate::record::Record;
use crate::size::Sizes;
use crate::stream::Stream;

/// One read takes this much at most: several requests of any common size.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Readiness taken from one wait. More connections than that take turns.
const EVENTS_MAX: usize = 1024;

/// Requests that are taken from the plan before they are written: whoever is behind must not write all of it at once.
const DUE_MAX: usize = 4096;

const ALARM: Token = Token(usize::MAX);

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
}

/// How much a stretch sends.
#[derive(Clone, Copy)]
pub enum Amount {
    Requests(u64),
    Time(Duration),
}

pub struct Load<E: Exchange> {
    exchange: E,
    shape: Shape,
    random: SmallRng,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    conns: Vec<Conn<E::Conn>>,
    /// Connections that the peer has not ended.
    open: usize,
    buffer: Box<[u8]>,
    /// Connections with requests that have not been written yet.
    dirty: Vec<usize>,
    /// Connections that were read from in this turn: in a closed loop these have room.
    read_from: Vec<usize>,
    /// All times are nanoseconds from here.
    base: Instant,
    unanswered: u64,
    /// The end of an open loop's window, in time.
    end_ns: u64,
    record: Record,
    /// Where the records of intervals go.
    lane: Option<Lane>,
}

struct Conn<S> {
    stream: Stream,
    state: S,
    is_open: bool,
    /// What is still to come of what the server says first.
    preamble_left: usize,
    /// Bytes of replies that have come.
    received: u64,
    /// Requests that the socket has not taken.
    out: Vec<u8>,
    out_at: usize,
    /// The oldest first.
    flight: VecDeque<Request>,
    /// So many of them, the newest, have not been offered to the socket.
    fresh: usize,
    /// The socket was full; it tells when it is not.
    is_blocked: bool,
    /// Set by the first write that the socket refused. Until then writability would only wake the loop for nothing.
    watches_writability: bool,
}

/// A request on its way.
struct Request {
    /// `None` in a closed loop.
    planned_ns: Option<u64>,
    sent_ns: u64,
    size: usize,
    /// Bytes of its reply that have come, and whether one of them was wrong.
    reply_bytes: usize,
    is_wrong: bool,
    is_lost: bool,
    /// It belongs to the window.
    counts: bool,
}

impl<E: Exchange> Load<E> {
    /// Opens every connection, or tells which one could not be.
    pub fn connect(address: &Address, shape: Shape, exchange: E) -> Result<Load<E>> {
        let poll = Poll::new().context("creating the poll")?;
        let mut conns = Vec::with_capacity(shape.connections);
        for index in 0..shape.connections {
            let mut stream = Stream::connect(&address.peer, shape.timeout)
                .with_context(|| format!("connecting {} of {} to {address}", index + 1, shape.connections))?;
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            conns.push(Conn {
                stream,
                state: exchange.open(shape.first + index),
                is_open: true,
                preamble_left: exchange.preamble().len(),
                received: 0,
                out: Vec::new(),
                out_at: 0,
                flight: VecDeque::new(),
                fresh: 0,
                is_blocked: false,
                watches_writability: false,
            });
        }
        let alarm = Alarm::new(poll.registry(), ALARM).context("creating a timer")?;
        Ok(Load {
            exchange,
            random: SmallRng::seed_from_u64(shape.seed),
            shape,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            alarm,
            open: conns.len(),
            conns,
            buffer: vec![0; READ_BYTES_MAX].into(),
            dirty: Vec::new(),
            read_from: Vec::new(),
            base: Instant::now(),
            unanswered: 0,
            end_ns: u64::MAX,
            record: Record::new(),
            lane: None,
        })
    }

    /// What is recorded from now on is handed over interval by interval.
    pub fn hand_over_to(&mut self, lane: Lane) {
        self.lane = Some(lane);
    }

    /// Hands over what has been recorded since the last interval ended.
    pub fn hand_over_rest(&mut self) {
        let now_ns = self.now_ns();
        if let Some(lane) = self.lane.take() {
            lane.end(self.take_record(), now_ns);
        }
    }

    /// What has been recorded since the last call.
    pub fn take_record(&mut self) -> Record {
        std::mem::replace(&mut self.record, Record::new())
    }

    /// A closed loop: each connection keeps `depth` requests in flight, until the amount is sent, and every reply is
    /// waited for. It begins and ends with nothing in flight: the time and the CPU between are those of exactly these
    /// requests, at the price of one round trip at the end that is not at full depth. Returns how long that took.
    pub fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        let began = Instant::now();
        let mut left = match amount {
            Amount::Requests(requests) => requests,
            Amount::Time(_) => u64::MAX,
        };
        let end = match amount {
            Amount::Requests(_) => None,
            Amount::Time(time) => Some(began + time),
        };
        let look_interval = self.look_interval();
        let mut look_at = began + look_interval;
        self.begin_intervals(self.now_ns());
        self.read_from = (0..self.conns.len()).collect();
        loop {
            let now = Instant::now();
            self.cut((now - self.base).as_nanos() as u64);
            if end.is_some_and(|end| now >= end) || stop() {
                left = 0;
            }
            // Taken out and put back with its memory.
            let mut read_from = std::mem::take(&mut self.read_from);
            for index in read_from.drain(..) {
                let conn = &self.conns[index];
                let room = if conn.is_open { depth.saturating_sub(conn.flight.len()) as u64 } else { 0 };
                let fresh = room.min(left);
                left -= fresh;
                (0..fresh).for_each(|_| self.enqueue(index, None, true));
            }
            self.read_from = read_from;
            self.write()?;
            if self.unanswered == 0 {
                return Ok(began.elapsed());
            }
            if now >= look_at {
                self.abandon_stuck();
                look_at = now + look_interval;
            }
            let until = look_at.min(self.base + Duration::from_nanos(self.interval_end_ns()));
            self.wait(Some(until.saturating_duration_since(now).max(Duration::from_millis(1))))?;
            self.read();
        }
    }

    /// An open loop: requests leave when the plan says, whatever comes back. Those planned within the window are
    /// recorded, and waited for.
    pub fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        window: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Duration> {
        let warmup_ns = warmup.as_nanos() as u64;
        let (mut end_ns, mut left) = match window {
            Amount::Time(time) => (warmup_ns.saturating_add(time.as_nanos() as u64), u64::MAX),
            Amount::Requests(requests) => (u64::MAX, requests),
        };
        self.base = Instant::now();
        self.begin_intervals(warmup_ns);
        // What is planned just before the end may be sent just after it.
        self.end_ns = end_ns.saturating_add(1_000_000);
        let look_interval_ns = self.look_interval().as_nanos() as u64;
        let mut look_ns = look_interval_ns;
        let mut last_ns = warmup_ns;
        let mut turn = 0;
        loop {
            let now_ns = self.now_ns();
            self.cut(now_ns);
            if stop() {
                end_ns = end_ns.min(now_ns);
            }
            let mut due = 0;
            while plan.next_ns() <= now_ns
                && plan.next_ns() < end_ns
                && left > 0
                && self.open > 0
                && due < DUE_MAX
            {
                let planned_ns = plan.next_ns();
                let counts = planned_ns >= warmup_ns;
                left -= u64::from(counts);
                last_ns = planned_ns;
                // Each open connection in its turn.
                while !self.conns[turn % self.conns.len()].is_open {
                    turn += 1;
                }
                self.enqueue(turn % self.conns.len(), Some(planned_ns), counts);
                turn += 1;
                plan.advance();
                due += 1;
            }
            self.write()?;
            let is_over = plan.next_ns() >= end_ns || left == 0 || self.open == 0;
            if is_over && self.record.unresolved() == 0 {
                let end_ns =
                    if matches!(window, Amount::Time(_)) && self.open > 0 { end_ns } else { last_ns };
                return Ok(Duration::from_nanos(end_ns.saturating_sub(warmup_ns)));
            }
            if now_ns >= look_ns {
                self.find_lost();
                look_ns = now_ns + look_interval_ns;
            }
            let until_ns = if is_over { look_ns } else { plan.next_ns().min(look_ns) };
            self.wait_until(until_ns.min(self.interval_end_ns()))?;
            self.read();
            self.read_from.clear();
        }
    }

    /// Keeps the connections open without a request, as long as one is left, and counts those that the peer closes
    /// meanwhile.
    pub fn hold(&mut self, time: Duration) -> Result<usize> {
        let until = Instant::now() + time;
        let before = self.open;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.open == 0 {
                return Ok(before - self.open);
            }
            self.wait(Some(left))?;
            self.read();
            if let Some(error) = &self.record.first_error {
                bail!("{error}");
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    fn begin_intervals(&mut self, at_ns: u64) {
        if let Some(lane) = &mut self.lane {
            lane.begin(at_ns);
        }
    }

    /// Hands the record over if its interval has ended.
    fn cut(&mut self, now_ns: u64) {
        if let Some(lane) = &mut self.lane {
            lane.cut(&mut self.record, now_ns);
        }
    }

    fn interval_end_ns(&self) -> u64 {
        self.lane.as_ref().map_or(u64::MAX, Lane::end_ns)
    }

    /// Looking at every connection's oldest request costs time: rarely enough not to count, often enough that a lost
    /// reply is told within an eighth of the timeout.
    fn look_interval(&self) -> Duration {
        self.shape.timeout / 8
    }

    fn enqueue(&mut self, index: usize, planned_ns: Option<u64>, counts: bool) {
        let size = self.shape.sizes.draw(&mut self.random);
        let conn = &mut self.conns[index];
        self.exchange.request(&mut conn.state, size, &mut conn.out);
        conn.flight.push_back(Request {
            planned_ns,
            sent_ns: 0,
            size,
            reply_bytes: 0,
            is_wrong: false,
            is_lost: false,
            counts,
        });
        if conn.fresh == 0 {
            self.dirty.push(index);
        }
        conn.fresh += 1;
        self.unanswered += 1;
        self.record.requests += u64::from(counts);
    }

    /// Writes on each connection with requests that have not been offered to its socket.
    fn write(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let now_ns = self.now_ns();
            let conn = &mut self.conns[index];
            let fresh = std::mem::take(&mut conn.fresh);
            for request in conn.flight.iter_mut().rev().take(fresh) {
                request.sent_ns = now_ns;
                if let Some(planned_ns) = request.planned_ns.filter(|_| request.counts) {
                    self.record.send_lags.saturating_record(now_ns.saturating_sub(planned_ns));
                    self.record.sent_in_time += u64::from(now_ns <= self.end_ns);
                }
            }
            if conn.is_blocked {
                self.record.blocked_writes += 1;
            } else {
                self.write_out(index)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn write_out(&mut self, index: usize) -> Result<()> {
        let conn = &mut self.conns[index];
        while conn.out_at < conn.out.len() {
            match conn.stream.write(&conn.out[conn.out_at..]) {
                Ok(written) => conn.out_at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.is_blocked = true;
                    self.record.blocked_writes += 1;
                    if !conn.watches_writability {
                        let both = Interest::READABLE | Interest::WRITABLE;
                        self.poll.registry().reregister(&mut conn.stream, Token(index), both)?;
                        conn.watches_writability = true;
                    }
                    // What the socket has taken is not kept for ever.
                    conn.out.drain(..conn.out_at);
                    conn.out_at = 0;
                    return Ok(());
                }
                Err(_) => {
                    self.end(index);
                    return Ok(());
                }
            }
        }
        conn.out.clear();
        conn.out_at = 0;
        Ok(())
    }

    /// Waits until a time of the plan. The system's wait is good to a millisecond, the alarm's to the wake-up of a
    /// sleeping thread: the last of it is spun.
    fn wait_until(&mut self, until_ns: u64) -> Result<()> {
        const SPIN_NS: u64 = 100_000;
        let left_ns = until_ns.saturating_sub(self.now_ns());
        if left_ns <= SPIN_NS {
            return self.wait(Some(Duration::ZERO));
        }
        self.alarm.set(Duration::from_nanos(left_ns - SPIN_NS))?;
        self.wait(None)
    }

    fn wait(&mut self, longest: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, longest) {
            Ok(()) => Ok(()),
            // A debugger, a signal, a stop and continue; there is nothing to read, and the next turn waits again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(error).context("waiting for readiness"),
        }
    }

    fn read(&mut self) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(index) = event.token();
            if event.token() == ALARM || !self.conns[index].is_open {
                continue;
            }
            if event.is_writable() && std::mem::take(&mut self.conns[index].is_blocked) {
                // An error here ends the connection, which is recorded.
                let _ = self.write_out(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read_from_conn(index, event);
                self.read_from.push(index);
            }
        }
        self.events = events;
    }

    fn read_from_conn(&mut self, index: usize, event: &Event) {
        while self.conns[index].is_open {
            let read = match self.conns[index].stream.read(&mut self.buffer) {
                Ok(0) => return self.end(index),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.end(index),
            };
            self.take(index, read);
            if is_drained(event, &self.conns[index].stream, read < self.buffer.len()) {
                return;
            }
        }
    }

    /// Verifies what was read and records the replies that end in it.
    fn take(&mut self, index: usize, read: usize) {
        let now_ns = self.now_ns();
        self.cut(now_ns);
        let Load { conns, exchange, buffer, record, .. } = self;
        let conn = &mut conns[index];
        let mut bytes = &buffer[..read];
        if conn.preamble_left > 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(conn.preamble_left));
            let preamble = exchange.preamble();
            let from = preamble.len() - conn.preamble_left;
            if part != &preamble[from..from + part.len()] {
                record.unasked_bytes += part.len() as u64;
                record.note_error(|| format!("connection {index}: it began with other words than it should"));
            }
            conn.preamble_left -= part.len();
            bytes = rest;
        }
        while !bytes.is_empty() {
            let Some(request) = conn.flight.front_mut() else {
                record.unasked_bytes += bytes.len() as u64;
                record.note_error(|| {
                    format!("connection {index}: {} bytes came that nobody asked for", bytes.len())
                });
                return;
            };
            let Progress { taken, is_complete, wrong } =
                exchange.verify(&mut conn.state, request.size, request.reply_bytes, bytes);
            let is_astray = wrong.as_ref().is_some_and(|wrong| matches!(wrong.fault, Fault::Astray(_)));
            if let Some(wrong) = wrong
                && !std::mem::replace(&mut request.is_wrong, true)
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
            request.reply_bytes += taken;
            conn.received += taken as u64;
            bytes = &bytes[taken..];
            if is_complete || is_astray {
                record.answer(request, now_ns);
                conn.flight.pop_front();
                self.unanswered -= 1;
            }
            if is_astray {
                return self.close(index);
            }
        }
    }

    /// The peer has ended a connection.
    fn end(&mut self, index: usize) {
        self.record.peer_closed += 1;
        if let Some(why) = self.exchange.why_closed(&self.conns[index].state) {
            self.record.note_error(|| format!("connection {index}: {why}"));
        }
        self.close(index);
    }

    /// Uses a connection no more: what was in flight is lost.
    fn close(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.is_open = false;
        // It cannot be watched any more, whatever the answer.
        let _ = self.poll.registry().deregister(&mut conn.stream);
        self.open -= 1;
        for request in conn.flight.drain(..) {
            self.unanswered -= 1;
            self.record.lose(&request, self.shape.timeout);
        }
        conn.fresh = 0;
        self.dirty.retain(|&dirty| dirty != index);
    }

    /// Gives up the requests that have waited for too long. A reply that comes later still takes its place in the order.
    fn find_lost(&mut self) {
        let now_ns = self.now_ns();
        for conn in &mut self.conns {
            for request in &mut conn.flight {
                if !request.is_overdue(now_ns, self.shape.timeout) {
                    break;
                }
                self.record.lose(request, self.shape.timeout);
                request.is_lost = true;
            }
        }
    }

    /// Closes the connections whose oldest request has waited for too long: in a closed loop they would wait for ever.
    fn abandon_stuck(&mut self) {
        let now_ns = self.now_ns();
        for index in 0..self.conns.len() {
            let oldest = self.conns[index].flight.front();
            if oldest.is_some_and(|request| request.is_overdue(now_ns, self.shape.timeout)) {
                self.record
                    .note_error(|| format!("connection {index}: no reply within {:?}", self.shape.timeout));
                self.close(index);
            }
        }
    }
}

impl Request {
    fn is_overdue(&self, now_ns: u64, timeout: Duration) -> bool {
        self.planned_ns.unwrap_or(self.sent_ns).saturating_add(timeout.as_nanos() as u64) <= now_ns
    }
}

impl Record {
    /// A reply has come whole.
    fn answer(&mut self, request: &Request, now_ns: u64) {
        if request.is_lost {
            self.late += u64::from(request.counts);
        } else if request.counts && request.is_wrong {
            self.errors += 1;
        } else if request.counts {
            self.answered += 1;
            self.service_times.saturating_record(now_ns.saturating_sub(request.sent_ns));
            if let Some(planned_ns) = request.planned_ns {
                self.response_times.saturating_record(now_ns.saturating_sub(planned_ns));
            }
        }
    }

    /// A request is given up.
    fn lose(&mut self, request: &Request, timeout: Duration) {
        if request.is_lost || !request.counts {
            return;
        }
        self.lost += 1;
        let timeout_ns = timeout.as_nanos() as u64;
        self.service_times.saturating_record(timeout_ns);
        if request.planned_ns.is_some() {
            self.response_times.saturating_record(timeout_ns);
        }
    }
}

/// Whether the last read has taken everything, so that the next one would only meet WouldBlock.
pub fn is_drained(event: &Event, stream: &Stream, read_was_short: bool) -> bool {
    read_was_short
        && stream.short_read_means_drained()
        && !(event.is_read_closed() || event.is_error() || event.is_priority())
}
