//! Messages in a stream of bytes: lines, and text without a line ending that is followed by a pause.
//!
//! A message is a line that ends with LF or CRLF. Many simple clients send text without a line ending and wait for an answer,
//! so until a connection has sent its first newline, bytes that stay unterminated for the message pause are a message too.
//! After the first newline, only newlines end messages. The end of the stream also ends a message.
//!
//! ```text
//!  bytes ─► Framed<S>: input ─► Framing::next ─► Message ─► S::message
//!                │                   │ none yet
//!                │ kept by the engine ◄─┘ deadline in a pause's time ─► the same bytes are offered again, as a message
//! ```
//!
//! [`Framing`] implements these rules on bytes. [`Framed`] turns a type that answers messages into a service:
//!
//! ```
//! use tidewheel::framing::{Answer, Framed, Message, Next, Rules};
//! use tidewheel::sim::{Faults, Sim};
//! use tidewheel::{ConnId, Context};
//!
//! struct Reverse;
//!
//! impl Answer for Reverse {
//!     fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
//!         let reversed: Vec<u8> = message.text.iter().rev().copied().collect();
//!         cx.send(conn, &reversed);
//!         cx.send(conn, message.ending.bytes());
//!         Next::Message
//!     }
//! }
//!
//! let mut sim = Sim::new(0, Faults::none());
//! let reverse = sim.listen("127.0.0.1:7", Framed::new(Reverse, Rules::default()));
//! let peer = sim.connect(reverse);
//! sim.send(peer, b"abc\r\ndef\n");
//! sim.settle();
//! assert_eq!(sim.received(peer), b"cba\r\nfed\n");
//! ```

use std::borrow::Cow;
use std::time::Duration;

use crate::connection::CloseReason;
use crate::datagram::Datagram;
use crate::service::{Arrival, Context, Service};
use crate::slots::{ConnId, ConnMap};
use crate::timer::Instant;

/// What ended a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The message pause, the end of the stream, or the end of the datagram.
    #[default]
    None,
    /// A line feed.
    Lf,
    /// A carriage return and a line feed.
    CrLf,
}

impl Ending {
    /// Its bytes, to end a reply like its request.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Ending::None => b"",
            Ending::Lf => b"\n",
            Ending::CrLf => b"\r\n",
        }
    }
}

/// A message as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its bytes without the ending. May be empty.
    pub text: &'a [u8],
    /// What ended it.
    pub ending: Ending,
}

impl Message<'_> {
    /// How many bytes of the stream it takes, including its ending.
    pub fn stream_bytes(&self) -> usize {
        self.text.len() + self.ending.bytes().len()
    }
}

/// A message was longer than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// The rules for all connections of a service. Outside this crate, begin with [`Rules::default`] and change single fields:
///
/// ```
/// let mut rules = tidewheel::framing::Rules::default();
/// rules.line_bytes_max = 1000;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// The pause after which text without a newline is a message; with `None`, only newlines end messages. Default: 50 ms.
    pub message_pause: Option<Duration>,
    /// The longest message, in bytes without its ending. Default: 32 KiB.
    pub line_bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { message_pause: Some(Duration::from_millis(50)), line_bytes_max: 32 << 10 }
    }
}

/// The state of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    /// It has sent a newline: from now on nothing else ends a message.
    lines: bool,
    /// So many bytes at the front of what is left are known to hold no newline.
    searched: u32,
    /// So many bytes at the front of what is left have been a message since the pause was over.
    paused: u32,
}

impl Framing {
    /// The message at the front of `input`, which begins where the last message ended; `None` if there is none yet.
    ///
    /// # Errors
    /// [`TooLong`]: the connection is to be closed.
    pub fn next<'a>(&mut self, input: &'a [u8], rules: &Rules) -> Result<Option<Message<'a>>, TooLong> {
        let paused = std::mem::take(&mut self.paused) as usize;
        if paused > 0 {
            self.searched = 0;
            return unended(input.get(..paused).unwrap_or(input), rules);
        }
        let searched = (self.searched as usize).min(input.len());
        let Some(at) = memchr::memchr(b'\n', &input[searched..]).map(|at| searched + at) else {
            // The last byte may be the first half of an ending.
            if input.len() > rules.line_bytes_max + usize::from(input.ends_with(b"\r")) {
                return Err(TooLong);
            }
            self.searched = u32::try_from(input.len()).unwrap_or(0);
            return Ok(None);
        };
        self.lines = true;
        self.searched = 0;
        let (text, ending) = match input[..at].strip_suffix(b"\r") {
            Some(text) => (text, Ending::CrLf),
            None => (&input[..at], Ending::Lf),
        };
        if text.len() > rules.line_bytes_max { Err(TooLong) } else { Ok(Some(Message { text, ending })) }
    }

    /// Whether the message pause will make a message of the `left` bytes for which [`Framing::next`] returned `None`.
    pub fn awaits_pause(&self, left: usize) -> bool {
        left > 0 && !self.lines
    }

    /// The message pause has passed: the bytes for which [`Framing::next`] returned `None` are a message now.
    pub fn pause(&mut self) {
        if !self.lines {
            self.paused = self.searched;
        }
    }
}

