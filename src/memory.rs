//! Memory that peers make the server hold, counted as it is held: by capacity, input and output together.
//!
//! ```text
//!   each connection   pending output of its own │ unconsumed input        `Connection::counted`
//!   shared            messages and blocks of topics, each once            `HeldBytes`
//!   each socket       datagrams that could not be sent yet                `Outgoing::counted`
//!                     ───────────────────────────────────────
//!                     their sum is at most `Limits::memory_bytes_max`: above it the largest holder is closed
//! ```
//!
//! What is not in the sum is constant: the buffers of a turn, and for each connection, topic and membership the entries in
//! the engine's tables.

use crate::limits::Limits;
use crate::slots::ConnId;

/// What the allocator takes for a block of so many bytes: glibc adds a word and rounds up to 16 bytes, 32 at least.
pub(crate) const fn block_bytes(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        1..=24 => 32,
        _ => (capacity + 8).next_multiple_of(16),
    }
}

/// A service that makes each text in the same memory lets go of it when one text has made it larger than this, in bytes.
#[cfg(feature = "services")]
pub(crate) const REUSED_BYTES_MAX: usize = 256 << 10;

/// When so much memory has been released, in bytes, the allocator is asked to give it back to the system.
pub(crate) const RELEASE_BYTES: usize = 1 << 20;

/// The sum, and who has the largest part of it.
pub(crate) struct Memory {
    /// The limit; `usize::MAX` for none.
    pub max: usize,
    /// What belongs to connections and datagram sockets, as last counted of each.
    pub counted: usize,
    /// The most that has been held since the allocator last gave memory back.
    pub peak: usize,
    /// Memory is to be given back as soon as that was not done for a while.
    pub release_due: bool,
    /// At the end of the last turn too many were left to be closed: it goes on.
    pub exceeds: bool,
    /// How many connections may still be closed in this turn. While more have to be, nothing is read: so a turn stays short, and
    /// the memory does not grow meanwhile.
    pub evictions_left: usize,
    /// How many have been closed in all turns.
    pub evictions: u64,
    /// The connections that hold something, except those that a topic has set aside.
    pub holders: Ranking<ConnId>,
}

impl Memory {
    pub fn new(limits: &Limits) -> Memory {
        Memory {
            max: limits.memory_bytes_max.unwrap_or(usize::MAX),
            counted: 0,
            peak: 0,
            release_due: false,
            exceeds: false,
            evictions_left: limits.effects_per_turn.max(1),
            evictions: 0,
            holders: Ranking::default(),
        }
    }

    /// Replaces what was counted of somebody.
    pub fn recount(&mut self, counted: &mut u32, bytes: usize) {
        // One connection above 4 GiB counts as 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.counted = self.counted + bytes as usize - *counted as usize;
        *counted = bytes;
    }
}

const ABSENT: u32 = u32::MAX;

/// Holders by size: a heap with the largest on top, which knows where every slot stands in it.
pub(crate) struct Ranking<T> {
    heap: Vec<(usize, usize, T)>,
    /// Where each slot stands in `heap`.
    positions: Vec<u32>,
}

impl<T> Default for Ranking<T> {
    fn default() -> Ranking<T> {
        Ranking { heap: Vec::new(), positions: Vec::new() }
    }
}

impl<T: Copy> Ranking<T> {
    /// The largest, and its size.
    pub fn largest(&self) -> Option<(usize, T)> {
        self.heap.first().map(|&(size, _, holder)| (size, holder))
    }

    /// The size of whoever has this slot; 0 if that holds nothing.
    #[cfg(any(test, debug_assertions))]
    pub fn size(&self, slot: usize) -> usize {
        match self.positions.get(slot) {
            Some(&position) if position != ABSENT => self.heap[position as usize].0,
            _ => 0,
        }
    }

    /// Sets the size of whoever has this slot; 0 takes it out.
    pub fn set(&mut self, slot: usize, holder: T, size: usize) {
        let position = self.positions.get(slot).copied().unwrap_or(ABSENT);
        match (position, size) {
            (ABSENT, 0) => {}
            (ABSENT, _) => {
                if slot >= self.positions.len() {
                    self.positions.resize(slot + 1, ABSENT);
                }
                self.heap.push((size, slot, holder));
                self.settle(self.heap.len() - 1);
            }
            (position, 0) => {
                self.positions[slot] = ABSENT;
                self.heap.swap_remove(position as usize);
                if (position as usize) < self.heap.len() {
                    self.settle(position as usize);
                }
            }
            (position, _) => {
                self.heap[position as usize] = (size, slot, holder);
                self.settle(position as usize);
            }
        }
    }

    /// Moves the entry at `position` to where the heap's order wants it.
    fn settle(&mut self, mut position: usize) {
        let entry = self.heap[position];
        while position > 0 && self.heap[(position - 1) / 2].0 < entry.0 {
            self.place(position, self.heap[(position - 1) / 2]);
            position = (position - 1) / 2;
        }
        loop {
            let mut child = 2 * position + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1].0 > self.heap[child].0 {
                child += 1;
            }
            if child >= self.heap.len() || self.heap[child].0 <= entry.0 {
                break;
            }
            self.place(position, self.heap[child]);
            position = child;
        }
        self.place(position, entry);
    }

    fn place(&mut self, position: usize, entry: (usize, usize, T)) {
        self.positions[entry.1] = position as u32;
        self.heap[position] = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sim::Random;

    #[test]
    fn a_block_takes_what_glibc_takes_for_it() {
        for (capacity, bytes) in [(0, 0), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (4096, 4112)] {
            assert_eq!(block_bytes(capacity), bytes, "{capacity}");
        }
    }

    #[test]
    fn the_largest_is_on_top_whatever_changes() {
        let (mut ranking, mut sizes) = (Ranking::default(), [0; 50]);
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            let slot = random.below(sizes.len());
            sizes[slot] = if random.chance(0.3) { 0 } else { random.below(1_000) };
            ranking.set(slot, slot, sizes[slot]);
            let largest = ranking.largest();
            assert_eq!(largest.map_or(0, |(size, _)| size), *sizes.iter().max().unwrap());
            assert!(largest.is_none_or(|(size, slot)| sizes[slot] == size));
            assert_eq!(ranking.size(slot), sizes[slot]);
        }
    }
}
