//! The turn's dealings with listeners and datagram sockets: what is accepted and what is refused, which datagrams are
//! shown to services and which answers leave.

use std::io;
use std::ops::Range;

use super::failures::{Failure, Failures, Next};
use super::panics::Unshown;
use super::{Reactor, would_block};
use crate::connection::{CloseReason, Connection, Marks, Phase};
use crate::datagram::{BATCH_MAX, Datagram};
use crate::metrics::DropCause;
use crate::net::{ALARM, Address, Flags, Net, Peer, WAKER, os, uninterrupted};
use crate::prefix::Prefix;
use crate::service::{Arrival, Context, ServiceId};
use crate::slots::ConnId;
use crate::state::Report;

/// A listener or a datagram socket.
pub(super) struct Source {
    pub(super) address: Address,
    pub(super) service: ServiceId,
    pub(super) open: bool,
    /// Readiness came that has not been acted on to the end.
    pub(super) ready: bool,
    /// Of accepting or receiving, and how long it is paused for them.
    pub(super) failures: Failures,
    /// A datagram socket that had no room to send rests until it has.
    pub(super) write_blocked: bool,
}

impl Source {
    /// Whether it is to be served without further readiness.
    pub(super) fn is_waiting(&self) -> bool {
        self.open && self.ready && !self.write_blocked
    }
}

/// A listener or datagram socket of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(super) u32);

impl<N: Net> Reactor<N> {
    pub(super) fn source_event(&mut self, token: u64, flags: Flags) {
        if token == WAKER {
            self.mail = true;
            return;
        }
        if token == ALARM {
            return self.begin_pass();
        }
        // The token of a connection is no index of a source: such a connection is gone.
        let Some(source) = self.sources.get_mut(token as usize).filter(|source| source.open) else {
            self.state.metrics.stale_events += 1;
            return;
        };
        source.ready = true;
        if flags.intersects(Flags::WRITE) && source.write_blocked {
            source.write_blocked = false;
            self.state.dirty_sockets.push(token as u32);
            self.state.attention = true;
            // From now on each datagram that leaves would be told. If this fails, that is all that happens.
            let _ = self.net.rearm_datagram(token as u32, false);
        }
        self.serve_source(token as usize);
    }

    pub(super) fn serve_source(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if !source.open || source.write_blocked {
            return;
        }
        if let Some(until) = source.failures.paused_until()
            && self.state.time(&self.net) < until
        {
            self.left_over = true;
            return;
        }
        if source.address.is_stream() {
            self.accept(index)
        } else {
            self.receive(index)
        }
        self.left_over |= self.sources[index].is_waiting();
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..self.state.limits.accepts_per_turn {
            let id = self.state.conns.next_id();
            match self.net.accept(index as u32, id) {
                Ok(peer) => {
                    if self.sources[index].failures.any() {
                        // Where descriptors are scarce each one that is freed lets in one: that is not the end of it.
                        self.sources[index].failures.interrupt();
                    }
                    self.admit(index, id, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.note_working(index);
                        self.sources[index].ready = false;
                        return;
                    }
                    kind => {
                        let exhausted = os::is_exhausted(&error);
                        let metrics = &mut self.state.metrics;
                        metrics.accepts_exhausted += u64::from(exhausted);
                        metrics.accepts_aborted +=
                            u64::from(!exhausted && kind != io::ErrorKind::Interrupted);
                        let failure = if exhausted { Failure::Exhausted } else { Failure::Broken };
                        if !self.goes_on_after(index, failure, &error) {
                            return;
                        }
                    }
                },
            }
        }
        self.note_working(index);
    }

    /// Accepting or receiving works, or there is nothing left to do: says so if it was paused before.
    #[inline]
    fn note_working(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if source.failures.any() && source.failures.end() {
            self.state.report(&Report::ListenerResumed { address: &source.address });
        }
    }

    /// Takes a failure of a source into account. Returns whether it is to be tried again at once.
    #[cold]
    fn goes_on_after(&mut self, index: usize, failure: Failure, error: &io::Error) -> bool {
        let now = self.state.time(&self.net);
        let source = &mut self.sources[index];
        match source.failures.add(failure, now, &self.state.limits) {
            Next::Again => return true,
            // Edge-triggered readiness would never tell again, so the source stays ready.
            Next::Pause { report: true } => {
                let address = &source.address;
                self.state.report(&Report::ListenerPaused { address, error });
            }
            Next::Pause { report: false } => {}
            Next::GiveUp => {
                self.unlisten(ListenerId(index as u32));
                self.state.metrics.listeners_closed += 1;
                let address = &self.sources[index].address;
                self.state.report(&Report::ListenerClosed { address, error });
            }
        }
        false
    }

