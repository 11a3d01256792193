//! `SERVICE=ADDRESS`: the grammar, and what host names stand for.

use std::fmt;
#[cfg(feature = "clients")]
use std::net::Ipv6Addr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use tidewheel::{Address, ParseAddressError};

use super::services::{self, Entry, TABLE};

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
            Place::Host(host, port) if host.is_empty() => write!(f, "{transport}://{}", loopback(*port)),
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
    // A = may also be in a URL or in a path.
    let Some((name, address)) = text.split_once('=').filter(|(name, _)| !name.contains([':', '/', '.']))
    else {
        return Err(match services::find(text) {
            Ok(entry) => format!("write SERVICE=ADDRESS, such as {}", example(entry)),
            Err(_) => format!("write SERVICE=ADDRESS, such as {}", meant(text)),
        });
    };
    let service = services::find(name)?;
    let location = location(address, service.transports[0]).map_err(|error| match foreign(address) {
        Some((scheme, place)) => format!("unknown transport '{scheme}': write {name}={place}"),
        None => error,
    })?;
    if !service.transports.contains(&location.transport) {
        let all = service.transport_names().join(", ");
        return Err(format!("{name} cannot be served on {}, only on {all}", location.transport.name()));
    }
    Ok(Request { service, location })
}

/// What an address without a service, or a URL, may have been meant as.
fn meant(text: &str) -> String {
    let is_there = |name: &str| services::find(name).is_ok();
    match foreign(text) {
        Some((scheme, place)) if is_there(scheme) => format!("{scheme}={place}"),
        Some((_, place)) => format!("{}={place}", TABLE[0].name),
        None if location(text, Transport::Tcp).is_ok() => format!("{}={text}", TABLE[0].name),
        None => example(&TABLE[0]),
    }
}

/// The scheme and the HOST:PORT of a URL that is none of ours.
fn foreign(text: &str) -> Option<(&str, String)> {
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| !matches!(*scheme, "tcp" | "udp"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let authority = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let place = match split_host_and_port(authority) {
        Ok(_) => authority.to_owned(),
        Err(_) => format!("{authority}:{}", if scheme == "https" { 443 } else { 80 }),
    };
    Some((scheme, place))
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
    if address.starts_with("unix:") || address.starts_with("unix-dgram:") {
        // The announcement is a line.
        if address.chars().any(char::is_control) {
            return Err("the path of a socket must not contain control characters".to_owned());
        }
        let (transport, path) = match address.parse().map_err(|error: ParseAddressError| error.to_string())? {
            Address::UnixDatagram(path) => (Transport::UnixDatagram, path),
            Address::Unix(path) => (Transport::Unix, path),
            _ => unreachable!("the prefix says that it is a unix socket"),
        };
        return Ok(Location { transport, place: Place::Path(path) });
    }
    let (transport, host_and_port) = match address.split_once("://") {
        Some(("tcp", rest)) => (Transport::Tcp, rest),
        Some(("udp", rest)) => (Transport::Udp, rest),
        Some((other, _)) => {
            let place = foreign(address).map_or("HOST:PORT".to_owned(), |(_, place)| place);
            return Err(format!(
                "unknown transport '{other}': write tcp://{place} (the forms are tcp://HOST:PORT, udp://HOST:PORT, unix:PATH \
                 and unix-dgram:PATH)"
            ));
        }
        None => (bare, address),
    };
    let (host, port) = split_host_and_port(host_and_port)?;
    Ok(Location { transport, place: Place::Host(host.to_owned(), port) })
}

fn split_host_and_port(text: &str) -> Result<(&str, u16), String> {
    if let Some(at) = text.find('/') {
        return Err(match &text[..at] {
            place if place.contains(':') => format!("an address must not have a path: write {place}"),
            _ => format!("expected HOST:PORT; for a unix socket write unix:{text}"),
        });
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("expected HOST:PORT (port 0 lets the system choose)".to_owned());
    };
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("missing ']' after the IPv6 address")?,
        None if host.contains(':') => {
            return Err(format!("an IPv6 address must be in brackets: [{text}]:PORT"));
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
    /// Whether it is an address of one link without saying which link that is.
    #[cfg(feature = "clients")]
    pub fn needs_interface(&self) -> bool {
        match &self.place {
            Place::Host(host, _) => host.parse().is_ok_and(|ip: Ipv6Addr| ip.is_unicast_link_local()),
            Place::Path(_) => false,
        }
    }

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
                let at = if host.is_empty() { loopback(*port) } else { look_up(host, *port)? };
                inet(self.transport, at)
            }
        })
    }
}

