//! What is going to happen in a simulation, in order of time.

use std::collections::BTreeMap;

use super::peer::PeerId;
use crate::net::{Peer, Readiness};

/// Something that will happen. Sockets are named by their index, listeners and datagram sockets by theirs.
pub(super) enum Happening {
    /// A connection attempt reaches a listener.
    Attempt { socket: usize, source: u32 },
    /// An outgoing connection attempt is answered.
    Decide { socket: usize, established: bool },
    /// What a socket has to send arrives at the other end, as far as one segment goes.
    Carry { socket: usize },
    /// The connection ends for this socket with an error.
    Break { socket: usize, error: i32 },
    /// A send buffer has room again.
    Unchoke { socket: usize },
    /// A peer looks after its socket: reads what has come, sends what waits.
    Attend { peer: PeerId },
    /// A datagram arrives at a datagram socket.
    Datagram { source: u32, datagram: Arriving },
    /// A datagram arrives at a peer.
    Reply { to: Peer, bytes: Vec<u8> },
    /// A datagram socket has room again.
    Unblock { source: u32 },
    /// A poll tells something that is not so, or no more.
    Tell(Readiness),
}

/// A datagram for the reactor.
pub(super) struct Arriving {
    pub from: Peer,
    pub to_many: bool,
    pub bytes: Vec<u8>,
}

/// What is going to happen. Of two things at the same time the one that was entered first comes first.
#[derive(Default)]
pub(super) struct Agenda {
    entries: BTreeMap<(u64, u64), Happening>,
    entered: u64,
}

impl Agenda {
    pub fn enter(&mut self, at_ns: u64, happening: Happening) {
        self.entries.insert((at_ns, self.entered), happening);
        self.entered += 1;
    }

    /// When the next thing happens.
    pub fn next_ns(&self) -> Option<u64> {
        self.entries.first_key_value().map(|(&(at_ns, _), _)| at_ns)
    }

    /// Takes out the next thing that happens until `now_ns`.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Happening> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.entries.pop_first().map(|(_, happening)| happening)
    }
}
