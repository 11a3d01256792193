//! When a server that loadgen starts is ready: with its first right reply, not with the first connection that it accepts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use super::{complaint, copy, loadgen, measure};

/// What these tests start: this very program, as a server whose first STARTING connections, or datagrams, find it starting.
/// HOW says what it then does, and PROTOCOL what it speaks.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn a_server_that_takes_its_time() {
    let variable = |name| std::env::var(name).ok();
    let Some(how) = variable("HOW") else { return };
    let mut starting: u64 = variable("STARTING").unwrap().parse().unwrap();
    let protocol = variable("PROTOCOL").unwrap();
    let address = format!("127.0.0.1:{}", variable("LOADGEN_TEST_PORT").unwrap());
    let mut buffer = [0; 2048];
    if protocol == "udp" {
        let socket = UdpSocket::bind(address).unwrap();
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            if starting > 0 {
                starting -= 1;
            } else {
                let _ = socket.send_to(&buffer[..len], peer);
            }
        }
    }
    if protocol == "unix-dgram" {
        let socket = UnixDatagram::bind(variable("LOADGEN_TEST_PATH").unwrap()).unwrap();
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            if starting > 0 {
                starting -= 1;
            } else {
                let _ = socket.send_to_addr(&buffer[..len], &peer);
            }
        }
    }
    let listener = TcpListener::bind(address).unwrap();
    let (mut silenced, everybody) = (Vec::new(), Arc::<Mutex<Vec<TcpStream>>>::default());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        if starting > 0 {
            starting -= 1;
            match how.as_str() {
                "silent" => silenced.push(stream),
                "closes" => {}
                "resets" => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
                "exits" => {
                    eprintln!("opening the\ndatabase: \x1b[1mdisk full");
                    std::process::exit(4);
                }
                reply => {
                    // Whoever reads it has asked before.
                    let _ = stream.read(&mut buffer).unwrap();
                    stream.write_all(reply.replace("\\r\\n", "\r\n").as_bytes()).unwrap();
                }
            }
            continue;
        }
        stream.set_nodelay(true).unwrap();
        let (protocol, everybody) = (protocol.clone(), everybody.clone());
        std::thread::spawn(move || serve(stream, &protocol, &everybody));
    }
}

fn serve(mut stream: TcpStream, protocol: &str, everybody: &Mutex<Vec<TcpStream>>) {
    match protocol {
        "echo" => copy(stream, |_, _| {}),
        "uppercase" => copy(stream, |_, bytes| bytes.make_ascii_uppercase()),
        "pong" => copy(stream, |_, bytes| *bytes = b"+PONG\r\n".repeat(bytes.len() / b"PING\r\n".len())),
        "http" => copy(stream, |_, bytes| {
            let requests = bytes.windows(4).filter(|end| end == b"\r\n\r\n").count();
            *bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".repeat(requests);
        }),
        "greeting" => {
            stream.write_all(b"Welcome!").unwrap();
            copy(stream, |_, bytes| {
                *bytes = [b"Hello, ", bytes.strip_suffix(b"\n").unwrap(), b"!\n"].concat();
            });
        }
        "banner" => stream.write_all(b"Welcome to this server\r\n").unwrap(),
        // A room of lines, each of which is in one piece: one at a time is said.
        "lines" => {
            let peer = stream.peer_addr().unwrap();
            everybody.lock().unwrap().push(stream.try_clone().unwrap());
            copy(stream, |_, bytes| {
                for mut other in everybody.lock().unwrap().iter() {
                    if other.peer_addr().ok() != Some(peer) {
                        let _ = other.write_all(bytes);
                    }
                }
                bytes.clear();
            });
            everybody.lock().unwrap().retain(|one| one.peer_addr().is_ok_and(|address| address != peer));
        }
        other => panic!("{other}"),
    }
}

/// The command for it.
fn server(protocol: &str, how: &str, starting: u64) -> String {
    let program = std::env::current_exe().unwrap();
    let name = "readiness::a_server_that_takes_its_time";
    format!(
        "LOADGEN_TEST_PORT={{port}} HOW='{how}' STARTING={starting} PROTOCOL={protocol} '{}' --exact {name} --ignored \
         --nocapture",
        program.display()
    )
}

const LOADING: &str = r"-LOADING Redis is loading the dataset in memory\r\n";
const STARTING: &str = r"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

const ECHO: &str = "echo=127.0.0.1:{port}";

#[test]
fn the_first_right_reply_is_waited_for() {
    let pong = ["--send", r"PING\r\n", "--expect", r"+PONG\r\n"];
    let lines = ["--dialect", "lines", "-c", "3"];
    for (service, protocol, how, arguments) in [
        ("custom", "pong", LOADING, &pong[..]),
        ("http", "http", STARTING, &[]),
        ("echo", "echo", LOADING, &[]),
        ("echo", "echo", "closes", &["-r", "1k"]),
        ("uppercase", "uppercase", "resets", &[]),
        ("greeting", "greeting", "closes", &[]),
        ("chat", "lines", "closes", &lines),
    ] {
        let target = format!("{service}=127.0.0.1:{{port}}");
        let command = server(protocol, how, 5);
        let result =
            measure(&target, &[&["-n", "100", "--spawn", &command, "--timeout", "60s"], arguments].concat());
        assert_eq!(
            (&result["requests"], &result["errors"], &result["lost"]),
            (&100.into(), &0.into(), &0.into())
        );
    }
}

