//! What can go wrong outside of any one connection, in words that name the thing and what to do.

use std::fmt;
use std::io;

use crate::net::Address;

/// Why the reactor could not do what it was asked to.
#[derive(Debug)]
pub enum Error {
    /// The system gave no event queue or no waker.
    Setup(io::Error),
    /// An address cannot be listened on.
    Listen {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// A turn could not wait for readiness. The reactor cannot go on.
    Poll(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setup(source) => write!(f, "cannot set up the event queue: {source}"),
            Error::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(match address {
                        Address::Tcp(_) | Address::Udp(_) => {
                            " (another program listens there: choose another address, or port 0 for any)"
                        }
                        Address::Unix(_) | Address::UnixDatagram(_) => {
                            " (a program listens there, or it is no socket: choose another path, or remove it)"
                        }
                    }),
                    io::ErrorKind::PermissionDenied => match address {
                        Address::Tcp(at) | Address::Udp(at) if at.port() < 1024 => f.write_str(
                            " (ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one)",
                        ),
                        _ => f.write_str(" (check the permissions of the folder, or choose another path)"),
                    },
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str(" (no interface of this machine has that address)")
                    }
                    io::ErrorKind::NotFound => {
                        f.write_str(" (the folder does not exist: create it, or choose another path)")
                    }
                    _ => Ok(()),
                }
            }
            Error::Poll(source) => write!(f, "cannot wait for readiness: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Setup(source) | Error::Listen { source, .. } | Error::Poll(source) => Some(source),
        }
    }
}
