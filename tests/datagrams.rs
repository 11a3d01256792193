//! Datagrams on real sockets: who is answered, from where, with what, and who is not.
//!
//! That no answer came is shown without waiting: a datagram that is answered follows on the same way, and when its
//! answer is there, an answer to the one before it would be there too.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod network;

use crate::harness::skipped::skip;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tidewheel::services::echo::Echo;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::{
    Address, Context, DATAGRAM_BYTES_MAX, Datagram, DropCause, Limits, Metrics, Options, Reactor, Remote,
    Service,
};

use crate::harness::with;

/// How long something may take that must happen. On a machine at rest it takes no time at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reactor that runs in a thread of its own.
pub struct Served {
    /// In the order in which they were asked for.
    pub addresses: Vec<Address>,
    remote: Remote,
    thread: JoinHandle<Metrics>,
}

/// Serves each of the addresses with its service.
pub fn serve(limits: Limits, wanted: impl IntoIterator<Item = (&'static str, Address)>) -> Served {
    let wanted: Vec<_> = wanted.into_iter().collect();
    let (started, start) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut reactor = Reactor::new(limits).unwrap();
        let addresses: Vec<_> =
            wanted.iter().map(|(name, address)| listen(&mut reactor, name, address)).collect();
        started.send((addresses, reactor.remote())).unwrap();
        reactor.run().unwrap();
        reactor.metrics().clone()
    });
    let (addresses, remote) = start.recv().expect("the reactor listens");
    Served { addresses, remote, thread }
}

fn listen(reactor: &mut Reactor, name: &str, address: &Address) -> Address {
    let options = Options::new(name).messages(false);
    let service = match name {
        "echo" => reactor.add_service(Echo, options),
        "uppercase" => reactor.add_service(Uppercase::default(), options),
        "time" => reactor.add_service(Time::local(), options),
        "mirror" => reactor.add_service(Mirror, options),
        _ => panic!("there is no service {name}"),
    };
    reactor.listen(address, service).unwrap().1
}

impl Served {
    /// The UDP address with this index.
    fn udp(&self, index: usize) -> SocketAddr {
        let Address::Udp(address) = self.addresses[index] else {
            panic!("{} is not UDP", self.addresses[index])
        };
        address
    }

    /// Waits until so many datagrams have come in all.
    fn await_datagrams(&self, count: u64) {
        crate::harness::await_that("they have come", || {
            let metrics = self.remote.metrics(PATIENCE).expect("the reactor turns");
            (metrics.datagrams_in >= count).then_some(())
        });
    }

    /// Ends the reactor and returns what it counted.
    pub fn stop(self) -> Metrics {
        self.remote.stop();
        self.thread.join().expect("the reactor does not panic")
    }
}

/// Answers with the sender's address as a service sees it.
struct Mirror;

impl Service for Mirror {
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.reply(datagram, datagram.from.to_string().as_bytes());
    }
}

fn udp(address: &str) -> Address {
    Address::Udp(address.parse().unwrap())
}

fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends one datagram and returns what comes back, and from where.
fn ask(client: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
    client.send_to(bytes, to).unwrap();
    let mut buffer = vec![0; 1 << 17];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

#[track_caller]
fn assert_nothing_came(client: &UdpSocket) {
    client.set_nonblocking(true).unwrap();
    let came = client.recv_from(&mut [0; 64]);
    assert!(came.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{came:?}");
    client.set_nonblocking(false).unwrap();
}

/// What has been counted of datagrams: those that came, those that left, and those dropped for each cause.
fn counted(metrics: &Metrics) -> (u64, u64, Vec<(&'static str, u64)>) {
    let dropped =
        |cause: DropCause| Some((cause.name(), metrics.dropped_for(cause))).filter(|&(_, count)| count > 0);
    (
        metrics.datagrams_in,
        metrics.datagrams_out,
        DropCause::ALL.iter().copied().filter_map(dropped).collect(),
    )
}

/// Whether this machine has IPv6; skips that part of the calling test if it has not.
#[track_caller]
fn has_ipv6() -> bool {
    let has = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        skip("needs IPv6 on loopback");
    }
    has
}

/// A path for a unix socket that no other test uses.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tidewheel-{}-{name}", std::process::id()));
    // A test that failed may have left it.
    let _ = std::fs::remove_file(&path);
    path
}

/// A unix datagram socket of a client, whose file goes with it.
struct UnixClient {
    socket: UnixDatagram,
    path: Option<PathBuf>,
}

impl UnixClient {
    fn named(name: &str) -> UnixClient {
        let path = socket_path(name);
        UnixClient::new(UnixDatagram::bind(&path).unwrap(), Some(path))
    }

    fn new(socket: UnixDatagram, path: Option<PathBuf>) -> UnixClient {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        UnixClient { socket, path }
    }

    fn send(&self, to: &Address, bytes: &[u8]) {
        let Address::UnixDatagram(path) = to else { panic!("{to} is no unix datagram socket") };
        self.socket.send_to(bytes, path).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 17];
        let len = self.socket.recv(&mut buffer).unwrap();
        buffer.truncate(len);
        buffer
    }

    fn ask(&self, to: &Address, bytes: &[u8]) -> Vec<u8> {
        self.send(to, bytes);
        self.receive()
    }
}