#[test]
fn a_server_that_has_forgotten_what_it_was_asked_is_asked_again() {
    let path = std::env::temp_dir().join(format!("loadgen-ready-{}.sock", std::process::id()));
    let at_path = format!("echo=unix-dgram:{}", path.display());
    for (target, protocol, starting) in
        [(ECHO, "echo", 1), ("echo=udp://127.0.0.1:{port}", "udp", 3), (&at_path, "unix-dgram", 3)]
    {
        let mut command = server(protocol, "silent", starting);
        if protocol == "unix-dgram" {
            command = command.replace(
                "LOADGEN_TEST_PORT={port}",
                &format!("LOADGEN_TEST_PATH={} LOADGEN_TEST_PORT=1", path.display()),
            );
        }
        let result =
            measure(target, &["-n", "50", "--spawn", &command, "--start-timeout", "8s", "--timeout", "60s"]);
        assert_eq!((&result["requests"], &result["lost"]), (&50.into(), &0.into()), "{result}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn every_command_that_starts_a_server_waits() {
    let (echo, banner) = (server("echo", LOADING, 5), server("banner", "closes", 5));
    let again = server("echo", "resets", 5);
    let short = ["-t", "50ms", "-w", "0"];
    for arguments in [
        &["run", ECHO, "--spawn", &echo, "-c", "1,2", "--repeat", "1", "-q"][..],
        &["search", ECHO, "--spawn", &echo, "--slo", "p99<10s", "--start", "100", "--budget", "1ms", "-q"],
        &["run", "--reconnect", "banner=127.0.0.1:{port}", "--spawn", &banner, "-q"],
        &["idle", "127.0.0.1:{port}", "--spawn", &echo, "-c", "3", "--hold", "10ms"],
        &[
            "compare", "--base", &echo, "--head", &again, "--metric", "cpu", "-c", "1", "--budget", "1ms",
            "-q",
        ],
        // Where there is no strace, that is a note.
        &["compare", "--base", &echo, "--head", &again, "--metric", "syscalls", "-q"],
    ] {
        let own = if matches!(arguments[0], "idle" | "compare") { &[][..] } else { &short };
        let output = loadgen(&[arguments, own, &["--start-timeout", "60s"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        for words in ["LOADING", "closed by the peer", "closed the connection", "reset", "did not come up"] {
            assert!(!stderr.contains(words) && !stdout.contains(words), "{arguments:?}: {stderr}{stdout}");
        }
        // How the figures are does not matter here.
        assert!(matches!(output.status.code(), Some(0 | 1 | 3 | 4)), "{arguments:?}: {stderr}");
        assert!(!stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn one_that_is_never_ready_is_told_with_what_came_last() {
    for (service, protocol, how, words) in [
        ("echo", "echo", LOADING, "-LOADING Redis is loading the dataset"),
        ("http", "http", STARTING, "status 503"),
        // Closed with a request unread, it is a reset as well.
        ("echo", "echo", "closes", "connection"),
        ("echo", "echo", "resets", "reset by peer"),
        ("echo", "echo", "silent", "no reply within"),
        ("echo", "udp", "silent", "no reply within"),
        // Closed or reset, as above; the member is named.
        ("chat", "lines", "closes", "-0: "),
    ] {
        let transport = if protocol == "udp" { "udp://" } else { "" };
        let target = format!("{service}={transport}127.0.0.1:{{port}}");
        let command = server(protocol, how, u64::MAX);
        let chat = if service == "chat" { &["-c", "2", "--dialect", "lines"][..] } else { &[] };
        let arguments = ["run", &target, "--spawn", &command, "--start-timeout", "2s"];
        let told = complaint(&[&arguments, chat].concat(), 3);
        let last = told.lines().next_back().unwrap();
        assert!(last.contains("sent no correct reply at ") && last.contains("within 2s: "), "{told}");
        assert!(last.contains(words), "{told}");
    }
}

#[test]
fn one_that_ends_meanwhile_is_told_at_once_with_what_it_last_printed() {
    // Long enough to be noticed if it is waited for.
    let command = server("echo", "exits", 1);
    let told = complaint(&["run", ECHO, "--spawn", &command, "--start-timeout", "60m"], 3);
    let last = told.lines().next_back().unwrap();
    assert!(last.contains("exited: exit status: 4; it last printed: "), "{told}");
    assert!(last.ends_with("opening the | database:  [1mdisk full"), "{told}");
    // By itself, while nothing of it is awaited.
    let told = complaint(
        &["run", "echo=udp://127.0.0.1:{port}", "--spawn", "sh -c 'exit 7' {port}", "--start-timeout", "60m"],
        3,
    );
    assert!(told.contains("did not come up") && told.contains("exited: exit status: 7"), "{told}");
}
