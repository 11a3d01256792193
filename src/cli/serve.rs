//! `tidewheel serve`: from the options to listening sockets, through signals, to the end.
//!
//! ```text
//!  resolve ─► bind all, or nothing ─► announce ─► run ──SIGTERM──► drain ─► exit 0
//!                                                  └─ SIGUSR1: counters
//! ```

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};
use tidewheel::metrics::Metrics;
use tidewheel::net::os;
use tidewheel::reactor::{Drained, Remote};
use tidewheel::services::Language;
use tidewheel::{Address, ConnId, Context, Error, Limits, Options, Reactor, Service, ServiceId};
use tracing::{info, warn};

use super::address::{self, Listener};
use super::outlet::Outlet;
use super::services::Add;
use super::settings::Settings;
use super::units::Time;
use super::{EXIT_FAILED, EXIT_USAGE, ServeOptions, show};

/// How long a reactor may take to tell its counters. A turn is a matter of milliseconds.
const COUNTERS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the last lines may take to be written. Whoever has stopped reading does not keep the program alive.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// Why the program ends otherwise than in order.
struct Failure {
    exit_code: u8,
    line: String,
}

impl Failure {
    /// Of the command line or an address.
    fn usage(line: String) -> Failure {
        Failure { exit_code: EXIT_USAGE, line }
    }
}

/// Where the program writes.
#[derive(Clone)]
struct Streams {
    out: Outlet,
    err: Outlet,
    show: bool,
}

/// Serves until it is told to stop.
pub fn serve(options: &ServeOptions) -> ExitCode {
    let streams = match open_streams(options) {
        Ok(streams) => streams,
        Err(error) => {
            // The stream may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "tidewheel: cannot write to the standard streams: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let exit = match serve_on(options, &streams) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit_code, line }) => {
            streams.err.put(format!("tidewheel: {}\n", show::printable(&line)).as_bytes());
            ExitCode::from(exit_code)
        }
    };
    streams.out.flush(FLUSH_PATIENCE);
    streams.err.flush(FLUSH_PATIENCE);
    exit
}

fn open_streams(options: &ServeOptions) -> io::Result<Streams> {
    let out = Outlet::open(io::stdout(), "standard output")?;
    let err = Outlet::open(io::stderr(), "standard error")?;
    let log = err.clone();
    tracing_subscriber::fmt()
        .with_max_level(options.log_level.filter())
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || log.clone())
        .init();
    Ok(Streams { out, err, show: options.show })
}

fn serve_on(options: &ServeOptions, streams: &Streams) -> Result<(), Failure> {
    let mut wanted = resolve(options).map_err(Failure::usage)?;
    let descriptors = os::raise_descriptor_limit()
        .map_err(|error| Failure::usage(format!("cannot tell the limit of open descriptors: {error}")))?;
    let mut limits = options
        .limits
        .limits(usize::from(options.reactors), wanted.len(), descriptors)
        .map_err(Failure::usage)?;
    for limits in &mut limits {
        limits.busy_poll = options.busy_poll.0;
        limits.io_uring = options.io_uring;
    }
    let settings = options.services.settings(&options.limits).map_err(Failure::usage)?;
    // From here on a signal waits for the reactor instead of ending the program with its socket files in place.
    let signals =
        Signals::catch().map_err(|error| Failure::usage(format!("cannot receive signals: {error}")))?;

    if limits.len() > 1 {
        wanted = for_several_reactors(wanted, streams)?;
        wanted = free_addresses(&limits[0], &settings, wanted, streams)?;
    }
    let (mut reactor, bound) = open_reactor(&limits[0], &settings, &wanted, limits.len() > 1, streams)?;
    if bound.is_empty() {
        return Err(Failure::usage(
            "nothing to serve: every default address is busy (name others: tidewheel serve echo=:0)"
                .to_owned(),
        ));
    }
    // No deadline at all is one that never comes.
    let deadline = options.limits.drain_deadline.limit().unwrap_or(Duration::MAX);
    thread::scope(|scope| {
        // The first reactor alone serves unix sockets.
        let shared: Vec<Listener> =
            bound.iter().filter(|listener| is_inet(&listener.address)).cloned().collect();
        let mut others = Vec::new();
        for limits in &limits[1..] {
            others.push(start_other(scope, limits, &settings, shared.clone(), deadline, streams)?);
        }
        let remotes: Vec<Remote> = std::iter::once(reactor.remote())
            .chain(others.iter().map(|other| other.remote.clone()))
            .collect();
        signals
            .watch(&mut reactor, remotes.clone(), streams.clone(), options.limits.drain_deadline)
            .map_err(|error| Failure::usage(format!("cannot watch for signals: {error}")))?;

        announce(&bound, &streams.out);
        info!(
            "serving {} with {}, texts in {}, writes {}",
            counted(bound.len(), "address", "addresses"),
            counted(remotes.len(), "reactor", "reactors"),
            match settings.language {
                Language::English => "English",
                Language::Chinese => "Chinese",
            },
            if reactor.uses_io_uring() { "through io_uring" } else { "one by one" }
        );
        streams.out.detach();
        streams.err.detach();
        for other in &others {
            // One that is gone tells why when it is joined.
            let _ = other.start.send(remotes.clone());
        }
        let mut total = turn_until_told(reactor, deadline, remotes)?;
        for other in others {
            let ended = other.thread.join().map_err(|_| Failure {
                exit_code: EXIT_FAILED,
                line: "a reactor panicked: please report it".to_owned(),
            })?;
            let drained = ended?;
            total.closed += drained.closed;
            total.aborted += drained.aborted;
        }
        info!(
            "stopped: {} closed in order, {} broken off",
            counted(total.closed, "connection", "connections"),
            total.aborted
        );
        Ok(())
    })
}

