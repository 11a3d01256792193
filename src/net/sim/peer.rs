//! The peers of a scenario: what they still have to send, and what they have received.

use std::collections::VecDeque;
use std::time::Duration;

/// A peer of a simulation: the other end of one stream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(super) usize);

/// The state of a connection as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// It is not established yet.
    Connecting,
    /// It is established.
    Open,
    /// The server has ended its side, and the peer has read everything up to there.
    Ended,
    /// It broke: the server reset it, the network did, or the peer itself.
    Reset,
    /// Nobody listens there.
    Refused,
}

pub(super) struct PlayedPeer {
    pub socket: usize,
    pub state: PeerState,
    /// What it wants to send and its system has not taken yet.
    pub to_send: VecDeque<u8>,
    /// It ends its side once everything is sent.
    pub finishes: bool,
    /// It does not end its side when the server ends the other.
    pub stays: bool,
    pub reads: bool,
    /// It reads so many bytes at most and then rests for so long.
    pub pace: Option<(usize, Duration)>,
    pub received: Vec<u8>,
    /// An [`Attend`](super::agenda::Happening::Attend) is entered.
    pub attending: bool,
}

impl PlayedPeer {
    pub fn new(socket: usize) -> PlayedPeer {
        PlayedPeer {
            socket,
            state: PeerState::Connecting,
            to_send: VecDeque::new(),
            finishes: false,
            stays: false,
            reads: true,
            pace: None,
            received: Vec::new(),
            attending: false,
        }
    }
}
