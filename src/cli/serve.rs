//! `tidewheel serve`: from the options to listening sockets, through signals, to the end.
//!
//! ```text
//!  resolve ─► bind all, or nothing ─► announce ─► run ──SIGTERM──► drain ─► exit 0
//!                                                  └─ SIGUSR1: counters
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};
use tidewheel::os;
use tidewheel::services::Language;
use tidewheel::{
    Address, Config, ConnId, Context, Drained, Error, Limits, ListenerId, Metrics, Options, Reactor, Remote,
    Service, ServiceId,
};
use tracing::{error, info, warn};

use super::address::{self, Listener};
use super::limits::Descriptors;
use super::outlet::Outlet;
use super::services::{Add, Entry};
use super::settings::Settings;
use super::units::Time;
use super::unix_mode::UnixMode;
use super::{EXIT_FAILED, EXIT_USAGE, INSTALL_CLIENTS, PanicPolicy, ServeOptions, cgroup, show};

/// How long a reactor may take to tell its counters. A turn is a matter of milliseconds.
const COUNTERS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the last lines may take to be written. Whoever has stopped reading does not keep the program alive.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// What is open before anything else, where the system does not tell.
const DESCRIPTORS_AT_START: usize = 8;

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

/// The listeners and datagram sockets of all reactors that are open. When the last one is closed for its failures, the
/// program has nothing left to do.
#[derive(Default)]
pub struct OpenListeners {
    open: AtomicUsize,
    reactors: OnceLock<Vec<Remote>>,
}

impl OpenListeners {
    /// There are so many, of these reactors. None of them has turned yet.
    fn are(&self, count: usize, reactors: Vec<Remote>) {
        self.open.store(count, Ordering::Release);
        // They are set once.
        let _ = self.reactors.set(reactors);
    }

    /// One was closed. After the last one all reactors stop.
    pub fn one_is_closed(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reactors.get().into_iter().flatten().for_each(Remote::stop);
        }
    }

    fn none_is_left(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }
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
    // By itself a panic is printed with whatever a peer has put into it, and waits until standard error takes it.
    panic::set_hook(Box::new(|info| {
        error!("{}", show::printable(&info.to_string()));
    }));
    Ok(Streams { out, err, show: options.show })
}