/// A reactor in a thread of its own: it is made there and stays there.
struct Other<'scope> {
    remote: Remote,
    /// It turns once it is sent all reactors. When this is dropped instead, because the start failed elsewhere, it is
    /// dropped too.
    start: Sender<Vec<Remote>>,
    thread: ScopedJoinHandle<'scope, Result<Drained, Failure>>,
}

/// Makes another reactor that listens on `shared`, beside the first.
fn start_other<'scope>(
    scope: &'scope Scope<'scope, '_>,
    limits: &'scope Limits,
    settings: &'scope Settings,
    shared: Vec<Listener>,
    deadline: Duration,
    streams: &'scope Streams,
) -> Result<Other<'scope>, Failure> {
    let (ready, is_ready) = mpsc::channel();
    let (start, started) = mpsc::channel();
    let work = move || {
        let reactor = match open_reactor(limits, settings, &shared, true, streams) {
            Ok((reactor, _)) => reactor,
            Err(failure) => {
                // Whoever waits for it reports it.
                let _ = ready.send(Err(failure));
                return Ok(Drained { closed: 0, aborted: 0 });
            }
        };
        let _ = ready.send(Ok(reactor.remote()));
        match started.recv() {
            Ok(all) => turn_until_told(reactor, deadline, all),
            Err(_) => Ok(Drained { closed: 0, aborted: 0 }),
        }
    };
    let thread = thread::Builder::new()
        .name("reactor".to_owned())
        .spawn_scoped(scope, work)
        .map_err(|error| Failure::usage(format!("cannot start another reactor: {error}")))?;
    let remote = is_ready
        .recv()
        .unwrap_or_else(|_| Err(Failure::usage("a reactor ended before it was ready".to_owned())))?;
    Ok(Other { remote, start, thread })
}

/// All that is to be listened on, in order, with names looked up and nothing twice.
fn resolve(options: &ServeOptions) -> Result<Vec<Listener>, String> {
    if options.requests.is_empty() {
        let host = options.bind.as_deref().map_or(Ok(address::loopback()), address::look_up)?;
        return Ok(address::defaults(host));
    }
    let wanted = options.requests.iter().map(|request| request.resolve()).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    for Listener { service, address, .. } in &wanted {
        let any_port = matches!(address, Address::Tcp(at) | Address::Udp(at) if at.port() == 0);
        if !any_port && !seen.insert(address) {
            return Err(format!("{address} is asked for twice: give {} another address", service.name));
        }
    }
    Ok(wanted)
}

