//! `tidewheel talk` in pipes: every transport, the ends of lines, the ends of conversations, and what can go wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use super::console::Client;
use crate::harness::program::{Server, refused, tidewheel};
use crate::harness::{Folder, PATIENCE, ask, expect, pattern, read_to_end, reset};

/// A server of the test's own, and its address.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the client connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    stream
}

#[test]
fn one_question_and_one_answer_on_every_transport() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_string_lossy().into_owned();
    let server = Server::start([
        "uppercase=127.0.0.1:0",
        "uppercase=udp://127.0.0.1:0",
        &format!("uppercase=unix:{}", path("stream")),
        &format!("uppercase=unix-dgram:{}", path("datagrams")),
    ]);
    let addresses: Vec<_> = server.listening.iter().map(|(_, address)| address.clone()).collect();
    assert_eq!(addresses.len(), 4);
    for address in &addresses {
        let mut client = Client::start(["talk", address]);
        client.say("hello\n");
        assert_eq!(client.out_line(), "HELLO", "{address}");
        client.say("straße\n");
        assert_eq!(client.finish().fine(), "STRASSE\n", "{address}");
    }
    let mut client = Client::start(["talk", server.address("uppercase", "tcp://")]);
    client.say("the rest without an end");
    assert_eq!(client.finish().fine(), "THE REST WITHOUT AN END");
}

#[test]
fn bytes_go_both_ways_as_they_are_however_many() {
    let server = Server::start(["echo=127.0.0.1:0"]);
    let mut program = tidewheel(["talk", server.address("echo", "tcp://")]);
    // More than all buffers between the two hold, so that whoever only sends would wait for ever.
    let bytes = pattern(8 << 20);
    let mut child = program.stdin(std::process::Stdio::piped()).spawn().expect("the program was built");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let sent = bytes.clone();
    let writer = thread::spawn(move || stdin.write_all(&sent));
    let mut back = Vec::new();
    stdout.read_to_end(&mut back).expect("a pipe can be read");
    writer.join().expect("it does not panic").expect("the client reads everything");
    assert!(child.wait().expect("it is a child").success());
    assert!(back == bytes, "{} of {} bytes came back as they were", back.len(), bytes.len());
}

#[test]
fn piped_input_that_is_no_text_arrives_as_it_is_and_so_does_the_answer() {
    let all: Vec<u8> = (0..=255).collect();
    let inputs = [
        &all[..],
        b"caf\xe9\nna\xefve\n",
        b"\0\0a\0\n\0",
        b"no end",
        b"",
        b"\n",
        b"\xff\xfe",
        b"a\rb\r\n\x1b[31m\xc2",
    ];
    for input in inputs {
        let (listener, address) = listener();
        let mut program = tidewheel(["talk", &address]);
        program.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = program.spawn().expect("the program was built");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        let mut stream = accept(&listener);
        assert_eq!(read_to_end(&mut stream).0, input, "to the server: {}", input.escape_ascii());
        stream.write_all(input).expect("it reads");
        drop(stream);
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.stdout, input, "from the server: {}", input.escape_ascii());
        assert!(ended.status.success(), "{ended:?}");
    }
}

#[test]
fn a_line_ends_as_it_is_told_to() {
    for (options, said, sent) in [
        (&[][..], "a\r\nb", &b"a\r\nb"[..]),
        (&["--eol", "lf"], "a\r\nb", b"a\nb\n"),
        (&["--eol", "crlf"], "a\nb\r\n\n", b"a\r\nb\r\n\r\n"),
        (&["--eol", "none"], "a\n\nb\n", b"ab"),
        (&["--until", "bye"], "a\nb", b"a\nb\n"),
    ] {
        let (listener, address) = listener();
        let mut client = Client::start([&["talk", &address], options].concat());
        let mut stream = accept(&listener);
        client.say(said);
        client.end_input();
        let (got, _) = read_to_end(&mut stream);
        assert_eq!(got.escape_ascii().to_string(), sent.escape_ascii().to_string(), "{options:?}");
        drop(stream);
        client.wait().fine();
    }
}

#[test]
fn a_line_of_any_length_is_one_line() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--eol", "crlf"]);
    let long = "x".repeat(1 << 20);
    let text = long.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            client.say(&format!("{text}\nshort\n"));
            client.end_input();
        });
        let mut stream = accept(&listener);
        let (got, _) = read_to_end(&mut stream);
        assert!(got == format!("{long}\r\nshort\r\n").as_bytes(), "{} bytes", got.len());
    });
    client.wait().fine();
}

