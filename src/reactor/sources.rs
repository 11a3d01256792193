//! The turn's dealings with listeners and datagram sockets: what is accepted and what is refused, which datagrams are
//! shown to services and which answers leave.

use std::io;

use super::{Reactor, would_block};
use crate::connection::{CloseReason, Connection, Marks, Phase};
use crate::datagram::{BATCH_MAX, Datagram};
use crate::metrics::DropCause;
use crate::net::{Address, Flags, Net, Peer, WAKER, os, uninterrupted};
use crate::service::{Arrival, Context, ServiceId};
use crate::slots::ConnId;
use crate::state::Report;
use crate::timer::Instant;

/// A listener or a datagram socket.
pub(super) struct Source {
    pub(super) address: Address,
    pub(super) service: ServiceId,
    pub(super) open: bool,
    /// Readiness came that has not been acted on to the end.
    pub(super) ready: bool,
    /// A listener that the system had no descriptor for rests until then.
    pub(super) rests_until: Option<Instant>,
    /// The last accept found the system without a descriptor or memory, and that was reported.
    pub(super) exhausted: bool,
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
        if let Some(until) = source.rests_until {
            if self.state.time(&self.net) < until {
                self.left_over = true;
                return;
            }
            source.rests_until = None;
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
                    self.note_accepting(index);
                    self.admit(index, id, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.note_accepting(index);
                        self.sources[index].ready = false;
                        return;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ if os::is_exhausted(&error) => {
                        // Edge-triggered readiness would never tell again, and trying at once would spin.
                        self.state.metrics.accepts_exhausted += 1;
                        let now = self.state.time(&self.net);
                        let source = &mut self.sources[index];
                        source.rests_until = Some(now + self.state.limits.accept_pause);
                        if !std::mem::replace(&mut source.exhausted, true) {
                            let address = &source.address;
                            self.state.report(&Report::ListenerPaused { address, error: &error });
                        }
                        return;
                    }
                    _ => self.state.metrics.accepts_aborted += 1,
                },
            }
        }
    }

    /// Accepting works: says so if it did not before.
    fn note_accepting(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if std::mem::replace(&mut source.exhausted, false) {
            self.state.report(&Report::ListenerResumed { address: &source.address });
        }
    }

    /// Takes an accepted connection in, or refuses it.
    fn admit(&mut self, index: usize, id: ConnId, peer: Peer) {
        let service = self.sources[index].service;
        let state = &mut self.state;
        let entry = &mut self.services[service.0 as usize];
        let counted_ip = peer.ip().filter(|_| state.limits.connections_per_ip_max.is_some());
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
            if let Some(conn) = state.conns.get_mut(id) {
                state.outbox.push(id, &mut conn.output, &entry.service.refusal(reason));
            }
            state.touch(id);
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
        entry.service.open(id, Arrival::Accepted(peer), &mut Context { state, wire: &mut self.net });
    }

    /// Receives datagrams in batches and shows them to the service.
    fn receive(&mut self, index: usize) {
        if !self.state.departures[index].out.is_empty() {
            // Answers of an earlier turn have not left yet: more of them would pile up where there is no room to send.
            return;
        }
        let Some(inbound) = self.inbound.as_deref_mut() else { return };
        let source = &mut self.sources[index];
        let entry = &mut self.services[source.service.0 as usize];
        let state = &mut self.state;
        let mut budget = state.limits.datagrams_per_turn;
        if self.sharing.look(&state.metrics) {
            budget = budget.min(state.limits.datagrams_per_shared_turn);
        }
        budget = budget.max(1);
        while budget > 0 {
            let wanted = budget.min(BATCH_MAX);
            inbound.want(wanted);
            let count = match uninterrupted(|| self.net.receive(index as u32, inbound)) {
                Ok(count) => count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        source.ready = false;
                        return;
                    }
                    _ => {
                        // An earlier datagram's failure, told late. The next call goes on behind it.
                        state.metrics.datagram_errors += 1;
                        budget -= 1;
                        continue;
                    }
                },
            };
            state.metrics.datagrams_in += count as u64;
            for position in 0..count {
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
                    unanswerable: state.reply_policy.check(received, |ip| self.net.is_local(ip)),
                    socket: index as u32,
                    local: received.local,
                };
                entry.service.datagram(&datagram, &mut Context { state, wire: &mut self.net });
            }
            if count < wanted {
                source.ready = false;
                return;
            }
            budget -= count;
        }
    }

    /// Sends the datagrams of one socket.
    pub(super) fn transmit(&mut self, index: u32) {
        let source = &mut self.sources[index as usize];
        let departures = &mut self.state.departures[index as usize];
        departures.dirty = false;
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
    }
}
