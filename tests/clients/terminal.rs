//! The clients on a terminal: what comes in never tears the line that is typed, and the terminal is left as it was.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::screen::Screen;
use crate::harness::program::Server;
use crate::harness::{PATIENCE, expect, read_to_end, reset};

/// A client on a terminal, and the other end of its connection.
fn talk(options: &[&str]) -> Option<(Screen, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let screen = Screen::start(&[&["talk", &address], options].concat())?;
    let (stream, _) = listener.accept().expect("the client connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    screen.await_last(">");
    Some((screen, stream))
}

#[test]
fn what_comes_in_stands_above_the_line_that_is_typed() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.type_text("half a li");
    screen.await_last("> half a li");
    stream.write_all(b"first\nsec").expect("the client is there");
    let lines = screen.await_line("sec");
    assert_eq!(lines[lines.len() - 3..], ["first", "sec", "> half a li"], "a prompt has no end");
    screen.type_text("ne");
    screen.press("BSpace");
    screen.await_last("> half a lin");
    for number in 0..100 {
        stream.write_all(format!("line {number}\n").as_bytes()).expect("the client is there");
    }
    screen.await_line("line 99");
    screen.type_text("e");
    let lines = screen.await_last("> half a line");
    let expected: Vec<_> = (0..100).map(|number| format!("line {number}")).collect();
    assert_eq!(lines[lines.len() - 101..lines.len() - 1], expected);
    screen.press("Enter");
    expect(&mut stream, b"half a line\n");
    screen.press("C-c");
    screen.await_end();
    assert_eq!(read_to_end(&mut stream).0, b"");
}

#[test]
fn wide_characters_and_lines_of_several_rows_stay_whole() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    // Two columns each: with the prompt two rows and a little.
    let typed = "你好，世界。".repeat(14);
    screen.type_text(&typed);
    let is_typed = |lines: &[String]| {
        let rows = lines.iter().rposition(|line| line.starts_with("> ")).map(|first| lines[first..].concat());
        rows.is_some_and(|rows| rows.trim_end() == format!("> {typed}"))
    };
    screen.await_lines("all is typed", is_typed);
    let long = "长".repeat(100);
    for text in ["短", &long, "the last"] {
        stream.write_all(format!("{text}\n").as_bytes()).expect("the client is there");
    }
    screen.await_line("the last");
    let lines = screen.await_lines("what was typed stays whole", is_typed);
    let at = lines.iter().position(|line| line == "短").expect("it was printed");
    assert_eq!(lines[at + 1..at + 4].concat(), long);
    assert_eq!(lines[at + 4], "the last");
    assert!(lines[at + 5].starts_with("> 你好"), "{}", lines.join("\n"));
    // In the middle of the line, in another row.
    for _ in 0..60 {
        screen.press("Left");
    }
    stream.write_all(b"once more\n").expect("the client is there");
    let lines = screen.await_line("once more");
    assert!(is_typed(&lines), "{}", lines.join("\n"));
    screen.press("Enter");
    expect(&mut stream, format!("{typed}\n").as_bytes());
}

#[test]
fn nothing_is_torn_or_lost_or_out_of_order_while_lines_are_entered() {
    const INCOMING: usize = 2000;
    const TYPED: usize = 60;
    let Some((screen, stream)) = talk(&[]) else { return };
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let writer = std::thread::spawn(move || {
        let mut stream = stream;
        for number in 0..INCOMING {
            stream.write_all(format!("incoming {number:04} .\n").as_bytes()).expect("the client is there");
        }
        stream
    });
    for number in 0..TYPED {
        screen.type_text(&format!("typed {number:02} ."));
        screen.press("Enter");
    }
    for number in 0..TYPED {
        let mut line = String::new();
        reader.read_line(&mut line).expect("it is UTF-8");
        assert_eq!(line, format!("typed {number:02} .\n"));
    }
    let stream = writer.join().expect("it writes everything");
    screen.await_line(&format!("incoming {:04} .", INCOMING - 1));
    drop((stream, reader));
    let lines = screen.await_end();

    let incoming: Vec<_> = lines.iter().filter(|line| line.contains("incoming")).collect();
    let expected: Vec<_> = (0..INCOMING).map(|number| format!("incoming {number:04} .")).collect();
    assert!(incoming.iter().copied().eq(&expected), "{}", lines.join("\n"));
    let typed: Vec<_> = lines.iter().filter(|line| line.contains("typed")).collect();
    // Between two lines the terminal itself may show what is typed ahead, once more before the editor does.
    let whole: Vec<_> = (0..TYPED).map(|number| format!("> typed {number:02} .")).collect();
    for line in whole {
        assert!(typed.contains(&&line), "{line} is missing in\n{}", lines.join("\n"));
    }
}