fn serve_on(options: &ServeOptions, streams: &Streams) -> Result<(), Failure> {
    let mut wanted = resolve(options).map_err(Failure::usage)?;
    if options.unix_mode.is_some() && wanted.iter().all(|listener| is_inet(&listener.address)) {
        return Err(Failure::usage(
            "--unix-mode needs a unix socket: add one, such as echo=unix:/tmp/echo.sock".to_owned(),
        ));
    }
    let reactors = usize::from(options.reactors);
    let descriptors = descriptors(&wanted, reactors)?;
    let limits =
        options.limits.limits(reactors, &descriptors, cgroup::memory_limit()).map_err(Failure::usage)?;
    let connections_max = limits.iter().filter_map(|limits| limits.connections_max).sum();
    let configs: Vec<_> = limits.into_iter().map(|limits| config(options, limits)).collect();
    let settings = options.services.settings(&options.limits).map_err(Failure::usage)?;
    // From here on a signal waits for the reactor instead of ending the program with its socket files in place.
    let signals =
        Signals::catch().map_err(|error| Failure::usage(format!("cannot receive signals: {error}")))?;

    let listeners = Arc::<OpenListeners>::default();
    let several = configs.len() > 1;
    if several {
        wanted = for_several_reactors(wanted, streams)?;
    }
    let mut first = Opening::new(&configs[0], &settings, options.unix_mode, streams, &listeners)?;
    let taken = first.bind(wanted)?;
    // No deadline at all is one that never comes.
    let deadline = options.limits.drain_deadline.limit().unwrap_or(Duration::MAX);
    thread::scope(|scope| {
        let mut others = Vec::new();
        for config in &configs[1..] {
            let listeners = listeners.clone();
            others.push(start_other(scope, config, &settings, deadline, streams, listeners)?);
        }
        let remotes: Vec<Remote> = std::iter::once(first.reactor.remote())
            .chain(others.iter().map(|other| other.remote.clone()))
            .collect();
        signals
            .watch(&mut first.reactor, remotes.clone(), streams.clone(), options.limits.drain_deadline)
            .map_err(|error| Failure::usage(format!("cannot watch for signals: {error}")))?;

        // Whoever connects from here on is served: nothing is left that fails as a rule.
        let bound = first.start_listening(taken, several)?;
        // The first reactor alone serves unix sockets.
        let shared: Vec<_> = bound.iter().filter(|listener| is_inet(&listener.address)).cloned().collect();
        for other in &others {
            other.listen(shared.clone())?;
        }
        let reactor = first.reactor;
        listeners.are(bound.len() + others.len() * shared.len(), remotes.clone());
        announce(&bound, &streams.out);
        info!(
            "serving {} as process {} with {}, at most {}, texts in {}, writes {}",
            counted(bound.len(), "address", "addresses"),
            std::process::id(),
            counted(remotes.len(), "reactor", "reactors"),
            counted(connections_max, "connection", "connections"),
            match settings.language {
                Language::English => "English",
                Language::Chinese => "Chinese",
            },
            if reactor.uses_io_uring() { "through io_uring" } else { "one by one" }
        );
        for listener in bound.iter().filter(|listener| listener.service.name == "http") {
            if let Address::Tcp(at) = &listener.address {
                info!("open http://{}/", on_this_machine(*at));
            }
        }
        if cfg!(feature = "clients") {
            // HTTP has a page, see above.
            if let Some(listener) = bound.iter().find(|listener| listener.service.name != "http") {
                let address = match &listener.address {
                    Address::Tcp(at) => Address::Tcp(on_this_machine(*at)),
                    Address::Udp(at) => Address::Udp(on_this_machine(*at)),
                    other => other.clone(),
                };
                info!("try it: tidewheel talk {address}");
            }
        } else {
            info!("to add the clients (tidewheel talk, chat, get, ftp): {INSTALL_CLIENTS}");
        }
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
                line: "a reactor panicked: please report this bug".to_owned(),
            })?;
            total.add(ended?);
        }
        info!(
            "stopped: {} answered, {} closed unanswered, {} reset",
            counted(total.answered, "connection", "connections"),
            total.unanswered,
            total.reset
        );
        if listeners.none_is_left() {
            return Err(Failure {
                exit_code: EXIT_FAILED,
                line: "every listener was closed after errors for too long".to_owned(),
            });
        }
        Ok(())
    })
}

/// What a reactor with these limits is made with.
fn config(options: &ServeOptions, limits: Limits) -> Config {
    let mut config = Config::from(limits);
    config.busy_poll = options.busy_poll.0;
    config.io_uring = options.io_uring;
    config.catch_panics = options.panic == PanicPolicy::Close;
    config
}

/// A reactor in a thread of its own: it is made there and stays there. When this is dropped before it turns, because the
/// start failed elsewhere, it is dropped too.
struct Other<'scope> {
    remote: Remote,
    /// It joins the first reactor on all that it is sent, and says whether it could.
    listen: Sender<Vec<Listener>>,
    listening: Receiver<Result<(), Failure>>,
    /// It turns once it is sent all reactors.
    start: Sender<Vec<Remote>>,
    thread: ScopedJoinHandle<'scope, Result<Drained, Failure>>,
}

impl Other<'_> {
    fn listen(&self, shared: Vec<Listener>) -> Result<(), Failure> {
        // If it is gone there is no answer either.
        let _ = self.listen.send(shared);
        self.listening.recv().unwrap_or_else(|_| Err(ended_early()))
    }
}

fn ended_early() -> Failure {
    Failure::usage("a reactor ended before it was ready".to_owned())
}

