//! THE loop. One turn, in order:
//!
//! ```text
//!  1  wait       for readiness, as long as the next deadline allows; not at all while something is left to do
//!  2  accept     new connections, bounded per turn; rest when the system has no descriptor left
//!  3  read       every ready connection up to its budget, into one buffer that the service sees in place;
//!                datagrams in batches
//!  4  deadlines  that are due; messages from other threads
//!  5  effects    hand-overs, outgoing connections, `closed`: what services send here to others still leaves in this turn
//!  6  flush      every connection that has output, once; what a short write leaves becomes pending output
//!  7  settle     connections that have changed: limits, timers, interest, pending output; answers to datagrams; memory;
//!     and free   slots and descriptors of closed connections, never in the middle of a batch
//! ```
//!
//! Accepting and reading go by the order in which the system tells what is ready. Everything that a turn decides (who is
//! read, how much, who is flushed, who is closed) is decided in this file, and for listeners and datagrams in
//! `reactor/sources.rs`; what they call computes and reports. Readiness is edge-triggered: a connection whose reading stops before it is
//! drained stays on the ready list, and while that list is not empty a turn does not wait.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::io;
use std::ops::Range;
use std::time::Duration;

pub use self::config::Config;
pub use self::remote::Remote;
pub use self::sources::ListenerId;

use self::failures::{Failure, Failures, Next};
use self::panics::{At, Unfinished};
use self::sharing::Sharing;
use self::sources::Source;
use crate::connection::{CloseReason, Due, Kept, Marks, Phase};
use crate::datagram::Inbound;
use crate::drive::{Drive, First, Parts, Stop, Stopped};
use crate::error::Error;
use crate::mailbox::Inbox;
use crate::memory::RELEASE_BYTES;
use crate::net::os::Os;
use crate::net::{Checks, Flags, Net, Peer, Readiness, Short};
use crate::output::TURN_BYTES;
use crate::service::{Arrival, Context, Options, ServiceId};
use crate::slots::ConnId;
use crate::state::{READ_BYTES, Report, State, reason_of};
use crate::timer::Instant;

mod config;
mod drain;
mod failures;
mod fanout;
mod invariants;
mod panics;
mod progress;
mod remote;
mod setup;
mod sharing;
mod sources;

/// Busy time and events are recorded for one turn in so many: reading the clock twice and recording takes some 200
/// instructions, half as many as all else that a lone echo takes.
const TURN_SAMPLE: u64 = 16;

/// Connections that earlier turns left and that are taken up in one turn: as many as the system reports at once.
const LEFT_OVER_PER_TURN: usize = 1024;

/// Memory is given back to the system at most once in this time: the allocator goes through all that is free.
const RELEASE_PAUSE: Duration = Duration::from_secs(1);

/// Unconsumed input up to this size, in bytes, is copied to where the next read goes; longer input stays where it is.
const KEPT_BYTES_COPIED_MAX: usize = READ_BYTES;

/// Memory for unconsumed input up to twice this size, in bytes, is used again however little there is.
const KEPT_BYTES_MIN: usize = 64;

/// A single-threaded event loop: its sockets, its connections and the services that they belong to.
///
/// `N` is the system underneath: the real one, or a simulated one ([`Sim`](crate::sim::Sim)). A reactor stays in the thread
/// that created it; other threads reach it through a [`Remote`] or a [`Mailbox`](crate::Mailbox).
pub struct Reactor<N: Net = Os> {
    net: N,
    state: State,
    services: Vec<Registered<N>>,
    sources: Vec<Source>,
    inboxes: Vec<(ServiceId, Box<dyn Inbox>)>,
    remote: Remote,
    /// The turn's input. What is being sent on from it stays until the flush; behind it the next read begins.
    buffer: Box<[u8]>,
    /// Made with the first datagram socket.
    inbound: Option<Box<Inbound>>,
    /// The datagrams in there that a panic kept from their service, and from which source they are.
    unshown: Option<(usize, Range<usize>)>,
    /// Which phase has called a service last, of those after the events.
    at: At,
    /// Of this turn.
    effects: EffectsLeft,
    /// Decides when the read budget is small, because other connections wait.
    sharing: Sharing,
    /// The service of the last run of events.
    last_served: u16,
    /// Connections whose deadline has come and has not been acted on.
    due: VecDeque<ConnId>,
    /// The writes of a flush that did not go out whole.
    short: Vec<Short>,
    /// The memory for events, except during a turn.
    batch: Option<Batch<N>>,
    /// The turn is taking up what earlier ones left.
    in_left_over: bool,
    /// An earlier turn has left something to read or to accept.
    left_over: bool,
    /// Of the wait. While there are any, something is left over.
    wait_failures: Failures,
    /// When memory may be given back to the system again.
    release_at: Instant,
    /// Another thread has woken us, or has left more than one turn takes.
    mail: bool,
    /// A panic in a call of a service ends the connection that it was called for, not the loop.
    catch_panics: bool,
}

/// How many of each kind of effect a turn has still to take up.
#[derive(Default)]
struct EffectsLeft {
    handed: usize,
    connects: usize,
    closed: usize,
}