#[test]
fn without_endings_each_line_waits_for_the_answer_to_the_one_before() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--eol", "none"]);
    client.say("one\ntwo\nthree\n");
    client.end_input();
    let mut stream = accept(&listener);
    for word in ["one", "two", "three"] {
        let mut bytes = [0; 64];
        // Whoever reads messages in one read each, as the servers of tutorials do, gets them one by one.
        let count = stream.read(&mut bytes).expect("the client sends");
        assert_eq!(bytes[..count].escape_ascii().to_string(), word);
        stream.write_all(word.to_uppercase().as_bytes()).expect("the client is there");
    }
    drop(stream);
    assert_eq!(client.wait().fine(), "ONETWOTHREE");
}

#[test]
fn after_the_end_of_input_what_still_arrives_is_printed() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address]);
    client.say("question\n");
    client.end_input();
    let mut stream = accept(&listener);
    assert_eq!(read_to_end(&mut stream), (b"question\n".to_vec(), false), "the stream is half-closed");
    for piece in ["an answer ", "that comes late\n"] {
        stream.write_all(piece.as_bytes()).expect("the client still reads");
        client.expect(piece);
    }
    drop(stream);
    assert_eq!(client.wait().fine(), "");
}

#[test]
fn the_server_may_end_it() {
    let (listener, address) = listener();
    let client = Client::start(["talk", &address]);
    let mut stream = accept(&listener);
    stream.write_all(b"Welcome!").expect("the client is there");
    drop(stream);
    assert_eq!(client.wait().fine(), "Welcome!", "though its input has not ended");
}

#[test]
fn what_the_server_did_not_wait_for_is_told() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--eol", "none"]);
    // Each waits for an answer to the one before it.
    client.say(&"word\n".repeat(100));
    let mut stream = accept(&listener);
    expect(&mut stream, b"word");
    drop(stream);
    let line = client.wait().failed(1);
    assert!(line.contains(&address), "{line}");
}

#[test]
fn the_word_from_the_server_ends_it_in_any_case_with_any_ending() {
    for word in ["bye", "BYE\n", "Bye\r\n"] {
        let (listener, address) = listener();
        let client = Client::start(["talk", &address, "--until", "bye"]);
        let mut stream = accept(&listener);
        stream.write_all(b"goodbye\n").expect("the client is there");
        stream.write_all(word.as_bytes()).expect("the client is there");
        assert_eq!(client.wait().fine(), format!("goodbye\n{word}"));
        assert_eq!(read_to_end(&mut stream).0, b"");
    }
}

#[test]
fn the_word_from_this_side_ends_it_and_the_answer_to_it_is_printed() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--until", "bye"]);
    client.say("bye bye\nBye\nnever sent\n");
    let mut stream = accept(&listener);
    let (got, _) = read_to_end(&mut stream);
    assert_eq!(got.escape_ascii().to_string(), r"bye bye\nBye\n");
    stream.write_all(b"see you\n").expect("the client still reads");
    drop(stream);
    assert_eq!(client.wait().fine(), "see you\n");
}

#[test]
fn a_server_that_does_not_close_after_the_word_is_left() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--until", "bye"]);
    let _open = accept(&listener);
    client.say("bye\n");
    assert_eq!(client.wait().fine(), "");
}

#[test]
fn a_server_that_talks_on_after_the_word_is_left() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--until", "bye"]);
    let mut stream = accept(&listener);
    client.say("bye\n");
    let reader = thread::spawn(move || client.wait());
    expect(&mut stream, b"bye\n");
    // Until the client closes.
    while stream.write_all(b"and another thing\n").is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
    let ended = reader.join().expect("it only waits");
    assert_eq!((ended.code, &*ended.err), (Some(0), ""));
}

#[test]
fn each_line_is_a_datagram_and_each_datagram_a_line() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    let address = format!("udp://{}", socket.local_addr().expect("it is bound"));
    let mut client = Client::start(["talk", &address]);
    let mut bytes = [0; 64];
    for (said, datagram) in [("hello\n", "hello"), ("\n", ""), ("two words\r\n", "two words")] {
        client.say(said);
        let (count, from) = socket.recv_from(&mut bytes).expect("the client sends");
        assert_eq!(bytes[..count].escape_ascii().to_string(), datagram);
        socket.send_to(format!("<{datagram}>").as_bytes(), from).expect("the client is there");
        assert_eq!(client.out_line(), format!("<{datagram}>"));
    }
    assert_eq!(client.finish().fine(), "");
}

#[test]
fn a_datagram_to_nobody_is_told() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a port");
    let address = format!("udp://{}", socket.local_addr().expect("it is bound"));
    drop(socket);
    let mut client = Client::start(["talk", &address]);
    client.say("hello\n");
    let line = client.wait().failed(1);
    assert!(line.contains(&address) && line.contains("no server is listening there"), "{line}");
}

#[test]
fn a_line_that_fits_no_datagram_is_told() {
    let server = Server::start(["echo=udp://127.0.0.1:0"]);
    let address = format!("udp://{}", server.address("echo", "udp://"));
    // The longer one is no whole line to the client; a pipe holds just that much.
    for length in [65_508, 65_536] {
        let mut client = Client::start(["talk", &address]);
        client.say(&"x".repeat(length));
        client.end_input();
        let line = client.wait().failed(1);
        assert!(line.contains("too long for a datagram"), "{line}");
    }
}

