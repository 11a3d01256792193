//! A server that the generator starts itself, measures and ends.

mod background;
pub mod keeper;
mod last_words;

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::Usage;
use crate::address::Address;
use crate::cli::Options;
use crate::datagram::is_bound;
use crate::stream::Stream;

use keeper::{Ended, Kept};
use last_words::LastWords;

/// What stands for a free port, in a command and in an address.
pub const PORT: &str = "{port}";

/// What a server may take to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at a server that starts or ends: the system tells of neither.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The longest pause after a reply that was not right, which is how long a server is ready without being measured.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a server that has further processes is watched once it has answered: one that moves to the background may answer
/// before its first process ends.
const SETTLE: Duration = Duration::from_millis(200);

/// Ports below are wanted by others.
const PORT_MIN: u16 = 10_000;

/// A program and its arguments, split as a shell does, with variables before it as a shell has them: `NAME=VALUE program ...`.
/// No shell sees them.
#[derive(Clone, Debug)]
pub struct CommandLine {
    text: String,
    words: Vec<String>,
}

impl CommandLine {
    pub fn has_port(&self) -> bool {
        self.text.contains(PORT)
    }

    /// The program, yet to be started.
    pub fn command(&self) -> Command {
        command_of(&self.words_with_port())
    }

    /// Variables, program and arguments, with the port of this run.
    pub fn words_with_port(&self) -> Vec<String> {
        let port = free_port().to_string();
        self.words().iter().map(|word| word.replace(PORT, &port)).collect()
    }

    /// Variables, program and arguments.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The same program as an argument of another, such as valgrind. Nothing if there is no other.
    pub fn under(mut self, tool: &str) -> Result<CommandLine, String> {
        let tool_words = split(tool)?;
        let variables = variables(&self.words);
        self.words.splice(variables..variables, tool_words);
        Ok(self)
    }

    fn program(&self) -> &str {
        self.words.get(variables(&self.words)).map_or("", String::as_str)
    }
}

fn split(text: &str) -> Result<Vec<String>, String> {
    shlex::split(text).ok_or_else(|| "unterminated quote, or a \\ at the end".into())
}

/// How many of the words, the first ones, set variables.
pub fn variables(words: &[String]) -> usize {
    let is_variable = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| {
            name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
        })
    };
    words.iter().take_while(is_variable).count()
}

/// The program of these words, yet to be started.
pub fn command_of(words: &[String]) -> Command {
    let (variables, words) = words.split_at(variables(words));
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words);
    command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
    command
}

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(text: &str) -> Result<CommandLine, String> {
        let words = split(text)?;
        if words.is_empty() {
            return Err("is empty".into());
        }
        if variables(&words) == words.len() {
            return Err("sets variables but has no program".into());
        }
        Ok(CommandLine { text: text.to_owned(), words })
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What `{port}` stands for: one port for the whole run, that nobody has when it is first asked for.
pub fn free_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(find_port)
}

/// A port that nobody has, neither for streams nor for datagrams: another one once somebody does.
pub fn find_port() -> u16 {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let is_free = |port| bind(port).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    // The system gives the ports of its range to whoever connects, which may be before the server has it.
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(PORT_MIN);
    let ports: Vec<u16> = (PORT_MIN..end).collect();
    // Runs that begin together look in different places.
    let start = std::process::id() as usize * 37 % ports.len().max(1);
    let (before, after) = ports.split_at(start);
    let found = after.iter().chain(before).copied().find(|&port| is_free(port));
    let any = || bind(0).and_then(|listener| listener.local_addr()).map(|address| address.port());
    // With no port at all, the server tells it better.
    found.or_else(|| any().ok()).unwrap_or(PORT_MIN)
}

/// One exchange with a server on connections of its own, which ends within the time, or as soon as it is to stop.
pub type FirstReply<'a> = dyn Fn(Duration, &dyn Fn() -> bool) -> Result<()> + 'a;

/// When a server that was started is ready.
pub struct Ready<'a> {
    pub address: &'a Address,
    /// It is ready with the first right reply.
    pub first_reply: &'a FirstReply<'a>,
    /// What that may take.
    pub timeout: Duration,
    pub stop: &'a AtomicBool,
}

