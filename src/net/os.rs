//! The system that the program runs on: sockets, clocks, and the limit of open descriptors.
//!
//! mio provides readiness and sockets, socket2 their options. This module alone uses either, the clock, or unsafe code.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use self::alarm::Alarm;
use self::batch::{Ring, WRITES_MAX, WRITES_MIN};
use self::datagram::DatagramSocket;
use self::unix_path::UnixPath;
use super::{
    ALARM, Address, Delivery, Flags, ListenOptions, Net, Peer, Readiness, Short, WAKER, Wake, Wire,
    source_token, write_one_by_one,
};
use crate::datagram::{Inbound, Outbound};
use crate::slots::ConnId;
use crate::timer::Instant;

mod alarm;
mod batch;
mod datagram;
mod paths;
mod queues;
#[doc(hidden)]
pub mod unix_path;

/// Events taken from the system in one turn.
const EVENTS_PER_POLL: usize = 1024;

/// Connections that the kernel holds for us until we accept them; it lowers this to net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// When the kernel asks a silent peer whether it is still there: a peer that vanished is found in two minutes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// The real system, under the [`Reactor`](crate::Reactor) that [`Reactor::new`](crate::Reactor::new) creates.
pub struct Os {
    poll: mio::Poll,
    waker: Arc<mio::Waker>,
    start: std::time::Instant,
    /// How long a wait asks again and again before it sleeps.
    busy_poll: Duration,
    /// By slot. Unix streams are here too: what std does with a `TcpStream` is recv and send with MSG_NOSIGNAL,
    /// whatever the family of the socket, and one kind saves a branch and a join in every read and write.
    streams: Vec<Option<TcpStream>>,
    /// What many writes are made through at once, where there is one.
    ring: Option<Ring>,
    /// By index.
    sources: Vec<Option<Source>>,
    alarm: Alarm,
    /// The mode of unix sockets; `None`: the umask decides.
    unix_mode: Option<u32>,
}

enum Source {
    Tcp(TcpListener),
    /// The file goes first: whoever still finds it is served.
    Unix(#[expect(dead_code, reason = "removes the file when dropped")] UnixPath, UnixListener),
    Datagram(DatagramSocket),
}

impl Os {
    /// An event queue of the system, with its waker. A wait asks for `busy_poll` before it sleeps. The writes of a turn may be made
    /// through io_uring, if it is to be had and `io_uring` says so.
    ///
    /// # Errors
    /// When the system has no descriptor or memory for them.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that owns the clock")]
    pub(crate) fn new(busy_poll: Duration, io_uring: bool) -> io::Result<Os> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), Token(WAKER as usize))?);
        let start = std::time::Instant::now();
        let alarm = Alarm::new()?;
        poll.registry().register(
            &mut SourceFd(&alarm.as_fd().as_raw_fd()),
            Token(ALARM as usize),
            Interest::READABLE,
        )?;
        let ring = if io_uring { Ring::new() } else { None };
        let (streams, sources) = (Vec::new(), Vec::new());
        Ok(Os { poll, waker, start, busy_poll, streams, ring, sources, alarm, unix_mode: None })
    }

    #[inline]
    fn stream(&self, id: ConnId) -> &TcpStream {
        stream_of(&self.streams, id)
    }

    /// Takes a stream over under `id`, registered for `READ`.
    pub(crate) fn adopt(&mut self, stream: OwnedFd, id: ConnId) -> io::Result<()> {
        SockRef::from(&stream).set_nonblocking(true)?;
        self.keep_stream(id, TcpStream::from(stream), Flags::READ)
    }

    fn source(&self, source: u32) -> &Source {
        self.sources[source as usize].as_ref().expect("the reactor names only sources that it opened")
    }

    fn datagram_socket(&mut self, source: u32) -> &mut DatagramSocket {
        match self.sources[source as usize].as_mut() {
            Some(Source::Datagram(socket)) => socket,
            _ => unreachable!("the reactor receives and transmits only where it opened a datagram socket"),
        }
    }

    fn keep_stream(&mut self, id: ConnId, mut stream: TcpStream, interest: Flags) -> io::Result<()> {
        let token = Token(id.token() as usize);
        self.poll.registry().register(&mut stream, token, to_mio(interest))?;
        if id.slot() >= self.streams.len() {
            self.streams.resize_with(id.slot() + 1, || None);
        }
        self.streams[id.slot()] = Some(stream);
        Ok(())
    }
}