/// What of `wanted` several reactors can serve.
fn for_several_reactors(wanted: Vec<Listener>, streams: &Streams) -> Result<Vec<Listener>, Failure> {
    let (alone, others): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|listener| matches!(listener.service.add, Add::Alone(_)));
    for Listener { service, is_default, .. } in alone {
        let name = service.name;
        if !is_default {
            return Err(Failure::usage(format!(
                "{name} needs --reactors 1, where all of its peers meet (serve it by a program of its own)"
            )));
        }
        streams.err.put(format!("tidewheel: {name} is left out: it needs --reactors 1\n").as_bytes());
    }
    Ok(others)
}

/// What of `wanted` nobody else listens on. Reactors that share their ports would also share them with another
/// program that does, and each would see half of the connections: so it is tried without sharing first.
fn free_addresses(
    limits: &Limits,
    settings: &Settings,
    wanted: Vec<Listener>,
    streams: &Streams,
) -> Result<Vec<Listener>, Failure> {
    // The system gives a free port for port 0 in any case.
    let in_doubt = |listener: &Listener| match listener.address {
        Address::Tcp(at) | Address::Udp(at) => at.port() != 0,
        Address::Unix(_) | Address::UnixDatagram(_) => false,
    };
    let doubtful: Vec<_> = wanted.iter().filter(|listener| in_doubt(listener)).cloned().collect();
    let (probe, free) = open_reactor(limits, settings, &doubtful, false, streams)?;
    drop(probe);
    Ok(wanted
        .into_iter()
        .filter(|listener| !in_doubt(listener) || free.iter().any(|free| free.address == listener.address))
        .collect())
}

