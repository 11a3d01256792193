//! The program as a user meets it: what it prints, how it answers, how it ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;

use crate::harness::program::{Server, lonely_ip, refused, run, tidewheel};
use crate::harness::{Folder, PATIENCE, ask, expect};

// ---- peers ----

fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    socket.connect(address).expect("an address of loopback");
    socket
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the program listens there");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    stream
}

/// Reads to the end; a reset after the last byte is an end, too.
fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "after {} bytes", all.len()),
    }
    all
}

// ---- what it serves ----

#[test]
fn every_service_answers_on_every_transport() {
    let folder = Folder::new();
    let (stream, datagram) = (folder.path("echo.sock"), folder.path("echo.dgram"));
    let args = [
        "echo=127.0.0.1:0".to_owned(),
        "echo=udp://:0".to_owned(),
        format!("echo=unix:{}", stream.display()),
        format!("echo=unix-dgram:{}", datagram.display()),
        "uppercase=localhost:0".to_owned(),
        "uppercase=udp://localhost:0".to_owned(),
        "time=:0".to_owned(),
    ];
    let server = Server::start(&args);

    let announced: Vec<_> =
        server.listening.iter().map(|(service, address)| format!("{service} {address}")).collect();
    let expected = [
        "echo tcp://127.0.0.1:",
        "echo udp://127.0.0.1:",
        &format!("echo unix:{}", stream.display()),
        &format!("echo unix-dgram:{}", datagram.display()),
        "uppercase tcp://127.0.0.1:",
        "uppercase udp://127.0.0.1:",
        "time udp://127.0.0.1:",
    ];
    assert_eq!(announced.len(), expected.len(), "{announced:?}");
    for (announced, expected) in announced.iter().zip(expected) {
        assert!(announced.starts_with(expected) && !announced.ends_with(":0"), "{announced:?}");
    }

    ask(&mut server.tcp("echo"), b"over tcp\n", b"over tcp\n");
    ask(&mut unix(&stream), b"over unix\n", b"over unix\n");
    ask(&mut server.tcp("uppercase"), "straße\n".as_bytes(), "STRASSE\n".as_bytes());

    let mut buffer = [0; 100];
    let mut exchange = |socket: &UdpSocket, question: &str| {
        socket.send(question.as_bytes()).expect("loopback takes it");
        let len = socket.recv(&mut buffer).expect("an answer comes");
        String::from_utf8(buffer[..len].to_vec()).expect("the question was UTF-8")
    };
    assert_eq!(exchange(&udp(server.address("echo", "udp://")), "over udp"), "over udp");
    assert_eq!(exchange(&udp(server.address("echo", "udp://")), ""), "");
    assert_eq!(exchange(&udp(server.address("uppercase", "udp://")), "grün"), "GRÜN");
    let told = exchange(&udp(server.address("time", "udp://")), "hello");
    assert!(
        told.starts_with('[') && told.ends_with("]hello") && told.len() == "[]hello".len() + 24,
        "{told}"
    );

    let socket = UnixDatagram::bind(folder.path("peer")).expect("the folder is there");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    socket.send_to(b"over unix-dgram", &datagram).expect("the program listens there");
    let len = socket.recv(&mut buffer).expect("an answer comes");
    assert_eq!(&buffer[..len], b"over unix-dgram");

    server.stop();
    assert!(!stream.exists() && !datagram.exists(), "socket files are left");
}

/// What comes back for a datagram.
fn asked(address: &str, question: &[u8]) -> String {
    let socket = udp(address);
    socket.send(question).expect("loopback takes it");
    let mut buffer = [0; 200];
    let len = socket.recv(&mut buffer).expect("an answer comes");
    String::from_utf8(buffer[..len].to_vec()).expect("the texts are UTF-8")
}

#[test]
fn services_speak_the_language_that_is_asked_for() {
    let ip = lonely_ip(3);
    for (lang, banner, tcp, udp_8080, udp_8888, chat) in [
        (
            "en",
            "Welcome to tidewheel!\r\n",
            "your message has been received",
            "hello, my name is server",
            "my name is server",
            "nickname: ",
        ),
        (
            "zh",
            "欢迎访问菜鸟教程！\r\n",
            "已经成功接收您发送的消息",
            "hello, my name is server",
            "my name is server, 服务器",
            "请输入昵称:",
        ),
    ] {
        let mut server = Server::start(["--lang", lang, "--bind", &ip.to_string()]);
        assert_eq!(read_to_end(&mut server.tcp("banner")), banner.as_bytes());
        ask(&mut server.tcp("reply"), b"hello\n", format!("{tcp}\n").as_bytes());
        assert_eq!(asked(&format!("{ip}:8080"), b"hello"), udp_8080);
        assert_eq!(asked(&format!("{ip}:8888"), b"hello"), udp_8888);
        expect(&mut server.tcp("chat"), chat.as_bytes());
        server.await_err(if lang == "zh" { "texts in Chinese" } else { "texts in English" });
        server.stop();
    }
}

