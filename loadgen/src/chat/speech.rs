//! How a chat speaks: what members say, how they are told it, and what the server says itself.
//!
//! ```text
//!     a member says          SENDER SEQUENCE PAYLOAD
//!     the others are told    NICK: SENDER SEQUENCE PAYLOAD
//!     the server says        * anything
//! ```
//!
//! All of a line follows from sender, sequence and size, so nothing of it is kept to verify it.

use std::fmt;

use crate::service::Service;
use crate::text::Text;

/// What asks for a nickname, in the languages of tidewheel's chat. No line end follows.
const PROMPTS: [&str; 2] = ["nickname: ", "请输入昵称:"];

/// From the payload of one line to that of the next, in the text.
const STEP: u64 = 64;

pub struct Speech {
    text: Text,
    /// What all names of this run begin with, so that it meets nobody else's.
    tag: String,
}

/// What a line says that a member was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// Whom the server says it is from.
    nick: &'a [u8],
    pub sender: usize,
    pub sequence: u64,
    pub payload: &'a [u8],
}

impl Speech {
    pub fn new() -> Speech {
        Speech { text: Text::random(Service::Chat), tag: format!("lg{:x}", std::process::id()) }
    }

    /// A member's nickname.
    pub fn nick(&self, member: usize) -> String {
        format!("{}-{member}", self.tag)
    }

    /// A room's name.
    pub fn room(&self, room: usize) -> String {
        format!("{}-r{room}", self.tag)
    }

    /// Appends what a member says, without the line's end.
    pub fn say(&self, sender: usize, sequence: u64, size: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{sender} {sequence} ").as_bytes());
        let mut position = self.position(sender, sequence);
        let end = position + size as u64;
        while position < end {
            let piece = self.text.requests(position, end - position);
            out.extend_from_slice(piece);
            position += piece.len() as u64;
        }
    }

    /// What the others are told of it, without the line's end.
    pub fn line(&self, sender: usize, sequence: u64, size: usize) -> Vec<u8> {
        let mut line = Vec::new();
        self.tell(sender, sequence, size, &mut line);
        line
    }

    /// Appends the same.
    pub fn tell(&self, sender: usize, sequence: u64, size: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{}-{sender}: ", self.tag).as_bytes());
        self.say(sender, sequence, size, out);
    }

    /// What a line claims to be. `None` if it has not the form of one.
    pub fn read<'a>(&self, line: &'a [u8]) -> Option<Told<'a>> {
        let at = memchr::memchr(b':', line)?;
        let (nick, rest) = line.split_at(at);
        let (sender, rest) = number(rest.strip_prefix(b": ")?)?;
        let (sequence, payload) = number(rest)?;
        // More than that cannot be connected, and the text has its bounds.
        let sender = u32::try_from(sender).ok()? as usize;
        Some(Told { nick, sender, sequence, payload })
    }

    /// Whether a member did say this, in all bytes, if it said a line of this number and size.
    pub fn is_genuine(&self, told: &Told<'_>) -> bool {
        let sender = told.nick.strip_prefix(self.tag.as_bytes()).and_then(|rest| rest.strip_prefix(b"-"));
        let is_nick = sender.and_then(digits).is_some_and(|(sender, rest)| {
            rest.is_empty() && usize::try_from(sender).is_ok_and(|sender| sender == told.sender)
        });
        is_nick && self.text.first_wrong(self.position(told.sender, told.sequence), told.payload).is_none()
    }

    fn position(&self, sender: usize, sequence: u64) -> u64 {
        self.text.start(sender) + sequence % (1 << 32) * STEP
    }
}

/// A number as `say` writes it, and what follows it and a space.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = digits(bytes)?;
    Some((number, rest.strip_prefix(b" ")?))
}

