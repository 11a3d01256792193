//! What a server prints: passed on to standard error, and its last lines kept, which often say why it has ended.

use std::io::{self, Read, Write};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::LOOK_INTERVAL;

/// So much of it is kept, and so many lines are shown.
const KEPT_BYTES_MAX: usize = 2048;
const LINES_MAX: usize = 3;

/// How long the rest of what a server printed is waited for once it has ended.
const PATIENCE: Duration = Duration::from_millis(200);

pub struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl LastWords {
    /// Passes on what comes, if it is to be shown, on a thread that ends with it.
    pub fn of(mut output: impl Read + Send + 'static, is_shown: bool) -> LastWords {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let keeping = kept.clone();
        let reading = thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let read = match output.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => &buffer[..read],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                // It was started where servers run, and must not take their time.
                let _ = sched_getaffinity(Pid::from_raw(process::id() as i32))
                    .and_then(|loadgens| sched_setaffinity(None, &loadgens));
                // It is read to its end even if nobody wants to see it: the server must not wait.
                if is_shown {
                    let _ = io::stderr().write_all(read);
                }
                keep(&mut keeping.lock().unwrap_or_else(PoisonError::into_inner), read);
            }
        });
        LastWords { kept, reading }
    }

    /// The last lines of a server that has ended, in one line and without control characters; nothing if there is none.
    pub fn lines(&self) -> Option<String> {
        let give_up = Instant::now() + PATIENCE;
        while !self.reading.is_finished() && Instant::now() < give_up {
            thread::sleep(LOOK_INTERVAL);
        }
        last_lines(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn keep(kept: &mut Vec<u8>, read: &[u8]) {
    kept.extend_from_slice(read);
    let surplus = kept.len().saturating_sub(KEPT_BYTES_MAX);
    kept.drain(..surplus);
}

fn last_lines(kept: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(kept)
        .replace(|character: char| character.is_control() && character != '\n', " ");
    let mut lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines = lines.split_off(lines.len().saturating_sub(LINES_MAX));
    (!lines.is_empty()).then(|| lines.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_control_characters() {
        assert_eq!(last_lines(b""), None);
        assert_eq!(last_lines(b"\n \n"), None);
        assert_eq!(
            last_lines(b"one\n\ntwo\x1b[31m\r\n\xff three\nfour").unwrap(),
            "two [31m | \u{fffd} three | four"
        );
        let mut kept = b"x".repeat(KEPT_BYTES_MAX);
        keep(&mut kept, b"\nlast\n");
        assert_eq!(kept.len(), KEPT_BYTES_MAX);
        assert!(last_lines(&kept).unwrap().ends_with("x | last"));
        assert_eq!(LastWords::of(io::Cursor::new("\n"), true).lines(), None);
    }
}
