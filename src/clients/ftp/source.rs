//! What is to be stored on a server, until it ends or a signal does.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::{flag, low_level};

use crate::clients::transfer::{ending_signals, leave_sigint};

/// A file, a device or standard input.
pub struct Source {
    file: File,
    /// How large it is, if that is known.
    pub total: Option<u64>,
}

impl Source {
    /// Opens what a path stands for; `-` is standard input.
    ///
    /// # Errors
    /// What the system says of it.
    pub fn open(path: &Path) -> io::Result<Source> {
        if path == "-" {
            return Ok(Source { file: io::stdin().as_fd().try_clone_to_owned()?.into(), total: None });
        }
        let there = fs::metadata(path)?;
        if there.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        Ok(Source { file: File::open(path)?, total: there.is_file().then_some(there.len()) })
    }
}

/// Signals that end the program, of which the first is held back: what is on the server by then is to be removed. The
/// second ends it at once.
pub struct Signals {
    /// Which there are, and whether they have come.
    came: Vec<(i32, Arc<AtomicBool>)>,
    /// Has something to read once one has come.
    waker: UnixStream,
}

impl Signals {
    /// # Errors
    /// When signals cannot be caught.
    pub fn hold() -> io::Result<Signals> {
        let (waker, woken) = UnixStream::pair()?;
        let mut came = Vec::new();
        for signal in ending_signals() {
            let has_come = Arc::new(AtomicBool::new(false));
            // In this order: the first has not come yet when it is asked for.
            flag::register_conditional_default(signal, has_come.clone())?;
            flag::register(signal, has_come.clone())?;
            low_level::pipe::register(signal, woken.try_clone()?)?;
            came.push((signal, has_come));
        }
        leave_sigint();
        Ok(Signals { came, waker })
    }

    /// What a source has, up to a signal.
    pub fn watch<'a>(&'a self, source: &'a Source) -> impl Read + 'a {
        Watched { source, waker: &self.waker }
    }

    /// Lets a signal that has come do what it would have done.
    pub fn release(&self) {
        for (signal, _) in self.came.iter().filter(|(_, has_come)| has_come.load(Ordering::SeqCst)) {
            // Of a signal that can be caught it always can.
            let _ = low_level::emulate_default_handler(*signal);
        }
    }
}

struct Watched<'a> {
    source: &'a Source,
    waker: &'a UnixStream,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ready =
            [PollFd::new(self.waker, PollFlags::IN), PollFd::new(&self.source.file, PollFlags::IN)];
        poll(&mut ready, None)?;
        if !ready[0].revents().is_empty() {
            return Err(io::Error::other("a signal has ended it"));
        }
        (&self.source.file).read(buffer)
    }
}
