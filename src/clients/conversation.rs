//! A conversation: lines go to a peer, and what it says is shown as it comes, until one of the two ends it.
//!
//! ```text
//!  console ──line, ending──► out ──► link ──► peer
//!     ▲                                │
//!     └── shown: lines, or the rest of one after a pause ◄── link
//! ```
//!
//! There is one thread. Whatever has to wait, waits for a time in which nothing happens at all; only the farewell is over at
//! a certain time, however much is still said.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Failure;
use super::console::{Console, Input};
use super::introduction::{Answer, Introduction};
use super::link::{Link, Listening};
use super::text::{Ending, Eol, Lines};
use super::words::Notice;
use crate::cli::units::Time;

/// What is received at once: no datagram of UDP is longer, nor one of unix sockets that is sent with the system's usual
/// buffers.
const PIECE_BYTES: usize = 256 << 10;

/// How long the beginning of a line waits for its end before it is a message: prompts have none, nor has what tutorials
/// send.
const MESSAGE_PAUSE: Duration = Duration::from_millis(50);

/// How long lines without an ending are kept apart once an answer has come: the server takes what comes together as one
/// message.
const PACE: Duration = Duration::from_millis(100);

/// The same while no answer comes.
const PACE_UNANSWERED: Duration = Duration::from_secs(1);

/// How long a peer may take to close once it was told the word that ends the conversation.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a datagram waits for room where nobody tells when there is some.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// How the two talk.
pub struct Manners {
    /// What ends each line; `None`: what is usual, that is a line feed on streams, and nothing in datagrams.
    pub eol: Option<Eol>,
    /// The word that ends the conversation.
    pub until: Option<Ending>,
    /// What stands before each line that is sent.
    pub prefix: Option<fn() -> String>,
    /// How long the peer may be silent after the end of input; `None`: as long as is usual.
    pub wait: Option<Time>,
}

/// How long a stream may be silent after the end of input.
const WAIT_STREAM: Duration = Duration::from_secs(10);

/// The same for datagrams, where silence is the only end that there is.
const WAIT_DATAGRAMS: Duration = Duration::from_secs(1);

/// How a conversation ended.
#[derive(Debug)]
pub enum Outcome {
    /// The peer closed.
    Closed,
    /// The word was said.
    Farewell,
    /// The input was over, and then the peer had nothing more to say.
    Done,
    /// SIGINT, SIGTERM or Ctrl-C.
    Stopped,
    /// The connection broke, or the peer did not do what it should.
    Failed(Failure),
}

impl Outcome {
    /// # Errors
    /// What went wrong.
    pub fn in_order(self) -> Result<(), Failure> {
        match self {
            Outcome::Failed(failure) => Err(failure),
            Outcome::Closed | Outcome::Farewell | Outcome::Done | Outcome::Stopped => Ok(()),
        }
    }
}

/// A conversation with one peer, or on a socket to which all of them write.
pub struct Conversation<'a> {
    link: &'a mut dyn Link,
    console: &'a mut Console,
    manners: &'a Manners,
    eol: Eol,
    /// Whose name was told last.
    told_peer: Option<String>,
    /// What is on its way to the peer: the rest of a line, or a datagram.
    out: Option<Vec<u8>>,
    lines: Lines,
    pace: Option<Pace>,
    input_ended: bool,
    half_closed: bool,
    /// The peer took no more, before everything was sent.
    unsent: bool,
    /// The word was said here, and the peer may close until then.
    leaving_until: Option<Instant>,
    /// The server has yet to take the nickname: what comes out of a pipe would be taken for another one.
    introduction: Option<Introduction>,
    /// Others were here before: without a peer the end of input is the end of everything.
    is_later: bool,
}

/// A line without an ending was sent, and the next has to keep its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Unanswered,
    Answered,
}

impl<'a> Conversation<'a> {
    pub fn new(link: &'a mut dyn Link, console: &'a mut Console, manners: &'a Manners) -> Conversation<'a> {
        let usual = if link.is_stream() { Eol::Lf } else { Eol::None };
        Conversation {
            eol: manners.eol.unwrap_or(usual),
            told_peer: link.peer().map(str::to_owned),
            link,
            console,
            manners,
            out: None,
            lines: Lines::default(),
            pace: None,
            input_ended: false,
            half_closed: false,
            unsent: false,
            leaving_until: None,
            introduction: None,
            is_later: false,
        }
    }

    /// A conversation that is not the first one on its socket.
    pub fn later(self) -> Conversation<'a> {
        Conversation { is_later: true, ..self }
    }