impl Drop for UnixClient {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn datagrams_of_every_size_come_back() {
    let mut wanted = vec![("echo", udp("127.0.0.1:0"))];
    let mut clients = vec!["127.0.0.1:0"];
    if has_ipv6() {
        wanted.push(("echo", udp("[::1]:0")));
        clients.push("[::1]:0");
    }
    let served = serve(Limits::default(), wanted);
    let sizes = [0, 1, 64, 1472, 1473, 9000, 65_506, DATAGRAM_BYTES_MAX];
    for (index, address) in clients.iter().enumerate() {
        let client = client(address);
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let (answer, from) = ask(&client, served.udp(index), &bytes);
            assert!(answer == bytes, "{size} bytes on {address}");
            assert_eq!(from, served.udp(index));
        }
    }
    let count = (clients.len() * sizes.len()) as u64;
    assert_eq!(counted(&served.stop()), (count, count, vec![]));
}

#[test]
fn uppercase_answers_in_upper_case() {
    let path = socket_path("uppercase");
    let served = serve(
        Limits::default(),
        [("uppercase", udp("127.0.0.1:0")), ("uppercase", Address::UnixDatagram(path))],
    );
    let (inet, unix) = (client("127.0.0.1:0"), UnixClient::named("uppercase-client"));
    let cases: [(&[u8], &[u8]); 4] = [
        ("Straße, ﬃ, 你好".as_bytes(), "STRASSE, FFI, 你好".as_bytes()),
        (b"", b""),
        // Nothing completes a code point that a datagram leaves incomplete.
        (b"ab\xc3", b"AB\xc3"),
        (b"a\xffb", b"A\xffB"),
    ];
    for (said, answer) in cases {
        assert_eq!(ask(&inet, served.udp(0), said).0, answer);
        assert_eq!(unix.ask(&served.addresses[1], said), answer);
    }
    served.stop();
}

#[test]
fn time_answers_with_the_local_time_and_what_it_was_sent() {
    let path = socket_path("time");
    let served =
        serve(Limits::default(), [("time", udp("127.0.0.1:0")), ("time", Address::UnixDatagram(path))]);
    let (inet, unix) = (client("127.0.0.1:0"), UnixClient::named("time-client"));
    for said in [&b"hello"[..], b"", b"\xff\x00\n"] {
        for over_unix in [false, true] {
            let before = jiff::Zoned::now();
            let answer = if over_unix {
                unix.ask(&served.addresses[1], said)
            } else {
                ask(&inet, served.udp(0), said).0
            };
            let after = jiff::Zoned::now();
            // A second or two may have begun meanwhile.
            let seconds = after.timestamp().as_second() - before.timestamp().as_second();
            let told = (0..=seconds).any(|second| {
                let time = &before + jiff::Span::new().seconds(second);
                answer == [time.strftime("[%a %b %e %H:%M:%S %Y]").to_string().as_bytes(), said].concat()
            });
            assert!(told, "{:?} at {before}", String::from_utf8_lossy(&answer));
        }
    }
    served.stop();
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let mut wanted = vec![("echo", udp("0.0.0.0:0"))];
    if has_ipv6() {
        wanted.push(("echo", udp("[::]:0")));
    }
    let served = serve(Limits::default(), wanted);
    let client = client("0.0.0.0:0");
    for index in 0..served.addresses.len() {
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 9, 8, 7]] {
            let to = SocketAddr::from((ip, served.udp(index).port()));
            assert_eq!(ask(&client, to, b"who?"), (b"who?".to_vec(), to));
        }
    }
    if served.addresses.len() > 1 {
        let to = SocketAddr::from((Ipv6Addr::LOCALHOST, served.udp(1).port()));
        assert_eq!(ask(&self::client("[::]:0"), to, b"who?"), (b"who?".to_vec(), to));
    }
    served.stop();
}

