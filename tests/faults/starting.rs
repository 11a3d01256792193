//! Starts that the system refuses. Mistakes on the command line are shown in [`command_line`](crate::command_line).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::harness::program::{Server, tidewheel, tidewheel_through};
use crate::harness::skipped::skip;
use crate::harness::{Folder, PATIENCE, SetAtEnd};

/// What a start that is refused says: one line, and nothing has been announced.
#[track_caller]
fn refusal(command: Command) -> String {
    let mut server = Server::spawn(command);
    assert_eq!(server.out_line(), "", "it announced something");
    let err = server.rest_of_err();
    assert_eq!(server.wait().code(), Some(2), "{err}");
    assert_eq!(err.matches('\n').count(), 1, "{err}");
    assert!(err.starts_with("tidewheel: "), "{err}");
    err
}

#[test]
fn a_port_that_only_root_may_take_is_refused_with_its_address() {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim().parse::<u16>().is_ok_and(|lowest| lowest <= 7) {
        return skip("needs a port that only root may take: net.ipv4.ip_unprivileged_port_start is below 8");
    }
    let folder = Folder::new();
    let path = folder.path("echo");
    let unix = format!("echo=unix:{}", path.display());
    let args = ["serve", unix.as_str(), "echo=127.0.0.1:7"];
    // Root gives the right away; whoever is not root has not got it.
    let privileged = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    let can_drop = Command::new(privileged[0]).args(&privileged[1..]).arg("true").output();
    let command = match can_drop.is_ok_and(|output| output.status.success()) {
        true => tidewheel_through(&privileged, args),
        false if rustix::process::geteuid().is_root() => {
            return skip("needs setpriv: apt-get install util-linux");
        }
        false => tidewheel(args),
    };
    let line = refusal(command);
    assert!(line.contains("tcp://127.0.0.1:7"), "{line}");
    assert!(!path.exists(), "the unix socket was bound before the failure, and is left");
}

#[test]
fn a_folder_that_is_not_there_is_refused_with_its_path() {
    let folder = Folder::new();
    let path = folder.path("no/such/folder");
    let line = refusal(tidewheel(["serve".to_owned(), format!("echo=unix:{}", path.display())]));
    assert!(line.contains(&path.display().to_string()), "{line}");
}

#[test]
fn few_descriptors_are_made_use_of_and_too_few_are_refused() {
    for (limit, args) in (3..32)
        .chain([48, 64, 128, 256])
        .map(|limit| (limit, vec!["serve", "echo=:0"]))
        .chain([40, 64, 128].map(|limit| (limit, vec!["serve", "--reactors", "3", "echo=:0", "time=:0"])))
    {
        let start = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut server = Server::spawn(tidewheel_through(&["sh", "-c", &start], &args));
        let first = server.out_line();
        if first.is_empty() {
            let err = server.rest_of_err();
            assert_ne!(server.wait().code(), Some(0), "with {limit} descriptors: {err}");
            assert!(!err.contains("panicked"), "with {limit} descriptors: {err}");
            // With hardly any the program cannot even load its libraries.
            assert!(limit < 8 || err.contains(&format!("descriptors is {limit},")), "{err}");
            assert!(limit < 64, "it could serve some: {err}");
            continue;
        }
        server.listening.push(announced(&first));
        let mut server = server.ready();
        let told = server.err_line();
        let most = told.split_once("enough for ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let most: usize = most.unwrap_or_else(|| panic!("with {limit} descriptors it says only {told}"));
        if args.len() == 2 {
            assert!(2 * most + 32 >= limit, "with {limit} descriptors: {told}");
            // All of them are served at once.
            let mut streams: Vec<_> = (0..most).map(|_| server.tcp("echo")).collect();
            streams.iter_mut().for_each(|stream| crate::harness::ask(stream, b"hello", b"hello"));
        }
        server.stop();
    }
}

/// The service and the address of a line that announces them.
fn announced(line: &str) -> (String, String) {
    let (service, address) = line.strip_prefix("listening ").unwrap().split_once(' ').unwrap();
    (service.to_owned(), address.to_owned())
}

// ---- beside clients ----

/// What became of the connections of a client that tries again and again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tries {
    answered: usize,
    /// Established, and then reset or closed without an answer.
    lost: usize,
}

/// Connects again and again, without a pause, and asks whoever accepts, until it is told to stop.
fn try_again_and_again(address: SocketAddr, stop: &AtomicBool) -> Tries {
    let mut tries = Tries::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        // A port that nobody listens on may be the client's own: then it has connected to itself.
        if stream.local_addr().is_ok_and(|own| own == address) {
            continue;
        }
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 5];
        match stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)) {
            Ok(()) => tries.answered += 1,
            Err(error) => {
                assert!(error.kind() != ErrorKind::WouldBlock, "nobody answers");
                tries.lost += 1;
            }
        }
    }
    tries
}

/// A port that nobody listens on, outside of those that the system gives to others.
fn unused_address(number: u16) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + std::process::id() as u16 % 1000 * 10 + number));
    drop(TcpListener::bind(address).expect("nobody else uses this port"));
    address
}

