//! Deadlines. `now` is always an argument; nothing here reads a clock.
//!
//! Each connection has at most one entry, at the earliest of its deadlines: a 4-ary heap that knows where every
//! slot stands in it, so that an entry can be moved or removed and memory is bounded by the number of slots. A
//! deadline that moves later (every byte moves the idle deadline) does not touch the heap: the entry fires at
//! the old instant, the connection is asked what its next deadline really is, and the entry is set again.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::slots::ConnId;

/// A point on the reactor's monotonic clock, in nanoseconds since the reactor was created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// Later than every deadline.
    pub(crate) const NEVER: Instant = Instant(u64::MAX);

    /// The instant `since_start` after the reactor was created. Saturates after 584 years.
    pub fn from_start(since_start: Duration) -> Instant {
        Instant(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time from the creation of the reactor to this instant.
    pub fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates.
    fn add(self, timeout: Duration) -> Instant {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    /// The same as [`Instant::since`].
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.since_start())
    }
}

const ABSENT: u32 = u32::MAX;
const ARITY: usize = 4;

/// The heap of deadlines, one per connection at most.
#[derive(Default)]
pub(crate) struct Timers {
    heap: Vec<(Instant, ConnId)>,
    /// Where each slot stands in `heap`.
    positions: Vec<u32>,
    /// How many were due since the last look, for whoever checks that a turn is bounded.
    pub fired: u64,
}

impl Timers {
    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// When the entry of a connection fires; `NEVER` if it has none.
    pub fn at(&self, id: ConnId) -> Instant {
        match self.positions.get(id.slot()) {
            Some(&position) if position != ABSENT && self.heap[position as usize].1 == id => {
                self.heap[position as usize].0
            }
            _ => Instant::NEVER,
        }
    }

    /// Sets or moves the entry of a connection.
    pub fn set(&mut self, id: ConnId, at: Instant) {
        if id.slot() >= self.positions.len() {
            self.positions.resize(id.slot() + 1, ABSENT);
        }
        let position = match self.positions[id.slot()] {
            ABSENT => {
                self.heap.push((at, id));
                self.heap.len() - 1
            }
            position => {
                self.heap[position as usize] = (at, id);
                position as usize
            }
        };
        self.settle(position);
    }

    /// Removes the entry of a connection, if it has one.
    pub fn cancel(&mut self, id: ConnId) {
        let Some(&position) = self.positions.get(id.slot()) else { return };
        if position == ABSENT {
            return;
        }
        let position = position as usize;
        if self.heap[position].1 != id {
            return;
        }
        self.positions[id.slot()] = ABSENT;
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.settle(position);
        }
    }

    /// Takes out a connection whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<ConnId> {
        let &(at, id) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.fired += 1;
        self.cancel(id);
        Some(id)
    }

    /// The connections that have an entry, in no order.
    pub fn owners(&self) -> impl Iterator<Item = ConnId> {
        self.heap.iter().map(|&(_, id)| id)
    }

    /// What is wrong with the heap itself, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (position, &(at, id)) in self.heap.iter().enumerate() {
            if self.positions.get(id.slot()) != Some(&(position as u32)) {
                return Err(format!("the timer of {id} is not where its slot says"));
            }
            if position > 0 && self.heap[(position - 1) / ARITY].0 > at {
                return Err(format!("the timer of {id} is earlier than the one above it"));
            }
        }
        let placed = self.positions.iter().filter(|&&position| position != ABSENT).count();
        if placed != self.heap.len() {
            return Err(format!("{placed} slots have a timer, and there are {}", self.heap.len()));
        }
        Ok(())
    }

    /// Moves the entry at `position` to where the heap's order wants it.
    fn settle(&mut self, mut position: usize) {
        let entry = self.heap[position];
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if self.heap[parent].0 <= entry.0 {
                break;
            }
            self.place(position, self.heap[parent]);
            position = parent;
        }
        loop {
            let first = position * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            let Some(child) = children.min_by_key(|&child| self.heap[child].0) else { break };
            if self.heap[child].0 >= entry.0 {
                break;
            }
            self.place(position, self.heap[child]);
            position = child;
        }
        self.place(position, entry);
    }

    fn place(&mut self, position: usize, entry: (Instant, ConnId)) {
        self.heap[position] = entry;
        self.positions[entry.1.slot()] = position as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u64) -> ConnId {
        ConnId::from_token(1 << 32 | slot).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn fires_in_order_and_not_before_time() {
        let mut timers = Timers::default();
        // A fixed permutation of 0..1000, because 7 and 1000 have no common divisor.
        for i in 0..1000 {
            timers.set(id(i), at(i * 7 % 1000));
        }
        assert_eq!(timers.pop_due(at(0)), Some(id(0)));
        assert_eq!(timers.pop_due(at(0)), None);
        let mut fired = Vec::new();
        while let Some(due) = timers.pop_due(at(999)) {
            fired.push(due.slot() as u64 * 7 % 1000);
        }
        assert_eq!(fired, (1..1000).collect::<Vec<_>>());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_entry_is_moved_and_cancelled_in_place() {
        let mut timers = Timers::default();
        for i in 0..20 {
            timers.set(id(i), at(100 + i));
        }
        timers.set(id(19), at(1));
        timers.set(id(0), at(500));
        timers.cancel(id(1));
        timers.cancel(id(1));
        assert_eq!(timers.next(), Some(at(1)));
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(at(1000))).map(ConnId::slot).collect();
        assert_eq!(order, [19].into_iter().chain(2..19).chain([0]).collect::<Vec<_>>());
    }

    #[test]
    fn memory_is_bounded_by_slots_however_often_a_deadline_moves() {
        let mut timers = Timers::default();
        for round in (0..10_000).rev() {
            timers.set(id(3), at(round));
        }
        assert_eq!(timers.heap.len(), 1);
    }
}
