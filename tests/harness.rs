//! What the tests share: a reactor in a thread of its own or turned by the test itself, peers, and ways to wait for
//! what must happen. [`program`] is the same for the program.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
#[cfg(feature = "cli")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tidewheel::services::echo::Echo;
use tidewheel::{Address, Limits, Metrics, Options, Reactor, Remote, Service};

pub mod load;
pub mod memory;
#[cfg(feature = "cli")]
pub mod program;
pub mod skipped;

/// After this a test that hangs fails instead; nothing that works comes near it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test rests before it looks again, where nothing tells it when to.
const PAUSE: Duration = Duration::from_millis(2);

/// A value with some of its fields changed: `with!(Limits::default(), refusals_max = 1)`.
macro_rules! with {
    ($base:expr, $($field:ident = $value:expr),+ $(,)?) => {{
        let mut value = $base;
        $(value.$field = $value;)+
        value
    }};
}
pub(crate) use with;

// ---- reactors ----

/// A service that knows no messages, only bytes, on a reactor.
pub fn listen(reactor: &mut Reactor, service: impl Service, address: &Address) -> Address {
    listen_with(reactor, service, Options::new("bytes").messages(false), address)
}

/// A service on a reactor.
pub fn listen_with(
    reactor: &mut Reactor,
    service: impl Service,
    options: Options,
    address: &Address,
) -> Address {
    let service = reactor.add_service(service, options);
    reactor.listen(address, service).unwrap().1
}

/// A TCP address of loopback whose port the system chooses.
pub fn any_tcp() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

/// A reactor that runs in a thread of its own. It ends with the test.
pub struct Served {
    /// In the order in which they were given.
    pub addresses: Vec<Address>,
    remote: Remote,
    thread: Option<JoinHandle<Metrics>>,
}

impl Served {
    /// A reactor that listens where `set_up` says.
    pub fn start(
        limits: Limits,
        set_up: impl FnOnce(&mut Reactor) -> Vec<Address> + Send + 'static,
    ) -> Served {
        Served::run(limits, set_up, Duration::ZERO)
    }

    /// Like [`Served::start`]; once it is stopped it drains for as long as that takes.
    pub fn start_to_drain(
        limits: Limits,
        set_up: impl FnOnce(&mut Reactor) -> Vec<Address> + Send + 'static,
    ) -> Served {
        Served::run(limits, set_up, PATIENCE)
    }

    fn run(
        limits: Limits,
        set_up: impl FnOnce(&mut Reactor) -> Vec<Address> + Send + 'static,
        drain: Duration,
    ) -> Served {
        let (started, start) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new(limits).unwrap();
            let addresses = set_up(&mut reactor);
            started.send((addresses, reactor.remote())).unwrap();
            reactor.run().unwrap();
            if !drain.is_zero() {
                reactor.drain(drain).unwrap();
            }
            reactor.metrics().clone()
        });
        let (addresses, remote) = start.recv().expect("the reactor listens");
        Served { addresses, remote, thread: Some(thread) }
    }

    /// Echo on TCP.
    pub fn echo(limits: Limits) -> Served {
        Served::start(limits, |reactor| vec![listen(reactor, Echo, &any_tcp())])
    }

    /// What it has counted so far.
    pub fn metrics(&self) -> Metrics {
        self.remote.metrics(PATIENCE).expect("the reactor turns")
    }

    /// The bytes that have come and gone so far.
    pub fn bytes_in_and_out(&self) -> (u64, u64) {
        let metrics = self.metrics();
        (metrics.bytes_in, metrics.bytes_out)
    }

    /// Waits until what it has counted is as it must become.
    #[track_caller]
    pub fn await_metrics(&self, what: &str, reached: impl Fn(&Metrics) -> bool) -> Metrics {
        await_that(what, || Some(self.metrics()).filter(&reached))
    }

    /// Tells it to end, without waiting for it.
    pub fn begin_to_stop(&self) {
        self.remote.stop();
    }

    /// Ends it and returns what it counted.
    pub fn stop(mut self) -> Metrics {
        self.remote.stop();
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("the reactor does not panic")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.remote.stop();
        if let Some(thread) = self.thread.take() {
            // Whether it panicked is of no interest in a test that has failed.
            let _ = thread.join();
        }
    }
}