/// A number without leading zeros, and what follows it.
fn digits(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = bytes.split_at(len);
    if len == 0 || (len > 1 && digits[0] == b'0') {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    Some((digits.iter().try_fold(0, add)?, rest))
}

/// A line without the prompts before it.
pub fn without_prompts(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = PROMPTS.iter().find_map(|prompt| line.strip_prefix(prompt.as_bytes())) {
        line = rest;
    }
    line
}

/// Whether the server says with this that a nickname is accepted.
pub fn is_welcome(line: &[u8], nick: &str) -> bool {
    let line = String::from_utf8_lossy(line);
    let in_english = line.starts_with("* welcome to ") && line.contains(&format!(", {nick}: "));
    in_english || line.starts_with(&format!("* {nick}，欢迎来到 "))
}

/// Whether the server says with this that one is in a room.
pub fn is_entry(line: &[u8], room: &str) -> bool {
    [format!("* you are in {room}: "), format!("* 你进入了 {room}，")]
        .iter()
        .any(|beginning| line.starts_with(beginning.as_bytes()))
}

/// Whether the server's flood control says this, to slow somebody down or to close.
pub fn is_flood_control(line: &[u8]) -> bool {
    ["* slow down", "* 请慢一点", "* you did not slow down", "* 发送得太快"]
        .iter()
        .any(|beginning| line.starts_with(beginning.as_bytes()))
}

/// Whether the server says this of itself.
pub fn is_announcement(line: &[u8]) -> bool {
    line.starts_with(b"* ")
}

/// Bytes for people to read.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BYTES_MAX: usize = 80;
        let shown = &self.0[..self.0.len().min(BYTES_MAX)];
        let more = if shown.len() < self.0.len() { " ..." } else { "" };
        write!(f, "{:?}{more}", String::from_utf8_lossy(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_again() {
        let speech = Speech::new();
        for (sender, sequence, size) in [(0, 0, 1), (7, 12, 64), (1000, 123_456_789, 200_000)] {
            let line = speech.line(sender, sequence, size);
            let told = speech.read(&line).unwrap();
            assert_eq!((told.sender, told.sequence, told.payload.len()), (sender, sequence, size));
            assert!(speech.is_genuine(&told));
        }
    }

    #[test]
    fn no_byte_can_change_unseen() {
        let speech = Speech::new();
        let line = speech.line(12, 30, 20);
        let original = speech.read(&line).unwrap();
        for at in 0..line.len() {
            for wrong in 0..=255 {
                let mut changed = line.clone();
                changed[at] = wrong;
                let told = speech.read(&changed);
                assert!(
                    wrong == line[at] || told.is_none_or(|told| !speech.is_genuine(&told)),
                    "{at} {wrong}"
                );
            }
            let mut longer = line.clone();
            longer.insert(at, b'0');
            let told = speech.read(&longer).filter(|told| speech.is_genuine(told));
            assert!(told.is_none(), "{at}");
        }
        // One that is cut short is told by its size.
        let cut = speech.read(&line[..line.len() - 1]).unwrap();
        assert!(speech.is_genuine(&cut) && cut.payload.len() < original.payload.len());
    }

    #[test]
    fn lines_without_form_are_none() {
        let speech = Speech::new();
        for line in
            ["", ":", "nick", "nick: ", "nick: 1", "nick: 1 ", "nick: 1 2", "nick: 01 2 x", "nick: 1 +2 x"]
        {
            assert_eq!(speech.read(line.as_bytes()), None, "{line}");
        }
        assert!(speech.read(b"nick: 1 18446744073709551616 x").is_none());
    }

    #[test]
    fn the_server_is_understood_in_both_languages() {
        let english =
            without_prompts(b"nickname: * welcome to lobby, bob: 1 person here; /help lists the commands");
        assert!(is_welcome(english, "bob") && !is_welcome(english, "ob"));
        let chinese = "请输入昵称:* bob，欢迎来到 lobby，这里有 1 人；输入 /help 查看命令";
        assert!(is_welcome(without_prompts(chinese.as_bytes()), "bob"));
        assert!(!is_welcome(b"* the name bob is taken", "bob"));
        assert!(is_entry(b"* you are in rust: 2 people here", "rust"));
        assert!(is_entry("* 你进入了 rust，这里有 2 人".as_bytes(), "rust"));
        assert!(!is_entry(b"* rust has joined", "rust"));
        assert!(is_flood_control(b"* slow down") && is_flood_control(b"* you did not slow down, goodbye"));
    }
}
