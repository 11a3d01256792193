//! Text on its way: messages found in a stream, the ends of lines, and what of a stranger's text may reach a terminal.

use std::fmt::Write as _;

use clap::ValueEnum;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Bytes without a line's end that are kept together; what is longer comes in parts.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// What ends a line that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Eol {
    /// A line feed
    Lf,
    /// A carriage return and a line feed
    Crlf,
    /// No line ending, like the clients of the tutorials
    None,
}

impl Eol {
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Eol::Lf => b"\n",
            Eol::Crlf => b"\r\n",
            Eol::None => b"",
        }
    }
}

/// The word that ends a conversation, in any case and with any line ending.
#[derive(Clone, Debug)]
pub struct Ending(String);

impl Ending {
    pub fn new(word: &str) -> Ending {
        Ending(word.trim().to_lowercase())
    }

    pub fn is(&self, message: &[u8]) -> bool {
        str::from_utf8(message).is_ok_and(|text| text.trim().to_lowercase() == self.0)
    }
}

/// Finds lines in pieces of a stream.
///
/// ```text
///  "hel" ─► nothing;  "lo\nnick" ─► "hello\n";  rest() ─► "nick"
/// ```
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes a piece and hands over the lines that are whole now, each with its end.
    pub fn take(&mut self, mut piece: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            let (rest_of_line, rest) = piece.split_at(end + 1);
            if self.begun.is_empty() {
                line(rest_of_line);
            } else {
                self.begun.extend_from_slice(rest_of_line);
                line(&std::mem::take(&mut self.begun));
            }
            piece = rest;
        }
        self.begun.extend_from_slice(piece);
        if self.begun.len() >= LINE_BYTES_MAX {
            line(&self.beginning());
        }
    }

    /// Whether there is the beginning of a line.
    pub fn is_within_line(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Whether something of it can be shown already.
    pub fn has_beginning(&self) -> bool {
        whole_characters(&self.begun) > 0
    }

    /// The beginning of a line whose end is long in coming. The beginning of a character waits for the rest of it.
    pub fn beginning(&mut self) -> Vec<u8> {
        let character = self.begun.split_off(whole_characters(&self.begun));
        std::mem::replace(&mut self.begun, character)
    }

    /// The beginning of the line whose end will not come.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }
}

/// How many bytes there are before the beginning of a character that is not whole; all, if there is none.
fn whole_characters(bytes: &[u8]) -> usize {
    let is_begun = |at: &usize| str::from_utf8(&bytes[*at..]).is_err_and(|error| error.error_len().is_none());
    // A character has at most four bytes.
    (bytes.len().saturating_sub(3)..bytes.len()).rev().find(is_begun).unwrap_or(bytes.len())
}

/// A message without its line ending.
pub fn without_ending(message: &[u8]) -> &[u8] {
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    message.strip_suffix(b"\r").unwrap_or(message)
}

/// A stranger's message as it may be shown on a terminal, without its line ending: whatever could move the cursor, colour
/// the text, ring or turn the direction of writing is escaped as in a Rust string, what is no UTF-8 as `\xFF`.
pub fn harmless(message: &[u8]) -> String {
    let message = without_ending(message);
    let mut text = String::with_capacity(message.len());
    for chunk in message.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_harmless(character) {
                text.push(character)
            } else {
                text.extend(character.escape_default())
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

/// Whether a terminal only shows it.
pub fn is_harmless(character: char) -> bool {
    // The joiners of some scripts, and of emoji, change no more than the shape of their neighbours.
    matches!(character, '\t' | '\u{200c}' | '\u{200d}')
        || !matches!(
            character.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_the_stream_is_cut() {
        let stream = "one\r\ntwo\n\nthrée\nfour".as_bytes();
        for size in 1..=stream.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                lines.take(piece, |line| found.push(line.to_vec()));
            }
            assert!(lines.is_within_line());
            found.push(lines.rest());
            assert!(!lines.is_within_line());
            let expected: [&[u8]; 5] = [b"one\r\n", b"two\n", b"\n", "thrée\n".as_bytes(), b"four"];
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_never_ends_comes_in_parts() {
        let mut lines = Lines::default();
        let mut parts = 0;
        for _ in 0..3 {
            lines.take(&[b'x'; LINE_BYTES_MAX - 1], |part| {
                parts += 1;
                assert!(part.len() < 2 * LINE_BYTES_MAX);
            });
        }
        assert_eq!(parts, 1);
    }

    #[test]
    fn the_beginning_of_a_character_waits_for_the_rest() {
        for (bytes, whole) in [
            (&b"ab"[..], 2),
            (b"", 0),
            (b"\xe4", 0),
            ("a中".as_bytes(), 4),
            (&"a中".as_bytes()[..3], 1),
            (&"a中".as_bytes()[..2], 1),
            (&"a👩".as_bytes()[..4], 1),
            // None of these can become a character any more.
            (b"a\xb8\xad", 3),
            (b"a\xff", 2),
            (b"\xe4\xb8a", 3),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{}", bytes.escape_ascii());
        }
        let mut lines = Lines::default();
        let (one, other) = "a中\n".as_bytes().split_at(2);
        lines.take(one, |line| panic!("{line:?}"));
        assert!(lines.has_beginning());
        assert_eq!(lines.beginning(), b"a");
        assert!(!lines.has_beginning() && lines.is_within_line());
        let mut found = Vec::new();
        lines.take(other, |line| found.push(line.to_vec()));
        assert_eq!(found, ["中\n".as_bytes()]);
    }

    #[test]
    fn the_word_that_ends_is_known_in_any_case_with_any_line_ending() {
        let bye = Ending::new("bye");
        for message in ["bye", "BYE\n", "Bye\r\n", " bye \r"] {
            assert!(bye.is(message.as_bytes()), "{message:?}");
        }
        for message in ["bye bye", "goodbye", "", "by", "bye!"] {
            assert!(!bye.is(message.as_bytes()), "{message:?}");
        }
        assert!(!bye.is(b"bye\xFF"));
        assert!(Ending::new("ПОКА").is("пока\n".as_bytes()));
    }

    #[test]
    fn readable_text_stays_as_it_is() {
        for text in ["hello, Grüße, 你好, שלום", "a\tb \"c\" \\ 'd'", "e\u{301}, 👩\u{200d}👩\u{200d}👧"]
        {
            assert_eq!(harmless(format!("{text}\r\n").as_bytes()), text);
        }
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_stays() {
        let obeyed = (0..0x20).chain(0x7f..0xa0).filter(|&code| code != 0x09);
        let turning =
            [0x61c, 0x200e, 0x200f, 0x2028, 0x2029].into_iter().chain(0x202a..0x202f).chain(0x2066..0x206a);
        for code in obeyed.chain(turning) {
            let character = char::from_u32(code).expect("these are characters");
            let text = harmless(format!("a{character}b").as_bytes());
            assert!(
                text.starts_with("a\\") && text.ends_with('b') && !text.contains(character),
                "{code:x}: {text}"
            );
        }
        assert_eq!(harmless(b"\x1b[2J\xFF\x9b"), r"\u{1b}[2J\xFF\x9B");
    }
}
