//! What all transfers share: the terms they are made on, the trouble they run into, and the way of the bytes into a
//! file.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use tidewheel::services::Language;

use super::ftp::names::NameEncoding;
use crate::cli::settings::{self, Lang};
use crate::cli::units::Time;

/// What is this long never ends: a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How much is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// The options of whatever moves files.
#[derive(clap::Args)]
pub struct TermOptions {
    /// How long to wait for a connection, for a reply, and for more data; 0 = no limit
    #[arg(long, value_name = "DURATION", default_value = "10s", global = true)]
    timeout: Time,

    /// The encoding of names on an FTP server, as a label of the WHATWG encoding standard: gbk, big5, shift_jis,
    /// latin1 ... Percent-encoded bytes in a URL are sent as they are [default: utf-8]
    #[arg(long, value_name = "LABEL", global = true)]
    encoding: Option<NameEncoding>,

    /// The language of this program's own messages [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum, global = true)]
    lang: Option<Lang>,
}

impl TermOptions {
    pub fn terms(&self) -> Terms {
        // The library's clock ends some time.
        let timeout = self.timeout.limit().filter(|&timeout| timeout < FOR_EVER);
        Terms { timeout, names: self.encoding.unwrap_or_default(), language: settings::language(self.lang) }
    }
}

/// How long to wait, how names are encoded on FTP servers, and which language to speak.
#[derive(Clone, Copy)]
pub struct Terms {
    pub timeout: Option<Duration>,
    pub names: NameEncoding,
    pub language: Language,
}

impl Terms {
    /// The timeout in words.
    pub fn patience(&self) -> String {
        self.timeout.map_or_else(String::new, |timeout| Time(timeout).to_string())
    }

    /// Nothing has come for too long.
    pub fn silence(&self, bytes: u64) -> Trouble {
        let patience = self.patience();
        Trouble::passing(match bytes {
            0 => format!("no answer for {patience}"),
            _ => format!("nothing more came for {patience}, after {bytes} bytes"),
        })
    }

    /// The end has come before the beginning.
    pub fn closed(&self) -> Trouble {
        Trouble::passing("the server closed the connection without an answer".to_owned())
    }

    /// The end has come too early.
    pub fn cut(&self, bytes: u64, total: Option<u64>) -> Trouble {
        Trouble::passing(match total {
            Some(total) => format!("the connection broke off after {bytes} of {total} bytes"),
            None => format!("the connection broke off after {bytes} bytes"),
        })
    }
}

/// Why something was not transferred: a line for people.
#[derive(Debug)]
pub struct Trouble {
    pub line: String,
    /// Trying again may help.
    pub may_pass: bool,
}

impl Trouble {
    /// It will be the same the next time.
    pub fn lasting(line: String) -> Trouble {
        Trouble { line, may_pass: false }
    }

    pub fn passing(line: String) -> Trouble {
        Trouble { line, may_pass: true }
    }

    /// A file takes nothing; the error begins with its name.
    pub fn unwritable(error: &io::Error) -> Trouble {
        Trouble::lasting(format!("cannot write {error}"))
    }

    /// There is no connection.
    pub fn unreachable(error: &io::Error) -> Trouble {
        // The standard library has no kind for it.
        match error.to_string() {
            told if told.starts_with("failed to lookup address") => Trouble {
                // The system's word for a server of names that does not answer.
                may_pass: told.contains("Temporary failure"),
                line: format!("there is no such host: {told}"),
            },
            told => Trouble::passing(format!("cannot connect: {told}")),
        }
    }
}

/// Where the bytes of one transfer go, past a progress bar.
pub struct Sink<'a> {
    /// Its errors begin with its name.
    pub out: &'a mut dyn Write,
    pub bar: &'a ProgressBar,
    pub bytes: u64,
    /// More than this is refused.
    pub bytes_max: u64,
}

/// Which end of a transfer failed.
pub enum Broken {
    Source(io::Error),
    Sink(Trouble),
}

impl Sink<'_> {
    /// Takes all that comes.
    pub fn fill(&mut self, source: &mut impl Read) -> Result<(), Broken> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let len = match source.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Source(error)),
            };
            self.bytes += len as u64;
            let limit = self.bytes_max;
            if self.bytes > limit {
                let line = format!("it has more than {limit} bytes");
                return Err(Broken::Sink(Trouble::lasting(line)));
            }
            self.out.write_all(&piece[..len]).map_err(|error| Broken::Sink(Trouble::unwritable(&error)))?;
            self.bar.inc(len as u64);
        }
    }
}

/// Whether SIGINT ends the program, once a prompt has caught it.
static SIGINT_ENDS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Asks something on a terminal whose modes are changed for that: Ctrl-C ends the program when they are as they were.
///
/// # Errors
/// When SIGINT cannot be caught, or what asking ends in.
pub fn prompted<T>(ask: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let came = Arc::new(AtomicBool::new(false));
    let first = Arc::strong_count(&SIGINT_ENDS) == 1;
    if first {
        flag::register_conditional_default(SIGINT, SIGINT_ENDS.clone())?;
    }
    SIGINT_ENDS.store(false, Ordering::SeqCst);
    let caught = flag::register(SIGINT, came.clone())?;
    let answer = ask();
    SIGINT_ENDS.store(true, Ordering::SeqCst);
    low_level::unregister(caught);
    if came.load(Ordering::SeqCst) {
        // Of a signal that can be caught it always can.
        let _ = low_level::emulate_default_handler(SIGINT);
    }
    answer
}

/// Leaves SIGINT to somebody who has caught it by now.
pub fn leave_sigint() {
    SIGINT_ENDS.store(false, Ordering::SeqCst);
}

/// The signals that end a transfer: without those that whoever started it has had ignored, as nohup does.
pub fn ending_signals() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect()
}

/// Gives a bar the looks of a transfer of so many bytes, and sets it to the beginning.
pub fn begin_bar(bar: &ProgressBar, total: Option<u64>) {
    let looks = match total {
        Some(_) => "{msg:30!} {bar:30} {bytes:>11}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg:30!} {spinner} {bytes:>11} {bytes_per_sec}",
    };
    match total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_position(0);
    bar.set_style(ProgressStyle::with_template(looks).expect("a template that is sound"));
}