/// Does something beside two clients that try to connect without a pause, and says what became of their connections.
fn beside_clients<T>(address: SocketAddr, start: impl FnOnce() -> T) -> (T, Tries) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = [(); 2].map(|()| scope.spawn(|| try_again_and_again(address, &stop)));
        let at_end = SetAtEnd(&stop);
        let started = start();
        drop(at_end);
        let mut all = Tries::default();
        for client in clients {
            let tries = client.join().expect("it only connects");
            all.answered += tries.answered;
            all.lost += tries.lost;
        }
        (started, all)
    })
}

/// Starts a server `starts` times at an address that clients try without a pause.
fn start_beside_clients(reactors: &str, starts: usize) -> Tries {
    let address = unused_address(reactors.parse().unwrap());
    let mut all = Tries::default();
    for _ in 0..starts {
        let args = ["--reactors", reactors, &format!("echo={address}"), "time=:0"];
        // The server ends after its clients: the end of a server is another matter.
        let (server, tries) = beside_clients(address, || Server::start(args));
        server.stop();
        all.answered += tries.answered;
        all.lost += tries.lost;
    }
    all
}

#[test]
fn a_start_resets_nobody() {
    for reactors in ["1", "2", "3"] {
        let tries = start_beside_clients(reactors, 10);
        assert_eq!(tries.lost, 0, "with --reactors {reactors}: {tries:?}");
    }
}

#[test]
#[ignore = "figures: a thousand starts beside clients"]
fn a_thousand_starts_reset_nobody() {
    for reactors in ["1", "2"] {
        let tries = start_beside_clients(reactors, 500);
        println!("500 starts with --reactors {reactors}: {tries:?}");
        assert_eq!(tries.lost, 0);
    }
}

#[test]
fn a_start_that_is_refused_accepts_nobody() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    for (number, reactors) in [(4, "1"), (5, "2")] {
        let address = unused_address(number);
        let (echo, busy) = (format!("echo={address}"), format!("uppercase={}", busy.local_addr().unwrap()));
        for _ in 0..10 {
            let args = ["serve", "--reactors", reactors, &echo, &busy];
            let (line, tries) = beside_clients(address, || refusal(tidewheel(args)));
            assert!(line.contains("another program listens there"), "{line}");
            assert_eq!(tries, Tries::default(), "with --reactors {reactors}");
        }
    }
}

/// A socket that shares its port with others of this user.
fn shared(kind: Type) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_address(kind == Type::STREAM).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(1).unwrap();
    }
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn a_port_that_others_share_is_busy_all_the_same() {
    let (_tcp, tcp) = shared(Type::STREAM);
    let (_udp, udp) = shared(Type::DGRAM);
    for reactors in ["1", "2"] {
        for busy in
            [format!("echo={tcp}"), format!("echo=udp://{udp}"), format!("echo=0.0.0.0:{}", tcp.port())]
        {
            let line = refusal(tidewheel(["serve", "--reactors", reactors, "echo=:0", &busy]));
            assert!(line.contains("another program listens there"), "{line}");
        }
    }
}

#[test]
fn of_servers_that_start_together_one_has_the_port() {
    for reactors in ["1", "2"] {
        for (number, transport) in [(6, "tcp"), (7, "udp")] {
            let address = unused_address(number);
            let echo = format!("echo={transport}://{address}");
            for _ in 0..5 {
                let args = ["serve", "--reactors", reactors, &echo];
                let both = [(); 2].map(|()| Server::spawn(tidewheel(args)));
                one_is_ready(both, "another program listens there").stop();
            }
        }
    }
}

/// Of servers that were started together, the one that serves; the others must have been refused in one line.
#[track_caller]
fn one_is_ready(servers: impl IntoIterator<Item = Server>, reason: &str) -> Server {
    let mut ready = Vec::new();
    for mut server in servers {
        if server.out_line().is_empty() {
            let err = server.rest_of_err();
            assert_eq!(server.wait().code(), Some(2), "{err}");
            assert!(err.contains(reason) && err.lines().count() == 1, "{err}");
        } else {
            assert_eq!(server.out_line(), "ready");
            ready.push(server);
        }
    }
    assert_eq!(ready.len(), 1, "so many serve");
    ready.remove(0)
}

#[test]
fn addresses_of_one_server_that_overlap_are_told_apart() {
    let address = unused_address(8);
    let port = address.port();
    for (one, other) in [
        (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")),
        (format!("0.0.0.0:{port}"), format!("[::]:{port}")),
        (format!("udp://[::1]:{port}"), format!("udp://[::]:{port}")),
        (format!("127.0.0.1:{port}"), format!("[::ffff:127.0.0.1]:{port}")),
    ] {
        let args = ["serve".to_owned(), format!("echo={one}"), format!("uppercase={other}")];
        let line = refusal(tidewheel(args));
        assert!(line.contains("overlaps with") || line.contains("is given twice"), "{line}");
        assert!(!line.contains("another program"), "{line}");
    }
    // Those of two transports and two families do not.
    let apart = [format!("echo={address}"), format!("echo=udp://{address}"), format!("echo=[::1]:{port}")];
    Server::start(apart).stop();
}
