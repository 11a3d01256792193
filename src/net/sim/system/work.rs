//! What a reactor has asked of the simulated system in one turn, and how much that may be: each phase of a turn is bounded,
//! so that nobody waits for longer than the limits say.

use std::collections::HashMap;

use crate::limits::Limits;
use crate::net::{Readiness, Totals, source_token};
use crate::slots::ConnId;

#[derive(Default)]
pub(super) struct Work {
    /// By token: how often the poll has told of it.
    told: HashMap<u64, usize>,
    reads: HashMap<ConnId, Reads>,
    accepted: HashMap<u32, usize>,
    received: HashMap<u32, usize>,
    connected: usize,
    closed: usize,
    /// At the end of the last turn.
    totals: Totals,
}

/// What was read from one connection.
#[derive(Default)]
struct Reads {
    bytes: usize,
    last: usize,
    /// Its own side had ended before.
    write_shut: bool,
}

impl Work {
    pub fn begin_turn(&mut self, events: &[Readiness]) {
        self.told.clear();
        self.reads.clear();
        self.accepted.clear();
        self.received.clear();
        (self.connected, self.closed) = (0, 0);
        for event in events {
            *self.told.entry(event.token).or_default() += 1;
        }
    }

    pub fn read(&mut self, id: ConnId, bytes: usize, write_shut: bool) {
        let reads = self.reads.entry(id).or_default();
        reads.bytes += bytes;
        (reads.last, reads.write_shut) = (bytes, write_shut);
    }

    pub fn accepted(&mut self, source: u32) {
        *self.accepted.entry(source).or_default() += 1;
    }

    pub fn received(&mut self, source: u32, datagrams: usize) {
        *self.received.entry(source).or_default() += datagrams;
    }

    pub fn connected(&mut self) {
        self.connected += 1;
    }

    pub fn closed(&mut self) {
        self.closed += 1;
    }

    /// How often the reactor has reason to serve somebody in a turn: for what an earlier turn left, and for each time that
    /// the poll has told of it.
    fn times(&self, token: u64) -> usize {
        1 + self.told.get(&token).copied().unwrap_or(0)
    }

    /// Panics if this was more than a turn may take.
    pub fn assert_within(&mut self, limits: &Limits, totals: Totals) {
        let before = std::mem::replace(&mut self.totals, totals);
        let assert_count = |done: u64, max: usize, what: &str| {
            assert!(done <= max as u64, "one turn has {what}: {done}, and {max} are enough");
        };
        let effects = limits.effects_per_turn.max(1);
        let messages = limits.messages_per_turn.max(1).saturating_mul(totals.mailboxes);
        assert_count(
            totals.deadlines - before.deadlines,
            limits.deadlines_per_turn.max(1),
            "acted on deadlines",
        );
        assert_count(totals.messages - before.messages, messages, "delivered messages");
        assert_count(totals.evictions - before.evictions, effects, "closed connections for their memory");
        let assert_times = |done: &HashMap<u32, usize>, limit: usize, what: &str| {
            for (&source, &count) in done {
                let max = limit.max(1) * self.times(source_token(source));
                assert!(
                    count <= max,
                    "one turn has {what} {count} from source {source}, and {max} are enough"
                );
            }
        };
        assert_times(&self.accepted, limits.accepts_per_turn, "accepted");
        assert_times(&self.received, limits.datagrams_per_turn, "received");
        assert!(self.connected <= effects, "one turn has begun {} connections", self.connected);
        // Those that are refused without a word are closed as they come.
        let refused: usize = self.accepted.values().sum();
        assert!(self.closed <= effects + refused, "one turn has closed {} connections", self.closed);
        for (id, reads) in &self.reads {
            // A deadline that has come looks for input as well.
            let mut max = limits.read_bytes_per_turn.max(1) * (1 + self.times(id.token()));
            if reads.write_shut {
                max = max.max(limits.linger_bytes_max + 1);
            }
            // The last read may go beyond the budget, which it did not know.
            let before = reads.bytes - reads.last;
            assert!(
                before < max,
                "one turn has read from {id}, after it had {before} bytes and {max} are enough"
            );
        }
    }
}