#[test]
fn a_long_datagram_of_unix_sockets_comes_whole() {
    let folder = Folder::new();
    let socket = UnixDatagram::bind(folder.path("socket")).expect("the folder takes a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    let mut client = Client::start(["talk", &format!("unix-dgram:{}", folder.path("socket").display())]);
    client.say("hello\n");
    let mut bytes = [0; 64];
    let (_, from) = socket.recv_from(&mut bytes).expect("the client sends");
    let long = "x".repeat(150_000);
    let writer = thread::spawn(move || client.out_line());
    socket.send_to_addr(long.as_bytes(), &from).expect("the client is there");
    assert!(writer.join().expect("it only reads") == long);
}

#[test]
fn bad_addresses_are_bad_usage() {
    for (address, expected) in [
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:http", "number from 0 to 65535"),
        ("127.0.0.1:0", "port 0 is only for listening"),
        ("http://127.0.0.1:80", "unknown transport 'http'"),
        ("unix:", "path"),
        ("no-such-host.invalid:80", "cannot find the host 'no-such-host.invalid'"),
    ] {
        let line = refused(["talk", address]);
        assert!(line.contains(expected), "{address}: {line}");
    }
    let line = refused(["talk", "--listen", "--timeout", "3s"]);
    assert!(line.contains("--timeout") && line.contains("tidewheel talk --help"), "{line}");
}

#[test]
fn where_nobody_listens_it_says_so() {
    let (listener, address) = listener();
    drop(listener);
    let folder = Folder::new();
    let missing = format!("unix:{}", folder.path("missing").display());
    let left = format!("unix:{}", folder.path("left").display());
    drop(UnixListener::bind(folder.path("left")).expect("the folder takes a socket"));
    let datagrams = missing.replace("unix:", "unix-dgram:");
    for address in [&address, &missing, &left, &datagrams] {
        let line = Client::start(["talk", address]).wait().failed(1);
        assert!(line.contains(&**address) && line.contains("no server is listening there"), "{line}");
    }
}

#[test]
fn connecting_is_given_up_after_the_timeout() {
    // A listener whose backlog is full lets others wait.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a port");
    socket.listen(0).expect("it is bound");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("it is of the internet");
    let _first = TcpStream::connect(address).expect("the backlog takes one");
    let line = Client::start(["talk", "--timeout", "50ms", &address.to_string()]).wait().failed(1);
    assert!(line.contains("within 50ms") && line.contains("--timeout"), "{line}");

    let folder = Folder::new();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(folder.path("full")).expect("it is short")).expect("a path");
    socket.listen(0).expect("it is bound");
    let _first = UnixStream::connect(folder.path("full")).expect("the backlog takes one");
    let address = format!("unix:{}", folder.path("full").display());
    let line = Client::start(["talk", "--timeout", "50ms", &address]).wait().failed(1);
    assert!(line.contains("within 50ms") && line.contains(&address), "{line}");
}

#[test]
fn a_server_that_vanishes_is_told() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address]);
    let mut stream = accept(&listener);
    client.say("hello\n");
    ask(&mut stream, b"half an ans", b"hello\n");
    client.expect("half an ans");
    reset(stream);
    let line = client.wait().failed(1);
    assert!(line.contains(&address) && line.contains("reset"), "{line}");
}

#[test]
fn a_server_that_is_silent_for_too_long_is_left() {
    let (listener, address) = listener();
    let mut client = Client::start(["talk", &address, "--wait", "50ms"]);
    let mut stream = accept(&listener);
    client.say("hello\n");
    expect(&mut stream, b"hello\n");
    let line = client.finish().failed(1);
    assert!(line.contains(&address) && line.contains("--wait"), "{line}");
}

#[test]
fn the_first_signal_ends_it_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let (listener, address) = listener();
        let mut client = Client::start(["talk", &address]);
        let mut stream = accept(&listener);
        stream.write_all(b"I am here\n").expect("the client is there");
        // From here on it catches signals.
        client.expect("I am here\n");
        client.signal(signal);
        assert_eq!(client.wait().fine(), "");
        assert_eq!(read_to_end(&mut stream).0, b"");
    }
}

#[test]
fn output_that_nobody_reads_ends_it() {
    let (listener, address) = listener();
    let mut child = tidewheel(["talk", &address]).spawn().expect("the program was built");
    let mut stream = accept(&listener);
    drop(child.stdout.take());
    stream.write_all(b"nobody reads this\n").expect("the client is there");
    let mut err = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut err).expect("it is UTF-8");
    assert_eq!(child.wait().expect("it is a child").code(), Some(1));
    assert!(err.starts_with("tidewheel: cannot write to standard output: "), "{err}");
}
