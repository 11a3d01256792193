//! What a request says, and what its reply must say.
//!
//! ```text
//!     request   ┌─ socket, sequence number ─┬─ check ─┬─ text ───────┐
//!               └─ 10 characters            ┴─ 2      ┴─ the rest    ┘
//!     reply     the same for echo, in upper case for uppercase, after 26 bytes of `[ctime]` for time
//! ```
//!
//! The header consists of characters without a lower case, 6 bits in each, so it survives uppercase. The check is a
//! remainder by a prime: a header with any one character changed is never taken for another one. The text is a slice of
//! one long random text, at a place that the header's numbers decide; making and verifying it is one copy and one
//! comparison.

use std::fmt;
use std::io::IoSlice;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::report::counted;
use crate::service::Service;
use crate::text::Text;

use super::local_time::{self, LocalTime};

/// The bytes of a request that say which one it is: the smallest request.
const HEADER_BYTES: usize = 12;

/// The first six of a header's bits are 0 in a space, and 63 in an underscore.
const ZERO: u8 = b' ';

/// The characters of the numbers; the others are their check.
const NUMBER_CHARACTERS: usize = 10;

const SEQUENCE_BITS: u32 = 40;

/// As many sockets as the numbers of a header can tell apart.
pub const SOCKETS_MAX: usize = 1 << 20;

/// The largest prime below 2^12: a change of one of the number's characters changes the remainder.
const CHECK_PRIME: u64 = 4093;

/// From one request's text to the next one's; prime to the text's length, so that all places come up.
const TEXT_STRIDE: u64 = 12_289;

/// The most that a UDP datagram carries.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// So many bytes of the text help to find whose reply it is that has a broken header.
const LIKENESS_BYTES: usize = 16;

pub type Header = [u8; HEADER_BYTES];

/// How large requests to a service may be, over datagrams.
pub fn request_bytes(service: Service) -> RangeInclusive<usize> {
    HEADER_BYTES..=DATAGRAM_BYTES_MAX - prefix_bytes(service)
}

fn prefix_bytes(service: Service) -> usize {
    if service == Service::Time { local_time::TEXT_BYTES } else { 0 }
}

/// The requests to a service and their replies.
pub struct Dialogue {
    text: Text,
    /// What precedes the request in a reply.
    prefix: Option<LocalTime>,
    prefix_bytes: usize,
}

/// What is wrong with a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Of the reply's bytes, the first wrong one.
    Byte { at: usize, got: u8, due: u8 },
    /// All right, as far as it goes.
    Length { got: usize, due: usize },
    /// No time, or not the one of this machine's clock.
    Time { got: String, due: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Byte { at, got, due } => write!(f, "byte {at} of its reply is {got:#04x}, not {due:#04x}"),
            Fault::Length { got, due } => write!(f, "its reply has {}, not {due}", counted(*got, "byte")),
            Fault::Time { got, due } => write!(f, "its reply begins with {got:?}, when it is {due:?}"),
        }
    }
}

impl Dialogue {
    pub fn of(service: Service) -> Dialogue {
        Dialogue {
            text: Text::random(service),
            prefix: (service == Service::Time).then(LocalTime::system),
            prefix_bytes: prefix_bytes(service),
        }
    }

    /// The size of the reply to a request of this size.
    pub fn reply_bytes(&self, request_bytes: usize) -> usize {
        self.prefix_bytes + request_bytes
    }

    /// A request of `size` bytes, the header being the one for the same socket and sequence number.
    pub fn request<'a>(
        &'a self,
        header: &'a Header,
        socket: usize,
        sequence: u64,
        size: usize,
    ) -> [IoSlice<'a>; 2] {
        let text = self.text.requests(self.position(socket, sequence), (size - HEADER_BYTES) as u64);
        [IoSlice::new(header), IoSlice::new(text)]
    }

    /// The socket and the sequence number of the request that a reply says it answers.
    pub fn identify(&self, reply: &[u8]) -> Option<(usize, u64)> {
        read_header(reply.get(self.prefix_bytes..)?.first_chunk()?)
    }

    /// What is wrong with the reply to a request that was sent `age` ago. Of a request that is not remembered the size is
    /// not known.
    pub fn fault(
        &mut self,
        reply: &[u8],
        socket: usize,
        sequence: u64,
        size: Option<usize>,
        age: Duration,
    ) -> Option<Fault> {
        let (prefix, rest) = reply.split_at(reply.len().min(self.prefix_bytes));
        if let Some(time) = &mut self.prefix {
            let now = SystemTime::now();
            if !time.is_told(prefix, now, age) {
                let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let got = String::from_utf8_lossy(prefix).into_owned();
                return Some(Fault::Time { got, due: time.text(second as i64) });
            }
        }
        let (header, text) = rest.split_at(rest.len().min(HEADER_BYTES));
        let due = header_of(socket, sequence);
        let wrong = header.iter().zip(due).position(|(&got, due)| got != due).map(|at| (at, due[at]));
        let wrong = wrong.or_else(|| {
            let (at, due) = self.text.first_wrong(self.position(socket, sequence), text)?;
            Some((HEADER_BYTES + at, due))
        });
        let due_bytes = size.map_or(reply.len(), |size| self.reply_bytes(size));
        match wrong.map(|(at, due)| (self.prefix_bytes + at, due)) {
            Some((at, due)) if at < due_bytes => Some(Fault::Byte { at, got: reply[at], due }),
            _ if reply.len() != due_bytes => Some(Fault::Length { got: reply.len(), due: due_bytes }),
            _ => None,
        }
    }

    /// In how many bytes a reply differs from the one to this request, as far as the header and the beginning of the text
    /// tell.
    pub fn unlikeness(&self, reply: &[u8], socket: usize, sequence: u64, size: usize) -> usize {
        let rest = reply.get(self.prefix_bytes..).unwrap_or_default();
        let (header, text) = rest.split_at(rest.len().min(HEADER_BYTES));
        let likeness = |got: &[u8], due: &[u8]| got.iter().zip(due).filter(|(got, due)| got == due).count();
        let text_bytes = (size - HEADER_BYTES).min(LIKENESS_BYTES);
        let text_due = self.text.replies(self.position(socket, sequence), text_bytes as u64);
        HEADER_BYTES + text_bytes - likeness(header, &header_of(socket, sequence)) - likeness(text, text_due)
    }

    fn position(&self, socket: usize, sequence: u64) -> u64 {
        self.text.start(socket) + sequence * TEXT_STRIDE
    }
}

