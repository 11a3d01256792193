//! The sockets of this machine that take what is sent to the server: whether there is one, and what the kernel dropped on
//! its way into them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;

use crate::address::{Address, Peer};

use super::socket::connect_udp;

/// Whether datagrams that are sent there have a socket of this machine to wait in, which nobody needs to send one for.
pub fn is_bound(address: &Address) -> bool {
    match &address.peer {
        Peer::Udp(addresses) => {
            let tables = tables();
            addresses.iter().any(|&server| sum(&tables, server).is_some())
        }
        // A file that nobody is behind any more refuses.
        Peer::UnixDatagram(path) => UnixDatagram::unbound().is_ok_and(|socket| socket.connect(path).is_ok()),
        Peer::Tcp(_) | Peer::Unix(_) => false,
    }
}

/// The drops of all sockets that are bound to the server's address, since they were opened: their buffers were full.
/// `None` if there is no such socket here, as with unix sockets, which make the sender wait instead.
pub fn server_drops(address: &Address) -> Option<u64> {
    let Peer::Udp(addresses) = &address.peer else { return None };
    let socket = connect_udp(addresses, None).ok()?;
    let peer = socket.peer_addr().ok()?;
    // Whoever speaks to an address of their own machine does so from that address.
    if socket.local_addr().ok()?.ip() != peer.ip() {
        return None;
    }
    sum(&tables(), peer)
}

/// All UDP sockets of the system, as it shows them.
fn tables() -> String {
    ["/proc/net/udp", "/proc/net/udp6"].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
}

/// Of the rows of /proc/net/udp and udp6, those of unconnected sockets that receive what is sent to `server`.
fn sum(tables: &str, server: SocketAddr) -> Option<u64> {
    let drops = tables.lines().filter_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let (&[_, local, remote, ..], Some(drops)) = (fields.as_slice(), fields.get(12)) else { return None };
        let (ip, port) = local.split_once(':')?;
        let ip = read_ip(ip)?;
        let receives = ip == server.ip()
            || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && server.is_ipv4();
        let is_the_server = receives
            && u16::from_str_radix(port, 16) == Ok(server.port())
            && remote.chars().all(|character| matches!(character, '0' | ':'));
        is_the_server.then(|| drops.parse::<u64>().ok())?
    });
    drops.reduce(|sum, drops| sum + drops)
}

/// Words of 32 bits, each in the machine's own byte order. IPv4 as IPv4, also where it appears mapped.
fn read_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let number = words.iter().fold(0_u128, |number, &word| number << 32 | u128::from(word));
            Some(Ipv6Addr::from(number).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_is_seen_at_its_address_as_long_as_it_is_there() {
        let is_bound_at = |text: &str| is_bound(&text.parse().unwrap());
        let (one, all) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap());
        let [port, port_of_all] = [&one, &all].map(|socket| socket.local_addr().unwrap().port());
        assert!(is_bound_at(&format!("udp://127.0.0.1:{port}")));
        assert!(!is_bound_at(&format!("udp://127.0.0.2:{port}")));
        assert!(is_bound_at(&format!("udp://127.0.0.2:{port_of_all}")));
        // One that is connected takes what comes from there alone.
        one.connect(all.local_addr().unwrap()).unwrap();
        assert!(!is_bound_at(&format!("udp://127.0.0.1:{port}")));
    }

    #[test]
    fn a_file_of_a_socket_that_is_gone_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = format!("unix-dgram:{}", path.display()).parse().unwrap();
        assert!(!is_bound(&address));
        let socket = UnixDatagram::bind(&path).unwrap();
        assert!(is_bound(&address));
        drop(socket);
        assert!(path.exists() && !is_bound(&address));
    }

    #[cfg(target_endian = "little")]
    const TABLES: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
11243: 0100007F:1A0A 0100007F:D343 01 00000000:0000BC80 00:00000000 00000000     0        0 750 2 00000000d532f289 1000
12978: 0100007F:1A0A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 751 2 0000000060e5a77b 7
12978: 00000000:1A0A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 752 2 0000000060e5a77b 20
12978: 0200007F:1A0A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 753 2 0000000060e5a77b 300
   sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  42: 00000000000000000000000000000000:1A0A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 754 2 00000000a 4000
  43: 00000000000000000000000001000000:1A0A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 755 2 00000000b 50000
  44: 0000000000000000FFFF00000100007F:1A0B 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 756 2 00000000c 6
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_drops_are_those_of_the_sockets_that_listen_there() {
        for (server, drops) in [
            ("127.0.0.1:6666", Some(4027)),
            ("127.0.0.2:6666", Some(4320)),
            ("[::1]:6666", Some(54_000)),
            ("127.0.0.1:6667", Some(6)),
            ("127.0.0.1:6668", None),
        ] {
            assert_eq!(sum(TABLES, server.parse().unwrap()), drops, "{server}");
        }
    }
}