/// The default addresses of all services, on one host, whose port does not count.
pub fn defaults(host: SocketAddr) -> Vec<Listener> {
    TABLE
        .iter()
        .flat_map(|service| {
            service.defaults.iter().map(move |&(transport, port)| Listener {
                service,
                address: {
                    let mut at = host;
                    at.set_port(port);
                    inet(transport, at)
                },
                is_default: true,
            })
        })
        .collect()
}

fn inet(transport: Transport, at: SocketAddr) -> Address {
    if transport == Transport::Udp { Address::Udp(at) } else { Address::Tcp(at) }
}

/// Whether a socket on one of these addresses keeps another from the other one.
pub fn overlap(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) | (Address::Udp(one), Address::Udp(other)) => {
            // `[::]` is every address of both families.
            let covers = |wide: &SocketAddr, other: &SocketAddr| {
                wide.ip().is_unspecified() && (wide.is_ipv6() || other.is_ipv4())
            };
            // Port 0 is another one each time.
            one.port() != 0
                && one.port() == other.port()
                && (one == other || covers(one, other) || covers(other, one))
        }
        (
            Address::Unix(one) | Address::UnixDatagram(one),
            Address::Unix(other) | Address::UnixDatagram(other),
        ) => one == other,
        _ => false,
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The address of a host, which may be written as a name. Of several, one: the first of IPv4 if there is any, so
/// that `localhost` is what most peers try.
///
/// # Errors
/// When there is no such host.
pub fn look_up(host: &str, port: u16) -> Result<SocketAddr, String> {
    look_up_all(host, port).map(|all| all[0])
}

/// All addresses of a host, at least one, in the order in which they are to be tried: IPv4 first. An address of IPv6 keeps
/// its scope, the interface behind the percent sign; one of IPv4 that is written as IPv6 is one of IPv4.
///
/// # Errors
/// When there is no such host.
pub fn look_up_all(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let mut all: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| match host.split_once('%') {
            Some((_, interface)) => {
                format!(
                    "cannot find the host '{host}': {error} (check the address, and the interface '{interface}')"
                )
            }
            None => {
                format!("cannot find the host '{host}': {error} (write an IP address, or check the name)")
            }
        })?
        .map(|found| match found.ip().to_canonical() {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(_) => found,
        })
        .collect();
    if all.is_empty() {
        return Err(format!("the host '{host}' has no address"));
    }
    // A stable sort: within a family the system knows best.
    all.sort_by_key(SocketAddr::is_ipv6);
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
            ("echo=[::ffff:127.0.0.1]:7007", "echo tcp://127.0.0.1:7007"),
            ("echo=udp://[::ffff:7f00:1]:7007", "echo udp://127.0.0.1:7007"),
            // lo is the first interface everywhere.
            ("echo=[fe80::1%lo]:7007", "echo tcp://[fe80::1%1]:7007"),
            ("echo=udp://[fe80::1%1]:7007", "echo udp://[fe80::1%1]:7007"),
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
            ("quux=:1", "the services are: echo"),
            ("=:1", "unknown service ''"),
            ("echo=", "expected HOST:PORT"),
            ("echo=7007", "expected HOST:PORT"),
            ("echo=localhost", "expected HOST:PORT"),
            ("echo=:port", "number from 0 to 65535"),
            ("echo=:65536", "number from 0 to 65535"),
            ("echo=:+1", "number from 0 to 65535"),
            ("echo=:-1", "number from 0 to 65535"),
            ("echo=::1:7007", "in brackets"),
            ("echo=[::1:7007", "missing ']'"),
            ("echo=[fe80::1%no-such-link]:7007", "check the address, and the interface 'no-such-link'"),
            ("echo=http://localhost:80", "unknown transport 'http': write echo=localhost:80"),
            ("http://localhost/", "such as http=localhost:80"),
            ("http://localhost:8080/path?a=b", "such as http=localhost:8080"),
            ("http=http://[::1]:8080/", "write http=[::1]:8080"),
            ("https://localhost/", "such as echo=localhost:443"),
            ("tcp://localhost:7007", "such as echo=tcp://localhost:7007"),
            ("localhost:8080", "such as echo=localhost:8080"),
            ("unix:/run/a=b.sock", "such as echo=unix:/run/a=b.sock"),
            ("localhost", "such as echo=127.0.0.1:7007"),
            ("http=:8080/path", "an address must not have a path: write :8080"),
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