/// Makes another reactor, beside the first.
fn start_other<'scope>(
    scope: &'scope Scope<'scope, '_>,
    config: &'scope Config,
    settings: &'scope Settings,
    deadline: Duration,
    streams: &'scope Streams,
    listeners: Arc<OpenListeners>,
) -> Result<Other<'scope>, Failure> {
    let (made, is_made) = mpsc::channel();
    let (listen, shared) = mpsc::channel();
    let (listens, listening) = mpsc::channel();
    let (start, started) = mpsc::channel();
    let work = move || {
        let mut opening = match Opening::new(config, settings, None, streams, &listeners) {
            Ok(opening) => opening,
            Err(failure) => {
                // Whoever waits for it reports it.
                let _ = made.send(Err(failure));
                return Ok(Drained::default());
            }
        };
        let _ = made.send(Ok(opening.reactor.remote()));
        let Ok(shared) = shared.recv() else { return Ok(Drained::default()) };
        let _ = listens.send(opening.join(shared));
        match started.recv() {
            Ok(all) => turn_until_told(opening.reactor, deadline, all),
            Err(_) => Ok(Drained::default()),
        }
    };
    let thread = thread::Builder::new()
        .name("reactor".to_owned())
        .spawn_scoped(scope, work)
        .map_err(|error| Failure::usage(format!("cannot start another reactor: {error}")))?;
    let remote = is_made.recv().unwrap_or_else(|_| Err(ended_early()))?;
    Ok(Other { remote, listen, listening, start, thread })
}

/// The descriptors that there are, and what they are needed for.
fn descriptors(wanted: &[Listener], reactors: usize) -> Result<Descriptors, Failure> {
    let allowed = os::raise_descriptor_limit()
        .map_err(|error| Failure::usage(format!("cannot read the limit of open descriptors: {error}")))?;
    let open = fs::read_dir("/proc/self/fd").map_or(DESCRIPTORS_AT_START, Iterator::count);
    // The first reactor alone serves unix sockets, each with its lock file.
    let listeners = wanted.iter().map(|listener| if is_inet(&listener.address) { reactors } else { 2 }).sum();
    Ok(Descriptors { allowed, open, fixed: Signals::DESCRIPTORS, listeners })
}

/// All that is to be listened on, in order, with names looked up and nothing twice.
fn resolve(options: &ServeOptions) -> Result<Vec<Listener>, String> {
    if options.requests.is_empty() {
        let host =
            options.bind.as_deref().map_or(Ok(address::loopback(0)), |host| address::look_up(host, 0))?;
        return Ok(address::defaults(host));
    }
    let wanted = options.requests.iter().map(|request| request.resolve()).collect::<Result<Vec<_>, _>>()?;
    for (index, Listener { service, address, .. }) in wanted.iter().enumerate() {
        let Some(other) = wanted[..index].iter().find(|other| address::overlap(&other.address, address))
        else {
            continue;
        };
        let name = service.name;
        return Err(if other.address == *address {
            format!("{address} is given twice: give {name} another address")
        } else {
            format!("{address} overlaps with {}: give {name} another port", other.address)
        });
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
                "{name} needs --reactors 1 (to use more reactors for other services, run {name} in a second server)"
            )));
        }
        streams.err.put(format!("tidewheel: {name} is skipped: it needs --reactors 1\n").as_bytes());
    }
    Ok(others)
}

/// A reactor that is being given its services and their addresses.
struct Opening<'a> {
    reactor: Reactor,
    settings: &'a Settings,
    streams: &'a Streams,
    services: Vec<(&'static str, ServiceId)>,
}