/// A reactor that the test turns, so that it decides what comes together in one turn.
pub struct Turned {
    /// It has at least one listener.
    pub reactor: Reactor,
    /// Where its first one listens.
    pub address: Address,
}

impl Turned {
    /// A reactor with one service on TCP.
    pub fn new(limits: Limits, service: impl Service) -> Turned {
        Turned::at(limits, service, &any_tcp())
    }

    /// A reactor with one service.
    pub fn at(limits: Limits, service: impl Service, address: &Address) -> Turned {
        let mut reactor = Reactor::new(limits).unwrap();
        let address = listen(&mut reactor, service, address);
        Turned { reactor, address }
    }

    /// Turns until what it has counted is as it must become.
    #[track_caller]
    pub fn turn_until(&mut self, what: &str, reached: impl Fn(&Metrics) -> bool) {
        let begun = now();
        while !reached(self.reactor.metrics()) {
            assert!(begun.elapsed() < PATIENCE, "it never came to this: {what}");
            self.reactor.turn(Some(PAUSE)).unwrap();
        }
    }

    /// Turns until there is nothing to do, which must come soon: whoever spins never rests.
    #[track_caller]
    pub fn assert_rests(&mut self) {
        for _ in 0..1000 {
            let events = self.reactor.metrics().events;
            self.reactor.turn(Some(Duration::ZERO)).unwrap();
            let idle = self.reactor.next_timeout() != Some(Duration::ZERO);
            if idle && self.reactor.metrics().events == events {
                return;
            }
        }
        panic!("a thousand turns and it still finds something to do");
    }
}

// ---- time ----

/// The clock, for backstops and for the figures of long runs; no test depends on what it says.
#[allow(clippy::disallowed_methods, reason = "a test has no engine to ask for the time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks again and again until there is something, which is returned.
#[track_caller]
pub fn await_that<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came to this: {what}");
        thread::sleep(PAUSE);
    }
}

/// Tells threads to end, also when the test fails while they run.
#[cfg(feature = "cli")]
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

#[cfg(feature = "cli")]
impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// ---- peers ----

/// The socket address of a TCP listener.
#[track_caller]
pub fn socket_address(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) | Address::Udp(address) => *address,
        _ => panic!("{address} is not of the internet"),
    }
}

/// Connects to a TCP listener.
#[track_caller]
pub fn tcp(address: &Address) -> TcpStream {
    patient(TcpStream::connect(socket_address(address)).expect("somebody listens there"))
}

/// Connects to a TCP listener from this address.
#[track_caller]
pub fn tcp_from(ip: impl Into<IpAddr>, address: &Address) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip.into(), 0).into()).unwrap();
    socket.connect(&socket_address(address).into()).expect("somebody listens there");
    patient(socket.into())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Connects to a unix stream listener.
#[track_caller]
pub fn unix(address: &Address) -> UnixStream {
    let Address::Unix(path) = address else { panic!("{address} is no unix stream socket") };
    let stream = UnixStream::connect(path).expect("somebody listens there");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `question` and reads as many bytes as `answer` has, which they must be.
#[track_caller]
pub fn ask(stream: &mut (impl Read + Write + ?Sized), question: &[u8], answer: &[u8]) {
    stream.write_all(question).expect("the connection is open");
    expect(stream, answer);
}

/// Reads as many bytes as `answer` has, which they must be.
#[track_caller]
pub fn expect(stream: &mut (impl Read + ?Sized), answer: &[u8]) {
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).expect("the answer comes");
    assert!(got == answer, "{} instead of {}", beginning(&got), beginning(answer));
}

fn beginning(bytes: &[u8]) -> String {
    format!("{} ({} bytes)", bytes[..bytes.len().min(80)].escape_ascii(), bytes.len())
}

/// Reads to the end, and says whether that was a reset.
pub fn read_to_end(stream: &mut (impl Read + ?Sized)) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => (all, false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (all, true),
        Err(error) => panic!("after {} bytes: {error}", all.len()),
    }
}