    /// Takes an accepted connection in, or refuses it.
    fn admit(&mut self, index: usize, id: ConnId, peer: Peer) {
        let service = self.sources[index].service;
        let state = &mut self.state;
        let entry = &mut self.services[service.0 as usize];
        let limited = state.limits.connections_per_ip_max.is_some();
        let counted_ip = peer.ip().filter(|_| limited).map(Prefix::of_host);
        let of_ip = counted_ip.map_or(0, |ip| state.per_ip.get(&ip).copied().unwrap_or(0));
        let refused = if state.admitted >= state.connections_max {
            Some(CloseReason::RefusedFull)
        } else if state.limits.connections_per_ip_max.is_some_and(|max| of_ip >= max) {
            Some(CloseReason::RefusedPerIp)
        } else {
            None
        };
        let mut conn = Connection::new(Phase::Open, service.0, Flags::READ, state.now.get());
        conn.set_short_is_drained(matches!(peer, Peer::Inet(_)));
        if let Some(reason) = refused {
            state.metrics.connections_refused += 1;
            state.report(&Report::Refused { service: &entry.options.name, peer: &peer, reason });
            if state.refusals >= state.limits.refusals_max {
                state.metrics.closed[reason as usize] += 1;
                self.net.close(id, false);
                return;
            }
            state.refusals += 1;
            conn.marks.set(Marks::REFUSED);
            conn.set_phase(Phase::Closing);
            conn.reason = reason;
            let id = state.insert(conn);
            state.touch(id);
            state.calling = Some((service.0, Some(id)));
            let refusal = entry.service.refusal(reason);
            state.calling = None;
            if let Some(conn) = state.conns.get_mut(id) {
                state.outbox.push(id, &mut conn.output, &refusal);
            }
            return;
        }
        if let Some(ip) = counted_ip {
            state.per_ip.insert(ip, of_ip + 1);
            state.ips.insert(id, ip);
        }
        state.admitted += 1;
        state.metrics.connections_accepted += 1;
        state.insert(conn);
        state.report(&Report::Opened { conn: id, service: &entry.options.name, peer: &peer });
        state.arm_next(id);
        self.call(service.0, Some(id), |service, cx| service.open(id, Arrival::Accepted(peer), cx));
        if self.state.draining.is_some() {
            self.stand(id);
        }
    }

    /// Receives datagrams in batches and shows them to the service.
    fn receive(&mut self, index: usize) {
        if !self.state.departures[index].out.is_empty() {
            // Answers of an earlier turn have not left yet: more of them would pile up where there is no room to send.
            return;
        }
        let mut budget = self.state.limits.datagrams_per_turn;
        if self.sharing.look(&self.state.metrics) {
            budget = budget.min(self.state.limits.datagrams_per_shared_turn);
        }
        budget = budget.max(1);
        while budget > 0 {
            let Some(inbound) = self.inbound.as_deref_mut() else { return };
            let wanted = budget.min(BATCH_MAX);
            inbound.want(wanted);
            let count = match uninterrupted(|| self.net.receive(index as u32, inbound)) {
                Ok(count) => count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.note_working(index);
                        self.sources[index].ready = false;
                        return;
                    }
                    _ => {
                        // As a rule an earlier datagram's failure, reported late. The next call goes on behind it.
                        self.state.metrics.datagram_errors += 1;
                        budget -= 1;
                        let short = os::is_exhausted(&error);
                        let failure = if short { Failure::Short } else { Failure::Broken };
                        if !self.goes_on_after(index, failure, &error) {
                            return;
                        }
                        continue;
                    }
                },
            };
            self.note_working(index);
            self.state.metrics.datagrams_in += count as u64;
            self.sources[index].ready = count == wanted;
            self.show_datagrams(index, 0..count);
            if count < wanted {
                return;
            }
            budget -= count;
        }
    }

    /// Shows a service some of the datagrams that were received last.
    #[inline(always)]
    fn show_datagrams(&mut self, index: usize, which: Range<usize>) {
        let Reactor { net, state, services, sources, inbound, unshown, .. } = self;
        let Some(inbound) = inbound.as_deref() else { return };
        let service = sources[index].service.0;
        let entry = &mut services[service as usize];
        let mut which = Unshown { source: index, rest: which, left: unshown };
        state.calling = Some((service, None));
        for position in which.rest.by_ref() {
            let (received, bytes) = inbound.get(position);
            if received.truncated {
                state.metrics.count_drop(DropCause::Truncated);
                continue;
            }
            let report = Report::DatagramIn { service: &entry.options.name, from: &received.from, bytes };
            state.report_bytes(&report);
            let datagram = Datagram {
                from: &received.from,
                bytes,
                unanswerable: state.reply_policy.check(received),
                socket: index as u32,
                local: received.local,
            };
            entry.service.datagram(&datagram, &mut Context { state, wire: net });
        }
        state.calling = None;
        std::mem::forget(which);
    }

    /// Shows what was received together with a datagram that a service panicked at.
    #[cold]
    pub(super) fn show_unshown(&mut self) {
        if let Some((index, which)) = self.unshown.take() {
            self.show_datagrams(index, which);
        }
    }

    /// Sends the datagrams of one socket.
    pub(super) fn transmit(&mut self, index: u32) {
        let source = &mut self.sources[index as usize];
        let departures = &mut self.state.departures[index as usize];
        departures.dirty = false;
        if !source.open {
            return departures.out.clear();
        }
        let mut sent = 0;
        while sent < departures.out.len() && !source.write_blocked {
            match uninterrupted(|| self.net.transmit(index, &departures.out, sent)) {
                Ok(count) => {
                    self.state.metrics.datagrams_out += count as u64;
                    sent += count;
                }
                Err(error) if would_block(&error) && self.net.rearm_datagram(index, true).is_ok() => {
                    source.write_blocked = true;
                }
                Err(_) => {
                    self.state.metrics.count_drop(DropCause::SendFailed);
                    sent += 1;
                }
            }
        }
        departures.out.advance(sent);
        let waiting = departures.out.memory_bytes();
        self.state.memory.recount(&mut departures.counted, waiting);
    }
}
