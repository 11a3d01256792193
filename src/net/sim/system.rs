//! The simulated system itself: sockets, an epoll that is faithful to Linux's, time, and the network.
//!
//! Time is virtual. It passes in [`Net::poll`], up to the next thing that happens, and, when the faults say so, a
//! little with each system call. Every choice is drawn from the seed, and everything that happens is noted in the
//! trace.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::agenda::{Agenda, Arriving, Happening};
use super::errno;
use super::faults::Faults;
use super::peer::{PeerId, PeerState, PlayedPeer};
use super::random::Random;
use super::socket::{Owner, Socket};
use super::trace::Trace;
use crate::datagram::{BATCH_MAX, Inbound, Outbound, Received};
use crate::net::{Address, Flags, Net, Peer, Readiness, WAKER, Wake, Wire, source_token};
use crate::slots::ConnId;
use crate::timer::Instant;

/// The wall clock at the beginning: 2026-11-21 04:05:06 UTC.
const WALL_START: Duration = Duration::from_secs(1_795_233_906);

/// Datagrams that a socket holds until they are received; what comes then is dropped.
const DATAGRAMS_HELD_MAX: usize = 1024;

/// How long a connection attempt waits that met a full backlog.
const ATTEMPT_AGAIN: Duration = Duration::from_secs(1);

/// The first port that the system chooses by itself.
const FIRST_PORT: u16 = 32_768;

/// What is at an address that a service connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Somebody answers: a peer that the scenario plays.
    Answers,
    /// The machine is there but nobody listens.
    Refuses,
    /// No answer ever comes.
    Silent,
    /// There is no way to it: the attempt fails at once.
    Unreachable,
}

enum Source {
    Listener { address: Address, backlog: VecDeque<usize>, listed: bool },
    Datagram { address: Address, held: VecDeque<Arriving>, blocked: bool, wants_write: bool, listed: bool },
}

/// Who is on the list of what a poll may tell.
#[derive(Clone, Copy)]
enum Entry {
    Socket(usize),
    Source(u32),
}

/// An address that is not the reactor's, and who has come from there.
pub(super) struct Remote {
    pub address: Address,
    pub reach: Reach,
    pub callers: Vec<PeerId>,
}

/// The simulated system. [`Sim`](super::Sim) drives it together with a reactor.
pub struct SimNet {
    now_ns: u64,
    /// What the wall clock is ahead of its start and the monotonic clock; it may be behind.
    wall_ahead_ns: i128,
    pub(super) faults: Faults,
    random: Random,
    pub(super) trace: Trace,
    agenda: Agenda,
    sockets: Vec<Socket>,
    /// The reactor's connections, by slot.
    connections: Vec<Option<(ConnId, usize)>>,
    sources: Vec<Option<Source>>,
    listed: VecDeque<Entry>,
    /// Told by the next poll although it is not so.
    told: Vec<Readiness>,
    woken: Arc<AtomicBool>,
    descriptors: usize,
    pub(super) peers: Vec<PlayedPeer>,
    pub(super) remotes: Vec<Remote>,
    pub(super) replies: HashMap<Peer, Vec<Vec<u8>>>,
    next_port: u16,
    /// Things that moved: if a reactor turns without end and this stands still, it spins.
    pub(super) progress: u64,
}

struct SimWaker(Arc<AtomicBool>);

impl Wake for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