impl Os {
    fn sleep(&mut self, events: &mut Events, max_wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, max_wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            waited => waited,
        }
    }

    #[inline(never)]
    fn spin_and_wait(&mut self, events: &mut Events, max_wait: Option<Duration>) -> io::Result<()> {
        let begun = self.start.elapsed();
        let spins = max_wait.map_or(self.busy_poll, |max| max.min(self.busy_poll));
        loop {
            self.sleep(events, Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(());
            }
            let spun = self.start.elapsed() - begun;
            if spun >= spins {
                return self.sleep(events, max_wait.map(|max| max.saturating_sub(spun)));
            }
        }
    }
}

impl Os {
    /// Whether many writes are made with one system call.
    pub(crate) fn uses_io_uring(&self) -> bool {
        self.ring.is_some()
    }

    #[inline(never)]
    fn write_in_chunks<'a>(
        &mut self,
        mut list: impl Iterator<Item = (usize, ConnId, &'a [u8])>,
        short: &mut Vec<Short>,
    ) -> usize {
        let mut whole = 0;
        while let Some(ring) = &mut self.ring {
            let streams = &self.streams;
            let mut writes =
                list.by_ref().map(|(place, id, bytes)| (place, stream_of(streams, id).as_raw_fd(), bytes));
            match ring.write(&mut writes, short) {
                Ok(written) => {
                    whole += written.whole;
                    if written.writes < WRITES_MAX {
                        return whole;
                    }
                }
                Err(written) => {
                    whole += written.whole;
                    self.ring = None;
                }
            }
        }
        whole + write_one_by_one(self, list, short)
    }
}

impl Os {
    /// What unix sockets that are bound from now on get as their mode.
    pub(crate) fn set_unix_mode(&mut self, mode: Option<u32>) {
        self.unix_mode = mode;
    }

    /// The first half of [`Net::listen`]: the address is taken, and nobody can connect to it yet.
    pub(crate) fn bind(
        &mut self,
        source: u32,
        address: &Address,
        options: ListenOptions,
    ) -> io::Result<Address> {
        let ListenOptions { reuse_port } = options;
        let (opened, bound) = match address {
            Address::Tcp(at) => {
                let at = canonical(*at);
                let socket = inet_socket(&at, Type::STREAM, Protocol::TCP, reuse_port)?;
                socket.set_reuse_address(true)?;
                // Accepted sockets inherit these.
                socket.set_tcp_nodelay(true)?;
                socket.set_keepalive(true)?;
                socket.set_tcp_keepalive(
                    &TcpKeepalive::new()
                        .with_time(KEEPALIVE_TIME)
                        .with_interval(KEEPALIVE_INTERVAL)
                        .with_retries(KEEPALIVE_RETRIES),
                )?;
                socket.bind(&at.into())?;
                let listener = TcpListener::from_std(socket.into());
                let bound = Address::Tcp(listener.local_addr()?);
                (Source::Tcp(listener), bound)
            }
            Address::Udp(at) => {
                let (socket, bound) = DatagramSocket::udp(&canonical(*at), reuse_port)?;
                (Source::Datagram(socket), Address::Udp(bound))
            }
            Address::Unix(path) => {
                let (socket, file) = unix_path::bind(path, Type::STREAM, self.unix_mode)?;
                (Source::Unix(file, UnixListener::from_std(socket.into())), address.clone())
            }
            Address::UnixDatagram(path) => {
                (Source::Datagram(DatagramSocket::unix(path, self.unix_mode)?), address.clone())
            }
        };
        if source as usize >= self.sources.len() {
            self.sources.resize_with(source as usize + 1, || None);
        }
        self.sources[source as usize] = Some(opened);
        Ok(bound)
    }

    /// The second half: from now on peers are reported. With `share`, other sockets with SO_REUSEPORT may listen there from
    /// now on as well. That comes last: as long as a socket has not said so the kernel gives the port to nobody else, and
    /// refuses it where others listen, whatever those have said.
    pub(crate) fn start_listening(&mut self, source: u32, share: bool) -> io::Result<()> {
        let (registry, token) = (self.poll.registry(), Token(source_token(source) as usize));
        match self.sources[source as usize].as_mut() {
            Some(Source::Tcp(listener)) => {
                SockRef::from(&*listener).listen(BACKLOG)?;
                if share {
                    SockRef::from(&*listener).set_reuse_port(true)?;
                }
                registry.register(listener, token, Interest::READABLE)
            }
            Some(Source::Unix(_, listener)) => {
                SockRef::from(&*listener).listen(BACKLOG)?;
                registry.register(listener, token, Interest::READABLE)
            }
            Some(Source::Datagram(socket)) => {
                if share {
                    socket.share_port()?;
                }
                socket.register(registry, token)
            }
            None => unreachable!("the reactor names only sources that it opened"),
        }
    }
}

impl AsFd for Os {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the poll owns the descriptor and lives as long as the borrow of self.
        unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) }
    }
}

struct OsWaker(Arc<mio::Waker>);