#[test]
fn one_socket_for_both_families_shows_ipv4_peers_as_ipv4() {
    if !has_ipv6() {
        return;
    }
    let served = serve(Limits::default(), [("mirror", udp("[::]:0"))]);
    let port = served.udp(0).port();
    for (address, to) in
        [("127.0.0.1:0", IpAddr::from([127, 0, 0, 1])), ("[::1]:0", Ipv6Addr::LOCALHOST.into())]
    {
        let client = client(address);
        let (answer, _) = ask(&client, SocketAddr::new(to, port), b"");
        assert_eq!(String::from_utf8_lossy(&answer), client.local_addr().unwrap().to_string());
    }
    served.stop();
}

#[test]
fn unix_senders_are_answered_if_they_have_a_name() {
    let path = socket_path("names");
    let served = serve(Limits::default(), [("echo", Address::UnixDatagram(path.clone()))]);
    let address = &served.addresses[0];
    let named = UnixClient::named("names-client");
    let unnamed = UnixClient::new(UnixDatagram::unbound().unwrap(), None);
    let name = format!("tidewheel-{}", std::process::id());
    let name = unix::SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let not_a_file = UnixClient::new(UnixDatagram::bind_addr(&name).unwrap(), None);
    for bytes in [&b"hello"[..], b"", &[7; DATAGRAM_BYTES_MAX]] {
        unnamed.send(address, bytes);
        assert_eq!(named.ask(address, bytes), bytes);
        assert_eq!(not_a_file.ask(address, bytes), bytes);
    }
    assert_eq!(counted(&served.stop()), (9, 6, vec![("no_return_address", 3)]));
    assert!(!path.exists(), "the socket's file is removed");
}

#[test]
fn a_unix_receiver_that_does_not_read_holds_nobody_up() {
    let served = serve(Limits::default(), [("echo", Address::UnixDatagram(socket_path("full")))]);
    let address = &served.addresses[0];
    let (stopped, other) = (UnixClient::named("full-stopped"), UnixClient::named("full-other"));
    let asked = 200;
    for number in 0..asked {
        stopped.send(address, format!("{number}").as_bytes());
        assert_eq!(other.ask(address, b"and me?"), b"and me?");
    }
    // What the kernel had room for is there, in order; the rest was dropped and counted.
    stopped.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    let mut came = 0;
    while let Ok(len) = stopped.socket.recv(&mut buffer) {
        assert_eq!(String::from_utf8_lossy(&buffer[..len]), came.to_string());
        came += 1;
    }
    assert!(came > 0 && came < asked, "{came} answers came");
    stopped.socket.set_nonblocking(false).unwrap();
    assert_eq!(stopped.ask(address, b"again"), b"again");
    let dropped = asked - came;
    assert_eq!(counted(&served.stop()), (2 * asked + 1, asked + came + 1, vec![("send_failed", dropped)]));
}

#[test]
fn a_unix_receiver_that_is_gone_is_counted_and_the_next_one_served() {
    let mut reactor = Reactor::new(Limits::default()).unwrap();
    let address = listen(&mut reactor, "echo", &Address::UnixDatagram(socket_path("gone")));
    let gone = UnixClient::named("gone-client");
    gone.send(&address, b"anybody?");
    drop(gone);
    let here = UnixClient::named("gone-here");
    here.send(&address, b"here");
    reactor.turn(Some(PATIENCE)).unwrap();
    assert_eq!(here.receive(), b"here");
    assert_eq!(counted(reactor.metrics()), (2, 1, vec![("send_failed", 1)]));
}

