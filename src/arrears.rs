//! What a topic brings while some of its members take nothing, kept once for all of them.
//!
//! ```text
//!   places    o ──[ a ]──► o ──[ b ]──► o ──[ c ]──► o   the end, where the topic adds
//!             ▲                         ▲
//!             x's place                 y's place        each has still to get what follows its place
//! ```
//!
//! A receiver that has stopped costs nothing while a topic goes on: it keeps its place, and what is before the first of
//! all places is gone by itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::memory::block_bytes;
use crate::shared::Held;

/// What a place takes of memory. It is counted with the bytes behind it, see [`crate::shared`].
pub(crate) const PLACE_BYTES: usize = block_bytes(size_of::<Place>() + 2 * size_of::<usize>());

/// A place between what was brought before and after.
#[derive(Default)]
struct Place {
    next: RefCell<Option<(Held, Rc<Place>)>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // One after the other: a chain that was dropped link by link inside each other would need as deep a stack.
        let mut next = self.next.take();
        while let Some((_, place)) = next {
            next = Rc::into_inner(place).and_then(|place| place.next.take());
        }
    }
}

#[derive(Default)]
pub(crate) struct Arrears {
    last: RefCell<Rc<Place>>,
    /// How many bytes it has had in all.
    end: Cell<u64>,
}

impl Arrears {
    pub fn append(&self, bytes: Held) {
        self.end.set(self.end.get() + bytes.bytes().len() as u64);
        let end = Rc::default();
        let last = self.last.replace(Rc::clone(&end));
        last.next.replace(Some((bytes, end)));
    }

    pub fn end(&self) -> u64 {
        self.end.get()
    }
}

/// The place of one receiver, in front of everything that it has still to get.
pub(crate) struct Follower {
    arrears: Rc<Arrears>,
    place: Rc<Place>,
    position: u64,
    /// When the arrears has more bytes than this, one of the receiver's limits is passed.
    pub alarm: u64,
    /// How large the receiver is among those of its topic: its own memory, less its position. So the order of receivers
    /// stays the same whatever the topic brings.
    pub rank: i64,
}

impl Follower {
    /// A place at the end.
    pub fn new(arrears: &Rc<Arrears>) -> Follower {
        let place = Rc::clone(&arrears.last.borrow());
        Follower { arrears: Rc::clone(arrears), place, position: arrears.end(), alarm: u64::MAX, rank: 0 }
    }

    /// How many bytes it has still to get.
    pub fn bytes(&self) -> usize {
        (self.arrears.end() - self.position) as usize
    }

    /// How many bytes the arrears has had in all.
    pub fn end(&self) -> u64 {
        self.arrears.end()
    }

    /// The rank of a receiver that holds so many bytes beside what it has still to get.
    pub fn rank_with(&self, bytes: usize) -> i64 {
        bytes as i64 - self.position as i64
    }

    /// Shows everything that it has still to get, as far as its places are not among those seen.
    #[cfg(debug_assertions)]
    pub fn visit(
        &self,
        seen: &mut std::collections::HashSet<*const ()>,
        mut visit: impl FnMut(&crate::shared::Shared),
    ) {
        let mut place = Rc::clone(&self.place);
        while seen.insert(Rc::as_ptr(&place).cast()) {
            let next = match &*place.next.borrow() {
                Some((held, next)) => {
                    visit(held.whole());
                    Rc::clone(next)
                }
                None => return,
            };
            place = next;
        }
    }

    /// Goes past the next bytes and returns them.
    pub fn advance(&mut self) -> Option<Held> {
        let (held, place) = match &*self.place.next.borrow() {
            Some((held, place)) => (held.again(), Rc::clone(place)),
            None => return None,
        };
        self.position += held.bytes().len() as u64;
        self.place = place;
        Some(held)
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Follower({} bytes behind)", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{BLOCK_BYTES, HeldBytes, Shared};

    fn append(arrears: &Arrears, bytes: &[u8], total: &HeldBytes) {
        arrears.append(Held::new(Shared::from(bytes), 0..bytes.len(), total));
    }

    #[test]
    fn each_gets_what_follows_its_place_and_what_nobody_waits_for_is_gone() {
        let (arrears, total) = (Rc::new(Arrears::default()), HeldBytes::default());
        append(&arrears, b"for nobody", &total);
        assert_eq!(total.get(), 0);
        let mut first = Follower::new(&arrears);
        append(&arrears, b"one", &total);
        let mut second = Follower::new(&arrears);
        append(&arrears, b"three", &total);
        assert_eq!((first.bytes(), second.bytes(), total.get()), (8, 5, 2 * (32 + BLOCK_BYTES)));
        assert_eq!(first.advance().unwrap().bytes(), b"one");
        assert_eq!((first.bytes(), total.get()), (5, 32 + BLOCK_BYTES));
        assert_eq!(second.advance().unwrap().bytes(), b"three");
        assert!(second.advance().is_none());
        drop(first);
        assert_eq!(total.get(), 0);
    }

    #[test]
    fn a_long_arrears_is_dropped_without_a_deep_stack() {
        let (arrears, total) = (Rc::new(Arrears::default()), HeldBytes::default());
        let follower = Follower::new(&arrears);
        (0..1_000_000).for_each(|_| append(&arrears, b"x", &total));
        drop(follower);
        assert_eq!(total.get(), 0);
    }
}
