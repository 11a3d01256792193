//! Bytes that several connections send, stored once.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// Bytes that several connections send. Copies refer to the same memory.
///
/// ```
/// # use tidewheel::output::Shared;
/// let bytes = Shared::from(&b"to everybody"[..]);
/// assert_eq!(bytes.clone().as_ptr(), bytes.as_ptr());
/// ```
#[derive(Clone, Default)]
pub struct Shared(Rc<Block>);

#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Tails that hold it.
    holders: Cell<usize>,
}

impl Shared {
    /// The bytes, to be changed, if nobody else refers to them.
    pub(crate) fn only_mut(&mut self) -> Option<&mut Vec<u8>> {
        Rc::get_mut(&mut self.0).map(|block| &mut block.bytes)
    }

    /// Whether that is the same memory.
    pub(crate) fn is(&self, other: &Shared) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Shared {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl From<Vec<u8>> for Shared {
    fn from(bytes: Vec<u8>) -> Shared {
        Shared(Rc::new(Block { bytes, holders: Cell::new(0) }))
    }
}

impl From<&[u8]> for Shared {
    fn from(bytes: &[u8]) -> Shared {
        bytes.to_vec().into()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes)", self.len())
    }
}

/// What shared bytes take of memory beside themselves while tails hold them, roughly: their counts, their vector, their place
/// in a topic's arrears, and what the allocator adds to each.
pub(crate) const BLOCK_BYTES: usize = 160;

/// How much memory the shared bytes take that tails hold, each counted once.
pub(crate) type HeldBytes = Rc<Cell<usize>>;

/// A part of shared bytes in a tail. All of the memory is held until the last such part is gone.
pub(crate) struct Held {
    whole: Shared,
    start: u32,
    end: u32,
    total: HeldBytes,
}

impl Held {
    pub fn new(whole: Shared, part: Range<usize>, total: &HeldBytes) -> Held {
        let holders = &whole.0.holders;
        if holders.replace(holders.get() + 1) == 0 {
            total.set(total.get() + whole.len() + BLOCK_BYTES);
        }
        let place = |at| u32::try_from(at).expect("shared bytes are less than 4 GiB");
        let (start, end) = (place(part.start), place(part.end));
        Held { whole, start, end, total: total.clone() }
    }

    /// The same part once more.
    pub fn again(&self) -> Held {
        Held::new(self.whole.clone(), self.start as usize..self.end as usize, &self.total)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.whole[self.start as usize..self.end as usize]
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let holders = &self.whole.0.holders;
        holders.set(holders.get() - 1);
        if holders.get() == 0 {
            self.total.set(self.total.get() - self.whole.len() - BLOCK_BYTES);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}..{})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_several_times_counts_once_and_until_the_last() {
        let total = HeldBytes::default();
        let (one, other) = (Shared::from(vec![1; 100]), Shared::from(vec![2; 30]));
        let parts = [(&one, 0..100), (&one, 90..100), (&other, 0..1)];
        let mut held: Vec<_> =
            parts.into_iter().map(|(whole, part)| Held::new(whole.clone(), part, &total)).collect();
        assert_eq!(held[1].bytes(), [1; 10]);
        assert_eq!(total.get(), 130 + 2 * BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), 100 + BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), 100 + BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), 0);
    }
}
