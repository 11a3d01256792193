//! A standard stream behind a thread of its own, so that the loop never waits for whoever reads it.
//!
//! ```text
//!  reactor, signals ──put──► text, at most 1 MiB ──take all──► writer thread ──write──► standard stream
//!                              └── full: the lines are lost, counted, and told when there is room again
//! ```
//!
//! A terminal that is stopped with Ctrl-S, a pager, a pipe whose reader hangs or a full disk: each blocks or fails
//! the writer thread alone.
//!
//! Until something is served lines are written at once, and the thread begins with the first line after that. For as
//! long as a program has but one thread, the C library's system calls spare themselves what cancelling threads would
//! need: that is worth 100 instructions, one percent of CPU, per echo.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Text that waits to be written, above which more is lost.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// How long the writer rests when its stream was made non-blocking by another program and has no room.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// A standard stream. Clones are the same stream.
#[derive(Clone)]
pub struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    waiting: Mutex<Waiting>,
    filled: Condvar,
    written: Condvar,
}

/// Who writes.
enum Writer {
    /// Whoever has something to write, at once, as long as there is room.
    Caller(Arc<File>),
    /// A thread that starts with the next line.
    ThreadToBe(Arc<File>),
    Thread,
}

struct Waiting {
    writer: Writer,
    text: Vec<u8>,
    /// The writer has taken text that it has not written yet.
    writing: bool,
    /// Lines lost since the start.
    lost: u64,
    /// Lines lost that have not been told.
    untold: u64,
}

impl Outlet {
    /// Opens a stream; `name` is for people. Until [`Outlet::detach`] lines are written at once.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub fn open(stream: impl AsFd, name: &'static str) -> io::Result<Outlet> {
        // A descriptor of its own: the standard library's handles hold a lock while they write, and whoever
        // panicked would wait for it.
        let file = Arc::new(File::from(stream.as_fd().try_clone_to_owned()?));
        let waiting =
            Waiting { writer: Writer::Caller(file), text: Vec::new(), writing: false, lost: 0, untold: 0 };
        Ok(Outlet {
            shared: Arc::new(Shared {
                name,
                waiting: Mutex::new(waiting),
                filled: Condvar::new(),
                written: Condvar::new(),
            }),
        })
    }

    /// From here on nobody waits for the stream.
    pub fn detach(&self) {
        let mut waiting = self.shared.lock();
        waiting.writer = match std::mem::replace(&mut waiting.writer, Writer::Thread) {
            Writer::Caller(file) => Writer::ThreadToBe(file),
            detached => detached,
        };
    }

    /// Leaves whole lines to be written, all of them or none. Never waits for the stream once it is detached.
    pub fn put(&self, lines: &[u8]) {
        let mut waiting = self.shared.lock();
        let full = waiting.text.len() + lines.len() > WAITING_BYTES_MAX;
        let failed = match &mut waiting.writer {
            Writer::Caller(file) if has_room(file) => write_all(&mut &**file, lines).is_err(),
            _ if full => true,
            Writer::Caller(file) | Writer::ThreadToBe(file) => match self.shared.start(file) {
                Ok(()) => {
                    waiting.writer = Writer::Thread;
                    waiting.text.extend_from_slice(lines);
                    false
                }
                Err(_) => true,
            },
            Writer::Thread => {
                waiting.text.extend_from_slice(lines);
                self.shared.filled.notify_one();
                false
            }
        };
        if failed {
            waiting.lose(lines);
        }
    }

    /// How many lines were lost because the stream took none.
    pub fn lines_lost(&self) -> u64 {
        self.shared.lock().lost
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let waiting = self.shared.lock();
        // Whether it was written or not, the program goes on.
        drop(
            self.shared
                .written
                .wait_timeout_while(waiting, patience, |waiting| waiting.writing || !waiting.text.is_empty()),
        );
    }
}

/// For the log, which writes whole lines.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Waiting {
    fn lose(&mut self, lines: &[u8]) {
        let count = lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.lost += count;
        self.untold += count;
    }
}