impl Wake for OsWaker {
    fn wake(&self) {
        // An eventfd write fails only when the counter is full: then a wake-up is on its way already.
        let _ = self.0.wake();
    }
}

impl Wire for Os {
    #[inline]
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        self.stream(id).write(bytes)
    }

    fn now(&self) -> Instant {
        Instant::from_start(self.start.elapsed())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that owns the clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl Net for Os {
    type Events = Events;
    type Readiness<'a> = OsReadiness<'a>;

    fn events(&self) -> Events {
        Events::with_capacity(EVENTS_PER_POLL)
    }

    #[inline(always)]
    fn wait(&mut self, events: &mut Events, max_wait: Option<Duration>) -> io::Result<()> {
        if !self.busy_poll.is_zero() && max_wait != Some(Duration::ZERO) {
            return self.spin_and_wait(events, max_wait);
        }
        self.sleep(events, max_wait)
    }

    fn pause(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }

    #[inline]
    fn readiness(events: &Events) -> OsReadiness<'_> {
        OsReadiness(events.iter())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(OsWaker(self.waker.clone()))
    }

    fn set_alarm(&mut self, after: Duration) -> io::Result<()> {
        self.alarm.set(after)
    }

    fn listen(&mut self, source: u32, address: &Address, options: ListenOptions) -> io::Result<Address> {
        let bound = self.bind(source, address, options)?;
        if let Err(error) = self.start_listening(source, false) {
            self.unlisten(source);
            return Err(error);
        }
        Ok(bound)
    }

    fn unlisten(&mut self, source: u32) {
        self.sources[source as usize] = None;
    }

    fn accept(&mut self, source: u32, id: ConnId) -> io::Result<Peer> {
        let (stream, peer) = match self.source(source) {
            Source::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                (stream, Peer::Inet(canonical(from)))
            }
            Source::Unix(_, listener) => {
                let (stream, from) = listener.accept()?;
                (as_stream(stream), Peer::Unix(from.as_pathname().map(Path::to_owned)))
            }
            Source::Datagram(_) => unreachable!("datagram sockets have nothing to accept"),
        };
        self.keep_stream(id, stream, Flags::READ)?;
        Ok(peer)
    }

    fn connect(&mut self, address: &Address, id: ConnId) -> io::Result<()> {
        let stream = match address {
            Address::Tcp(to) => {
                let stream = TcpStream::connect(canonical(*to))?;
                stream.set_nodelay(true)?;
                stream
            }
            Address::Unix(path) => as_stream(UnixStream::connect(path)?),
            Address::Udp(_) | Address::UnixDatagram(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "connections need a TCP or a unix stream address",
                ));
            }
        };
        self.keep_stream(id, stream, Flags::WRITE)
    }

    fn connected(&mut self, id: ConnId) -> io::Result<Option<Peer>> {
        if let Some(error) = self.take_error(id) {
            return Err(error);
        }
        let peer = SockRef::from(self.stream(id)).peer_addr().map(|peer| match peer.as_socket() {
            Some(peer) => Peer::Inet(canonical(peer)),
            None => Peer::Unix(peer.as_pathname().map(Path::to_owned)),
        });
        match peer {
            Ok(peer) => Ok(Some(peer)),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn rearm(&mut self, id: ConnId, interest: Flags) -> io::Result<()> {
        let stream =
            self.streams[id.slot()].as_mut().expect("the reactor names only connections that it opened");
        self.poll.registry().reregister(stream, Token(id.token() as usize), to_mio(interest))
    }

    #[inline]
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream(id).read(buffer)
    }

    fn write_vectored(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // The standard library's vectored write can raise SIGPIPE.
        SockRef::from(self.stream(id)).send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL)
    }

    #[inline(always)]
    fn write_each<'a>(
        &mut self,
        list: impl Iterator<Item = (usize, ConnId, &'a [u8])>,
        short: &mut Vec<Short>,
    ) -> usize {
        if self.ring.is_some() && list.size_hint().1.is_none_or(|most| most >= WRITES_MIN) {
            return self.write_in_chunks(list, short);
        }
        write_one_by_one(self, list, short)
    }

    fn delivery(&mut self, id: ConnId) -> io::Result<Delivery> {
        queues::delivery(self.stream(id).as_fd())
    }

    fn unread(&mut self, id: ConnId) -> io::Result<usize> {
        queues::unread(self.stream(id).as_fd())
    }

    fn take_error(&mut self, id: ConnId) -> Option<io::Error> {
        self.stream(id).take_error().unwrap_or_else(Some)
    }

    fn shutdown_write(&mut self, id: ConnId) {
        // It fails only when the peer is gone, which the next read tells.
        let _ = self.stream(id).shutdown(std::net::Shutdown::Write);
    }

    fn close(&mut self, id: ConnId, reset: bool) {
        let Some(stream) = self.streams.get_mut(id.slot()).and_then(Option::take) else { return };
        if reset {
            // When it fails the connection closes in the ordinary way, which is no worse.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    #[inline]
    fn receive(&mut self, source: u32, batch: &mut Inbound) -> io::Result<usize> {
        self.datagram_socket(source).receive(batch)
    }

    #[inline]
    fn transmit(&mut self, source: u32, batch: &Outbound, first: usize) -> io::Result<usize> {
        let start = self.start;
        self.datagram_socket(source).transmit(batch, first, || start.elapsed())
    }

    fn rearm_datagram(&mut self, source: u32, write: bool) -> io::Result<()> {
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        match self.sources[source as usize].as_mut() {
            Some(Source::Datagram(socket)) => {
                socket.reregister(self.poll.registry(), Token(source_token(source) as usize), interest)
            }
            _ => unreachable!("the reactor rearms only datagram sockets as such"),
        }
    }

    #[cfg(target_env = "gnu")]
    fn release_memory(&mut self) {
        // SAFETY: malloc_trim takes no pointer and may be called by any thread at any time.
        // It returns whether there was anything to give back.
        unsafe { libc::malloc_trim(0) };
    }
}

#[inline]
fn stream_of(streams: &[Option<TcpStream>], id: ConnId) -> &TcpStream {
    streams[id.slot()].as_ref().expect("the reactor names only connections that it opened")
}

/// A unix stream kept like all others.
fn as_stream(stream: UnixStream) -> TcpStream {
    TcpStream::from(OwnedFd::from(stream))
}

/// What mio's events say.
#[doc(hidden)]
pub struct OsReadiness<'a>(mio::event::Iter<'a>);

