//! THE loop. One turn, in order:
//!
//! ```text
//!  1  wait       for readiness, as long as the next deadline allows; not at all while something is left to do
//!  2  accept     new connections, bounded per turn; rest when the system has no descriptor left
//!  3  read       every ready connection up to its budget, into one buffer that the service sees in place;
//!                datagrams in batches
//!  4  deadlines  that are due; messages from other threads
//!  5  effects    outgoing connections, hand-overs, `closed`: what services say here still leaves in this turn
//!  6  flush      every connection that has output, once; a short write arms writability
//!  7  free       slots and descriptors of closed connections, never in the middle of a batch
//! ```
//!
//! Accepting and reading go by the order in which the system tells what is ready. Everything that a turn decides (who is
//! read, how much, who is flushed, who is closed) is decided in this file, and for listeners and datagrams in
//! `reactor/sources.rs`; what they call computes and reports. Readiness is edge-triggered: a connection whose reading stops before it is
//! drained stays on the ready list, and while that list is not empty a turn does not wait.

use std::collections::hash_map::Entry;
use std::io;
use std::time::Duration;

pub use self::remote::Remote;
pub use self::setup::Drained;
pub use self::sources::ListenerId;

use self::sharing::Sharing;
use self::sources::Source;
use crate::connection::{CloseReason, Due, Kept, Marks, Phase};
use crate::datagram::Inbound;
use crate::drive::{Drive, First, Parts, Stop, Stopped};
use crate::error::Error;
use crate::mailbox::Inbox;
use crate::net::os::Os;
use crate::net::{Flags, Net, Peer, Readiness, Short};
use crate::output::TURN_BYTES;
use crate::service::{Arrival, Context, Options, ServiceId};
use crate::slots::ConnId;
use crate::state::{READ_BYTES, Report, State, reason_of};
use crate::timer::Instant;

mod fanout;
mod remote;
mod setup;
mod sharing;
mod sources;

/// Busy time and events are recorded for one turn in so many: reading the clock twice and recording takes some 200
/// instructions, half as many as all else that a lone echo takes.
const TURN_SAMPLE: u64 = 16;

/// A single-threaded event loop: its sockets, its connections and the services that they belong to.
///
/// `N` is the system underneath: the real one, or a simulated one.
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
    /// Whether those who have much to say take small portions.
    sharing: Sharing,
    /// The service of the last run of events.
    last_served: u16,
    /// The writes of a flush that did not go out whole.
    short: Vec<Short>,
    /// The memory for events, except while they are taken up.
    events: Option<Box<N::Events>>,
    /// An earlier turn has left something to read or to accept.
    left_over: bool,
    /// Another thread has woken us, or has left more than one turn takes.
    mail: bool,
}

struct Registered<N: Net> {
    service: Box<dyn Drive<N>>,
    options: Options,
}

impl<N: Net> Reactor<N> {
    /// Turns until [`Remote::stop`] is called.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn run(&mut self) -> Result<(), Error> {
        while !self.remote.is_stopped() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Turns once, waiting up to `max_wait` (`None`: as long as it takes) for something to do.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> Result<(), Error> {
        let wait = match (self.next_timeout(), max_wait) {
            (Some(wait), Some(max)) => Some(wait.min(max)),
            (wait, max) => wait.or(max),
        };
        let mut events = self.events.take().unwrap_or_else(|| Box::new(self.net.events()));
        let waited = self.net.wait(&mut events, wait);
        let begun = self.begin_turn();
        if self.left_over {
            self.take_left_over();
        }
        if waited.is_ok() {
            self.take_events(&events);
        }
        self.events = Some(events);
        waited.map_err(Error::Poll)?;
        if self.state.timers.next().is_some() {
            self.fire_deadlines();
        }
        if self.mail {
            self.deliver_messages();
        }
        if self.state.attention {
            self.apply_effects();
        }
        self.flush();
        if self.state.attention {
            self.settle_and_free();
        }
        self.state.metrics.turns += 1;
        if let Some(begun) = begun {
            self.record_turn(begun);
        }
        Ok(())
    }

