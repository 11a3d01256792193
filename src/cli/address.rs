//! `SERVICE=ADDRESS`: the grammar, and what host names stand for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use tidewheel::Address;

use super::services::{self, Entry, TABLE};

/// The longest path of a unix socket, in bytes: the system's `sun_path` less its final NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// What bytes travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Unix => "unix",
            Transport::UnixDatagram => "unix-dgram",
        }
    }

    /// Whether it carries messages, and knows no connections.
    #[cfg(feature = "clients")]
    pub fn is_datagrams(self) -> bool {
        matches!(self, Transport::Udp | Transport::UnixDatagram)
    }
}

/// A service, and where it is asked to listen.
#[derive(Clone)]
pub struct Request {
    pub service: &'static Entry,
    location: Location,
}

/// An ADDRESS as it was written, its host not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub transport: Transport,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Host(String, u16),
    Path(PathBuf),
}

/// In the form that the command line takes.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.transport.name();
        match &self.place {
            Place::Host(host, port) if host.is_empty() => write!(f, "{transport}://{}:{port}", loopback()),
            Place::Host(host, port) if host.contains(':') => write!(f, "{transport}://[{host}]:{port}"),
            Place::Host(host, port) => write!(f, "{transport}://{host}:{port}"),
            Place::Path(path) => write!(f, "{transport}:{}", path.display()),
        }
    }
}

/// A service, and where it listens or is to listen.
#[derive(Clone)]
pub struct Listener {
    pub service: &'static Entry,
    pub address: Address,
    /// Nobody asked for this very address: if it is busy, it can be left out.
    pub is_default: bool,
}

/// Reads one `SERVICE=ADDRESS`. Host names are looked up later, by [`Request::resolve`].
///
/// # Errors
/// What is wrong with it.
pub fn request(text: &str) -> Result<Request, String> {
    let Some((name, address)) = text.split_once('=') else {
        return Err(match services::find(text) {
            Ok(entry) => format!("write SERVICE=ADDRESS, such as {}", example(entry)),
            Err(_) => format!("write SERVICE=ADDRESS, such as {}", example(&TABLE[0])),
        });
    };
    let service = services::find(name)?;
    let location = location(address, service.transports[0])?;
    if !service.transports.contains(&location.transport) {
        let all = service.transport_names().join(", ");
        return Err(format!("{name} cannot be served on {}, only on {all}", location.transport.name()));
    }
    Ok(Request { service, location })
}

fn example(entry: &Entry) -> String {
    match entry.defaults.first() {
        Some((_, port)) => format!("{}=127.0.0.1:{port}", entry.name),
        None => format!("{}=127.0.0.1:0", entry.name),
    }
}

/// Reads one ADDRESS. A bare HOST:PORT is of the transport `bare`.
///
/// # Errors
/// What is wrong with it.
pub fn location(address: &str, bare: Transport) -> Result<Location, String> {
    // `unix-dgram:` first: `unix:` is no prefix of it, but a reader may think so.
    for (prefix, transport) in [("unix-dgram:", Transport::UnixDatagram), ("unix:", Transport::Unix)] {
        if let Some(path) = address.strip_prefix(prefix) {
            return match path.len() {
                0 => Err(format!("{prefix} is followed by the path of the socket")),
                // The announcement is a line.
                _ if path.chars().any(char::is_control) => {
                    Err("a socket path with control characters cannot be announced".to_owned())
                }
                1..=UNIX_PATH_BYTES_MAX => {
                    Ok(Location { transport, place: Place::Path(PathBuf::from(path)) })
                }
                _ => Err(format!("the system takes socket paths of at most {UNIX_PATH_BYTES_MAX} bytes")),
            };
        }
    }
    let (transport, host_and_port) = match address.split_once("://") {
        Some(("tcp", rest)) => (Transport::Tcp, rest),
        Some(("udp", rest)) => (Transport::Udp, rest),
        Some((other, _)) => {
            return Err(format!(
                "'{other}://' is no transport: use tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix-dgram:PATH"
            ));
        }
        None => (bare, address),
    };
    let (host, port) = split_host_and_port(host_and_port)?;
    Ok(Location { transport, place: Place::Host(host.to_owned(), port) })
}

fn split_host_and_port(text: &str) -> Result<(&str, u16), String> {
    if text.contains('/') {
        return Err(format!("expected HOST:PORT; for a unix socket write unix:{text}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("expected HOST:PORT (port 0 lets the system choose)".to_owned());
    };
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("the bracket after the IPv6 address is missing")?,
        None if host.contains(':') => {
            return Err(format!("an IPv6 address stands in brackets: [{text}]:PORT"));
        }
        None => host,
    };
    // The parser of integers would also take a sign.
    let port = port.parse().ok().filter(|_| !port.starts_with('+'));
    Ok((host, port.ok_or("the port must be a number from 0 to 65535 (0 lets the system choose)")?))
}

impl Request {
    /// Looks the host up.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn resolve(&self) -> Result<Listener, String> {
        Ok(Listener { service: self.service, address: self.location.resolve()?, is_default: false })
    }
}