#[test]
fn a_thousand_datagrams_are_each_answered_once_and_in_order() {
    let served = serve(Limits::default(), [("echo", udp("127.0.0.1:0"))]);
    let clients: Vec<_> = (0..4).map(|_| client("127.0.0.1:0")).collect();
    let mut buffer = [0; 64];
    // In rounds that fit the kernel's smallest buffers, so that it drops none.
    for round in 0..10_u32 {
        for number in 0..25_u32 {
            for client in &clients {
                client.send_to(&(round * 25 + number).to_be_bytes(), served.udp(0)).unwrap();
            }
        }
        for number in 0..25_u32 {
            for client in &clients {
                let len = client.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..len], (round * 25 + number).to_be_bytes());
            }
        }
    }
    clients.iter().for_each(assert_nothing_came);
    assert_eq!(counted(&served.stop()), (1000, 1000, vec![]));
}

#[test]
fn answers_in_a_row_to_one_peer_are_a_datagram_each_whatever_their_sizes() {
    // What goes out as one message, or nearly: alike, the last one shorter, longer, empty, more than one message holds.
    let alike = |count, len| vec![len; count];
    let rows = [
        alike(60, 64),
        [alike(5, 100), vec![40], alike(5, 100)].concat(),
        vec![1, 2, 3, 2, 1, 0, 0, 1, 1, 0],
        alike(50, 1400),
        alike(7, 20_000),
        alike(2, 60_000),
        vec![DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX],
    ];
    for listener in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        if listener.starts_with('[') && !has_ipv6() {
            continue;
        }
        let mut reactor = Reactor::new(Limits::default()).unwrap();
        let Address::Udp(address) = listen(&mut reactor, "echo", &udp(listener)) else { unreachable!() };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        let clients = [client("127.0.0.1:0"), client("127.0.0.1:0")];
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
        for row in &rows {
            let requests: Vec<Vec<u8>> = (0_u8..).zip(row).map(|(number, &len)| vec![number; len]).collect();
            for client in &clients {
                requests
                    .iter()
                    .for_each(|request| assert_eq!(client.send_to(request, address).unwrap(), request.len()));
            }
            let asked = counted(reactor.metrics()).0 + 2 * requests.len() as u64;
            while counted(reactor.metrics()).1 < asked {
                reactor.turn(Some(PATIENCE)).unwrap();
            }
            for client in &clients {
                for (number, request) in requests.iter().enumerate() {
                    let (len, from) = client.recv_from(&mut buffer).unwrap();
                    assert_eq!(from, address);
                    assert!(buffer[..len] == request[..], "answer {number} of {row:?} on {listener}");
                }
            }
        }
        clients.iter().for_each(assert_nothing_came);
    }
}

#[test]
fn what_came_at_once_is_taken_in_batches_up_to_the_turns_budget() {
    /// A receive call brings at most so many.
    const BATCH_MAX: usize = 64;
    let budget = 4 * BATCH_MAX;
    let mut reactor = Reactor::new(with!(Limits::default(), datagrams_per_turn = budget)).unwrap();
    let Address::Udp(address) = listen(&mut reactor, "echo", &udp("127.0.0.1:0")) else { unreachable!() };
    let clients: Vec<_> = (0..4).map(|_| client("127.0.0.1:0")).collect();
    for (sent, turns) in [(1, 1), (BATCH_MAX - 1, 1), (BATCH_MAX + 1, 1), (budget - 1, 1), (budget + 40, 2)] {
        let before = counted(reactor.metrics());
        for number in 0..sent {
            clients[number % 4].send_to(&number.to_be_bytes(), address).unwrap();
        }
        for _ in 0..turns {
            reactor.turn(Some(PATIENCE)).unwrap();
        }
        let (came, left, dropped) = counted(reactor.metrics());
        assert_eq!((came - before.0, left - before.1, dropped), (sent as u64, sent as u64, vec![]));
        for number in 0..sent {
            let mut buffer = [0; 64];
            let len = clients[number % 4].recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], number.to_be_bytes());
        }
    }
    // Batches that were exactly full leave one look more to take, and then there is nothing to do.
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_timeout(), None);
}

#[test]
fn an_answer_that_fits_no_datagram_is_dropped_and_counted() {
    let served = serve(Limits::default(), [("uppercase", udp("127.0.0.1:0")), ("time", udp("127.0.0.1:0"))]);
    let client = client("127.0.0.1:0");
    client.send_to("ΐ".repeat(30_000).as_bytes(), served.udp(0)).unwrap();
    assert_eq!(ask(&client, served.udp(0), b"marker").0, b"MARKER");
    let time_len = "[Sat Nov 21 04:05:06 2026]".len();
    client.send_to(&[b'x'; DATAGRAM_BYTES_MAX], served.udp(1)).unwrap();
    let largest = [b'x'; DATAGRAM_BYTES_MAX];
    assert_eq!(ask(&client, served.udp(1), &largest[time_len..]).0.len(), DATAGRAM_BYTES_MAX);
    assert_nothing_came(&client);
    assert_eq!(counted(&served.stop()), (4, 2, vec![("too_large", 2)]));
}

