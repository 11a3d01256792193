//! What is sent, and what must come back.
//!
//! A connection's requests, laid end to end, are one endless walk through a text:
//!
//! ```text
//!     text    ┌──────────────────────────────────────┐ and again from its beginning
//!             └──────────────────────────────────────┘
//!     connection 0  ├ request 0 ┼ request 1 ┼ request 2 ┼ …
//!     connection 1            ├ request 0 ┼ request 1 ┼ …
//! ```
//!
//! So a request is a slice, several requests in a row are one slice and one write, and verifying is one comparison:
//! the generator spends nothing on making or checking text. The text is random and each connection begins at a place
//! of its own, so requests differ, and replies that were swapped, repeated, dropped or given to another connection
//! are seen. Of requests of a byte or two many are alike; from 8 bytes on hardly any are.

use crate::service::Service;

/// Prime: a connection's requests begin at every place of the text before one comes again, whatever their size (its
/// own multiples excepted).
const PERIOD: usize = 65_521;

/// From one connection's beginning to the next one's. The golden section of the period scatters them evenly, and as
/// the period is prime, no two of the first 65,521 connections share one.
const STRIDE: u64 = 40_494;

/// Letters of both cases, so that uppercase has something to do, and digits.
const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// The text of the requests and the text of the replies, each twice over: any slice of up to one period lies in one
/// piece, wherever it begins.
pub struct Text {
    requests: Box<[u8]>,
    replies: Box<[u8]>,
    period: usize,
    stride: u64,
}

impl Text {
    /// The text of a measuring run. Always the same one: two runs send the same bytes.
    pub fn random(service: Service) -> Text {
        // xorshift64 (Marsaglia): the text has to be irregular, nothing more.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let requests: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ALPHABET[(state >> 32) as usize % ALPHABET.len()]
            })
            .collect();
        let replies = match service {
            Service::Echo | Service::Time => requests.clone(),
            Service::Uppercase => requests.to_ascii_uppercase(),
            _ => requests.clone(),
        };
        Text::new(&requests, &replies, STRIDE)
    }

    /// The same request over and over, to be echoed.
    pub fn repeated(request: &[u8]) -> Text {
        Text::new(request, request, 0)
    }

    fn new(requests: &[u8], replies: &[u8], stride: u64) -> Text {
        let period = requests.len();
        Text { requests: requests.repeat(2).into(), replies: replies.repeat(2).into(), period, stride }
    }

    /// The same place, counted from the beginning of the text.
    #[inline]
    pub fn wrap(&self, position: u64) -> u64 {
        // Divisions are dear, and most walks are far from the end.
        if position < self.period as u64 { position } else { position % self.period as u64 }
    }

    /// Where a connection's walk begins.
    pub fn start(&self, connection: usize) -> u64 {
        self.wrap(connection as u64 * self.stride)
    }

    /// The requests from `position` on: at most `len` bytes, and never none unless `len` is 0.
    pub fn requests(&self, position: u64, len: u64) -> &[u8] {
        slice(&self.requests, self.period, position, len.min(self.period as u64) as usize)
    }

    /// What must come back for the requests from `position` on: at most `len` bytes.
    pub fn replies(&self, position: u64, len: u64) -> &[u8] {
        slice(&self.replies, self.period, position, len.min(self.period as u64) as usize)
    }

    /// The offset of the first byte of `received` that is not what `position` asks for, and the byte it should be.
    pub fn first_wrong(&self, mut position: u64, received: &[u8]) -> Option<(usize, u8)> {
        if received.len() <= self.period && received == self.replies(position, received.len() as u64) {
            return None;
        }
        let mut checked = 0;
        for piece in received.chunks(self.period) {
            let expected = slice(&self.replies, self.period, position, piece.len());
            if piece != expected {
                let at = piece.iter().zip(expected).position(|(got, due)| got != due);
                let at = at.expect("slices of one length that differ do so at some byte");
                return Some((checked + at, expected[at]));
            }
            checked += piece.len();
            position += piece.len() as u64;
        }
        None
    }
}

fn slice(twice: &[u8], period: usize, position: u64, len: usize) -> &[u8] {
    let period = period as u64;
    let start = if position < period { position } else { position % period } as usize;
    &twice[start..start + len]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_reply_verifies_in_whatever_pieces_it_comes() {
        let text = Text::random(Service::Uppercase);
        let start = text.start(3);
        let mut reply = Vec::new();
        while reply.len() < 3 * PERIOD {
            let position = start + reply.len() as u64;
            reply.extend(text.requests(position, 1000).to_ascii_uppercase());
        }
        for piece_len in [1, 63, 64, 65_521, 65_536, reply.len()] {
            let mut position = start;
            for piece in reply.chunks(piece_len) {
                assert_eq!(text.first_wrong(position, piece), None);
                position += piece.len() as u64;
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let text = Text::random(Service::Echo);
        let right = text.requests(7, 65_521).to_vec();
        for at in [0, 1, 63, 64, 65_520] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(text.first_wrong(7, &wrong), Some((at, right[at])));
        }
        let mut long = [right.clone(), right].concat();
        long[100_000] ^= 1;
        assert_eq!(text.first_wrong(7, &long).map(|(at, _)| at), Some(100_000));
    }

    #[test]
    fn requests_differ_within_a_connection_and_between_connections() {
        let text = Text::random(Service::Echo);
        let request = |connection, number: u64| text.requests(text.start(connection) + number * 16, 16);
        let within: HashSet<_> = (0..4000).map(|number| request(7, number)).collect();
        assert_eq!(within.len(), 4000);
        let between: HashSet<_> = (0..15_000).map(|connection| request(connection, 3)).collect();
        assert_eq!(between.len(), 15_000);
    }

    #[test]
    fn an_echo_is_no_uppercase() {
        let text = Text::random(Service::Uppercase);
        assert!(text.first_wrong(0, Text::random(Service::Echo).requests(0, 64)).is_some());
    }

    #[test]
    fn a_repeated_line_is_the_same_for_every_connection() {
        let text = Text::repeated(b"hello\n");
        assert_eq!(text.requests(text.start(5), 6), b"hello\n");
        assert_eq!(text.first_wrong(0, b"hello\nhello\nhel"), None);
        assert_eq!(text.first_wrong(0, b"hello\njello\n"), Some((6, b'h')));
    }
}
