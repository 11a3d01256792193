//! What this machine may run out of when it connects. That says nothing about the server.

use std::io;

use anyhow::Error;

use crate::Usage;

/// What is not left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Local ports, from which connections leave.
    Ports,
    /// Descriptors, of this program or of the whole system.
    Descriptors,
}

impl Shortage {
    /// What was not left, if that is why something could not be opened or connected.
    pub fn of(error: &io::Error) -> Option<Shortage> {
        match error.raw_os_error()? {
            libc::EMFILE | libc::ENFILE => Some(Shortage::Descriptors),
            // Streams have their port chosen when they connect, datagrams when they are bound to any port.
            libc::EADDRNOTAVAIL | libc::EADDRINUSE => Some(Shortage::Ports),
            _ => None,
        }
    }

    /// What it is and what to do about it.
    pub fn words(self) -> &'static str {
        match self {
            Shortage::Ports => "no local port is left: connect from more addresses, with --source-ips",
            Shortage::Descriptors => "no descriptor is left: raise the limit, with ulimit -n",
        }
    }
}

/// Why something could not be opened or connected, in words.
pub fn words(error: &io::Error) -> String {
    match Shortage::of(error) {
        Some(shortage) => shortage.words().to_owned(),
        None if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("{error}: is the server running, and does it listen on this address?")
        }
        None => error.to_string(),
    }
}

/// The error of what could not be opened before the load: a shortage is for the user to mend.
pub fn explained(error: io::Error) -> Error {
    match Shortage::of(&error) {
        Some(shortage) => Error::new(Usage(shortage.words().to_owned())),
        None if error.kind() == io::ErrorKind::ConnectionRefused => {
            Error::new(io::Error::new(error.kind(), words(&error)))
        }
        None => Error::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_a_server_that_refuses() {
        let of = |code| Shortage::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EMFILE), Some(Shortage::Descriptors));
        assert_eq!(of(libc::ENFILE), Some(Shortage::Descriptors));
        assert_eq!(of(libc::EADDRNOTAVAIL), Some(Shortage::Ports));
        assert_eq!(of(libc::ECONNREFUSED), None);
        // As it is told of an address that there is no way to.
        assert_eq!(Shortage::of(&io::Error::new(io::ErrorKind::AddrNotAvailable, "no way")), None);
        assert!(explained(io::Error::from_raw_os_error(libc::EMFILE)).is::<Usage>());
        let refused = explained(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert!(!refused.is::<Usage>() && refused.to_string().contains("is the server running"), "{refused}");
    }
}