#[test]
fn texts_can_be_given() {
    let texts = ["--lang", "zh", "--banner-text", "Grüß Gott", "--reply-text", ""];
    let server = Server::start(texts.into_iter().chain(["banner=:0", "reply=:0", "reply=udp://:0"]));
    assert_eq!(read_to_end(&mut server.tcp("banner")), "Grüß Gott\r\n".as_bytes());
    ask(&mut server.tcp("reply"), b"one\r\ntwo\n", b"\r\n\n");
    assert_eq!(asked(server.address("reply", "udp://"), b"hello"), "");
    server.stop();
}

#[test]
fn the_message_pause_is_the_one_that_is_asked_for() {
    let server = Server::start(["--message-pause", "1ms", "greeting=:0"]);
    ask(&mut server.tcp("greeting"), b"hello", b"Welcome!Hello, hello!");
    server.stop();

    let server = Server::start(["--message-pause", "0", "--read-deadline", "20ms", "greeting=:0"]);
    let mut stream = server.tcp("greeting");
    ask(&mut stream, b"line\nno line", b"Welcome!Hello, line!\n");
    assert_eq!(read_to_end(&mut stream), b"", "it waits for the end of the line until the deadline");
    let mut stream = server.tcp("greeting");
    ask(&mut stream, b"no line", b"Welcome!");
    assert_eq!(read_to_end(&mut stream), b"", "it is no message");
    server.stop();
}

#[test]
fn the_longest_line_is_the_one_that_is_asked_for() {
    let server = Server::start(["--max-line", "5", "greeting=:0"]);
    let mut stream = server.tcp("greeting");
    ask(&mut stream, b"hello\r\n", b"Welcome!Hello, hello!\r\n");
    stream.write_all(b"hello!\r\n").expect("the connection is open");
    assert_eq!(read_to_end(&mut stream), b"");
    server.stop();
}

/// Somebody in chat, whose nickname was taken: the connection, behind the first line that this gives.
fn chatter(server: &Server, nick: &str) -> BufReader<TcpStream> {
    let mut stream = server.tcp("chat");
    ask(&mut stream, format!("{nick}\n").as_bytes(), b"nickname: ");
    let mut lines = BufReader::new(stream);
    assert!(next_line(&mut lines).starts_with("* welcome to lobby"));
    lines
}

fn next_line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line comes");
    line
}

#[test]
fn chat_has_the_limits_that_are_given() {
    let say = |lines: &mut BufReader<TcpStream>, text: &str| {
        lines.get_mut().write_all(text.as_bytes()).expect("the connection is open");
    };

    let server = Server::start(["chat=:0"]);
    let mut ada = chatter(&server, "ada");
    let _bob = chatter(&server, "bob");
    assert_eq!(next_line(&mut ada), "* bob has joined\n");
    server.stop();

    let limits = ["--chat-announce-max", "1", "--chat-burst", "1", "--chat-rate", "1000"];
    let server = Server::start(limits.into_iter().chain(["chat=:0"]));
    let mut ada = chatter(&server, "ada");
    let mut bob = chatter(&server, "bob");
    say(&mut bob, "one\ntwo\nthree\n");
    for expected in ["bob: one\n", "bob: two\n", "bob: three\n"] {
        assert_eq!(next_line(&mut ada), expected);
    }
    assert_eq!(next_line(&mut bob), "* slow down\n");
    server.stop();
}

