//! Datagrams from a network whose sources are forged: two network namespaces, the server in one and everybody else in the
//! other, and a cable between them. Every packet that the server sends crosses the cable and is counted behind it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tidewheel::{Address, DropCause, Limits, Reactor};

use super::{Served, ask, client, counted, forge, listen, serve, udp};
use crate::harness::skipped::skip;
use crate::harness::{now, with};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Its end of the cable is the first address of this network, which is all its own.
const EVERYBODY: &str = "10.9.0.2";
/// The ports that the system gives everybody. The server's own are not among them: they are not answered.
const CLIENT_PORTS: &str = "20000 29999";
/// More networks whose addresses are all everybody's.
const ELSEWHERE: &str = "10.20.0.0/16";

/// A network namespace. It lives as long as the shell that was started in it.
struct Namespace(Child);

impl Namespace {
    /// A new one, if this user may make one; skips the calling test if not.
    #[track_caller]
    fn new() -> Option<Namespace> {
        let shell = Command::new("unshare")
            .args(["-n", "sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let made = shell.ok().map(Namespace).filter(|namespace| namespace.has("ip link set lo up"));
        if made.is_none() {
            skip(
                "needs root and a network namespace, with unshare and ip: apt-get install util-linux iproute2",
            );
        }
        made
    }

    /// Runs commands in it, and says whether all of them succeeded.
    fn has(&self, commands: &str) -> bool {
        let (Some(mut into), Some(from)) = (self.0.stdin.as_ref(), self.0.stdout.as_ref()) else {
            return false;
        };
        let from = from.as_fd().try_clone_to_owned().unwrap();
        let mut line = String::new();
        into.write_all(format!("{commands}\necho done\n").as_bytes()).is_ok()
            && BufReader::new(File::from(from)).read_line(&mut line).is_ok()
            && line == "done\n"
    }

    fn run(&self, commands: &str) {
        assert!(self.has(commands), "{commands}");
    }

    /// Moves the calling thread into it, and those that it starts from now on.
    fn enter(&self) {
        let link = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The shell ends with its input, unless a command has failed before.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Two network namespaces with a cable between them: that of the server, and that of everybody.
fn cable() -> Option<[Namespace; 2]> {
    let (inside, outside) = (Namespace::new()?, Namespace::new()?);
    inside.run(&format!(
        "ip link add in type veth peer name out netns {}
         ip addr add {SERVER}/24 broadcast 10.9.0.255 dev in
         ip link set in up
         ip route add {ELSEWHERE} via {EVERYBODY}",
        outside.0.id()
    ));
    outside.run(&format!(
        "echo {CLIENT_PORTS} > /proc/sys/net/ipv4/ip_local_port_range
         ip addr add {EVERYBODY}/24 broadcast 10.9.0.255 dev out
         ip link set out up
         ip route add local {ELSEWHERE} dev lo
         ip route add 224.0.0.0/4 dev out"
    ));
    Some([inside, outside])
}

/// A server at one end of the cable. The test's thread is everybody at the other end.
struct Network {
    served: Served,
    /// Hears every datagram of UDP that crosses the cable.
    wire: Socket,
    _namespaces: [Namespace; 2],
}

impl Network {
    fn new(limits: Limits) -> Option<Network> {
        let [inside, outside] = cable()?;
        inside.enter();
        let served = serve(limits, [("echo", udp("0.0.0.0:0")), ("echo", udp("0.0.0.0:0"))]);
        outside.enter();
        let wire = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
        wire.set_recv_buffer_size(64 << 20).unwrap();
        wire.set_nonblocking(true).unwrap();
        Some(Network { served, wire, _namespaces: [inside, outside] })
    }

    fn server(&self, index: usize) -> SocketAddrV4 {
        SocketAddrV4::new(SERVER, self.served.udp(index).port())
    }

    /// Asks an honest question, which is answered. Whatever was sent before has been seen to by then, and its answer
    /// would be there.
    fn ask_honestly(&self) {
        let to = self.server(0).into();
        assert_eq!(ask(&client(&format!("{EVERYBODY}:0")), to, b"marker"), (b"marker".to_vec(), to));
    }

    /// How many datagrams the server has sent across the cable since that was last asked.
    fn crossed(&self) -> u64 {
        const SOURCE: std::ops::Range<usize> = 12..16;
        let mut packet = [0; 128];
        let mut count = 0;
        while (&self.wire).read(&mut packet).is_ok() {
            // What everybody sends to everybody is heard here, too.
            count += u64::from(packet[SOURCE] == SERVER.octets());
        }
        count
    }
}

fn of(served: Served) -> (u64, u64, Vec<(&'static str, u64)>) {
    counted(&served.stop())
}

#[test]
fn whatever_a_source_is_forged_to_be_there_is_no_loop() {
    let Some(network) = Network::new(Limits::default()) else { return };
    let everybody: Ipv4Addr = EVERYBODY.parse().unwrap();
    // A service that answers whatever comes would go on for ever.
    let service = UdpSocket::bind((everybody, 7)).unwrap();
    network.ask_honestly();
    assert_eq!(network.crossed(), 1);
    let spoofs = [(everybody, 7), (everybody, 1023), (Ipv4Addr::new(10, 20, 3, 4), 53)];
    for (ip, port) in spoofs {
        forge(SocketAddrV4::new(ip, port), network.server(0), b"spoof").unwrap();
        network.ask_honestly();
        assert_eq!(network.crossed(), 1, "{ip}:{port} was answered");
    }
    // Nothing came to the service, so it has nothing to answer.
    service.set_nonblocking(true).unwrap();
    assert!(service.recv(&mut [0; 16]).is_err());
    // To everybody: the broadcast addresses of the network and of every network, and the group of all hosts.
    let asker = client(&format!("{EVERYBODY}:0"));
    asker.set_broadcast(true).unwrap();
    let groups = [[10, 9, 0, 255], [255, 255, 255, 255], [224, 0, 0, 1]];
    for ip in groups {
        let to = SocketAddrV4::new(ip.into(), network.server(0).port());
        // The route to the limited broadcast is the cable, which only a bound socket knows.
        socket2::SockRef::from(&asker).bind_device(Some(b"out")).unwrap();
        asker.send_to(b"everybody?", to).unwrap();
        network.ask_honestly();
        assert_eq!(network.crossed(), 1, "what was sent to {} was answered", to.ip());
    }
    let honest = (1 + spoofs.len() + groups.len()) as u64;
    let dropped = vec![("loop", spoofs.len() as u64), ("to_many", groups.len() as u64)];
    assert_eq!(of(network.served), (honest + 6, honest, dropped));
}

/// Forges so many questions from all addresses of one /24, then one from another, and checks the counters against what has
/// crossed the cable. Returns how many were answered, and how long it took.
fn flood(network: &Network, prefix: u8, questions: u32, len: usize) -> (u64, f64) {
    let begun = now();
    let bytes = vec![b'q'; len];
    let before = network.served.remote.metrics(super::PATIENCE).unwrap();
    for number in 0..questions {
        let from =
            SocketAddrV4::new(Ipv4Addr::new(10, 20, prefix, number as u8), 4000 + (number >> 8) as u16);
        forge(from, network.server(0), &bytes).unwrap();
        // No faster than they are taken, so that the kernel drops none.
        if number % 64 == 63 {
            let done = u64::from(number) + 1;
            network.served.await_datagrams(before.datagrams_in + done);
        }
    }
    network.served.await_datagrams(before.datagrams_in + u64::from(questions));
    let seconds = begun.elapsed().as_secs_f64();
    let after = network.served.remote.metrics(super::PATIENCE).unwrap();
    let answered = after.datagrams_out - before.datagrams_out;
    let refused = after.dropped_for(DropCause::PrefixBudget) - before.dropped_for(DropCause::PrefixBudget);
    assert_eq!(answered + refused, u64::from(questions));
    assert_eq!(network.crossed(), answered);
    (answered, seconds)
}

#[test]
fn a_prefix_has_its_budget_however_many_its_addresses_and_no_other_pays_for_it() {
    const BUDGET: u32 = 50;
    let limits = with!(Limits::default(), udp_replies_per_prefix = Some(BUDGET));
    let Some(network) = Network::new(limits) else { return };
    let (answered, seconds) = flood(&network, 1, 1024, 20);
    let begun = seconds.ceil() as u64 + 1;
    assert!((1..=begun * u64::from(BUDGET)).contains(&answered), "{answered} answers in {seconds} s");
    assert!(answered < 1024, "nothing was refused in {seconds} s");
    // The other prefix has a budget of its own.
    network.ask_honestly();
    assert_eq!(network.crossed(), 1);
    // The smallest and the largest datagram, the latter in fragments. Nobody listens at the forged addresses: the
    // answers' failures come back.
    let asker = client(&format!("{EVERYBODY}:0"));
    for len in [0, 65_507] {
        let bytes = vec![b'x'; len];
        let to = network.server(0).into();
        assert_eq!(ask(&asker, to, &bytes), (bytes, to));
    }
    assert_eq!(network.crossed(), 2);
    let (came, answered, dropped) = of(network.served);
    assert_eq!(came, answered + dropped.iter().map(|&(_, count)| count).sum::<u64>());
    assert!(dropped.iter().all(|&(cause, _)| cause == "prefix_budget"), "{dropped:?}");
}

#[test]
fn more_prefixes_than_are_counted_share_a_budget_and_those_who_were_there_keep_theirs() {
    const BUDGET: u32 = 100;
    let limits = with!(Limits::default(), udp_prefixes_max = 3, udp_replies_per_prefix = Some(BUDGET));
    let Some(network) = Network::new(limits) else { return };
    network.ask_honestly();
    let mut forged = 0;
    for round in 0..5_u8 {
        for prefix in 0..200 {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 20, prefix, round), 4000);
            forge(from, network.server(0), b"one of many").unwrap();
            forged += 1;
        }
        // Whatever the forged ones get.
        network.ask_honestly();
    }
    let (came, answered, dropped) = counted(&network.served.remote.metrics(super::PATIENCE).unwrap());
    assert_eq!((came, network.crossed()), (forged + 6, answered));
    assert_eq!(dropped, [("prefix_table", forged + 6 - answered)]);
    // Two counts of their own, and the shared one, which begins anew with every second.
    assert!(answered >= 6 + u64::from(BUDGET), "{answered} answers");
}

#[test]
fn a_newcomer_is_answered_in_the_middle_of_a_storm_of_forged_prefixes() {
    // Three rows, of which none gets as many in all as it may answer in one second.
    let limits = with!(Limits::default(), udp_prefixes_max = 8);
    let Some(network) = Network::new(limits) else { return };
    for newcomer in 200..205_u8 {
        for prefix in 0..200 {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 20, prefix, newcomer), 4000);
            forge(from, network.server(0), b"one of many").unwrap();
        }
        // All of this network is local, and every address in it can be bound to.
        let to = network.server(0).into();
        let asker = client(&format!("10.20.{newcomer}.1:0"));
        assert_eq!(ask(&asker, to, b"new here"), (b"new here".to_vec(), to));
    }
    network.served.stop();
}

#[test]
fn the_addresses_of_one_ipv6_network_have_one_budget_and_one_limit() {
    const MAX: usize = 3;
    let Some(namespace) = Namespace::new() else { return };
    let hosts = [1, 2, 3, 4].map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host));
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
    for address in hosts.iter().chain([&neighbour]) {
        if !namespace.has(&format!("ip addr add {address}/64 nodad dev lo")) {
            return skip("needs IPv6 in a network namespace");
        }
    }
    namespace.enter();
    // The kernel makes the routes in its own time.
    for host in hosts.iter().chain([&neighbour]) {
        crate::harness::await_that("it is routed", || {
            UdpSocket::bind((*host, 0)).and_then(|socket| socket.connect((neighbour, 9))).ok()
        });
    }
    let limits = with!(
        Limits::default(),
        udp_replies_per_prefix = Some(MAX as u32),
        connections_per_ip_max = Some(MAX)
    );
    let any = |address: &str| address.parse().unwrap();
    let wanted = [("echo", Address::Udp(any("[::]:0"))), ("echo", Address::Tcp(any("[::]:0")))];
    let served = serve(limits, wanted);
    let Address::Tcp(stream) = served.addresses[1] else { unreachable!() };

    // Of each network come more than the limit, from its addresses in turn.
    let mut streams = Vec::new();
    for host in hosts.iter().cycle().take(2 * MAX).chain([&neighbour; 2 * MAX]) {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((*host, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from((neighbour, stream.port())).into()).unwrap();
        streams.push(socket);
    }
    crate::harness::await_that("they have come", || {
        let metrics = served.remote.metrics(super::PATIENCE).unwrap();
        let come = metrics.connections_accepted + metrics.connections_refused;
        (come == streams.len() as u64).then_some(())
    });
    let metrics = served.remote.metrics(super::PATIENCE).unwrap();
    assert_eq!(metrics.connections_accepted, 2 * MAX as u64);

    // Each second of the server's begins a new budget: of so many that come at once, at most two.
    for network in [&hosts[..], &[neighbour]] {
        let before = served.remote.metrics(super::PATIENCE).unwrap();
        for host in network.iter().cycle().take(20) {
            let asker = client(&format!("[{host}]:0"));
            asker.send_to(b"budget?", (neighbour, served.udp(0).port())).unwrap();
        }
        served.await_datagrams(before.datagrams_in + 20);
        let after = served.remote.metrics(super::PATIENCE).unwrap();
        let answered = after.datagrams_out - before.datagrams_out;
        assert!(answered == MAX as u64 || answered == 2 * MAX as u64, "{answered} answers");
    }
    served.stop();
}

