//! What waits to be written: the turn's arena, and per connection a range of it and an owned tail.
//!
//! ```text
//!   arena of this turn   ┊ a's replies ┊ b's ┊ c's replies ┊ free ...
//!                          ▲                   ▲
//!   connection a: range ───┘        c: range ──┘
//!
//!   connection d: tail ─► [ owned bytes │ shared message │ owned bytes ]    what its peer has not taken yet
//! ```
//!
//! A reply costs one copy into the arena, which is written in the flush phase and then empty. Only what a peer
//! does not take becomes memory of the connection's own. A tail always goes out before the range, because it is
//! older.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use crate::timer::Instant;

/// Bytes that several connections send, stored once.
pub type Shared = Rc<[u8]>;

/// The arena's size in bytes. It is reserved once; when it is full the read phase ends.
pub(crate) const ARENA_BYTES: usize = 1 << 20;

/// Free bytes in the arena below which the read phase ends.
const ARENA_RESERVE: usize = 128 << 10;

/// How many pieces one vectored write takes at most.
const PIECES_MAX: usize = 64;

/// An owned piece grows up to this size in bytes; then a new one begins, so that growing never copies much.
const OWNED_BYTES_MAX: usize = 64 << 10;

/// The replies of one turn, one after the other.
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    len: usize,
}

impl Arena {
    pub fn new() -> Arena {
        Arena { bytes: vec![0; ARENA_BYTES].into(), len: 0 }
    }

    /// Whether the read phase should end so that the flush phase can empty the arena.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len > ARENA_BYTES - ARENA_RESERVE
    }

    /// Called when every range has been written or moved to a tail.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds bytes at the end, if there is room.
    #[inline]
    fn push(&mut self, bytes: &[u8]) -> bool {
        let Some(free) = self.bytes.get_mut(self.len..).and_then(|free| free.get_mut(..bytes.len())) else {
            return false;
        };
        free.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }
}

#[derive(Debug)]
enum Piece {
    Owned(Vec<u8>),
    Shared(Shared),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Owned(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Tail {
    pieces: VecDeque<Piece>,
    /// How much of the first piece has been written.
    written: usize,
    bytes: usize,
    /// When the peer last took a byte, or when the tail began.
    stalled_since: Option<Instant>,
    /// When the tail rose above its soft limit; `None` when it is below.
    soft_since: Option<Instant>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if let Some(Piece::Owned(last)) = self.pieces.back_mut()
            && last.len() + bytes.len() <= OWNED_BYTES_MAX
        {
            last.extend_from_slice(bytes);
        } else {
            self.pieces.push_back(Piece::Owned(bytes.to_vec()));
        }
    }

    /// Drops the first `count` bytes, which have been written.
    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.written += count;
        while let Some(first) = self.pieces.front()
            && first.bytes().len() <= self.written
        {
            self.written -= first.bytes().len();
            self.pieces.pop_front();
        }
    }
}

/// What one connection has to send.
#[derive(Debug, Default)]
pub(crate) struct Output {
    start: u32,
    len: u32,
    tail: Option<Box<Tail>>,
}

impl Output {
    /// Bytes not yet handed to the system.
    #[inline]
    pub fn pending(&self) -> usize {
        self.len as usize + self.tail_bytes()
    }