/// The header of a request. The socket's number is less than `SOCKETS_MAX`.
pub fn header_of(socket: usize, sequence: u64) -> Header {
    let number = (socket as u64) << SEQUENCE_BITS | sequence;
    let check = number % CHECK_PRIME;
    std::array::from_fn(|index| {
        let (of, from_the_end) = match index.checked_sub(NUMBER_CHARACTERS) {
            None => (number, NUMBER_CHARACTERS - 1 - index),
            Some(index) => (check, HEADER_BYTES - NUMBER_CHARACTERS - 1 - index),
        };
        ZERO + (of >> (6 * from_the_end) & 63) as u8
    })
}

fn read_header(header: &Header) -> Option<(usize, u64)> {
    let digits = |characters: &[u8]| {
        characters.iter().try_fold(0_u64, |sum, character| match character.wrapping_sub(ZERO) {
            digit @ 0..64 => Some(sum << 6 | u64::from(digit)),
            _ => None,
        })
    };
    let (number, check) = header.split_at(NUMBER_CHARACTERS);
    let number = digits(number)?;
    (digits(check)? == number % CHECK_PRIME)
        .then_some(((number >> SEQUENCE_BITS) as usize, number & ((1 << SEQUENCE_BITS) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(dialogue: &Dialogue, socket: usize, sequence: u64, size: usize) -> Vec<u8> {
        let header = header_of(socket, sequence);
        dialogue.request(&header, socket, sequence, size).map(|piece| piece.to_vec()).concat()
    }

    #[test]
    fn a_header_says_which_request_it_is_also_in_upper_case() {
        for socket in [0, 1, 77, SOCKETS_MAX - 1] {
            for sequence in [0, 1, 4093, 123_456_789, (1 << SEQUENCE_BITS) - 1] {
                let header = header_of(socket, sequence);
                assert_eq!(header.to_ascii_uppercase(), header);
                assert_eq!(read_header(&header), Some((socket, sequence)));
            }
        }
    }

    #[test]
    fn no_header_with_one_wrong_character_is_another_header() {
        let header = header_of(3, 1_000_003);
        for at in 0..HEADER_BYTES {
            for byte in (0..=255).filter(|&byte| byte != header[at]) {
                let mut wrong = header;
                wrong[at] = byte;
                assert_eq!(read_header(&wrong), None, "{at} {byte}");
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let mut dialogue = Dialogue::of(Service::Echo);
        let right = reply(&dialogue, 5, 9, 1500);
        assert_eq!(dialogue.fault(&right, 5, 9, Some(1500), Duration::ZERO), None);
        for at in [0, 11, 12, 13, 1499] {
            let mut wrong = right.clone();
            wrong[at] ^= 0x20;
            let fault = dialogue.fault(&wrong, 5, 9, Some(1500), Duration::ZERO);
            assert_eq!(fault, Some(Fault::Byte { at, got: wrong[at], due: right[at] }));
        }
    }

    #[test]
    fn too_few_and_too_many_bytes_are_wrong() {
        let mut dialogue = Dialogue::of(Service::Echo);
        let right = reply(&dialogue, 0, 0, 64);
        let mut fault = |reply: &[u8]| dialogue.fault(reply, 0, 0, Some(64), Duration::ZERO);
        for len in [0, 11, 12, 63] {
            assert_eq!(fault(&right[..len]), Some(Fault::Length { got: len, due: 64 }));
        }
        assert_eq!(fault(&[&right[..], b"!"].concat()), Some(Fault::Length { got: 65, due: 64 }));
        // What is not remembered is as long as it is.
        assert_eq!(dialogue.fault(&right[..63], 0, 0, None, Duration::ZERO), None);
    }

    #[test]
    fn an_echo_is_no_uppercase_and_a_time_comes_first() {
        let mut uppercase = Dialogue::of(Service::Uppercase);
        let echo = reply(&uppercase, 1, 2, 64);
        assert_eq!(uppercase.identify(&echo), Some((1, 2)));
        assert!(uppercase.fault(&echo, 1, 2, Some(64), Duration::ZERO).is_some());
        let upper = echo.to_ascii_uppercase();
        assert_eq!(uppercase.fault(&upper, 1, 2, Some(64), Duration::ZERO), None);

        let mut time = Dialogue::of(Service::Time);
        assert_eq!(time.identify(&echo), None);
        let fault = time.fault(&echo, 1, 2, Some(64), Duration::ZERO);
        assert!(matches!(fault, Some(Fault::Time { .. })), "{fault:?}");
    }

    #[test]
    fn the_likest_request_is_the_one_whose_header_broke() {
        let dialogue = Dialogue::of(Service::Echo);
        for at in 0..HEADER_BYTES {
            let mut wrong = reply(&dialogue, 2, 500, 64);
            wrong[at] ^= 1;
            let likest = (0..1000).min_by_key(|&sequence| dialogue.unlikeness(&wrong, 2, sequence, 64));
            assert_eq!(likest, Some(500));
        }
    }
}
