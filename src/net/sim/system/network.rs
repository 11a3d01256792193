//! The network under stream connections: how an attempt is answered, how segments travel from one end to the other,
//! and how a connection ends or breaks.

use std::time::Duration;

use super::{SimNet, Source, nanos};
use crate::net::sim::agenda::Happening;
use crate::net::sim::errno;
use crate::net::sim::peer::PeerState;
use crate::net::sim::socket::{Owner, Socket};
use crate::net::sim::trace::Detail;
use crate::net::{Flags, Peer};

/// How long a connection attempt waits that met a full backlog.
const ATTEMPT_AGAIN: Duration = Duration::from_secs(1);

impl SimNet {
    /// What the sockets of a new connection hold: up to what the faults say, at least a byte.
    fn buffer_bytes(&mut self, max: usize) -> usize {
        if self.faults.shuffled { 1 + max / 2 + self.random.below(max / 2) } else { max.max(1) }
    }

    /// Both ends of a connection that is not established yet. Returns the index of the first; the other follows.
    pub(super) fn pair(&mut self, owners: [Owner; 2], tcp: bool, addresses: [Peer; 2]) -> usize {
        let first = self.sockets.len();
        let [near, far] = addresses;
        for (index, (owner, peer)) in owners.into_iter().zip([far, near]).enumerate() {
            let receive_max = self.buffer_bytes(self.faults.receive_buffer_bytes);
            let send_max = self.buffer_bytes(self.faults.send_buffer_bytes);
            let mate = first + 1 - index;
            self.sockets.push(Socket::new(owner, tcp, mate, peer, receive_max, send_max));
        }
        first
    }

    /// A connection attempt reaches a listener: the other end goes into the backlog.
    pub(super) fn attempt(&mut self, socket: usize, source: u32) {
        if self.sockets[socket].owner == Owner::Nobody {
            // Whoever began it has given up.
            return;
        }
        let backlog_max = self.faults.backlog_max;
        match self.sources.get_mut(source as usize) {
            Some(Some(Source::Listener { backlog, .. })) if backlog.len() < backlog_max => {
                backlog.push_back(self.sockets[socket].mate);
                self.list_source(source);
                self.decide(socket, true);
            }
            Some(Some(Source::Listener { .. })) => {
                let at_ns = self.now_ns + nanos(ATTEMPT_AGAIN);
                self.agenda.enter(at_ns, Happening::Attempt { socket, source });
            }
            _ => self.decide(socket, false),
        }
    }

    /// A connection attempt is answered.
    pub(super) fn decide(&mut self, socket: usize, established: bool) {
        let mate = self.sockets[socket].mate;
        if self.sockets[socket].owner == Owner::Nobody {
            return;
        }
        self.note(if established { "established" } else { "refused" }, self.subject(socket), Detail::Nothing);
        if established {
            self.sockets[socket].established = true;
            self.sockets[mate].established = true;
            for end in [socket, mate] {
                if let Owner::Peer(peer) = self.sockets[end].owner {
                    self.peers[peer.0].state = PeerState::Open;
                    self.attend_soon(peer);
                }
            }
        } else {
            self.sockets[socket].reset = true;
            self.sockets[socket].error = Some(errno::ECONNREFUSED);
            if let Owner::Peer(peer) = self.sockets[socket].owner {
                self.peers[peer.0].state = PeerState::Refused;
                self.sockets[socket].owner = Owner::Nobody;
            }
        }
        self.list(socket);
    }

    /// Sees to it that what a socket has to send gets under way.
    pub(super) fn kick(&mut self, socket: usize) {
        let end = &self.sockets[socket];
        let mate = &self.sockets[end.mate];
        let lost = mate.owner == Owner::Nobody;
        let has_work = (!end.send.is_empty() && (lost || mate.receive_room() > 0))
            || (end.send.is_empty() && end.write_shut && !end.fin_sent);
        if end.established && !end.carrying && !end.reset && !end.vanished && has_work {
            self.sockets[socket].carrying = true;
            self.enter(Happening::Carry { socket });
        }
    }

