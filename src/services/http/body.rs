//! The body of a request: it is read to its end, so that the next request is found behind it, and dropped.

use super::answer::Status;
use super::head::{check_trailer, find_end, number};

/// The longest body, in bytes as they come: the framing of chunks counts.
pub(super) const BODY_BYTES_MAX: u32 = 64 << 10;

/// The longest line with the size of a chunk and its extensions, in bytes with its ending.
pub(super) const CHUNK_LINE_BYTES_MAX: usize = 256;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    Done,
    /// So many bytes, at least one.
    Content(u32),
    /// Chunks, which may have so many bytes.
    Chunked(Part, u32),
}

/// What comes next of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A line with the size of a chunk.
    Size,
    /// So many bytes of a chunk, at least one.
    Content(u32),
    /// The end of the line behind a chunk.
    ContentEnd,
    /// Header fields behind the last chunk, and an empty line.
    Trailer,
}

impl Body {
    /// A body of so many bytes.
    ///
    /// # Errors
    /// They are too many.
    pub fn content(bytes: u64) -> Result<Body, Status> {
        match u32::try_from(bytes) {
            Ok(0) => Ok(Body::Done),
            Ok(bytes) if bytes <= BODY_BYTES_MAX => Ok(Body::Content(bytes)),
            _ => Err(Status::ContentTooLarge),
        }
    }

    /// A body in chunks.
    pub fn chunked() -> Body {
        Body::Chunked(Part::Size, BODY_BYTES_MAX)
    }

    /// Drops from the front of `input` what belongs to the body, and returns how many bytes that was. Parts that are
    /// incomplete are left, of which `searched` bytes need not be looked at again.
    ///
    /// # Errors
    /// The chunks are malformed, or too long.
    pub fn skip(
        &mut self,
        input: &[u8],
        searched: &mut usize,
        trailer_bytes_max: usize,
    ) -> Result<usize, Status> {
        let mut skipped = 0;
        loop {
            let rest = &input[skipped..];
            let (taken, body) = match *self {
                Body::Done => return Ok(skipped),
                Body::Content(left) => match take(left, rest) {
                    (taken, 0) => (taken, Body::Done),
                    (taken, left) => (taken, Body::Content(left)),
                },
                Body::Chunked(Part::Size, bytes_max) => match chunk_size(rest)? {
                    None => (0, *self),
                    Some((line_len, 0)) => (line_len, Body::Chunked(Part::Trailer, bytes_max)),
                    Some((line_len, size)) => {
                        let bytes = size.checked_add(line_len as u64 + 2);
                        let bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok());
                        let left = bytes.and_then(|bytes| bytes_max.checked_sub(bytes));
                        let left = left.ok_or(Status::ContentTooLarge)?;
                        (line_len, Body::Chunked(Part::Content(size as u32), left))
                    }
                },
                Body::Chunked(Part::Content(left), bytes_max) => match take(left, rest) {
                    (taken, 0) => (taken, Body::Chunked(Part::ContentEnd, bytes_max)),
                    (taken, left) => (taken, Body::Chunked(Part::Content(left), bytes_max)),
                },
                Body::Chunked(Part::ContentEnd, bytes_max) => match rest {
                    [b'\r', b'\n', ..] => (2, Body::Chunked(Part::Size, bytes_max)),
                    [] | [b'\r'] => (0, *self),
                    _ => return Err(Status::BadRequest),
                },
                Body::Chunked(Part::Trailer, _) => {
                    match find_end(rest, searched, trailer_bytes_max, false)? {
                        None => (0, *self),
                        Some(end) => {
                            check_trailer(&rest[..end])?;
                            (end, Body::Done)
                        }
                    }
                }
            };
            *self = body;
            skipped += taken;
            if taken == 0 {
                return Ok(skipped);
            }
        }
    }
}

/// How many of `left` bytes are there, and how many are still to come.
fn take(left: u32, input: &[u8]) -> (usize, u32) {
    let there = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
    (there as usize, left - there)
}

/// The length of the line at the front of `input`, and the size of the chunk that it states; `None` if the line is
/// incomplete.
fn chunk_size(input: &[u8]) -> Result<Option<(usize, u64)>, Status> {
    let window = &input[..input.len().min(CHUNK_LINE_BYTES_MAX)];
    let Some(at) = memchr::memchr(b'\n', window) else {
        return if window.len() < CHUNK_LINE_BYTES_MAX { Ok(None) } else { Err(Status::BadRequest) };
    };
    let line = window[..at].strip_suffix(b"\r").ok_or(Status::BadRequest)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    let size = number(size, 16).ok_or(Status::BadRequest)?;
    let are_extensions = match extensions {
        [] => true,
        [first, rest @ ..] => {
            *first == b';' && rest.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
        }
    };
    if are_extensions { Ok(Some((at + 1, size))) } else { Err(Status::BadRequest) }
}
