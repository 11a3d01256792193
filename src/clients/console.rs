//! The near end of a conversation: a terminal, or pipes and files where the standard streams are no terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use tidewheel::services::Language;

use super::Failure;
use super::terminal::{self, Terminal};
use super::text::{Lines, harmless, without_ending};
use super::words::Notice;

/// What is read from a pipe at once.
const PIECE_BYTES: usize = 64 << 10;

/// Something that the person at this end, or the program before the pipe, has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, without its ending.
    Line(Vec<u8>),
    /// Some bytes of a pipe, as they are: of any kind, or the beginning of a line that is too long to be kept.
    Bytes(Vec<u8>),
    /// A line was typed that is not UTF-8, and is lost.
    Invalid,
    /// There will be no more.
    End,
    /// Nothing more can be read, for this reason.
    Failed(String),
}

/// What happened while it was waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub readable: bool,
    /// The time was over, and nothing had happened at all.
    pub silence: bool,
}

pub struct Console {
    language: Language,
    side: Side,
    /// The end of input was taken.
    input_is_over: bool,
    /// SIGINT or SIGTERM has come.
    stopping: Arc<AtomicBool>,
    /// Bytes in it wake whoever waits.
    wakes: UnixStream,
}

enum Side {
    Terminal(Terminal),
    Pipes(Pipes),
}

struct Pipes {
    /// Whether the input is taken line by line.
    by_lines: bool,
    lines: Lines,
    inputs: VecDeque<Input>,
    ended: bool,
    /// Whether the output is a terminal all the same.
    out_is_terminal: bool,
}

impl Console {
    /// Takes over the standard streams and the signals. A pipe is read line by line, or as bytes that nobody touches.
    ///
    /// # Errors
    /// When the system has no descriptors for it.
    pub fn open(language: Language, by_lines: bool) -> Result<Console, Failure> {
        let stopping = Arc::<AtomicBool>::default();
        Console::open_streams(language, by_lines, stopping)
            .map_err(|error| Failure::failed(format!("cannot use the standard streams: {error}")))
    }

    fn open_streams(language: Language, by_lines: bool, stopping: Arc<AtomicBool>) -> io::Result<Console> {
        let (wakes, wake) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let editor = terminal::editor();
        for signal in [SIGINT, SIGTERM] {
            if editor.is_none() {
                // A second one ends the program at once, should it hang in writing to a pipe.
                flag::register_conditional_default(signal, stopping.clone())?;
            }
            flag::register(signal, stopping.clone())?;
            low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        let side = match editor {
            // After the signals: for each line it takes SIGINT, and then gives it back to whoever had it before.
            Some(editor) => Side::Terminal(Terminal::start(editor, wake)?),
            None => Side::Pipes(Pipes {
                by_lines,
                lines: Lines::default(),
                inputs: VecDeque::new(),
                ended: false,
                out_is_terminal: io::stdout().is_terminal(),
            }),
        };
        Ok(Console { language, side, input_is_over: false, stopping, wakes })
    }

    /// Whether somebody types here.
    pub fn is_terminal(&self) -> bool {
        matches!(self.side, Side::Terminal(_))
    }

    /// Whether messages are shown as lines; otherwise bytes go through as they are.
    pub fn shows_lines(&self) -> bool {
        match &self.side {
            Side::Terminal(_) => true,
            Side::Pipes(pipes) => pipes.out_is_terminal,
        }
    }

    /// Whether SIGINT, SIGTERM or Ctrl-C has come.
    pub fn is_stopping(&self) -> bool {
        let has_left = matches!(&self.side, Side::Terminal(terminal) if terminal.has_left());
        has_left || self.stopping.load(Ordering::Acquire)
    }

    /// The next thing that has been typed or read.
    pub fn take(&mut self) -> Option<Input> {
        let input = match &mut self.side {
            Side::Terminal(terminal) => terminal.take(),
            Side::Pipes(pipes) => pipes.inputs.pop_front(),
        };
        self.input_is_over |= matches!(input, Some(Input::End));
        input
    }

    /// Whether nothing will be said any more: the end of input was taken, or is next.
    pub fn input_is_over(&self) -> bool {
        self.input_is_over || self.next_is(|input| matches!(input, Input::End))
    }

    /// Whether the next thing is to be sent.
    pub fn line_is_next(&self) -> bool {
        self.next_is(|input| matches!(input, Input::Line(_) | Input::Bytes(_)))
    }

    fn next_is(&self, is: impl FnOnce(&Input) -> bool) -> bool {
        match &self.side {
            Side::Terminal(terminal) => terminal.next_is(is),
            Side::Pipes(pipes) => pipes.inputs.front().is_some_and(is),
        }
    }

    /// Waits until something happens to a descriptor or here, or for so long. A pipe is read only if that is wanted.
    ///
    /// # Errors
    /// When standard input cannot be read.
    pub fn wait(
        &mut self,
        fd: BorrowedFd<'_>,
        to_write: bool,
        input_wanted: bool,
        silence: Option<Duration>,
    ) -> Result<Ready, Failure> {
        let stdin = io::stdin();
        let stdin_wanted = matches!(&self.side, Side::Pipes(pipes) if input_wanted && pipes.inputs.is_empty() && !pipes.ended);
        let mut asked = vec![
            PollFd::new(&fd, if to_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }),
            PollFd::new(&self.wakes, PollFlags::IN),
        ];
        if stdin_wanted {
            asked.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let timeout = silence.map(|silence| Timespec {
            tv_sec: silence.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: silence.subsec_nanos().into(),
        });
        let count = match poll(&mut asked, timeout.as_ref()) {
            Ok(count) => count,
            // By a signal: what it was about is looked at next.
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(Failure::failed(format!("cannot wait for the peer: {error}"))),
        };
        let happened: Vec<_> = asked.iter().map(PollFd::revents).collect();
        drop(asked);
        if !happened[1].is_empty() {
            self.swallow_wakes();
        }
        if let (Some(true), Side::Pipes(pipes)) =
            (happened.get(2).map(|events| !events.is_empty()), &mut self.side)
        {
            pipes.read().map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
        }
        Ok(Ready {
            readable: happened[0].intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            silence: count == 0,
        })
    }

    fn swallow_wakes(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.wakes.read(&mut bytes), Ok(count) if count > 0) {}
    }

