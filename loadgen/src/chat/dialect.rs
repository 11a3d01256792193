//! How servers that pass lines on are spoken to, and what they say.
//!
//! ```text
//!                to get in                 to say a line          what the others are told
//!     tidewheel  NICK, /join ROOM          TEXT                   NICK: TEXT
//!     lines      be connected              NICK: TEXT             NICK: TEXT
//!     redis      SUBSCRIBE ROOM            PUBLISH ROOM NICK: TEXT   message ROOM NICK: TEXT
//!     nats       CONNECT, SUB ROOM, PING   PUB ROOM NICK: TEXT    MSG ROOM NICK: TEXT
//! ```
//!
//! Where the server adds no name the member writes it itself: the bytes that are verified are the same everywhere, and
//! what is beside them is the protocol's own. Nothing here allocates for what came.

mod nats;
mod redis;

use std::str::FromStr;

use serde::Serialize;

/// Whom the load speaks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Nicknames, rooms, and a server that talks itself.
    #[default]
    Tidewheel,
    /// One room, in which every line goes to everybody else as it is.
    Lines,
    /// A channel is a room. Whoever has subscribed to one cannot publish, so those who talk hear nothing.
    Redis,
    /// A subject is a room.
    Nats,
}

/// What lets everybody know that the server passes lines on, where it says nothing itself: one member says it until all
/// others have heard it.
pub const HELLO: &[u8] = b"* hello\n";

/// A thing that the server has told a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A line where the server itself speaks in lines, too: it may be either.
    Spoken(&'a [u8]),
    /// A line of somebody in the room.
    Said(&'a [u8]),
    /// A line with another room's name on it.
    Elsewhere(&'a [u8]),
    /// The member is in its room.
    Entered,
    /// So many have been sent the line.
    Receipt(u64),
    /// It wants [`PONG`] for an answer.
    Ping,
    /// Something is wrong, in its own words.
    Complaint(&'a [u8]),
    /// Nothing that matters.
    Remark,
    /// It does not speak this dialect.
    Nonsense,
}

/// The answer to [`Heard::Ping`].
pub const PONG: &[u8] = b"PONG\r\n";

impl Dialect {
    const ALL: [Dialect; 4] = [Dialect::Tidewheel, Dialect::Lines, Dialect::Redis, Dialect::Nats];

    /// As it is written on the command line.
    fn name(self) -> &'static str {
        match self {
            Dialect::Tidewheel => "tidewheel",
            Dialect::Lines => "lines",
            Dialect::Redis => "redis",
            Dialect::Nats => "nats",
        }
    }

    /// Whether there can be more than one room.
    pub fn has_rooms(self) -> bool {
        self != Dialect::Lines
    }

    /// Whether those who talk hear the others who do.
    pub fn senders_listen(self) -> bool {
        self != Dialect::Redis
    }

    /// Whether the server writes the sender's name before a line.
    pub fn adds_names(self) -> bool {
        self == Dialect::Tidewheel
    }

    /// Whether each line is answered to its sender.
    pub fn has_receipts(self) -> bool {
        self == Dialect::Redis
    }

    /// Whether the server lets nobody know that they are in.
    pub fn needs_hello(self) -> bool {
        self == Dialect::Lines
    }

    /// Appends what a member says to get into a room. `talks` is for those who will say something there.
    pub fn enter(self, nick: &str, room: &str, talks: bool, out: &mut Vec<u8>) {
        match self {
            Dialect::Tidewheel => out.extend(format!("{nick}\n/join {room}\n").bytes()),
            Dialect::Lines => {}
            Dialect::Redis => redis::enter(room, talks, out),
            Dialect::Nats => nats::enter(nick, room, out),
        }
    }

    /// Appends what a member sends to say a line, which comes without its end.
    pub fn say(self, line: &[u8], room: &str, out: &mut Vec<u8>) {
        match self {
            Dialect::Tidewheel | Dialect::Lines => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            Dialect::Redis => redis::say(line, room, out),
            Dialect::Nats => nats::say(line, room, out),
        }
    }

    /// The first thing that a member of `room` was told with these bytes, and of how many of them it consists. `None` if
    /// its end has not come.
    pub fn hear<'a>(self, bytes: &'a [u8], room: &str) -> Option<(Heard<'a>, usize)> {
        match self {
            Dialect::Tidewheel => until(bytes, b"\n").map(|(line, len)| (Heard::Spoken(line), len)),
            Dialect::Lines => until(bytes, b"\n").map(|(line, len)| match &bytes[..len] {
                HELLO => (Heard::Entered, len),
                _ => (Heard::Said(line), len),
            }),
            Dialect::Redis => redis::hear(bytes, room),
            Dialect::Nats => nats::hear(bytes, room),
        }
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Dialect, String> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == text).ok_or_else(|| {
            let names = Dialect::ALL.map(Dialect::name).join(", ");
            format!("unknown dialect '{text}'; the dialects are {names}")
        })
    }
}

