//! Graceful shutdown: what had come when it began is answered, and then everything ends.
//!
//! ```text
//!   accept what waits ─► close listeners ─► read what each socket held, answer ─► close each once its output is flushed ─► deadline: break off
//! ```
//!
//! Linux has no way to stop accepting at one moment: a handshake that completes between the last accept and the close of the
//! listener is reset.

use std::time::Duration;

use super::{ListenerId, Reactor};
use crate::connection::{CloseReason, Marks, Phase};
use crate::drain::{Drained, Draining, Stage};
use crate::error::Error;
use crate::net::Net;
use crate::slots::ConnId;
use crate::timer::Instant;

/// Datagrams that are received after the shutdown has begun, of all sockets: more than their buffers hold.
const DATAGRAMS_MAX: u64 = 16_384;

impl<N: Net> Reactor<N> {
    /// Shuts down gracefully. Requests in the accept backlogs and in the sockets' receive buffers are answered, listeners are
    /// closed, each connection is closed once its output is flushed, and after `deadline` the remaining ones are reset.
    ///
    /// A connection whose service still owes it an answer ([`Service::owes`](crate::Service::owes)) or has suspended its input
    /// ([`Context::pause`](crate::Context::pause)) stays open until that changes or the deadline passes; so does one with an
    /// incomplete message and a deadline of its service. Once all others are answered, no connection is opened:
    /// [`Context::connect`](crate::Context::connect) returns an id that names no connection. A peer that does not close its side
    /// in return adds [`Limits::linger_timeout`](crate::Limits::linger_timeout).
    ///
    /// # Errors
    /// [`Error::Poll`]: waiting for readiness has failed for [`Limits::failure_timeout`](crate::Limits::failure_timeout).
    ///
    /// # Panics
    /// As [`Reactor::run`].
    pub fn drain(&mut self, deadline: Duration) -> Result<Drained, Error> {
        let begun = self.net.now();
        let until = begun + deadline;
        self.begin_drain();
        // Peers that go on sending, or do not go on reading, leave some of the time for the rest.
        self.answer_what_stands(begun + deadline / 2)?;
        self.close_listeners();
        self.end_connections(until)?;
        self.break_off()?;
        for index in 0..self.sources.len() {
            self.unlisten(ListenerId(index as u32));
        }
        Ok(self.state.draining.take().map_or(Drained::default(), |draining| draining.drained))
    }

    fn begin_drain(&mut self) {
        self.state.draining = Some(Box::default());
        for source in &mut self.sources {
            source.ready = source.open;
        }
        self.left_over = true;
        for id in self.clients() {
            self.stand(id);
        }
    }

    /// While the reactor shuts down: notes what a connection has sent, and sees to it that it is read.
    pub(super) fn stand(&mut self, id: ConnId) {
        let Reactor { net, state, .. } = self;
        let (Some(draining), Some(conn)) = (&mut state.draining, state.conns.get_mut(id)) else { return };
        if conn.phase() != Phase::Open {
            return;
        }
        let unread = net.unread(id).unwrap_or(0);
        draining.stand(id, unread);
        if unread > 0 {
            // No event has said whether a short read would mean that nothing is left.
            conn.marks.set(Marks::READABLE | Marks::READ_ON);
            state.queue(id);
        }
    }

    fn answer_what_stands(&mut self, until: Instant) -> Result<(), Error> {
        let datagrams_before = self.state.metrics.datagrams_in;
        loop {
            let now = self.net.now();
            let datagrams = self.state.metrics.datagrams_in - datagrams_before;
            let sources_wait = self.sources.iter().any(|source| {
                // Nothing comes from one that is broken.
                source.is_waiting()
                    && !source.failures.says_broken(&self.state.limits)
                    && (source.address.is_stream() || datagrams < DATAGRAMS_MAX)
            });
            if now >= until || !(sources_wait || self.any_is_busy()) {
                return Ok(());
            }
            self.turn(Some(until - now))?;
            // As soon as it is empty, so that few more come.
            for index in 0..self.sources.len() {
                if self.sources[index].address.is_stream() && !self.sources[index].is_waiting() {
                    self.unlisten(ListenerId(index as u32));
                }
            }
        }
    }

    fn close_listeners(&mut self) {
        for index in 0..self.sources.len() {
            if self.sources[index].address.is_stream() {
                self.unlisten(ListenerId(index as u32));
            }
        }
    }

    fn any_is_busy(&mut self) -> bool {
        let Reactor { state, services, .. } = self;
        let busy = |draining: &Draining| {
            draining.waiting.iter().any(|&id| {
                state.conns.get(id).is_some_and(|conn| {
                    let owes = services[conn.service as usize].service.owes(id);
                    draining.stage(id, conn, owes) == Stage::Busy
                })
            })
        };
        state.draining.as_deref().is_some_and(busy)
    }

    /// Closes everybody who is done, in each turn those who have become so.
    fn end_connections(&mut self, until: Instant) -> Result<(), Error> {
        if let Some(draining) = &mut self.state.draining {
            draining.ends = true;
        }
        let mut waiting = self.clients();
        loop {
            let Reactor { state, services, .. } = self;
            waiting.retain(|&id| {
                let (Some(draining), Some(conn)) = (&state.draining, state.conns.get_mut(id)) else {
                    return false;
                };
                let owes = services[conn.service as usize].service.owes(id);
                let done = match draining.stage(id, conn, owes) {
                    Stage::Done => true,
                    Stage::Busy => false,
                    // An outgoing connection that is not established has nothing to deliver.
                    Stage::Stuck => conn.phase() == Phase::Connecting,
                };
                if done {
                    conn.marks.put(Marks::UNANSWERED, conn.kept.is_some());
                    state.finish(id, CloseReason::Drained);
                }
                !done
            });
            let now = self.net.now();
            if now >= until || (self.connections() == 0 && self.next_timeout() != Some(Duration::ZERO)) {
                return Ok(());
            }
            self.turn(Some(until - now))?;
        }
    }

    /// Breaks off whoever is left.
    fn break_off(&mut self) -> Result<(), Error> {
        for id in self.clients() {
            let unread = !self.state.draining.as_ref().is_none_or(|draining| draining.has_read_all(id));
            if let Some(conn) = self.state.conns.get_mut(id) {
                conn.marks.put(Marks::UNANSWERED, unread || conn.kept.is_some());
            }
            self.state.kill(id, CloseReason::DrainDeadline);
        }
        // Nothing is begun any more, so this comes to an end.
        while !(self.state.ended.is_empty() && self.state.freed.is_empty()) {
            self.catch_panics(|reactor, _| {
                reactor.apply_effects();
                reactor.free();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn clients(&self) -> Vec<ConnId> {
        let clients = self.state.conns.iter().filter(|(_, conn)| !conn.marks.any(Marks::WATCHED));
        clients.map(|(id, _)| id).collect()
    }
}
