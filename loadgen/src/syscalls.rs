//! The server's system calls per request, by name, counted by strace.
//!
//! strace stops the server at each call, which makes it several times as slow. So nothing that is timed is traced: after
//! the window a stretch of its own is driven over the same connections, which begins and ends with nothing in flight and
//! the server asleep. What is counted between is what these requests took, and nothing else but what the server does by
//! itself meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::{NamedTempFile, TempPath};

use crate::load::Amount;
use crate::os;
use crate::record::Record;
use crate::run::Driver;
use crate::tree::Tree;

/// Requests of the stretch: enough that the round trips at its ends do not matter, and no more than takes seconds.
const REQUESTS_MIN: u64 = 2_000;
const REQUESTS_MAX: u64 = 50_000;

/// Requests of the stretch for each that is in flight.
const ROUNDS: u64 = 20;

/// What strace may take to attach, and to detach.
const STRACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may take to fall asleep once nothing is asked of it; one that never does is busy by itself.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at a server that should sleep, and at strace that should end: the system tells of neither.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The right to trace the processes of others, as a bit of what /proc/self/status has as CapEff.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// Names of calls in the table.
const NAMES_MAX: usize = 5;

/// Less than this would be told as 0.00.
const TOLD_MIN: f64 = 0.005;

/// Calls per request.
#[derive(Clone, Debug, Serialize)]
pub struct SystemCalls {
    pub total: f64,
    /// Of these, the ones that failed: EAGAIN and the like.
    pub failed: f64,
    #[serde(flatten)]
    by_name: BTreeMap<String, f64>,
}

impl SystemCalls {
    /// None of which failed.
    #[cfg(test)]
    pub fn of(by_name: BTreeMap<String, f64>) -> SystemCalls {
        SystemCalls { total: by_name.values().sum(), failed: 0.0, by_name }
    }

    fn new(table: &Table, requests: u64) -> SystemCalls {
        let per_request = |calls: u64| calls as f64 / requests as f64;
        SystemCalls {
            total: per_request(table.calls.values().sum()),
            failed: per_request(table.failed),
            by_name: table.calls.iter().map(|(name, &calls)| (name.clone(), per_request(calls))).collect(),
        }
    }

    /// Calls per request of each name.
    pub fn by_name(&self) -> &BTreeMap<String, f64> {
        &self.by_name
    }

    /// Of several counts of the same server.
    pub fn mean(counts: &[SystemCalls]) -> Option<SystemCalls> {
        let share = 1.0 / counts.len() as f64;
        let mut by_name = BTreeMap::new();
        for (name, calls) in counts.iter().flat_map(SystemCalls::by_name) {
            *by_name.entry(name.clone()).or_default() += calls * share;
        }
        let sum = |of: fn(&SystemCalls) -> f64| counts.iter().map(of).sum::<f64>();
        (!counts.is_empty()).then(|| SystemCalls {
            total: sum(|calls| calls.total) * share,
            failed: sum(|calls| calls.failed) * share,
            by_name,
        })
    }

    /// The total and the most frequent ones.
    pub fn words(&self) -> String {
        let mut frequent: Vec<_> = self.by_name.iter().filter(|(_, calls)| **calls >= TOLD_MIN).collect();
        frequent.sort_by(|one, other| other.1.total_cmp(one.1));
        let names: Vec<_> =
            frequent.iter().take(NAMES_MAX).map(|(name, calls)| format!("{name} {calls:.2}")).collect();
        let mut words = format!("{:.2} per request", self.total);
        if !names.is_empty() {
            words += &format!(" ({})", names.join(", "));
        }
        if self.failed >= TOLD_MIN {
            words += &format!(", {:.2} of them failed", self.failed);
        }
        words
    }
}

/// Tells why strace cannot count here, if that can be known before anything is started.
pub fn check() -> Result<(), String> {
    match Command::new("strace").arg("-V").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return Err(format!("--syscalls needs strace, and strace -V ends with {}", output.status));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err("--syscalls needs strace, which is not installed: apt install strace".into());
        }
        Err(error) => return Err(format!("--syscalls needs strace, which cannot be started: {error}")),
    }
    // The server is no descendant of strace, which is what 1 allows. Where there is no such file, nothing is restricted.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let forbidden = is_forbidden(scope.trim().parse().unwrap_or(0), &status);
    forbidden.map_or(Ok(()), |what_to_do| {
        Err(format!("--syscalls: this system does not permit tracing: {what_to_do}"))
    })
}

/// What would allow to trace, if the system's setting and this process's rights do not.
fn is_forbidden(ptrace_scope: u32, status: &str) -> Option<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    match (ptrace_scope, effective & CAP_SYS_PTRACE) {
        (0, _) | (1 | 2, CAP_SYS_PTRACE) => None,
        (1, _) => Some("sysctl kernel.yama.ptrace_scope=0, or run loadgen as root"),
        (2, _) => Some("run loadgen as root (kernel.yama.ptrace_scope is 2)"),
        _ => Some("kernel.yama.ptrace_scope is 3, which only a restart can change"),
    }
}

