//! Batched datagram sockets: what came in one receive call, what goes out in one send call, and which datagrams
//! are answered at all.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::limits::Limits;
use crate::memory::block_bytes;
use crate::metrics::DropCause;
use crate::net::{Address, Peer};
use crate::prefix::PrefixBudget;
use crate::timer::Instant;

/// The largest datagram that UDP carries over IPv4, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// How many datagrams one system call receives or sends at most.
pub const BATCH_MAX: usize = 64;

/// A received datagram: [`Service::datagram`](crate::Service::datagram).
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: &'a Peer,
    /// Its bytes; may be empty.
    pub bytes: &'a [u8],
    /// Why an answer to it would be dropped, if it would.
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
pub(crate) const STRIDE: usize = (64 << 10) + 64;

/// The datagrams of one receive call, and the buffers that they are received into. The memory of a buffer is
/// touched only as far as the longest datagram that it held.
pub struct Inbound {
    buffer: Box<[u8]>,
    received: Vec<Received>,
    /// How many the next receive call may bring.
    wanted: usize,
}

impl Inbound {
    pub(crate) fn new() -> Inbound {
        Inbound {
            buffer: vec![0; STRIDE * BATCH_MAX].into(),
            received: Vec::with_capacity(BATCH_MAX),
            wanted: BATCH_MAX,
        }
    }

    /// Lets the next receive call bring up to `count` datagrams, [`BATCH_MAX`] at most.
    pub(crate) fn want(&mut self, count: usize) {
        self.wanted = count.min(BATCH_MAX);
    }

    /// The buffers for the next receive call, in order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.received.clear();
        self.buffer.chunks_exact_mut(STRIDE).take(self.wanted)
    }

    /// The memory of all [`BATCH_MAX`] buffers, which begin [`STRIDE`] bytes apart, for the next receive call, and how
    /// many of them it may fill.
    pub(crate) fn memory(&mut self) -> (&mut [u8], usize) {
        self.received.clear();
        (&mut self.buffer, self.wanted)
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

/// The memory that stays for the next datagrams, in bytes, and for how many of them.
const OUTBOUND_BYTES_KEPT: usize = 256 << 10;
const OUTBOUND_COUNT_KEPT: usize = 4 * BATCH_MAX;

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

impl Departure {
    /// Whether it may be part of one message with another before it.
    #[inline]
    fn follows(&self, head: &Departure) -> bool {
        self.len <= head.len && self.len > 0 && self.to == head.to && self.local == head.local
    }
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

    /// How many datagrams, from this one on, go to the same peer from the same address and are of the same size, up to
    /// `count_max` and to what one datagram may hold in all; the last may be shorter. One, where that is empty or larger
    /// than `bytes_max` says for the peer; it is asked only if there are several.
    #[inline]
    pub(crate) fn run(
        &self,
        first: usize,
        count_max: usize,
        bytes_max: impl FnOnce(&Peer) -> usize,
    ) -> usize {
        // As a rule the next one goes to somebody else.
        match self.departures.get(first..first + 2) {
            Some([head, next]) if next.follows(head) && head.len <= bytes_max(&head.to) => {
                self.run_of_several(first, count_max.min(DATAGRAM_BYTES_MAX / head.len))
            }
            _ => 1,
        }
    }

    #[inline(never)]
    fn run_of_several(&self, first: usize, count_max: usize) -> usize {
        let head = &self.departures[first];
        let mut count = 1;
        for next in self.departures[first + 1..].iter().take(count_max.saturating_sub(1)) {
            if !next.follows(head) {
                break;
            }
            count += 1;
            if next.len < head.len {
                break;
            }
        }
        count
    }

    /// The bytes of so many datagrams, which lie end to end.
    pub(crate) fn bytes_of_run(&self, first: usize, count: usize) -> &[u8] {
        let (head, last) = (&self.departures[first], &self.departures[first + count - 1]);
        &self.bytes[head.start..last.start + last.len]
    }

    pub(crate) fn push(&mut self, to: Peer, local: Option<IpAddr>, bytes: &[u8]) {
        self.departures.push(Departure { to, local, start: self.bytes.len(), len: bytes.len() });
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops all datagrams.
    pub(crate) fn clear(&mut self) {
        self.departures.clear();
        self.bytes.clear();
    }

    /// Drops the first `count` datagrams, which were sent or given up.
    pub(crate) fn advance(&mut self, count: usize) {
        self.departures.drain(..count);
        if self.departures.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(OUTBOUND_BYTES_KEPT);
            self.departures.shrink_to(OUTBOUND_COUNT_KEPT);
        }
    }

    /// The memory that it takes while datagrams wait, without their paths.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self.departures.is_empty() {
            true => 0,
            false => {
                block_bytes(self.bytes.capacity())
                    + block_bytes(self.departures.capacity() * size_of::<Departure>())
            }
        }
    }
}