/// Makes a reactor that listens on all of `wanted`, less the defaults that are busy, and returns it with the
/// addresses that it got.
fn open_reactor(
    limits: &Limits,
    settings: &Settings,
    wanted: &[Listener],
    share_ports: bool,
    streams: &Streams,
) -> Result<(Reactor, Vec<Listener>), Failure> {
    let failed = |error: Error| Failure::usage(error.to_string());
    let mut reactor = Reactor::new(limits.clone()).map_err(failed)?;
    show::watch(&mut reactor, streams.show.then(|| streams.out.clone()));
    let mut services: Vec<(&str, ServiceId)> = Vec::new();
    let mut bound = Vec::new();
    for listener in wanted {
        let name = listener.service.name;
        let known = services.iter().find(|(known, _)| *known == name);
        let id = match (&listener.service.add, known) {
            (Add::ForAll(_) | Add::Alone(_), Some(&(_, id))) => id,
            (Add::ForAll(add) | Add::Alone(add), None) => {
                let id = add(&mut reactor, settings);
                services.push((name, id));
                id
            }
            (Add::ForEach(add), _) => add(&mut reactor, settings, &listener.address),
        };
        let opened = if share_ports && is_inet(&listener.address) {
            reactor.listen_shared(&listener.address, id)
        } else {
            reactor.listen(&listener.address, id)
        };
        match opened {
            Ok((_, address)) => bound.push(Listener { address, ..listener.clone() }),
            Err(Error::Listen { address, source })
                if listener.is_default && source.kind() == io::ErrorKind::AddrInUse =>
            {
                streams.err.put(
                    format!("tidewheel: {name} is left out: {address} is busy (try {name}=:0)\n").as_bytes(),
                );
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok((reactor, bound))
}

/// Whether several sockets can share an address; a unix path belongs to one.
fn is_inet(address: &Address) -> bool {
    matches!(address, Address::Tcp(_) | Address::Udp(_))
}

fn announce(bound: &[Listener], out: &Outlet) {
    let mut lines: String = bound
        .iter()
        .map(|Listener { service, address, .. }| format!("listening {} {address}\n", service.name))
        .collect();
    lines.push_str("ready\n");
    out.put(lines.as_bytes());
}

/// Runs a reactor and drains it. However it ends, in a panic too, all others end with it.
fn turn_until_told(mut reactor: Reactor, deadline: Duration, all: Vec<Remote>) -> Result<Drained, Failure> {
    struct StopAll(Vec<Remote>);
    impl Drop for StopAll {
        fn drop(&mut self) {
            self.0.iter().for_each(Remote::stop);
        }
    }

    let _stop_all = StopAll(all);
    reactor
        .run()
        .and_then(|()| reactor.drain(deadline))
        .map_err(|error| Failure { exit_code: EXIT_FAILED, line: error.to_string() })
}

/// Caught signals: flags, and a byte in a socket that the first reactor watches. There is no thread for them, for the
/// sake of programs with one reactor; see [`super::outlet`].
struct Signals {
    stopping: Arc<AtomicBool>,
    /// The number of the signal that began it.
    stopped_by: Arc<AtomicUsize>,
    counters_wanted: Arc<AtomicBool>,
    bytes: UnixStream,
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGUSR1.
    fn catch() -> io::Result<Signals> {
        let (bytes, raised) = UnixStream::pair()?;
        let (stopping, stopped_by) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let counters_wanted = Arc::<AtomicBool>::default();
        for signal in [SIGTERM, SIGINT] {
            // The order counts. A second signal does what it would have done without us, so that a shell sees what
            // ended the program.
            flag::register_conditional_default(signal, stopping.clone())?;
            flag::register(signal, stopping.clone())?;
            flag::register_usize(signal, stopped_by.clone(), signal as usize)?;
            low_level::pipe::register(signal, raised.try_clone()?)?;
        }
        flag::register(SIGUSR1, counters_wanted.clone())?;
        low_level::pipe::register(SIGUSR1, raised)?;
        Ok(Signals { stopping, stopped_by, counters_wanted, bytes })
    }

    /// Has them answered by a reactor, for all of `remotes`.
    fn watch(
        self,
        reactor: &mut Reactor,
        remotes: Vec<Remote>,
        streams: Streams,
        drain_deadline: Time,
    ) -> io::Result<()> {
        let bytes = self.bytes.try_clone()?;
        let answers = SignalAnswers { signals: self, remotes, streams, drain_deadline, stopping: false };
        let service = reactor.add_service(answers, Options { messages: false, ..Options::new("signals") });
        reactor.watch(bytes, service).map(drop)
    }
}

/// What happens on a signal, as a service that reads them.
struct SignalAnswers {
    signals: Signals,
    remotes: Vec<Remote>,
    streams: Streams,
    drain_deadline: Time,
    stopping: bool,
}

impl Service for SignalAnswers {
    fn input(&mut self, _conn: ConnId, bytes: &[u8], _cx: &mut Context<'_>) -> usize {
        if self.signals.counters_wanted.swap(false, Ordering::AcqRel) {
            // The reactors answer in their turns, this one among them: so somebody else must wait.
            let (remotes, streams) = (self.remotes.clone(), self.streams.clone());
            let answer = move || streams.err.put(counters(&remotes, &streams).as_bytes());
            if let Err(error) = thread::Builder::new().name("counters".to_owned()).spawn(answer) {
                warn!("no counters: cannot start a thread: {error}");
            }
        }
        if self.signals.stopping.load(Ordering::Acquire) && !self.stopping {
            self.stopping = true;
            let signal = self.signals.stopped_by.load(Ordering::Acquire) as i32;
            let name = low_level::signal_name(signal).unwrap_or("signal");
            match self.drain_deadline.limit() {
                Some(_) => info!("{name}: draining for at most {}", self.drain_deadline),
                None => info!("{name}: draining"),
            }
            self.remotes.iter().for_each(Remote::stop);
        }
        bytes.len()
    }
}

/// The counters of all reactors, as lines.
fn counters(remotes: &[Remote], streams: &Streams) -> String {
    let mut sum: Option<Metrics> = None;
    let mut silent = 0;
    for remote in remotes {
        match (remote.metrics(COUNTERS_PATIENCE), &mut sum) {
            (Some(metrics), Some(sum)) => sum.add(&metrics),
            (Some(metrics), None) => sum = Some(metrics),
            // It has drained already.
            (None, _) => silent += 1,
        }
    }
    let mut all = sum.map_or_else(Vec::new, |sum| sum.counters());
    all.extend([
        ("reactors".to_owned(), remotes.len() as u64),
        ("reactors_silent".to_owned(), silent),
        ("output_lines_lost".to_owned(), streams.out.lines_lost()),
        ("log_lines_lost".to_owned(), streams.err.lines_lost()),
    ]);
    let mut lines: String = all.into_iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    lines.push_str("end\n");
    lines
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
