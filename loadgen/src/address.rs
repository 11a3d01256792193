//! Where the server is: `tcp://HOST:PORT`, `udp://HOST:PORT`, `HOST:PORT`, `:PORT` (loopback), `unix:PATH` or
//! `unix-dgram:PATH`.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// A resolved address, with the text it came from for messages.
#[derive(Clone, Debug)]
pub struct Address {
    text: String,
    pub peer: Peer,
}

/// What to connect to.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Every address that the name stands for, in the resolver's order. Never empty.
    Tcp(Vec<SocketAddr>),
    /// The same, of datagrams.
    Udp(Vec<SocketAddr>),
    /// A stream socket in the file system.
    Unix(PathBuf),
    /// A datagram socket in the file system.
    UnixDatagram(PathBuf),
}

impl Address {
    /// Reads an address, of which a bare HOST:PORT is that of a UDP socket.
    pub fn of_datagrams(text: &str) -> Result<Address, String> {
        Address::read(text, Peer::Udp)
    }

    /// Whether what goes there are datagrams, not a stream.
    pub fn takes_datagrams(&self) -> bool {
        matches!(self.peer, Peer::Udp(_) | Peer::UnixDatagram(_))
    }

    fn read(text: &str, bare: fn(Vec<SocketAddr>) -> Peer) -> Result<Address, String> {
        let peer = if let Some(path) = text.strip_prefix("unix:") {
            Peer::Unix(some_path(path)?)
        } else if let Some(path) = text.strip_prefix("unix-dgram:") {
            Peer::UnixDatagram(some_path(path)?)
        } else if let Some(host_port) = text.strip_prefix("tcp://") {
            Peer::Tcp(resolve(host_port)?)
        } else if let Some(host_port) = text.strip_prefix("udp://") {
            Peer::Udp(resolve(host_port)?)
        } else if text.contains("://") || lacks_slashes(text) {
            return Err(
                "expected tcp://HOST:PORT, udp://HOST:PORT, HOST:PORT, unix:PATH or unix-dgram:PATH".into()
            );
        } else {
            bare(resolve(text)?)
        };
        Ok(Address { text: text.to_owned(), peer })
    }
}

/// A bare HOST:PORT is that of a TCP listener.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        Address::read(text, Peer::Tcp)
    }
}

/// Whether it is `tcp:HOST:PORT` or `udp:HOST:PORT`; with one colon it is a host of that name.
fn lacks_slashes(text: &str) -> bool {
    matches!(text.split_once(':'), Some(("tcp" | "udp", rest)) if rest.contains(':'))
}

fn some_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("needs a path".into()) } else { Ok(path.into()) }
}

impl Address {
    /// The host, and the port unless it is 80, as the Host header of a request has them.
    pub fn host(&self) -> String {
        let Peer::Tcp(_) = &self.peer else { return "localhost".to_owned() };
        let text = self.text.strip_prefix("tcp://").unwrap_or(&self.text);
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let host = without_brackets(host);
        let host = match host.split('%').next() {
            _ if host.is_empty() => LOOPBACK.to_owned(),
            // Which interface leads there is nobody's business but this machine's.
            Some(address) if address.contains(':') => format!("[{address}]"),
            _ => host.bytes().map(in_a_name).collect(),
        };
        match port.parse::<u16>() {
            Ok(80) | Err(_) => host,
            Ok(port) => format!("{host}:{port}"),
        }
    }
}

/// A byte of a name, as URIs have it.
fn in_a_name(byte: u8) -> String {
    let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// What is meant where no host is given.
const LOOPBACK: &str = "127.0.0.1";

/// An IPv6 address without the brackets that set its colons apart from the port's.
fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn resolve(host_port: &str) -> Result<Vec<SocketAddr>, String> {
    let Some((host, port)) = host_port.rsplit_once(':') else {
        return Err("expected HOST:PORT".into());
    };
    let port: u16 = match port.parse() {
        Ok(0) | Err(_) => return Err(format!("{port:?} is not a port from 1 to 65535")),
        Ok(port) => port,
    };
    let host = match without_brackets(host) {
        "" => LOOPBACK,
        host => host,
    };
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve {host:?}: {error}"))?
        // IPv4 that is written as IPv6 is IPv4; an address of a link keeps its interface.
        .map(|found| match found.ip().to_canonical() {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(_) => found,
        })
        .collect();
    if addresses.is_empty() {
        return Err(format!("{host:?} has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn peer(text: &str) -> Peer {
        text.parse::<Address>().unwrap().peer
    }

    fn tcp(text: &str) -> SocketAddr {
        match peer(text) {
            Peer::Tcp(addresses) => addresses[0],
            other => panic!("{text} is not {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_tcp_address() {
        let loopback: SocketAddr = "127.0.0.1:7007".parse().unwrap();
        assert_eq!(tcp("tcp://127.0.0.1:7007"), loopback);
        assert_eq!(tcp("127.0.0.1:7007"), loopback);
        assert_eq!(tcp(":7007"), loopback);
        assert_eq!(tcp("[::1]:7007"), "[::1]:7007".parse().unwrap());
        assert_eq!(tcp("[::ffff:127.0.0.1]:7007"), loopback);
        // lo is the first interface everywhere.
        for text in ["[fe80::1%lo]:7007", "[fe80::1%1]:7007"] {
            assert_eq!(tcp(text), "[fe80::1%1]:7007".parse().unwrap());
        }
    }

    #[test]
    fn datagrams_are_asked_for_or_the_first_choice() {
        let loopback: SocketAddr = "127.0.0.1:8081".parse().unwrap();
        for address in ["udp://:8081".parse().unwrap(), Address::of_datagrams("127.0.0.1:8081").unwrap()] {
            assert!(address.takes_datagrams());
            assert!(
                matches!(&address.peer, Peer::Udp(addresses) if addresses[..] == [loopback]),
                "{address:?}"
            );
        }
        assert!(!Address::of_datagrams("tcp://:8081").unwrap().takes_datagrams());
    }

    #[test]
    fn a_unix_path_may_hold_anything() {
        let path = Path::new("/tmp/a:b=c.sock");
        assert!(matches!(peer("unix:/tmp/a:b=c.sock"), Peer::Unix(of) if of == path));
        assert!(matches!(peer("unix-dgram:/tmp/a:b=c.sock"), Peer::UnixDatagram(of) if of == path));
    }

    #[test]
    fn hosts_as_requests_name_them() {
        for (text, host) in [
            ("tcp://localhost:80", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("localhost:8080", "localhost:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("::1:8080", "[::1]:8080"),
            ("tcp://::1:08080", "[::1]:8080"),
            ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:8080"),
            ("[fe80::1%lo]:8080", "[fe80::1]:8080"),
            ("[::1%1]:80", "[::1]"),
            (":80", "127.0.0.1"),
            (":8080", "127.0.0.1:8080"),
            ("unix:/run/http.sock", "localhost"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().host(), host);
        }
    }

    #[test]
    fn what_cannot_be_an_address_says_why() {
        for (text, reason) in [
            ("127.0.0.1", "HOST:PORT"),
            ("127.0.0.1:", "not a port"),
            ("127.0.0.1:0", "not a port"),
            ("127.0.0.1:65536", "not a port"),
            ("unix:", "needs a path"),
            ("unix-dgram:", "needs a path"),
            ("udp://127.0.0.1", "HOST:PORT"),
            ("http://127.0.0.1:80", "expected tcp://"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