    /// Shows what the peer said: a line or several, each without any power over a terminal.
    ///
    /// # Errors
    /// When standard output takes nothing.
    pub fn show(&mut self, message: &[u8]) -> Result<(), Failure> {
        let mut text = String::new();
        for line in message.split_inclusive(|&byte| byte == b'\n') {
            text.push_str(&harmless(line));
            text.push('\n');
        }
        if text.is_empty() {
            // An empty datagram is a message too.
            text.push('\n');
        }
        self.print(text)
    }

    /// Passes on what the peer sent as it is.
    ///
    /// # Errors
    /// When standard output takes nothing.
    pub fn pass_on(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        written(write_out(bytes))
    }

    /// Says something of our own: above the line that is typed, or on standard error, away from what the peer sends.
    pub fn say(&mut self, notice: &Notice<'_>) {
        let text = notice.text(self.language);
        let text = harmless(text.as_bytes());
        // It matters less than what the peer says; if nobody can read it, neither can its loss be told.
        let _ = match &mut self.side {
            Side::Terminal(terminal) => terminal.print(format!("* {text}\n")),
            Side::Pipes(_) => writeln!(io::stderr(), "tidewheel: {text}"),
        };
    }

    fn print(&mut self, lines: String) -> Result<(), Failure> {
        written(match &mut self.side {
            Side::Terminal(terminal) => terminal.print(lines),
            Side::Pipes(_) => write_out(lines.as_bytes()),
        })
    }

    /// Gives the terminal back, with everything on it that was printed.
    pub fn close(self) {
        if let Side::Terminal(terminal) = self.side {
            terminal.close();
        }
    }
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

impl Pipes {
    /// Reads once, which does not wait when there is something.
    fn read(&mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        // Past the buffer of the standard library, which could hide bytes from poll.
        let count = match rustix::io::read(io::stdin(), &mut piece) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        piece.truncate(count);
        if count == 0 {
            self.ended = true;
            if self.lines.is_within_line() {
                self.inputs.push_back(Input::Line(self.lines.rest()));
            }
            self.inputs.push_back(Input::End);
        } else if self.by_lines {
            let inputs = &mut self.inputs;
            self.lines.take(&piece, |line| {
                inputs.push_back(if line.ends_with(b"\n") {
                    Input::Line(without_ending(line).to_vec())
                } else {
                    Input::Bytes(line.to_vec())
                });
            });
        } else {
            self.inputs.push_back(Input::Bytes(piece));
        }
        Ok(())
    }
}