/// Ports below this one belong to services of the system: what comes from there is no question, and an answer to it
/// would be taken for one.
const CLIENT_PORTS_MIN: u16 = 1024;

/// Which datagrams are not answered, so that answers cannot be turned into a weapon.
///
/// A source address is easily forged. An answer to a forged one is traffic that somebody else gets: a service, which
/// answers in its turn and so on for ever, or a network, which gets more of it than the forger could send. Time is an
/// argument here.
///
/// No datagram is answered whose source port is one that this reactor listens on, at whatever address: it may come from
/// another server that serves the same ports, on another machine or at another address of this one. Clients have ports that
/// the system chose for them.
pub(crate) struct ReplyPolicy {
    /// Sorted. Each port is there as often as it is listened on.
    own_ports: Vec<u16>,
    own_paths: Vec<PathBuf>,
    budget: Option<PrefixBudget>,
}

impl ReplyPolicy {
    pub fn new(limits: &Limits) -> ReplyPolicy {
        let budget = |replies_max| PrefixBudget::new(replies_max, limits.udp_prefixes_max);
        ReplyPolicy {
            own_ports: Vec::new(),
            own_paths: Vec::new(),
            budget: limits.udp_replies_per_prefix.map(budget),
        }
    }

    /// Remembers an address that this reactor listens on.
    pub fn add_address(&mut self, address: &Address) {
        match address {
            Address::Udp(at) => {
                let (Ok(place) | Err(place)) = self.own_ports.binary_search(&at.port());
                self.own_ports.insert(place, at.port());
            }
            Address::UnixDatagram(path) => self.own_paths.push(path.clone()),
            Address::Tcp(_) | Address::Unix(_) => {}
        }
    }

    /// Forgets an address that this reactor listened on.
    pub fn remove_address(&mut self, address: &Address) {
        match address {
            Address::Udp(at) => {
                if let Ok(place) = self.own_ports.binary_search(&at.port()) {
                    self.own_ports.remove(place);
                }
            }
            Address::UnixDatagram(path) => self.own_paths.retain(|own| own != path),
            Address::Tcp(_) | Address::Unix(_) => {}
        }
    }

    /// Why an answer to this datagram must be dropped, if so.
    #[inline]
    pub fn check(&self, received: &Received) -> Option<DropCause> {
        if received.to_many {
            return Some(DropCause::ToMany);
        }
        match &received.from {
            Peer::Inet(from) => {
                let looping =
                    from.port() < CLIENT_PORTS_MIN || self.own_ports.binary_search(&from.port()).is_ok();
                looping.then_some(DropCause::Loop)
            }
            Peer::Unix(Some(path)) if self.own_paths.contains(path) => Some(DropCause::Loop),
            // Sent to, it would be a file in our working directory, with our rights. A name that is no file begins with a NUL.
            Peer::Unix(Some(path)) => {
                let is_relative = !matches!(path.as_os_str().as_encoded_bytes(), [b'/' | 0, ..]);
                is_relative.then_some(DropCause::RelativePath)
            }
            Peer::Unix(None) => Some(DropCause::NoReturnAddress),
        }
    }

