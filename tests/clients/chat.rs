//! `tidewheel chat` in pipes: against the service, and against servers that go.

use std::io::Write;
use std::net::TcpListener;

use super::console::Client;
use crate::harness::program::{Server, refused};
use crate::harness::read_to_end;

#[test]
fn two_people_in_a_room() {
    let server = Server::start(["chat=127.0.0.1:0"]);
    let address = server.address("chat", "tcp://");
    let mut ada = Client::start(["chat", address, "--nick", "ada"]);
    ada.expect("nickname: * welcome to lobby, ada");
    ada.out_line();
    let mut bob = Client::start(["chat", address]);
    bob.expect("nickname: ");
    bob.say("ada\n");
    assert!(bob.out_line().starts_with("* "), "the name is taken");
    bob.expect("nickname: ");
    bob.say("bob\n");
    assert!(bob.out_line().starts_with("* welcome to lobby, bob"));
    assert!(ada.out_line().contains("bob"), "she is told who comes");
    bob.say("hello, all\nada:and you\n");
    assert_eq!(ada.out_line(), "bob: hello, all");
    assert_eq!(ada.out_line(), "bob -> you: and you");
    bob.finish().fine();
    ada.say("/quit\n");
    let ended = ada.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_nickname_that_is_refused_ends_it_before_anything_is_said() {
    for (lang, why) in [("en", "the name ada is taken"), ("zh", "昵称 ada 已被使用")] {
        let server = Server::start(["--lang", lang, "chat=127.0.0.1:0"]);
        let address = server.address("chat", "tcp://");
        let mut ada = Client::start(["chat", address, "--nick", "ada"]);
        assert!(ada.out_line().contains("lobby"));
        let mut other = Client::start(["chat", address, "--nick", "ada"]);
        other.say("no nickname\n");
        other.end_input();
        let line = other.wait().failed(1);
        assert!(line.contains(why) && line.contains("--nick"), "{line}");
        // Nobody has come under the name of what was to be said.
        let mut bob = Client::start(["chat", address, "--nick", "bob"]);
        bob.say("hello\n");
        bob.finish().fine();
        assert!(ada.out_line().contains("bob"));
        assert_eq!(ada.out_line(), "bob: hello");
    }
}

#[test]
fn it_is_told_that_the_server_is_gone() {
    for (lang, expected) in
        [("en", "the server tcp://{} closed the connection"), ("zh", "服务器 tcp://{} 已断开")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let client = Client::start(["chat", &address, "--nick", "ada", "--lang", lang, "--eol", "crlf"]);
        let (mut stream, _) = listener.accept().expect("the client connects");
        stream.write_all("请输入昵称:".as_bytes()).expect("the client is there");
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let ended = client.wait();
        assert_eq!(ended.out, "请输入昵称:");
        let expected = expected.replace("{}", &address);
        assert_eq!((ended.code, ended.err), (Some(0), format!("tidewheel: {expected}\n")));
        assert_eq!(read_to_end(&mut stream).0, b"ada\r\n");
    }
}

#[test]
fn bad_usage_is_told() {
    let line = refused(["chat", "udp://127.0.0.1:1"]);
    assert!(
        line.contains("chat needs tcp or a unix stream socket") && line.contains("tidewheel chat --help"),
        "{line}"
    );
    let line = refused(["chat", "--nick", "two\nlines"]);
    assert!(line.contains("a nickname must not be empty"), "{line}");
}