/// What is left without an ending, as a message.
fn unended<'a>(text: &'a [u8], rules: &Rules) -> Result<Option<Message<'a>>, TooLong> {
    if text.len() > rules.line_bytes_max {
        return Err(TooLong);
    }
    Ok((!text.is_empty()).then_some(Message { text, ending: Ending::None }))
}

/// What a connection does after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Continue with the next message.
    Message,
    /// The service has closed it; the rest of its input is dropped.
    Nothing,
}

/// A type that answers messages: [`Framed`] turns it into a [`Service`].
pub trait Answer: 'static {
    /// See [`Service::open`].
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        let _ = (conn, arrival, cx);
    }

    /// A connection has sent a message.
    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next;

    /// The time until which the next message of a connection is delayed, if it is: reading from the connection is suspended
    /// until then. The last message, at the end of the stream, is not delayed.
    fn hold(&mut self, conn: ConnId, cx: &mut Context<'_>) -> Option<Instant> {
        let _ = (conn, cx);
        None
    }

    /// A message was longer than [`Rules::line_bytes_max`]. After this call, in which a last answer can be sent, the connection
    /// is closed for [`CloseReason::InputLimit`].
    fn too_long(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let _ = (conn, cx);
    }

    /// See [`Service::closed`].
    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        let _ = (conn, reason, cx);
    }

    /// See [`Service::datagram`].
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        let _ = (datagram, cx);
    }

    /// See [`Service::refusal`].
    fn refusal(&self, reason: CloseReason) -> Cow<'static, [u8]> {
        Service::refusal(&Unframed, reason)
    }
}

/// What refuses as every service does.
struct Unframed;

impl Service for Unframed {}

/// A service whose connections exchange messages. It sets the deadlines of its connections itself: the [`Answer`] must not use
/// [`Context::set_deadline`]. `Framed` would take that deadline for its own.
///
/// To receive messages from other threads, implement [`Receive`](crate::Receive) for `Framed` of your type, with a message type
/// of your own: the compiler refuses one of another crate, such as `String` (E0117). [`Framed::get_mut`] gives the [`Answer`].
pub struct Framed<A> {
    answer: A,
    rules: Rules,
    conns: ConnMap<Conn>,
}

#[derive(Clone, Copy, Default)]
struct Conn {
    framing: Framing,
    /// It is held, and its deadline is when that ends.
    held: bool,
}

/// Why no more messages are taken from a connection for now.
enum Stop {
    /// There is none, or no room for an answer.
    Waits,
    /// It is held until then.
    Held(Instant),
    /// It is being closed.
    Closed,
}

impl<A: Answer> Framed<A> {
    /// A service of messages by these rules.
    pub fn new(answer: A, rules: Rules) -> Framed<A> {
        Framed { answer, rules, conns: ConnMap::new() }
    }

    /// The [`Answer`].
    pub fn get_ref(&self) -> &A {
        &self.answer
    }

    /// The [`Answer`], to change it.
    pub fn get_mut(&mut self) -> &mut A {
        &mut self.answer
    }

    /// Takes messages from the front of `bytes`, and returns how many bytes that was. The end of the stream, `last`,
    /// waits for nothing.
    fn take(
        &mut self,
        conn: ConnId,
        framing: &mut Framing,
        bytes: &[u8],
        last: bool,
        cx: &mut Context<'_>,
    ) -> (usize, Stop) {
        let mut taken = 0;
        loop {
            if !last {
                if cx.room(conn) == 0 {
                    return (taken, Stop::Waits);
                }
                if taken < bytes.len()
                    && let Some(until) = self.answer.hold(conn, cx)
                {
                    return (taken, Stop::Held(until));
                }
            }
            let rest = &bytes[taken..];
            let next = match framing.next(rest, &self.rules) {
                Ok(None) if last => unended(rest, &self.rules),
                next => next,
            };
            match next {
                Ok(Some(message)) => {
                    taken += message.stream_bytes();
                    cx.count_messages(1);
                    if self.answer.message(conn, message, cx) == Next::Nothing {
                        return (bytes.len(), Stop::Closed);
                    }
                }
                Ok(None) => return (taken, Stop::Waits),
                Err(TooLong) => {
                    self.answer.too_long(conn, cx);
                    cx.close_for(conn, CloseReason::InputLimit);
                    return (bytes.len(), Stop::Closed);
                }
            }
        }
    }
}