#[test]
fn a_datagram_longer_than_the_buffer_is_dropped_and_counted() {
    let served = serve(Limits::default(), [("echo", Address::UnixDatagram(socket_path("long")))]);
    let client = UnixClient::named("long-client");
    client.send(&served.addresses[0], &[1; 70_000]);
    assert_eq!(client.ask(&served.addresses[0], b"marker"), b"marker");
    assert_eq!(counted(&served.stop()), (2, 1, vec![("truncated", 1)]));
}

#[test]
fn datagrams_to_broadcast_are_not_answered() {
    let mut wanted = vec![("echo", udp("0.0.0.0:0")), ("echo", udp("127.255.255.255:0"))];
    if has_ipv6() {
        wanted.push(("echo", udp("[::]:0")));
    }
    let served = serve(Limits::default(), wanted);
    let client = client("127.0.0.1:0");
    client.set_broadcast(true).unwrap();
    for index in 0..served.addresses.len() {
        let port = served.udp(index).port();
        client.send_to(b"everybody?", (Ipv4Addr::new(127, 255, 255, 255), port)).unwrap();
        if !served.udp(index).ip().is_unspecified() {
            // Nothing reaches this one that could be answered, so nothing shows when it has been served.
            let metrics = || served.remote.metrics(PATIENCE).expect("the reactor turns");
            while metrics().datagrams_in < 3 {}
            continue;
        }
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(ask(&client, to, b"you?"), (b"you?".to_vec(), to));
    }
    assert_nothing_came(&client);
    let sockets = served.addresses.len() as u64;
    assert_eq!(counted(&served.stop()), (2 * sockets - 1, sockets - 1, vec![("to_many", sockets)]));
}

#[test]
fn ports_of_the_system_are_not_answered() {
    let bound = (512..1024).rev().find_map(|port| match UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        bound => Some(bound),
    });
    let Some(Ok(system)) = bound else {
        return skip("needs root, for a port below 1024");
    };
    let served = serve(Limits::default(), [("echo", udp("127.0.0.1:0"))]);
    let client = client("127.0.0.1:0");
    system.send_to(b"a service's answer", served.udp(0)).unwrap();
    assert_eq!(ask(&client, served.udp(0), b"a question").0, b"a question");
    assert_nothing_came(&system);
    assert_eq!(counted(&served.stop()), (2, 1, vec![("loop", 1)]));
}

/// Sends a UDP datagram with any source address, which only root may.
fn forge(from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let udp_len = (8 + bytes.len()) as u16;
    // The kernel fills in the header's length and checksum; the checksum of UDP may be 0.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend([from.port(), to.port(), udp_len, 0].iter().flat_map(|field| field.to_be_bytes()));
    packet.extend(bytes);
    raw.send_to(&packet, &SocketAddr::from(to).into())?;
    Ok(())
}

#[test]
fn two_services_are_never_made_to_answer_each_other() {
    let addresses = ["127.0.0.1:0", "127.0.0.2:0", "0.0.0.0:0", "0.0.0.0:0"];
    let served = serve(Limits::default(), addresses.map(|address| ("echo", udp(address))));
    let v4 = |ip: [u8; 4], index: usize| SocketAddrV4::new(ip.into(), served.udp(index).port());
    let spoofs = [
        // As if from the other service, from itself, and from addresses that a wildcard stands for.
        (v4([127, 0, 0, 2], 1), v4([127, 0, 0, 1], 0)),
        (v4([127, 0, 0, 1], 0), v4([127, 0, 0, 1], 0)),
        (v4([127, 0, 0, 5], 3), v4([127, 0, 0, 6], 2)),
        (v4([127, 0, 0, 5], 2), v4([127, 0, 0, 1], 0)),
    ];
    let client = client("0.0.0.0:0");
    for (from, to) in spoofs {
        match forge(from, to, b"loop") {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return skip("needs root, to forge a source address");
            }
            Err(error) => panic!("{error}"),
        }
        // One answer would have been a datagram to the other service, before this one.
        for asked in [SocketAddr::from(to), SocketAddr::from(from)] {
            assert_eq!(ask(&client, asked, b"marker"), (b"marker".to_vec(), asked));
        }
    }
    assert_eq!(counted(&served.stop()), (12, 8, vec![("loop", 4)]));
}

