//! What is counted and not timed: system calls, instructions, memory of idle connections.
//!
//! Each is counted several times. Instructions and memory are slopes, differences between two amounts of the same work,
//! which leave out what a server does once.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use super::peers::{Kind, Peer, Running};
use super::rounds::{Contender, run};
use loadgen::Usage;
use loadgen::cli::Asked;
use loadgen::exchange::{Exchange, FirstBody, Http, Walk};
use loadgen::idle::memory::Count;
use loadgen::load::{Amount, Budget, Load, Shape};
use loadgen::run::Watch;
use loadgen::stream::Stream;
use loadgen::tree::Tree;
use loadgen::trial::verified;

/// Requests for each that is in flight between two counts of instructions, and how many there are at least.
const INSTRUCTION_ROUNDS: u64 = 20;
const INSTRUCTION_REQUESTS_MIN: u64 = 2000;

/// valgrind's own bound is 500, less than a thread for each connection.
const THREADS_MAX: usize = 2000;

/// Under valgrind a server takes some fifty times as long.
const SLOW_TIMEOUT: Duration = Duration::from_secs(60);

/// Whoever has not ended by then, after it was told to, may not have heard it.
const MOST_END_WITHIN: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// System calls per request, or per delivery of a room, counted so often.
pub fn system_calls(
    contender: &mut Contender,
    case: Case,
    times: usize,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    // The window before it may be as short as can be.
    let window = Amount::Requests(case.load().connections as u64);
    let run = run(&contender.peer, &contender.running, case, window, Duration::ZERO)?;
    let mut counts = Vec::new();
    for _ in 0..times {
        let watch = Watch { counts_system_calls: true, ..Watch::nobody() };
        let (_, measured) = verified(&run, &mut contender.running.server, watch, stop)?;
        let calls = measured.system_calls.context("they were not counted")??;
        counts.push(calls.total / case.load().receivers() as f64);
    }
    Ok(counts)
}

/// Instructions in user space per request: slopes between numbers of requests, each in a life of its own of the server.
///
/// `start` starts the server under the tool that it is given.
pub fn instructions(
    peer: &Peer,
    case: Case,
    times: usize,
    start: &dyn Fn(&str) -> Result<Running>,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let load = case.load();
    let step = ((load.connections * load.depth) as u64 * INSTRUCTION_ROUNDS).max(INSTRUCTION_REQUESTS_MIN);
    let totals: Vec<f64> = (1..=times as u64 + 1)
        .map(|steps| instructions_of_a_life(peer, case, step * steps, start, stop))
        .collect::<Result<_>>()?;
    let slopes: Vec<f64> = totals.windows(2).map(|pair| (pair[1] - pair[0]) / step as f64).collect();
    // No server answers a request with none.
    ensure!(slopes.iter().all(|&slope| slope > 1.0), "more requests took no more instructions: {totals:?}");
    Ok(slopes)
}

fn instructions_of_a_life(
    peer: &Peer,
    case: Case,
    requests: u64,
    start: &dyn Fn(&str) -> Result<Running>,
    stop: &AtomicBool,
) -> Result<f64> {
    let folder = tempfile::tempdir().context("a folder for callgrind")?;
    let place = folder.path().to_str().context("the folder for callgrind is not UTF-8")?;
    let place = shlex::try_quote(place).context("the folder for callgrind")?;
    // One file for each process, whoever's it is: nginx gives its worker to nobody.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).context("the folder for callgrind")?;
    let prefix = format!(
        "valgrind --tool=callgrind --trace-children=yes --max-threads={THREADS_MAX} --callgrind-out-file={place}/out.%p \
         --log-file=/dev/null "
    );
    let mut running = start(&prefix)?;
    let mut run = run(peer, &running, case, Amount::Requests(requests), Duration::ZERO)?;
    run.options.timeout = Some(SLOW_TIMEOUT);
    verified(&run, &mut running.server, Watch::nobody(), stop).context("under valgrind")?;
    // It writes its files when it ends. In calls that valgrind does not know to block, such as io_uring_enter, it holds signals
    // back, and delivers them when the program has run on for a while: connections wake it, some hundred of them.
    running.server.ask_to_end();
    let begun = Instant::now();
    while !running.server.has_ended() && begun.elapsed() < SLOW_TIMEOUT {
        if begun.elapsed() < MOST_END_WITHIN {
            thread::sleep(LOOK_INTERVAL);
        } else {
            let _ = Stream::connect(&run.options.target.address.peer, None, SLOW_TIMEOUT);
        }
    }
    drop(running);
    let mut sum = None;
    for entry in fs::read_dir(folder.path()).context("what callgrind wrote")? {
        let text = fs::read_to_string(entry?.path()).context("what callgrind wrote")?;
        let total = total(&text).context("it wrote no total: did the server not end when it was told to?")?;
        *sum.get_or_insert(0.0) += total;
    }
    sum.context("it wrote nothing")
}