    /// Takes one reply from the budget of whoever it goes to.
    ///
    /// # Errors
    /// Why it must be dropped.
    #[inline]
    pub fn charge(&mut self, to: &Peer, now: Instant) -> Result<(), DropCause> {
        match (&mut self.budget, to) {
            (Some(budget), Peer::Inet(to)) if !to.ip().is_loopback() => budget.charge(to.ip(), now),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn policy(replies: Option<u32>, own: &[&str]) -> ReplyPolicy {
        let limits = Limits { udp_replies_per_prefix: replies, ..Limits::default() };
        let mut policy = ReplyPolicy::new(&limits);
        for own in own {
            policy.add_address(&Address::Udp(own.parse().unwrap()));
        }
        policy
    }

    fn inet(address: &str) -> Peer {
        Peer::Inet(address.parse().unwrap())
    }

    fn received(from: Peer) -> Received {
        Received { from, local: None, to_many: false, truncated: false, len: 0 }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn ordinary_sources_are_answered() {
        let policy = policy(None, &["0.0.0.0:7007", "[::]:8081", "10.0.0.1:9000"]);
        for from in ["10.1.2.3:40000", "127.0.0.1:1024", "[2001:db8::1]:65535", "10.0.0.2:9001"] {
            assert_eq!(policy.check(&received(inet(from))), None, "{from}");
        }
    }

    #[test]
    fn ports_of_the_system_are_not_answered() {
        let policy = policy(None, &[]);
        for from in ["10.1.2.3:0", "10.1.2.3:7", "10.1.2.3:1023", "[::1]:53"] {
            assert_eq!(policy.check(&received(inet(from))), Some(DropCause::Loop), "{from}");
        }
    }

    #[test]
    fn ports_that_we_listen_on_are_not_answered_at_any_address() {
        let mut policy = policy(None, &["127.0.0.1:7007", "[::1]:7007", "0.0.0.0:7008"]);
        for from in ["127.0.0.1:7007", "[::1]:7008", "127.0.0.2:7007", "10.0.0.1:7008", "[2001:db8::1]:7007"]
        {
            assert_eq!(policy.check(&received(inet(from))), Some(DropCause::Loop), "{from}");
        }
        // One of two sockets on a port is closed, then the other.
        let elsewhere = received(inet("10.0.0.1:7007"));
        policy.remove_address(&Address::Udp("[::1]:7007".parse().unwrap()));
        assert_eq!(policy.check(&elsewhere), Some(DropCause::Loop));
        policy.remove_address(&Address::Udp("127.0.0.1:7007".parse().unwrap()));
        assert_eq!(policy.check(&elsewhere), None);
        assert_eq!(policy.check(&received(inet("10.0.0.1:7008"))), Some(DropCause::Loop));
    }

    #[test]
    fn datagrams_to_many_are_not_answered() {
        let policy = policy(None, &[]);
        let to_many = Received { to_many: true, ..received(inet("10.0.0.1:40000")) };
        assert_eq!(policy.check(&to_many), Some(DropCause::ToMany));
    }

    #[test]
    fn unix_senders_need_a_name_that_is_not_ours() {
        let mut policy = policy(None, &[]);
        policy.add_address(&Address::UnixDatagram("/run/ours".into()));
        let check = |path: Option<&str>| policy.check(&received(Peer::Unix(path.map(Into::into))));
        assert_eq!(check(Some("/run/theirs")), None);
        assert_eq!(check(Some("\0theirs")), None);
        for relative in ["theirs", "./theirs", "../run/theirs", " /theirs"] {
            assert_eq!(check(Some(relative)), Some(DropCause::RelativePath), "{relative}");
        }
        assert_eq!(check(Some("/run/ours")), Some(DropCause::Loop));
        assert_eq!(check(None), Some(DropCause::NoReturnAddress));
    }

    #[test]
    fn loopback_and_unix_peers_have_no_budget() {
        let mut policy = policy(Some(0), &[]);
        for peer in [inet("127.0.0.1:1024"), inet("127.9.9.9:1024"), inet("[::1]:1024"), Peer::Unix(None)] {
            assert_eq!(policy.charge(&peer, at(0)), Ok(()), "{peer}");
        }
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut policy = policy(None, &[]);
        assert!((0..10_000).all(|_| policy.charge(&inet("10.0.0.1:1024"), at(0)).is_ok()));
    }
}