#[test]
fn the_list_of_services_says_where_and_how() {
    let list = run(["services"]);
    assert_eq!(list.status.code(), Some(0));
    let list = String::from_utf8(list.stdout).expect("the list is UTF-8");
    assert!(list.lines().all(|line| line.len() <= 80), "{list}");

    // It names what the server serves by default, and the trials go there.
    let ip = lonely_ip(4);
    let server = Server::start(["--bind", &ip.to_string()]);
    for (service, address) in &server.listening {
        let entry: Vec<_> = list.lines().skip_while(|line| !line.starts_with(service)).take(2).collect();
        let [summary, more] = entry[..] else { panic!("{service} is not in the list") };
        let (transport, at) = address.split_once("://").expect("a default is of tcp or udp");
        let port = at.rsplit_once(':').expect("it has a port").1;
        assert!(summary.contains(&format!("{transport} {port}")), "{address}: {summary}");
        assert!(more.contains(transport) && more.contains("127.0.0.1"), "{address}: {more}");
    }
    let names = server.listening.iter().map(|(service, _)| service).collect::<HashSet<_>>();
    assert_eq!(list.lines().count(), 2 + 2 * names.len(), "{list}");
    server.stop();

    let help = run(["services", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("tidewheel serve"));
    refused(["services", "echo"]);
}

#[test]
fn the_help_names_every_service_and_every_limit() {
    let nothing = run::<&str>([]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(nothing.stdout.is_empty());
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("tidewheel serve"));

    let help = run(["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).expect("the help is UTF-8");
    for part in [
        "echo       tcp 7007, udp 7007",
        "uppercase  tcp 6666, udp 6666",
        "greeting   tcp 9999",
        "daytime    tcp 6789",
        "banner     tcp 9998",
        "reply      tcp 8888, udp 8080, udp 8888",
        "http       tcp 8080",
        "time       udp 8081",
        "chat       tcp 25666",
        "--bind",
        "--lang",
        "--show",
        "--reactors",
        "--unix-mode",
        "--busy-poll",
        "--io-uring",
        "--panic",
        "--message-pause",
        "--banner-text",
        "--reply-text",
        "--chat-burst",
        "--chat-rate",
        "--chat-announce-max",
        "--max-connections",
        "--max-connections-per-ip",
        "--idle-timeout",
        "--read-deadline",
        "--progress-timeout",
        "--drain-deadline",
        "--max-line",
        "--output-soft-limit",
        "--output-soft-grace",
        "--output-hard-limit",
        "--max-memory",
        "--udp-replies-per-prefix",
        "SIGUSR1",
        "Exit codes",
    ] {
        assert!(help.contains(part), "{part:?} is not in the help");
    }

    let version = run(["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("tidewheel ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

// ---- what it refuses ----

#[test]
fn a_mistake_is_one_line_that_names_it() {
    for (args, part) in [
        (&["serv"][..], "'serve'"),
        (&["serve", "echo"], "echo=127.0.0.1:7007"),
        (&["serve", "ecco=:0"], "did you mean 'echo'?"),
        (&["serve", "time=tcp://:0"], "time cannot be served on tcp"),
        (&["serve", "echo=:70000"], "0 to 65535"),
        (&["serve", "echo=:0", "echo=ftp://:0"], "unknown transport 'ftp'"),
        (&["serve", "echo=no-such-host.invalid:7007"], "no-such-host.invalid"),
        (&["serve", "--bind", "no-such-host.invalid"], "no-such-host.invalid"),
        (&["serve", "--bind", "::1", "echo=:0"], "--bind"),
        (&["serve", "echo=203.0.113.1:7007"], "tcp://203.0.113.1:7007"),
        (&["serve", "echo=:7", "echo=:7"], "tcp://127.0.0.1:7 is given twice"),
        (&["serve", "--lang", "fr"], "en, zh"),
        (&["serve", "--message-pause", "50"], "such as 30s"),
        (&["serve", "--log-level", "loud"], "--log-level"),
        (&["serve", "--reactors", "0"], "--reactors"),
        (&["serve", "--reactors", "2", "echo=:0", "chat=:0"], "chat needs --reactors 1"),
        (&["serve", "--chat-rate", "often"], "--chat-rate"),
        (&["serve", "--output-total-limit", "8MiB"], "this option is now --max-memory"),
        (&["serve", "--output-total-limit"], "this option is now --max-memory"),
        (&["serve", "--idle-timout", "3s"], "'--idle-timeout'"),
        (&["serve", "--idle-timeout", "3"], "such as 30s"),
        (&["serve", "--max-line", "0"], "--max-line 0"),
        (&["serve", "--max-line", "1KB"], "such as 64KiB"),
        (&["serve", "--max-connections", "many"], "--max-connections"),
        (&["serve", "--max-connections", "1", "--reactors", "2"], "--reactors 2"),
        (&["serve", "--output-soft-limit", "2MiB"], "--output-hard-limit 1MiB"),
    ] {
        let line = refused(args);
        assert!(line.contains(part), "{args:?}: {line}");
    }
}

#[test]
fn a_bad_level_in_the_environment_is_refused_too() {
    let mut command = tidewheel(["serve", "echo=:0"]);
    command.env("TIDEWHEEL_LOG", "loud");
    let mut server = Server::spawn(command);
    let err = server.rest_of_err();
    assert_eq!(server.wait().code(), Some(2), "{err}");
    assert!(err.contains("loud"), "{err}");
}

#[test]
fn variables_that_are_set_to_nothing_count_as_unset() {
    let mut command = tidewheel(["serve", "banner=:0"]);
    for name in ["TIDEWHEEL_LOG", "LC_ALL", "LC_MESSAGES", "LANG", "TZ"] {
        command.env(name, "");
    }
    let mut server = Server::spawn(command).ready();
    server.await_err(" INFO serving 1 address");
    assert_eq!(read_to_end(&mut server.tcp("banner")), b"Welcome to tidewheel!\r\n");
    server.stop();
}

#[test]
fn the_log_names_the_process_and_the_page() {
    for (host, shown) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")] {
        let mut server = Server::spawn(tidewheel(["serve", &format!("http={host}:0"), "echo=:0"])).ready();
        let line = server.await_err(" INFO serving 2 addresses");
        assert!(line.contains(&format!(" as process {} ", server.id())), "{line}");
        let port = server.address("http", "tcp://").rsplit_once(':').expect("HOST:PORT").1.to_owned();
        let line = server.await_err("open http://");
        assert!(line.ends_with(&format!(" open http://{shown}:{port}/")), "{line:?}");
        server.stop();
    }
}

/// The largest that a duration can be.
const FOR_EVER: &str = "100000h";

#[test]
fn the_largest_durations_never_come() {
    const OPTIONS: [&str; 7] = [
        "progress-timeout",
        "idle-timeout",
        "read-deadline",
        "message-pause",
        "drain-deadline",
        "output-soft-grace",
        "busy-poll",
    ];
    // A pause must be shorter than the deadline.
    let value = |option| if option == "message-pause" { "99999h" } else { FOR_EVER };
    let typed = OPTIONS.map(|option| format!("--{option}={}", value(option)));
    let folder = Folder::new();
    let file = folder.path("tide.toml");
    let written = OPTIONS.map(|option| format!("{option} = '{}'\n", value(option))).concat();
    fs::write(&file, written).expect("the folder is there");
    let in_file = vec![format!("--config={}", file.display())];
    for args in [typed.to_vec(), in_file] {
        let server = Server::start(args.iter().map(String::as_str).chain(["greeting=:0", "http=:0"]));
        let mut stream = server.tcp("greeting");
        ask(&mut stream, b"hello\n", b"Welcome!Hello, hello!\n");
        ask(&mut server.tcp("http"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n");
        drop(stream);
        server.stop();
    }
}

#[test]
fn a_named_address_that_is_busy_starts_nothing() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let busy = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = busy.local_addr().expect("it is bound");
    for reactors in ["1", "2"] {
        let unix = format!("echo=unix:{}", path.display());
        let line = refused(["serve", "--reactors", reactors, &unix, &format!("uppercase={address}")]);
        assert!(line.contains(&format!("tcp://{address}")) && line.contains("another program"), "{line}");
        assert!(!path.exists(), "the unix socket was bound before the failure, and is left");
    }
}

#[test]
fn reactors_share_their_ports_with_nobody_else() {
    let server = Server::start(["--reactors", "2", "echo=:0", "time=:0"]);
    let tcp = format!("echo={}", server.address("echo", "tcp://"));
    let udp = format!("time={}", server.address("time", "udp://"));
    for taken in [tcp, udp] {
        let line = refused(["serve", "--reactors", "2", &taken]);
        assert!(line.contains("another program listens there"), "{line}");
    }
    server.stop();
}

/// The default addresses of all services on `ip`, in order, as the program announces them.
fn default_addresses(ip: IpAddr) -> Vec<String> {
    let server = Server::start(["--bind", &ip.to_string()]);
    let addresses = server.listening.iter().map(|(_, address)| address.clone()).collect();
    server.stop();
    addresses
}

/// Takes an address of tcp or udp, so that nobody else can.
fn occupy(address: &str) -> OwnedFd {
    match address.split_once("://").expect("a default is of tcp or udp") {
        ("tcp", at) => TcpListener::bind(at).expect("nobody else uses this address").into(),
        (_, at) => UdpSocket::bind(at).expect("nobody else uses this address").into(),
    }
}

#[test]
fn the_readme_shows_what_is_announced() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("it is there");
    let (_, shown) = readme.split_once("```text\nlistening ").expect("the README shows it");
    let (shown, _) = shown.split_once("\nready\n").expect("the README shows all of it");
    let ip = lonely_ip(5);
    let addresses: Vec<_> =
        shown.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, address)| address).collect();
    let expected = default_addresses(ip).join("\n").replace(&ip.to_string(), "127.0.0.1");
    assert_eq!(addresses.join("\n"), expected);
}

#[test]
fn defaults_that_are_busy_are_left_out() {
    let ip = lonely_ip(1);
    let all = default_addresses(ip);
    let (busy, free): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(index, _)| index % 3 == 0);
    let taken: Vec<_> = busy.iter().map(|(_, address)| occupy(address)).collect();
    let chat = format!("tcp://{ip}:25666");
    let is_chat = |address: &String| *address == chat;
    for reactors in ["1", "2"] {
        let mut server = Server::start(["--bind", &ip.to_string(), "--reactors", reactors]);
        let several = reactors != "1";
        if several {
            assert_eq!(server.err_line(), "tidewheel: chat is skipped: it needs --reactors 1");
        }
        for (_, address) in busy.iter().filter(|(_, address)| !(several && is_chat(address))) {
            let line = server.err_line();
            assert!(line.contains("is skipped") && line.contains(&format!("{address} is in use")), "{line}");
        }
        let listening = server.listening.iter().map(|(_, address)| address);
        let expected =
            free.iter().map(|(_, address)| *address).filter(|address| !(several && is_chat(address)));
        assert!(listening.eq(expected), "{:?}", server.listening);
        server.stop();
    }
    drop(taken);
}

#[test]
fn nothing_but_busy_defaults_is_an_error() {
    let ip = lonely_ip(2);
    let all = default_addresses(ip);
    let taken: Vec<_> = all.iter().map(|address| occupy(address)).collect();
    for reactors in ["1", "2"] {
        let output = run(["serve", "--bind", &ip.to_string(), "--reactors", reactors]);
        let err = String::from_utf8(output.stderr).expect("what the program says is UTF-8");
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(output.stdout.is_empty());
        assert_eq!(
            err.lines().count(),
            all.len() + 1,
            "one line for each address and one for the end: {err}"
        );
        assert!(err.lines().last().is_some_and(|line| line.contains("nothing to serve")), "{err}");
    }
    drop(taken);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let address = format!("echo=unix:{}", path.display());

    drop(UnixListener::bind(&path).expect("the folder is there"));
    assert!(path.exists(), "a listener leaves its file behind");
    let server = Server::start([&address]);
    ask(&mut unix(&path), b"fresh\n", b"fresh\n");
    let line = refused(["serve", &address]);
    assert!(line.contains(&format!("unix:{}", path.display())), "{line}");
    ask(&mut unix(&path), b"still there\n", b"still there\n");
    server.stop();
    assert!(!path.exists());

    fs::write(&path, "precious").expect("the folder is there");
    refused(["serve", &address]);
    assert_eq!(fs::read_to_string(&path).expect("it is still there"), "precious");
}

// ---- limits ----

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::start(["--max-connections", "1", "echo=:0"]);
    let mut first = server.tcp("echo");
    ask(&mut first, b"first\n", b"first\n");
    assert_eq!(read_to_end(&mut server.tcp("echo")), b"too many connections, try again later\n");
    ask(&mut first, b"undisturbed\n", b"undisturbed\n");
    server.stop();
}

#[test]
fn one_address_has_only_its_share() {
    let server = Server::start(["--max-connections-per-ip", "1", "echo=:0"]);
    let mut first = server.tcp("echo");
    ask(&mut first, b"first\n", b"first\n");
    let refusal = read_to_end(&mut server.tcp("echo"));
    assert_eq!(refusal, b"too many connections from your address, try again later\n");
    server.stop();
}

#[test]
fn a_silent_connection_is_closed() {
    let server = Server::start(["--idle-timeout", "20ms", "echo=:0"]);
    assert_eq!(read_to_end(&mut server.tcp("echo")), b"");
    server.stop();
}

#[test]
fn http_has_the_idle_timeout_that_is_given() {
    let server = Server::start(["--idle-timeout", "20ms", "http=:0"]);
    assert_eq!(read_to_end(&mut server.tcp("http")), b"");
    server.stop();
}

#[test]
fn a_head_of_http_is_no_longer_than_a_line() {
    let server = Server::start(["--max-line", "40", "http=:0"]);
    let mut stream = server.tcp("http");
    ask(&mut stream, b"GET / HTTP/1.1\r\nHost: tide\r\n\r\n", b"HTTP/1.1 200 OK\r\n");
    let mut stream = server.tcp("http");
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(40)).as_bytes())
        .expect("it is open");
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
    server.stop();
}

