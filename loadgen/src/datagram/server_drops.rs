//! What the kernel dropped on its way into the server's UDP socket, where that is on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::{Address, Peer};

use super::socket::connect_udp;

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
    let tables =
        ["/proc/net/udp", "/proc/net/udp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    sum(&tables.concat(), peer)
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

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

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
