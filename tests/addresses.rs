//! Addresses as they are written and printed: interfaces of IPv6, IPv4 in the form of IPv6.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

use tidewheel::{Address, Limits, Options, Reactor, services::echo::Echo};

use crate::harness::program::{Server, refused, tidewheel_through};
use crate::harness::{PATIENCE, ask};

/// In a network of its own whose loopback has an address of the link.
const OWN_NETWORK: [&str; 5] = [
    "unshare",
    "-n",
    "sh",
    "-ec",
    "ip link set lo up; ip addr add fe80::1/64 dev lo nodad; exec \"$0\" \"$@\"",
];

fn has_own_network() -> bool {
    let probe = Command::new(OWN_NETWORK[0]).args(&OWN_NETWORK[1..]).arg("true").output();
    let has = probe.is_ok_and(|output| output.status.success());
    if !has {
        crate::harness::skipped::skip(
            "needs root and a network namespace, with unshare and ip: apt-get install util-linux iproute2",
        );
    }
    has
}

fn ask_tcp(address: &str) {
    let mut stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&mut stream, b"hello", b"hello");
}

fn ask_udp(address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(address).unwrap();
    socket.send(b"hello").unwrap();
    assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 5);
}

#[test]
fn an_address_of_a_link_keeps_its_interface() {
    if !has_own_network() {
        return;
    }
    for (scope, reactors) in [("lo", "1"), ("1", "1"), ("lo", "2")] {
        let (tcp, udp) =
            (format!("echo=[fe80::1%{scope}]:31001"), format!("echo=udp://[fe80::1%{scope}]:31001"));
        let args = ["serve", "--reactors", reactors, &tcp, &udp];
        let server = Server::spawn(tidewheel_through(&OWN_NETWORK, args)).ready();
        let announced = [server.address("echo", "tcp://"), server.address("echo", "udp://")];
        // lo is the first interface everywhere, and the printed form can be read again.
        assert_eq!(announced, ["[fe80::1%1]:31001"; 2]);
        thread::scope(|scope| {
            scope.spawn(|| {
                server.enter_network();
                ask_tcp(announced[0]);
                ask_udp(announced[1]);
            });
        });
        server.stop();
    }
    let args = ["serve", "--bind", "fe80::1%lo"];
    let server = Server::spawn(tidewheel_through(&OWN_NETWORK, args)).ready();
    assert!(server.listening.iter().all(|(_, address)| address.contains("://[fe80::1%1]:")));
    server.stop();
}

#[test]
fn an_address_of_a_link_without_its_interface_is_told_so() {
    let line = refused(["serve", "echo=[fe80::1]:31001"]);
    assert!(line.contains("tcp://[fe80::1]:31001") && line.contains("needs its interface"), "{line}");
    let line = refused(["serve", "echo=[fe80::1%no-such-link]:31001"]);
    assert!(line.contains("no-such-link"), "{line}");
}

#[test]
fn ipv4_that_is_written_as_ipv6_is_ipv4() {
    let mapped = ["echo=[::ffff:127.0.0.1]:0", "echo=udp://[::ffff:7f00:1]:0"];
    for reactors in ["1", "2"] {
        let server = Server::start(["--reactors", reactors].iter().chain(&mapped));
        let [tcp, udp] = [server.address("echo", "tcp://"), server.address("echo", "udp://")];
        assert!(tcp.starts_with("127.0.0.1:") && udp.starts_with("127.0.0.1:"), "{tcp} {udp}");
        ask_tcp(tcp);
        ask_udp(udp);
        server.stop();
    }
    let server = Server::start(["--bind", "[::ffff:127.0.0.7]"]);
    assert!(server.listening.iter().all(|(_, address)| address.contains("://127.0.0.7:")));
    server.stop();

    let mut reactor = Reactor::new(Limits::default()).unwrap();
    let echo = reactor.add_service(Echo, Options::new("echo"));
    let at: SocketAddr = "[::ffff:127.0.0.1]:0".parse().unwrap();
    for address in [Address::Tcp(at), Address::Udp(at)] {
        let (_, bound) = reactor.listen(&address, echo).unwrap();
        assert!(bound.to_string().contains("://127.0.0.1:"), "{bound}");
    }
}