/// What a wait returned, and how far the turn is with it.
struct Batch<N: Net> {
    events: Box<N::Events>,
    /// How many events nobody has taken up yet, if a panic has ended the taking.
    left: Option<usize>,
}

struct Registered<N: Net> {
    service: Box<dyn Drive<N>>,
    options: Options,
}

impl<N: Net> Reactor<N> {
    /// Turns until [`Remote::stop`] is called.
    ///
    /// A listener that keeps failing is closed, which is reported ([`Report::ListenerClosed`](crate::Report::ListenerClosed));
    /// the reactor goes on without it.
    ///
    /// # Errors
    /// [`Error::Poll`]: waiting for readiness has failed for [`Limits::failure_timeout`](crate::Limits::failure_timeout).
    ///
    /// # Panics
    /// When a call of a service panics and [`Config::catch_panics`] is false.
    pub fn run(&mut self) -> Result<(), Error> {
        while !self.remote.is_stopped() {
            self.catch_panics(|reactor, batch| {
                while !reactor.remote.is_stopped() {
                    reactor.turn_once(batch, None)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Turns once: waits up to `max_wait` (`None`: without limit) for something to do, and does it. With
    /// [`Reactor::next_timeout`] and [`AsFd`](std::os::fd::AsFd) a reactor runs inside of another loop; the example `own_loop`
    /// shows it.
    ///
    /// # Errors
    /// [`Error::Poll`]: waiting for readiness has failed for [`Limits::failure_timeout`](crate::Limits::failure_timeout).
    ///
    /// # Panics
    /// As [`Reactor::run`].
    pub fn turn(&mut self, max_wait: Option<Duration>) -> Result<(), Error> {
        self.catch_panics(|reactor, batch| reactor.turn_once(batch, max_wait))
    }

    // What a turn calls is inlined here, once in the loop of `run`: as calls they took 56 of 518 instructions of a lone echo.
    #[inline(always)]
    fn turn_once(&mut self, batch: &mut Batch<N>, max_wait: Option<Duration>) -> Result<(), Error> {
        let wait = match (self.next_timeout(), max_wait) {
            (Some(wait), Some(max)) => Some(wait.min(max)),
            (wait, max) => wait.or(max),
        };
        let waited = self.net.wait(&mut batch.events, wait);
        let begun = self.begin_turn();
        if self.left_over {
            self.take_left_over(waited.is_ok());
        }
        match waited {
            Ok(()) => self.take_events(batch, 0),
            Err(error) => self.wait_failed(error, wait)?,
        }
        self.finish_turn();
        if let Some(begun) = begun {
            self.record_turn(begun);
        }
        Ok(())
    }

    /// Everything in a turn that comes after the events.
    #[inline(always)]
    fn finish_turn(&mut self) {
        if self.state.timers.next().is_some() {
            self.fire_deadlines();
        }
        if self.mail {
            self.deliver_messages();
        }
        if self.state.attention {
            self.apply_effects();
        }
        self.end_turn();
    }

    #[inline(always)]
    fn end_turn(&mut self) {
        self.flush();
        if self.state.attention {
            self.settle_and_free();
        }
        self.state.metrics.turns += 1;
        let totals = self.totals();
        let checks = self.net.checks(&self.state.limits, totals);
        if checks > Checks::None {
            self.assert_invariants(checks);
        }
    }

    /// How long [`Reactor::turn`] would wait if nothing happened: zero when there is something to do, `None` when there is no
    /// deadline either.
    #[inline(always)]
    pub fn next_timeout(&mut self) -> Option<Duration> {
        let state = &self.state;
        if state.attention || self.mail || !state.outbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = if self.left_over { self.next_of_left_over() } else { state.timers.next() };
        next.map(|at| at.since(self.net.now()))
    }

    /// When the next timer fires, or something else that is left over is to be looked at.
    #[cold]
    fn next_of_left_over(&self) -> Option<Instant> {
        let release = self.state.memory.release_due.then_some(self.release_at);
        let waiting = self.sources.iter().filter(|source| source.is_waiting());
        let sources = waiting.map(|source| source.failures.paused_until().unwrap_or_default());
        self.state.timers.next().into_iter().chain(release).chain(sources).min()
    }

    /// Forgets the time of the last turn. Returns when this one began, and how many events there had been, if it is
    /// one of those that are recorded.
    fn begin_turn(&mut self) -> Option<(Instant, u64)> {
        let Reactor { net, state, .. } = self;
        state.time_known.set(false);
        state.wall.set(None);
        let recorded = state.metrics.turns % TURN_SAMPLE == 0;
        if recorded || state.keeps_time || state.timers.next().is_some() {
            state.time(net);
        }
        recorded.then_some((state.now.get(), state.metrics.events))
    }

    #[cold]
    fn record_turn(&mut self, (begun, events): (Instant, u64)) {
        let busy = self.net.now() - begun;
        let metrics = &mut self.state.metrics;
        metrics.busy_ns.saturating_record(busy.as_nanos() as u64);
        metrics.events_per_turn.saturating_record(metrics.events - events);
    }

    // ---- 2 and 3: what earlier turns left, then what is new ----

    /// A wait has failed. As a rule the next one does not, and what else is to be done in this turn goes on. If that lasts it is
    /// given up whatever the error: nothing works without it.
    #[cold]
    fn wait_failed(&mut self, error: io::Error, wait: Option<Duration>) -> Result<(), Error> {
        self.state.metrics.wait_errors += 1;
        let now = self.state.time(&self.net);
        match self.wait_failures.add(Failure::Broken, now, &self.state.limits) {
            Next::Again => {}
            Next::Pause { report } => {
                if report {
                    self.state.report(&Report::WaitPaused { error: &error });
                }
                let pause = self.state.limits.failure_pause;
                self.net.pause(wait.map_or(pause, |wait| wait.min(pause)));
                self.state.time_known.set(false);
            }
            Next::GiveUp => return Err(Error::Poll(error)),
        }
        // The next turn is to see whether it has worked.
        self.left_over = true;
        Ok(())
    }

    /// What earlier turns left comes first, in its order, so that nobody who waits is passed over for ever.
    #[inline(never)]
    fn take_left_over(&mut self, has_waited: bool) {
        self.left_over = false;
        if has_waited && self.wait_failures.any() && self.wait_failures.end() {
            self.state.report(&Report::WaitResumed);
        }
        self.in_left_over = true;
        self.state.attention |= self.state.memory.release_due;
        for index in 0..self.sources.len() {
            if self.sources[index].ready {
                self.serve_source(index);
            }
        }
        for _ in 0..self.state.ready.len().min(LEFT_OVER_PER_TURN) {
            if self.state.outbox.is_full() {
                break;
            }
            let Some(id) = self.state.ready.pop_front() else { break };
            let Some(conn) = self.state.conns.get_mut(id) else { continue };
            conn.marks.clear(Marks::QUEUED);
            match conn.phase() {
                Phase::Open => self.resume(id),
                Phase::Lingering => self.discard(id),
                Phase::Connecting | Phase::Closing | Phase::Dead => {}
            }
        }
        self.in_left_over = false;
    }

    /// Takes up each event but the first `skipped`.
    #[inline(always)]
    fn take_events(&mut self, batch: &mut Batch<N>, skipped: usize) {
        let mut unfinished = Unfinished::<N> { rest: N::readiness(&batch.events), left: &mut batch.left };
        let rest = &mut unfinished.rest;
        if skipped > 0 {
            rest.by_ref().take(skipped).for_each(drop);
        }
        let mut at = Stopped::default();
        loop {
            let Reactor { net, state, services, buffer, .. } = self;
            // The service of the last run first: as a rule all events are for one.
            let stop = match services.get_mut(self.last_served as usize) {
                Some(entry) => {
                    entry.service.read_run(self.last_served, rest, Parts { net, state, buffer }, &mut at)
                }
                None => {
                    at.event = rest.next();
                    if at.event.is_some() { Stop::Other } else { Stop::End }
                }
            };
            match stop {
                Stop::End => return std::mem::forget(unfinished),
                Stop::Other => at.event = at.event.take().and_then(|event| self.take_other(event)),
                Stop::Unusual => {
                    if let Some((id, first)) = at.unusual.take() {
                        // Otherwise its bytes are counted as those of a small message, too.
                        self.sharing.large_events += u64::from(!matches!(first, First::Offered { .. }));
                        self.read(id, first);
                    }
                }
            }
        }
    }

    /// Takes up an event that is not plain input for the service of the last run. Returns it if it is plain input for
    /// another service, whose turn it is now.
    #[inline(never)]
    fn take_other(&mut self, event: Readiness) -> Option<Readiness> {
        match self.state.conns.get_by_token(event.token) {
            Some((_, conn)) if event.flags == Flags::READ && conn.marks.none() => {
                self.last_served = conn.service;
                return Some(event);
            }
            Some((id, _)) => self.unusual_event(id, event.flags),
            None => self.source_event(event.token, event.flags),
        }
        self.state.metrics.events += 1;
        self.sharing.large_events += 1;
        None
    }

    /// Anything but plain input on an open connection.
    fn unusual_event(&mut self, id: ConnId, flags: Flags) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if flags.intersects(Flags::READ_CLOSED | Flags::URGENT | Flags::ERROR) {
            conn.marks.set(Marks::READ_ON);
        }
        match conn.phase() {
            Phase::Connecting => return self.decide_connect(id),
            Phase::Lingering if !conn.marks.any(Marks::SATED) => return self.discard(id),
            // It is not read any more; only its end is of interest.
            Phase::Lingering if flags.intersects(Flags::READ_CLOSED | Flags::ERROR) => {
                return self.state.kill(id, CloseReason::Service);
            }
            Phase::Lingering => return,
            Phase::Dead => return,
            Phase::Open | Phase::Closing => {}
        }
        if flags.intersects(Flags::WRITE) && conn.marks.take(Marks::WRITE_BLOCKED) {
            self.state.touch(id);
        }
        if !flags.intersects(Flags::READ | Flags::READ_CLOSED | Flags::URGENT | Flags::ERROR) {
            return;
        }
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.marks.set(Marks::READABLE);
        if conn.takes_input() {
            if conn.marks.any(Marks::QUEUED) {
                // Its turn comes with those that are left over.
            } else if self.state.outbox.is_full() {
                self.state.queue(id);
            } else {
                self.read(id, First::Read);
            }
        } else if flags.intersects(Flags::ERROR)
            && let Some(error) = self.net.take_error(id)
        {
            // Nobody reads it now, so nobody else would notice.
            self.state.kill(id, reason_of(&error));
        }
    }

    /// An outgoing connection may be established or have failed.
    fn decide_connect(&mut self, id: ConnId) {
        match self.net.connected(id) {
            Ok(None) => {}
            Ok(Some(peer)) => {
                let state = &mut self.state;
                let Some(conn) = state.conns.get_mut(id) else { return };
                conn.set_phase(Phase::Open);
                conn.deadline = Instant::NEVER;
                conn.active_at = state.now.get();
                conn.set_short_is_drained(matches!(peer, Peer::Inet(_)));
                let service = conn.service;
                let entry = &mut self.services[service as usize];
                state.report(&Report::Opened { conn: id, service: &entry.options.name, peer: &peer });
                state.arm_next(id);
                state.touch(id);
                state.calling = Some((service, Some(id)));
                entry.service.open(id, Arrival::Connected(peer), &mut Context { state, wire: &mut self.net });
                self.state.calling = None;
            }
            Err(_) => self.state.kill(id, CloseReason::ConnectFailed),
        }
    }

    /// Takes up a connection whose input stopped before it was drained: first what the service left, then what the
    /// system holds.
    fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if !conn.marks.any(Marks::MOVING) && conn.marks.take(Marks::WRITABLE_DUE) {
            let service = conn.service;
            self.call(service, Some(id), |service, cx| service.writable(id, cx));
        }
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if conn.takes_input() {
            if conn.marks.take(Marks::OFFER_AGAIN) && conn.kept.is_some() {
                self.read(id, First::Offer);
            } else if conn.marks.any(Marks::READABLE) {
                self.read(id, First::Read);
            }
        }
    }

    /// Reads a connection until it is drained, its budget is spent, the turn is full or its input rests, and shows
    /// the service what came. `first` says what has been done already.
    #[inline(never)]
    fn read(&mut self, id: ConnId, first: First) {
        self.read_on(id, first);
        self.state.look_again = false;
    }

    fn read_on(&mut self, id: ConnId, mut first: First) {
        let Reactor { net, state, services, buffer, sharing, .. } = self;
        let held = state.outbox.level();
        let Some(conn) = state.conns.get_mut(id) else { return };
        if state.outbox.is_full() && matches!(first, First::Read | First::Offer) {
            conn.marks.set(Marks::READABLE);
            conn.marks.put(Marks::OFFER_AGAIN, matches!(first, First::Offer));
            return state.queue(id);
        }
        // Unconsumed input is in buffer[begin..end]; the next read goes behind it.
        let (mut begin, mut end) = (held, held);
        if let First::Offered { begin: from, end: to, .. } = first {
            (begin, end) = (from, to);
        }
        // But where it is long, it is in long[begin..end], and what is read is added there: to copy it back and forth for each
        // piece of a long message would take time in proportion to the square of its length.
        let mut spare = conn.kept.take();
        let mut long = spare.take_if(|kept| kept.len() > KEPT_BYTES_COPIED_MAX);
        conn.marks.clear(Marks::KEPT);
        if let Some(long) = &long {
            (begin, end) = (0, long.len());
        } else if let Some(kept) = &spare {
            end = begin + kept.len();
            buffer[begin..end].copy_from_slice(kept);
        }
        // What the fast path has read already was a whole portion.
        let mut portion = READ_BYTES;
        let mut budget = state.limits.read_bytes_per_turn;
        if matches!(first, First::Read | First::Offer) && sharing.look(&state.metrics) {
            budget = budget.min(state.limits.read_bytes_per_shared_turn);
            portion = budget.clamp(1, READ_BYTES);
        }
        loop {
            let now = state.time(net);
            let Some(conn) = state.conns.get_mut(id) else { return };
            let owner = conn.service;
            let service = &mut *services[owner as usize].service;
            let drains = |count| count < portion && !conn.marks.any(Marks::READ_ON);
            let (drained, consumed) = match std::mem::replace(&mut first, First::Read) {
                First::Offered { consumed, .. } => (drains(end - begin), Some(consumed)),
                First::Offer => {
                    // Its input has rested, which was not the peer's doing: the time begins anew.
                    conn.message_since = Instant::NEVER;
                    (false, None)
                }
                step => {
                    let at = if long.is_some() { state.outbox.level().min(TURN_BYTES) } else { end };
                    let read = match step {
                        First::Got(read) => read,
                        _ => net.read(id, &mut buffer[at..at + portion]),
                    };
                    match read {
                        Ok(0) => {
                            conn.marks.set(Marks::ENDED);
                            conn.marks.clear(Marks::READABLE);
                            conn.message_since = Instant::NEVER;
                            state.has_read(id, 0, true);
                            state.calling = Some((owner, Some(id)));
                            state.touch(id);
                            let rest = &long.as_deref().map_or(&buffer[..], Vec::as_slice)[begin..end];
                            service.eof(id, rest, &mut Context { state, wire: net });
                            state.calling = None;
                            return;
                        }
                        Ok(count) => {
                            let drained = drains(count);
                            conn.active_at = now;
                            budget = budget.saturating_sub(count);
                            end += count;
                            let bytes = &buffer[at..at + count];
                            if let Some(long) = &mut long {
                                add(long, bytes);
                            }
                            if !conn.marks.any(Marks::WATCHED) {
                                state.metrics.bytes_in += count as u64;
                                sharing.large_bytes += count as u64;
                                state.report_bytes(&Report::Input { conn: id, bytes });
                            }
                            state.has_read(id, count, drained);
                            (drained, None)
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            conn.marks.clear(Marks::READABLE);
                            conn.marks.put(Marks::READ_ON, !conn.short_is_drained);
                            state.has_read(id, 0, true);
                            break;
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return state.kill(id, reason_of(&error)),
                    }
                }
            };
            let offered = end - begin;
            let consumed = match consumed {
                Some(consumed) => consumed,
                None => {
                    state.calling = Some((owner, Some(id)));
                    let input = &long.as_deref().map_or(&buffer[..], Vec::as_slice)[begin..end];
                    service.input(id, input, &mut Context { state, wire: net })
                }
            };
            assert!(consumed <= offered, "a service consumed {consumed} of {offered} bytes of input");
            state.calling = None;
            begin += consumed;

            let Some(conn) = state.conns.get_mut(id) else { return };
            if begin == end {
                conn.message_since = Instant::NEVER;
                spare = spare.or(long.take());
                begin = state.outbox.level().min(TURN_BYTES);
                end = begin;
            } else if consumed > 0 || conn.message_since == Instant::NEVER {
                conn.message_since = now;
            }
            conn.marks.put(Marks::READABLE, !drained);
            if !conn.takes_input() {
                conn.marks.set(Marks::OFFER_AGAIN);
                break;
            }
            if end - begin > state.limits.input_bytes_max {
                return state.finish(id, CloseReason::InputLimit);
            }
            if drained {
                break;
            }
            if budget == 0 || state.outbox.is_full() || (long.is_none() && end > TURN_BYTES) {
                state.queue(id);
                break;
            }
        }
        if let Some(long) = long {
            keep_long(state, id, long, begin);
        } else if begin < end {
            keep(state, id, spare, &buffer[begin..end]);
        } else if spare.is_some() {
            drop(spare);
            state.count(id);
        }
    }

    /// Reads and drops what a peer still sends after our side has ended, until its side ends too. Closing with unread
    /// input would reset the connection, and destroy what we sent and the peer has not read yet: so a peer that sends
    /// more than is dropped for it keeps its connection, unread, until its time to linger is over.
    fn discard(&mut self, id: ConnId) {
        if self.state.outbox.is_full() {
            return self.state.queue(id);
        }
        let free = self.state.outbox.level()..;
        let mut budget = self.state.limits.read_bytes_per_turn;
        let now = self.state.time(&self.net);
        loop {
            let Some(conn) = self.state.conns.get_mut(id) else { return };
            match self.net.read(id, &mut self.buffer[free.clone()]) {
                Ok(0) => return self.state.kill(id, CloseReason::Service),
                Ok(count) => {
                    conn.active_at = now;
                    conn.discarded = conn.discarded.saturating_add(count as u32);
                    self.state.metrics.bytes_discarded += count as u64;
                    if conn.discarded as usize > self.state.limits.linger_bytes_max {
                        conn.marks.set(Marks::SATED);
                        return self.state.touch(id);
                    }
                    budget = budget.saturating_sub(count);
                    if budget == 0 {
                        return self.state.queue(id);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.state.kill(id, CloseReason::Service),
            }
        }
    }

    // ---- 4: deadlines and messages ----

    /// What is due of a connection, if anything.
    fn due(&self, id: ConnId, now: Instant) -> Option<Due> {
        let conn = self.state.conns.get(id)?;
        let (at, due) = conn.next_deadline(&self.state.timeouts[conn.service as usize]);
        (at <= now).then_some(due)
    }

    #[inline(never)]
    fn fire_deadlines(&mut self) {
        let now = self.state.time(&self.net);
        self.at = At::Deadlines;
        // All are taken out before the first is acted on: one that is set again for now waits for the next turn.
        while self.due.len() < self.state.limits.deadlines_per_turn.max(1)
            && let Some(id) = self.state.timers.pop_due(now)
        {
            self.due.push_back(id);
        }
        self.act_on_deadlines();
    }

    fn act_on_deadlines(&mut self) {
        let now = self.state.time(&self.net);
        while let Some(id) = self.due.pop_front() {
            self.fire_deadline(id, now);
        }
    }

    fn fire_deadline(&mut self, id: ConnId, now: Instant) {
        let rests = self.state.conns.get(id).is_none_or(|conn| !conn.takes_input());
        if !rests && self.due(id, now).is_some_and(Due::is_for_want_of_input) {
            // After a long sleep there are more events than one turn takes: what came in time counts.
            self.read(id, First::Read);
        }
        if self.due(id, now) == Some(Due::Close(CloseReason::IdleTimeout)) {
            // A slow peer may be busy with what the system holds for it.
            let delivery = self.net.delivery(id).ok().filter(|delivery| delivery.waiting > 0);
            if let Some(conn) = self.state.conns.get_mut(id)
                && delivery.is_some()
            {
                let progress_at = self.state.progress.note(id, delivery, now).unwrap_or(now);
                conn.active_at = conn.active_at.max(progress_at);
            }
        }
        let Some(due) = self.due(id, now) else {
            // It has moved on since the timer was set.
            return self.state.arm_next(id);
        };
        let state = &mut self.state;
        let Some(conn) = state.conns.get_mut(id) else { return };
        match due {
            // Its new service has yet to hear `open`, and comes back to this deadline then.
            Due::Service if conn.marks.any(Marks::MOVING) => return,
            Due::Service => {
                conn.deadline = Instant::NEVER;
                let service = conn.service;
                self.call(service, Some(id), |service, cx| service.deadline(id, cx));
            }
            Due::Lingered => state.kill(id, CloseReason::Service),
            Due::Close(reason @ (CloseReason::IdleTimeout | CloseReason::ReadDeadline)) => {
                state.finish(id, reason);
            }
            Due::Close(reason) => state.kill(id, reason),
        }
        self.state.arm_next(id);
    }

    #[cold]
    fn deliver_messages(&mut self) {
        self.mail = false;
        self.remote.answer(&self.state.metrics);
        self.deliver_behind(0);
    }

    /// From this mailbox on.
    fn deliver_behind(&mut self, first: usize) {
        for index in first..self.inboxes.len() {
            self.deliver_from(index, self.state.limits.messages_per_turn.max(1));
        }
    }

    fn deliver_from(&mut self, index: usize, max: usize) {
        self.at = At::Messages(index);
        let (service, inbox) = &mut self.inboxes[index];
        self.state.calling = Some((service.0, None));
        let service = &mut *self.services[service.0 as usize].service;
        let mut cx = Context { state: &mut self.state, wire: &mut self.net };
        self.mail |= inbox.deliver(max, service, &mut cx);
        self.state.calling = None;
    }

    // ---- 5: effects ----

    #[inline(never)]
    fn apply_effects(&mut self) {
        if self.state.progress.slot.is_some() {
            self.look_at_progress();
        }
        let State { handed, connects, ended, .. } = &self.state;
        let most = handed.len().max(connects.len()).max(ended.len());
        if most > 0 {
            self.apply(most.min(self.state.limits.effects_per_turn.max(1)));
        }
    }

    /// So many of each kind of effect. What a service asks for meanwhile is for another turn, but for `closed` of more connections.
    fn apply(&mut self, max: usize) {
        self.at = At::Effects;
        let State { handed, connects, .. } = &self.state;
        self.effects =
            EffectsLeft { handed: handed.len().min(max), connects: connects.len().min(max), closed: max };
        self.apply_rest();
    }

    fn apply_rest(&mut self) {
        while let Some(left) = self.effects.handed.checked_sub(1) {
            self.effects.handed = left;
            self.open_handed_over();
        }
        while let Some(left) = self.effects.connects.checked_sub(1) {
            self.effects.connects = left;
            self.begin_connect();
        }
        while let Some(left) = self.effects.closed.checked_sub(1) {
            self.effects.closed = left;
            let Some(id) = self.state.ended.pop_front() else { break };
            self.report_closed(id);
        }
    }

    #[cold]
    fn open_handed_over(&mut self) {
        let Some(id) = self.state.handed.pop_front() else { return };
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.marks.clear(Marks::MOVING);
        conn.marks.set(Marks::OFFER_AGAIN);
        conn.message_since = Instant::NEVER;
        if conn.phase() != Phase::Open {
            return;
        }
        let service = conn.service;
        self.call(service, Some(id), |service, cx| service.open(id, Arrival::HandedOver, cx));
        // What the old service left is the new one's first input.
        self.state.queue(id);
        self.state.touch(id);
        self.state.arm_next(id);
    }

    #[cold]
    fn begin_connect(&mut self) {
        let Some((id, address)) = self.state.connects.pop_front() else { return };
        if self.state.conns.get(id).is_none_or(|conn| conn.phase() != Phase::Connecting) {
            return;
        }
        if self.net.connect(&address, id).is_err() {
            self.state.kill(id, CloseReason::ConnectFailed);
        } else if let Some(timeout) = self.state.limits.connect_timeout {
            let at = self.state.time(&self.net) + timeout;
            if let Some(conn) = self.state.conns.get_mut(id) {
                conn.deadline = at;
            }
            self.state.arm(id, at);
        }
    }

    #[cold]
    fn report_closed(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.marks.clear(Marks::UNREPORTED);
        conn.kept = None;
        let reason = conn.reason;
        if conn.phase() == Phase::Dead {
            self.state.freed.push_back(id);
        } else {
            self.state.touch(id);
        }
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        let service = conn.service;
        self.state.topics.forget(id);
        self.call(service, Some(id), |service, cx| service.closed(id, reason, cx));
    }

    /// Calls a service, for a connection or for none, and notes it in case that the call panics.
    fn call<R>(
        &mut self,
        service: u16,
        conn: Option<ConnId>,
        call: impl FnOnce(&mut dyn Drive<N>, &mut Context<'_>) -> R,
    ) -> R {
        let Reactor { net, state, services, .. } = self;
        state.calling = Some((service, conn));
        let result = call(&mut *services[service as usize].service, &mut Context { state, wire: net });
        self.state.calling = None;
        result
    }

    // ---- 6: flush ----

    #[inline(always)]
    fn flush(&mut self) {
        if !self.state.outbox.logs.is_empty() {
            self.deliver_logs();
        }
        let Reactor { net, state: State { outbox, metrics, progress, .. }, buffer, short, .. } = self;
        let whole = net.write_each(outbox.whole(buffer), short);
        metrics.bytes_out += whole as u64;
        if whole > 0 && progress.asleep {
            self.begin_passes();
        }
        while let Some((index, written)) = self.short.pop() {
            self.keep_unwritten(index, written);
        }
        let mut from = 0;
        while let Some((index, id)) = self.state.outbox.next_chain(from) {
            let Reactor { net, state, buffer, .. } = self;
            let written = state.outbox.write_chain(index, buffer, |pieces| net.write_vectored(id, pieces));
            self.keep_unwritten(index, written);
            from = index + 1;
        }
        self.state.outbox.end_turn();
    }

    /// A write of several pieces, or one that failed or took less than it was offered: what is left becomes the
    /// connection's tail.
    #[inline(never)]
    fn keep_unwritten(&mut self, index: usize, written: io::Result<usize>) {
        let state = &mut self.state;
        let Some(id) = state.outbox.owner(index) else { return };
        let Some(conn) = state.conns.get_mut(id) else { return };
        let count = match written {
            Ok(count) => count,
            Err(error) if would_block(&error) => 0,
            Err(error) => return state.kill(id, reason_of(&error)),
        };
        state.metrics.bytes_out += count as u64;
        state.outbox.keep_chain(index, &mut conn.output, &self.buffer, count);
        if conn.output.tail_bytes() > 0 {
            conn.marks.set(Marks::WRITE_BLOCKED);
            state.touch(id);
        }
    }

    // ---- 7: settle and free ----

    /// Sees to everything about connections and sockets that is more than reading and writing.
    #[inline(never)]
    fn settle_and_free(&mut self) {
        for index in 0..self.state.touched.len() {
            self.settle(self.state.touched[index]);
        }
        self.state.touched.clear();
        for index in 0..self.state.dirty_sockets.len() {
            self.transmit(self.state.dirty_sockets[index]);
        }
        self.state.dirty_sockets.clear();
        if self.state.progress.wanted {
            self.begin_passes();
        }
        self.bound_memory();
        self.free();
        let state = &mut self.state;
        self.left_over |= !state.ready.is_empty();
        state.look_again = false;
        state.attention = !state.ready.is_empty()
            || !state.ended.is_empty()
            || !state.freed.is_empty()
            || !state.connects.is_empty()
            || !state.handed.is_empty()
            || state.progress.slot.is_some()
            || !state.dirty_sockets.is_empty()
            || state.memory.exceeds;
    }

    /// Brings a connection in line with what its output and phase have become: limits, deadlines, what comes after
    /// the flush, and what we want to hear from the system.
    #[inline(never)]
    fn settle(&mut self, id: ConnId) {
        let Reactor { net, state, .. } = self;
        let now = state.time(net);
        let Some(conn) = state.conns.get_mut(id) else { return };
        conn.marks.clear(Marks::TOUCHED | Marks::UNSETTLED);
        let mut progress = false;
        let flushes = matches!(conn.phase(), Phase::Open | Phase::Closing);
        if flushes && conn.output.tail_bytes() > 0 && !conn.marks.any(Marks::WRITE_BLOCKED) {
            state.attend_again(id);
            let Some(conn) = state.conns.get_mut(id) else { return };
            match conn.output.write_tail(|pieces| net.write_vectored(id, pieces)) {
                Ok(count) => {
                    progress = count > 0;
                    state.metrics.bytes_out += count as u64;
                    conn.marks.put(Marks::WRITE_BLOCKED, conn.output.tail_bytes() > 0);
                }
                Err(error) => return state.kill(id, reason_of(&error)),
            }
            if progress {
                conn.active_at = now;
            }
        }
        state.count(id);
        let limits = &state.limits;
        let Some(conn) = state.conns.get_mut(id) else { return };
        let pending = conn.output.tail_bytes();
        if matches!(conn.phase(), Phase::Connecting | Phase::Dead) {
            return;
        }
        let over = |limit: Option<usize>| limit.is_some_and(|limit| pending > limit);
        if over(limits.output_hard_bytes) && conn.phase() == Phase::Open {
            return state.kill(id, CloseReason::OutputHardLimit);
        }
        conn.output.note(now, over(limits.output_soft_bytes));
        if pending > 0 {
            state.progress.has_output();
        }
        if progress {
            state.progress.forget(id);
        }

        let below_low_water = pending <= limits.output_low_water_bytes;
        let mut again = false;
        if below_low_water && conn.marks.take(Marks::BLOCKED) {
            again = conn.marks.any(Marks::OFFER_AGAIN | Marks::READABLE);
        }
        if below_low_water && conn.phase() == Phase::Open && conn.marks.take(Marks::WANTS_WRITABLE) {
            conn.marks.set(Marks::WRITABLE_DUE);
            again = true;
        }
        if pending == 0 {
            let closing = conn.phase() == Phase::Closing;
            if closing && conn.marks.any(Marks::ENDED) {
                // The peer has closed already: nothing that is unread could turn our end into a reset.
                let reason = conn.reason;
                return state.kill(id, reason);
            }
            if (closing || conn.marks.any(Marks::HALF_CLOSE)) && !conn.marks.any(Marks::WRITE_SHUT) {
                conn.marks.set(Marks::WRITE_SHUT);
                net.shutdown_write(id);
            }
            if conn.phase() == Phase::Open
                && conn.marks.any(Marks::WRITE_SHUT)
                && conn.marks.any(Marks::ENDED)
            {
                // Nothing can come or go any more.
                return state.kill(id, CloseReason::PeerClosed);
            }
            if closing {
                conn.set_phase(Phase::Lingering);
                let is_refused = conn.marks.any(Marks::REFUSED);
                conn.deadline = now + if is_refused { limits.linger_timeout } else { limits.linger_time_max };
                conn.active_at = now;
                again = true;
            }
        }
        conn.marks
            .put(Marks::UNSETTLED, pending > 0 || conn.marks.any(Marks::BLOCKED | Marks::WANTS_WRITABLE));
        let interest = conn.interest();
        if conn.armed != interest {
            conn.armed = interest;
            if net.rearm(id, interest).is_err() {
                return state.kill(id, CloseReason::Failed);
            }
        }
        if again {
            state.queue(id);
        }
        state.set_aside(id);
        state.arm_next(id);
    }

    /// Sees to it that memory is within its limit at the end of the turn, and gives back to the system what was released.
    fn bound_memory(&mut self) {
        let Reactor { net, state, .. } = self;
        state.look_at_memory();
        state.memory.evictions_left = state.limits.effects_per_turn.max(1);
        let held = state.memory_bytes();
        let exceeds = held > state.memory.max;
        if exceeds {
            // The next turn closes more, and reads nothing before that.
            state.outbox.fill();
        }
        state.outbox.shrink();
        state.memory.release_due = held + RELEASE_BYTES <= state.memory.peak;
        if state.memory.release_due {
            let now = state.time(net);
            if now >= self.release_at {
                net.release_memory();
                state.memory.peak = held;
                state.memory.release_due = false;
                self.release_at = now + RELEASE_PAUSE;
            } else {
                self.left_over = true;
            }
        }
        state.memory.exceeds = exceeds;
    }

    fn free(&mut self) {
        for _ in 0..self.state.limits.effects_per_turn.max(1) {
            let state = &mut self.state;
            let Some(id) = state.freed.pop_front() else { return };
            let Some(mut conn) = state.conns.remove(id) else { continue };
            state.memory.recount(&mut conn.counted, 0);
            state.memory.holders.set(id.slot(), id, 0);
            state.timers.cancel(id);
            state.progress.forget(id);
            self.net.close(id, conn.marks.any(Marks::RESET));
            if conn.marks.any(Marks::WATCHED) {
                state.watched -= 1;
                continue;
            }
            if let Some(draining) = &mut state.draining {
                draining.count(id, &conn);
            }
            state.metrics.connections_open -= 1;
            if conn.marks.any(Marks::REFUSED) {
                state.refusals -= 1;
            } else {
                state.admitted -= 1;
            }
            if let Some(ip) = state.ips.remove(id)
                && let Entry::Occupied(mut count) = state.per_ip.entry(ip)
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            state.metrics.closed[conn.reason as usize] += 1;
            state.report(&Report::Closed { conn: id, reason: conn.reason });
        }
    }
}

/// Whether a write is to be tried again when the system says so.
fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Keeps the input that a service has left: in the memory that held it before, if that is not much larger.
#[cold]
fn keep(state: &mut State, id: ConnId, spare: Option<Kept>, bytes: &[u8]) {
    let mut kept = spare.unwrap_or_default();
    kept.clear();
    if kept.capacity() > 2 * bytes.len().max(KEPT_BYTES_MIN) {
        *kept = Vec::new();
    }
    add(&mut kept, bytes);
    put(state, id, kept);
}

/// Keeps long input, without what the service has consumed of it, which is less than all.
#[cold]
fn keep_long(state: &mut State, id: ConnId, mut long: Kept, consumed: usize) {
    if long.capacity() > 2 * (long.len() - consumed) {
        return keep(state, id, None, &long[consumed..]);
    }
    long.drain(..consumed);
    put(state, id, long);
}

fn put(state: &mut State, id: ConnId, kept: Kept) {
    if let Some(conn) = state.conns.get_mut(id).filter(|conn| conn.phase() == Phase::Open) {
        conn.kept = Some(kept);
        conn.marks.set(Marks::KEPT);
        state.arm_next(id);
    }
    state.count(id);
}

/// Adds bytes: the first time to size, and then with room for more, so that a long message is not copied for each of its pieces.
fn add(kept: &mut Vec<u8>, bytes: &[u8]) {
    if kept.capacity() - kept.len() < bytes.len() {
        let room = if kept.capacity() > 0 { (kept.len() + bytes.len()) / 4 } else { 0 };
        kept.reserve_exact(bytes.len() + room);
    }
    kept.extend_from_slice(bytes);
}
