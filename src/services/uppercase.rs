//! Uppercase: what comes, in upper case; every datagram back to its sender in the same way.

use crate::datagram::Datagram;
use crate::service::{Context, Service};
use crate::slots::ConnId;

/// The longest code point in UTF-8, in bytes.
const CODE_POINT_BYTES_MAX: usize = 4;

/// ASCII is looked at in pieces of so many bytes, which the processor compares together.
const ASCII_STEP: usize = 32;

/// Sends back UTF-8 in upper case, with the full mappings of Unicode (`ß` becomes `SS`).
///
/// Invalid UTF-8 passes through unchanged. A code point whose bytes are received in several reads is kept until it is complete;
/// it is not a message, so the service needs [`Options::messages`](crate::Options::messages) set to false.
#[derive(Debug, Default)]
pub struct Uppercase {
    /// What is sent next, in memory that is used again.
    out: Vec<u8>,
}

impl Uppercase {
    /// All of `bytes` in upper case; an incomplete code point at the end will not be completed.
    fn whole(&mut self, bytes: &[u8]) -> &[u8] {
        self.out.clear();
        let consumed = uppercase_into(bytes, &mut self.out);
        self.out.extend_from_slice(&bytes[consumed..]);
        &self.out
    }
}

impl Service for Uppercase {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.count_messages(1);
        let mut consumed = 0;
        loop {
            let room = cx.room(conn);
            if room == 0 {
                return consumed;
            }
            // The output may be three times as long as its input, so it may pass the mark, but by no more than twice
            // the mark. At least one code point must fit, or nothing would ever move on.
            let rest = &bytes[consumed..];
            let piece = &rest[..rest.len().min(room.max(CODE_POINT_BYTES_MAX))];
            self.out.clear();
            let taken = uppercase_into(piece, &mut self.out);
            if taken == 0 {
                return consumed;
            }
            cx.send(conn, &self.out);
            consumed += taken;
        }
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        if !rest.is_empty() {
            cx.send(conn, self.whole(rest));
        }
        cx.close(conn);
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.count_messages(1);
        cx.reply(datagram, self.whole(datagram.bytes));
    }
}