/// A server that the test turns, at one end of the cable, and the addresses of IP packets that it sends, with their lengths.
struct Paths {
    reactor: Reactor,
    server: SocketAddrV4,
    packets: Socket,
    inside: Namespace,
    _outside: Namespace,
}

impl Paths {
    /// The way to [`ELSEWHERE`] takes packets of so many bytes; that to [`EVERYBODY`] takes 1,500.
    fn new(elsewhere_bytes_max: u32) -> Option<Paths> {
        let [inside, outside] = cable()?;
        inside.run(&format!("ip route change {ELSEWHERE} via {EVERYBODY} mtu {elsewhere_bytes_max}"));
        inside.enter();
        let limits = with!(Limits::default(), udp_replies_per_prefix = None);
        let mut reactor = Reactor::new(limits).unwrap();
        let Address::Udp(SocketAddr::V4(at)) = listen(&mut reactor, "echo", &udp("0.0.0.0:0")) else {
            unreachable!()
        };
        outside.enter();
        let ip_packets = Protocol::from(i32::from(0x0800_u16.to_be()));
        let packets = Socket::new(Domain::PACKET, Type::DGRAM, Some(ip_packets)).unwrap();
        packets.set_recv_buffer_size(64 << 20).unwrap();
        packets.set_nonblocking(true).unwrap();
        let server = SocketAddrV4::new(SERVER, at.port());
        Some(Paths { reactor, server, packets, inside, _outside: outside })
    }

