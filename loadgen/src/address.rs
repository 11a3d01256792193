//! Where the server is: `tcp://HOST:PORT`, `HOST:PORT`, `:PORT` (loopback) or `unix:PATH`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
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
    /// A stream socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let peer = if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs a path".into());
            }
            Peer::Unix(path.into())
        } else {
            let host_port = text.strip_prefix("tcp://").unwrap_or(text);
            if host_port.contains("://") || host_port.starts_with("unix-dgram:") {
                return Err("only tcp://HOST:PORT, HOST:PORT and unix:PATH can be driven".into());
            }
            Peer::Tcp(resolve(host_port)?)
        };
        Ok(Address { text: text.to_owned(), peer })
    }
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
    // The resolver takes an IPv6 address without the brackets that set its colons apart from the port's.
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner,
        None if host.is_empty() => "127.0.0.1",
        None => host,
    };
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve {host:?}: {error}"))?
        .collect();
    if addresses.is_empty() {
        return Err(format!("{host:?} has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> SocketAddr {
        match text.parse::<Address>().unwrap().peer {
            Peer::Tcp(addresses) => addresses[0],
            Peer::Unix(path) => panic!("{text} is not {path:?}"),
        }
    }

    #[test]
    fn every_form_of_a_tcp_address() {
        let loopback: SocketAddr = "127.0.0.1:7007".parse().unwrap();
        assert_eq!(tcp("tcp://127.0.0.1:7007"), loopback);
        assert_eq!(tcp("127.0.0.1:7007"), loopback);
        assert_eq!(tcp(":7007"), loopback);
        assert_eq!(tcp("[::1]:7007"), "[::1]:7007".parse().unwrap());
    }

    #[test]
    fn a_unix_path_may_hold_anything() {
        match "unix:/tmp/a:b=c.sock".parse::<Address>().unwrap().peer {
            Peer::Unix(path) => assert_eq!(path, PathBuf::from("/tmp/a:b=c.sock")),
            Peer::Tcp(addresses) => panic!("{addresses:?}"),
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
            ("udp://127.0.0.1:8081", "only tcp://"),
            ("unix-dgram:/tmp/x", "only tcp://"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
