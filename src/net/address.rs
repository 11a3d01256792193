//! Addresses: where to listen or to connect, and who is at the other end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a unix socket, in bytes: the system's `sun_path` less its final NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where to listen or to connect.
///
/// [`Display`](fmt::Display) prints an address in the form that [`FromStr`] and the command line take:
///
/// | | |
/// |---|---|
/// | `tcp://127.0.0.1:7007`, `tcp://[::1]:7007` | TCP |
/// | `127.0.0.1:7007`, `[::1]:7007` | TCP |
/// | `udp://127.0.0.1:7007` | UDP |
/// | `unix:/run/echo.sock` | unix stream socket |
/// | `unix-dgram:/run/echo.sock` | unix datagram socket |
///
/// Host names are not looked up: [`ToSocketAddrs`](std::net::ToSocketAddrs) does that.
///
/// ```
/// use tidewheel::Address;
///
/// let address: Address = "127.0.0.1:7007".parse()?;
/// assert_eq!(address, Address::Tcp(([127, 0, 0, 1], 7007).into()));
/// assert_eq!(address.to_string(), "tcp://127.0.0.1:7007");
///
/// let error = "http://127.0.0.1:80".parse::<Address>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown transport 'http'"));
/// # Ok::<(), tidewheel::ParseAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP socket address.
    Tcp(SocketAddr),
    /// A UDP socket address.
    Udp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
    /// The path of a unix datagram socket.
    UnixDatagram(PathBuf),
}

impl Address {
    /// Whether it is the address of a stream socket, which has connections; otherwise it is that of a datagram socket.
    pub fn is_stream(&self) -> bool {
        matches!(self, Address::Tcp(_) | Address::Unix(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Udp(address) => write!(f, "udp://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::UnixDatagram(path) => write!(f, "unix-dgram:{}", path.display()),
        }
    }
}

/// Why a text is not an [`Address`], with the right form.
#[derive(Clone, PartialEq, Eq)]
pub struct ParseAddressError(String);

/// The same as [`Display`](fmt::Display), for a `main` that returns it.
impl fmt::Debug for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseAddressError {}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Address, ParseAddressError> {
        // `unix-dgram:` first: `unix:` is no prefix of it, but a reader may think so.
        for (prefix, address) in
            [("unix-dgram:", Address::UnixDatagram as fn(_) -> _), ("unix:", Address::Unix)]
        {
            if let Some(path) = text.strip_prefix(prefix) {
                return unix_path(prefix, path).map(address).map_err(ParseAddressError);
            }
        }
        let address = match text.split_once("://") {
            None => inet(text).map(Address::Tcp),
            Some(("tcp", rest)) => inet(rest).map(Address::Tcp),
            Some(("udp", rest)) => inet(rest).map(Address::Udp),
            Some((other, _)) => Err(format!(
                "unknown transport '{other}': write tcp://IP:PORT, udp://IP:PORT, unix:PATH or unix-dgram:PATH"
            )),
        };
        address.map_err(ParseAddressError)
    }
}

fn unix_path(prefix: &str, path: &str) -> Result<PathBuf, String> {
    match path.len() {
        0 => Err(format!("the path of the socket is missing: write {prefix}PATH")),
        _ if path.contains('\0') => Err("the path of a socket cannot contain a NUL".to_owned()),
        _ if path.starts_with('@') => {
            Err(format!("abstract sockets are not supported; for a file of that name write {prefix}./{path}"))
        }
        1..=UNIX_PATH_BYTES_MAX => Ok(PathBuf::from(path)),
        _ => Err(format!(
            "the path of the socket is too long: the system allows at most {UNIX_PATH_BYTES_MAX} bytes"
        )),
    }
}

fn inet(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.rsplit_once(':') {
        _ if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            format!("an IPv6 address needs brackets and a port: write [{text}]:PORT")
        }
        _ if text.starts_with(['/', '.']) => format!("for a unix socket write unix:{text}"),
        _ if text.parse::<IpAddr>().is_ok() || text.ends_with(']') => {
            format!("the port is missing: write {text}:PORT (port 0 lets the system choose)")
        }
        None => format!("expected IP:PORT, such as 127.0.0.1:7007, instead of '{text}'"),
        Some(("", port)) => format!("the IP address is missing: write 127.0.0.1:{port} or 0.0.0.0:{port}"),
        Some((host, port)) => match port.split_once('/') {
            Some((port, _)) => format!("an address must not have a path: write {host}:{port}"),
            None if port.parse::<u16>().is_err() => {
                format!("invalid port '{port}': write a number from 0 to 65535 (0 lets the system choose)")
            }
            None => format!("'{host}' is not an IP address: resolve host names first"),
        },
    })
}

