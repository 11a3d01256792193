//! A standard stream behind a thread of its own, so that the loop never waits for whoever reads it.
//!
//! ```text
//!  reactor, signals ──put──► text, at most 1 MiB ──take all──► writer thread ──write──► standard stream
//!                              └── full: the lines are lost, counted, and told when there is room again
//! ```
//!
//! A terminal that is stopped with Ctrl-S, a pager, a pipe whose reader hangs or a full disk: each blocks or fails
//! the writer thread alone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

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
    waiting: Mutex<Waiting>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// The writer has taken text that it has not written yet.
    writing: bool,
    /// Lines lost since the start.
    lost: u64,
    /// Lines lost that have not been told.
    untold: u64,
}

impl Outlet {
    /// Starts the writer of a stream; `name` is for people.
    ///
    /// # Errors
    /// When the system has no descriptor or thread for it.
    pub fn open(stream: impl AsFd, name: &'static str) -> io::Result<Outlet> {
        // A descriptor of its own: the standard library's handles hold a lock while they write, and whoever
        // panicked would wait for it.
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let shared =
            Arc::new(Shared { waiting: Mutex::default(), filled: Condvar::new(), written: Condvar::new() });
        let writer = shared.clone();
        thread::Builder::new().name(format!("{name} writer")).spawn(move || writer.write_on(file, name))?;
        Ok(Outlet { shared })
    }

    /// Leaves whole lines to be written, all of them or none. Never waits for the stream.
    pub fn put(&self, lines: &[u8]) {
        let mut waiting = self.shared.lock();
        if waiting.text.len() + lines.len() > WAITING_BYTES_MAX {
            waiting.lose(lines);
        } else {
            waiting.text.extend_from_slice(lines);
            self.shared.filled.notify_one();
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

    fn write_on(&self, mut file: impl Write, name: &str) -> ! {
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
                    format!("tidewheel: {untold} lines lost: {name} was blocked\n").as_bytes(),
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