impl Iterator for OsReadiness<'_> {
    type Item = Readiness;

    #[inline]
    fn next(&mut self) -> Option<Readiness> {
        let event = self.0.next()?;
        let only_input =
            !event.is_writable() && !event.is_read_closed() && !event.is_priority() && !event.is_error();
        let flags = if only_input { Flags::READ } else { flags_of(event) };
        Some(Readiness { token: event.token().0 as u64, flags })
    }
}

#[cold]
fn flags_of(event: &mio::event::Event) -> Flags {
    Flags::READ.when(event.is_readable())
        | Flags::WRITE.when(event.is_writable())
        | Flags::READ_CLOSED.when(event.is_read_closed())
        | Flags::URGENT.when(event.is_priority())
        | Flags::ERROR.when(event.is_error())
}

fn to_mio(interest: Flags) -> Interest {
    let mut all = Interest::PRIORITY;
    if interest.intersects(Flags::READ) {
        all |= Interest::READABLE;
    }
    if interest.intersects(Flags::WRITE) {
        all |= Interest::WRITABLE;
    }
    all
}

/// IPv4 as IPv4, also where it is written as IPv6 or appears so on a socket for both. The scope of an IPv6 address stays.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

fn inet_socket(at: &SocketAddr, kind: Type, protocol: Protocol, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*at), kind.nonblocking(), Some(protocol))?;
    if at.is_ipv6() {
        // `[::]` serves both families, whatever the system's default is.
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

/// Whether an accept failed because the system had no descriptor or memory for the connection, so that it makes no
/// sense to try again at once.
#[doc(hidden)]
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}

/// Raises the soft limit of open descriptors to the hard limit, and returns the limit that holds then: how many connections a
/// server can have depends on it.
///
/// # Errors
/// When the system does not report its limit.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = descriptor_limits()?;
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the pointer is to a valid rlimit, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    Ok(if result == 0 { raised.rlim_cur } else { limit.rlim_cur })
}

/// The soft limit of open descriptors.
///
/// # Errors
/// When the system does not report its limit.
pub fn descriptor_limit() -> io::Result<u64> {
    descriptor_limits().map(|limit| limit.rlim_cur)
}

fn descriptor_limits() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a valid rlimit, which the call fills.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this program ignores a signal, as it does when whoever started it did.
///
/// # Errors
/// When there is no such signal.
#[doc(hidden)]
pub fn ignores_signal(signal: i32) -> io::Result<bool> {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call changes nothing, and fills the one that the pointer is to.
    match unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) } {
        // SAFETY: the call returned 0, so it has written the action.
        0 => Ok(unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_ignored_are_known() {
        // The runtime ignores this one for every program; nobody can ignore that one.
        assert!(ignores_signal(libc::SIGPIPE).unwrap());
        assert!(!ignores_signal(libc::SIGKILL).unwrap());
        assert!(ignores_signal(10_000).is_err());
    }
}