    /// Asks so many questions of so many bytes at once and awaits the answers. Returns the longest packet that has brought
    /// one. The kernel of the server cuts a message into datagrams where it leaves the machine, which a cable to another
    /// namespace is not.
    fn ask_at_once(&mut self, asker: &UdpSocket, questions: u64, len: usize) -> usize {
        let before = counted(self.reactor.metrics());
        for number in 0..questions {
            asker.send_to(&vec![number as u8; len], self.server).unwrap();
        }
        while counted(self.reactor.metrics()).0 < before.0 + questions {
            self.reactor.turn(Some(super::PATIENCE)).unwrap();
        }
        let mut answer = vec![0; len + 1];
        for number in 0..questions {
            assert_eq!(asker.recv(&mut answer).unwrap(), len);
            assert!(answer[..len].iter().all(|&byte| byte == number as u8), "answer {number}");
        }
        let (mut packet, mut longest) = (vec![0; 1 << 16], 0);
        while let Ok(count) = (&self.packets).read(&mut packet) {
            if packet[12..16] == SERVER.octets() {
                longest = longest.max(count);
            }
        }
        longest
    }

    /// Asks until answers have come in one packet of several datagrams.
    #[track_caller]
    fn await_long_packet(&mut self, asker: &UdpSocket, len: usize) {
        crate::harness::await_that("several answers leave as one message", || {
            (self.ask_at_once(asker, 20, len) > 2 * len).then_some(())
        });
    }
}