/// The peer of a connection, or the sender of a datagram.
#[derive(Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// An IP address and port. IPv4 peers of a dual-stack socket appear as IPv4.
    Inet(SocketAddr),
    /// A unix socket, with its path if it has one. A path that begins with a NUL is an abstract name of Linux, which
    /// is not a file.
    Unix(Option<PathBuf>),
}

/// As derived, but for `inline`: it is made for every datagram that is answered.
impl Clone for Peer {
    #[inline(always)]
    fn clone(&self) -> Peer {
        match self {
            Peer::Inet(address) => Peer::Inet(*address),
            Peer::Unix(path) => Peer::Unix(path.clone()),
        }
    }
}

impl Peer {
    /// The IP address without the port; `None` for unix sockets.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Inet(address) => Some(address.ip()),
            Peer::Unix(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Inet(address) => address.fmt(f),
            Peer::Unix(Some(path)) => match path.to_string_lossy().strip_prefix('\0') {
                Some(name) => write!(f, "unix:@{name}"),
                None => write!(f, "unix:{}", path.display()),
            },
            Peer::Unix(None) => f.write_str("unix peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read() {
        for (text, printed) in [
            ("tcp://127.0.0.1:7007", "tcp://127.0.0.1:7007"),
            ("127.0.0.1:0", "tcp://127.0.0.1:0"),
            ("[::1]:7007", "tcp://[::1]:7007"),
            ("tcp://[fe80::1%1]:80", "tcp://[fe80::1%1]:80"),
            ("udp://[::]:65535", "udp://[::]:65535"),
            ("unix:/run/echo.sock", "unix:/run/echo.sock"),
            ("unix:a=b:c", "unix:a=b:c"),
            ("unix:./@name", "unix:./@name"),
            ("unix-dgram:echo.sock", "unix-dgram:echo.sock"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
    }

    #[test]
    fn an_error_says_what_to_write() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for (text, expected) in [
            ("", "expected IP:PORT, such as 127.0.0.1:7007"),
            ("tcp://", "expected IP:PORT"),
            ("echo", "instead of 'echo'"),
            ("7007", "expected IP:PORT"),
            (":7007", "write 127.0.0.1:7007 or 0.0.0.0:7007"),
            ("udp://:7007", "the IP address is missing"),
            ("127.0.0.1", "the port is missing: write 127.0.0.1:PORT"),
            ("127.0.0.1:", "invalid port ''"),
            ("127.0.0.1:65536", "invalid port '65536'"),
            ("127.0.0.1:-1", "invalid port '-1'"),
            ("localhost:80", "'localhost' is not an IP address"),
            ("127.0.0.256:80", "'127.0.0.256' is not an IP address"),
            ("::1", "write [::1]:PORT"),
            ("::1:7007", "write [::1:7007]:PORT"),
            ("[::1]", "the port is missing: write [::1]:PORT"),
            ("[::1:7007", "is not an IP address"),
            ("127.0.0.1:80/path", "an address must not have a path: write 127.0.0.1:80"),
            ("http://127.0.0.1:80", "unknown transport 'http'"),
            ("TCP://127.0.0.1:80", "unknown transport 'TCP'"),
            ("/run/echo.sock", "write unix:/run/echo.sock"),
            ("./echo.sock", "write unix:./echo.sock"),
            ("unix:", "write unix:PATH"),
            ("unix-dgram:", "write unix-dgram:PATH"),
            ("unix:@name", "write unix:./@name"),
            ("unix:a\0b", "NUL"),
            (&long, "at most 107 bytes"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
