//! A process between loadgen and a server, which adopts whatever the server leaves behind.
//!
//! ```text
//!     loadgen ── a socket ──► keeper ── starts ──► the server ──► its processes
//!        │ ◄── pid, ended ──────┤ ◄── adopts ── those whose parent has ended
//!        └── ask, end, EOF ────►┘ ends all of them, then itself
//! ```
//!
//! A server that daemonises leaves its process group and its session, but not its ancestors: the keeper is their subreaper
//! (PR_SET_CHILD_SUBREAPER), so every process that the server has started is its descendant, whatever became of those
//! between. It waits for the end of the socket, which comes with the end of loadgen, however that ends. It is this program
//! run again. While the server runs it sleeps.

use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper, wait, waitid,
    waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{END_TIMEOUT, LOOK_INTERVAL, command_of};
use crate::os;
use crate::tree::{children, descendants, is_alive};

/// The argument that makes this program the keeper of the server whose command follows.
const ARGUMENT: &str = "be-the-keeper";

/// What the keeper may take to start the server: it only forks.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What processes may take to be gone once they are killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks all processes to end, and waits for the next order.
const ASK: u8 = b'a';

/// Ends all processes, and the keeper.
const END: u8 = b'e';

/// A keeper and its server, as loadgen sees them.
pub struct Kept {
    child: Child,
    socket: UnixStream,
    /// The server's first process.
    pid: i32,
    /// The beginning of a line.
    partial: Vec<u8>,
    ended: Option<Ended>,
    /// The keeper has closed the socket.
    is_over: bool,
}

/// What is known of a server whose first process has ended.
pub struct Ended {
    pub status: ExitStatus,
    /// The processes that it left: the id and the name of each.
    pub left: Vec<(i32, String)>,
}

impl Kept {
    /// Starts the server whose command these words are. Its standard input is empty.
    pub fn start(words: &[String], stdout: Stdio, stderr: Stdio) -> Result<Kept> {
        let (ours, theirs) = UnixStream::pair().context("a pair of sockets")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("loadgen").arg(ARGUMENT).args(words);
        command.stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().context("starting this program again, as the keeper of a server")?;
        // It has their end of the socket open.
        drop(command);
        let mut kept = Kept { child, socket: ours, pid: 0, partial: Vec::new(), ended: None, is_over: false };
        kept.pid = kept.started()?;
        kept.socket.set_nonblocking(true)?;
        Ok(kept)
    }