impl Ready<'_> {
    /// What one exchange may take: less than all the time, as a server that starts may forget what it was first asked. Datagrams
    /// may be lost, and no error is reported when the receiver has exited.
    fn patience(&self) -> Duration {
        if self.address.takes_datagrams() {
            (self.timeout / 20).max(Duration::from_millis(250))
        } else {
            (self.timeout / 4).max(Duration::from_millis(500))
        }
    }
}

/// Ends with its value, and all its processes with it.
pub struct Server {
    /// What it is called where something is said about it.
    name: String,
    program: String,
    process: Process,
    /// What it prints, if that passes through here.
    last_words: Option<LastWords>,
}

enum Process {
    /// Anybody's program: it may start others, and leave them.
    Kept(Kept),
    /// Our own, which does not.
    Own { child: Child, status: Option<ExitStatus> },
}

/// What is shown of what a server prints.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    All,
    /// Standard error alone.
    Errors,
    Nothing,
}

impl Server {
    /// Starts the server that `--spawn` asks for, if it does, and waits for its first right reply. What a quiet one prints is
    /// shown only in the error if it ends.
    pub fn of(
        options: &Options,
        is_quiet: bool,
        first_reply: &FirstReply<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<Server>> {
        let (address, timeout) = (&options.target.address, options.start_timeout());
        let ready = Ready { address, first_reply, timeout, stop };
        let shown = if is_quiet { Shown::Nothing } else { Shown::All };
        options.spawn.as_ref().map(|command| Server::start_with(command, &ready, shown)).transpose()
    }

    /// Starts a server and waits until it is ready. What it prints goes to standard error.
    pub fn start(command: &CommandLine, ready: &Ready<'_>) -> Result<Server> {
        Server::start_with(command, ready, Shown::All)
    }

    /// The same, but what it prints on standard output is not shown.
    pub fn start_silent(command: &CommandLine, ready: &Ready<'_>) -> Result<Server> {
        Server::start_with(command, ready, Shown::Errors)
    }

    fn start_with(command: &CommandLine, ready: &Ready<'_>, shown: Shown) -> Result<Server> {
        let address = ready.address;
        let is_there = match address.takes_datagrams() {
            true => is_bound(address),
            false => Stream::connect(&address.peer, None, ready.timeout).is_ok(),
        };
        if is_there {
            bail!("another server is already listening on {address}");
        }
        let (output, stderr) = io::pipe().context("a pipe for what the server prints")?;
        let stdout = if shown == Shown::Errors { Stdio::null() } else { stderr.try_clone()?.into() };
        let mut server = Server::spawn(command, stdout, stderr.into())?;
        server.last_words = Some(LastWords::of(output, shown != Shown::Nothing));
        server.await_reply(ready)?;
        Ok(server)
    }

    fn spawn(command: &CommandLine, stdout: Stdio, stderr: Stdio) -> Result<Server> {
        let kept = Kept::start(&command.words_with_port(), stdout, stderr)
            .with_context(|| format!("starting {command}"))?;
        let (name, program) = (command.to_string(), command.program().to_owned());
        Ok(Server { name, program, process: Process::Kept(kept), last_words: None })
    }

    /// Starts a server that says on its standard output where it listens, and then `ready`. Returns it with the lines before
    /// that one.
    pub fn start_announced(
        command: &CommandLine,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> Result<(Server, Vec<String>)> {
        let (stdout, theirs) = io::pipe().context("a pipe for what the server prints")?;
        let (output, stderr) = io::pipe().context("a pipe for what the server prints")?;
        let mut server = Server::spawn(command, theirs.into(), stderr.into())?;
        server.last_words = Some(LastWords::of(output, true));
        let told = listen(stdout);

        let give_up = Instant::now() + timeout;
        let mut said = Vec::new();
        loop {
            match told.recv_timeout(LOOK_INTERVAL) {
                Ok(line) if line == "ready" => return Ok((server, said)),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    server.check(END_TIMEOUT).context("it did not come up")?;
                    bail!("{command} closed its standard output before it printed `ready`");
                }
            }
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before {command} was ready");
            }
            if Instant::now() >= give_up {
                bail!("{command} did not print `ready` within {timeout:?}");
            }
        }
    }

