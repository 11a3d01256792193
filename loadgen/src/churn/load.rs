//! The loop of connections: those that are due begin, then all that are ready go on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Interest, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Close;
use crate::address::{Address, Peer};
use crate::exchange::{Exchange, Fault, Progress};
use crate::interval::{Intervals, Lane};
use crate::load::{Amount, Budget, Shape};
use crate::plan::{Agenda, Plan, Window};
use crate::readiness::Readiness;
use crate::record::{LOST_NS, Record, note};
use crate::report::counted;
use crate::run::Driver;
use crate::shortage::{self, Shortage};
use crate::stream::Stream;

/// One read takes this much at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Connects that begin in one turn. Each takes some microseconds, in which replies that have come wait to be read.
const DUE_MAX: usize = 64;

/// A connection takes as much memory as so many requests on a connection that stays.
const CONNS_SHARE: usize = 16;

/// So many connections may be in progress.
pub fn conns_max(budget: Budget) -> usize {
    budget.requests / CONNS_SHARE
}

/// Between two looks at a unix listener with a full backlog: the kernel does not tell when there is room again.
const BACKLOG_PATIENCE_NS: u64 = 1_000_000;

pub struct ChurnLoad<E: Exchange> {
    exchange: E,
    peer: Peer,
    close: Close,
    shape: Shape,
    /// Numbers for the connections of all threads.
    numbers: Arc<AtomicUsize>,
    random: SmallRng,
    readiness: Readiness,
    /// Connections in progress, by their token.
    conns: Vec<Option<Conn<E::Conn>>>,
    vacant: Vec<usize>,
    /// Those that found a unix listener's backlog full, in their order.
    waiting: VecDeque<usize>,
    in_progress: usize,
    buffer: Box<[u8]>,
    /// The end of an open loop's window, in time.
    end_ns: u64,
    record: Record,
    /// Where the records of intervals go.
    intervals: Intervals,
}

struct Conn<S> {
    number: usize,
    /// None as long as there is no room in the backlog.
    stream: Option<Stream>,
    is_connected: bool,
    state: S,
    /// What is still to come of what the server says first.
    preamble_left: usize,
    /// What was made of the request, as far as the socket has not taken it, and how much that was; none if that is all.
    out: Vec<u8>,
    out_at: usize,
    made_at: Option<usize>,
    size: usize,
    /// `None` in a closed loop.
    planned_ns: Option<u64>,
    sent_ns: u64,
    /// Bytes of the reply that have come, and whether one of them was wrong.
    reply_bytes: usize,
    is_wrong: bool,
    /// It belongs to the window.
    counts: bool,
}

impl<S> Conn<S> {
    /// The socket has taken all of the request.
    fn is_written(&self) -> bool {
        self.made_at.is_none() && self.out_at == self.out.len()
    }
}

/// Why a connection has no reply.
enum Failure {
    Connect(io::Error),
    /// The server has ended it in order.
    Ended,
    Broken(io::Error),
    TimedOut,
}

impl<E: Exchange> ChurnLoad<E> {
    /// Connects to nobody yet, unless a name has several addresses: then the first that accepts is the one for all. `numbers`
    /// are those of the connections, which threads share.
    pub fn new(
        address: &Address,
        shape: Shape,
        close: Close,
        numbers: Arc<AtomicUsize>,
        exchange: E,
    ) -> Result<ChurnLoad<E>> {
        let peer = match &address.peer {
            Peer::Tcp(addresses) if addresses.len() > 1 => {
                Stream::connect(&address.peer, shape.sources.of(0), shape.timeout)
                    .map_err(shortage::explained)
                    .with_context(|| format!("connecting to {address}"))?
                    .narrowed(&address.peer)
            }
            peer => peer.clone(),
        };
        Ok(ChurnLoad {
            exchange,
            peer,
            close,
            random: SmallRng::seed_from_u64(shape.seed),
            shape,
            numbers,
            readiness: Readiness::new()?,
            conns: Vec::new(),
            vacant: Vec::new(),
            waiting: VecDeque::new(),
            in_progress: 0,
            buffer: vec![0; READ_BYTES_MAX].into(),
            end_ns: u64::MAX,
            record: Record::default(),
            intervals: Intervals::default(),
        })
    }

    /// Rarely enough not to count, often enough that one that is too late is told within an eighth of the timeout.
    fn look_interval_ns(&self) -> u64 {
        self.shape.timeout.as_nanos() as u64 / 8
    }