/// Has a number of requests answered that follows from how many are in flight, in a closed loop over connections that
/// are there, and counts the server's calls meanwhile. Fails rather than to tell what may not be so.
pub fn count<D: Driver>(
    server: &mut Tree,
    drivers: &mut [D],
    connections: usize,
    depth: usize,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<SystemCalls> {
    let in_flight = connections as u64 * depth as u64;
    let requests = (in_flight * ROUNDS).clamp(REQUESTS_MIN, REQUESTS_MAX);
    await_sleep(server)?;
    let strace = Strace::attach(&server.processes())?;
    // Each thread is woken from the call in which it slept, which is not seen, and sleeps in one that is.
    await_sleep(server)?;
    let record = drive(drivers, requests, depth, stop)?;
    await_sleep(server)?;
    let table = strace.detach()?;
    if let Some(words) = &record.first_error {
        bail!("while they were counted: {words}");
    }
    ensure!(!stop(), "interrupted before they were counted");
    ensure!(
        record.requests == requests && record.errors + record.lost + record.peer_closed + record.late == 0,
        "of {requests} requests {} were made, {} wrongly answered and {} lost while they were counted",
        record.requests,
        record.errors,
        record.lost
    );
    ensure!(
        table.calls.values().any(|&calls| calls > 0),
        "strace has seen none: is it the server's process?"
    );
    Ok(SystemCalls::new(&table, requests))
}

/// Each driver has its share of the requests answered.
fn drive<D: Driver>(
    drivers: &mut [D],
    requests: u64,
    depth: usize,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Record> {
    let threads = drivers.len() as u64;
    thread::scope(|scope| {
        let driving: Vec<_> = (0..)
            .zip(drivers)
            .map(|(index, driver)| {
                let share = requests / threads + u64::from(index < requests % threads);
                scope.spawn(move || {
                    driver.drive(Amount::Requests(share), depth, stop).map(|_| driver.take_record())
                })
            })
            .collect();
        let mut sum = Record::default();
        let mut result = Ok(());
        for driven in driving {
            match driven.join().map_err(|_| anyhow!("a thread of the generator panicked: please report it")) {
                Ok(Ok(record)) => sum.add(&record),
                Ok(Err(error)) | Err(error) => result = Err(error),
            }
        }
        result.map(|()| sum)
    })
}

/// Waits until no thread of the server has run between two looks: what the last request has left it to do is done.
fn await_sleep(server: &mut Tree) -> Result<()> {
    let give_up = Instant::now() + QUIET_TIMEOUT;
    let mut before = None;
    loop {
        let switches = server.look().context("looking at the server (has it ended?)")?.switches;
        if server.is_asleep() && before == Some(switches) || Instant::now() >= give_up {
            return Ok(());
        }
        before = Some(switches);
        thread::sleep(LOOK_INTERVAL);
    }
}

/// strace, attached to a server.
struct Strace {
    child: Child,
    /// What it says, line by line.
    told: Receiver<String>,
    /// Where it writes its table.
    table: TempPath,
}

impl Strace {
    /// Attaches to processes and their threads, and waits until that is done: every call that begins then is seen.
    fn attach(processes: &[i32]) -> Result<Strace> {
        let table = NamedTempFile::new().context("a file for strace")?.into_temp_path();
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(&table);
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        // Numbers with a point. In a group of its own, so that a Ctrl-C is not for it.
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.process_group(0);
        os::end_with_parent(&mut command);
        let mut child = command.spawn().context("starting strace")?;
        let told = listen(child.stderr.take().context("strace's standard error")?);
        let mut strace = Strace { child, told, table };
        strace.await_attached(processes)?;
        Ok(strace)
    }

    fn await_attached(&mut self, processes: &[i32]) -> Result<()> {
        let give_up = Instant::now() + STRACE_TIMEOUT;
        let mut missing = processes.to_vec();
        while !missing.is_empty() {
            match self.told.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) => match attached(&line) {
                    Some(process) => missing.retain(|&one| one != process),
                    None => bail!("strace does not attach: {}", line.trim_start_matches("strace: ")),
                },
                Err(RecvTimeoutError::Timeout) => bail!("strace has not attached within {STRACE_TIMEOUT:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("strace has ended before it attached"),
            }
        }
        Ok(())
    }

    /// Lets go of the server, and returns what was counted.
    fn detach(mut self) -> Result<Table> {
        ensure!(self.child.try_wait()?.is_none(), "strace has ended before it was told to");
        kill_process(Pid::from_child(&self.child), Signal::INT).context("telling strace to detach")?;
        let give_up = Instant::now() + STRACE_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < give_up, "strace has not detached within {STRACE_TIMEOUT:?}");
            thread::sleep(LOOK_INTERVAL);
        }
        Table::of(&fs::read_to_string(&self.table).context("reading strace's table")?)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // The kernel detaches what a tracer that has ended was attached to. One that is over cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that come, read by a thread that ends with them, so that strace never waits to be read.
fn listen(stderr: ChildStderr) -> Receiver<String> {
    let (lines, told) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // It is read to its end even if nobody listens any more.
            let _ = lines.send(line);
        }
    });
    told
}

