//! Datagrams from a network whose sources are forged: two network namespaces, the server in one and everybody else in the
//! other, and a cable between them. Every packet that the server sends crosses the cable and is counted behind it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tidewheel::Limits;
use tidewheel::metrics::DropCause;

use super::{Served, ask, client, counted, forge, serve, udp};
use crate::harness::now;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Its end of the cable is the first address of this network, which is all its own.
const EVERYBODY: &str = "10.9.0.2";
/// More networks whose addresses are all everybody's.
const ELSEWHERE: &str = "10.20.0.0/16";

/// A network namespace. It lives as long as the shell that was started in it.
struct Namespace(Child);

impl Namespace {
    /// A new one, if this user may make one; says so if not.
    fn new() -> Option<Namespace> {
        let shell = Command::new("unshare")
            .args(["-n", "sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let made = shell.ok().map(Namespace).filter(|namespace| namespace.has("ip link set lo up"));
        if made.is_none() {
            eprintln!("skipped: a network namespace needs root, unshare and ip");
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

/// A server at one end of the cable. The test's thread is everybody at the other end.
struct Network {
    served: Served,
    /// Hears every datagram of UDP that crosses the cable.
    wire: Socket,
    _namespaces: [Namespace; 2],
}

impl Network {
    fn new(limits: Limits) -> Option<Network> {
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        inside.run(&format!(
            "ip link add in type veth peer name out netns {}
             ip addr add {SERVER}/24 broadcast 10.9.0.255 dev in
             ip link set in up
             ip route add {ELSEWHERE} via {EVERYBODY}",
            outside.0.id()
        ));
        outside.run(&format!(
            "ip addr add {EVERYBODY}/24 broadcast 10.9.0.255 dev out
             ip link set out up
             ip route add local {ELSEWHERE} dev lo
             ip route add 224.0.0.0/4 dev out"
        ));
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
    let service = std::net::UdpSocket::bind((everybody, 7)).unwrap();
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
    let limits = Limits { udp_replies_per_prefix: Some(BUDGET), udp_prefixes_max: 4, ..Limits::default() };
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
fn more_prefixes_than_are_counted_are_not_answered() {
    const PREFIXES: usize = 8;
    let limits = Limits { udp_prefixes_max: PREFIXES, ..Limits::default() };
    let Some(network) = Network::new(limits) else { return };
    for prefix in 0..200 {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 20, prefix, 1), 4000);
        forge(from, network.server(0), b"one of many").unwrap();
    }
    network.served.await_datagrams(200);
    let (came, answered, dropped) = counted(&network.served.remote.metrics(super::PATIENCE).unwrap());
    assert_eq!((came, network.crossed()), (200, answered));
    assert_eq!(dropped, [("prefix_table", 200 - answered)]);
    // The table begins anew with every second.
    assert!((PREFIXES as u64..200).contains(&answered), "{answered} answers");
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
