//! The local addresses that connections leave from, in turn: each has ports of its own, some 28 thousand of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use crate::address::Peer;

/// More than that have more ports than anybody has descriptors.
const SOURCES_MAX: u128 = 1 << 16;

/// None, and the system chooses; or some of one family, each once or more often.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    addresses: Arc<[IpAddr]>,
    text: String,
}

impl Sources {
    /// Where the connection with this number leaves from.
    pub fn of(&self, number: usize) -> Option<IpAddr> {
        let count = self.addresses.len();
        (count > 0).then(|| self.addresses[number % count])
    }

    /// Tells why nobody can be reached at `peer` from these, if that is so.
    pub fn check(&self, peer: &Peer) -> Result<(), String> {
        let Some(first) = self.of(0) else { return Ok(()) };
        let (Peer::Tcp(servers) | Peer::Udp(servers)) = peer else {
            return Err(format!("--source-ips {self}: does not apply to unix sockets"));
        };
        if !servers.iter().any(|server| server.is_ipv4() == first.is_ipv4()) {
            let (own, other) = if first.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            return Err(format!(
                "--source-ips {self}: these are {own} addresses, but the server has only {other}"
            ));
        }
        for &address in self.addresses.iter() {
            // Any port will do: it is given back at once.
            UdpSocket::bind((address, 0)).map_err(|error| {
                format!("--source-ips {self}: {address} is not an address of this machine ({error})")
            })?;
        }
        Ok(())
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Sources, String> {
        let mut addresses = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = bounds(part)?;
            if last - first >= SOURCES_MAX - addresses.len() as u128 {
                return Err(format!("more than {SOURCES_MAX} addresses"));
            }
            let is_ipv4 = !part.contains(':');
            addresses.extend((first..=last).map(|number| address(number, is_ipv4)));
        }
        if let Some(address) = addresses.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(format!("{address} cannot be a source address"));
        }
        if addresses.iter().any(|address| address.is_ipv4() != addresses[0].is_ipv4()) {
            return Err("IPv4 and IPv6 addresses cannot be mixed".into());
        }
        Ok(Sources { addresses: addresses.into(), text: text.to_owned() })
    }
}

/// The first and the last of the addresses that a part of the list stands for, as numbers.
fn bounds(part: &str) -> Result<(u128, u128), String> {
    if let Some((ip, prefix)) = part.split_once('/') {
        let ip = read(ip)?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|prefix| (1..=bits).contains(prefix));
        let prefix: u32 = prefix.ok_or_else(|| format!("{part:?}: the prefix must be from 1 to {bits}"))?;
        let rest = if prefix == bits { 0 } else { u128::MAX >> (128 - (bits - prefix)) };
        let (first, last) = (number(ip) & !rest, number(ip) | rest);
        // The first of an IPv4 network is its name, the last reaches all of its hosts: neither is a host's own.
        let has_both = ip.is_ipv4() && rest > 1;
        return Ok((first + u128::from(has_both), last - u128::from(has_both)));
    }
    let Some((first, last)) = part.split_once('-') else {
        let ip = number(read(part)?);
        return Ok((ip, ip));
    };
    let (first, last) = (read(first)?, read(last)?);
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(format!("{part:?}: a range must go from one address to a later one of the same family"));
    }
    Ok((number(first), number(last)))
}

fn read(text: &str) -> Result<IpAddr, String> {
    text.trim().parse().map_err(|_| {
        format!("{text:?} is not an IP address; expected 127.0.0.2, 127.0.0.2-127.0.0.9 or 127.0.1.0/24")
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        // The bounds of a range of these have no more bits.
        IpAddr::V4(Ipv4Addr::from_bits(number as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn listed(text: &str) -> Vec<String> {
        let sources: Sources = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        sources.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn addresses_ranges_and_networks() {
        assert_eq!(listed("127.0.0.2"), ["127.0.0.2"]);
        assert_eq!(
            listed("127.0.0.9, 127.0.0.254-127.0.1.1"),
            ["127.0.0.9", "127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1"]
        );
        assert_eq!(listed("10.1.2.3/30"), ["10.1.2.1", "10.1.2.2"]);
        assert_eq!(listed("10.1.2.3/31"), ["10.1.2.2", "10.1.2.3"]);
        assert_eq!(listed("10.1.2.3/32"), ["10.1.2.3"]);
        assert_eq!(listed("127.0.1.0/24").len(), 254);
        assert_eq!(listed("fd00::4/127"), ["fd00::4", "fd00::5"]);
        assert_eq!(listed("::1-::2"), ["::1", "::2"]);
    }

    #[test]
    fn connections_take_turns() {
        let sources: Sources = "127.0.0.2-127.0.0.4".parse().unwrap();
        let turns: Vec<_> = (0..4).map(|number| sources.of(number).unwrap().to_string()).collect();
        assert_eq!(turns, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
        assert_eq!(Sources::default().of(7), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("", "not an IP address"),
            ("localhost", "not an IP address"),
            ("127.0.0.2,", "not an IP address"),
            ("127.0.0.0/0", "from 1 to 32"),
            ("127.0.0.0/33", "from 1 to 32"),
            ("::/129", "from 1 to 128"),
            ("127.0.0.9-127.0.0.2", "a later one"),
            ("127.0.0.9-::1", "same family"),
            ("127.0.0.2,::1", "cannot be mixed"),
            ("10.0.0.0/8", "more than 65536"),
            ("fd00::/64", "more than 65536"),
            ("10.0.0.0/17,10.1.0.0/17,10.2.0.1-10.2.0.9", "more than 65536"),
            ("0.0.0.0", "cannot be a source"),
            ("239.0.0.1", "cannot be a source"),
        ] {
            let error = text.parse::<Sources>().expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_machine_and_the_server_must_suit() {
        for (sources, server, words) in [
            ("127.0.0.2", "[::1]:7", "only IPv6"),
            ("::1", "127.0.0.1:7", "only IPv4"),
            ("127.0.0.2", "unix:/run/s", "unix socket"),
            ("127.0.0.2,192.0.2.1", "127.0.0.1:7", "192.0.2.1 is not an address of this machine"),
        ] {
            let address: Address = server.parse().unwrap();
            let error = sources.parse::<Sources>().unwrap().check(&address.peer).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
        let server: Address = "127.0.0.1:7".parse().unwrap();
        assert_eq!("127.0.1.0/30".parse::<Sources>().unwrap().check(&server.peer), Ok(()));
        assert_eq!(Sources::default().check(&"unix:/s".parse::<Address>().unwrap().peer), Ok(()));
    }
}