/// What comes before the first end of a line, and the length of it with this end. A line that ends in another way keeps
/// that, so that it is nothing that anybody knows.
fn until<'a>(bytes: &'a [u8], end: &[u8]) -> Option<(&'a [u8], usize)> {
    let len = memchr::memchr(b'\n', bytes)? + 1;
    let line = &bytes[..len];
    Some((line.strip_suffix(end).unwrap_or(line), len))
}

/// The number that all of these bytes are. They are few: what would overflow is none.
fn number(bytes: &[u8]) -> Option<usize> {
    const DIGITS_MAX: usize = 9;
    if bytes.is_empty() || bytes.len() > DIGITS_MAX {
        return None;
    }
    bytes
        .iter()
        .try_fold(0, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a member of `room` hears of these bytes, and how many of them are left.
    fn all<'a>(dialect: Dialect, mut bytes: &'a [u8], room: &str) -> (Vec<Heard<'a>>, usize) {
        let mut heard = Vec::new();
        while let Some((one, len)) = dialect.hear(bytes, room) {
            heard.push(one);
            bytes = &bytes[len..];
        }
        (heard, bytes.len())
    }

    #[test]
    fn whole_things_are_heard_and_parts_are_waited_for() {
        let red = "red";
        for (dialect, bytes, expected) in [
            (Dialect::Tidewheel, "a: b\n* c\n", &[Heard::Spoken(b"a: b"), Heard::Spoken(b"* c")][..]),
            (Dialect::Lines, "a: b\n* hello\n\n", &[Heard::Said(b"a: b"), Heard::Entered, Heard::Said(b"")]),
            (
                Dialect::Redis,
                "*3\r\n$9\r\nsubscribe\r\n$3\r\nred\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$3\r\nred\r\n$4\r\na\r\nb\r\n\
                 *3\r\n$7\r\nmessage\r\n$4\r\nblue\r\n$1\r\nx\r\n+PONG\r\n:12\r\n-ERR no\r\n",
                &[
                    Heard::Entered,
                    Heard::Said(b"a\r\nb"),
                    Heard::Elsewhere(b"x"),
                    Heard::Entered,
                    Heard::Receipt(12),
                    Heard::Complaint(b"-ERR no"),
                ],
            ),
            (
                Dialect::Nats,
                "INFO {}\r\nPONG\r\nMSG red 1 4\r\na\r\nb\r\nPING\r\nMSG blue 1 1\r\nx\r\n-ERR 'no'\r\n",
                &[
                    Heard::Remark,
                    Heard::Entered,
                    Heard::Said(b"a\r\nb"),
                    Heard::Ping,
                    Heard::Elsewhere(b"x"),
                    Heard::Complaint(b"-ERR 'no'"),
                ],
            ),
        ] {
            let bytes = bytes.as_bytes();
            assert_eq!(all(dialect, bytes, red), (expected.to_vec(), 0), "{dialect:?}");
            // In two pieces, wherever they are apart, it is the same.
            for at in 0..bytes.len() {
                let (first, left) = all(dialect, &bytes[..at], red);
                let (second, rest) = all(dialect, &bytes[at - left..], red);
                assert_eq!((first.len() + second.len(), rest), (expected.len(), 0), "{dialect:?} {at}");
            }
        }
    }

    #[test]
    fn what_has_not_its_form_is_nonsense() {
        for (dialect, bytes) in [
            (Dialect::Redis, "hello\r\n"),
            (Dialect::Redis, ":x\r\n"),
            (Dialect::Redis, ":1\n"),
            (Dialect::Redis, "*2\r\n"),
            (Dialect::Redis, "*3\r\n:1\r\n"),
            (Dialect::Redis, "*3\r\n$-1\r\n"),
            (Dialect::Redis, "*3\r\n$7\r\nmessagexx"),
            (Dialect::Redis, "*3\r\n$7\r\nmassage\r\n$3\r\nred\r\n$1\r\nx\r\n"),
            (Dialect::Nats, "MSG red 1\r\n"),
            (Dialect::Nats, "MSG red 1 x\r\n"),
            (Dialect::Nats, "MSG red 2 1\r\nx\r\n"),
            (Dialect::Nats, "MSG red 1 1\r\nxy\r"),
            (Dialect::Nats, "hello\r\n"),
        ] {
            let heard = dialect.hear(bytes.as_bytes(), "red");
            assert!(matches!(heard, Some((Heard::Nonsense, _))), "{bytes:?}: {heard:?}");
        }
    }

    #[test]
    fn dialects_are_known_by_name() {
        assert_eq!(Dialect::ALL.map(|dialect| dialect.name().parse()), Dialect::ALL.map(Ok));
        assert!("irc".parse::<Dialect>().unwrap_err().contains("tidewheel, lines, redis, nats"));
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!((number(b"0"), number(b"123456789")), (Some(0), Some(123_456_789)));
        assert_eq!([&b""[..], b"1234567890", b"-1", b"1 "].map(number), [None; 4]);
    }
}
