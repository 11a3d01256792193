//! The clients against servers as tutorials of sockets in Python write them: they read with one `recv` a message, compare
//! it exactly, and know no line endings.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::console::Client;
use crate::harness::program::tidewheel;
use crate::harness::skipped::skip;

/// A Python server. It prints the port that it has bound first. It is killed with the test.
struct Python {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Python {
    /// `None`, and it says so, where there is no Python.
    fn start(body: &str) -> Option<Python> {
        let text = format!(
            "import socket, sys\n\
             def say(text): print(text, flush=True)\n\
             def listen(kind=socket.SOCK_STREAM):\n\
             \x20   server = socket.socket(socket.AF_INET, kind)\n\
             \x20   server.bind(('127.0.0.1', 0))\n\
             \x20   if kind == socket.SOCK_STREAM: server.listen(5)\n\
             \x20   say(server.getsockname()[1])\n\
             \x20   return server\n\
             {body}"
        );
        let spawned =
            Command::new("python3").args(["-c", &text]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = spawned else {
            skip("needs python3: apt-get install python3");
            return None;
        };
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let port = line_of(&mut out);
        Some(Python { child, out, address: format!("127.0.0.1:{port}") })
    }

    fn line(&mut self) -> String {
        line_of(&mut self.out)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line_of(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).expect("it is UTF-8");
    line.trim_end_matches('\n').to_owned()
}

#[test]
fn bye_is_compared_exactly() {
    let server = Python::start(
        r"
server = listen()
while True:
    conn, addr = server.accept()
    while True:
        data = conn.recv(1024).decode()
        say(repr(data))
        if data == 'bye' or not data:
            break
        conn.send(('got ' + data).encode())
    conn.close()
",
    );
    let Some(mut server) = server else { return };
    for _ in 0..2 {
        let mut client = Client::start(["talk", &server.address, "--eol", "none", "--until", "bye"]);
        client.say("hello\n你好\nbye\n");
        client.end_input();
        assert_eq!(client.wait().fine(), "got hellogot 你好");
        for message in ["'hello'", "'你好'", "'bye'"] {
            assert_eq!(server.line(), message);
        }
    }
}

#[test]
fn exit_is_compared_exactly_after_a_greeting() {
    let server = Python::start(
        r"
server = listen()
conn, addr = server.accept()
conn.send(b'Welcome!')
while True:
    data = conn.recv(1024)
    say(repr(data))
    if data.decode('utf-8') == 'exit':
        break
    conn.send(('Hello, %s!' % data.decode('utf-8')).encode('utf-8'))
conn.close()
",
    );
    let Some(mut server) = server else { return };
    let mut client = Client::start(["talk", &server.address, "--eol", "none"]);
    client.expect("Welcome!");
    client.say("Michael\nTracy\nexit\n");
    // The server closes, though the input has not ended.
    assert_eq!(client.wait().fine(), "Hello, Michael!Hello, Tracy!");
    for message in ["b'Michael'", "b'Tracy'", "b'exit'"] {
        assert_eq!(server.line(), message);
    }
}

#[test]
fn nicknames_are_compared_exactly_in_chat() {
    let server = Python::start(
        r"
import threading
server = listen()
people = {}
def serve(conn):
    conn.send('请输入昵称:'.encode())
    nick = conn.recv(1024).decode()
    people[nick] = conn
    say(repr(nick))
    while True:
        data = conn.recv(1024).decode()
        if not data:
            break
        if ':' in data:
            name, text = data.split(':', 1)
            people[name].send((nick + ': ' + text).encode())
        else:
            for name, other in list(people.items()):
                if name != nick:
                    other.send((nick + ': ' + data).encode())
while True:
    conn, addr = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
",
    );
    let Some(mut server) = server else { return };
    let mut ada = Client::start(["chat", &server.address, "--eol", "none", "--nick", "ada"]);
    assert_eq!(server.line(), "'ada'");
    let mut bob = Client::start(["chat", &server.address, "--eol", "none"]);
    // The nickname and the first line come together, and are told apart.
    bob.say("bob\nada:psst\n");
    assert_eq!(server.line(), "'bob'");
    ada.expect("请输入昵称:bob: psst");
    ada.say("hello, all\n");
    bob.expect("请输入昵称:ada: hello, all");
}

#[test]
fn a_reply_to_each_datagram() {
    let server = Python::start(
        r"
server = listen(socket.SOCK_DGRAM)
while True:
    data, addr = server.recvfrom(1024)
    say(repr(data))
    server.sendto(b'my name is server', addr)
    if data == b'exit':
        break
",
    );
    let Some(mut server) = server else { return };
    let mut client = Client::start(["talk", &format!("udp://{}", server.address)]);
    for text in ["hello", "exit"] {
        client.say(&format!("{text}\n"));
        assert_eq!(client.out_line(), "my name is server");
        assert_eq!(server.line(), format!("b'{text}'"));
    }
    assert_eq!(client.finish().fine(), "");
}

#[test]
fn a_client_of_a_tutorial_at_the_console() {
    let mut operator = Client::spawn(tidewheel(["talk", "--listen", "127.0.0.1:0", "--eol", "none"]));
    let address = operator.listening();
    let port = address.rsplit_once(':').expect("it has a port").1;
    let peer = Python::start(&format!(
        r"
say('')
conn = socket.create_connection(('127.0.0.1', {port}))
conn.send(b'over')
while True:
    data = conn.recv(1024).decode()
    say(repr(data))
    if data == 'bye':
        break
    conn.send(b'roger')
conn.close()
"
    ));
    let Some(mut peer) = peer else { return };
    operator.expect("over");
    operator.say("come in\n");
    assert_eq!(peer.line(), "'come in'");
    operator.expect("roger");
    operator.say("bye\n");
    assert_eq!(peer.line(), "'bye'");
    let line = operator.err_line();
    assert!(line.ends_with(" connected"), "{line}");
    let line = operator.err_line();
    assert!(line.ends_with(" disconnected"), "{line}");
}