impl Location {
    /// Looks the host up, and takes one of its addresses.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn resolve(&self) -> Result<Address, String> {
        Ok(match &self.place {
            Place::Path(path) if self.transport == Transport::UnixDatagram => {
                Address::UnixDatagram(path.clone())
            }
            Place::Path(path) => Address::Unix(path.clone()),
            Place::Host(host, port) => {
                let ip = if host.is_empty() { loopback() } else { look_up(host)? };
                inet(self.transport, ip, *port)
            }
        })
    }
}

/// The default addresses of all services, on one host.
pub fn defaults(host: IpAddr) -> Vec<Listener> {
    TABLE
        .iter()
        .flat_map(|service| {
            service.defaults.iter().map(move |&(transport, port)| Listener {
                service,
                address: inet(transport, host, port),
                is_default: true,
            })
        })
        .collect()
}

fn inet(transport: Transport, ip: IpAddr, port: u16) -> Address {
    let at = SocketAddr::new(ip, port);
    if transport == Transport::Udp { Address::Udp(at) } else { Address::Tcp(at) }
}

pub fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// The address of a host, which may be written as a name. Of several, one: the first of IPv4 if there is any, so
/// that `localhost` is what most peers try.
///
/// # Errors
/// When there is no such host.
pub fn look_up(host: &str) -> Result<IpAddr, String> {
    look_up_all(host).map(|all| all[0])
}

/// All addresses of a host, at least one, in the order in which they are to be tried: IPv4 first.
///
/// # Errors
/// When there is no such host.
pub fn look_up_all(host: &str) -> Result<Vec<IpAddr>, String> {
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let mut all: Vec<IpAddr> = (host, 0)
        .to_socket_addrs()
        .map_err(|error| {
            format!("cannot find the host '{host}': {error} (write an IP address, or check the name)")
        })?
        .map(|found| found.ip())
        .collect();
    if all.is_empty() {
        return Err(format!("the host '{host}' has no address"));
    }
    // A stable sort: within a family the system knows best.
    all.sort_by_key(IpAddr::is_ipv6);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<String, String> {
        let listener = request(text)?.resolve()?;
        Ok(format!("{} {}", listener.service.name, listener.address))
    }

    #[test]
    fn every_form_of_an_address() {
        for (text, expected) in [
            ("echo=127.0.0.1:7007", "echo tcp://127.0.0.1:7007"),
            ("echo=:7007", "echo tcp://127.0.0.1:7007"),
            ("echo=udp://:0", "echo udp://127.0.0.1:0"),
            ("echo=tcp://[::]:80", "echo tcp://[::]:80"),
            ("echo=[::1]:7007", "echo tcp://[::1]:7007"),
            ("echo=localhost:7007", "echo tcp://127.0.0.1:7007"),
            ("echo=unix:/run/echo.sock", "echo unix:/run/echo.sock"),
            ("echo=unix:a=b:c", "echo unix:a=b:c"),
            ("echo=unix-dgram:echo.sock", "echo unix-dgram:echo.sock"),
            ("time=0.0.0.0:8081", "time udp://0.0.0.0:8081"),
        ] {
            assert_eq!(resolved(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let long = format!("echo=unix:/{}", "x".repeat(107));
        for (text, expected) in [
            ("echo", "such as echo=127.0.0.1:7007"),
            ("7007", "write SERVICE=ADDRESS"),
            ("ecco=:1", "did you mean 'echo'?"),
            ("quux=:1", "there are echo"),
            ("=:1", "there is no service ''"),
            ("echo=", "expected HOST:PORT"),
            ("echo=7007", "expected HOST:PORT"),
            ("echo=localhost", "expected HOST:PORT"),
            ("echo=:port", "number from 0 to 65535"),
            ("echo=:65536", "number from 0 to 65535"),
            ("echo=:+1", "number from 0 to 65535"),
            ("echo=:-1", "number from 0 to 65535"),
            ("echo=::1:7007", "in brackets"),
            ("echo=[::1:7007", "bracket"),
            ("echo=http://localhost:80", "'http://' is no transport"),
            ("echo=/run/echo.sock", "unix:/run/echo.sock"),
            ("echo=unix:", "path"),
            ("echo=unix:/tmp/a\nready", "control characters"),
            (&long, "at most 107 bytes"),
            ("time=tcp://:8081", "time cannot be served on tcp, only on udp"),
        ] {
            let error = resolved(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }
}
