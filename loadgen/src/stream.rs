//! One connection to the server, TCP or unix, opened in order and non-blocking from then on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::address::Peer;
use crate::datagram::connect_udp;
use crate::os;

/// What a narrow connection's buffers are asked to have; the kernel has a least size of its own.
const NARROW_BYTES: usize = 4096;

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects and waits until that is done: opening one after the other keeps any listener's backlog from
    /// overflowing, which on TCP would cost a second for each connection that it drops. It leaves from `source`, if the
    /// system is not to choose.
    pub fn connect(peer: &Peer, source: Option<IpAddr>, timeout: Duration) -> io::Result<Stream> {
        match peer {
            Peer::Tcp(addresses) => connect_tcp(addresses, source, timeout, |_| Ok(())),
            Peer::Unix(path) => connect_unix(path, timeout),
            Peer::Udp(_) | Peer::UnixDatagram(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Takes what has come; 0 is the end. Straight to the system: where there are several threads libc guards each call
    /// against cancellation, which nobody here does.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(self, buffer, RecvFlags::empty())?;
        Ok(read)
    }

    /// Sends as many of the bytes as the socket has room for.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Connects with buffers of the kernel's smallest sizes, so that they are soon full.
    pub fn connect_narrow(peer: &Peer, source: Option<IpAddr>, timeout: Duration) -> io::Result<Stream> {
        let Peer::Tcp(addresses) = peer else { return Stream::connect(peer, source, timeout) };
        // Before the connection is there: what a receive buffer offers the peer is not taken back.
        connect_tcp(addresses, source, timeout, |socket| {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
            socket.set_send_buffer_size(NARROW_BYTES)
        })
    }

    /// Begins to connect without waiting, to the first address of several, and tells whether that is done already. A
    /// unix listener with a full backlog is WouldBlock, and has to be asked again.
    pub fn begin(peer: &Peer, source: Option<IpAddr>) -> io::Result<(Stream, bool)> {
        match peer {
            Peer::Tcp(addresses) => begin_tcp(addresses, source),
            Peer::Unix(path) => Ok((Stream::Unix(UnixStream::connect(path)?), true)),
            Peer::Udp(_) | Peer::UnixDatagram(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What it is connected to, of the addresses that its peer's name stands for.
    pub fn narrowed(&self, peer: &Peer) -> Peer {
        match self {
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| peer.clone(), |address| Peer::Tcp(vec![address]))
            }
            Stream::Unix(_) => peer.clone(),
        }
    }

    /// Why a connect that was begun has failed, if it has.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        }
    }

    /// Has it end with a reset, which leaves nothing behind in TIME_WAIT.
    pub fn reset_when_closed(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Whether a read shorter than its buffer means that nothing is left. A unix stream may split a read where
    /// descriptors or credentials were passed along.
    pub fn short_read_means_drained(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }
}

/// Tries each address that the name stands for, of the family of `source`; the last error speaks for all. `prepare` sets
/// what the socket must have before it connects.
fn connect_tcp(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    timeout: Duration,
    prepare: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Stream> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in reachable(addresses, source) {
        let connected = tcp_socket(address, source).and_then(|socket| {
            prepare(&socket)?;
            socket.connect_timeout(&(*address).into(), timeout)?;
            socket.set_nonblocking(true)?;
            Ok(Stream::Tcp(TcpStream::from_std(socket.into())))
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = no_way_or_no_port(error, address, source),
        }
    }
    Err(last_error)
}

/// Connects to the first of these without waiting.
fn begin_tcp(addresses: &[SocketAddr], source: Option<IpAddr>) -> io::Result<(Stream, bool)> {
    let address = reachable(addresses, source).next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let begin = |socket: Socket| {
        socket.set_nonblocking(true)?;
        let is_connected = match socket.connect(&(*address).into()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => false,
            Err(error) => return Err(error),
        };
        Ok((Stream::Tcp(TcpStream::from_std(socket.into())), is_connected))
    };
    tcp_socket(address, source).and_then(begin).map_err(|error| no_way_or_no_port(error, address, source))
}

/// A socket for a connection to this address.
fn tcp_socket(address: &SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it the kernel holds a request back until the reply before it is acknowledged.
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        os::choose_port_at_connect(socket.as_fd())?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// The addresses that something from `source` can go to.
pub fn reachable(addresses: &[SocketAddr], source: Option<IpAddr>) -> impl Iterator<Item = &SocketAddr> {
    addresses.iter().filter(move |address| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()))
}

/// "Cannot assign requested address" says that no port is left, or that the server's address is one that this machine
/// has no way to, such as ::1 where there is no IPv6. A datagram socket, whose ports are others, knows which.
fn no_way_or_no_port(error: io::Error, address: &SocketAddr, source: Option<IpAddr>) -> io::Error {
    if error.kind() != io::ErrorKind::AddrNotAvailable {
        return error;
    }
    match connect_udp(&[*address], source) {
        Err(no_way) if no_way.kind() == io::ErrorKind::AddrNotAvailable => no_way,
        _ => error,
    }
}

/// A unix listener with a full backlog answers WouldBlock, and the kernel has no readiness for the moment that ends:
/// asking again is all there is.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<Stream> {
    let give_up = Instant::now() + timeout;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Stream::Unix(stream)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= give_up => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.register(registry, token, interest),
            Stream::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.reregister(registry, token, interest),
            Stream::Unix(stream) => stream.reregister(registry, token, interest),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.deregister(registry),
            Stream::Unix(stream) => stream.deregister(registry),
        }
    }
}
