//! One connection to the server, TCP or unix, opened in order and non-blocking from then on.

use std::io;
use std::net::{SocketAddr, TcpStream as BlockingTcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_socket_timeout,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::address::Peer;

/// What a narrow connection's buffers are asked to have; the kernel has a least size of its own.
const NARROW_BYTES: usize = 4096;

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects and waits until that is done: opening one after the other keeps any listener's backlog from
    /// overflowing, which on TCP would cost a second for each connection that it drops.
    pub fn connect(peer: &Peer, timeout: Duration) -> io::Result<Stream> {
        match peer {
            Peer::Tcp(addresses) => {
                first_of(addresses, |address| BlockingTcpStream::connect_timeout(address, timeout))
            }
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
    pub fn connect_narrow(peer: &Peer, timeout: Duration) -> io::Result<Stream> {
        match peer {
            Peer::Tcp(addresses) => first_of(addresses, |address| connect_tcp_narrow(address, timeout)),
            _ => Stream::connect(peer, timeout),
        }
    }

    /// Whether a read shorter than its buffer means that nothing is left. A unix stream may split a read where
    /// descriptors or credentials were passed along.
    pub fn short_read_means_drained(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }
}

/// Tries each address that the name stands for; the last error speaks for all.
fn first_of(
    addresses: &[SocketAddr],
    connect: impl Fn(&SocketAddr) -> io::Result<BlockingTcpStream>,
) -> io::Result<Stream> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match connect(address) {
            Ok(stream) => {
                // Without it the kernel holds a request back until the reply before it is acknowledged.
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(Stream::Tcp(TcpStream::from_std(stream)));
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// The receive buffer must be small before the connection is there: what it offers the peer is not taken back.
fn connect_tcp_narrow(address: &SocketAddr, timeout: Duration) -> io::Result<BlockingTcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_recv_buffer_size(&socket, NARROW_BYTES)?;
    set_socket_send_buffer_size(&socket, NARROW_BYTES)?;
    // It is also what a connection's opening may take.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => Ok(socket.into()),
        Err(Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
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