    /// Begins a connection: from here its service time counts.
    fn begin(&mut self, planned_ns: Option<u64>, counts: bool) {
        self.record.requests += u64::from(counts);
        if self.in_progress >= conns_max(self.shape.budget) {
            self.record.unsent += u64::from(counts);
            self.record.lose(u64::from(counts), planned_ns.is_some());
            let most = self.in_progress;
            self.record.note_error(|| format!("{most} connections are in progress, which is the limit"));
            return;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let size = self.shape.sizes.draw(&mut self.random);
        let state = self.exchange.open(number);
        let sent_ns = self.readiness.now_ns();
        if let Some(planned_ns) = planned_ns.filter(|_| counts) {
            note(&mut self.record.send_lags, sent_ns.saturating_sub(planned_ns), 1);
            self.record.sent_in_time += u64::from(sent_ns <= self.end_ns);
        }
        let conn = Conn {
            number,
            stream: None,
            is_connected: false,
            state,
            preamble_left: self.exchange.preamble().len(),
            out: Vec::new(),
            out_at: 0,
            made_at: Some(0),
            size,
            planned_ns,
            sent_ns,
            reply_bytes: 0,
            is_wrong: false,
            counts,
        };
        let index = self.vacant.pop().unwrap_or(self.conns.len());
        if index == self.conns.len() {
            self.conns.push(None);
        }
        self.conns[index] = Some(conn);
        self.in_progress += 1;
        if self.waiting.is_empty() {
            self.connect(index);
        } else {
            self.waiting.push_back(index);
        }
    }

    /// Has the kernel connect. If that is done at once, which is the rule on one machine, the request follows.
    fn connect(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        let (mut stream, is_connected) = match Stream::begin(&self.peer, self.shape.sources.of(conn.number)) {
            Ok(begun) => begun,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.waiting.push_back(index),
            Err(error) => return self.fail(index, Failure::Connect(error)),
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = if is_connected {
            conn.stream = Some(stream);
            self.connected(index);
            let Some(conn) = &mut self.conns[index] else { return };
            // Writability is of interest to those alone who have something left to write.
            let interest = if conn.is_written() { Interest::READABLE } else { both };
            let Some(stream) = &mut conn.stream else { return };
            self.readiness.registry().register(stream, Token(index), interest)
        } else {
            let registered = self.readiness.registry().register(&mut stream, Token(index), both);
            conn.stream = Some(stream);
            registered
        };
        if let Err(error) = registered {
            self.fail(index, Failure::Connect(error));
        }
    }

    /// Goes on with those that found no room in a backlog.
    fn connect_waiting(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(index) = self.waiting.pop_front() else { return };
            let before = self.waiting.len();
            self.connect(index);
            if self.waiting.len() > before {
                // There is no room yet: it stays the first of them.
                self.waiting.rotate_right(1);
                return;
            }
        }
    }

    fn connected(&mut self, index: usize) {
        let now_ns = self.readiness.now_ns();
        let Some(conn) = &mut self.conns[index] else { return };
        conn.is_connected = true;
        if conn.counts {
            let times = &mut self.record.churn.get_or_insert_default().connect_times;
            note(times, now_ns.saturating_sub(conn.sent_ns), 1);
        }
        self.write(index);
    }

    fn write(&mut self, index: usize) {
        let bytes_max = self.shape.budget.bytes_each(self.in_progress);
        let Some(conn) = &mut self.conns[index] else { return };
        let Some(stream) = &mut conn.stream else { return };
        loop {
            while conn.out_at < conn.out.len() {
                match stream.write(&conn.out[conn.out_at..]) {
                    Ok(written) => conn.out_at += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.record.blocked_writes += 1;
                        return;
                    }
                    Err(error) => return self.fail(index, Failure::Broken(error)),
                }
            }
            conn.out.clear();
            conn.out_at = 0;
            let Some(at) = conn.made_at else { return };
            let is_whole =
                self.exchange.request_part(&mut conn.state, conn.size, at, bytes_max, &mut conn.out);
            conn.made_at = if is_whole { None } else { Some(at + conn.out.len()) };
        }
    }

    fn read(&mut self) {
        // No connection begins before all events have had their turn: a token is that of the connection they are of.
        let found = self.readiness.take();
        for (index, event) in found.iter() {
            self.go_on(index, event);
        }
        self.readiness.put_back(found);
    }

    fn go_on(&mut self, index: usize, event: &Event) {
        let Some(conn) = &mut self.conns[index] else { return };
        if !conn.is_connected {
            match conn.stream.as_ref().map_or(Ok(None), Stream::take_error) {
                Ok(None) if event.is_writable() => self.connected(index),
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => return self.fail(index, Failure::Connect(error)),
            }
        } else if event.is_writable() {
            self.write(index);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_reply(index);
        }
    }

    fn read_reply(&mut self, index: usize) {
        while let Some(conn) = &mut self.conns[index] {
            let Some(stream) = &mut conn.stream else { return };
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(index),
                Ok(read) => self.take(index, read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(index, Failure::Broken(error)),
            }
        }
    }