    /// One segment of what a socket has to send arrives.
    pub(super) fn carry(&mut self, socket: usize) {
        let mate = self.sockets[socket].mate;
        self.sockets[socket].carrying = false;
        if self.sockets[socket].reset || self.sockets[socket].vanished {
            return;
        }
        if self.sockets[mate].owner == Owner::Nobody && !self.sockets[socket].send.is_empty() {
            // Nobody is there to read it: the answer is a reset.
            self.sockets[socket].send.clear();
            self.enter(Happening::Break { socket, error: errno::ECONNRESET });
            return;
        }
        if self.random.chance(self.faults.reset) {
            self.enter(Happening::Break { socket, error: errno::ECONNRESET });
            self.enter(Happening::Break { socket: mate, error: errno::ECONNRESET });
            return;
        }
        let most = 1 + self.random.below(self.faults.segment_bytes_max);
        // A quarter of the segments are tiny, where segments are cut at random at all.
        let most = match self.faults.shuffled && self.random.chance(0.25) {
            true => most.min(1 + self.random.below(4)),
            false if self.faults.shuffled => most,
            false => self.faults.segment_bytes_max,
        };
        let [from, to] = self.ends(socket, mate);
        let count = from.send.len().min(to.receive_room()).min(most);
        to.receive.extend(from.send.drain(..count));
        let ends = from.send.is_empty() && from.write_shut && !from.fin_sent;
        let urgent = to.tcp && to.urgent_at.is_none() && !matches!(to.owner, Owner::Peer(_));
        if count > 0 {
            self.note("segment to", self.subject(mate), Detail::Bytes(count));
            if urgent && self.random.chance(self.faults.urgent) {
                self.set_urgent(mate, count);
            }
            self.tell_room(socket);
            if let Owner::Peer(peer) = self.sockets[socket].owner {
                self.attend_soon(peer);
            }
        }
        // The end arrives with the last segment or after it.
        let ends = ends && (count == 0 || self.random.chance(0.5));
        if ends {
            self.note("end to", self.subject(mate), Detail::Nothing);
            self.sockets[socket].fin_sent = true;
            self.sockets[mate].fin_arrived = true;
        }
        if count > 0 || ends {
            self.tell_readable(mate);
        }
        if ends {
            // Linux tells a change of state to everybody who listens at all.
            self.list(mate);
        }
        self.kick(socket);
    }

    fn ends(&mut self, one: usize, other: usize) -> [&mut Socket; 2] {
        self.sockets.get_disjoint_mut([one, other]).expect("the two ends of a connection are two sockets")
    }

    /// An urgent byte stands ahead of the last `count` bytes that arrived.
    pub(super) fn set_urgent(&mut self, socket: usize, count: usize) {
        let end = &mut self.sockets[socket];
        end.urgent_at = Some(end.taken + (end.receive.len() - count) as u64);
        self.note("urgent to", self.subject(socket), Detail::Bytes(count));
        // Urgent data is always of interest.
        self.list(socket);
    }

    /// The connection is over for this socket. What had arrived can still be read, as on Linux.
    pub(super) fn break_off(&mut self, socket: usize, error: i32) {
        let end = &mut self.sockets[socket];
        if end.reset || end.owner == Owner::Nobody || end.vanished {
            return;
        }
        end.reset = true;
        end.error = Some(error);
        end.send.clear();
        self.note("broken for", self.subject(socket), Detail::Nothing);
        self.list(socket);
        if let Owner::Peer(peer) = self.sockets[socket].owner {
            self.attend_soon(peer);
        }
    }

    /// The owner of a socket closes it.
    pub(super) fn close_socket(&mut self, socket: usize, reset: bool) {
        let end = &mut self.sockets[socket];
        let unread = !end.receive.is_empty();
        let discards = reset && end.tcp;
        end.owner = Owner::Nobody;
        end.interest = Flags::NONE;
        end.receive.clear();
        end.receive.shrink_to_fit();
        if end.reset || !end.established {
            end.send.clear();
        } else if discards || unread {
            // Closing with unread input, or by force, tells the other end that it is broken; on TCP that also
            // destroys what was on its way.
            if end.tcp {
                end.send.clear();
            }
            let (mate, rest) = (end.mate, std::mem::take(&mut end.send));
            let to = &mut self.sockets[mate];
            if !to.vanished && to.owner != Owner::Nobody {
                to.receive.extend(rest);
                self.enter(Happening::Break { socket: mate, error: errno::ECONNRESET });
            }
        } else {
            end.write_shut = true;
            self.kick(socket);
        }
        // The other end may have waited for room here; now its bytes are answered with a reset.
        self.kick(self.sockets[socket].mate);
    }
}