    /// Says a nickname before all else. Whoever types sees when it is refused; a pipe is not read before it is taken.
    pub fn introduce(&mut self, nick: &str) {
        self.line(nick.as_bytes());
        self.introduction = (!self.console.is_terminal()).then(Introduction::default);
    }

    /// Talks until one of the two ends it.
    ///
    /// # Errors
    /// When a standard stream fails.
    pub fn run(mut self) -> Result<Outcome, Failure> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if let Some(outcome) = self.flush() {
                return Ok(outcome);
            }
            while self.may_speak() && (self.pace.is_none() || !self.console.line_is_next()) {
                match self.console.take() {
                    None => break,
                    Some(Input::Line(line)) => self.line(&line),
                    Some(Input::Bytes(bytes)) if self.link.is_stream() => self.out = Some(bytes),
                    Some(Input::Bytes(_)) => return Ok(self.broken("send to", &Errno::MSGSIZE.into())),
                    Some(Input::End) => self.end_of_input(),
                    Some(Input::Invalid) => self.console.say(&Notice::NotUtf8),
                    Some(Input::Failed(why)) => return Err(terminal_failed(&why)),
                }
                if let Some(outcome) = self.flush() {
                    return Ok(outcome);
                }
            }
            let waits_for_end = self.is_later && self.link.peer().is_none();
            if self.console.is_stopping() || waits_for_end && self.console.input_is_over() {
                return Ok(Outcome::Stopped);
            }
            if (self.input_ended || self.is_leaving()) && self.out.is_none() && !self.half_closed {
                // There is nothing to wait for where nothing can be closed.
                if self.is_leaving() && !self.link.is_stream() {
                    return Ok(Outcome::Farewell);
                }
                self.half_closed = true;
                self.link.half_close();
            }

