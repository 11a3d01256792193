//! What a simulated system did, step by step.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use super::peer::PeerId;
use crate::net::{ALARM, Flags, WAKER};
use crate::slots::ConnId;

/// Steps that are kept when not all of them are: what happened just before a failure.
const KEPT_STEPS: usize = 48;

/// Which part of the simulation a step concerns.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    /// The reactor or the system as a whole.
    Whole,
    /// A connection of the reactor.
    Conn(ConnId),
    /// A listener or datagram socket.
    Source(u32),
    Peer(PeerId),
    /// A socket that has no owner: it waits to be accepted, or its owner has closed it.
    Socket(usize),
    Alarm,
    Waker,
}

impl Subject {
    /// Whose readiness is reported under this token.
    pub fn of_token(token: u64) -> Subject {
        match (token, ConnId::from_token(token)) {
            (_, Some(id)) => Subject::Conn(id),
            (ALARM, _) => Subject::Alarm,
            (WAKER, _) => Subject::Waker,
            (source, _) => Subject::Source(source as u32),
        }
    }

    /// For the hash.
    fn words(self) -> [u64; 2] {
        match self {
            Subject::Whole => [0, 0],
            Subject::Conn(id) => [1, id.token()],
            Subject::Source(source) => [2, u64::from(source)],
            Subject::Peer(peer) => [3, peer.0 as u64],
            Subject::Socket(socket) => [4, socket as u64],
            Subject::Alarm => [5, 0],
            Subject::Waker => [6, 0],
        }
    }
}

impl From<ConnId> for Subject {
    fn from(id: ConnId) -> Subject {
        Subject::Conn(id)
    }
}

impl From<PeerId> for Subject {
    fn from(peer: PeerId) -> Subject {
        Subject::Peer(peer)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Whole => Ok(()),
            Subject::Conn(id) => write!(f, "{id}"),
            Subject::Source(source) => write!(f, "source {source}"),
            Subject::Peer(peer) => write!(f, "peer {}", peer.0),
            Subject::Socket(socket) => write!(f, "socket {socket}"),
            Subject::Alarm => f.write_str("alarm"),
            Subject::Waker => f.write_str("waker"),
        }
    }
}

/// What else there is to say about a step.
#[derive(Clone, Copy)]
pub(super) enum Detail {
    Nothing,
    Bytes(usize),
    Events(usize),
    Datagrams(usize),
    Flags(Flags),
    Error(i32),
    Source(u32),
    Seconds(i64),
    Milliseconds(u128),
    /// Whether a connection was closed with a reset.
    Reset(bool),
}

impl Detail {
    /// For the hash.
    fn words(self) -> [u64; 2] {
        match self {
            Detail::Nothing => [0, 0],
            Detail::Bytes(count) => [1, count as u64],
            Detail::Events(count) => [2, count as u64],
            Detail::Datagrams(count) => [3, count as u64],
            Detail::Flags(flags) => [4, u64::from(flags.0)],
            Detail::Error(error) => [5, error as u64],
            Detail::Source(source) => [6, u64::from(source)],
            Detail::Seconds(seconds) => [7, seconds as u64],
            Detail::Milliseconds(count) => [8, count as u64],
            Detail::Reset(reset) => [9, u64::from(reset)],
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut count = |count: usize, unit| {
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{count} {unit}{plural}")
        };
        match self {
            Detail::Nothing | Detail::Reset(false) => Ok(()),
            Detail::Bytes(bytes) => count(*bytes, "byte"),
            Detail::Events(events) => count(*events, "event"),
            Detail::Datagrams(datagrams) => count(*datagrams, "datagram"),
            Detail::Flags(flags) => write!(f, "{flags}"),
            Detail::Error(error) => write!(f, "{}", io::Error::from_raw_os_error(*error)),
            Detail::Source(source) => write!(f, "{}", Subject::Source(*source)),
            Detail::Seconds(seconds) => write!(f, "{seconds} s"),
            Detail::Milliseconds(count) => write!(f, "{count} ms"),
            Detail::Reset(true) => f.write_str("reset"),
        }
    }
}

/// One thing that happened.
#[derive(Clone, Copy)]
struct Step {
    at_ns: u64,
    what: &'static str,
    subject: Subject,
    detail: Detail,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = format!("{:?}", Duration::from_nanos(self.at_ns));
        let step = format!("{at:>14}  {:<18}{:<9}  {}", self.what, self.subject.to_string(), self.detail);
        f.write_str(step.trim_end())
    }
}

/// What happened in a simulation: a hash of all steps, and the last steps, or all of them, as text.
///
/// Two traces are equal when the same things happened in the same order at the same times. [`Display`](fmt::Display) prints
/// the steps that were kept, one a line: the time, the step, what it concerns (a connection as `slot.generation`, `peer 0`,
/// `source 0` for a listener or a datagram socket, or `alarm`), and a detail such as `4 bytes` or `read|write`.
#[derive(Clone)]
pub struct Trace {
    hash: u64,
    count: u64,
    steps: VecDeque<Step>,
    keep_all: bool,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, count: 0, steps: VecDeque::new(), keep_all: false }
    }

    pub(super) fn keep_all(&mut self) {
        self.keep_all = true;
    }

    pub(super) fn note(&mut self, at_ns: u64, what: &'static str, subject: Subject, detail: Detail) {
        // FNV-1a, a word at a time and turned: quick, and the same in every run on every machine.
        let mut mix =
            |word: u64| self.hash = (self.hash ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        what.bytes().for_each(|byte| mix(u64::from(byte)));
        mix(at_ns);
        subject.words().into_iter().chain(detail.words()).for_each(mix);
        self.count += 1;
        if !self.keep_all && self.steps.len() == KEPT_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { at_ns, what, subject, detail });
    }

    /// The hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many steps there were.
    pub fn steps(&self) -> u64 {
        self.count
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Trace) -> bool {
        (self.hash, self.count) == (other.hash, other.count)
    }
}

impl Eq for Trace {}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} steps, {:016x})", self.count, self.hash)
    }
}