#[test]
fn a_source_port_that_is_one_of_ours_is_not_answered_wherever_it_is() {
    let served = serve(Limits::default(), [("echo", udp("127.0.0.1:0")), ("time", udp("127.0.0.1:0"))]);
    let honest = client("127.0.0.1:0");
    for port in [served.udp(0).port(), served.udp(1).port()] {
        let sharing = client(&format!("127.0.0.2:{port}"));
        sharing.send_to(b"hello", served.udp(0)).unwrap();
        assert_eq!(ask(&honest, served.udp(0), b"marker").0, b"marker");
        assert_nothing_came(&sharing);
    }
    assert_eq!(counted(&served.stop()), (4, 2, vec![("loop", 2)]));
}

/// Two servers with the same ports, as on two machines, each with a port for echo and one for time.
fn two_servers_alike() -> [Served; 2] {
    for _ in 0..100 {
        let one = serve(Limits::default(), [("echo", udp("127.0.0.1:0")), ("time", udp("127.0.0.1:0"))]);
        let there = [0, 1].map(|index| SocketAddr::from(([127, 0, 0, 2], one.udp(index).port())));
        // Another test may have one of these ports at every address.
        if there.iter().all(|address| UdpSocket::bind(address).is_ok()) {
            let other = serve(
                Limits::default(),
                [("echo", Address::Udp(there[0])), ("time", Address::Udp(there[1]))],
            );
            return [one, other];
        }
        one.stop();
    }
    panic!("no port is free at two addresses");
}

#[test]
fn one_forged_datagram_begins_no_loop_between_two_servers_with_the_same_ports() {
    // From the port for echo or for time of one server to that for echo or for time of the other.
    for (from, to) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
        let [one, other] = two_servers_alike();
        let v4 = |address| if let SocketAddr::V4(address) = address { address } else { unreachable!() };
        match forge(v4(other.udp(from)), v4(one.udp(to)), b"loop") {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return skip("needs root, to forge a source address");
            }
            Err(error) => panic!("{error}"),
        }
        let client = client("0.0.0.0:0");
        for _ in 0..20 {
            for server in [&one, &other] {
                assert_eq!(ask(&client, server.udp(0), b"marker").0, b"marker");
            }
        }
        let came = counted(&one.stop()).0 + counted(&other.stop()).0;
        assert_eq!(came, 40 + 1, "the forged datagram was answered");
    }
}

#[test]
fn a_prefix_without_budget_is_not_answered_but_loopback_is() {
    // Nothing is sent: connecting only chooses the address that packets to elsewhere would leave from.
    let chosen = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Some(own) = chosen.ok().filter(|own| !own.ip().is_loopback() && !own.ip().is_unspecified()) else {
        return skip("needs a network beside loopback");
    };
    let limits = with!(Limits::default(), udp_replies_per_prefix = Some(0));
    let served = serve(limits, [("echo", udp("0.0.0.0:0"))]);
    let (elsewhere, here) = (client(&format!("{}:0", own.ip())), client("127.0.0.1:0"));
    let port = served.udp(0).port();
    for _ in 0..20 {
        elsewhere.send_to(b"me?", (own.ip(), port)).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(ask(&here, to, b"me!").0, b"me!");
    }
    assert_nothing_came(&elsewhere);
    assert_eq!(counted(&served.stop()), (40, 20, vec![("prefix_budget", 20)]));
}

#[test]
fn answers_to_ports_that_are_closed_disturb_nobody() {
    let mut reactor = Reactor::new(Limits::default()).unwrap();
    let Address::Udp(address) = listen(&mut reactor, "echo", &udp("127.0.0.1:0")) else { unreachable!() };
    let here = client("127.0.0.1:0");
    for _ in 0..100 {
        client("127.0.0.1:0").send_to(b"gone", address).unwrap();
        here.send_to(b"here", address).unwrap();
        reactor.turn(Some(PATIENCE)).unwrap();
        assert_eq!(here.recv(&mut [0; 64]).unwrap(), 4);
    }
    assert_eq!(counted(reactor.metrics()), (200, 200, vec![]));
}