            let silence = self.silence();
            let to_write = self.out.is_some() && self.link.tells_room();
            let input_wanted = self.may_speak() || waits_for_end && !self.console.line_is_next();
            let ready = self.console.wait(self.link.fd(), to_write, input_wanted, silence)?;
            if self.leaving_until.is_some_and(|until| until <= now()) {
                self.last_words()?;
                return Ok(Outcome::Farewell);
            }
            if ready.silence
                && let Some(outcome) = self.silence_is_over()?
            {
                return Ok(outcome);
            }
            if ready.readable
                && let Some(outcome) = self.receive(&mut piece)?
            {
                return Ok(outcome);
            }
        }
    }

    /// Whether something can be taken from this end. What comes out of a pipe waits until there is somebody for it;
    /// whoever types is told that there is nobody.
    fn may_speak(&self) -> bool {
        let is_heard = self.console.is_terminal() || self.link.peer().is_some();
        is_heard
            && self.out.is_none()
            && self.introduction.is_none()
            && !self.input_ended
            && !self.is_leaving()
    }

    fn is_leaving(&self) -> bool {
        self.leaving_until.is_some()
    }

    /// Sends a line, if there is somebody.
    fn line(&mut self, line: &[u8]) {
        if self.link.peer().is_none() {
            self.console.say(&Notice::Nobody);
            return;
        }
        let is_farewell = self.manners.until.as_ref().is_some_and(|word| word.is(line));
        let mut out = Vec::new();
        // The word itself is told as it is: whoever compares it would not know it behind a prefix.
        if let (Some(prefix), false) = (self.manners.prefix, is_farewell) {
            out.extend_from_slice(prefix().as_bytes());
        }
        out.extend_from_slice(line);
        out.extend_from_slice(self.eol.bytes());
        if self.link.is_stream() && self.eol == Eol::None {
            self.pace = Some(Pace::Unanswered);
        }
        if is_farewell {
            self.leaving_until = Some(now() + FAREWELL);
        }
        // An empty datagram is one, too.
        self.out = (!out.is_empty() || !self.link.is_stream()).then_some(out);
    }

    fn end_of_input(&mut self) {
        self.input_ended = true;
        if let (true, Some(peer)) = (self.console.is_terminal(), self.link.peer()) {
            self.console.say(&Notice::Waiting(peer));
        }
    }

    /// Sends what goes without waiting.
    fn flush(&mut self) -> Option<Outcome> {
        while let Some(out) = &mut self.out {
            match self.link.send(out) {
                Ok(count) if self.link.is_stream() && count < out.len() => drop(out.drain(..count)),
                Ok(_) => self.out = None,
                Err(error) if is_momentary(&error) => return None,
                // It closes without reading what was sent to it: what it said before that is yet to be read.
                Err(error) if self.link.is_stream() && is_broken(&error) => {
                    self.out = None;
                    (self.input_ended, self.half_closed, self.unsent) = (true, true, true);
                }
                Err(error) => return Some(self.broken("send to", &error)),
            }
        }
        None
    }

    /// How long nothing may happen.
    fn silence(&self) -> Option<Duration> {
        if self.out.is_some() && !self.link.tells_room() {
            return Some(ROOM_PAUSE);
        }
        if self.lines.has_beginning() {
            return Some(MESSAGE_PAUSE);
        }
        if let Some(until) = self.leaving_until {
            return Some(until.saturating_duration_since(now()));
        }
        if let Some(introduction) = &self.introduction {
            return Some(if introduction.is_answered() { PACE } else { PACE_UNANSWERED });
        }
        match self.pace {
            Some(Pace::Answered) => return Some(PACE),
            Some(Pace::Unanswered) => return Some(PACE_UNANSWERED),
            None => {}
        }
        if !self.input_ended {
            return None;
        }
        let usual = if self.link.is_stream() { WAIT_STREAM } else { WAIT_DATAGRAMS };
        self.manners.wait.map_or(Some(usual), Time::limit)
    }

    /// What follows from it that nothing has happened for so long.
    fn silence_is_over(&mut self) -> Result<Option<Outcome>, Failure> {
        if self.out.is_some() && !self.link.tells_room() {
            return Ok(None);
        }
        if self.lines.has_beginning() {
            let beginning = self.lines.beginning();
            return self.message(&beginning);
        }
        let was_held_back = self.introduction.is_some() || self.pace.is_some();
        (self.introduction, self.pace) = (None, None);
        if was_held_back {
            return Ok(None);
        }
        if !self.link.is_stream() {
            return Ok(Some(Outcome::Done));
        }
        let peer = self.link.peer().unwrap_or_default();
        Ok(Some(Outcome::Failed(Failure::failed(format!(
            "{peer} sent nothing after the end of input and did not close the connection (to wait longer: --wait)"
        )))))
    }

    fn receive(&mut self, piece: &mut [u8]) -> Result<Option<Outcome>, Failure> {
        let count = match self.link.receive(piece) {
            Ok(count) => count,
            Err(error) if is_momentary(&error) => return Ok(None),
            // After the farewell it need not have read everything.
            Err(_) if self.is_leaving() => return Ok(Some(Outcome::Farewell)),
            Err(error) => {
                self.last_words()?;
                return Ok(Some(self.broken("receive from", &error)));
            }
        };
        if let Some(Pace::Unanswered) = self.pace {
            self.pace = Some(Pace::Answered);
        }
        if !self.link.is_stream() {
            return self.datagram(&piece[..count]);
        }
        if count == 0 {
            let farewell = self.last_words()?;
            let usual = match (self.is_leaving(), self.input_ended) {
                (true, _) => Outcome::Farewell,
                (false, _) if self.unsent || self.out.is_some() || self.console.line_is_next() => {
                    let peer = self.link.peer().unwrap_or_default();
                    let line = format!("{peer} closed the connection before all input was sent");
                    Outcome::Failed(Failure::failed(line))
                }
                (false, true) => Outcome::Done,
                (false, false) => Outcome::Closed,
            };
            return Ok(Some(farewell.unwrap_or(usual)));
        }
        self.stream(&piece[..count])
    }

    fn stream(&mut self, bytes: &[u8]) -> Result<Option<Outcome>, Failure> {
        let shows_lines = self.console.shows_lines();
        if !shows_lines {
            self.console.pass_on(bytes)?;
        }
        let until = self.manners.until.as_ref();
        if shows_lines || until.is_some() {
            let (mut whole, mut is_farewell) = (Vec::new(), false);
            self.lines.take(bytes, |line| {
                if !is_farewell {
                    whole.extend_from_slice(line);
                    is_farewell = until.is_some_and(|word| word.is(line));
                }
            });
            if shows_lines && !whole.is_empty() {
                self.console.show(&whole)?;
            }
            if is_farewell {
                return Ok(Some(Outcome::Farewell));
            }
        }
        self.hear_of_nickname(bytes)
    }

    fn hear_of_nickname(&mut self, bytes: &[u8]) -> Result<Option<Outcome>, Failure> {
        let Some(introduction) = &mut self.introduction else { return Ok(None) };
        match introduction.hear(bytes) {
            Answer::Pending => {}
            Answer::Taken => self.introduction = None,
            Answer::Refused(why) => {
                self.last_words()?;
                let line = format!("the nickname was refused: {why} (choose another one with --nick)");
                return Ok(Some(Outcome::Failed(Failure::failed(line))));
            }
        }
        Ok(None)
    }

    /// The beginning of a line whose end will never come.
    fn last_words(&mut self) -> Result<Option<Outcome>, Failure> {
        if !self.lines.is_within_line() {
            return Ok(None);
        }
        let rest = self.lines.rest();
        self.message(&rest)
    }

    /// A message on a stream, which has been passed on already if it is not shown.
    fn message(&mut self, message: &[u8]) -> Result<Option<Outcome>, Failure> {
        if self.console.shows_lines() {
            self.console.show(message)?;
        }
        let is_farewell = self.manners.until.as_ref().is_some_and(|word| word.is(message));
        Ok(is_farewell.then_some(Outcome::Farewell))
    }

    fn datagram(&mut self, message: &[u8]) -> Result<Option<Outcome>, Failure> {
        if let Some(peer) = self.link.peer()
            && self.told_peer.as_deref() != Some(peer)
        {
            self.console.say(&Notice::Here(peer));
            self.told_peer = Some(peer.to_owned());
        }
        if self.console.shows_lines() {
            self.console.show(message)?;
        } else {
            self.console.pass_on(message)?;
            // So that each is seen to be one.
            if !message.ends_with(b"\n") {
                self.console.pass_on(b"\n")?;
            }
        }
        let is_farewell = self.manners.until.as_ref().is_some_and(|word| word.is(message));
        Ok(is_farewell.then_some(Outcome::Farewell))
    }

    fn broken(&self, what: &str, error: &io::Error) -> Outcome {
        let peer = self.link.peer().unwrap_or("the peer");
        let remedy = match error.kind() {
            ErrorKind::ConnectionRefused => " (no server is listening there)",
            _ if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                " (the line is too long for a datagram)"
            }
            _ => "",
        };
        Outcome::Failed(Failure::failed(format!("cannot {what} {peer}: {error}{remedy}")))
    }
}