#[test]
fn a_path_for_small_packets_makes_those_of_others_no_smaller() {
    const SMALL: u32 = 700;
    let Some(mut paths) = Paths::new(SMALL) else { return };
    let here = client(&format!("{EVERYBODY}:0"));
    let elsewhere = client("10.20.0.1:0");
    paths.await_long_packet(&here, 1200);
    // Each of these is larger than the path takes, so it travels in fragments. Often enough that some are of one turn.
    for len in [673, 1000, 1200, 1472] {
        for _ in 0..10 {
            let longest = paths.ask_at_once(&elsewhere, 20, len);
            assert!(longest <= SMALL as usize, "a packet of {longest} bytes");
        }
        // One whose datagrams are as large leaves in one message as before.
        paths.await_long_packet(&here, len);
    }
    // So do small ones to the small path.
    paths.await_long_packet(&elsewhere, 672);
    // Many such paths.
    for host in 0..200 {
        let asker = client(&format!("10.20.1.{host}:0"));
        assert!(paths.ask_at_once(&asker, 3, 1000) <= SMALL as usize);
    }
    paths.await_long_packet(&here, 1472);
    paths.await_long_packet(&elsewhere, 100);
    let (came, left, dropped) = counted(paths.reactor.metrics());
    assert_eq!((came, dropped), (left, vec![]));
}

