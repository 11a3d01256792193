//! Bytes that several connections send, stored once.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

use crate::memory::block_bytes;

/// Immutable bytes that are sent to several connections ([`Context::send_shared`](crate::Context::send_shared)). Clones share
/// the same memory.
///
/// ```
/// # use tidewheel::Shared;
/// let bytes = Shared::from(&b"to everybody"[..]);
/// assert_eq!(bytes.clone().as_ptr(), bytes.as_ptr());
/// ```
#[derive(Clone)]
pub struct Shared(Rc<Block>);

struct Block {
    bytes: Vec<u8>,
    /// Pending outputs and backlogs that hold it.
    holders: Cell<usize>,
}

impl Shared {
    /// Whether that is the same memory.
    pub(crate) fn is(&self, other: &Shared) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// How much memory it takes while it is held.
    pub(crate) fn memory_bytes(&self) -> usize {
        block_bytes(self.0.bytes.capacity()) + BLOCK_BYTES
    }
}

impl Deref for Shared {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Takes over the memory of the vector, which is shrunk first if more than a fifth of it is unused.
impl From<Vec<u8>> for Shared {
    fn from(mut bytes: Vec<u8>) -> Shared {
        if bytes.capacity() - bytes.len() > bytes.len() / 4 {
            bytes.shrink_to_fit();
        }
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

/// What shared bytes take beside themselves while they are held: the block that counts their holders, and their place in the
/// backlog of a topic. The second is counted also where there is none.
pub(crate) const BLOCK_BYTES: usize =
    block_bytes(size_of::<Block>() + 2 * size_of::<usize>()) + crate::arrears::PLACE_BYTES;

/// How much memory the shared bytes take that are held, each counted once.
pub(crate) type HeldBytes = Rc<Cell<usize>>;

/// A part of shared bytes in a pending output or a backlog. All of the memory is held until the last such part is gone.
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
            total.set(total.get() + whole.memory_bytes());
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

    /// What it is a part of.
    pub fn whole(&self) -> &Shared {
        &self.whole
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let holders = &self.whole.0.holders;
        holders.set(holders.get() - 1);
        if holders.get() == 0 {
            self.total.set(self.total.get() - self.whole.memory_bytes());
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
        assert_eq!(total.get(), block_bytes(100) + block_bytes(30) + 2 * BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), block_bytes(100) + BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), block_bytes(100) + BLOCK_BYTES);
        held.pop();
        assert_eq!(total.get(), 0);
    }

    #[test]
    fn memory_counts_by_capacity_and_is_cut_to_size() {
        let mut bytes = Vec::with_capacity(1 << 20);
        bytes.extend_from_slice(b"little");
        assert_eq!(Shared::from(bytes).memory_bytes(), 32 + BLOCK_BYTES);
        let mut bytes = Vec::with_capacity(1_100);
        bytes.resize(1_000, 0);
        assert_eq!(Shared::from(bytes).memory_bytes(), block_bytes(1_100) + BLOCK_BYTES);
    }
}