    /// How long [`Reactor::turn`] would wait if nothing came: `None` for ever, zero when there is something to do.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        let state = &self.state;
        if state.attention || self.mail || !state.outbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut next = state.timers.next();
        if self.left_over {
            for source in self.sources.iter().filter(|source| source.is_waiting()) {
                let at = source.rests_until.unwrap_or_default();
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next.map(|at| at.since(self.net.now()))
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

    /// What earlier turns left comes first, in its order, so that nobody who waits is passed over for ever.
    #[inline(never)]
    fn take_left_over(&mut self) {
        self.left_over = false;
        for index in 0..self.sources.len() {
            if self.sources[index].ready {
                self.serve_source(index);
            }
        }
        for _ in 0..self.state.ready.len() {
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
    }

    /// Takes up each event.
    fn take_events(&mut self, events: &N::Events) {
        let mut rest = N::readiness(events);
        let mut at = Stopped::default();
        loop {
            let Reactor { net, state, services, buffer, .. } = self;
            // The service of the last run first: as a rule all events are for one.
            let stop = match services.get_mut(self.last_served as usize) {
                Some(entry) => {
                    entry.service.read_run(self.last_served, &mut rest, Parts { net, state, buffer }, &mut at)
                }
                None => {
                    at.event = rest.next();
                    if at.event.is_some() { Stop::Other } else { Stop::End }
                }
            };
            match stop {
                Stop::End => return,
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
                let entry = &mut self.services[conn.service as usize];
                state.report(&Report::Opened { conn: id, service: &entry.options.name, peer: &peer });
                state.arm_next(id);
                state.touch(id);
                entry.service.open(id, Arrival::Connected(peer), &mut Context { state, wire: &mut self.net });
            }
            Err(_) => self.state.kill(id, CloseReason::ConnectFailed),
        }
    }

    /// Takes up a connection whose input stopped before it was drained: first what the service left, then what the
    /// system holds.
    fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if !conn.marks.any(Marks::MOVING) && conn.marks.take(Marks::WRITABLE_DUE) {
            let service = &mut self.services[conn.service as usize].service;
            service.writable(id, &mut Context { state: &mut self.state, wire: &mut self.net });
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
        let spare = conn.kept.take();
        conn.marks.clear(Marks::KEPT);
        if let Some(kept) = &spare {
            end = begin + kept.len();
            buffer[begin..end].copy_from_slice(kept);
        }
        // What the short way has read already was a whole portion.
        let mut portion = READ_BYTES;
        let mut budget = state.limits.read_bytes_per_turn;
        if matches!(first, First::Read | First::Offer) && sharing.look(&state.metrics) {
            budget = budget.min(state.limits.read_bytes_per_shared_turn);
            portion = budget.clamp(1, READ_BYTES);
        }
        loop {
            let now = state.time(net);
            let Some(conn) = state.conns.get_mut(id) else { return };
            let service = &mut *services[conn.service as usize].service;
            let drains = |count| count < portion && !conn.marks.any(Marks::READ_ON);
            let (drained, consumed) = match std::mem::replace(&mut first, First::Read) {
                First::Offered { consumed, .. } => (drains(end - begin), Some(consumed)),
                First::Offer => {
                    // Its input has rested, which was not the peer's doing: the time begins anew.
                    conn.message_since = Instant::NEVER;
                    (false, None)
                }
                step => {
                    let read = match step {
                        First::Got(read) => read,
                        _ => net.read(id, &mut buffer[end..end + portion]),
                    };
                    match read {
                        Ok(0) => {
                            conn.marks.set(Marks::ENDED);
                            conn.marks.clear(Marks::READABLE);
                            conn.message_since = Instant::NEVER;
                            state.touch(id);
                            service.eof(id, &buffer[begin..end], &mut Context { state, wire: net });
                            return;
                        }
                        Ok(count) => {
                            let drained = drains(count);
                            conn.active_at = now;
                            budget = budget.saturating_sub(count);
                            end += count;
                            if !conn.marks.any(Marks::WATCHED) {
                                state.metrics.bytes_in += count as u64;
                                sharing.large_bytes += count as u64;
                                let bytes = &buffer[end - count..end];
                                state.report_bytes(&Report::Input { conn: id, bytes });
                            }
                            (drained, None)
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            conn.marks.clear(Marks::READABLE);
                            conn.marks.put(Marks::READ_ON, !conn.short_is_drained);
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
                None => service.input(id, &buffer[begin..end], &mut Context { state, wire: net }),
            };
            assert!(consumed <= offered, "a service consumed {consumed} of {offered} bytes of input");
            begin += consumed;

            let Some(conn) = state.conns.get_mut(id) else { return };
            if begin == end {
                conn.message_since = Instant::NEVER;
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
            if budget == 0 || state.outbox.is_full() || end > TURN_BYTES {
                state.queue(id);
                break;
            }
        }
        if begin < end {
            keep(state, id, spare, &buffer[begin..end]);
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
        loop {
            let Some(conn) = self.state.conns.get_mut(id) else { return };
            match self.net.read(id, &mut self.buffer[free.clone()]) {
                Ok(0) => return self.state.kill(id, CloseReason::Service),
                Ok(count) => {
                    conn.discarded += count as u32;
                    self.state.metrics.bytes_discarded += count as u64;
                    if conn.discarded as usize > self.state.limits.linger_bytes_max {
                        conn.marks.set(Marks::SATED);
                        return self.state.touch(id);
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
        // A deadline that is set again for now, or for a time that has passed, waits for the next turn.
        for _ in 0..self.state.timers.len() {
            let Some(id) = self.state.timers.pop_due(now) else { return };
            let rests = self.state.conns.get(id).is_none_or(|conn| !conn.takes_input());
            if !rests && self.due(id, now).is_some_and(Due::is_for_want_of_input) {
                // After a long sleep there are more events than one turn takes: what came in time counts.
                self.read(id, First::Read);
            }
            let Some(due) = self.due(id, now) else {
                // It has moved on since the timer was set.
                self.state.arm_next(id);
                continue;
            };
            let state = &mut self.state;
            let Some(conn) = state.conns.get_mut(id) else { continue };
            match due {
                // Its new service has yet to hear `open`, and comes back to this deadline then.
                Due::Service if conn.marks.any(Marks::MOVING) => continue,
                Due::Service => {
                    conn.deadline = Instant::NEVER;
                    let service = &mut self.services[conn.service as usize].service;
                    service.deadline(id, &mut Context { state, wire: &mut self.net });
                }
                Due::Lingered => state.kill(id, CloseReason::Service),
                Due::Close(reason @ (CloseReason::IdleTimeout | CloseReason::ReadDeadline)) => {
                    state.finish(id, reason);
                }
                Due::Close(reason) => state.kill(id, reason),
            }
            self.state.arm_next(id);
        }
    }

    #[cold]
    fn deliver_messages(&mut self) {
        self.mail = false;
        self.remote.answer(&self.state.metrics);
        for (service, inbox) in &mut self.inboxes {
            let service = &mut *self.services[service.0 as usize].service;
            let max = self.state.limits.messages_per_turn;
            let mut cx = Context { state: &mut self.state, wire: &mut self.net };
            let (count, more) = inbox.deliver(max, service, &mut cx);
            self.state.metrics.mailbox_messages += count as u64;
            self.mail |= more;
        }
    }

    // ---- 5: effects ----

    #[inline(never)]
    fn apply_effects(&mut self) {
        if !self.state.handed.is_empty() {
            self.open_handed_over();
        }
        if !self.state.connects.is_empty() {
            self.begin_connects();
        }
        while let Some(id) = self.state.ended.pop_front() {
            self.tell_closed(id);
        }
    }

    #[cold]
    fn open_handed_over(&mut self) {
        for id in std::mem::take(&mut self.state.handed) {
            let Some(conn) = self.state.conns.get_mut(id) else { continue };
            conn.marks.clear(Marks::MOVING);
            conn.marks.set(Marks::OFFER_AGAIN);
            conn.message_since = Instant::NEVER;
            if conn.phase() != Phase::Open {
                continue;
            }
            let service = &mut self.services[conn.service as usize].service;
            service.open(
                id,
                Arrival::HandedOver,
                &mut Context { state: &mut self.state, wire: &mut self.net },
            );
            // What the old service left is the new one's first input.
            self.state.queue(id);
            self.state.touch(id);
            self.state.arm_next(id);
        }
    }

    #[cold]
    fn begin_connects(&mut self) {
        for (id, address) in std::mem::take(&mut self.state.connects) {
            let dead = self.state.conns.get(id).is_none_or(|conn| conn.phase() != Phase::Connecting);
            if dead {
                continue;
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
    }

    #[cold]
    fn tell_closed(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.kept = None;
        let reason = conn.reason;
        if conn.phase() == Phase::Dead {
            self.state.freed.push(id);
        }
        let service = &mut self.services[conn.service as usize].service;
        self.state.topics.forget(id);
        service.closed(id, reason, &mut Context { state: &mut self.state, wire: &mut self.net });
    }

    // ---- 6: flush ----

    fn flush(&mut self) {
        if !self.state.outbox.logs.is_empty() {
            self.deliver_logs();
        }
        let Reactor { net, state: State { outbox, metrics, .. }, buffer, short, .. } = self;
        metrics.bytes_out += net.write_each(outbox.whole(buffer), short) as u64;
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
        if self.state.limits.output_total_bytes.is_some_and(|max| self.state.output_bytes() > max) {
            self.evict_largest();
        }
        self.free();
        let state = &mut self.state;
        self.left_over |= !state.ready.is_empty();
        state.look_again = false;
        state.attention = !state.ready.is_empty()
            || !state.ended.is_empty()
            || !state.freed.is_empty()
            || !state.connects.is_empty()
            || !state.dirty_sockets.is_empty();
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
        state.count_tail(id);
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
        conn.output.note(now, progress, over(limits.output_soft_bytes));

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
            if closing {
                conn.set_phase(Phase::Lingering);
                conn.deadline = now + limits.linger_timeout;
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

    /// Closes the connections with the most output until the rest is within `output_total_bytes`.
    #[cold]
    fn evict_largest(&mut self) {
        let state = &mut self.state;
        let max = state.limits.output_total_bytes.unwrap_or(usize::MAX);
        let mut holders: Vec<_> = state
            .conns
            .iter()
            .map(|(id, conn)| (conn.output.tail_bytes(), id))
            .filter(|&(bytes, _)| bytes > 0)
            .collect();
        holders.sort_unstable_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        for (_, id) in holders {
            if state.output_bytes() <= max {
                break;
            }
            state.kill(id, CloseReason::OutputTotalLimit);
        }
    }

    // ---- 7: free ----

    fn free(&mut self) {
        for index in 0..self.state.freed.len() {
            let state = &mut self.state;
            let id = state.freed[index];
            let Some(conn) = state.conns.remove(id) else { continue };
            state.timers.cancel(id);
            self.net.close(id, conn.marks.any(Marks::RESET));
            if conn.marks.any(Marks::WATCHED) {
                state.watched -= 1;
                continue;
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
        self.state.freed.clear();
    }
}

/// Whether a write is to be tried again when the system says so.
fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Keeps the input that a service has left, in the memory that held it before if there is any.
#[cold]
fn keep(state: &mut State, id: ConnId, spare: Option<Kept>, bytes: &[u8]) {
    if let Some(conn) = state.conns.get_mut(id) {
        let mut kept = spare.unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        conn.kept = Some(kept);
        conn.marks.set(Marks::KEPT);
        state.arm_next(id);
    }
}