#[test]
fn a_path_that_shrinks_costs_no_answer() {
    let Some(mut paths) = Paths::new(1500) else { return };
    let elsewhere = client("10.20.0.1:0");
    paths.await_long_packet(&elsewhere, 1400);
    for mtu in [1400, 1000, 600] {
        paths.inside.run(&format!("ip route change {ELSEWHERE} via {EVERYBODY} mtu {mtu}"));
        for len in [1400, 900, 500] {
            for _ in 0..5 {
                paths.ask_at_once(&elsewhere, 20, len);
            }
        }
        paths.await_long_packet(&elsewhere, 500);
    }
    let (came, left, dropped) = counted(paths.reactor.metrics());
    assert_eq!((came, dropped), (left, vec![]));
}

#[test]
#[ignore = "long: a hundred thousand forged questions"]
fn a_hundred_thousand_forged_questions() {
    const QUESTIONS: u32 = 100_000;
    let Some(network) = Network::new(Limits::default()) else { return };
    for len in [20, 1400] {
        let (answered, seconds) = flood(&network, 1, QUESTIONS, len);
        println!(
            "row 19: {QUESTIONS} questions of {len} bytes from one forged prefix in {seconds:.1} s: {answered} answers, {:.0} in \
             a second",
            answered as f64 / seconds
        );
    }
    let everybody: Ipv4Addr = EVERYBODY.parse().unwrap();
    let mut answers = 0;
    for number in 0..QUESTIONS {
        forge(SocketAddrV4::new(everybody, 1 + (number % 1023) as u16), network.server(0), b"spoof").unwrap();
        if number % 64 == 63 {
            network.ask_honestly();
            answers += 1;
        }
    }
    network.ask_honestly();
    println!(
        "row 18: {QUESTIONS} questions as if from services: {} answers",
        network.crossed() - answers - 1
    );
    let dropped = network.served.stop().dropped_for(DropCause::Loop);
    println!("row 18: {dropped} of them were dropped for it");
}