    /// Waits for the keeper to tell the server's id, or why there is none.
    fn started(&mut self) -> Result<i32> {
        self.socket.set_read_timeout(Some(START_TIMEOUT))?;
        let mut line = Vec::new();
        let mut byte = [0];
        while self.socket.read(&mut byte).context("waiting for the keeper of a server")? == 1
            && byte[0] != b'\n'
        {
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line);
        if let Some(error) = line.strip_prefix("error ") {
            let error = error.parse().map_or_else(|_| io::Error::other(error), io::Error::from_raw_os_error);
            return Err(error.into());
        }
        line.strip_prefix("pid ")
            .and_then(|pid| pid.parse().ok())
            .with_context(|| format!("the keeper of a server ended before it started it: {line:?}"))
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether there are processes beside the first one.
    pub fn has_others(&self) -> bool {
        descendants(self.child.id() as i32).into_iter().any(|pid| pid != self.pid && is_alive(pid))
    }

    /// Whether the first process has ended. Until [`Kept::end`] its id remains its own.
    pub fn has_ended(&mut self) -> bool {
        self.take_told();
        self.ended.is_some() || self.is_over
    }

    /// Asks all processes to end, and does not wait.
    pub fn ask_to_end(&mut self) {
        // Without a keeper there is nobody to ask.
        let _ = self.socket.write_all(&[ASK]);
    }

    /// Ends all processes, and waits for that. `None` if the keeper was killed before it knew how the first one ended.
    pub fn end(&mut self) -> Option<&Ended> {
        if !self.is_over {
            let _ = self.socket.write_all(&[END]);
            let give_up = Instant::now() + END_TIMEOUT + 2 * KILL_TIMEOUT;
            while !self.is_over && Instant::now() < give_up {
                self.take_told();
                thread::sleep(LOOK_INTERVAL);
            }
        }
        // It ends with its last order; one that hangs has a process that cannot be killed.
        if !self.is_over {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        self.is_over = true;
        self.ended.as_ref()
    }

    /// Reads what the keeper has said.
    fn take_told(&mut self) {
        let mut buffer = [0; 4096];
        while !self.is_over {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(read) => self.partial.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_over = true,
            }
        }
        while let Some(end) = memchr::memchr(b'\n', &self.partial) {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            if let Some(ended) = Ended::read(String::from_utf8_lossy(&line).trim_end()) {
                self.ended.get_or_insert(ended);
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // All has been tried, and there is nobody to tell.
        let _ = self.end();
    }
}

impl Ended {
    /// As the keeper tells it: `ended STATUS`, and `PID NAME` of each that is left, between tabs.
    fn read(line: &str) -> Option<Ended> {
        let mut fields = line.split('\t');
        let status = fields.next()?.strip_prefix("ended ")?.parse().ok()?;
        let left = fields.filter_map(|field| {
            let (pid, name) = field.split_once(' ')?;
            Some((pid.parse().ok()?, name.to_owned()))
        });
        Some(Ended { status: ExitStatus::from_raw(status), left: left.collect() })
    }
}

/// Whether this process is to be a keeper.
pub fn is_asked_for() -> bool {
    env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT)
}

/// Runs the keeper until it receives the order to end, or its parent has exited.
pub fn keep() -> ExitCode {
    let words: Vec<String> = env::args().skip(2).collect();
    match try_to_keep(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn try_to_keep(words: &[String]) -> Result<()> {
    // What ends loadgen in order reaches the keeper by its socket. Caught instead of ignored: the server does not inherit it.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default())?;
    }
    let signals = Signals::new([SIGCHLD])?;
    set_child_subreaper(Some(getpid()))?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut command = command_of(words);
    command.stdin(Stdio::null()).process_group(0);
    os::end_with_parent(&mut command);
    let spawned = command.spawn();
    drop(command);
    // The server's output ends with the server.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let told = error.raw_os_error().map_or_else(|| error.to_string(), |number| number.to_string());
            writeln!(socket, "error {told}")?;
            return Ok(());
        }
    };
    writeln!(socket, "pid {}", child.id())?;
    let watching = watch(Pid::from_child(&child), signals, socket.try_clone()?);
    loop {
        let mut order = [0];
        match socket.read(&mut order) {
            Ok(1) if order[0] == ASK => ask_all(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The order to end, or nobody is left to give one.
            _ => break,
        }
    }
    end_all();
    let give_up = Instant::now() + KILL_TIMEOUT;
    while !watching.is_finished() && Instant::now() < give_up {
        thread::sleep(LOOK_INTERVAL);
    }
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    Ok(())
}

/// Tells when the server's first process has ended, which is left to be waited for; until then it waits for those that it
/// has adopted, so that none of them stays as a zombie.
fn watch(server: Pid, mut signals: Signals, mut socket: UnixStream) -> JoinHandle<()> {
    thread::spawn(move || {
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Ok(Some(status)) = waitid(WaitId::Pid(server), options) {
                let left = others(server);
                let left = left.iter().map(|(pid, name)| format!("\t{pid} {name}")).collect::<String>();
                // As `wait` has it: an exit status in the second byte, or a signal in the first.
                let raw = status.exit_status().map(|code| code << 8).or(status.terminating_signal());
                // Nobody may be left to read it.
                let _ = writeln!(socket, "ended {}{left}", raw.unwrap_or_default());
                return;
            }
            let adopted = children(own_id()).into_iter().filter_map(Pid::from_raw);
            for pid in adopted.filter(|&pid| pid != server && !is_alive(pid.as_raw_nonzero().get())) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            // Sleeps until a child has ended; several may be one signal.
            let _ = signals.wait();
        }
    })
}

fn own_id() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// The processes beside the first one, with their names.
fn others(server: Pid) -> Vec<(i32, String)> {
    let alive = alive().into_iter().filter(|&pid| pid != server.as_raw_nonzero().get());
    let named = alive.map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim_end().replace(char::is_control, " "))
    });
    named.collect()
}

/// All processes of the server.
fn alive() -> Vec<i32> {
    let all = descendants(own_id());
    all.into_iter().filter(|&pid| is_alive(pid)).collect()
}

fn signal_all(signal: Signal) {
    for pid in alive().into_iter().filter_map(Pid::from_raw) {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
}

fn ask_all() {
    signal_all(Signal::TERM);
    // One that is stopped must go on to end.
    signal_all(Signal::CONT);
}

/// Asks all to end, and insists after a while.
fn end_all() {
    ask_all();
    let insist = Instant::now() + END_TIMEOUT;
    let give_up = insist + KILL_TIMEOUT;
    while !alive().is_empty() && Instant::now() < give_up {
        if Instant::now() >= insist {
            signal_all(Signal::KILL);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
