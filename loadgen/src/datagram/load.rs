//! The loop over datagrams: like the one over streams, but what is sent may never be answered, twice, or too late.
//!
//! ```text
//!     plan ─► due requests ─► send ─► wait ─► receive all ─► identify ─► verify ─► record
//!                 ▲                                             │ closed loop: room for the next request
//!                 └───────── given up after the timeout ────────┘
//! ```
//!
//! mio is edge-triggered: a socket is read until fewer datagrams come than there was room for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::io::Errno;

use crate::address::Address;
use crate::interval::{Intervals, Lane};
use crate::load::{Amount, Shape};
use crate::os::{BATCH_MAX, Inbox, send_batch, socket_drops};
use crate::plan::{Agenda, Plan, Window};
use crate::readiness::Readiness;
use crate::record::{Record, note};
use crate::report::counted;
use crate::run::Driver;
use crate::shortage;

use super::counts::Counts;
use super::dialogue::{Dialogue, Header, SOCKETS_MAX, header_of};
use super::flight::{Flight, Request, Standing};
use super::socket;

/// Requests that are taken from the plan before they are sent: whoever is behind must not send all of it at once.
const DUE_MAX: usize = 4096;

/// After the last reply of a window, and after each datagram that still comes, duplicates are waited for this long.
const COOL_DOWN: Duration = Duration::from_millis(200);

/// The same where stretches follow on each other: what comes later is found in the next one.
const SHORT_COOL_DOWN: Duration = Duration::from_millis(2);

/// Of all sockets together, so many runs of requests that were lost are remembered.
const LOST_RANGES_MAX: usize = 1 << 20;

/// So many requests in flight are looked at for the one whose reply has a broken header.
const LIKELY_MAX: usize = 1024;

pub struct DatagramLoad {
    /// After a stretch, how long it must be quiet until all that may still come has come.
    cool_down: Duration,
    dialogue: Dialogue,
    address: Address,
    shape: Shape,
    random: SmallRng,
    readiness: Readiness,
    /// The number of the first socket here, among all of the run.
    first: usize,
    sockets: Vec<Socket>,
    inbox: Inbox,
    /// Sockets with requests that have not been offered to the kernel yet.
    dirty: Vec<usize>,
    /// Sockets with requests that the kernel did not take, in the order in which they had to wait. They wait for one
    /// another: unix sockets for room at the same server, UDP sockets mostly for the same interface. Whoever is first in
    /// the kernel's own list may be so each time.
    blocked: VecDeque<usize>,
    /// The first of them may have room.
    is_retry_due: bool,
    /// Sockets that were read from or gave up a request in this turn: in a closed loop these have room.
    roomy: Vec<usize>,
    /// The end of an open loop's window.
    end_ns: u64,
    /// When a datagram last came, whichever.
    heard_ns: Option<u64>,
    /// When a request of the window was last sent or answered.
    active_ns: u64,
    record: Record,
    /// Where the records of intervals go.
    intervals: Intervals,
}

struct Socket {
    fd: OwnedFd,
    flight: Flight,
    /// Requests that have not been offered to the kernel: the newest of those that it has not taken.
    fresh: usize,
    /// It is among those that wait for room.
    is_blocked: bool,
    /// Set by the first send that was refused. Until then writability would only wake the loop for nothing.
    watches_writability: bool,
    window: Option<SocketWindow>,
}

/// What a socket's window began with.
#[derive(Clone, Copy)]
struct SocketWindow {
    /// The sequence number of its first request.
    sequence: u64,
    drops: u32,
}

impl Socket {
    /// From here on requests count.
    fn begin_window(&mut self) -> Result<()> {
        let drops = socket_drops(self.fd.as_fd()).context("reading a socket's drops")?;
        self.window = Some(SocketWindow { sequence: self.flight.next_sequence(), drops });
        Ok(())
    }

    fn counts(&self, sequence: u64) -> bool {
        self.window.is_some_and(|window| sequence >= window.sequence)
    }
}