impl Shared {
    /// Whoever panicked left the text whole: it is only appended to and taken.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that writes. It takes no further descriptor: that there are none left may be what is to be
    /// told.
    fn start(self: &Arc<Shared>, file: &Arc<File>) -> io::Result<()> {
        let (shared, file) = (self.clone(), file.clone());
        let writer = thread::Builder::new().name(format!("{} writer", self.name));
        writer.spawn(move || shared.write_on(&*file)).map(drop)
    }

    fn write_on(&self, mut file: impl Write) -> ! {
        let name = self.name;
        let mut text = Vec::new();
        loop {
            let mut waiting = self.lock();
            while waiting.text.is_empty() {
                waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            text.clear();
            std::mem::swap(&mut text, &mut waiting.text);
            let untold = std::mem::take(&mut waiting.untold);
            waiting.writing = true;
            drop(waiting);

            if untold > 0 {
                text.extend_from_slice(
                    format!("tidewheel: {untold} lines dropped: {name} was blocked\n").as_bytes(),
                );
            }
            let failed = write_all(&mut file, &text).is_err();

            let mut waiting = self.lock();
            waiting.writing = false;
            if failed {
                // Nobody reads it any more, or the disk is full: the next text may fare better.
                waiting.lose(&text);
            }
            self.written.notify_all();
        }
    }
}

/// Whether a few lines can be written without waiting, as far as can be told.
fn has_room(file: &File) -> bool {
    let mut asked = [PollFd::new(file, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Like [`Write::write_all`], but tries again when the stream is non-blocking and full.
fn write_all(file: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match file.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// Longer than any test takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn whole_lines_arrive_in_order() {
        let (reader, writer) = io::pipe().expect("a pipe for the test");
        let outlet = Outlet::open(&writer, "the pipe").expect("a descriptor");
        outlet.detach();
        outlet.put(b"one\ntwo\n");
        outlet.put(b"three\n");
        let lines: Vec<_> =
            BufReader::new(reader).lines().take(3).map(|line| line.expect("the pipe is open")).collect();
        assert_eq!(lines, ["one", "two", "three"]);
        outlet.flush(PATIENCE);
        assert_eq!(outlet.lines_lost(), 0);
    }

    #[test]
    fn a_stream_that_nobody_reads_loses_lines_and_says_so_later() {
        let (reader, writer) = io::pipe().expect("a pipe for the test");
        let outlet = Outlet::open(&writer, "the pipe").expect("a descriptor");
        outlet.detach();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // The pipe, what the writer has taken and what waits are less than this.
        let count = 4 * (WAITING_BYTES_MAX / line.len()) as u64;
        for _ in 0..count {
            outlet.put(&line);
        }
        assert!(outlet.lines_lost() > 0);

        // Every line arrives or is told of.
        let mut lines = BufReader::new(reader).lines().map(|line| line.expect("the pipe is open"));
        let (mut arrived, mut lost) = (0, 0);
        while arrived + lost < count {
            let line = lines.next().expect("the pipe is open");
            match line.strip_prefix("tidewheel: ").and_then(|notice| notice.split_once(' ')) {
                Some((number, "lines dropped: the pipe was blocked")) => {
                    lost += number.parse::<u64>().expect("a number of lines");
                }
                _ => {
                    assert!(line.bytes().eq([b'x'; 1023]), "{line}");
                    arrived += 1;
                }
            }
        }
        assert_eq!(lost, outlet.lines_lost());
    }

    #[test]
    fn a_stream_whose_reader_is_gone_fails_nobody() {
        let (reader, writer) = io::pipe().expect("a pipe for the test");
        let outlet = Outlet::open(&writer, "the pipe").expect("a descriptor");
        outlet.detach();
        drop(reader);
        outlet.put(b"one\ntwo\n");
        outlet.flush(PATIENCE);
        assert_eq!(outlet.lines_lost(), 2);
    }
}