/// Waits for the next peer that connects. Lines that are typed in the meantime go nowhere. `None`: the input has ended, or
/// the program is to. The end of a pipe counts once somebody was here (`is_later`): before that it may be all that there is to say.
///
/// # Errors
/// When nobody can be accepted, or the terminal fails.
pub fn next_peer(
    listening: &Listening,
    console: &mut Console,
    is_later: bool,
) -> Result<Option<Box<dyn Link>>, Failure> {
    loop {
        // What comes out of a pipe waits until there is somebody for it.
        while (console.is_terminal() || !console.line_is_next())
            && let Some(input) = console.take()
        {
            match input {
                Input::Line(_) | Input::Bytes(_) => console.say(&Notice::Nobody),
                Input::End => return Ok(None),
                Input::Invalid => console.say(&Notice::NotUtf8),
                Input::Failed(why) => return Err(terminal_failed(&why)),
            }
        }
        if console.is_stopping() {
            return Ok(None);
        }
        let input_wanted = is_later && !console.line_is_next();
        if console.wait(listening.fd(), false, input_wanted, None)?.readable {
            match listening.accept() {
                Ok(link) => return Ok(Some(link)),
                // Gone again before it was greeted.
                Err(error) if is_momentary(&error) || error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(Failure::failed(format!("cannot accept a connection: {error}"))),
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a client has no engine to ask for the time")]
fn now() -> Instant {
    Instant::now()
}

fn terminal_failed(why: &str) -> Failure {
    Failure::failed(format!("cannot read from the terminal: {why}"))
}

fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