impl<A: Answer> Service for Framed<A> {
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        self.conns.insert(conn, Conn::default());
        self.answer.open(conn, arrival, cx);
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut state = self.conns.get(conn).copied().unwrap_or_default();
        let awaited_pause = state.framing.searched > 0;
        let (taken, stop) = self.take(conn, &mut state.framing, bytes, false, cx);
        match (stop, self.rules.message_pause) {
            (Stop::Held(until), _) => {
                state.held = true;
                cx.pause(conn);
                cx.set_deadline(conn, until);
            }
            (Stop::Waits, Some(pause)) if state.framing.awaits_pause(bytes.len() - taken) => {
                cx.set_deadline(conn, cx.now() + pause);
            }
            (Stop::Waits, Some(_)) if awaited_pause => cx.clear_deadline(conn),
            (Stop::Waits | Stop::Closed, _) => {}
        }
        if let Some(kept) = self.conns.get_mut(conn) {
            *kept = state;
        }
        taken
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let Some(state) = self.conns.get_mut(conn) else { return };
        if std::mem::take(&mut state.held) {
            cx.resume(conn);
        } else {
            state.framing.pause();
            cx.offer_again(conn);
        }
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        let mut framing = self.conns.get(conn).map(|state| state.framing).unwrap_or_default();
        let (_, stop) = self.take(conn, &mut framing, rest, true, cx);
        if !matches!(stop, Stop::Closed) {
            cx.close(conn);
        }
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        self.conns.remove(conn);
        self.answer.closed(conn, reason, cx);
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.count_messages(1);
        self.answer.datagram(datagram, cx);
    }

    fn refusal(&self, reason: CloseReason) -> Cow<'static, [u8]> {
        self.answer.refusal(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { message_pause: None, line_bytes_max: 8 };

    /// All messages, and what is left behind them.
    type Outcome = (Vec<(Vec<u8>, Ending)>, Result<Vec<u8>, TooLong>);

    /// What comes of these pieces, each offered behind what was left of those before.
    fn frame<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let (mut framing, mut kept, mut messages) = (Framing::default(), Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            loop {
                match framing.next(&kept, &RULES) {
                    Ok(Some(message)) => {
                        messages.push((message.text.to_vec(), message.ending));
                        kept.drain(..message.stream_bytes());
                    }
                    Ok(None) => break,
                    Err(TooLong) => return (messages, Err(TooLong)),
                }
            }
        }
        (messages, Ok(kept))
    }

    #[test]
    fn lines_can_be_split_at_every_byte() {
        let text = b"one\ntwo\r\n\n\r\nthr\ree\r\r\n12345678\r\nrest";
        let whole = frame([&text[..]]);
        let expected: [(&[u8], Ending); 6] = [
            (b"one", Ending::Lf),
            (b"two", Ending::CrLf),
            (b"", Ending::Lf),
            (b"", Ending::CrLf),
            (b"thr\ree\r", Ending::CrLf),
            (b"12345678", Ending::CrLf),
        ];
        let expected: Vec<_> = expected.map(|(text, ending)| (text.to_vec(), ending)).into();
        assert_eq!(whole, (expected, Ok(b"rest".to_vec())));
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(frame(pieces), whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_so_however_it_is_split() {
        for (text, is_too_long) in [
            (&b"12345678\n"[..], false),
            (b"12345678\r\n", false),
            (b"12345678\r", false),
            (b"123456789", true),
            (b"123456789\n", true),
            (b"12345678\rx", true),
        ] {
            for at in 0..=text.len() {
                let (messages, rest) = frame([&text[..at], &text[at..]]);
                assert_eq!(rest.is_err(), is_too_long, "{} split at {at}", text.escape_ascii());
                assert_eq!(messages.is_empty(), is_too_long || !text.ends_with(b"\n"));
            }
        }
    }

    #[test]
    fn a_pause_ends_a_message_until_the_first_newline() {
        let mut framing = Framing::default();
        assert_eq!(framing.next(b"hel", &RULES), Ok(None));
        assert!(framing.awaits_pause(3));
        framing.pause();
        // What came behind it belongs to the next one.
        let first = framing.next(b"hello\n", &RULES);
        assert_eq!(first, Ok(Some(Message { text: b"hel", ending: Ending::None })));
        let second = framing.next(b"lo\n", &RULES);
        assert_eq!(second, Ok(Some(Message { text: b"lo", ending: Ending::Lf })));
        assert_eq!(framing.next(b"more", &RULES), Ok(None));
        assert!(!framing.awaits_pause(4));
        framing.pause();
        assert_eq!(framing.next(b"more", &RULES), Ok(None));
    }

    #[test]
    fn a_pause_lifts_no_limit() {
        // The carriage return may have been the first half of an ending; now it is not.
        let mut framing = Framing::default();
        assert_eq!(framing.next(b"12345678\r", &RULES), Ok(None));
        framing.pause();
        assert_eq!(framing.next(b"12345678\r", &RULES), Err(TooLong));
        assert_eq!(unended(b"12345678\r", &RULES), Err(TooLong));
    }

    #[test]
    fn a_pause_without_anything_before_it_is_no_message() {
        let mut framing = Framing::default();
        assert_eq!(framing.next(b"", &RULES), Ok(None));
        assert!(!framing.awaits_pause(0));
        framing.pause();
        assert_eq!(framing.next(b"", &RULES), Ok(None));
    }
}