#[test]
fn what_a_stranger_sends_has_no_power_over_the_terminal() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    stream.write_all(b"\x1b[2J\x1b[31mred\x07\rnot \xff\x9b31m\ttab\n").expect("the client is there");
    screen.await_line(r"\u{1b}[2J\u{1b}[31mred\u{7}\rnot \xFF\x9B31m    tab");
    // A character in two pieces is one all the same.
    let (one, other) = "中".as_bytes().split_at(1);
    stream.write_all(one).expect("the client is there");
    stream.write_all(&[other, b"\r\n"].concat()).expect("the client is there");
    screen.await_line("中");
    // Also when the rest comes after a prompt was shown that it follows.
    stream.write_all(&[b"name:", one].concat()).expect("the client is there");
    screen.await_line("name:");
    stream.write_all(&[other, b"\n"].concat()).expect("the client is there");
    screen.await_lines("it is one", |lines| lines.iter().filter(|line| *line == "中").count() == 2);
}

#[test]
fn no_key_holds_back_what_comes_in() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    for text in ["other words", "words"] {
        screen.type_text(text);
        screen.press("Enter");
        expect(&mut stream, format!("{text}\n").as_bytes());
    }
    for (number, key) in
        ["C-r", "C-s", "C-q", "C-v", "C-x", "C-]", "M-C-]", "Tab", "Escape"].iter().enumerate()
    {
        screen.press(key);
        for part in 0..3 {
            stream.write_all(format!("{number} {part}\n").as_bytes()).expect("the client is there");
        }
        screen.await_line(&format!("{number} 2"));
    }
    screen.press("C-u");
    // The last line that begins like this.
    screen.type_text("ot");
    screen.await_last("> ot");
    screen.press("C-r");
    screen.await_last("> other words");
    screen.press("Enter");
    expect(&mut stream, b"other words\n");
}

#[test]
fn lines_can_be_edited_and_called_back() {
    let Some((screen, mut stream)) = talk(&["--eol", "crlf"]) else { return };
    screen.type_text("helo");
    screen.press("Left");
    screen.type_text("l");
    screen.press("Enter");
    expect(&mut stream, b"hello\r\n");
    screen.press("Up");
    screen.await_last("> hello");
    screen.press("C-u");
    screen.type_text("other");
    screen.press("Enter");
    expect(&mut stream, b"other\r\n");
    for _ in 0..2 {
        screen.press("Up");
    }
    screen.await_last("> hello");
    screen.press("Enter");
    expect(&mut stream, b"hello\r\n");
}

#[test]
fn the_end_of_input_half_closes_and_what_still_arrives_is_printed() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.type_text("question");
    screen.press("Enter");
    screen.press("C-d");
    assert_eq!(read_to_end(&mut stream).0, b"question\n");
    screen.await_lines("it says so", |lines| lines.iter().any(|line| line.starts_with("* end of input")));
    stream.write_all(b"an answer\nand the last word").expect("the client still reads");
    drop(stream);
    let lines = screen.await_end();
    for line in ["an answer", "and the last word"] {
        assert!(lines.iter().any(|found| found == line), "{}", lines.join("\n"));
    }
}

#[test]
fn when_the_server_closes_nothing_that_it_said_is_lost() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.type_text("unfinished");
    screen.await_last("> unfinished");
    let mut said = String::new();
    for number in 0..50 {
        writeln!(said, "{number}").expect("a String takes everything");
    }
    said.push_str("goodbye");
    stream.write_all(said.as_bytes()).expect("the client is there");
    drop(stream);
    let lines = screen.await_end();
    let at = lines.iter().position(|line| line == "0").expect("it was printed");
    assert_eq!(lines[at..at + 51].join("\n"), said);
    assert!(lines[at + 51].ends_with(" closed the connection"), "{}", lines.join("\n"));
}

#[test]
fn the_word_ends_it_from_either_side() {
    let Some((screen, mut stream)) = talk(&["--until", "bye"]) else { return };
    screen.type_text("BYE");
    screen.press("Enter");
    assert_eq!(read_to_end(&mut stream).0, b"BYE\n");
    drop(stream);
    screen.await_end();

    let Some((screen, mut stream)) = talk(&["--until", "bye"]) else { return };
    stream.write_all(b"Bye").expect("the client is there");
    let lines = screen.await_end();
    assert!(lines.contains(&"Bye".to_owned()), "{}", lines.join("\n"));
}

#[test]
fn a_terminal_that_is_told_to_end_is_left_as_it_was() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.press("C-c");
    screen.await_end();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("it is closed in order");
    assert_eq!(rest, b"");
}

