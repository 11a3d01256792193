//! The identity of a connection, and the slab that hands identities out.
//!
//! ```text
//!   token (u64)      generation (32 bits)      slot (32 bits)
//!                 ┌────────────────────────┬────────────────────┐
//!   connection    │ 1, 2, 3 ...            │ index in the slab  │
//!   anything else │ 0                      │ index of the source│   listeners, datagram sockets, the waker
//!                 └────────────────────────┴────────────────────┘
//! ```
//!
//! The slab reuses a slot as soon as it is freed; the generation beside it has then moved on, so that whatever
//! was meant for the previous connection (an event in the same batch, an effect, a deadline, a message from
//! another thread) no longer finds anybody.

use std::fmt;
use std::num::NonZeroU64;

use slab::Slab;

/// The identity of one connection: a slot and the generation of that slot.
///
/// An id is not used again until its slot has been reused 2³² times. It is also the token under which the system reports
/// readiness, which is why tidewheel builds for 64-bit targets only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(NonZeroU64);

impl ConnId {
    /// An id from its parts; `None` if the generation is 0, which belongs to sources that are no connection.
    pub(crate) fn from_token(token: u64) -> Option<ConnId> {
        if token >> 32 == 0 { None } else { NonZeroU64::new(token).map(ConnId) }
    }

    fn new(slot: u32, generation: u32) -> ConnId {
        ConnId::from_token(u64::from(generation) << 32 | u64::from(slot)).expect("generations start at 1")
    }

    /// Slot and generation as one number: the token of the event queue.
    pub fn token(self) -> u64 {
        self.0.get()
    }

    /// The index of the connection in dense tables. Slots are reused, with another generation each time.
    pub fn slot(self) -> usize {
        self.0.get() as u32 as usize
    }

    /// How often the slot has been used, from 1.
    pub fn generation(self) -> u32 {
        (self.0.get() >> 32) as u32
    }
}

/// As logs show it: `slot.generation`.
impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot(), self.generation())
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

/// A slab of entries, each beside its id, and the generation of every slot, which outlives the entries.
pub(crate) struct Slots<T> {
    entries: Slab<(ConnId, T)>,
    generations: Vec<u32>,
}

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots { entries: Slab::new(), generations: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The id that the next `insert` will give.
    pub fn next_id(&mut self) -> ConnId {
        let slot = self.entries.vacant_key();
        if slot == self.generations.len() {
            self.generations.push(1);
        }
        let narrow = u32::try_from(slot).expect("descriptors are 31-bit numbers, so slots fit 32 bits");
        ConnId::new(narrow, self.generations[slot])
    }

    pub fn insert(&mut self, value: T) -> ConnId {
        let id = self.next_id();
        let slot = self.entries.insert((id, value));
        debug_assert_eq!(slot, id.slot());
        id
    }

    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&T> {
        match self.entries.get(id.slot()) {
            Some((owner, entry)) if *owner == id => Some(entry),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        match self.entries.get_mut(id.slot()) {
            Some((owner, entry)) if *owner == id => Some(entry),
            _ => None,
        }
    }

    /// An id that names nobody, and never will.
    pub fn spent_id(&mut self) -> ConnId {
        let id = self.next_id();
        let generation = &mut self.generations[id.slot()];
        *generation = generation.checked_add(1).unwrap_or(1);
        id
    }

    /// How many slots there have been at once.
    pub fn slots(&self) -> usize {
        self.generations.len()
    }

    /// What is in a slot.
    pub fn at_mut(&mut self, slot: usize) -> Option<(ConnId, &mut T)> {
        self.entries.get_mut(slot).map(|(id, entry)| (*id, entry))
    }

    /// What a token of the system names, if it is a connection and still there.
    #[inline]
    pub fn get_by_token(&mut self, token: u64) -> Option<(ConnId, &mut T)> {
        match self.entries.get_mut(token as u32 as usize) {
            Some((owner, entry)) if owner.token() == token => Some((*owner, entry)),
            _ => None,
        }
    }

    /// Frees the slot; from here on the id finds nothing, also when the slot is taken again.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        let generation = &mut self.generations[id.slot()];
        *generation = generation.checked_add(1).unwrap_or(1);
        let (_, entry) = self.entries.remove(id.slot());
        Some(entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.entries.iter().map(|(_, (id, entry))| (*id, entry))
    }

    /// What is wrong with the slab itself, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (slot, (id, _)) in &self.entries {
            let generation = self.generations.get(slot).copied();
            if id.slot() != slot || generation != Some(id.generation()) {
                return Err(format!("slot {slot} of generation {generation:?} has connection {id}"));
            }
        }
        Ok(())
    }
}