    /// Waits until it has given a right reply: one that accepts connections may still be starting.
    pub fn await_reply(&mut self, ready: &Ready<'_>) -> Result<()> {
        let Ready { address, timeout, stop, .. } = *ready;
        let give_up = Instant::now() + timeout;
        // The last reply that was none, of a server that is there.
        let mut last: Option<Error> = None;
        let mut pause = LOOK_INTERVAL;
        loop {
            let left = give_up.saturating_duration_since(Instant::now()).max(LOOK_INTERVAL);
            // Whole milliseconds, as it may be told.
            let patience = Duration::from_millis(left.min(ready.patience()).as_millis() as u64);
            match self.try_reply(ready, patience) {
                Ok(true) => break,
                Ok(false) => {}
                // This machine has run out of something.
                Err(error) if error.is::<Usage>() => return Err(error),
                Err(error) => {
                    pause = (pause * 3 / 2).min(PAUSE_MAX);
                    // One that was cut short has received less than those before it.
                    if last.is_none() || patience == ready.patience() {
                        last = Some(error);
                    }
                }
            }
            self.check_start(Duration::ZERO)?;
            let name = &self.name;
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before {name} was ready at {address}");
            }
            if Instant::now() >= give_up {
                let missed =
                    if address.takes_datagrams() { "opened no socket" } else { "accepted no connection" };
                return Err(match last {
                    Some(last) => {
                        last.context(format!("{name} sent no correct reply at {address} within {timeout:?}"))
                    }
                    None => anyhow!("{name} {missed} at {address} within {timeout:?}"),
                });
            }
            self.check_start(pause)?;
        }
        let has_others = matches!(&self.process, Process::Kept(kept) if kept.has_others());
        self.check_start(if has_others { SETTLE } else { Duration::ZERO })
    }

    fn check_start(&mut self, patience: Duration) -> Result<()> {
        self.check(patience).context("the server did not come up")
    }

    /// Whether it gives a right reply, if it is there. One that is there and gives none is an error.
    fn try_reply(&mut self, ready: &Ready<'_>, patience: Duration) -> Result<bool> {
        if ready.address.takes_datagrams() && !is_bound(ready.address) {
            return Ok(false);
        }
        let server = RefCell::new(self);
        let is_over = || ready.stop.load(Ordering::Relaxed) || server.borrow_mut().has_ended();
        match (ready.first_reply)(patience, &is_over) {
            Ok(()) => Ok(true),
            Err(error) if is_not_there(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One that runs already, leads a process group of its own and leaves no processes.
    pub fn of_child(name: String, child: Child) -> Server {
        let process = Process::Own { child, status: None };
        Server { program: name.clone(), name, process, last_words: None }
    }

    pub fn pid(&self) -> i32 {
        match &self.process {
            Process::Kept(kept) => kept.pid(),
            Process::Own { child, .. } => child.id() as i32,
        }
    }

    /// Fails if it has ended, with its exit status; waits so long for that.
    pub fn check(&mut self, patience: Duration) -> Result<()> {
        let give_up = Instant::now() + patience;
        while !self.has_ended() && Instant::now() < give_up {
            thread::sleep(LOOK_INTERVAL);
        }
        if self.has_ended() {
            bail!(self.obituary()?);
        }
        Ok(())
    }

    /// How it has ended, in words. Nothing is left of it afterwards.
    fn obituary(&mut self) -> Result<String> {
        let name = &self.name;
        let Process::Kept(kept) = &mut self.process else {
            let status = self.end().context("the exit status of the server")?;
            return Ok(format!("{} exited: {status}", self.name));
        };
        let mut words = match kept.end() {
            Some(ended) if ended.status.success() && !ended.left.is_empty() => {
                background::words(name, &self.program, ended)
            }
            Some(Ended { status, .. }) if status.success() => {
                format!("{name} exited: {status} (a server must stay in the foreground)")
            }
            Some(Ended { status, .. }) => format!("{name} exited: {status}"),
            None => format!("{name} exited with an unknown status"),
        };
        if let Some(lines) = self.last_words.as_ref().and_then(LastWords::lines) {
            words += &format!("; it last printed: {lines}");
        }
        Ok(words)
    }

    /// Whether it has ended. It is left to be waited for, so that its id remains its own.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Process::Kept(kept) => kept.has_ended(),
            Process::Own { child, status } => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                // Once it has been waited for, its id is that of nobody, or of somebody else.
                status.is_some()
                    || waitid(WaitId::Pid(Pid::from_child(child)), options)
                        .is_ok_and(|status| status.is_some())
            }
        }
    }

    /// Asks all its processes to end, and does not wait.
    pub fn ask_to_end(&mut self) {
        match &mut self.process {
            Process::Kept(kept) => kept.ask_to_end(),
            Process::Own { child, status: None } => {
                // One that is stopped must go on to end. There is nobody to tell if a group is gone.
                for signal in [Signal::TERM, Signal::CONT] {
                    let _ = kill_process_group(Pid::from_child(child), signal);
                }
            }
            Process::Own { .. } => {}
        }
    }

    /// Ends our own and its process group: asks for it, and insists after a while.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.ask_to_end();
        let insist = Instant::now() + END_TIMEOUT;
        while !self.has_ended() && Instant::now() < insist {
            thread::sleep(LOOK_INTERVAL);
        }
        let Process::Own { child, status } = &mut self.process else { return Ok(ExitStatus::default()) };
        if let Some(status) = status {
            return Ok(*status);
        }
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        Ok(*status.insert(child.wait()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A keeper ends its server by itself. All has been tried, and there is nobody to tell.
        if matches!(self.process, Process::Own { .. }) {
            let _ = self.end();
        }
    }
}