/// Closes a TCP connection with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What a stream can do that a test needs, on either transport.
pub trait Stream: Read + Write + Send {
    /// Chooses whether it waits.
    fn wait(&self, wait: bool);
}

impl Stream for TcpStream {
    fn wait(&self, wait: bool) {
        self.set_nonblocking(!wait).unwrap();
    }
}

impl Stream for UnixStream {
    fn wait(&self, wait: bool) {
        self.set_nonblocking(!wait).unwrap();
    }
}

/// Sends from `bytes` what goes without waiting, and returns how much that was.
#[track_caller]
pub fn send_what_goes(stream: &mut (impl Stream + ?Sized), bytes: &[u8]) -> usize {
    stream.wait(false);
    let mut count = 0;
    while count < bytes.len() {
        match stream.write(&bytes[count..]) {
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("after {count} bytes: {error}"),
        }
    }
    stream.wait(true);
    count
}

/// Sends from `bytes` without reading until nothing moves any more, and returns how much that was: all buffers between
/// the two are full then, and whoever echoes waits for its peer to read. `bytes_in_and_out` is what it has counted.
#[track_caller]
pub fn stuff(
    stream: &mut (impl Stream + ?Sized),
    bytes: &[u8],
    mut bytes_in_and_out: impl FnMut() -> (u64, u64),
) -> usize {
    let (first_in, _) = bytes_in_and_out();
    let (mut count, mut quiet) = (0, 0);
    let mut before = (0, 0);
    let begun = now();
    // The kernel passes on a little later what it has room for again: so it is looked at several times.
    while quiet < 10 {
        assert!(begun.elapsed() < PATIENCE, "it is never full");
        let more = send_what_goes(stream, &bytes[count..]);
        assert!(count + more < bytes.len(), "all {} bytes were taken", bytes.len());
        count += more;
        let after = bytes_in_and_out();
        let is_stuck = after.0 > after.1 && after.0 - first_in < count as u64;
        quiet = if more == 0 && before == after && is_stuck { quiet + 1 } else { 0 };
        before = after;
        thread::sleep(PAUSE);
    }
    count
}

/// Bytes in which a shift or a gap shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index % 251) as u8 ^ (index >> 16) as u8).collect()
}

/// How the kernel's sockets with this local TCP port stand: the states of those that are no listeners.
pub fn tcp_states(port: u16) -> Vec<String> {
    const STATES: [&str; 11] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    let states = sockets_at(port).into_iter().map(|(state, _)| STATES[state - 1].to_owned());
    states.filter(|state| state != "LISTEN").collect()
}

/// On how many of the kernel's connections with this local TCP port there is something to read.
#[cfg(feature = "cli")]
pub fn unread_by(port: u16) -> usize {
    const LISTEN: usize = 10;
    sockets_at(port).into_iter().filter(|&(state, unread)| state != LISTEN && unread > 0).count()
}

/// The state of each of the kernel's sockets with this local TCP port, and what there is to read on it.
fn sockets_at(port: u16) -> Vec<(usize, u64)> {
    // Of each line: number, local address, remote address, state, bytes to send and to read.
    let parse = |line: &str| {
        let words: Vec<_> = line.split_whitespace().take(5).collect();
        let [_, local, _, state, queues] = words[..] else { return None };
        let local = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        let state = usize::from_str_radix(state, 16).ok()?;
        let unread = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
        (local == port).then_some((state, unread))
    };
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).filter_map(parse).collect()
}

// ---- files ----

/// A folder for sockets, with a short path; removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidewheel-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("the folder for temporary files takes another");
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The address of a unix stream socket in it.
    pub fn unix(&self, name: &str) -> Address {
        Address::Unix(self.path(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether this process may open so many descriptors; skips the calling test if not.
#[track_caller]
pub fn has_descriptors(count: u64) -> io::Result<bool> {
    let has = tidewheel::os::raise_descriptor_limit()? >= count;
    if !has {
        skipped::skip(&format!("needs {count} descriptors: ulimit -n"));
    }
    Ok(has)
}