fn failed(error: i32) -> io::Error {
    io::Error::from_raw_os_error(error)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl SimNet {
    /// A system in which nothing is open, at time 0.
    pub fn new(seed: u64, faults: Faults) -> SimNet {
        SimNet {
            now_ns: 0,
            wall_ahead_ns: 0,
            faults,
            random: Random::new(seed),
            trace: Trace::new(),
            agenda: Agenda::default(),
            sockets: Vec::new(),
            connections: Vec::new(),
            sources: Vec::new(),
            listed: VecDeque::new(),
            told: Vec::new(),
            woken: Arc::default(),
            descriptors: 0,
            peers: Vec::new(),
            remotes: Vec::new(),
            replies: HashMap::new(),
            next_port: FIRST_PORT,
            progress: 0,
        }
    }

    /// Descriptors that are open: listeners, datagram sockets and connections.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Whether nothing is under way: without a deadline of the reactor nothing would ever happen again. A
    /// connection that waits to be accepted is under way, unless there is no descriptor for it.
    pub(super) fn is_quiet(&self) -> bool {
        let waits =
            |source: &Source| matches!(source, Source::Listener { backlog, .. } if !backlog.is_empty());
        (self.is_out_of_descriptors() || !self.sources.iter().flatten().any(waits)) && self.is_still()
    }

    /// Whether nothing will happen and there is nothing to tell.
    fn is_still(&self) -> bool {
        self.agenda.next_ns().is_none()
            && self.listed.is_empty()
            && self.told.is_empty()
            && !self.woken.load(Ordering::Acquire)
    }

    // ---- time ----

    pub(super) fn time(&self) -> Instant {
        Instant::from_start(Duration::from_nanos(self.now_ns))
    }

    /// Lets time pass without a turn of the reactor.
    pub(super) fn sleep(&mut self, duration: Duration) {
        self.pass_until(self.now_ns.saturating_add(nanos(duration)));
    }

    fn pass_until(&mut self, until_ns: u64) {
        while let Some(at_ns) = self.agenda.next_ns().filter(|&at_ns| at_ns <= until_ns) {
            self.now_ns = self.now_ns.max(at_ns);
            self.happen();
        }
        self.now_ns = self.now_ns.max(until_ns);
    }

    /// Everything that is due happens.
    fn happen(&mut self) {
        while let Some(happening) = self.agenda.pop_due(self.now_ns) {
            self.progress += 1;
            match happening {
                Happening::Attempt { socket, source } => self.attempt(socket, source),
                Happening::Decide { socket, established } => self.decide(socket, established),
                Happening::Carry { socket } => self.carry(socket),
                Happening::Break { socket, error } => self.break_off(socket, error),
                Happening::Unchoke { socket } => {
                    self.sockets[socket].choked = false;
                    self.tell_room(socket);
                    if let Owner::Peer(peer) = self.sockets[socket].owner {
                        self.attend_soon(peer);
                    }
                }
                Happening::Attend { peer } => self.attend(peer),
                Happening::Datagram { source, datagram } => self.hold_datagram(source, datagram),
                Happening::Reply { to, bytes } => {
                    self.note("reply arrives", 0, bytes.len());
                    self.replies.entry(to).or_default().push(bytes);
                }
                Happening::Unblock { source } => {
                    if let Some(Some(Source::Datagram { blocked, .. })) =
                        self.sources.get_mut(source as usize)
                    {
                        *blocked = false;
                        self.list_source(source);
                    }
                }
                Happening::Tell(readiness) => self.told.push(readiness),
            }
        }
    }

    fn enter(&mut self, happening: Happening) {
        let delay = self.delay_ns();
        self.agenda.enter(self.now_ns.saturating_add(delay), happening);
    }

    fn delay_ns(&mut self) -> u64 {
        nanos(Faults::DELAY_MIN) + self.random.below(nanos(self.faults.delay_max) as usize) as u64
    }

    pub(super) fn wall_time(&self) -> SystemTime {
        let at_ns = i128::from(nanos(WALL_START)) + i128::from(self.now_ns) + self.wall_ahead_ns;
        // A clock before 1970 or after 2554 is nobody's test.
        SystemTime::UNIX_EPOCH + Duration::from_nanos(at_ns.clamp(0, i128::from(u64::MAX)) as u64)
    }

    pub(super) fn step_wall(&mut self, seconds: i64) {
        self.wall_ahead_ns += i128::from(seconds) * 1_000_000_000;
        self.note("wall clock steps", 0, seconds as usize);
    }

    // ---- what every system call does ----

    /// Time passes, and the call may be interrupted.
    fn call(&mut self) -> io::Result<()> {
        let most = nanos(self.faults.call_time_max) as usize;
        if most > 0 {
            let until_ns = self.now_ns + self.random.below(most) as u64;
            self.pass_until(until_ns);
        }
        if self.random.chance(self.faults.interrupted) { Err(failed(errno::EINTR)) } else { Ok(()) }
    }

    fn note(&mut self, what: &'static str, subject: u64, amount: usize) {
        self.trace.note(self.now_ns, what, subject, amount as u64);
    }

    /// The name of a socket in the trace: the reactor's connection, or its index.
    fn subject(&self, socket: usize) -> u64 {
        match self.sockets[socket].owner {
            Owner::Reactor(id) => id.token(),
            _ => socket as u64,
        }
    }

    #[track_caller]
    fn socket_of(&self, id: ConnId) -> usize {
        match self.connections.get(id.slot()) {
            Some(&Some((owner, socket))) if owner == id => socket,
            _ => panic!("the reactor named connection {id}, which the system does not have"),
        }
    }

    #[track_caller]
    fn register(&mut self, id: ConnId, socket: usize, interest: Flags) {
        if id.slot() >= self.connections.len() {
            self.connections.resize(id.slot() + 1, None);
        }
        if let Some((old, _)) = self.connections[id.slot()].replace((id, socket)) {
            panic!("the reactor gave connection {id} the slot of {old}, which it has not closed");
        }
        self.descriptors += 1;
        self.sockets[socket].owner = Owner::Reactor(id);
        self.sockets[socket].interest = interest;
        self.list(socket);
    }

    fn is_out_of_descriptors(&self) -> bool {
        self.descriptors >= self.faults.descriptors_max
    }

    // ---- readiness ----

    /// Puts a socket on the list of what the next poll may tell: it looks there whether there is something to tell.
    fn list(&mut self, socket: usize) {
        let end = &mut self.sockets[socket];
        if matches!(end.owner, Owner::Reactor(_)) && !end.listed {
            end.listed = true;
            self.listed.push_back(Entry::Socket(socket));
        }
    }

    fn list_source(&mut self, source: u32) {
        let Some(Some(Source::Listener { listed, .. } | Source::Datagram { listed, .. })) =
            self.sources.get_mut(source as usize)
        else {
            return;
        };
        if !std::mem::replace(listed, true) {
            self.listed.push_back(Entry::Source(source));
        }
    }

    /// Something has come to read: told to those who want to hear of reading, and to peers.
    fn tell_readable(&mut self, socket: usize) {
        match self.sockets[socket].owner {
            Owner::Reactor(_) if self.sockets[socket].interest.intersects(Flags::READ) => self.list(socket),
            Owner::Peer(peer) => self.attend_soon(peer),
            _ => {}
        }
    }

    /// There is room to write again: told once to those who found none and want to hear of it.
    fn tell_room(&mut self, socket: usize) {
        let end = &mut self.sockets[socket];
        if end.no_space && end.is_writable() {
            end.no_space = false;
            if end.interest.intersects(Flags::WRITE) {
                self.list(socket);
            }
        }
    }

    /// Moves what is listed and true into `events`; what is edge-triggered is told once.
    fn harvest(&mut self, events: &mut Vec<Readiness>) {
        if self.faults.shuffled {
            for index in (1..self.listed.len()).rev() {
                let other = self.random.below(index + 1);
                self.listed.swap(index, other);
            }
        }
        while events.len() < self.faults.events_max {
            let Some(entry) = self.listed.pop_front() else { break };
            let readiness = match entry {
                Entry::Socket(socket) => {
                    let end = &mut self.sockets[socket];
                    end.listed = false;
                    let Owner::Reactor(id) = end.owner else { continue };
                    Readiness { token: id.token(), flags: end.readiness() }
                }
                Entry::Source(source) => {
                    Readiness { token: source_token(source), flags: self.source_readiness(source) }
                }
            };
            if readiness.flags != Flags::NONE {
                events.push(readiness);
                if self.random.chance(self.faults.doubled_event) {
                    self.told.push(readiness);
                }
            }
        }
        if !events.is_empty() {
            self.make_up(events);
        }
        events.append(&mut self.told);
    }

    fn source_readiness(&mut self, source: u32) -> Flags {
        match self.sources.get_mut(source as usize) {
            Some(Some(Source::Listener { backlog, listed, .. })) => {
                *listed = false;
                Flags::READ.when(!backlog.is_empty())
            }
            Some(Some(Source::Datagram { held, blocked, wants_write, listed, .. })) => {
                *listed = false;
                Flags::READ.when(!held.is_empty()) | Flags::WRITE.when(*wants_write && !*blocked)
            }
            _ => Flags::NONE,
        }
    }

    /// Tells something that did not happen.
    fn make_up(&mut self, events: &mut Vec<Readiness>) {
        if !self.random.chance(self.faults.spurious_event) || self.connections.is_empty() {
            return;
        }
        let index = self.random.below(self.connections.len());
        if let Some((id, _)) = self.connections[index] {
            let all = [Flags::READ, Flags::WRITE, Flags::READ_CLOSED, Flags::URGENT, Flags::ERROR];
            let mut flags = all[self.random.below(all.len())];
            flags |= all[self.random.below(all.len())];
            events.push(Readiness { token: id.token(), flags });
        }
    }

    // ---- the network ----

    /// What the sockets of a new connection hold: up to what the faults say, at least a byte.
    fn buffer_bytes(&mut self, max: usize) -> usize {
        if self.faults.shuffled { 1 + max / 2 + self.random.below(max / 2) } else { max.max(1) }
    }

    /// Both ends of a connection that is not established yet. Returns the index of the first; the other follows.
    fn pair(&mut self, owners: [Owner; 2], tcp: bool, addresses: [Peer; 2]) -> usize {
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
    fn attempt(&mut self, socket: usize, source: u32) {
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
    fn decide(&mut self, socket: usize, established: bool) {
        let mate = self.sockets[socket].mate;
        if self.sockets[socket].owner == Owner::Nobody {
            return;
        }
        self.note(if established { "established" } else { "refused" }, self.subject(socket), 0);
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
    fn kick(&mut self, socket: usize) {
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
    fn carry(&mut self, socket: usize) {
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
            self.note("segment to", self.subject(mate), count);
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
            self.note("end to", self.subject(mate), 0);
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
    fn set_urgent(&mut self, socket: usize, count: usize) {
        let end = &mut self.sockets[socket];
        end.urgent_at = Some(end.taken + (end.receive.len() - count) as u64);
        self.note("urgent to", self.subject(socket), count);
        // Urgent data is always of interest.
        self.list(socket);
    }

    /// The connection is over for this socket. What had arrived can still be read, as on Linux.
    fn break_off(&mut self, socket: usize, error: i32) {
        let end = &mut self.sockets[socket];
        if end.reset || end.owner == Owner::Nobody || end.vanished {
            return;
        }
        end.reset = true;
        end.error = Some(error);
        end.send.clear();
        self.note("broken for", self.subject(socket), 0);
        self.list(socket);
        if let Owner::Peer(peer) = self.sockets[socket].owner {
            self.attend_soon(peer);
        }
    }

    /// The owner of a socket closes it.
    fn close_socket(&mut self, socket: usize, reset: bool) {
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

    // ---- the peers ----

    fn peer_socket(&self, peer: PeerId) -> Option<usize> {
        let socket = self.peers[peer.0].socket;
        (self.sockets[socket].owner == Owner::Peer(peer)).then_some(socket)
    }

    /// A peer that begins to connect to a listener of the reactor.
    pub(super) fn connect_peer(&mut self, source: u32, from: Option<IpAddr>) -> PeerId {
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
        self.note("peer connects", peer.0 as u64, source as usize);
        self.enter(Happening::Attempt { socket, source });
        peer
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }

    pub(super) fn attend_soon(&mut self, peer: PeerId) {
        if !std::mem::replace(&mut self.peers[peer.0].attending, true) {
            self.enter(Happening::Attend { peer });
        }
    }

    /// A peer reads what has come, as far as it reads at all, and sends what it has to.
    fn attend(&mut self, id: PeerId) {
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
            self.note("peer reads", id.0 as u64, count);
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

    /// A peer closes its end, with a reset if asked for.
    pub(super) fn close_peer(&mut self, peer: PeerId, reset: bool) {
        let Some(socket) = self.peer_socket(peer) else { return };
        self.note("peer closes", peer.0 as u64, usize::from(reset));
        let played = &mut self.peers[peer.0];
        let end = &mut self.sockets[socket];
        played.state = if reset { PeerState::Reset } else { PeerState::Ended };
        if !reset {
            // What it wanted to say its system takes, however much that is.
            end.send.extend(played.to_send.drain(..));
        }
        played.to_send.clear();
        self.close_socket(socket, reset);
    }

    /// Nothing reaches a peer any more, and nothing comes from it.
    pub(super) fn cut_off(&mut self, peer: PeerId) {
        let socket = self.peers[peer.0].socket;
        let mate = self.sockets[socket].mate;
        self.note("cut off", peer.0 as u64, 0);
        self.sockets[socket].vanished = true;
        self.sockets[mate].vanished = true;
    }

    /// An urgent byte of a peer arrives now, behind what has arrived.
    pub(super) fn urge(&mut self, peer: PeerId) {
        let mate = self.sockets[self.peers[peer.0].socket].mate;
        let end = &self.sockets[mate];
        if end.tcp && end.established && end.urgent_at.is_none() {
            self.set_urgent(mate, 0);
        }
    }

    // ---- datagrams ----

    pub(super) fn send_datagram(&mut self, source: u32, from: Peer, to_many: bool, bytes: &[u8]) {
        self.note("datagram sent", u64::from(source), bytes.len());
        let copies = self.copies();
        for _ in 0..copies {
            let datagram = Arriving { from: from.clone(), to_many, bytes: bytes.to_vec() };
            self.enter(Happening::Datagram { source, datagram });
        }
    }

    /// How often a datagram arrives.
    fn copies(&mut self) -> usize {
        if self.random.chance(self.faults.datagram_lost) {
            0
        } else {
            1 + usize::from(self.random.chance(self.faults.datagram_doubled))
        }
    }

    fn hold_datagram(&mut self, index: u32, datagram: Arriving) {
        let bytes = datagram.bytes.len();
        if let Some(Some(Source::Datagram { held, .. })) = self.sources.get_mut(index as usize)
            && held.len() < DATAGRAMS_HELD_MAX
        {
            held.push_back(datagram);
            self.note("datagram arrives", u64::from(index), bytes);
            self.list_source(index);
        }
    }

    fn bound_to(&self, address: &Address) -> Option<u32> {
        self.sources
            .iter()
            .position(|source| match source {
                Some(Source::Listener { address: bound, .. } | Source::Datagram { address: bound, .. }) => {
                    bound == address
                }
                None => false,
            })
            .map(|index| index as u32)
    }

    fn write_some(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket_of(id);
        self.call()?;
        let mut room = match self.sockets[socket].writable() {
            Ok(room) => room,
            Err(error) => {
                self.sockets[socket].no_space |= error == errno::EAGAIN;
                self.note("write fails", id.token(), error as usize);
                return Err(failed(error));
            }
        };
        let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        let stuck = self.random.chance(self.faults.would_block);
        if stuck || self.random.chance(self.faults.short_write) {
            // Short is less than what it would be, but something.
            let most = offered.min(room);
            room = if stuck { 0 } else { 1 + self.random.below(most.saturating_sub(1)) };
            self.sockets[socket].choked = true;
            self.enter(Happening::Unchoke { socket });
        }
        let count = offered.min(room);
        let end = &mut self.sockets[socket];
        end.no_space |= count < offered;
        let mut left = count;
        for piece in pieces {
            let taken = piece.len().min(left);
            end.send.extend(&piece[..taken]);
            left -= taken;
        }
        self.note("write", id.token(), count);
        if count == 0 {
            return Err(failed(errno::EAGAIN));
        }
        self.progress += 1;
        self.kick(socket);
        Ok(count)
    }
}

impl Wire for SimNet {
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        self.write_some(id, &[IoSlice::new(bytes)])
    }

    fn now(&self) -> Instant {
        self.time()
    }

    fn wall(&self) -> SystemTime {
        self.wall_time()
    }
}

impl Net for SimNet {
    type Events = Vec<Readiness>;
    type Readiness<'a> = std::iter::Copied<std::slice::Iter<'a, Readiness>>;

    /// Without a `max_wait`, and with nothing that could ever happen, it returns no events.
    fn events(&self) -> Vec<Readiness> {
        Vec::new()
    }

    fn wait(&mut self, events: &mut Vec<Readiness>, max_wait: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut until_ns = max_wait.map(|wait| self.now_ns.saturating_add(nanos(wait)));
        let was_still = self.is_still();
        if self.call().is_err() {
            self.note("poll interrupted", 0, 0);
            until_ns = Some(0);
        }
        loop {
            self.happen();
            if self.woken.swap(false, Ordering::AcqRel) {
                events.push(Readiness { token: WAKER, flags: Flags::READ });
            }
            self.harvest(events);
            if !events.is_empty() {
                break;
            }
            match self.agenda.next_ns() {
                Some(at_ns) if until_ns.is_none_or(|until_ns| at_ns <= until_ns) => {
                    self.now_ns = self.now_ns.max(at_ns);
                }
                // As after an interruption: whoever drives the simulation wants to see that the network has
                // become quiet before anything waits for a deadline.
                None if !was_still => break,
                _ => {
                    self.now_ns = self.now_ns.max(until_ns.unwrap_or(0));
                    break;
                }
            }
        }
        self.note("poll", 0, events.len());
        for event in events.iter() {
            self.note("event", event.token, usize::from(event.flags.0));
        }
        Ok(())
    }

    fn readiness(events: &Vec<Readiness>) -> Self::Readiness<'_> {
        events.iter().copied()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker(self.woken.clone()))
    }

    fn listen(&mut self, source: u32, address: &Address, reuse_port: bool) -> io::Result<Address> {
        if self.is_out_of_descriptors() {
            return Err(failed(errno::EMFILE));
        }
        let mut bound = address.clone();
        if let Address::Tcp(at) | Address::Udp(at) = &mut bound
            && at.port() == 0
        {
            at.set_port(self.port());
        }
        if !reuse_port && self.bound_to(&bound).is_some() {
            return Err(failed(errno::EADDRINUSE));
        }
        if source as usize >= self.sources.len() {
            self.sources.resize_with(source as usize + 1, || None);
        }
        let address = bound.clone();
        self.sources[source as usize] = Some(if address.is_stream() {
            Source::Listener { address, backlog: VecDeque::new(), listed: false }
        } else {
            Source::Datagram {
                address,
                held: VecDeque::new(),
                blocked: false,
                wants_write: false,
                listed: false,
            }
        });
        self.descriptors += 1;
        self.note("listen", u64::from(source), 0);
        Ok(bound)
    }

    fn unlisten(&mut self, source: u32) {
        let closed = self.sources[source as usize].take();
        assert!(closed.is_some(), "the reactor closed source {source} twice");
        self.descriptors -= 1;
        self.note("unlisten", u64::from(source), 0);
        if let Some(Source::Listener { backlog, .. }) = closed {
            for socket in backlog {
                self.close_socket(socket, true);
            }
        }
        if self.random.chance(self.faults.stale_event) {
            self.enter(Happening::Tell(Readiness { token: source_token(source), flags: Flags::READ }));
        }
    }

    fn accept(&mut self, source: u32, id: ConnId) -> io::Result<Peer> {
        self.call()?;
        // Linux looks for a descriptor first, whether or not somebody waits.
        if self.is_out_of_descriptors() {
            self.note("accept: EMFILE", u64::from(source), 0);
            return Err(failed(errno::EMFILE));
        }
        let Some(Some(Source::Listener { backlog, .. })) = self.sources.get_mut(source as usize) else {
            panic!("the reactor accepted from source {source}, which is not a listener that is open");
        };
        if backlog.is_empty() {
            return Err(failed(errno::EAGAIN));
        }
        if self.random.chance(self.faults.accept_exhausted) {
            let errors = [errno::ENFILE, errno::ENOBUFS, errno::ENOMEM];
            let error = errors[self.random.below(errors.len())];
            self.note("accept fails", u64::from(source), error as usize);
            return Err(failed(error));
        }
        let socket = backlog.pop_front().expect("it was looked at above");
        self.progress += 1;
        if self.random.chance(self.faults.accept_aborted) {
            self.note("accept: aborted", u64::from(source), 0);
            self.close_socket(socket, true);
            return Err(failed(errno::ECONNABORTED));
        }
        self.register(id, socket, Flags::READ);
        self.note("accept", id.token(), source as usize);
        Ok(self.sockets[socket].far.clone())
    }

    fn connect(&mut self, address: &Address, id: ConnId) -> io::Result<()> {
        let (near, far, tcp) = match address {
            Address::Tcp(at) => {
                let own = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
                (Peer::Inet(own), Peer::Inet(*at), true)
            }
            Address::Unix(path) => (Peer::Unix(None), Peer::Unix(Some(path.clone())), false),
            Address::Udp(_) | Address::UnixDatagram(_) => return Err(failed(errno::EINVAL)),
        };
        if self.is_out_of_descriptors() {
            return Err(failed(errno::EMFILE));
        }
        let own_listener = self.bound_to(address);
        let remote = self.remotes.iter().position(|remote| remote.address == *address);
        let reach = match remote {
            _ if own_listener.is_some() => Reach::Answers,
            Some(index) => self.remotes[index].reach,
            None => Reach::Refuses,
        };
        if reach == Reach::Unreachable {
            return Err(failed(errno::ENETUNREACH));
        }
        if reach == Reach::Refuses && !tcp {
            return Err(failed(errno::ECONNREFUSED));
        }
        let answering = match own_listener {
            Some(_) => Owner::Backlog,
            None if reach == Reach::Answers => Owner::Peer(PeerId(self.peers.len())),
            None => Owner::Nobody,
        };
        let socket = self.pair([Owner::Nobody, answering], tcp, [near, far]);
        if let Owner::Peer(peer) = answering {
            self.peers.push(PlayedPeer::new(socket + 1));
            if let Some(index) = remote {
                self.remotes[index].callers.push(peer);
            }
        }
        self.register(id, socket, Flags::WRITE);
        self.note("connect", id.token(), 0);
        match (own_listener, reach) {
            (Some(source), _) => self.enter(Happening::Attempt { socket, source }),
            (None, Reach::Answers) => self.enter(Happening::Decide { socket, established: true }),
            (None, Reach::Refuses) => self.enter(Happening::Decide { socket, established: false }),
            (None, Reach::Silent | Reach::Unreachable) => {}
        }
        Ok(())
    }

    fn connected(&mut self, id: ConnId) -> io::Result<Option<Peer>> {
        let socket = self.socket_of(id);
        let end = &mut self.sockets[socket];
        if let Some(error) = end.error.take() {
            return Err(failed(error));
        }
        Ok(end.established.then(|| end.far.clone()))
    }

    fn rearm(&mut self, id: ConnId, interest: Flags) -> io::Result<()> {
        let socket = self.socket_of(id);
        if self.random.chance(self.faults.rearm_failed) {
            return Err(failed(errno::ENOMEM));
        }
        self.sockets[socket].interest = interest;
        self.note("rearm", id.token(), usize::from(interest.0));
        self.list(socket);
        Ok(())
    }

    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket_of(id);
        self.call()?;
        let end = &mut self.sockets[socket];
        let mut count = match end.readable(buffer.len()) {
            Ok(count) => count,
            Err(error) => {
                self.note("read fails", id.token(), error as usize);
                return Err(failed(error));
            }
        };
        if !end.tcp && count > 1 && self.random.chance(self.faults.short_read) {
            count = 1 + self.random.below(count - 1);
        }
        self.sockets[socket].take(&mut buffer[..count]);
        self.progress += 1;
        self.note("read", id.token(), count);
        self.kick(self.sockets[socket].mate);
        Ok(count)
    }

    fn write_vectored(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_some(id, pieces)
    }

    fn take_error(&mut self, id: ConnId) -> Option<io::Error> {
        let socket = self.socket_of(id);
        self.sockets[socket].error.take().map(failed)
    }

    fn shutdown_write(&mut self, id: ConnId) {
        let socket = self.socket_of(id);
        self.sockets[socket].write_shut = true;
        self.note("shutdown", id.token(), 0);
        self.kick(socket);
    }

    fn close(&mut self, id: ConnId, reset: bool) {
        // An outgoing connection that failed at once, or was given up before it began, has nothing to close.
        let Some(&Some((owner, socket))) = self.connections.get(id.slot()) else { return };
        assert_eq!(owner, id, "the reactor closed a connection that the system does not have");
        self.connections[id.slot()] = None;
        self.descriptors -= 1;
        self.progress += 1;
        self.note("close", id.token(), usize::from(reset));
        self.close_socket(socket, reset);
        if self.random.chance(self.faults.stale_event) {
            let all = [Flags::READ, Flags::WRITE, Flags::READ | Flags::READ_CLOSED, Flags::ERROR];
            let flags = all[self.random.below(all.len())];
            self.enter(Happening::Tell(Readiness { token: id.token(), flags }));
        }
    }

    fn receive(&mut self, source: u32, batch: &mut Inbound) -> io::Result<usize> {
        self.call()?;
        if self.random.chance(self.faults.datagram_error) {
            self.note("receive fails", u64::from(source), 0);
            return Err(failed(errno::ECONNREFUSED));
        }
        let Some(Some(Source::Datagram { held, .. })) = self.sources.get_mut(source as usize) else {
            panic!("the reactor received from source {source}, which is not a datagram socket that is open");
        };
        let count = held.len().min(BATCH_MAX);
        if count == 0 {
            return Err(failed(errno::EAGAIN));
        }
        let mut received = Vec::with_capacity(count);
        for (datagram, buffer) in held.drain(..count).zip(batch.buffers()) {
            let len = datagram.bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram.bytes[..len]);
            received.push(Received {
                from: datagram.from,
                local: None,
                to_many: datagram.to_many,
                truncated: len < datagram.bytes.len(),
                len,
            });
        }
        received.into_iter().for_each(|datagram| batch.push(datagram));
        self.progress += 1;
        self.note("receive", u64::from(source), count);
        Ok(count)
    }

    fn transmit(&mut self, source: u32, batch: &Outbound, first: usize) -> io::Result<usize> {
        self.call()?;
        let Some(Some(Source::Datagram { blocked, address, .. })) = self.sources.get_mut(source as usize)
        else {
            panic!("the reactor sent from source {source}, which is not a datagram socket that is open");
        };
        if *blocked {
            return Err(failed(errno::EAGAIN));
        }
        let own = match address {
            Address::Tcp(at) | Address::Udp(at) => Peer::Inet(*at),
            Address::Unix(path) | Address::UnixDatagram(path) => Peer::Unix(Some(path.clone())),
        };
        let udp = matches!(own, Peer::Inet(_));
        if self.random.chance(self.faults.datagram_would_block) {
            *blocked = true;
            self.enter(Happening::Unblock { source });
            return Err(failed(errno::EAGAIN));
        }
        if self.random.chance(self.faults.datagram_error) {
            return Err(failed(errno::ENOBUFS));
        }
        let waiting = batch.len() - first;
        let count = if self.faults.shuffled { 1 + self.random.below(waiting) } else { waiting };
        for index in first..first + count {
            let (departure, bytes) = batch.get(index);
            let to = match &departure.to {
                Peer::Inet(at) if udp => Address::Udp(*at),
                Peer::Unix(Some(path)) if !udp => Address::UnixDatagram(path.clone()),
                // What went out before it counts; it will be met first in the next call.
                _ if index > first => return Ok(index - first),
                _ => return Err(failed(errno::EINVAL)),
            };
            let copies = self.copies();
            for _ in 0..copies {
                let bytes = bytes.to_vec();
                match self.bound_to(&to) {
                    Some(source) => {
                        let datagram = Arriving { from: own.clone(), to_many: false, bytes };
                        self.enter(Happening::Datagram { source, datagram });
                    }
                    None => self.enter(Happening::Reply { to: departure.to.clone(), bytes }),
                }
            }
        }
        self.progress += 1;
        self.note("transmit", u64::from(source), count);
        Ok(count)
    }

    fn rearm_datagram(&mut self, source: u32, write: bool) -> io::Result<()> {
        if let Some(Some(Source::Datagram { wants_write, .. })) = self.sources.get_mut(source as usize) {
            *wants_write = write;
        }
        self.list_source(source);
        Ok(())
    }

    fn is_local(&mut self, ip: IpAddr) -> bool {
        ip.is_loopback()
            || self.sources.iter().flatten().any(|source| match source {
                Source::Listener { address, .. } | Source::Datagram { address, .. } => match address {
                    Address::Tcp(at) | Address::Udp(at) => at.ip() == ip,
                    Address::Unix(_) | Address::UnixDatagram(_) => false,
                },
            })
    }
}
