//! The program: started, asked, signalled, looked at from outside, and ended with the test.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tidewheel::Address;

use super::{PATIENCE, await_that};

/// What SIGUSR1 makes the program tell.
pub type Counters = HashMap<String, u64>;

/// The program, not yet started: everything it says is read by the test, and it is deaf to the test's environment.
pub fn tidewheel<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    deaf(Command::new(env!("CARGO_BIN_EXE_tidewheel")), args)
}

/// The program, started by another one, which becomes it: `strace -D`, `setpriv`, a shell's `exec`.
pub fn tidewheel_through<S: AsRef<OsStr>>(starter: &[&str], args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(starter[0]);
    command.args(&starter[1..]).arg(env!("CARGO_BIN_EXE_tidewheel"));
    deaf(command, args)
}

fn deaf<S: AsRef<OsStr>>(mut command: Command, args: impl IntoIterator<Item = S>) -> Command {
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in ["LC_ALL", "LC_MESSAGES", "LANG", "TIDEWHEEL_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// A program that runs. It is killed when the test ends in whatever way, or takes too long.
pub struct Server {
    child: Child,
    pub out: Option<BufReader<ChildStdout>>,
    pub err: Option<BufReader<ChildStderr>>,
    /// What it announced: service and address.
    pub listening: Vec<(String, String)>,
    /// Its watchman lives as long.
    _alive: Sender<()>,
}

impl Server {
    /// Starts `tidewheel serve` and waits until it is ready.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Server {
        let mut command = tidewheel(["serve"]);
        command.args(args);
        Server::spawn(command).ready()
    }

    /// Like [`Server::start`], for long runs.
    pub fn start_for_long<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Server {
        let mut command = tidewheel(["serve"]);
        command.args(args);
        Server::spawn_for_long(command).ready()
    }

    pub fn spawn_for_long(command: Command) -> Server {
        Server::spawn_for(command, 20 * PATIENCE)
    }

    pub fn spawn(command: Command) -> Server {
        Server::spawn_for(command, PATIENCE)
    }

    fn spawn_for(mut command: Command, patience: Duration) -> Server {
        let mut child = command.spawn().expect("the program was built with the tests");
        let (alive, gone) = mpsc::channel();
        let pid = Pid::from_child(&child);
        thread::spawn(move || {
            if gone.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                // It was not waited for yet, so the number is still its own.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Server {
            out: child.stdout.take().map(BufReader::new),
            err: child.stderr.take().map(BufReader::new),
            child,
            listening: Vec::new(),
            _alive: alive,
        }
    }

    pub fn ready(mut self) -> Server {
        loop {
            let line = self.out_line();
            match line.strip_prefix("listening ").and_then(|rest| rest.split_once(' ')) {
                Some((service, address)) => self.listening.push((service.to_owned(), address.to_owned())),
                None if line == "ready" => return self,
                None => panic!("expected an announcement, got {line:?}, then {:?}", self.rest_of_err()),
            }
        }
    }

    /// The next line on standard output; empty at its end.
    pub fn out_line(&mut self) -> String {
        line_of(self.out.as_mut().expect("standard output is read by the test"))
    }

    /// The next line on standard error; empty at its end.
    pub fn err_line(&mut self) -> String {
        line_of(self.err.as_mut().expect("standard error is read by the test"))
    }

    pub fn rest_of_err(&mut self) -> String {
        let mut text = String::new();
        let err = self.err.as_mut().expect("standard error is read by the test");
        err.read_to_string(&mut text).expect("what the program says is UTF-8");
        text
    }

    /// Waits for a line on standard error that contains `part`, and returns it.
    #[track_caller]
    pub fn await_err(&mut self, part: &str) -> String {
        loop {
            let line = self.err_line();
            assert!(!line.is_empty(), "standard error ended before {part:?}");
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The first announced address with this service and prefix, without the prefix.
    pub fn address(&self, service: &str, prefix: &str) -> &str {
        self.listening
            .iter()
            .filter(|(name, _)| name == service)
            .find_map(|(_, address)| address.strip_prefix(prefix))
            .unwrap_or_else(|| panic!("no {prefix} of {service} in {:?}", self.listening))
    }

    /// Where a service listens on TCP.
    pub fn tcp_address(&self, service: &str) -> Address {
        Address::Tcp(self.address(service, "tcp://").parse().expect("the program announces addresses"))
    }

    /// Connects to a service on TCP.
    #[track_caller]
    pub fn tcp(&self, service: &str) -> TcpStream {
        super::tcp(&self.tcp_address(service))
    }

    /// Moves the calling thread into the network that the program is in.
    pub fn enter_network(&self) {
        let link = fs::File::open(format!("/proc/{}/ns/net", self.child.id())).expect("the program runs");
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the program has not been waited for yet");
    }

    /// Asks for the counters and reads them.
    pub fn counters(&mut self) -> Counters {
        self.signal(Signal::USR1);
        let mut counters = HashMap::new();
        loop {
            let line = self.err_line();
            match line.split_once(' ').map(|(name, value)| (name, value.parse())) {
                Some((name, Ok(value))) => drop(counters.insert(name.to_owned(), value)),
                _ if line == "end" => return counters,
                // A line of the log, perhaps.
                _ => assert!(!line.is_empty(), "standard error ended before the counters did"),
            }
        }
    }

    /// Waits until the counters are as they must become.
    #[track_caller]
    pub fn await_counters(&mut self, what: &str, reached: impl Fn(&Counters) -> bool) -> Counters {
        await_that(what, || Some(self.counters()).filter(&reached))
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the program is a child of the test")
    }

    /// Ends the program in order, which must succeed.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0), "{}", self.rest_of_err());
    }

    // ---- what the system tells of it ----

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("the program runs")
    }

    /// The numbers of its open descriptors.
    fn descriptor_numbers(&self) -> Vec<u64> {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the program runs");
        folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        self.descriptor_numbers().len()
    }

    /// Lets it open `spare` descriptors more and no other.
    pub fn limit_descriptors(&self, spare: u64) {
        let open = self.descriptor_numbers();
        let is_free = |number: &u64| !open.contains(number);
        let end = (0..).filter(is_free).nth(spare as usize).expect("numbers do not run out");
        self.set_descriptor_limit(Some(end));
    }

    /// Lets it open as many descriptors as it may at all.
    pub fn unlimit_descriptors(&self) {
        self.set_descriptor_limit(getrlimit(Resource::Nofile).maximum);
    }

    fn set_descriptor_limit(&self, current: Option<u64>) {
        // It has inherited the upper bound from the test.
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(Some(self.pid()), Resource::Nofile, Rlimit { current, maximum })
            .expect("it is a program of the same user");
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("it is a number")
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most that its resident memory has been, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<_> = stat.rsplit_once(')').expect("it has a name").1.split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<u64>().expect("it is a number");
        // A tick is a hundredth of a second on every system that Linux runs on.
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// Stops it as a suspended machine would, and waits until all of it stands still.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
        await_that("it stands still", || self.is_in_state('T').then_some(()));
    }

    /// Whether the system calls its state by this letter: R it runs, S it sleeps, T it stands still.
    pub fn is_in_state(&self, state: char) -> bool {
        let stat = self.proc("stat");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(state))
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Most have ended by themselves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command line that is expected to end by itself.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let mut server = Server::spawn(tidewheel(args));
    // Neither is more than a pipe holds, so one can be read after the other.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    server.out.take().expect("it is piped").read_to_end(&mut stdout).expect("a pipe can be read");
    server.err.take().expect("it is piped").read_to_end(&mut stderr).expect("a pipe can be read");
    Output { status: server.wait(), stdout, stderr }
}

/// Runs a command line that must be refused with one line, and returns that line.
#[track_caller]
pub fn refused<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let output = run(&args);
    let line = String::from_utf8(output.stderr).expect("what the program says is UTF-8");
    assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
    assert!(output.stdout.is_empty(), "{args:?} announced something");
    assert_eq!(line.matches('\n').count(), 1, "{args:?}: {line}");
    assert!(line.starts_with("tidewheel: ") && line.ends_with('\n'), "{args:?}: {line}");
    line
}

/// An address of loopback that no other test uses, given a number of its own, for what needs fixed ports.
pub fn lonely_ip(number: u8) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, number).into()
}

fn line_of(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("what the program says is UTF-8");
    line.trim_end_matches('\n').to_owned()
}
