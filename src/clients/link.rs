//! The way to a peer, on any transport: connections and datagrams, to one that listens or from those that come.
//!
//! Nothing here waits but [`connect`], and that no longer than it is told to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tidewheel::Address;
use tidewheel::os::unix_path::{self, UnixPath};

use super::Failure;
use crate::cli::address::{Location, Place, Transport, look_up_all, loopback};
use crate::cli::units::Time;

/// Peers that may wait for the one before them.
const BACKLOG: i32 = 128;

/// A way to a peer that never waits: what cannot be done at once fails with [`ErrorKind::WouldBlock`].
pub trait Link {
    /// What becomes readable and writable.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Reads bytes or one datagram. 0 bytes from a stream are its end.
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Sends the beginning of the bytes, or all of them as one datagram.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Tells a peer on a stream that nothing more will come.
    fn half_close(&mut self) {}

    /// Whether bytes come and go without borders between messages.
    fn is_stream(&self) -> bool {
        false
    }

    /// Who would get what is sent now; `None` if there is nobody.
    fn peer(&self) -> Option<&str>;

    /// Whether poll tells when more can be sent.
    fn tells_room(&self) -> bool {
        true
    }

    /// Leaves the peer for whoever writes next, if others can.
    fn forget_peer(&mut self) {}
}

// ---- streams ----

/// A connection.
struct Connection<S> {
    stream: S,
    peer: String,
}

/// What the two kinds of streams share beyond reading and writing.
trait Stream: Read + Write + AsFd {
    fn shut_down_writing(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn shut_down_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn shut_down_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl<S: Stream> Link for Connection<S> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn half_close(&mut self) {
        // A peer that is gone already is told of by the next read.
        let _ = self.stream.shut_down_writing();
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn peer(&self) -> Option<&str> {
        Some(&self.peer)
    }
}

// ---- datagrams to one peer ----

/// A socket for datagrams that is connected to its only peer.
struct Datagrams<S> {
    socket: S,
    peer: String,
}

impl Link for Datagrams<UdpSocket> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    fn peer(&self) -> Option<&str> {
        Some(&self.peer)
    }
}

impl Link for Datagrams<UnixDatagram> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    fn peer(&self) -> Option<&str> {
        Some(&self.peer)
    }
}

// ---- datagrams from whoever writes ----

/// A socket for datagrams whose peer is whoever wrote last.
struct Answers<S, A> {
    socket: S,
    last: Option<(A, String)>,
    /// The socket's file, while there is one.
    _file: Option<UnixPath>,
}

impl Link for Answers<UdpSocket, SocketAddr> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (count, from) = self.socket.recv_from(bytes)?;
        self.last = Some((from, from.to_string()));
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.last {
            Some((to, _)) => self.socket.send_to(bytes, to),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn peer(&self) -> Option<&str> {
        self.last.as_ref().map(|(_, name)| &**name)
    }

    fn forget_peer(&mut self) {
        self.last = None;
    }
}

impl Link for Answers<UnixDatagram, unix::SocketAddr> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (count, from) = self.socket.recv_from(bytes)?;
        // Whoever has no address can be heard, and not answered; a relative path is none, as it is another one here.
        let has_address = from.as_pathname().map_or(!from.is_unnamed(), Path::is_absolute);
        self.last = has_address.then(|| {
            let name = unix_name(&from);
            (from, name)
        });
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.last {
            Some((to, _)) => self.socket.send_to_addr(bytes, to),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn peer(&self) -> Option<&str> {
        self.last.as_ref().map(|(_, name)| &**name)
    }

    fn tells_room(&self) -> bool {
        // It lies with whoever is written to, whom poll does not know.
        false
    }

    fn forget_peer(&mut self) {
        self.last = None;
    }
}

/// The path of a unix socket, or the name that the kernel gave it.
fn unix_name(address: &unix::SocketAddr) -> String {
    use std::os::linux::net::SocketAddrExt;

    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => format!("unix-dgram:{}", path.display()),
        (None, Some(name)) => format!("unix-dgram:@{}", name.escape_ascii()),
        (None, None) => "unix-dgram:".to_owned(),
    }
}

// ---- connecting ----

/// Connects to where somebody should listen. Each address of the host may take as long as `timeout` says.
///
/// # Errors
/// When there is no such host, or nobody takes the connection.
pub fn connect(to: &Location, timeout: Time) -> Result<Box<dyn Link>, Failure> {
    match (&to.place, to.transport) {
        (Place::Path(path), Transport::UnixDatagram) => connect_unix_datagram(path, to),
        (Place::Path(path), _) => connect_unix(path, timeout),
        (Place::Host(_, 0), _) => {
            return Err(Failure::usage(format!("cannot connect to {to}: port 0 is only for listening")));
        }
        (Place::Host(host, port), transport) => {
            let addresses = match &**host {
                "" => vec![loopback(*port)],
                host => look_up_all(host, *port).map_err(Failure::usage)?,
            };
            if transport == Transport::Udp {
                connect_udp(&addresses, to)
            } else {
                connect_tcp(&addresses, to, timeout)
            }
        }
    }
    .map_err(|error| {
        Failure::failed(format!("cannot connect to {to}: {error}{}", remedy(&error, to, timeout)))
    })
}

