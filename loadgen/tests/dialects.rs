//! The dialects of chat: a small server that passes lines on, right and wrong, one that speaks as Redis does and is
//! wrong, and Redis and NATS themselves where they are installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{complaint, loadgen, serve};
use crate::skipped::is_installed;

/// A server that passes each line on to all others, but as `way` says: it is given the number of the line, the first after
/// the greetings being 0, and what goes to each of the others in the order of their coming.
fn lines_server(way: impl FnMut(u64, &mut Vec<Vec<u8>>) + Send + 'static) -> String {
    let state = Arc::new(Mutex::new((Vec::<TcpStream>::new(), 0, way)));
    serve(move |stream| {
        let own = stream.peer_addr().unwrap();
        state.lock().unwrap().0.push(stream.try_clone().unwrap());
        let mut input = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
            let (members, number, way) = &mut *state.lock().unwrap();
            let others: Vec<_> =
                members.iter().filter(|it| it.peer_addr().is_ok_and(|it| it != own)).collect();
            let mut copies = vec![line.clone(); others.len()];
            if line != b"* hello\n" {
                way(*number, &mut copies);
                *number += 1;
            }
            for (mut other, copy) in others.into_iter().zip(&copies) {
                let _ = other.write_all(copy);
            }
            line.clear();
        }
    })
}

