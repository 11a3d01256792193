//! A server that the generator starts itself, measures and ends.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::address::Address;
use crate::cli::Options;
use crate::datagram::is_bound;
use crate::os;
use crate::stream::Stream;

/// What stands for a free port, in a command and in an address.
pub const PORT: &str = "{port}";

/// What a server may take to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at a server that starts or ends: the system tells of neither.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Ports below are wanted by others.
const PORT_MIN: u16 = 10_000;

/// A program and its arguments, split as a shell does. No shell sees them.
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
        let port = free_port().to_string();
        let mut words = self.words.iter().map(|word| word.replace(PORT, &port));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command
    }
}

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(text: &str) -> Result<CommandLine, String> {
        let words = shlex::split(text).ok_or("a quote has no end, or a \\ stands at the end")?;
        if words.is_empty() {
            return Err("is empty".into());
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

/// Ends with its value.
pub struct Server {
    /// What it is called where something is said about it.
    name: String,
    child: Child,
    is_over: bool,
}

impl Server {
    /// Starts the server that `--spawn` asks for, if it does.
    pub fn of(options: &Options, stop: &AtomicBool) -> Result<Option<Server>> {
        let start = |command| Server::start(command, &options.target.address, options.start_timeout(), stop);
        options.spawn.as_ref().map(start).transpose()
    }

    /// Starts a server and waits until it accepts connections, or has a socket for datagrams. What it prints goes to
    /// standard error.
    pub fn start(
        command: &CommandLine,
        address: &Address,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> Result<Server> {
        Server::start_to(command, address, timeout, stop, io::stderr().into())
    }

    /// The same, but what it prints on standard output is not shown.
    pub fn start_silent(
        command: &CommandLine,
        address: &Address,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> Result<Server> {
        Server::start_to(command, address, timeout, stop, Stdio::null())
    }

    fn start_to(
        command: &CommandLine,
        address: &Address,
        timeout: Duration,
        stop: &AtomicBool,
        stdout: Stdio,
    ) -> Result<Server> {
        let takes_datagrams = address.takes_datagrams();
        let is_there = || match takes_datagrams {
            true => is_bound(address),
            false => Stream::connect(&address.peer, None, timeout).is_ok(),
        };
        if is_there() {
            bail!("another server listens at {address} already");
        }
        let mut child = command.command();
        child.stdin(Stdio::null()).stdout(stdout).process_group(0);
        os::end_with_parent(&mut child);
        let child = child.spawn().with_context(|| format!("starting {command}"))?;
        let mut server = Server::of_child(command.to_string(), child);

        let give_up = Instant::now() + timeout;
        while !is_there() {
            let early = "the server did not come up (it must stay in the foreground)";
            server.check(Duration::ZERO).context(early)?;
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before {command} listened at {address}");
            }
            if Instant::now() >= give_up {
                let missed = if takes_datagrams { "opened no socket" } else { "accepted no connection" };
                bail!("{command} {missed} at {address} within {timeout:?}");
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(server)
    }

    /// Starts a server that says on its standard output where it listens, and then `ready`. Returns it with the lines before
    /// that one.
    pub fn start_announced(
        command: &CommandLine,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> Result<(Server, Vec<String>)> {
        let mut child = command.command();
        child.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        os::end_with_parent(&mut child);
        let mut child = child.spawn().with_context(|| format!("starting {command}"))?;
        let stdout = child.stdout.take();
        let mut server = Server::of_child(command.to_string(), child);
        let told = listen(stdout.context("its standard output")?);

        let give_up = Instant::now() + timeout;
        let mut said = Vec::new();
        loop {
            match told.recv_timeout(LOOK_INTERVAL) {
                Ok(line) if line == "ready" => return Ok((server, said)),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    server.check(END_TIMEOUT).context("it did not come up")?;
                    bail!("{command} closed its standard output before it said that it is ready");
                }
            }
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before {command} was ready");
            }
            if Instant::now() >= give_up {
                bail!("{command} did not say `ready` within {timeout:?}");
            }
        }
    }

    /// One that runs already, and leads a process group of its own.
    pub fn of_child(name: String, child: Child) -> Server {
        Server { name, child, is_over: false }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Fails if it has ended, with its exit status; waits so long for that.
    pub fn check(&mut self, patience: Duration) -> Result<()> {
        let give_up = Instant::now() + patience;
        while !self.has_ended() && Instant::now() < give_up {
            thread::sleep(LOOK_INTERVAL);
        }
        if self.has_ended() {
            let status = self.end().context("the exit status of the server")?;
            bail!("{} has ended: {status}", self.name);
        }
        Ok(())
    }

    /// Whether it has ended. It is left to be waited for, so that its id remains its own.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // Once it has been waited for, its id is that of nobody, or of somebody else.
        self.is_over
            || waitid(WaitId::Pid(Pid::from_child(&self.child)), options).is_ok_and(|status| status.is_some())
    }

    /// Asks it and its process group to end, and does not wait.
    pub fn ask_to_end(&self) {
        if !self.is_over {
            let group = Pid::from_child(&self.child);
            // One that is stopped must go on to end. There is nobody to tell if a group is gone.
            for signal in [Signal::TERM, Signal::CONT] {
                let _ = kill_process_group(group, signal);
            }
        }
    }

    /// Ends it and its process group: asks for it, and insists after a while.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if !self.is_over {
            let group = Pid::from_child(&self.child);
            self.ask_to_end();
            let insist = Instant::now() + END_TIMEOUT;
            while !self.has_ended() && Instant::now() < insist {
                thread::sleep(LOOK_INTERVAL);
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = self.child.wait();
        self.is_over = true;
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // All has been tried, and there is nobody to tell.
        let _ = self.end();
    }
}

/// The lines that come, read by a thread that ends with them, so that the server never waits to be read.
fn listen(stdout: ChildStdout) -> Receiver<String> {
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
        assert!("".parse::<CommandLine>().unwrap_err().contains("empty"));
        assert!("a 'b".parse::<CommandLine>().unwrap_err().contains("quote"));
    }

    #[test]
    fn what_has_ended_stays_so() {
        let command: CommandLine = "sh -c 'exit 7'".parse().unwrap();
        let child = command.command().process_group(0).spawn().unwrap();
        let mut server = Server::of_child(command.to_string(), child);
        for _ in 0..2 {
            let error = server.check(Duration::from_secs(60)).unwrap_err();
            assert!(error.to_string().contains("has ended: exit status: 7"), "{error}");
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
