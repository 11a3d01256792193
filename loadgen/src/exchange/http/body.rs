//! The body that every reply must have: that of the first one, of which as much is kept as is needed to say where another
//! differs.
//!
//! ```text
//!     bytes, up to a limit │ a digest for each block that follows │ one for what is left
//! ```

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

use super::super::Fault;
use crate::report::counted;

/// So many bytes are kept as they are: of what follows only digests, so that no page is too long.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A digest is of so many bytes.
const BLOCK_BYTES: usize = 64 * 1024;

/// Length and digest of the first body of a run, for all its threads.
pub type FirstBody = Arc<OnceLock<(u64, u64)>>;

/// The body as this thread has first seen it, as far as any of its connections has got.
pub struct Body {
    kept: Vec<u8>,
    blocks: Vec<u64>,
    /// Of the bytes behind the last block; of meaning once it is whole.
    rest: u64,
    len: u64,
    is_whole: bool,
    first: FirstBody,
}

/// How far a connection has read.
#[derive(Default)]
pub struct Reading {
    at: u64,
    block: DefaultHasher,
}

impl Body {
    pub fn new(first: FirstBody) -> Body {
        Body { kept: Vec::new(), blocks: Vec::new(), rest: 0, len: 0, is_whole: false, first }
    }

    /// Compares a part of a body with the first one, or adds it to that. Tells what is wrong, and where in the part.
    pub fn compare(&mut self, reading: &mut Reading, part: &[u8]) -> Option<(usize, Fault)> {
        let from = reading.at;
        reading.at += part.len() as u64;
        let kept_at = usize::try_from(from).map_or(KEPT_BYTES_MAX, |from| from.min(KEPT_BYTES_MAX));
        let (as_bytes, in_blocks) = part.split_at(part.len().min(KEPT_BYTES_MAX - kept_at));
        let seen = self.kept.get(kept_at..).unwrap_or_default();
        let seen = &seen[..seen.len().min(as_bytes.len())];
        let (same, new) = as_bytes.split_at(seen.len());
        if same != seen {
            let wrong = same.iter().zip(seen).position(|(got, due)| got != due)?;
            return Some((wrong, Fault::Byte { got: same[wrong], due: seen[wrong] }));
        }
        if self.is_whole && reading.at > self.len {
            let words =
                format!("a body longer than the first one, of {}", counted(self.len as usize, "byte"));
            return Some((self.len.saturating_sub(from) as usize, Fault::Reply(words)));
        }
        self.kept.extend_from_slice(new);
        self.len = self.len.max(reading.at);
        self.compare_blocks(reading, from, in_blocks, as_bytes.len())
    }

    /// The same of what is not kept as bytes. `before` bytes of the part stand before it.
    fn compare_blocks(
        &mut self,
        reading: &mut Reading,
        from: u64,
        mut bytes: &[u8],
        before: usize,
    ) -> Option<(usize, Fault)> {
        let mut at = (from + before as u64).checked_sub(KEPT_BYTES_MAX as u64)?;
        let mut taken = before;
        while !bytes.is_empty() {
            let index = (at / BLOCK_BYTES as u64) as usize;
            let left = BLOCK_BYTES - (at % BLOCK_BYTES as u64) as usize;
            let (piece, after) = bytes.split_at(left.min(bytes.len()));
            reading.block.write(piece);
            (at, taken, bytes) = (at + piece.len() as u64, taken + piece.len(), after);
            if piece.len() == left {
                let digest = std::mem::take(&mut reading.block).finish();
                match self.blocks.get(index) {
                    Some(due) if *due != digest => {
                        let block = KEPT_BYTES_MAX + index * BLOCK_BYTES;
                        let words = format!(
                            "a body that differs from the first one between its bytes {block} and {}",
                            block + BLOCK_BYTES
                        );
                        return Some((taken - 1, Fault::Reply(words)));
                    }
                    Some(_) => {}
                    None => self.blocks.push(digest),
                }
            }
        }
        None
    }

    /// Compares a body that has come whole with the first one, of which all that came up to the end of this was the same.
    pub fn end(&mut self, reading: &Reading) -> Option<Fault> {
        let rest = reading.block.finish();
        if reading.at != self.len {
            let words =
                format!("a body of {}, the first had {}", counted(reading.at as usize, "byte"), self.len);
            return Some(Fault::Reply(words));
        }
        if std::mem::replace(&mut self.is_whole, true) {
            let words = "a body whose end differs from that of the first one";
            return (rest != self.rest).then(|| Fault::Reply(words.to_owned()));
        }
        self.rest = rest;
        let mine = (self.len, self.digest());
        let is_first = *self.first.get_or_init(|| mine) == mine;
        let words = "a body that is not the one that another thread got first";
        (!is_first).then(|| Fault::Reply(words.to_owned()))
    }

    fn digest(&self) -> u64 {
        let mut all = DefaultHasher::new();
        all.write(&self.kept);
        self.blocks.iter().chain([&self.rest]).for_each(|digest| all.write_u64(*digest));
        all.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a body that comes in pieces of so many bytes.
    fn said(body: &mut Body, bytes: &[u8], piece: usize) -> Option<String> {
        let mut reading = Reading::default();
        let mut wrong = bytes.chunks(piece).find_map(|piece| body.compare(&mut reading, piece));
        if wrong.is_none() {
            wrong = body.end(&reading).map(|fault| (0, fault));
        }
        wrong.map(|(_, fault)| fault.to_string())
    }

    #[test]
    fn a_long_body_is_compared_to_its_end() {
        let bytes: Vec<u8> =
            (0..KEPT_BYTES_MAX + 3 * BLOCK_BYTES + 5).map(|at| (at / 7 + at) as u8).collect();
        let mut body = Body::new(FirstBody::default());
        for piece in [1_000_000, 64 * 1024, 9_999, bytes.len()] {
            assert_eq!(said(&mut body, &bytes, piece), None, "{piece}");
        }
        for at in [0, KEPT_BYTES_MAX - 1, KEPT_BYTES_MAX, bytes.len() - 6, bytes.len() - 1] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(said(&mut body, &wrong, 65_536).is_some(), "{at}");
        }
        let longer = [&bytes[..], b"!"].concat();
        assert!(said(&mut body, &longer, 65_536).is_some_and(|said| said.contains("longer")));
        let shorter = &bytes[..bytes.len() - 1];
        assert!(said(&mut body, shorter, 65_536).is_some_and(|said| said.contains("the first had")));
        assert_eq!(said(&mut body, &bytes, 65_536), None);
        let mut other = Body::new(body.first.clone());
        assert!(said(&mut other, shorter, 65_536).is_some_and(|said| said.contains("another thread")));
    }
}
