//! The simulated system itself: sockets, an epoll that is faithful to Linux's, time, and the network.
//!
//! Here is what it is made of, how its time passes and what happens then; below it are the system calls, the
//! readiness list, the network, the peers and the datagrams.
//!
//! Time is virtual. It passes in [`Net::wait`](crate::net::Net::wait), up to the next thing that happens, and, when
//! the faults say so, a little with each system call. Every choice is drawn from the seed, and everything that
//! happens is noted in the trace.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use self::readiness::Entry;
use self::work::Work;
use super::agenda::{Agenda, Arriving, Happening};
use super::faults::Faults;
use super::peer::{PeerId, PlayedPeer};
use super::random::Random;
use super::socket::{Owner, Socket};
use super::trace::{Detail, Subject, Trace};
use crate::net::{Address, Flags, Peer, Readiness, source_token};
use crate::slots::ConnId;
use crate::timer::Instant;

mod calls;
mod datagrams;
mod network;
mod peers;
mod readiness;
mod work;

/// The wall clock at the beginning: 2026-11-21 04:05:06 UTC.
const WALL_START: Duration = Duration::from_secs(1_795_233_906);

/// The first port that the system chooses by itself.
const FIRST_PORT: u16 = 32_768;

/// What happens when a service connects to an address: [`Sim::remote`](super::Sim::remote).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// A peer of the scenario accepts the connection: [`Sim::callers`](super::Sim::callers).
    Answers,
    /// The connection is refused: nobody listens there.
    Refuses,
    /// Nothing is ever answered.
    Silent,
    /// There is no route: the attempt fails at once.
    Unreachable,
}

enum Source {
    Listener { address: Address, backlog: VecDeque<usize>, listed: bool },
    Datagram { address: Address, held: VecDeque<Arriving>, blocked: bool, wants_write: bool, listed: bool },
}

/// An address that is not the reactor's, and who has come from there.
pub(super) struct Remote {
    pub address: Address,
    pub reach: Reach,
    pub callers: Vec<PeerId>,
}

/// A call that fails so many times more.
#[derive(Clone, Copy, Default)]
pub(super) struct Failing {
    pub error: i32,
    pub times: u64,
}

impl Failing {
    /// Whether the call fails this time.
    fn fails(&mut self) -> io::Result<()> {
        if self.times == 0 {
            return Ok(());
        }
        self.times -= 1;
        Err(failed(self.error))
    }
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
    /// By source.
    failing_sources: HashMap<u32, Failing>,
    pub(super) failing_waits: Failing,
    listed: VecDeque<Entry>,
    /// Told by the next poll although it is not so.
    told: Vec<Readiness>,
    woken: Arc<AtomicBool>,
    /// When the reactor's alarm is to be reported.
    pub(super) alarm_ns: Option<u64>,
    descriptors: usize,
    pub(super) peers: Vec<PlayedPeer>,
    pub(super) remotes: Vec<Remote>,
    pub(super) replies: HashMap<Peer, Vec<Vec<u8>>>,
    next_port: u16,
    work: Work,
    /// Which turns are checked to the end. Its own source of chance: what is checked changes nothing that happens.
    sampler: Random,
    /// Things that moved: if a reactor turns without end and this stands still, it spins.
    pub(super) progress: u64,
}

thread_local! {
    static RUNNING: Cell<Running> = const { Cell::new(Running::Test) };
}

/// What is running on a thread; [`running`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Running {
    /// The test, and everything outside of a simulation.
    Test,
    /// A turn of a simulated reactor: the engine, and the services that it calls.
    Reactor,
    /// The simulated system, in a system call of the reactor.
    System,
}

/// What is running on this thread. With it an allocator of a test counts the memory of the engine apart from that of the
/// simulation.
pub fn running() -> Running {
    RUNNING.try_with(Cell::get).unwrap_or(Running::Test)
}

/// While there is one, this is running.
pub(super) struct While {
    before: Running,
}

impl While {
    pub fn begin(what: Running) -> While {
        While { before: RUNNING.replace(what) }
    }
}

impl Drop for While {
    fn drop(&mut self) {
        RUNNING.set(self.before);
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
            work: Work::default(),
            sampler: Random::new(!seed),
            trace: Trace::new(),
            agenda: Agenda::default(),
            sockets: Vec::new(),
            connections: Vec::new(),
            sources: Vec::new(),
            failing_sources: HashMap::new(),
            failing_waits: Failing::default(),
            listed: VecDeque::new(),
            told: Vec::new(),
            woken: Arc::default(),
            alarm_ns: None,
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

    fn is_out_of_descriptors(&self) -> bool {
        self.descriptors >= self.faults.descriptors_max
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

    pub(super) fn fail_source(&mut self, source: u32, error: i32, times: u64) {
        self.failing_sources.insert(source, Failing { error, times });
        self.told.push(Readiness { token: source_token(source), flags: Flags::READ | Flags::ERROR });
    }

    /// Whether accepting or receiving fails this time.
    fn source_fails(&mut self, source: u32) -> io::Result<()> {
        let Some(failing) = self.failing_sources.get_mut(&source) else { return Ok(()) };
        let result = failing.fails();
        if result.is_err() {
            self.note("source fails", Subject::Source(source), Detail::Nothing);
        }
        result
    }

    // ---- time ----

    /// How long it is to the reactor's alarm.
    pub(super) fn rings_in(&self) -> Option<Duration> {
        self.alarm_ns.map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(self.now_ns)))
    }

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
                    self.note("reply arrives", Subject::Whole, Detail::Bytes(bytes.len()));
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
        self.note("wall clock steps", Subject::Whole, Detail::Seconds(seconds));
    }

    /// Clocks and machines do what they like before a poll.
    fn disturb_clocks(&mut self) {
        if self.random.chance(self.faults.wall_step) {
            let seconds = self.random.below(2 * 86_400) as i64 - 86_400;
            self.step_wall(seconds);
        }
        if self.random.chance(self.faults.stall) {
            let most = nanos(self.faults.stall_max) as usize;
            let stall = Duration::from_nanos(self.random.below(most) as u64);
            self.note("stopped", Subject::Whole, Detail::Milliseconds(stall.as_millis()));
            self.sleep(stall);
        }
    }

    // ---- the trace ----

    fn note(&mut self, what: &'static str, subject: impl Into<Subject>, detail: Detail) {
        self.trace.note(self.now_ns, what, subject.into(), detail);
    }

    /// What a socket is called in the trace: after its owner, if it has one.
    fn subject(&self, socket: usize) -> Subject {
        match self.sockets[socket].owner {
            Owner::Reactor(id) => Subject::Conn(id),
            Owner::Peer(peer) => Subject::Peer(peer),
            Owner::Backlog | Owner::Nobody => Subject::Socket(socket),
        }
    }

    // ---- addresses ----

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
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
}