/// Runs without warm-up, whatever comes of it: the JSON and what was told on standard error.
fn outcome(target: &str, dialect: &str, arguments: &[&str]) -> (Value, String) {
    let run = ["run", target, "--dialect", dialect, "-w", "0", "--json", "-"];
    let output = loadgen(&[&run, arguments].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    (serde_json::from_slice(&output.stdout).expect(&told), told)
}

fn counts(result: &Value) -> [u64; 7] {
    let chat = ["deliveries", "corrupted", "duplicated", "reordered", "wrong_room", "unexpected"]
        .map(|kind| result["chat"][kind].as_u64().unwrap());
    let [deliveries, corrupted, duplicated, reordered, wrong_room, unexpected] = chat;
    [deliveries, corrupted, duplicated, reordered, wrong_room, unexpected, result["lost"].as_u64().unwrap()]
}

/// A run of which every delivery is right: it may have had too little of the processor, and nothing else.
fn right(target: &str, dialect: &str, arguments: &[&str], deliveries: u64) {
    let (result, told) = outcome(target, dialect, arguments);
    assert_eq!(counts(&result), [deliveries, 0, 0, 0, 0, 0, 0], "{told}");
    assert_eq!((&result["errors"], &result["chat"]["dialect"]), (&0.into(), &dialect.into()), "{told}");
    let limiter = result["limiter"].as_str();
    assert!(matches!(limiter, None | Some("generator's CPU")), "{told}");
}

#[test]
fn lines_go_to_everybody_else_as_they_are() {
    let target = format!("chat={}", lines_server(|_, _| {}));
    right(&target, "lines", &["-c", "8", "-n", "300", "-d", "16"], 7 * 300);
    // Whoever talks hears the others who do.
    right(&target, "lines", &["-c", "5", "-n", "300", "--senders", "5", "-s", "uniform:1-3000"], 4 * 300);
    right(&target, "lines", &["-c", "5", "-n", "100", "--senders", "2", "-r", "2k"], 4 * 100);
    // Longer than what one read takes.
    right(&target, "lines", &["-c", "3", "-n", "20", "-d", "4", "-s", "300000"], 2 * 20);
}

#[test]
fn lines_that_are_lost_doubled_or_changed_are_seen() {
    let address = lines_server(|number, copies| match number {
        20 => copies[0].clear(),
        30 => copies[1] = copies[1].repeat(2),
        40 => copies[2][30] ^= 1,
        _ => {}
    });
    let (result, told) =
        outcome(&format!("chat={address}"), "lines", &["-c", "5", "-n", "100", "--timeout", "1s"]);
    assert_eq!(counts(&result), [398, 1, 1, 0, 0, 0, 1], "{told}");
}

/// Answers PING, SUBSCRIBE and PUBLISH as Redis does, but to a PUBLISH with this number what `receipt` makes of the right
/// answer.
fn redis_server(receipt: impl Fn(u64, String) -> String + Send + Sync + 'static) -> String {
    let state = Arc::new(Mutex::new((Vec::<(TcpStream, String)>::new(), 0)));
    serve(move |mut stream| {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        let string = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        while let Some(words) = command(&mut input) {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let (members, number) = &mut *state.lock().unwrap();
            let reply = match words[..] {
                ["PING"] => "+PONG\r\n".to_owned(),
                ["SUBSCRIBE", channel] => {
                    members.push((stream.try_clone().unwrap(), channel.to_owned()));
                    format!("*3\r\n{}{}:1\r\n", string("subscribe"), string(channel))
                }
                ["PUBLISH", channel, text] => {
                    let push = format!("*3\r\n{}{}{}", string("message"), string(channel), string(text));
                    let receivers = members.iter_mut().filter(|(_, of)| of == channel);
                    let count =
                        receivers.filter_map(|(other, _)| other.write_all(push.as_bytes()).ok()).count();
                    *number += 1;
                    receipt(*number - 1, format!(":{count}\r\n"))
                }
                _ => "-ERR unknown command\r\n".to_owned(),
            };
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn command(input: &mut impl BufRead) -> Option<Vec<String>> {
    let head = |prefix: char, input: &mut dyn BufRead| {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|&len| len > 0)?;
        Some(line.trim_end().strip_prefix(prefix).unwrap().parse::<usize>().unwrap())
    };
    let count = head('*', input)?;
    (0..count)
        .map(|_| {
            let mut word = vec![0; head('$', input)? + 2];
            input.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            String::from_utf8(word).ok()
        })
        .collect()
}

#[test]
fn what_redis_says_of_its_receivers_must_be_right() {
    let target = format!("chat={}", redis_server(|_, right| right));
    let load = ["-c", "9", "--rooms", "3", "--senders", "1", "-n", "90"];
    right(&target, "redis", &load, 2 * 90);
    for (wrong, words) in [
        (":1\r\n", "the server reports 1 as the number of receivers, not 2"),
        (":2\r\n:2\r\n", "a line that was never sent"),
        ("-ERR out of memory\r\n", "-ERR out of memory"),
    ] {
        let way = move |number, right| if number == 10 { wrong.to_owned() } else { right };
        let (result, told) = outcome(&format!("chat={}", redis_server(way)), "redis", &load);
        assert_eq!(result["limiter"], "wrong replies", "{told}");
        assert!(told.contains(words), "{told}");
    }
    let silent = |number, right| if number == 10 { String::new() } else { right };
    let target = format!("chat={}", redis_server(silent));
    let (result, told) = outcome(&target, "redis", &[&load[..], &["--timeout", "500ms"]].concat());
    assert_eq!(counts(&result), [180, 0, 0, 0, 0, 0, 1], "{told}");
    assert!(told.contains("1 line had no answer"), "{told}");
}

#[test]
fn a_server_that_speaks_otherwise_is_told() {
    let greeting = |words: &'static str| {
        serve(move |mut stream| {
            stream.write_all(words.as_bytes()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    for (dialect, says, words) in [
        ("redis", "nickname: \n", "is not in this dialect"),
        ("redis", "-NOAUTH Authentication required.\r\n", "NOAUTH"),
        ("nats", "nickname: \n", "is not in this dialect"),
        ("nats", "-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        ("lines", "", "is in no room after 300ms"),
    ] {
        let target = format!("chat={}", greeting(says));
        let arguments = ["run", &target, "--dialect", dialect, "-c", "2", "--timeout", "300ms"];
        let told = complaint(&arguments, 3);
        assert!(told.contains(words), "{dialect}: {told}");
    }
}

#[test]
fn dialects_that_cannot_be_are_bad_usage() {
    for (arguments, words) in [
        (&["chat=127.0.0.1:1", "--dialect", "irc"][..], "tidewheel, lines, redis, nats"),
        (&["echo=127.0.0.1:1", "--dialect", "lines"], "--dialect is for chat"),
        (&["chat=127.0.0.1:1", "--dialect", "lines", "-c", "4", "--rooms", "2"], "remove --rooms"),
        (&["chat=127.0.0.1:1", "--dialect", "redis", "-c", "2", "--senders", "2"], "leave no receiver"),
    ] {
        let told = complaint(&[&["run"], arguments].concat(), 2);
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn redis_is_understood() {
    if !is_installed("redis-server", "redis-server") {
        return;
    }
    let server = "redis-server --bind 127.0.0.1 --port {port} --save '' --loglevel warning";
    let load = ["-c", "20", "--rooms", "2", "--senders", "3", "-n", "600", "-d", "64", "--spawn", server];
    right("chat=127.0.0.1:{port}", "redis", &load, 7 * 600);
}

#[test]
fn nats_is_understood() {
    if !is_installed("nats-server", "nats-server") {
        return;
    }
    let server = "nats-server --addr 127.0.0.1 --port {port} --log /dev/null";
    let load = ["-c", "20", "--rooms", "2", "--senders", "3", "-n", "600", "-d", "64", "--spawn", server];
    right("chat=127.0.0.1:{port}", "nats", &load, 9 * 600);
}