/// The instructions of a process.
fn total(profile: &str) -> Option<f64> {
    let line = |name| profile.lines().find_map(|line: &str| line.strip_prefix(name));
    line("summary:").or_else(|| line("totals:"))?.trim().parse().ok()
}

/// Private memory per idle connection, each of which has had one reply: slopes, each over so many connections, in a life of
/// its own of the server.
pub fn memory(
    peer: &Peer,
    case: Case,
    connections: usize,
    times: usize,
    start: &dyn Fn(&str) -> Result<Running>,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let mut running = start("")?;
    let run = run(peer, &running, case, Amount::Requests(1), Duration::ZERO)?;
    let (address, asked) = (&run.options.target.address, run.asked().map_err(Usage)?);
    let shape = |first, connections| Shape {
        connections,
        first,
        sizes: run.options.size.clone(),
        timeout: run.options.timeout(),
        seed: run.options.seed,
        sources: run.options.source_ips.clone().unwrap_or_default(),
        budget: Budget::WHOLE,
    };
    let hold = |first, connections| -> Result<Box<dyn Send>> {
        let shape = shape(first, connections);
        match &asked {
            Asked::Page { path, status } => {
                let exchange = Http::new(path, &address.host(), *status, FirstBody::default());
                held(Load::connect(address, shape, exchange)?, connections, stop)
            }
            Asked::Walk(service) => {
                held(Load::connect(address, shape, Walk::of(*service))?, connections, stop)
            }
            _ => bail!("its connections cannot be idle"),
        }
    };
    // Those before the first count have what a server does once behind them.
    let (mut kept, mut bytes) = (Vec::new(), Vec::new());
    for step in 0..=times {
        kept.push(hold(step * connections, connections)?);
        bytes.push(private_bytes(&mut running)?);
    }
    running.server.check(Duration::ZERO)?;
    Ok(bytes.windows(2).map(|pair| (pair[1] - pair[0]) / connections as f64).collect())
}

/// The connections, open after one exchange on each.
fn held<E: Exchange<Conn: Send> + Send + 'static>(
    mut load: Load<E>,
    connections: usize,
    stop: &AtomicBool,
) -> Result<Box<dyn Send>> {
    load.drive(Amount::Requests(connections as u64), 1, &|| stop.load(Ordering::Relaxed))?;
    let record = load.take_record();
    ensure!(!stop.load(Ordering::Relaxed), "interrupted");
    ensure!(
        record.answered == connections as u64 && record.errors + record.peer_closed == 0,
        "{} of {connections} connections had their reply",
        record.answered
    );
    Ok(Box::new(load))
}

/// Of all its processes.
fn private_bytes(running: &mut Running) -> Result<f64> {
    let mut tree = Tree::of(running.server.pid())?;
    tree.look()?;
    let bytes = Count::Pss.bytes(tree.pids()).context("/proc/PID/smaps_rollup cannot be read")?;
    Ok(bytes as f64)
}

/// Whether its connections can be idle, and its instructions are counted.
pub fn suits(kind: Kind) -> bool {
    matches!(kind, Kind::Echo | Kind::Page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_callgrind_is_read() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 2\n\ntotals: 123456\n"), Some(123456.0));
        assert_eq!(total("summary: 7\ntotals: 8\n"), Some(7.0));
        assert_eq!(total("events: Ir\n"), None);
    }
}