impl<T> Slots<T> {
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        self.entries.iter_mut().map(|(_, (id, entry))| (*id, entry))
    }
}

/// What a service stores about its connections: a map from [`ConnId`] whose lookup is one indexed load. Its memory is
/// proportional to the highest slot in use.
///
/// ```
/// use tidewheel::ConnMap;
///
/// let mut test = tidewheel::sim::UnitTest::new();
/// let conn = test.connection();
/// let mut names = ConnMap::new();
/// names.insert(conn, "ann");
/// assert_eq!(names.get(conn), Some(&"ann"));
/// ```
#[derive(Debug)]
pub struct ConnMap<T> {
    entries: Vec<Option<(ConnId, T)>>,
    len: usize,
}

impl<T> Default for ConnMap<T> {
    fn default() -> ConnMap<T> {
        ConnMap::new()
    }
}

impl<T> ConnMap<T> {
    /// An empty map. It grows to the highest slot that is inserted.
    pub fn new() -> ConnMap<T> {
        ConnMap { entries: Vec::new(), len: 0 }
    }

    /// How many connections have an entry.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no connection has an entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the entry of a connection and returns the previous one. An entry of an earlier connection in the same slot is
    /// dropped.
    pub fn insert(&mut self, id: ConnId, value: T) -> Option<T> {
        if id.slot() >= self.entries.len() {
            self.entries.resize_with(id.slot() + 1, || None);
        }
        match self.entries[id.slot()].replace((id, value)) {
            Some((old, value)) if old == id => Some(value),
            Some(_) => None,
            None => {
                self.len += 1;
                None
            }
        }
    }

    /// The entry of a connection.
    pub fn get(&self, id: ConnId) -> Option<&T> {
        match self.entries.get(id.slot()) {
            Some(Some((owner, value))) if *owner == id => Some(value),
            _ => None,
        }
    }

    /// The entry of a connection, to change it.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        match self.entries.get_mut(id.slot()) {
            Some(Some((owner, value))) if *owner == id => Some(value),
            _ => None,
        }
    }

    /// Removes the entry of a connection and returns it.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        self.len -= 1;
        self.entries[id.slot()].take().map(|(_, value)| value)
    }

    /// All entries, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.entries.iter().flatten().map(|(id, value)| (*id, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_id() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(first.slot(), second.slot());
        assert_ne!(first, second);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
    }

    #[test]
    fn next_id_announces_the_insert() {
        let mut slots = Slots::new();
        for round in 0..4 {
            let announced = slots.next_id();
            let id = slots.insert(round);
            assert_eq!(announced, id);
            if round % 2 == 0 {
                slots.remove(id);
            }
        }
    }

    #[test]
    fn tokens_of_other_sources_are_no_connection() {
        assert_eq!(ConnId::from_token(7), None);
        let id = ConnId::new(7, 3);
        assert_eq!(ConnId::from_token(id.token()), Some(id));
        assert_eq!((id.slot(), id.generation()), (7, 3));
    }

    #[test]
    fn a_map_entry_does_not_outlive_its_connection() {
        let mut map = ConnMap::new();
        let (old, new) = (ConnId::new(5, 1), ConnId::new(5, 2));
        assert_eq!(map.insert(old, 'a'), None);
        assert_eq!(map.get(new), None);
        assert_eq!(map.insert(new, 'b'), None);
        assert_eq!((map.get(old), map.get(new), map.len()), (None, Some(&'b'), 1));
        assert_eq!(map.remove(old), None);
        assert_eq!(map.remove(new), Some('b'));
        assert!(map.is_empty());
    }
}