#[test]
fn who_has_ended_the_input_can_leave_at_once() {
    for key in ["C-c", "C-d"] {
        let Some((screen, mut stream)) = talk(&["--wait", "0"]) else { return };
        screen.press("C-d");
        assert_eq!(read_to_end(&mut stream).0, b"");
        screen.await_lines("it says so", |lines| lines.iter().any(|line| line.starts_with("* end of input")));
        screen.press(key);
        screen.await_end();
    }
}

#[test]
fn a_server_that_vanishes_leaves_the_terminal_as_it_was() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.type_text("unfinished");
    screen.await_last("> unfinished");
    stream.write_all(b"half a line").expect("the client is there");
    screen.await_line("half a line");
    reset(stream);
    let lines = screen.await_code(1);
    assert!(
        lines.iter().any(|line| line.starts_with("tidewheel: cannot receive from tcp://")),
        "{}",
        lines.join("\n")
    );
}

#[test]
fn what_is_typed_and_not_utf8_is_not_sent_and_the_conversation_goes_on() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    screen.send_bytes(b"caf\xe9\r");
    screen.await_line("* not sent: the line is not valid UTF-8");
    screen.type_text("coffee");
    screen.await_last("> coffee");
    screen.press("Enter");
    expect(&mut stream, b"coffee\n");
    screen.press("C-c");
    screen.await_end();
}

#[test]
fn the_line_that_is_typed_stays_whole_in_another_size() {
    let Some((screen, mut stream)) = talk(&[]) else { return };
    let typed = "a line that is longer than the terminal will be";
    screen.type_text(typed);
    screen.await_last(&format!("> {typed}"));
    screen.resize(30, 12);
    let is_typed = |lines: &[String]| {
        let first = lines.iter().rposition(|line| line.starts_with("> "));
        first.is_some_and(|first| lines[first..].concat() == format!("> {typed}"))
    };
    screen.await_lines("it is wrapped", is_typed);
    stream.write_all(b"narrow\n").expect("the client is there");
    screen.await_line("narrow");
    screen.await_lines("it stays whole", is_typed);
    screen.resize(100, 30);
    stream.write_all(b"wide\n").expect("the client is there");
    screen.await_line("wide");
    screen.await_last(&format!("> {typed}"));
    screen.press("Enter");
    expect(&mut stream, format!("{typed}\n").as_bytes());
}

#[test]
fn an_operator_serves_one_peer_after_another() {
    let Some(screen) = Screen::start(&["talk", "--listen", "127.0.0.1:0"]) else { return };
    let lines =
        screen.await_lines("it listens", |lines| lines.iter().any(|line| line.starts_with("* listening on")));
    let line =
        lines.iter().find_map(|line| line.strip_prefix("* listening on tcp://")).expect("it says where");
    screen.type_text("too early");
    screen.press("Enter");
    screen.await_line("* not sent: no peer is connected");
    for word in ["Bye", "bye\r\n"] {
        let mut peer = TcpStream::connect(line).expect("it listens");
        let name = peer.local_addr().expect("it is connected");
        screen.await_line(&format!("* {name} connected"));
        screen.type_text("hello");
        screen.press("Enter");
        expect(&mut peer, b"hello\n");
        peer.write_all(word.as_bytes()).expect("it is open");
        screen.await_line(&format!("* {name} disconnected"));
    }
    screen.press("C-d");
    screen.await_end();
}

#[test]
fn people_chat_on_terminals() {
    let server = Server::start(["chat=127.0.0.1:0"]);
    let address = server.address("chat", "tcp://");
    let Some(ada) = Screen::start(&["chat", address, "--nick", "ada", "--lang", "zh"]) else { return };
    ada.await_lines("she is in", |lines| lines.iter().any(|line| line.contains("welcome to lobby, ada")));
    assert!(ada.lines()[0].starts_with("* 已连接到 tcp://"), "{:?}", ada.lines());
    let bob = Screen::start(&["chat", address]).expect("tmux was there for ada");
    bob.await_line("nickname:");
    bob.type_text("bob");
    bob.press("Enter");
    bob.await_lines("he is in", |lines| lines.iter().any(|line| line.contains("welcome to lobby, bob")));
    ada.type_text("I am typ");
    ada.await_last("> I am typ");
    bob.type_text("hello, ada");
    bob.press("Enter");
    let lines = ada.await_line("bob: hello, ada");
    assert_eq!(lines.last().map(|line| &**line), Some("> I am typ"));
    ada.type_text("ing");
    ada.press("Enter");
    bob.await_line("ada: I am typing");
    server.stop();
    let lines = ada.await_end();
    assert!(lines.iter().any(|line| line.ends_with(" 已断开")), "{}", lines.join("\n"));
    bob.await_end();
}