    /// Verifies what was read. The connection is over once its reply is complete.
    fn take(&mut self, index: usize, read: usize) {
        let now_ns = self.readiness.now_ns();
        self.intervals.cut(&mut self.record, now_ns);
        let ChurnLoad { conns, exchange, buffer, record, .. } = self;
        let Some(conn) = &mut conns[index] else { return };
        let mut bytes = &buffer[..read];
        if conn.preamble_left > 0 {
            let (part, rest) = bytes.split_at(bytes.len().min(conn.preamble_left));
            let preamble = exchange.preamble();
            let from = preamble.len() - conn.preamble_left;
            if part != &preamble[from..from + part.len()] {
                record.unasked_bytes += part.len() as u64;
                record.note_error(|| format!("connection {}: the greeting is wrong", conn.number));
            }
            conn.preamble_left -= part.len();
            bytes = rest;
        }
        if bytes.is_empty() {
            return;
        }
        let Progress { taken, is_complete, wrong } =
            exchange.verify(&mut conn.state, conn.size, conn.reply_bytes, bytes);
        let is_astray = wrong.as_ref().is_some_and(|wrong| matches!(wrong.fault, Fault::Astray(_)));
        if let Some(wrong) = wrong
            && !std::mem::replace(&mut conn.is_wrong, true)
        {
            record.note_error(|| {
                let near = &bytes[wrong.at.saturating_sub(16)..];
                let near = near[..near.len().min(48)].escape_ascii();
                let offset = conn.reply_bytes + wrong.at;
                format!(
                    "connection {}: byte {offset} of its reply {}, near \"{near}\"",
                    conn.number, wrong.fault
                )
            });
        }
        conn.reply_bytes += taken;
        if is_complete || is_astray {
            let unasked = bytes.len() - taken;
            if unasked > 0 {
                record.unasked_bytes += unasked as u64;
                record.note_error(|| {
                    let unasked = counted(unasked, "byte");
                    format!("connection {}: {unasked} received without a request", conn.number)
                });
            }
            self.answered(index, now_ns);
        }
    }

    /// The server has ended a connection whose reply was not complete, unless this completes it.
    fn ended(&mut self, index: usize) {
        let now_ns = self.readiness.now_ns();
        self.intervals.cut(&mut self.record, now_ns);
        let Some(conn) = &mut self.conns[index] else { return };
        match self.exchange.end(&mut conn.state, conn.reply_bytes) {
            Some(said) => {
                if let Err(fault) = said
                    && !std::mem::replace(&mut conn.is_wrong, true)
                {
                    let (number, at) = (conn.number, conn.reply_bytes);
                    self.record.note_error(|| {
                        format!("connection {number}: the end of its reply, byte {at}, {fault}")
                    });
                }
                self.answered(index, now_ns);
            }
            None => self.fail(index, Failure::Ended),
        }
    }

    /// A reply has come whole.
    fn answered(&mut self, index: usize, now_ns: u64) {
        let Some(conn) = self.vacate(index) else { return };
        if self.close == Close::Rst
            && let Some(stream) = &conn.stream
        {
            // One that the server has reset before has nothing left to be reset.
            let _ = stream.reset_when_closed();
        }
        let record = &mut self.record;
        if conn.counts && conn.is_wrong {
            record.errors += 1;
        } else if conn.counts {
            record.answered += 1;
            note(&mut record.service_times, now_ns.saturating_sub(conn.sent_ns), 1);
            if let Some(planned_ns) = conn.planned_ns {
                note(&mut record.response_times, now_ns.saturating_sub(planned_ns), 1);
            }
        }
    }

    /// No reply comes any more.
    #[cold]
    fn fail(&mut self, index: usize, failure: Failure) {
        let Some(conn) = self.vacate(index) else { return };
        if !conn.counts {
            return;
        }
        let (record, timeout) = (&mut self.record, self.shape.timeout);
        let counts = record.churn.get_or_insert_default();
        let words = match failure {
            Failure::Connect(error) => {
                match (Shortage::of(&error), error.kind()) {
                    (Some(shortage), _) => record.note_shortage(shortage),
                    (None, io::ErrorKind::ConnectionRefused) => counts.refused += 1,
                    (None, io::ErrorKind::ConnectionReset) => counts.reset += 1,
                    (None, io::ErrorKind::TimedOut) => counts.timed_out += 1,
                    (None, _) => counts.failed += 1,
                }
                shortage::words(&error)
            }
            Failure::Ended => {
                record.peer_closed += 1;
                format!("the server closed it after {} of the reply", counted(conn.reply_bytes, "byte"))
            }
            Failure::Broken(error) => {
                counts.reset += 1;
                format!("{error} after {} of the reply", counted(conn.reply_bytes, "byte"))
            }
            Failure::TimedOut => {
                counts.timed_out += 1;
                let what = if conn.is_connected { "no reply" } else { "not connected" };
                format!("{what} within {timeout:?}")
            }
        };
        if !conn.is_connected {
            note(&mut record.churn.get_or_insert_default().connect_times, LOST_NS, 1);
        }
        record.note_error(|| format!("connection {}: {words}", conn.number));
        record.lose(1, conn.planned_ns.is_some());
    }