/// Appends `input` in upper case to `out`, and returns how many bytes of `input` that was: all except an incomplete code point
/// at the end, of up to 3 bytes. Invalid UTF-8 is appended unchanged.
pub fn uppercase_into(input: &[u8], out: &mut Vec<u8>) -> usize {
    out.reserve(input.len());
    let mut rest = input;
    while let Some(&first) = rest.first() {
        if first.is_ascii() {
            let (ascii, after) = rest.split_at(ascii_len(rest));
            let start = out.len();
            out.extend_from_slice(ascii);
            out[start..].make_ascii_uppercase();
            rest = after;
            continue;
        }
        let width = match first {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        let (sequence, after) = rest.split_at(width.min(rest.len()));
        match std::str::from_utf8(sequence) {
            Ok(text) => {
                for upper in text.chars().flat_map(char::to_uppercase) {
                    out.extend_from_slice(upper.encode_utf8(&mut [0; CODE_POINT_BYTES_MAX]).as_bytes());
                }
                rest = after;
            }
            Err(error) => match error.error_len() {
                Some(len) => {
                    out.extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                }
                None => break,
            },
        }
    }
    input.len() - rest.len()
}

/// How many bytes from the front are ASCII.
fn ascii_len(bytes: &[u8]) -> usize {
    let whole = bytes.chunks_exact(ASCII_STEP).take_while(|step| step.is_ascii()).count() * ASCII_STEP;
    whole + bytes[whole..].iter().take_while(|byte| byte.is_ascii()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection gets that sends these pieces and then ends.
    fn converse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut sent, mut kept) = (Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            let consumed = uppercase_into(&kept, &mut sent);
            kept.drain(..consumed);
            assert!(kept.len() < CODE_POINT_BYTES_MAX, "{kept:x?} was held back");
        }
        sent.extend_from_slice(Uppercase::default().whole(&kept));
        sent
    }

    fn all_code_points() -> String {
        (char::MIN..=char::MAX).collect()
    }

    #[test]
    fn every_code_point_is_what_the_standard_library_makes_of_it() {
        let all = all_code_points();
        assert!(converse([all.as_bytes()]) == all.to_uppercase().as_bytes());
    }

    #[test]
    fn every_code_point_can_be_split_anywhere() {
        let all = all_code_points();
        let whole = all.to_uppercase();
        for offset in 1..CODE_POINT_BYTES_MAX {
            let inside =
                |(start, point): (usize, char)| (point.len_utf8() > offset).then_some(start + offset);
            let mut start = 0;
            let pieces = all.char_indices().filter_map(inside).chain([all.len()]).map(|end| {
                let piece = &all.as_bytes()[start..end];
                start = end;
                piece
            });
            assert!(converse(pieces) == whole.as_bytes(), "split after {offset} bytes of each");
        }
        assert!(converse(all.as_bytes().chunks(1)) == whole.as_bytes(), "byte by byte");
    }

    #[test]
    fn a_text_can_be_split_at_every_byte() {
        let text =
            "Straße, ﬃ, ΐ, ŉ, ǆ, İi, 你好, 𐐨𐐩, naïve café — ends in ascii of more than a step or two of it"
                .repeat(2);
        let whole = text.to_uppercase();
        for at in 0..=text.len() {
            let (front, back) = text.as_bytes().split_at(at);
            assert_eq!(converse([front, back]), whole.as_bytes(), "split at {at}");
        }
        for size in 1..40 {
            assert_eq!(converse(text.as_bytes().chunks(size)), whole.as_bytes(), "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_utf8_passes_unchanged_however_it_is_split() {
        let cases: [(&str, &[u8], &[u8]); 12] = [
            ("a lone continuation", b"a\x80b", b"A\x80B"),
            ("many continuations", b"\xbf\x80\xbf\x80\xbf", b"\xbf\x80\xbf\x80\xbf"),
            ("bytes that never occur", b"a\xc0\xc1\xf5\xff\xfeb", b"A\xc0\xc1\xf5\xff\xfeB"),
            ("overlong in two bytes", b"a\xc1\xa1b", b"A\xc1\xa1B"),
            ("overlong in three bytes", b"a\xe0\x81\xa1b", b"A\xe0\x81\xa1B"),
            ("overlong in four bytes", b"a\xf0\x80\x81\xa1b", b"A\xf0\x80\x81\xa1B"),
            ("a surrogate", b"a\xed\xa0\x80b", b"A\xed\xa0\x80B"),
            ("beyond the last code point", b"a\xf4\x90\x80\x80b", b"A\xf4\x90\x80\x80B"),
            ("broken off by ascii", b"\xe2\x82ab", b"\xe2\x82AB"),
            (
                "broken off by another",
                b"\xe2\x82\xc3\xa9\xf0\x9f\x98\xc3\xa9",
                b"\xe2\x82\xc3\x89\xf0\x9f\x98\xc3\x89",
            ),
            ("two bytes of three at the end", b"a\xe2\x82", b"A\xe2\x82"),
            ("three bytes of four at the end", b"a\xf0\x9f\x98", b"A\xf0\x9f\x98"),
        ];
        for (what, input, output) in cases {
            assert_eq!(converse([input]), output, "{what}");
            for at in 0..=input.len() {
                let (front, back) = input.split_at(at);
                assert_eq!(converse([front, back]), output, "{what} split at {at}");
            }
            assert_eq!(converse(input.chunks(1)), output, "{what} byte by byte");
        }
    }

    #[test]
    fn every_short_sequence_of_bytes_can_be_split_anywhere() {
        // One byte of each kind that UTF-8 tells apart, in every order.
        let kinds =
            [b'a', 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc3, 0xe0, 0xe2, 0xed, 0xf0, 0xf1, 0xf4, 0xf5];
        for number in 0..kinds.len().pow(4) {
            let bytes = [0, 1, 2, 3].map(|place| kinds[number / kinds.len().pow(place) % kinds.len()]);
            let whole = converse([&bytes[..]]);
            let expected: Vec<u8> = bytes
                .utf8_chunks()
                .flat_map(|chunk| [chunk.valid().to_uppercase().as_bytes(), chunk.invalid()].concat())
                .collect();
            assert_eq!(whole, expected, "{bytes:x?}");
            assert_eq!(converse(bytes.chunks(1)), whole, "{bytes:x?} byte by byte");
        }
    }

    #[test]
    fn only_an_incomplete_end_is_left() {
        let mut out = Vec::new();
        assert_eq!(uppercase_into(b"", &mut out), 0);
        assert_eq!(uppercase_into("é".as_bytes(), &mut out), 2);
        assert_eq!(uppercase_into(b"ab\xc3", &mut out), 2);
        assert_eq!(uppercase_into(b"ab\xf0\x9f\x98", &mut out), 2);
        // No bytes that follow could make these a code point: nothing is to be waited for.
        assert_eq!(uppercase_into(b"ab\xe0\x80", &mut out), 4);
        assert_eq!(uppercase_into(b"ab\xff", &mut out), 3);
        assert_eq!(out, b"\xc3\x89ABABAB\xe0\x80AB\xff");
    }
}