    /// Bytes of this connection's own memory, which the peer was offered and did not take.
    #[inline]
    pub fn tail_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.bytes)
    }

    /// Since when the peer has taken nothing of the tail; `NEVER` when there is none.
    pub fn stalled_since(&self) -> Instant {
        self.tail.as_ref().and_then(|tail| tail.stalled_since).unwrap_or(Instant::NEVER)
    }

    /// Since when the tail has been above its soft limit; `NEVER` when it is below.
    pub fn soft_since(&self) -> Instant {
        self.tail.as_ref().and_then(|tail| tail.soft_since).unwrap_or(Instant::NEVER)
    }

    /// Takes note of how the tail stands at the end of a turn: whether some of it was taken, and whether it is
    /// above its soft limit.
    pub fn note(&mut self, now: Instant, progress: bool, over_soft_limit: bool) {
        if let Some(tail) = &mut self.tail {
            if progress || tail.stalled_since.is_none() {
                tail.stalled_since = Some(now);
            }
            tail.soft_since = if over_soft_limit { tail.soft_since.or(Some(now)) } else { None };
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.tail.is_none()
    }

    /// Adds bytes where nothing waits yet, if the arena has room for them.
    #[inline]
    pub fn begin(&mut self, arena: &mut Arena, bytes: &[u8]) -> bool {
        debug_assert!(self.is_empty());
        let start = arena.len;
        if !arena.push(bytes) {
            return false;
        }
        self.start = start as u32;
        self.len = bytes.len() as u32;
        true
    }

    /// Adds bytes behind everything else.
    pub fn push(&mut self, arena: &mut Arena, bytes: &[u8]) {
        let end = arena.len;
        let contiguous = self.len == 0 || (self.start + self.len) as usize == end;
        if self.tail.is_none() && contiguous && arena.push(bytes) {
            if self.len == 0 {
                self.start = end as u32;
            }
            self.len += bytes.len() as u32;
        } else if !bytes.is_empty() {
            self.own(arena).push(bytes);
        }
    }

    /// Adds bytes that other connections send too, without copying them.
    pub fn push_shared(&mut self, arena: &Arena, bytes: &Shared) {
        if !bytes.is_empty() {
            let tail = self.own(arena);
            tail.bytes += bytes.len();
            tail.pieces.push_back(Piece::Shared(bytes.clone()));
        }
    }

    /// Adds bytes to the tail, where no arena is at hand: the rest of what was written at once.
    pub fn push_unsent(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.len, 0, "bytes are written at once only when nothing else waits");
        self.tail.get_or_insert_default().push(bytes);
    }

    /// The tail, with the range at its end.
    #[cold]
    fn own(&mut self, arena: &Arena) -> &mut Tail {
        let range = self.start as usize..(self.start + self.len) as usize;
        self.len = 0;
        let tail = self.tail.get_or_insert_default();
        if !range.is_empty() {
            tail.push(&arena.bytes[range]);
        }
        tail
    }

    /// Moves the range into the tail, for the arena is about to be cleared.
    pub fn keep(&mut self, arena: &Arena) {
        if self.len > 0 {
            self.own(arena);
        }
    }

    /// The range, when there is nothing else to write.
    #[inline]
    pub fn range<'a>(&self, arena: &'a Arena) -> Option<&'a [u8]> {
        if self.tail.is_some() {
            return None;
        }
        Some(&arena.bytes[self.start as usize..(self.start + self.len) as usize])
    }

    /// Everything has been written.
    #[inline]
    pub fn written(&mut self) {
        self.len = 0;
    }

    /// Of the range `count` bytes have been written; the rest is moved to the tail. Does nothing when the range is
    /// in the tail already.
    #[cold]
    pub fn cut(&mut self, arena: &Arena, count: usize) {
        if self.len > 0 {
            self.start += count as u32;
            self.len -= count as u32;
            self.keep(arena);
        }
    }

    /// Writes the tail, and the range behind it, until everything is gone, or `write` takes less than it was
    /// offered or would block. Returns how many bytes were taken.
    ///
    /// # Errors
    /// What else `write` said: the connection has failed.
    pub fn write_tail(
        &mut self,
        arena: &Arena,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let tail = self.own(arena);
        let mut taken = 0;
        while tail.bytes > 0 {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let mut offered = 0;
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(&tail.pieces) {
                let bytes = if count == 0 { &piece.bytes()[tail.written..] } else { piece.bytes() };
                *slot = IoSlice::new(bytes);
                offered += bytes.len();
                count += 1;
            }
            let written = match write(&pieces[..count]) {
                Ok(written) => written,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    return Ok(taken);
                }
                Err(error) => return Err(error),
            };
            tail.advance(written);
            taken += written;
            if written < offered {
                return Ok(taken);
            }
        }
        self.tail = None;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that takes at most `chunk` bytes a call and `total` in all.
    fn drain(output: &mut Output, arena: &Arena, chunk: usize, mut total: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        let result = output.write_tail(arena, |pieces| {
            let offered: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let count = offered.len().min(chunk).min(total);
            total -= count;
            seen.extend_from_slice(&offered[..count]);
            Ok(count)
        });
        assert_eq!(result.unwrap(), seen.len());
        seen
    }

    #[test]
    fn replies_of_one_connection_are_one_range() {
        let mut arena = Arena::new();
        let mut output = Output::default();
        output.push(&mut arena, b"one ");
        output.push(&mut arena, b"two");
        assert_eq!(output.range(&arena), Some(&b"one two"[..]));
        assert_eq!((output.pending(), output.tail_bytes()), (7, 0));
        output.written();
        assert_eq!(output.pending(), 0);
    }

    #[test]
    fn order_is_kept_when_ranges_interleave() {
        let mut arena = Arena::new();
        let (mut a, mut b) = (Output::default(), Output::default());
        for round in 0..3 {
            a.push(&mut arena, format!("a{round}").as_bytes());
            b.push(&mut arena, format!("b{round}").as_bytes());
        }
        a.push_shared(&arena, &Shared::from(&b"shared"[..]));
        a.push(&mut arena, b"!");
        assert_eq!(drain(&mut a, &arena, usize::MAX, usize::MAX), b"a0a1a2shared!");
        assert_eq!(drain(&mut b, &arena, usize::MAX, usize::MAX), b"b0b1b2");
        assert_eq!((a.pending(), b.pending()), (0, 0));
    }

    #[test]
    fn nothing_is_lost_or_repeated_at_any_cut() {
        let text: Vec<u8> = (0..200_u8).collect();
        for cut in 0..text.len() {
            let mut arena = Arena::new();
            let mut output = Output::default();
            output.push(&mut arena, &text[..120]);
            output.cut(&arena, cut.min(120));
            let mut seen = text[..cut.min(120)].to_vec();
            arena.clear();
            output.push(&mut arena, &text[120..]);
            seen.extend(drain(&mut output, &arena, cut + 1, cut));
            arena.clear();
            seen.extend(drain(&mut output, &arena, usize::MAX, usize::MAX));
            assert_eq!(seen, text, "cut at {cut}");
            assert_eq!(output.pending(), 0);
        }
    }

    #[test]
    fn a_full_arena_spills_into_the_tail() {
        let mut arena = Arena::new();
        let mut output = Output::default();
        let block = vec![7; 300 << 10];
        for _ in 0..4 {
            output.push(&mut arena, &block);
        }
        assert!(arena.is_full());
        assert_eq!(output.pending(), 4 * block.len());
        assert_eq!(drain(&mut output, &arena, 1000, usize::MAX).len(), 1000);
        assert_eq!(drain(&mut output, &arena, usize::MAX, usize::MAX).len(), 4 * block.len() - 1000);
        assert_eq!(output.pending(), 0);
    }
}