    /// Takes a connection out. Its stream, closed with it, leaves the poll by itself.
    fn vacate(&mut self, index: usize) -> Option<Conn<E::Conn>> {
        let conn = self.conns[index].take()?;
        self.vacant.push(index);
        self.in_progress -= 1;
        if conn.stream.is_none() {
            self.waiting.retain(|&waiting| waiting != index);
        }
        Some(conn)
    }

    /// Gives up those that have taken too long.
    fn find_late(&mut self) {
        let (now_ns, timeout_ns) = (self.readiness.now_ns(), self.shape.timeout.as_nanos() as u64);
        for index in 0..self.conns.len() {
            let is_late = self.conns[index].as_ref().is_some_and(|conn| {
                conn.planned_ns.unwrap_or(conn.sent_ns).saturating_add(timeout_ns) <= now_ns
            });
            if is_late {
                self.fail(index, Failure::TimedOut);
            }
        }
    }

    /// What ends every turn: waits, at the longest until then, and goes on with what is ready.
    fn turn(&mut self, look_ns: &mut u64, until_ns: u64) -> Result<()> {
        let now_ns = self.readiness.now_ns();
        if now_ns >= *look_ns {
            self.find_late();
            *look_ns = now_ns + self.look_interval_ns();
        }
        let interval_end_ns = self.intervals.end_ns();
        let backlog_ns = if self.waiting.is_empty() { u64::MAX } else { now_ns + BACKLOG_PATIENCE_NS };
        self.readiness.wait_until(until_ns.min(*look_ns).min(interval_end_ns).min(backlog_ns))?;
        self.read();
        self.connect_waiting();
        Ok(())
    }
}

impl<E: Exchange<Conn: Send> + Send> Driver for ChurnLoad<E> {
    /// Keeps as many connections in progress as the shape says; `depth` is that of a connection, which has one request.
    fn drive(&mut self, amount: Amount, _depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        self.readiness.restart_clock();
        let (mut left, end_ns) = match amount {
            Amount::Requests(requests) => (requests, u64::MAX),
            Amount::Time(time) => (u64::MAX, time.as_nanos() as u64),
        };
        self.intervals.begin(0);
        let mut look_ns = self.look_interval_ns();
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
            // Not more at once than have their turn before they are read: those that fail at once leave room too.
            let room = self.shape.connections.saturating_sub(self.in_progress).min(DUE_MAX);
            let fresh = left.min(room as u64);
            left -= fresh;
            (0..fresh).for_each(|_| self.begin(None, true));
            if left == 0 && self.in_progress == 0 {
                return Ok(Duration::from_nanos(self.readiness.now_ns()));
            }
            let has_room = self.in_progress < self.shape.connections;
            let until_ns = match left {
                0 => u64::MAX,
                _ if has_room => 0,
                _ => end_ns,
            };
            self.turn(&mut look_ns, until_ns)?;
        }
    }

    fn follow(
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
        let mut look_ns = self.look_interval_ns();
        loop {
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.record, now_ns);
            if stop() {
                agenda.end_at(now_ns);
            }
            // What was due so long ago that it is overdue is given up as it is, however much that is.
            let skipped = agenda.skip(now_ns.saturating_sub(self.shape.timeout.as_nanos() as u64));
            self.record.requests += skipped;
            self.record.lose(skipped, true);
            let mut due = 0;
            while agenda.next_ns() <= now_ns && due < DUE_MAX {
                let (planned_ns, counts) = agenda.take();
                self.begin(Some(planned_ns), counts);
                due += 1;
            }
            if agenda.is_over() && self.record.unresolved() == 0 {
                return Ok(agenda.window());
            }
            self.turn(&mut look_ns, agenda.next_ns())?;
        }
    }

    fn take_record(&mut self) -> Record {
        std::mem::take(&mut self.record)
    }

    fn hand_over_to(&mut self, lane: Lane) {
        self.intervals.hand_over_to(lane);
    }

    fn hand_over_rest(&mut self) {
        let now_ns = self.readiness.now_ns();
        self.intervals.end(&mut self.record, now_ns);
    }
}
