//! Batched datagram sockets: what came in one receive call, what goes out in one send call, and which datagrams
//! are answered at all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::limits::Limits;
use crate::metrics::DropCause;
use crate::net::{Address, Peer};
use crate::timer::Instant;

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
    /// than `bytes_max`.
    #[inline]
    pub(crate) fn run(&self, first: usize, count_max: usize, bytes_max: usize) -> usize {
        // As a rule the next one goes to somebody else.
        match self.departures.get(first..first + 2) {
            Some([head, next]) if next.follows(head) && head.len <= bytes_max => {
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

    /// Drops the first `count` datagrams, which were sent or given up.
    pub(crate) fn advance(&mut self, count: usize) {
        self.departures.drain(..count);
        if self.departures.is_empty() {
            self.bytes.clear();
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
/// argument here, and what the system must be asked comes through a closure.
pub(crate) struct ReplyPolicy {
    /// The ports of `own`, sorted: nearly every source is ruled out by its port alone.
    own_ports: Vec<u16>,
    own: Vec<SocketAddr>,
    own_paths: Vec<PathBuf>,
    budget: Option<PrefixBudget>,
}

impl ReplyPolicy {
    pub fn new(limits: &Limits) -> ReplyPolicy {
        ReplyPolicy {
            own_ports: Vec::new(),
            own: Vec::new(),
            own_paths: Vec::new(),
            budget: limits.udp_replies_per_prefix.map(|replies_max| PrefixBudget {
                replies_max,
                prefixes_max: limits.udp_prefixes_max,
                second: 0,
                replies: HashMap::new(),
            }),
        }
    }

    /// Remembers an address that this reactor listens on.
    pub fn add_address(&mut self, address: &Address) {
        match address {
            Address::Udp(at) => {
                self.own.push(*at);
                if let Err(place) = self.own_ports.binary_search(&at.port()) {
                    self.own_ports.insert(place, at.port());
                }
            }
            Address::UnixDatagram(path) => self.own_paths.push(path.clone()),
            Address::Tcp(_) | Address::Unix(_) => {}
        }
    }

    /// Why an answer to this datagram must be dropped, if so. `is_local` says whether an address belongs to this
    /// machine; it is asked only where the port is one of our own.
    #[inline]
    pub fn check(&self, received: &Received, is_local: impl FnOnce(IpAddr) -> bool) -> Option<DropCause> {
        if received.to_many {
            return Some(DropCause::ToMany);
        }
        match &received.from {
            Peer::Inet(from) => {
                let looping = from.port() < CLIENT_PORTS_MIN
                    || (self.own_ports.binary_search(&from.port()).is_ok() && self.is_own(from, is_local));
                looping.then_some(DropCause::Loop)
            }
            Peer::Unix(Some(path)) => self.own_paths.contains(path).then_some(DropCause::Loop),
            Peer::Unix(None) => Some(DropCause::NoReturnAddress),
        }
    }

    #[cold]
    fn is_own(&self, from: &SocketAddr, is_local: impl FnOnce(IpAddr) -> bool) -> bool {
        let same_port = || self.own.iter().filter(|own| own.port() == from.port());
        // An address of IPv6 without one of IPv4 beside it serves both families when it is the wildcard.
        let wild = same_port().any(|own| own.ip().is_unspecified() && (own.is_ipv6() || from.is_ipv4()));
        same_port().any(|own| own.ip().to_canonical() == from.ip()) || (wild && is_local(from.ip()))
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

/// How many replies each source prefix has had in this second.
///
/// The table begins anew with every second, so that nothing has to be aged; its hash is keyed at random, so that
/// nobody can choose prefixes that collide. At its default bound it takes 2 MiB.
struct PrefixBudget {
    replies_max: u32,
    prefixes_max: usize,
    /// The second that `replies` counts, on the reactor's clock.
    second: u64,
    replies: HashMap<u64, u32>,
}

impl PrefixBudget {
    fn charge(&mut self, to: IpAddr, now: Instant) -> Result<(), DropCause> {
        let second = now.since_start().as_secs();
        if second != self.second {
            self.second = second;
            self.replies.clear();
        }
        let full = self.replies.len() >= self.prefixes_max;
        let count = match self.replies.entry(prefix(to)) {
            Entry::Occupied(count) => count.into_mut(),
            Entry::Vacant(_) if full => return Err(DropCause::PrefixTable),
            Entry::Vacant(place) => place.insert(0),
        };
        if *count >= self.replies_max {
            return Err(DropCause::PrefixBudget);
        }
        *count += 1;
        Ok(())
    }
}

/// What one customer of a network usually has: the /24 of an IPv4 address, the /56 of an IPv6 address, as numbers that
/// no prefix of the other family has.
fn prefix(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (1 << 56) | u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn policy(replies: Option<u32>, prefixes: usize, own: &[&str]) -> ReplyPolicy {
        let limits =
            Limits { udp_replies_per_prefix: replies, udp_prefixes_max: prefixes, ..Limits::default() };
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

    /// Nobody may ask the system: that is a system call for each datagram.
    fn unasked(ip: IpAddr) -> bool {
        panic!("the system was asked about {ip}")
    }

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn ordinary_sources_are_answered_without_asking_the_system() {
        let policy = policy(None, 0, &["0.0.0.0:7007", "[::]:8081", "10.0.0.1:9000"]);
        for from in ["10.1.2.3:40000", "127.0.0.1:1024", "[2001:db8::1]:65535", "10.0.0.2:9000"] {
            assert_eq!(policy.check(&received(inet(from)), unasked), None, "{from}");
        }
    }

    #[test]
    fn ports_of_the_system_are_not_answered() {
        let policy = policy(None, 0, &[]);
        for from in ["10.1.2.3:0", "10.1.2.3:7", "10.1.2.3:1023", "[::1]:53"] {
            assert_eq!(policy.check(&received(inet(from)), unasked), Some(DropCause::Loop), "{from}");
        }
    }

    #[test]
    fn our_own_addresses_are_not_answered() {
        let policy = policy(None, 0, &["127.0.0.1:7007", "[::1]:7007", "[::ffff:10.0.0.1]:7008"]);
        for from in ["127.0.0.1:7007", "[::1]:7007", "10.0.0.1:7008"] {
            assert_eq!(policy.check(&received(inet(from)), unasked), Some(DropCause::Loop), "{from}");
        }
        // Somebody else's service on the same port.
        for from in ["127.0.0.2:7007", "[2001:db8::1]:7007"] {
            assert_eq!(policy.check(&received(inet(from)), unasked), None, "{from}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_every_address_of_the_machine() {
        let local = |ip: IpAddr| ip.to_string() == "10.0.0.1" || ip.to_string() == "2001:db8::1";
        let four = policy(None, 0, &["0.0.0.0:7007"]);
        assert_eq!(four.check(&received(inet("10.0.0.1:7007")), local), Some(DropCause::Loop));
        assert_eq!(four.check(&received(inet("10.0.0.2:7007")), local), None);
        assert_eq!(four.check(&received(inet("[2001:db8::1]:7007")), unasked), None);
        let both = policy(None, 0, &["[::]:7007"]);
        assert_eq!(both.check(&received(inet("10.0.0.1:7007")), local), Some(DropCause::Loop));
        assert_eq!(both.check(&received(inet("[2001:db8::1]:7007")), local), Some(DropCause::Loop));
        assert_eq!(both.check(&received(inet("[2001:db8::2]:7007")), local), None);
    }

    #[test]
    fn datagrams_to_many_are_not_answered() {
        let policy = policy(None, 0, &[]);
        let to_many = Received { to_many: true, ..received(inet("10.0.0.1:40000")) };
        assert_eq!(policy.check(&to_many, unasked), Some(DropCause::ToMany));
    }

    #[test]
    fn unix_senders_need_a_name_that_is_not_ours() {
        let mut policy = policy(None, 0, &[]);
        policy.add_address(&Address::UnixDatagram("/run/ours".into()));
        let check = |path: Option<&str>| policy.check(&received(Peer::Unix(path.map(Into::into))), unasked);
        assert_eq!(check(Some("/run/theirs")), None);
        assert_eq!(check(Some("/run/ours")), Some(DropCause::Loop));
        assert_eq!(check(None), Some(DropCause::NoReturnAddress));
    }

    #[test]
    fn each_prefix_has_its_budget_in_each_second() {
        let mut policy = policy(Some(3), 100, &[]);
        let mut answered = |from: &str, millis: u64, tries: usize| {
            let charge = |_: &usize| policy.charge(&inet(from), at(millis)).is_ok();
            (0..tries).filter(charge).count()
        };
        // A /24 shares one budget, whoever asks in it, and so does a /56.
        assert_eq!(answered("10.0.0.1:1024", 0, 2), 2);
        assert_eq!(answered("10.0.0.255:1025", 999, 5), 1);
        assert_eq!(answered("10.0.1.0:1024", 999, 5), 3);
        assert_eq!(answered("[2001:db8:0:ff00::1]:1024", 999, 1), 1);
        assert_eq!(answered("[2001:db8:0:ffff::1]:1024", 999, 5), 2);
        assert_eq!(answered("[2001:db8:1:0::1]:1024", 999, 5), 3);
        // The next second begins exactly at its boundary, and nothing is saved up.
        assert_eq!(answered("10.0.0.1:1024", 1000, 5), 3);
        assert_eq!(answered("10.0.0.1:1024", 1999, 5), 0);
        assert_eq!(answered("10.0.0.1:1024", 7000, 5), 3);
        assert_eq!(policy.charge(&inet("10.0.0.1:1024"), at(7999)), Err(DropCause::PrefixBudget));
    }

    #[test]
    fn loopback_and_unix_peers_have_no_budget() {
        let mut policy = policy(Some(0), 0, &[]);
        for peer in [inet("127.0.0.1:1024"), inet("127.9.9.9:1024"), inet("[::1]:1024"), Peer::Unix(None)] {
            assert_eq!(policy.charge(&peer, at(0)), Ok(()), "{peer}");
        }
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut policy = policy(None, 0, &[]);
        assert!((0..10_000).all(|_| policy.charge(&inet("10.0.0.1:1024"), at(0)).is_ok()));
    }

    #[test]
    fn a_full_table_answers_those_that_it_has_and_empties_with_the_second() {
        let prefixes_max = 1000;
        let mut policy = policy(Some(2), prefixes_max, &[]);
        let peer = |n: u32| Peer::Inet(SocketAddr::new(std::net::Ipv4Addr::from_bits(n << 8).into(), 1024));
        let base = 10 << 16;
        let mut outcomes = HashMap::new();
        for n in base..base + 5000 {
            *outcomes.entry(policy.charge(&peer(n), at(500)).err().map(DropCause::name)).or_insert(0) += 1;
        }
        assert_eq!(outcomes, HashMap::from([(None, prefixes_max), (Some("prefix_table"), 4000)]));
        assert_eq!(policy.charge(&peer(base), at(600)), Ok(()));
        assert_eq!(policy.charge(&peer(base), at(600)), Err(DropCause::PrefixBudget));
        assert_eq!(policy.charge(&peer(base + 4999), at(999)), Err(DropCause::PrefixTable));
        assert_eq!(policy.charge(&peer(base + 4999), at(1000)), Ok(()));
        assert!(policy.budget.is_some_and(|budget| budget.replies.len() == 1));
    }
}