fn remedy(error: &io::Error, to: &Location, timeout: Time) -> String {
    match error.kind() {
        ErrorKind::InvalidInput if to.needs_interface() => {
            " (a link-local address needs its interface: [fe80::1%eth0]:PORT)".to_owned()
        }
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            " (no server is listening there: check the address, or start the server)".to_owned()
        }
        ErrorKind::TimedOut => {
            format!(" (no reply within {timeout}: check the address, or raise --timeout)")
        }
        _ => String::new(),
    }
}

fn connect_tcp(addresses: &[SocketAddr], to: &Location, timeout: Time) -> io::Result<Box<dyn Link>> {
    let stream = first_of(addresses, |address| match timeout.limit() {
        Some(limit) => TcpStream::connect_timeout(address, limit),
        None => TcpStream::connect(address),
    })?;
    stream.set_nonblocking(true)?;
    // Lines are short, and wait for nobody.
    stream.set_nodelay(true)?;
    Ok(Box::new(Connection { stream, peer: to.to_string() }))
}

fn connect_udp(addresses: &[SocketAddr], to: &Location) -> io::Result<Box<dyn Link>> {
    let socket = first_of(addresses, |address| {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        Ok(socket)
    })?;
    socket.set_nonblocking(true)?;
    Ok(Box::new(Datagrams { socket, peer: to.to_string() }))
}

fn connect_unix(path: &Path, timeout: Time) -> io::Result<Box<dyn Link>> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    // Connecting waits when the listener's backlog is full.
    set_socket_timeout(&socket, Timeout::Send, timeout.limit())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|error| match error {
        rustix::io::Errno::AGAIN => ErrorKind::TimedOut.into(),
        error => io::Error::from(error),
    })?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(Box::new(Connection { stream, peer: format!("unix:{}", path.display()) }))
}

fn connect_unix_datagram(path: &Path, to: &Location) -> io::Result<Box<dyn Link>> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    // A name of the kernel's choice, so that there is somebody to answer.
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
    let socket = UnixDatagram::from(socket);
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(Box::new(Datagrams { socket, peer: to.to_string() }))
}

/// What comes of the first address with which it works, or else the error of the last.
fn first_of<T>(
    addresses: &[SocketAddr],
    mut open: impl FnMut(&SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        match open(address) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

// ---- listening ----

/// A place where peers come: one after another, or all to the same socket.
pub enum Listening {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        PathBuf,
        #[expect(dead_code, reason = "it removes the file when it is dropped")] UnixPath,
    ),
    Datagrams(Box<dyn Link>),
}

/// Listens, and says where.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(at: &Location) -> Result<(Listening, Address), Failure> {
    let address = at.resolve().map_err(Failure::usage)?;
    listen_at(&address).map_err(|error| Failure::usage(format!("cannot listen on {address}: {error}")))
}

fn listen_at(address: &Address) -> io::Result<(Listening, Address)> {
    Ok(match address {
        Address::Tcp(at) => {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            (Listening::Tcp(listener), Address::Tcp(at))
        }
        Address::Udp(at) => {
            let socket = UdpSocket::bind(at)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            let link = Answers { socket, last: None, _file: None };
            (Listening::Datagrams(Box::new(link)), Address::Udp(at))
        }
        Address::Unix(path) => {
            let (socket, file) = unix_path::bind_stream(path)?;
            rustix::net::listen(&socket, BACKLOG)?;
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            (Listening::Unix(listener, path.clone(), file), address.clone())
        }
        Address::UnixDatagram(path) => {
            let (socket, file) = unix_path::bind_datagrams(path)?;
            let socket = UnixDatagram::from(socket);
            socket.set_nonblocking(true)?;
            let link = Answers { socket, last: None, _file: Some(file) };
            (Listening::Datagrams(Box::new(link)), address.clone())
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    })
}

impl Listening {
    /// What becomes readable when a peer comes; datagrams have no such thing.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener, ..) => listener.as_fd(),
            Listening::Datagrams(link) => link.fd(),
        }
    }

    /// The next peer that has connected.
    pub fn accept(&self) -> io::Result<Box<dyn Link>> {
        match self {
            Listening::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Box::new(Connection { stream, peer: from.to_string() }))
            }
            Listening::Unix(listener, path, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Box::new(Connection { stream, peer: format!("unix:{}", path.display()) }))
            }
            Listening::Datagrams(_) => Err(ErrorKind::Unsupported.into()),
        }
    }
}