impl DatagramLoad {
    /// Opens every socket, or tells which one could not be. `first` is the number of sockets that other threads have
    /// before these. The sizes of the shape are within those of [`super::request_bytes`].
    pub fn connect(
        address: &Address,
        shape: Shape,
        first: usize,
        dialogue: Dialogue,
    ) -> Result<DatagramLoad> {
        ensure!(first + shape.connections <= SOCKETS_MAX, "more than {SOCKETS_MAX} sockets");
        let readiness = Readiness::new()?;
        let mut sockets = Vec::with_capacity(shape.connections);
        for index in 0..shape.connections {
            let fd = socket::open(&address.peer, shape.sources.of(first + index))
                .map_err(shortage::explained)
                .with_context(|| format!("opening socket {} to {address}", first + index + 1))?;
            readiness.registry().register(
                &mut SourceFd(&fd.as_raw_fd()),
                Token(index),
                Interest::READABLE,
            )?;
            sockets.push(Socket {
                fd,
                flight: Flight::new(LOST_RANGES_MAX / shape.connections),
                fresh: 0,
                is_blocked: false,
                watches_writability: false,
                window: None,
            });
        }
        let (_, request_bytes) = shape.sizes.bounds();
        Ok(DatagramLoad {
            cool_down: COOL_DOWN,
            // One byte more than is due shows what is too long.
            inbox: Inbox::new(dialogue.reply_bytes(request_bytes) + 1),
            dialogue,
            address: address.clone(),
            random: SmallRng::seed_from_u64(shape.seed),
            shape,
            readiness,
            first,
            sockets,
            dirty: Vec::new(),
            blocked: VecDeque::new(),
            is_retry_due: false,
            roomy: Vec::new(),
            end_ns: u64::MAX,
            heard_ns: None,
            active_ns: 0,
            record: new_record(),
            intervals: Intervals::default(),
        })
    }

    /// Looking at every socket's oldest request costs time: rarely enough not to count, often enough that room is made
    /// within an eighth of the timeout. What comes in between is late all the same.
    fn look_interval_ns(&self) -> u64 {
        self.shape.timeout.as_nanos() as u64 / 8
    }

    fn enqueue(&mut self, index: usize, planned_ns: Option<u64>, counts: bool) {
        let size = self.shape.sizes.draw(&mut self.random);
        let socket = &mut self.sockets[index];
        socket.flight.push(Request::new(planned_ns, size));
        if socket.fresh == 0 {
            self.dirty.push(index);
        }
        socket.fresh += 1;
        self.record.requests += u64::from(counts);
    }

    /// A socket has so many requests on their way that no more can be kept.
    #[cold]
    fn give_up_unsent(&mut self, counts: bool, most: usize) {
        let count = u64::from(counts);
        self.record.requests += count;
        self.record.unsent += count;
        self.record.lose(count, true);
        self.record
            .note_error(|| format!("{most} requests of a socket wait for replies, which is the limit"));
    }

