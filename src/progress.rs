//! Which peers get on with their output, and which have stopped.
//!
//! ```text
//!   output ──► alarm ──► a pass over the connections, some in each turn ──► nothing is on its way any more: until the next output
//!                ▲                                                     │
//!                └──────────── progress_timeout / 8 later ◄────────────┘
//! ```
//!
//! Progress is what a peer's system has acknowledged, see [`Delivery`]. It is asked for only on connections that have been active since the
//! pass before, or have output on its way. A peer that acknowledged nothing for the timeout is closed, at most two passes late.
//! While nothing is on its way there are no passes, and nothing wakes an idle reactor.

use std::time::Duration;

use crate::net::Delivery;
use crate::slots::{ConnId, ConnMap};
use crate::timer::Instant;

/// How many passes there are in the time that a peer may be without progress.
const PASSES: u32 = 8;

/// Passes are never further apart than this, and never closer than that.
const PASS_EVERY_MAX: Duration = Duration::from_secs(60);
const PASS_EVERY_MIN: Duration = Duration::from_millis(1);

/// Slots of connections that are looked at in one turn, and connections of which the system is asked how far they are.
pub(crate) const LOOKED_AT_PER_TURN: usize = 4096;
pub(crate) const ASKED_PER_TURN: usize = 64;

pub(crate) struct Progress {
    timeout: Option<Duration>,
    /// No pass is to come: the next output begins the passes again.
    pub asleep: bool,
    /// There has been output while it was asleep.
    pub wanted: bool,
    /// The slot that is looked at next, while a pass is under way.
    pub slot: Option<usize>,
    /// When the last pass began, and the one before.
    begun: Instant,
    begun_before: Instant,
    /// How many bytes had been written when the last pass began.
    bytes_out: u64,
    /// How far connections were that had output on its way, and since when.
    marks: ConnMap<(u64, Instant)>,
}

impl Progress {
    pub fn new(timeout: Option<Duration>) -> Progress {
        Progress {
            timeout,
            asleep: timeout.is_some(),
            wanted: false,
            slot: None,
            begun: Instant::default(),
            begun_before: Instant::default(),
            bytes_out: 0,
            marks: ConnMap::new(),
        }
    }

    /// Takes note that something was written.
    pub fn has_output(&mut self) -> bool {
        self.wanted |= self.asleep;
        self.wanted
    }

    /// How long it is to the next pass.
    pub fn pause(&self) -> Duration {
        (self.timeout.unwrap_or(PASS_EVERY_MAX) / PASSES).clamp(PASS_EVERY_MIN, PASS_EVERY_MAX)
    }

    /// A pass begins.
    pub fn begin(&mut self, now: Instant, bytes_out: u64) {
        self.begun_before = std::mem::replace(&mut self.begun, now);
        self.bytes_out = bytes_out;
        self.slot = Some(0);
    }

    /// A pass has ended. Returns whether another is to come.
    pub fn end(&mut self, bytes_out: u64) -> bool {
        self.slot = None;
        self.asleep = self.marks.is_empty() && self.bytes_out == bytes_out;
        !self.asleep
    }

    /// Whether output of a connection may be on its way that was last active then.
    pub fn may_wait(&self, id: ConnId, active_at: Instant) -> bool {
        active_at >= self.begun_before || self.marks.get(id).is_some()
    }

    /// Takes note of how far a connection is, and returns since when it has been without progress: `None` when it has just made some, or
    /// has nothing on its way.
    pub fn note(&mut self, id: ConnId, delivery: Option<Delivery>, now: Instant) -> Option<Instant> {
        let Some(delivery) = delivery else {
            self.forget(id);
            return None;
        };
        match self.marks.get_mut(id) {
            Some((mark, since)) if *mark == delivery.mark => return Some(*since),
            Some(noted) => *noted = (delivery.mark, now),
            None => {
                self.marks.insert(id, (delivery.mark, now));
            }
        }
        None
    }

    /// A connection makes progress, or is gone.
    #[inline]
    pub fn forget(&mut self, id: ConnId) {
        if !self.marks.is_empty() {
            self.marks.remove(id);
        }
    }

    /// Whether a peer has been without progress for too long.
    pub fn is_over(&self, since: Instant, now: Instant) -> bool {
        self.timeout.is_some_and(|timeout| now.since(since) >= timeout)
    }
}
