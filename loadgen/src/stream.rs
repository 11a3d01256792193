//! One connection to the server, TCP or unix, opened in order and non-blocking from then on.

use std::io;
use std::net::{SocketAddr, TcpStream as BlockingTcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::address::Peer;

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects and waits until that is done: opening one after the other keeps any listener's backlog from
    /// overflowing, which on TCP would cost a second for each connection that it drops.
    pub fn connect(peer: &Peer, timeout: Duration) -> io::Result<Stream> {
        match peer {
            Peer::Tcp(addresses) => connect_tcp(addresses, timeout),
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

    /// Whether a read shorter than its buffer means that nothing is left. A unix stream may split a read where
    /// descriptors or credentials were passed along.
    pub fn short_read_means_drained(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }
}

/// Tries each address that the name stands for; the last error speaks for all.
fn connect_tcp(addresses: &[SocketAddr], timeout: Duration) -> io::Result<Stream> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match BlockingTcpStream::connect_timeout(address, timeout) {
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
