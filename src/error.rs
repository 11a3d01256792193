//! Errors outside of any one connection: each names the thing and what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::net::Address;

/// Why a reactor cannot be created, listen or go on.
///
/// It is printed as one sentence that includes its cause, also by `{:?}`, which is how a `main` that returns it prints it.
/// [`source`](std::error::Error::source) is therefore the source of that cause: printing the whole chain repeats nothing.
#[non_exhaustive]
pub enum Error {
    /// The system did not provide an event queue or a waker.
    Setup(io::Error),
    /// The reactor cannot listen on an address.
    Listen {
        /// The address.
        address: Address,
        /// The error of the system.
        source: io::Error,
    },
    /// Waiting for readiness failed for too long; the reactor cannot go on.
    Poll(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setup(source) => write!(f, "cannot set up the event queue: {source}"),
            Error::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}")?;
                match source.kind() {
                    // What is in the way of a unix socket is said already.
                    io::ErrorKind::AddrInUse if matches!(address, Address::Tcp(_) | Address::Udp(_)) => f
                        .write_str(
                            " (another program listens there: choose another address, or port 0 for any)",
                        ),
                    io::ErrorKind::PermissionDenied => match address {
                        Address::Tcp(at) | Address::Udp(at) if at.port() < 1024 => f.write_str(
                            " (ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one)",
                        ),
                        _ => f.write_str(" (check the permissions of the folder, or choose another path)"),
                    },
                    io::ErrorKind::InvalidInput if needs_interface(address) => {
                        f.write_str(" (a link-local address needs its interface: [fe80::1%eth0]:PORT)")
                    }
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

/// The same as [`Display`](fmt::Display).
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether it is an address of one link without saying which link that is.
fn needs_interface(address: &Address) -> bool {
    match address {
        Address::Tcp(SocketAddr::V6(at)) | Address::Udp(SocketAddr::V6(at)) => {
            at.ip().is_unicast_link_local() && at.scope_id() == 0
        }
        _ => false,
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Setup(source) | Error::Listen { source, .. } | Error::Poll(source) => source.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// An error of the system, and one that has another one behind it.
    fn causes() -> [io::Error; 2] {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the outer cause")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let inner = io::Error::other("the inner cause");
        [io::Error::from(io::ErrorKind::AddrInUse), io::Error::other(Outer(inner))]
    }

    /// What each error of a chain says.
    fn chain(error: &dyn std::error::Error) -> Vec<String> {
        let (mut said, mut next) = (Vec::new(), Some(error));
        while let Some(error) = next {
            said.push(error.to_string());
            next = error.source();
        }
        said
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let addresses = [
            Address::Tcp(([127, 0, 0, 1], 80).into()),
            Address::Udp(([127, 0, 0, 1], 80).into()),
            Address::Unix(PathBuf::from("/a")),
            Address::UnixDatagram(PathBuf::from("/a")),
        ];
        for index in 0..2 {
            let cause = || causes().into_iter().nth(index).unwrap();
            let mut errors = vec![Error::Setup(cause()), Error::Poll(cause())];
            errors.extend(
                addresses.iter().map(|address| Error::Listen { address: address.clone(), source: cause() }),
            );
            for error in errors {
                // As those print it who print all of it, `anyhow` for one.
                let text = chain(&error).join(": ");
                let causes = chain(&cause());
                assert_eq!(causes.len(), 1 + index);
                for cause in causes {
                    assert_eq!(text.matches(&cause).count(), 1, "{cause} in {text}");
                }
            }
        }
    }

    #[test]
    fn a_main_that_returns_it_prints_a_sentence() {
        for cause in causes() {
            let said = format!("cannot listen on tcp://127.0.0.1:80: {cause}");
            let error = Error::Listen { address: Address::Tcp(([127, 0, 0, 1], 80).into()), source: cause };
            assert!(format!("{error}").starts_with(&said), "{error}");
            assert_eq!(format!("Error: {error:?}"), format!("Error: {error}"));
            assert_eq!(format!("{error:#?}"), format!("{error}"));
        }
        let error = Error::Poll(io::Error::from_raw_os_error(9));
        assert_eq!(format!("{error:?}"), "cannot wait for readiness: Bad file descriptor (os error 9)");
    }
}