// ---- signals ----

#[test]
fn the_counters_tell_what_happened() {
    let mut server = Server::start(["--max-connections", "1", "echo=:0", "echo=udp://:0"]);
    let mut stream = server.tcp("echo");
    ask(&mut stream, b"12345", b"12345");
    read_to_end(&mut server.tcp("echo"));
    let socket = udp(server.address("echo", "udp://"));
    socket.send(b"one").expect("loopback takes it");
    socket.recv(&mut [0; 10]).expect("an answer comes");

    let counters = server.counters();
    for (name, value) in [
        ("connections_accepted", 1),
        ("connections_refused", 1),
        ("bytes_in", 5),
        ("bytes_out", 5 + "too many connections, try again later\n".len() as u64),
        ("datagrams_in", 1),
        ("datagrams_out", 1),
        ("reactors", 1),
        ("reactors_silent", 0),
        ("log_lines_lost", 0),
    ] {
        assert_eq!(counters.get(name), Some(&value), "{name}");
    }
    server.stop();
}

#[test]
fn a_server_that_polls_busily_answers_and_ends_as_any_other() {
    let mut server = Server::start(["--busy-poll", "20ms", "echo=:0", "echo=udp://:0"]);
    let mut stream = server.tcp("echo");
    for _ in 0..3 {
        stream.write_all(b"hello").unwrap();
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"hello");
        // The counters come when it is told to by a signal, whether it spins or sleeps.
        assert_eq!(server.counters()["connections_open"], 1);
    }
    server.stop();
}