/// Whether it says that nobody listens there.
fn is_not_there(error: &Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| kinds.contains(&error.kind()))
}

/// The lines that come, read by a thread that ends with them, so that the server never waits to be read.
fn listen(stdout: io::PipeReader) -> Receiver<String> {
    let (lines, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // It is read to its end even if nobody listens any more.
            let _ = lines.send(line);
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let command: CommandLine = r#"server  --name 'a b' "c d" e\ f"#.parse().unwrap();
        assert_eq!(command.words, ["server", "--name", "a b", "c d", "e f"]);
        let command: CommandLine = "A_1=2 B= 1c=3 d=4".parse().unwrap();
        assert_eq!(command.program(), "1c=3");
        let under = command.under("valgrind --tool=none ").unwrap();
        assert_eq!(under.words, ["A_1=2", "B=", "valgrind", "--tool=none", "1c=3", "d=4"]);
        let command = under.command();
        assert_eq!(command.get_program(), "valgrind");
        let variables: Vec<_> = command.get_envs().map(|(name, value)| (name, value.unwrap())).collect();
        assert_eq!(variables, [("A_1".as_ref(), "2".as_ref()), ("B".as_ref(), "".as_ref())]);
        assert!("A=1".parse::<CommandLine>().unwrap_err().contains("no program"));
        assert!("".parse::<CommandLine>().unwrap_err().contains("empty"));
        assert!("a 'b".parse::<CommandLine>().unwrap_err().contains("quote"));
    }

    #[test]
    fn what_has_ended_stays_so() {
        let command: CommandLine = "sh -c 'exit 7'".parse().unwrap();
        let child =
            std::os::unix::process::CommandExt::process_group(&mut command.command(), 0).spawn().unwrap();
        let mut server = Server::of_child(command.to_string(), child);
        for _ in 0..2 {
            let error = server.check(Duration::from_secs(60)).unwrap_err();
            assert!(error.to_string().contains("exited: exit status: 7"), "{error}");
        }
    }

    #[test]
    fn the_port_is_one_and_free() {
        let port = free_port();
        assert_eq!(port, free_port());
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(find_port(), port, "datagrams have it");
        drop(taken);
        let command: CommandLine = "server --port={port} {port}".parse().unwrap();
        let port = port.to_string();
        assert!(command.command().get_args().eq([format!("--port={port}").as_str(), port.as_str()]));
    }
}
