//! What a simulated system did, step by step.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::net::{ALARM, Flags, WAKER};

/// Steps that are kept when not all of them are: what happened just before a failure.
const KEPT_STEPS: usize = 48;

/// What happens to the system as a whole.
const SYSTEM: [&str; 3] = ["reply arrives", "wall clock steps", "stopped"];

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Step {
    at_ns: u64,
    what: &'static str,
    /// The token of a connection, or the index of a listener, socket or peer.
    subject: u64,
    amount: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = format!("{:?}", Duration::from_nanos(self.at_ns));
        let Step { what, subject, amount, .. } = *self;
        let subject = match subject {
            _ if what.starts_with("peer") || what == "cut off" => format!("peer {subject}"),
            _ if what.starts_with("poll") || SYSTEM.contains(&what) => String::new(),
            WAKER => "waker".to_owned(),
            ALARM => "alarm".to_owned(),
            _ if subject >> 32 == 0 => format!("#{subject}"),
            token => format!("{}.{}", token as u32, token >> 32),
        };
        match what {
            "event" | "rearm" => write!(f, "{at:>14}  {what:<18}{subject:>8}  {:?}", Flags(amount as u8)),
            _ => write!(f, "{at:>14}  {what:<18}{subject:>8}  {amount}"),
        }
    }
}

/// What happened in a simulation: a hash of all steps, and the last steps, or all of them, as text.
///
/// Two traces are equal when the same things happened in the same order at the same times. [`Display`](fmt::Display) prints
/// the steps that were kept, one a line: when, what, to whom (a connection as `slot.generation`, a peer as `peer 0`, a listener
/// or datagram socket as `#0`), and how much: bytes, datagrams, the events of a poll, or the number of an error.
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

    pub(super) fn note(&mut self, at_ns: u64, what: &'static str, subject: u64, amount: u64) {
        // FNV-1a, a word at a time and turned: quick, and the same in every run on every machine.
        let mut mix =
            |word: u64| self.hash = (self.hash ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        what.bytes().for_each(|byte| mix(u64::from(byte)));
        [at_ns, subject, amount].into_iter().for_each(mix);
        self.count += 1;
        if !self.keep_all && self.steps.len() == KEPT_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { at_ns, what, subject, amount });
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