/// The process of `strace: Process 12 attached`, or `... attached with 3 threads`.
fn attached(line: &str) -> Option<i32> {
    let (process, rest) = line.split_once("Process ")?.1.split_once(' ')?;
    process.parse().ok().filter(|_| rest.starts_with("attached"))
}

/// What strace has counted.
#[derive(Debug, Default, PartialEq)]
struct Table {
    calls: BTreeMap<String, u64>,
    failed: u64,
}

impl Table {
    /// Reads what strace -c writes: a row for each name, with an empty column where none failed.
    fn of(text: &str) -> Result<Table> {
        let mut table = Table::default();
        let (mut rules, mut is_whole) = (0, false);
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                // Around the rows; programs of another word size have a table of their own.
                [rule, ..] if rule.starts_with("---") => rules += 1,
                [.., "total"] => is_whole = true,
                [share, _seconds, _each, calls, ref errors @ .., name]
                    if rules % 2 == 1 && errors.len() <= 1 && share.parse::<f64>().is_ok() =>
                {
                    let number = |text: &str| text.parse::<u64>().with_context(|| unreadable(line));
                    *table.calls.entry(name.to_owned()).or_default() += number(calls)?;
                    table.failed += errors.first().map_or(Ok(0), |errors| number(errors))?;
                }
                _ if rules % 2 == 1 => bail!(unreadable(line)),
                _ => {}
            }
        }
        ensure!(is_whole && rules % 2 == 0, "strace's table is not whole: {text:?}");
        Ok(table)
    }
}

fn unreadable(line: &str) -> String {
    format!("strace's table has a row that cannot be read: {line:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 44.91    0.005172           2      2000           sendto
 42.60    0.004906           2      2050        50 recvfrom
 12.49    0.001438          35        41           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.011516           2      4091        50 total
";

    #[test]
    fn the_table_of_strace_is_read() {
        let table = Table::of(TABLE).unwrap();
        let calls: Vec<_> = table.calls.iter().map(|(name, calls)| (name.as_str(), *calls)).collect();
        assert_eq!(
            (calls, table.failed),
            (vec![("epoll_wait", 41), ("recvfrom", 2050), ("sendto", 2000)], 50)
        );
        let calls = SystemCalls::new(&table, 2000);
        assert_eq!(
            calls.words(),
            "2.05 per request (recvfrom 1.02, sendto 1.00, epoll_wait 0.02), 0.03 of them failed"
        );
        let json = serde_json::to_value(&calls).unwrap();
        assert_eq!((&json["sendto"], &json["failed"]), (&1.0.into(), &0.025.into()));
        // Programs of 32 bits have a table of their own.
        let both = Table::of(&format!("{TABLE}System call usage summary for 32 bit mode:\n{TABLE}")).unwrap();
        assert_eq!((both.calls["sendto"], both.failed), (4000, 100));
    }

    #[test]
    fn the_mean_is_over_all_counts() {
        let calls = |calls: &[(&str, f64)]| {
            SystemCalls::of(calls.iter().map(|&(name, calls)| (name.to_owned(), calls)).collect())
        };
        let mean =
            SystemCalls::mean(&[calls(&[("read", 1.0), ("futex", 0.5)]), calls(&[("read", 2.0)])]).unwrap();
        assert_eq!((mean.total, mean.by_name["read"], mean.by_name["futex"]), (1.75, 1.5, 0.25));
        assert!(SystemCalls::mean(&[]).is_none());
    }

    #[test]
    fn a_table_that_is_not_whole_is_none() {
        for len in (0..TABLE.trim_end().len()).filter(|&len| !TABLE[..len].trim_end().ends_with("total")) {
            assert!(Table::of(&TABLE[..len]).is_err(), "{:?}", &TABLE[..len]);
        }
        for (from, to) in [("2050", "many"), ("        50 recvfrom", " 50 50 recvfrom"), ("44.91", "?")] {
            let error = Table::of(&TABLE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains("cannot be read"), "{error}");
        }
    }

    #[test]
    fn attached_is_what_strace_says_is() {
        assert_eq!(attached("strace: Process 12 attached"), Some(12));
        assert_eq!(attached("strace: Process 12 attached with 3 threads"), Some(12));
        for line in [
            "strace: attach: ptrace(PTRACE_SEIZE, 12): Operation not permitted",
            "strace: Process 12 detached",
        ] {
            assert_eq!(attached(line), None);
        }
    }

    #[test]
    fn who_may_trace() {
        let (root, user) = ("Name:\tloadgen\nCapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000000\n");
        assert_eq!((is_forbidden(0, user), is_forbidden(1, root), is_forbidden(2, root)), (None, None, None));
        assert!(is_forbidden(1, user).is_some_and(|words| words.contains("ptrace_scope=0")));
        assert!(is_forbidden(2, user).is_some() && is_forbidden(3, root).is_some());
    }
}
