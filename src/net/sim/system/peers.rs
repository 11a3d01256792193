//! The peers' half of the connections: how the peers that a scenario plays connect, read, send and leave.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{SimNet, Source, nanos};
use crate::net::sim::agenda::Happening;
use crate::net::sim::peer::{PeerId, PeerState, PlayedPeer};
use crate::net::sim::socket::Owner;
use crate::net::sim::trace::Detail;
use crate::net::{Address, Peer};

impl SimNet {
    /// A peer that begins to connect to a listener of the reactor.
    pub(in crate::net::sim) fn connect_peer(&mut self, source: u32, from: Option<IpAddr>) -> PeerId {
        let peer = PeerId(self.peers.len());
        let (near, far, tcp) = match &self.sources[source as usize] {
            Some(Source::Listener { address: Address::Tcp(at), .. }) => {
                // Every peer has an address of its own unless it is told one.
                let own = IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + peer.0 as u32));
                let at = *at;
                (Peer::Inet(SocketAddr::new(from.unwrap_or(own), self.port())), Peer::Inet(at), true)
            }
            Some(Source::Listener { address: Address::Unix(path), .. }) => {
                (Peer::Unix(None), Peer::Unix(Some(path.clone())), false)
            }
            _ => panic!("peers connect to stream listeners that are open"),
        };
        let socket = self.pair([Owner::Peer(peer), Owner::Backlog], tcp, [near, far]);
        self.peers.push(PlayedPeer::new(socket));
        self.note("peer connects", peer, Detail::Source(source));
        self.enter(Happening::Attempt { socket, source });
        peer
    }

    pub(in crate::net::sim) fn attend_soon(&mut self, peer: PeerId) {
        if !std::mem::replace(&mut self.peers[peer.0].attending, true) {
            self.enter(Happening::Attend { peer });
        }
    }

    /// A peer reads what has come, as far as it reads at all, and sends what it has to.
    pub(super) fn attend(&mut self, id: PeerId) {
        let peer = &mut self.peers[id.0];
        peer.attending = false;
        let end = &mut self.sockets[peer.socket];
        if end.owner != Owner::Peer(id) || !end.established {
            return;
        }
        let socket = peer.socket;
        if peer.reads && !end.receive.is_empty() {
            let count = peer.pace.map_or(usize::MAX, |(most, _)| most).min(end.receive.len());
            peer.received.extend(end.receive.drain(..count));
            end.taken += count as u64;
            end.urgent_at = None;
            if let Some((_, rest)) = peer.pace {
                peer.attending = true;
                self.agenda.enter(self.now_ns + nanos(rest), Happening::Attend { peer: id });
            }
            self.note("peer reads", id, Detail::Bytes(count));
        }
        let peer = &mut self.peers[id.0];
        let end = &mut self.sockets[socket];
        if end.receive.is_empty() && peer.reads {
            if end.reset {
                peer.state = PeerState::Reset;
            } else if end.fin_arrived && peer.state == PeerState::Open {
                peer.state = PeerState::Ended;
                peer.finishes |= !peer.stays;
            }
        }
        if end.reset {
            if end.receive.is_empty() {
                end.owner = Owner::Nobody;
            }
            return;
        }
        let count = end.send_room().min(peer.to_send.len());
        end.send.extend(peer.to_send.drain(..count));
        if peer.to_send.is_empty() && peer.finishes {
            end.write_shut = true;
        }
        self.kick(socket);
        self.kick(self.sockets[socket].mate);
    }

    /// A peer closes its end, with a reset if asked for. Returns whether it had one.
    pub(in crate::net::sim) fn close_peer(&mut self, peer: PeerId, reset: bool) -> bool {
        let Some(socket) = self.peer_socket(peer) else { return false };
        self.note("peer closes", peer, Detail::Reset(reset));
        let played = &mut self.peers[peer.0];
        let end = &mut self.sockets[socket];
        played.state = if reset { PeerState::Reset } else { PeerState::Ended };
        if !reset {
            // What it wanted to say its system takes, however much that is.
            end.send.extend(played.to_send.drain(..));
        }
        played.to_send.clear();
        self.close_socket(socket, reset);
        true
    }

    /// Why a peer can send no more, if it cannot.
    pub(in crate::net::sim) fn sends_no_more(&self, peer: PeerId) -> Option<&'static str> {
        match self.peers[peer.0].state {
            PeerState::Refused => Some("nobody listens where it connected to"),
            PeerState::Reset => Some("its connection is broken"),
            _ if self.peer_socket(peer).is_none() => Some("it has closed its connection"),
            _ if self.peers[peer.0].finishes => Some(
                "it has ended its side: it was told to, or the server has ended the other (see Sim::stay)",
            ),
            _ => None,
        }
    }

    /// Why a peer has no connection any more, if it has none.
    pub(in crate::net::sim) fn is_gone(&self, peer: PeerId) -> Option<&'static str> {
        self.sends_no_more(peer)
            .filter(|_| self.peer_socket(peer).is_none() || self.peers[peer.0].state == PeerState::Reset)
    }

    fn peer_socket(&self, peer: PeerId) -> Option<usize> {
        let socket = self.peers[peer.0].socket;
        (self.sockets[socket].owner == Owner::Peer(peer)).then_some(socket)
    }

    /// Nothing reaches a peer any more, and nothing comes from it.
    pub(in crate::net::sim) fn cut_off(&mut self, peer: PeerId) {
        let socket = self.peers[peer.0].socket;
        let mate = self.sockets[socket].mate;
        self.note("cut off", peer, Detail::Nothing);
        self.sockets[socket].vanished = true;
        self.sockets[mate].vanished = true;
    }

    /// An urgent byte of a peer arrives now, behind what has arrived. Returns whether there is a connection for it.
    pub(in crate::net::sim) fn urge(&mut self, peer: PeerId) -> bool {
        let mate = self.sockets[self.peers[peer.0].socket].mate;
        let end = &self.sockets[mate];
        let can = end.tcp && end.established;
        if can && end.urgent_at.is_none() {
            self.set_urgent(mate, 0);
        }
        can
    }
}