/// Sends from `sent` without reading, until neither side moves any more: all buffers between them are full.
fn stuff(server: &mut Server, stream: &mut UnixStream, sent: &[u8]) -> HashMap<String, u64> {
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut count = 0;
    let mut taken = None;
    loop {
        let before = count;
        loop {
            match stream.write(&sent[count..]) {
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let counters = server.counters();
        if count == before && taken == Some(counters["bytes_in"]) {
            stream.set_nonblocking(false).expect("a socket can be blocking");
            return counters;
        }
        taken = Some(counters["bytes_in"]);
    }
}

/// A server of echo on a unix socket, and a peer that has sent and not read until both were stuck. A unix socket holds
/// little, so replies wait in the server itself.
fn stuck(folder: &Folder, args: &[&str], sent: &[u8]) -> (Server, UnixStream, HashMap<String, u64>) {
    let path = folder.path("echo.sock");
    let address = format!("echo=unix:{}", path.display());
    let mut server = Server::start(args.iter().copied().chain([address.as_str()]));
    let mut stream = unix(&path);
    let counters = stuff(&mut server, &mut stream, sent);
    (server, stream, counters)
}

/// More than all buffers on the way hold.
fn a_lot() -> Vec<u8> {
    (0..64 << 20).map(|index: u32| (index % 251) as u8).collect()
}

#[test]
fn a_drain_delivers_what_the_server_has_taken() {
    let folder = Folder::new();
    let sent = a_lot();
    let (mut server, mut stream, counters) = stuck(&folder, &["--drain-deadline", "0"], &sent);
    server.signal(Signal::TERM);
    server.await_err("SIGTERM: graceful shutdown");
    let got = read_to_end(&mut stream);
    assert!(got.len() as u64 > counters["bytes_out"], "what waited in the server was dropped");
    assert!(sent.starts_with(&got), "the replies are not what was sent");
    server.await_err(" 0 reset");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let folder = Folder::new();
    let (mut server, _stream, _) = stuck(&folder, &["--drain-deadline", "20ms"], &a_lot());
    server.signal(Signal::TERM);
    server.await_err("0 connections answered, 0 closed unanswered, 1 reset");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let folder = Folder::new();
        let args = ["--drain-deadline", "0", "--progress-timeout", "0"];
        let (mut server, _stream, _) = stuck(&folder, &args, &a_lot());
        server.signal(signal);
        server.await_err(&format!("{name}: graceful shutdown"));
        // It drains, and still answers.
        assert_eq!(server.counters()["connections_open"], 1);
        server.signal(signal);
        assert_eq!(server.wait().signal(), Some(signal.as_raw()));
    }
}

#[test]
fn a_drain_under_load_cuts_no_reply_in_two() {
    const MESSAGE: &[u8; 64] = b"a message of sixty-four bytes, which must come back as a whole.\n";
    const PEERS: usize = 8;
    let mut server = Server::start(["--reactors", "2", "echo=:0"]);
    let (answered, is_answered) = mpsc::channel();
    let peers: Vec<_> = (0..PEERS)
        .map(|peer| {
            let mut stream = server.tcp("echo");
            let answered = answered.clone();
            thread::spawn(move || {
                // The end may come before a reply, but not within one.
                while stream.write_all(MESSAGE).is_ok() {
                    let mut reply = Vec::new();
                    if (&mut stream).take(MESSAGE.len() as u64).read_to_end(&mut reply).is_err()
                        || reply.is_empty()
                    {
                        return;
                    }
                    assert_eq!(reply, MESSAGE, "a reply was cut");
                    // The test has heard enough by then.
                    let _ = answered.send(peer);
                }
            })
        })
        .collect();
    let mut replies = [0; PEERS];
    while replies.iter().any(|&count| count < 100) {
        let peer = is_answered.recv_timeout(PATIENCE).expect("the peers are being served");
        replies[peer] += 1;
    }
    server.signal(Signal::TERM);
    for peer in peers {
        peer.join().expect("no reply was cut");
    }
    server.await_err(" closed unanswered, 0 reset");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn several_reactors_are_one_server() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let address = format!("echo=unix:{}", path.display());
    let mut server = Server::start(["--reactors", "2", "echo=:0", "echo=udp://:0", &address]);
    assert_eq!(server.listening.len(), 3, "each address is announced once: {:?}", server.listening);
    let mut streams: Vec<_> = (0..20).map(|_| server.tcp("echo")).collect();
    for stream in &mut streams {
        ask(stream, b"hello\n", b"hello\n");
    }
    let sockets: Vec<_> = (0..20).map(|_| udp(server.address("echo", "udp://"))).collect();
    for socket in &sockets {
        socket.send(b"hello").expect("loopback takes it");
        assert_eq!(socket.recv(&mut [0; 10]).expect("an answer comes"), 5);
    }
    ask(&mut unix(&path), b"hello\n", b"hello\n");
    let counters = server.counters();
    assert_eq!(counters["reactors"], 2);
    assert_eq!(counters["connections_accepted"], 21);
    assert_eq!(counters["datagrams_out"], 20);
    drop(streams);
    server.stop();
    assert!(!path.exists());
}

// ---- what it says ----

#[test]
fn show_prints_what_comes_and_goes_without_its_power() {
    let mut server = Server::start(["--show", "uppercase=:0", "time=:0"]);
    let mut stream = server.tcp("uppercase");
    let name = format!("uppercase {}", stream.local_addr().expect("it is connected"));
    // A colour, a C1 control, a change of direction, a line of its own, and what is no UTF-8.
    let question = b"a\x1b[31m\xc2\x9b2J\xe2\x80\xae\r\nready\xff";
    ask(&mut stream, question, b"A\x1b[31M\xc2\x9b2J\xe2\x80\xae\r\nREADY\xff");
    drop(stream);
    assert_eq!(server.out_line(), format!("{name} connected"));
    assert_eq!(server.out_line(), format!(r#"{name} -> "a\u{{1b}}[31m\u{{9b}}2J\u{{202e}}\r\nready\xFF""#));
    assert_eq!(server.out_line(), format!(r#"{name} <- "A\u{{1b}}[31M\u{{9b}}2J\u{{202e}}\r\nREADY\xFF""#));
    assert_eq!(server.out_line(), format!("{name} closed: peer_closed"));

    let socket = udp(server.address("time", "udp://"));
    let name = format!("time {}", socket.local_addr().expect("it is bound"));
    socket.send(b"a\nb").expect("loopback takes it");
    socket.recv(&mut [0; 100]).expect("an answer comes");
    assert_eq!(server.out_line(), format!(r#"{name} -> "a\nb""#));
    let answer = server.out_line();
    assert!(answer.starts_with(&format!("{name} <- \"[")) && answer.ends_with(r#"]a\nb""#), "{answer}");
    server.stop();
}

#[test]
fn no_service_lends_its_peers_power_over_the_terminal() {
    let services = ["echo", "uppercase", "greeting", "reply", "http", "chat"];
    let requests = services.map(|service| format!("{service}=:0"));
    let mut server = Server::start(["--show".to_owned()].iter().chain(&requests));
    let mut names = Vec::new();
    for service in services {
        let mut stream = server.tcp(service);
        names.push(format!("{service} {}", stream.local_addr().expect("it is connected")));
        stream
            .write_all(b"\x1b[2J\xc2\x9b2J\xe2\x80\xae\r\n\r\nready\n\r\n")
            .expect("the connection is open");
        stream.shutdown(Shutdown::Write).expect("the connection is open");
        read_to_end(&mut stream);
    }
    server.signal(Signal::TERM);
    let mut shown = String::new();
    server.out.as_mut().expect("it is piped").read_to_string(&mut shown).expect("what is shown is UTF-8");
    for name in names {
        assert!(
            shown.contains(&format!(r#"{name} -> "\u{{1b}}[2J\u{{9b}}2J\u{{202e}}\r\n"#)),
            "{name}: {shown}"
        );
        assert!(shown.contains(&format!(r#"{name} <- ""#)), "{name}: {shown}");
    }
    for line in shown.lines() {
        assert!(
            !line.contains(|character: char| character.is_control() || character == '\u{202e}'),
            "{line:?}"
        );
        assert!(services.iter().any(|service| line.starts_with(service)), "{line:?}");
    }
    server.stop();
}

#[test]
fn the_log_says_as_much_as_it_is_told_to() {
    let mut quiet = tidewheel(["serve", "echo=:0"]);
    quiet.env("TIDEWHEEL_LOG", "off");
    let mut quiet = Server::spawn(quiet).ready();
    ask(&mut quiet.tcp("echo"), b"hello\n", b"hello\n");
    quiet.signal(Signal::TERM);
    assert_eq!(quiet.rest_of_err(), "");
    assert_eq!(quiet.wait().code(), Some(0));

    let mut loud = Server::start(["--log-level", "debug", "echo=:0"]);
    let mut stream = loud.tcp("echo");
    let name = format!("echo {}", stream.local_addr().expect("it is connected"));
    ask(&mut stream, b"hello\n", b"hello\n");
    drop(stream);
    loud.await_err(&format!("{name} connected"));
    loud.await_err(&format!("{name} closed: peer_closed"));
    loud.stop();
}

#[test]
fn standard_error_that_nobody_reads_stops_nothing() {
    let (mut reader, mut writer) = io::pipe().expect("a pipe for the test");
    let capacity = rustix::pipe::fcntl_getpipe_size(&writer).expect("it is a pipe");
    writer.write_all(&vec![b'\n'; capacity]).expect("an empty pipe takes what it holds");
    let mut command = tidewheel(["serve", "--log-level", "debug", "echo=:0"]);
    command.stderr(writer);
    let mut server = Server::spawn(command).ready();

    let mut stream = server.tcp("echo");
    for _ in 0..200 {
        server.signal(Signal::USR1);
        ask(&mut stream, b"still there?\n", b"still there?\n");
        ask(&mut server.tcp("echo"), b"and for others?\n", b"and for others?\n");
    }

    // Once somebody reads again, nothing is missing: it was less than what is kept.
    let (text, is_text) = mpsc::channel();
    let reading = thread::spawn(move || {
        for line in BufReader::new(&mut reader).lines() {
            let line = line.expect("what the program says is UTF-8");
            if line.contains("SIGTERM") || line == "end" {
                let _ = text.send(line);
            }
        }
    });
    assert_eq!(is_text.recv_timeout(PATIENCE).as_deref(), Ok("end"));
    drop(stream);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    reading.join().expect("every line is UTF-8");
    assert!(is_text.iter().any(|line| line.contains("SIGTERM: graceful shutdown")));
}

#[test]
fn a_blocked_standard_error_does_not_keep_it_alive() {
    let (_reader, mut writer) = io::pipe().expect("a pipe for the test");
    let capacity = rustix::pipe::fcntl_getpipe_size(&writer).expect("it is a pipe");
    writer.write_all(&vec![b'\n'; capacity]).expect("an empty pipe takes what it holds");
    let mut command = tidewheel(["serve", "echo=:0"]);
    command.stderr(writer);
    let mut server = Server::spawn(command).ready();
    ask(&mut server.tcp("echo"), b"hello\n", b"hello\n");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn standard_output_that_nobody_reads_loses_lines_and_nothing_else() {
    let mut server = Server::start(["--show", "echo=:0"]);
    let mut stream = server.tcp("echo");
    let message = [b'x'; 4 << 10];
    // Each is shown twice: four times what is kept for a reader.
    for _ in 0..512 {
        ask(&mut stream, &message, &message);
    }
    assert!(server.counters()["output_lines_lost"] > 0);
    server.signal(Signal::TERM);
    drop(stream);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_closed_standard_output_is_no_reason_to_panic() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let mut command = tidewheel(["serve", "--show", &format!("echo=unix:{}", path.display())]);
    let (reader, writer) = io::pipe().expect("a pipe for the test");
    command.stdout(writer);
    drop(reader);
    let mut server = Server::spawn(command);
    server.await_err("serving 1 address");
    ask(&mut unix(&path), b"hello\n", b"hello\n");
    server.stop();
}
