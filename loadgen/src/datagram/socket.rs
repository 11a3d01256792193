//! A connected datagram socket, UDP or unix: only what the server sends comes to it, and the kernel tells it of ICMP
//! errors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force,
};
use rustix::net::{SocketAddrUnix, bind};

use crate::address::Peer;
use crate::stream::reachable;

/// What is asked of the kernel for each direction, so that a socket outlasts a moment in which its thread does not run. It
/// gives what net.core.rmem_max and wmem_max allow, or all of it to CAP_NET_ADMIN. Only what is held takes memory.
const BUFFER_BYTES: usize = 8 << 20;

/// Opens a socket to the server, from `source` if the system is not to choose.
pub fn open(peer: &Peer, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket: OwnedFd = match peer {
        Peer::Udp(addresses) => connect_udp(addresses, source)?.into(),
        Peer::UnixDatagram(path) => {
            let socket = UnixDatagram::unbound()?;
            // The kernel chooses an abstract name: without one nobody can reply.
            bind(&socket, &SocketAddrUnix::new_unnamed())?;
            socket.connect(path)?;
            socket.set_nonblocking(true)?;
            socket.into()
        }
        Peer::Tcp(_) | Peer::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
        .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER_BYTES))?;
    set_socket_send_buffer_size_force(&socket, BUFFER_BYTES)
        .or_else(|_| set_socket_send_buffer_size(&socket, BUFFER_BYTES))?;
    Ok(socket)
}

/// Takes the first address that there is a way to; whether anybody is there, only a reply tells.
pub fn connect_udp(addresses: &[SocketAddr], source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in reachable(addresses, source) {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let connected = UdpSocket::bind((source.unwrap_or(any), 0)).and_then(|socket| {
            socket.connect(address).map_err(no_way)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// The ports of datagrams are taken before: here it is not for want of one that there is no address to speak from.
fn no_way(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            io::Error::new(error.kind(), "this machine has no address to reach it from")
        }
        _ => error,
    }
}