impl<'a> Opening<'a> {
    fn new(
        config: &Config,
        settings: &'a Settings,
        unix_mode: Option<UnixMode>,
        streams: &'a Streams,
        listeners: &Arc<OpenListeners>,
    ) -> Result<Opening<'a>, Failure> {
        let mut reactor = Reactor::new(config.clone()).map_err(refused)?;
        reactor.set_unix_mode(unix_mode.map(|mode| mode.0));
        show::watch(&mut reactor, streams.show.then(|| streams.out.clone()), listeners.clone());
        Ok(Opening { reactor, settings, streams, services: Vec::new() })
    }

    /// Takes all addresses of `wanted`, less the defaults that are busy.
    fn bind(&mut self, wanted: Vec<Listener>) -> Result<Vec<(Listener, ListenerId)>, Failure> {
        let mut taken = Vec::new();
        for listener in wanted {
            let service = self.service(&listener);
            match self.reactor.bind(&listener.address, service) {
                Ok((id, address)) => taken.push((Listener { address, ..listener }, id)),
                Err(error) => self.leave_out(&listener, error)?,
            }
        }
        self.or_nothing(taken)
    }

    /// Listens on all of `taken`, less the defaults that somebody else has begun to listen on meanwhile.
    fn start_listening(
        &mut self,
        taken: Vec<(Listener, ListenerId)>,
        share: bool,
    ) -> Result<Vec<Listener>, Failure> {
        let mut bound = Vec::new();
        for (listener, id) in taken {
            match self.reactor.start_listening(id, share) {
                Ok(()) => bound.push(listener),
                Err(error) => self.leave_out(&listener, error)?,
            }
        }
        self.or_nothing(bound)
    }

    /// Joins another reactor on all of `shared`.
    fn join(&mut self, shared: Vec<Listener>) -> Result<(), Failure> {
        for listener in shared {
            let service = self.service(&listener);
            self.reactor.listen_shared(&listener.address, service).map_err(refused)?;
        }
        Ok(())
    }

    /// The service of a listener, which is added if there is none yet.
    fn service(&mut self, listener: &Listener) -> ServiceId {
        let Entry { name, add, .. } = listener.service;
        let known = self.services.iter().find(|(known, _)| known == name);
        match (add, known) {
            (Add::ForAll(_) | Add::Alone(_), Some(&(_, id))) => id,
            (Add::ForAll(add) | Add::Alone(add), None) => {
                let id = add(&mut self.reactor, self.settings);
                self.services.push((name, id));
                id
            }
            (Add::ForEach(add), _) => add(&mut self.reactor, self.settings, &listener.address),
        }
    }

    /// A default that is busy can be done without.
    fn leave_out(&self, listener: &Listener, error: Error) -> Result<(), Failure> {
        let is_busy =
            matches!(&error, Error::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
        if !(listener.is_default && is_busy) {
            return Err(refused(error));
        }
        let (name, address) = (listener.service.name, &listener.address);
        let line = format!("tidewheel: {name} is skipped: {address} is in use (try {name}=:0)\n");
        self.streams.err.put(line.as_bytes());
        Ok(())
    }

    fn or_nothing<T>(&self, some: Vec<T>) -> Result<Vec<T>, Failure> {
        if some.is_empty() {
            return Err(Failure::usage(
                "nothing to serve: every default address is in use (give another one: tidewheel serve echo=:0)"
                    .to_owned(),
            ));
        }
        Ok(some)
    }
}

fn refused(error: Error) -> Failure {
    Failure::usage(error.to_string())
}

/// Whether several sockets can share an address; a unix path belongs to one.
/// The address under which this machine reaches a listener: where all addresses are served, that of loopback.
fn on_this_machine(mut at: SocketAddr) -> SocketAddr {
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    at
}

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
    /// The pair of sockets, a copy of the one for each signal, and one of the other that is watched.
    const DESCRIPTORS: usize = 7;

    /// Catches SIGTERM, SIGINT, SIGHUP and SIGUSR1.
    fn catch() -> io::Result<Signals> {
        let (bytes, raised) = UnixStream::pair()?;
        let (stopping, stopped_by) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let counters_wanted = Arc::<AtomicBool>::default();
        // Under `nohup` the terminal may go and the server stays.
        let hangup = (!os::ignores_signal(SIGHUP)?).then_some(SIGHUP);
        for signal in [SIGTERM, SIGINT].into_iter().chain(hangup) {
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
        let service = reactor.add_service(answers, Options::new("signals").messages(false));
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
                warn!("cannot print the counters: cannot start a thread: {error}");
            }
        }
        if self.signals.stopping.load(Ordering::Acquire) && !self.stopping {
            self.stopping = true;
            let signal = self.signals.stopped_by.load(Ordering::Acquire) as i32;
            let name = low_level::signal_name(signal).unwrap_or("signal");
            match self.drain_deadline.limit() {
                Some(_) => info!("{name}: graceful shutdown, for at most {}", self.drain_deadline),
                None => info!("{name}: graceful shutdown"),
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