    /// Offers the kernel what it has not been offered yet, unless others wait: then all of them, each in its turn.
    fn send(&mut self) -> Result<()> {
        for index in std::mem::take(&mut self.dirty) {
            let now_ns = self.readiness.now_ns();
            let socket = &mut self.sockets[index];
            let fresh = std::mem::take(&mut socket.fresh);
            let first_counted = socket.window.map_or(u64::MAX, |window| window.sequence);
            for (sequence, request) in socket.flight.offered(fresh, now_ns) {
                if let Some(planned_ns) = request.planned_ns.filter(|_| sequence >= first_counted) {
                    note(&mut self.record.send_lags, now_ns.saturating_sub(planned_ns), 1);
                    self.record.sent_in_time += u64::from(now_ns <= self.end_ns);
                }
            }
            if socket.is_blocked || !self.blocked.is_empty() {
                self.record.blocked_writes += 1;
            } else if self.flush(index)? {
                continue;
            }
            if !std::mem::replace(&mut self.sockets[index].is_blocked, true) {
                self.blocked.push_back(index);
            }
        }
        if std::mem::take(&mut self.is_retry_due) {
            while let Some(&index) = self.blocked.front() {
                let before = self.sockets[index].flight.unsent_count();
                if self.flush(index)? {
                    self.blocked.pop_front();
                    self.sockets[index].is_blocked = false;
                } else if self.sockets[index].flight.unsent_count() < before {
                    // It has had its turn.
                    self.blocked.rotate_left(1);
                } else {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what one socket has to send. Returns whether the kernel has taken it all.
    fn flush(&mut self, index: usize) -> Result<bool> {
        let mut was_refused = false;
        loop {
            let DatagramLoad { dialogue, first, sockets, record, .. } = self;
            let (socket, number) = (&mut sockets[index], *first + index);
            let mut unsent = socket.flight.unsent().peekable();
            let Some(&(from, _)) = unsent.peek() else { return Ok(true) };
            let mut headers = [Header::default(); BATCH_MAX];
            let batch = headers.iter_mut().zip(unsent).map(|(header, (sequence, request))| {
                *header = header_of(number, sequence);
                dialogue.request(header, number, sequence, request.size)
            });
            let error = match send_batch(socket.fd.as_fd(), batch) {
                Ok(sent) => {
                    let uncounted =
                        socket.window.map_or(u64::MAX, |window| window.sequence.saturating_sub(from));
                    let counted = (sent as u64).saturating_sub(uncounted);
                    socket.flight.sent(sent);
                    counts(record).sent += counted;
                    if counted > 0 {
                        self.active_ns = self.readiness.now_ns();
                    }
                    was_refused = false;
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {
                    record.blocked_writes += 1;
                    counts(record).send_would_block += 1;
                    if !socket.watches_writability {
                        let both = Interest::READABLE | Interest::WRITABLE;
                        let fd = socket.fd.as_raw_fd();
                        self.readiness.registry().reregister(&mut SourceFd(&fd), Token(index), both)?;
                        socket.watches_writability = true;
                    }
                }
                _ if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    counts(record).send_no_buffers += 1;
                    self.is_retry_due = true;
                }
                _ => {
                    self.note_trouble(error)?;
                    // The error was that of an earlier datagram, and to tell it took it away; a unix socket's stays.
                    if !std::mem::replace(&mut was_refused, true) {
                        continue;
                    }
                    self.is_retry_due = true;
                }
            }
            return Ok(false);
        }
    }

    /// Counts what the network tells of datagrams that went before. Any other error ends the run.
    fn note_trouble(&mut self, error: io::Error) -> Result<()> {
        let seen = counts(&mut self.record);
        match error.kind() {
            // A unix socket whose other end was closed tells of a reset.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => seen.refused += 1,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => seen.unreachable += 1,
            _ => return Err(error).with_context(|| format!("exchanging datagrams with {}", self.address)),
        }
        if self.heard_ns.is_none() {
            return Err(error).with_context(|| format!("nobody answers at {}", self.address));
        }
        self.record.note_error(|| format!("{}: {error}", self.address));
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let found = self.readiness.take();
        for (index, event) in found.iter() {
            self.is_retry_due |= event.is_writable();
            if event.is_readable() || event.is_error() {
                self.receive_from(index)?;
                self.roomy.push(index);
            }
        }
        self.readiness.put_back(found);
        Ok(())
    }

    fn receive_from(&mut self, index: usize) -> Result<()> {
        // Room for one more than is due: if it stays empty, nothing is left.
        let mut wanted = (self.sockets[index].flight.pending() + 1).min(BATCH_MAX);
        loop {
            match self.inbox.receive(self.sockets[index].fd.as_fd(), wanted) {
                Ok(received) => {
                    let now_ns = self.readiness.now_ns();
                    self.heard_ns = Some(now_ns);
                    self.give_up(index, now_ns);
                    (0..received).for_each(|at| self.take(index, at, now_ns));
                    if received < wanted {
                        return Ok(());
                    }
                    wanted = BATCH_MAX;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.note_trouble(error)?,
            }
        }
    }

    /// Finds the request that a datagram answers, verifies it, and records what it is.
    fn take(&mut self, index: usize, at: usize, now_ns: u64) {
        let DatagramLoad { dialogue, first, sockets, inbox, record, .. } = self;
        let (socket, number, reply) = (&mut sockets[index], *first + index, inbox.datagram(at));
        let told = dialogue.identify(reply);
        let is_own = |&(of, sequence): &(usize, u64)| {
            of == number && socket.flight.standing(sequence) != Standing::Unasked
        };
        let own = told.filter(is_own).map(|(_, sequence)| sequence);
        // Another socket's reply answers nothing here; of a header that is none at all, the likeliest request is found.
        let Some(sequence) =
            own.or_else(|| likely(dialogue, socket, number, reply).filter(|_| told.is_none()))
        else {
            counts(record).received += 1;
            counts(record).corrupted += 1;
            record.note_error(|| match told {
                Some((of, sequence)) => {
                    format!("socket {number}: a datagram that answers request {sequence} of socket {of}")
                }
                None => {
                    let bytes = counted(reply.len(), "byte");
                    format!("socket {number}: a datagram of {bytes} received without a request")
                }
            });
            return;
        };
        let is_counted = socket.counts(sequence);
        let request = socket.flight.get(sequence);
        let size = request.map(|request| request.size);
        let age_ns = now_ns - request.map_or(0, |request| request.sent_ns);
        let fault = dialogue.fault(reply, number, sequence, size, Duration::from_nanos(age_ns));
        let standing = socket.flight.standing(sequence);
        let answered = socket.flight.answer(sequence);
        if standing == Standing::Lost {
            socket.flight.answer_late(sequence);
        }
        if !is_counted {
            return;
        }
        counts(record).received += 1;
        match (&fault, answered) {
            (Some(_), answered) => {
                counts(record).corrupted += 1;
                record.errors += u64::from(answered.is_some());
            }
            (None, Some(answered)) => {
                record.answered += 1;
                counts(record).reordered += u64::from(answered.is_reordered);
                note(&mut record.service_times, now_ns.saturating_sub(answered.sent_ns), 1);
                if let Some(planned_ns) = answered.planned_ns {
                    note(&mut record.response_times, now_ns.saturating_sub(planned_ns), 1);
                }
            }
            (None, None) if standing == Standing::Lost => record.late += 1,
            (None, None) => counts(record).duplicated += 1,
        }
        if let Some(fault) = fault {
            record.note_error(|| format!("socket {number}, request {sequence}: {fault}"));
        }
        self.active_ns = now_ns;
    }

    /// Gives up the requests of a socket that have waited for too long.
    fn give_up(&mut self, index: usize, now_ns: u64) -> bool {
        let (socket, timeout) = (&mut self.sockets[index], self.shape.timeout);
        let before = socket.flight.pending();
        while let Some((sequence, request, was_sent)) = socket.flight.lose_overdue(now_ns, timeout) {
            if socket.counts(sequence) {
                self.record.unsent += u64::from(!was_sent);
                self.record.lose(1, request.planned_ns.is_some());
            }
        }
        socket.flight.pending() < before
    }

    /// Gives up what has waited for too long on any socket.
    fn look(&mut self) {
        let now_ns = self.readiness.now_ns();
        for index in 0..self.sockets.len() {
            if self.give_up(index, now_ns) {
                self.roomy.push(index);
            }
        }
        self.is_retry_due = true;
    }

    /// Waits for duplicates that are still on their way, and takes stock of what the sockets have dropped.
    fn end_window(&mut self) -> Result<()> {
        let began_ns = self.readiness.now_ns();
        let longest_ns = began_ns + self.shape.timeout.max(self.cool_down).as_nanos() as u64;
        loop {
            let quiet_ns = self.heard_ns.unwrap_or_default().max(began_ns) + self.cool_down.as_nanos() as u64;
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.record, now_ns);
            let until_ns = quiet_ns.min(longest_ns);
            if now_ns >= until_ns {
                break;
            }
            self.readiness.wait_until(until_ns.min(self.intervals.end_ns()))?;
            self.receive()?;
        }
        for socket in &mut self.sockets {
            if let Some(window) = socket.window.take() {
                let drops = socket_drops(socket.fd.as_fd()).context("reading a socket's drops")?;
                counts(&mut self.record).dropped_by_generator += u64::from(drops.wrapping_sub(window.drops));
            }
        }
        Ok(())
    }
}

impl Driver for DatagramLoad {
    fn hasten(&mut self) {
        self.cool_down = SHORT_COOL_DOWN;
    }

    /// Each socket keeps `depth` requests in flight until the amount is sent, and every one is waited for. The time that it
    /// took ends with the last reply, not with the wait for one that never came.
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        let began_ns = self.readiness.now_ns();
        let (end_ns, mut left) = match amount {
            Amount::Requests(requests) => (u64::MAX, requests),
            Amount::Time(time) => (began_ns + time.as_nanos() as u64, u64::MAX),
        };
        self.sockets.iter_mut().try_for_each(Socket::begin_window)?;
        self.roomy = (0..self.sockets.len()).collect();
        self.intervals.begin(began_ns);
        let mut look_ns = began_ns + self.look_interval_ns();
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
            if now_ns >= look_ns {
                self.look();
                look_ns = now_ns + self.look_interval_ns();
            }
            for index in std::mem::take(&mut self.roomy) {
                let fresh = left.min(depth.saturating_sub(self.sockets[index].flight.pending()) as u64);
                left -= fresh;
                (0..fresh).for_each(|_| self.enqueue(index, None, true));
            }
            self.send()?;
            if self.record.unresolved() == 0 {
                break;
            }
            self.readiness.wait(Some(
                Duration::from_nanos(look_ns.min(self.intervals.end_ns()).saturating_sub(now_ns))
                    .max(Duration::from_millis(1)),
            ))?;
            self.receive()?;
        }
        let elapsed_ns = self.active_ns.saturating_sub(began_ns);
        self.end_window()?;
        Ok(Duration::from_nanos(elapsed_ns))
    }

    /// Requests leave when the plan says, whatever comes back, on each socket in its turn. Those planned within the window
    /// are recorded, and waited for.
    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        amount: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>> {
        let base_ns = self.readiness.now_ns();
        let mut agenda = Agenda::new(plan, base_ns, warmup, amount);
        // What is planned just before the end may be sent just after it.
        self.end_ns = agenda.end_ns().saturating_add(1_000_000);
        self.intervals.begin(agenda.begin_ns());
        let requests_max = self.shape.budget.requests / self.sockets.len();
        let mut look_ns = base_ns + self.look_interval_ns();
        let mut turn = 0;
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
                let index = turn % self.sockets.len();
                let (planned_ns, counts) = agenda.take();
                turn += 1;
                due += 1;
                if counts && self.sockets[index].window.is_none() {
                    self.sockets[index].begin_window()?;
                }
                if self.sockets[index].flight.kept() >= requests_max {
                    self.give_up_unsent(counts, requests_max);
                } else {
                    self.enqueue(index, Some(planned_ns), counts);
                }
            }
            self.send()?;
            if agenda.is_over() && self.record.unresolved() == 0 {
                break;
            }
            if now_ns >= look_ns {
                self.look();
                look_ns = now_ns + self.look_interval_ns();
            }
            self.readiness.wait_until(agenda.next_ns().min(look_ns).min(self.intervals.end_ns()))?;
            self.receive()?;
            self.roomy.clear();
        }
        self.end_window()?;
        Ok(agenda.window())
    }

    fn take_record(&mut self) -> Record {
        std::mem::replace(&mut self.record, new_record())
    }

    fn hand_over_to(&mut self, lane: Lane) {
        self.intervals.hand_over_to(lane);
    }

    fn hand_over_rest(&mut self) {
        let now_ns = self.readiness.now_ns();
        self.intervals.end(&mut self.record, now_ns);
    }
}

fn new_record() -> Record {
    Record { datagrams: Some(Counts::default()), ..Record::default() }
}

fn counts(record: &mut Record) -> &mut Counts {
    record.datagrams.get_or_insert_default()
}

/// The request in flight whose reply is most like this one; of several the oldest.
fn likely(dialogue: &Dialogue, socket: &Socket, number: usize, reply: &[u8]) -> Option<u64> {
    let in_flight = socket.flight.in_flight().take(LIKELY_MAX);
    let unlikeness =
        |&(sequence, request): &(u64, &Request)| dialogue.unlikeness(reply, number, sequence, request.size);
    in_flight.min_by_key(unlikeness).map(|(sequence, _)| sequence)
}
