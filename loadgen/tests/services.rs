//! Services beside echo and uppercase: small servers that are right, and that are wrong in one way each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Signal, complaint, measure, serve, signal};

/// Answers each line, or each head that an empty line ends, by its number on the connection; `None` closes.
fn answer_lines(stream: TcpStream, end: &[u8], mut answer: impl FnMut(u64, &[u8]) -> Option<Vec<u8>>) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    let mut request = Vec::new();
    let mut number = 0;
    while matches!(input.read_until(b'\n', &mut request), Ok(1..)) {
        if !request.ends_with(end) {
            continue;
        }
        let Some(reply) = answer(number, &request) else { return };
        if output.write_all(&reply).is_err() {
            return;
        }
        request.clear();
        number += 1;
    }
}

/// Answers every request by what `reply` makes of its number on the connection.
fn http_server(reply: impl Fn(u64) -> Option<String> + Send + Sync + 'static) -> String {
    serve(move |stream| answer_lines(stream, b"\r\n\r\n", |number, _| reply(number).map(String::into_bytes)))
}

fn page(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let (one, other) = body.split_at(body.len() / 2);
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(one), chunk(other))
}

#[test]
fn http_asks_for_a_page_and_checks_each_byte_of_it() {
    let address = serve(|stream| {
        let host = stream.local_addr().unwrap();
        answer_lines(stream, b"\r\n\r\n", |number, request| {
            let due = format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(request, due.as_bytes());
            let body = "<h1>Hello</h1>".repeat(10_000);
            Some(if number % 2 == 0 { page(&body) } else { chunked(&body) }.into_bytes())
        })
    });
    let target = format!("http={address}");
    let result = measure(&target, &["--path", "/a?b", "-c", "3", "-d", "4", "-n", "600", "--threads", "2"]);
    assert_eq!(
        (&result["requests"], &result["errors"], &result["lost"]),
        (&600.into(), &0.into(), &0.into())
    );
    assert_eq!(result["path"], "/a?b");
    assert!(result["size"].is_null());
    let result = measure(&target, &["--path", "/a?b", "-c", "3", "-r", "1k", "-n", "50"]);
    assert_eq!((&result["requests"], &result["errors"]), (&50.into(), &0.into()));
}

#[test]
fn http_tells_what_is_wrong_and_where() {
    let right = page("hello");
    for (wrong, told) in [
        (page("hellO"), "byte 128 of its replies is 0x4f, not 0x6f"),
        (page("hell"), "byte 127 of its replies is in a body of 4 bytes, the first had 5"),
        (page("hello!"), "byte 129 of its replies is in a body longer than the first one, of 5 bytes"),
        (
            page("hello").replace("200 OK", "503 No"),
            "byte 86 of its replies is in a reply with status 503, not 200",
        ),
    ] {
        let replies = [right.clone(), right.clone(), wrong, right.clone()];
        let address = http_server(move |number| Some(replies[number.min(3) as usize].clone()));
        let arguments = ["run", &format!("http={address}"), "-w", "0", "-d", "5", "-n", "20"];
        let complaint = complaint(&arguments, 3);
        assert!(complaint.contains("1 wrong reply") && complaint.contains(told), "{complaint}");
    }
}

#[test]
fn http_without_a_certain_end_is_an_error_and_so_is_a_connection_that_ends() {
    let address = http_server(|_| Some(page("hello").replace("Content-Length: 5", "Content-Length: 5, 6")));
    let told = complaint(&["run", &format!("http={address}"), "-w", "0", "-n", "9"], 3);
    assert!(told.contains("1 wrong reply") && told.contains("two values"), "{told}");
    let address = http_server(|number| (number < 10).then(|| page("hello")));
    let told = complaint(&["run", &format!("http={address}"), "-w", "0", "-n", "20"], 3);
    assert!(told.contains("1 connection closed by the peer"), "{told}");
    // Announced, and then in the middle of a reply.
    let address = serve(|mut stream| {
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(closing("hello").strip_suffix("lo").unwrap().as_bytes()).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let told = complaint(&["run", &format!("http={address}"), "-w", "0", "-n", "20"], 3);
    assert!(told.contains("1 connection closed by the peer"), "{told}");
}

#[test]
fn http_replies_may_have_others_before_them_and_end_with_the_connection() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    let address = http_server(move |number| {
        Some(if number % 2 == 0 { interim.repeat(3) + &page("hello") } else { page("hello") })
    });
    for command in [&["run"][..], &["run", "--reconnect"]] {
        let target = format!("http={address}");
        let output = super::loadgen(&[command, &[&target, "-w", "0", "-n", "50", "--json", "-"]].concat());
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!([&result["requests"], &result["errors"], &result["lost"]], [50, 0, 0], "{result}");
    }
    let address = http_server_that_ends(3, "HTTP/1.1 200 OK\r\n\r\nhello".to_owned());
    let result = measure(&format!("http={address}"), &["-n", "31"]);
    assert_eq!([&result["errors"], &result["lost"], &result["peer_closed"]], [0, 0, 0], "{result}");
    assert_eq!(result["reopened"], 10, "{result}");
    let address = http_server_that_ends(1, "HTTP/1.0 200 OK\r\n\r\nhello".to_owned());
    let target = format!("http={address}");
    let output = super::loadgen(&["run", &target, "--reconnect", "-w", "0", "-n", "20", "--json", "-"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&result["requests"], &result["errors"], &result["lost"]], [20, 0, 0], "{result}");
    // One that is shorter than the first is wrong, and so is one that is reset.
    let (count, shorter) = (AtomicU64::new(0), "HTTP/1.1 200 OK\r\n\r\nhello");
    let address = serve(move |mut stream| {
        let cut = usize::from(count.fetch_add(1, Ordering::Relaxed) == 2);
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(&shorter.as_bytes()[..shorter.len() - cut]).unwrap();
    });
    let told = complaint(&["run", &format!("http={address}"), "-w", "0", "-n", "5"], 3);
    assert!(told.contains("1 wrong reply") && told.contains("a body of 4 bytes, the first had 5"), "{told}");
    let address = http_server(|_| Some("HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()));
    let told = complaint(&["run", &format!("http={address}"), "-w", "0", "-n", "5"], 3);
    assert!(told.contains("switches protocols"), "{told}");
}

#[test]
fn http_names_the_host_as_a_uri_does() {
    for (address, written) in
        [("[::1]:0", "{address}"), ("[::1]:0", "::1:{port}"), ("[::1]:0", "[::1%1]:{port}")]
    {
        let Ok(listener) = TcpListener::bind(address) else { return };
        let bound = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            answer_lines(stream, b"\r\n\r\n", |_, request| {
                assert_eq!(
                    request,
                    format!("GET / HTTP/1.1\r\nHost: [::1]:{}\r\n\r\n", bound.port()).as_bytes()
                );
                Some(page("hello").into_bytes())
            });
        });
        let written =
            written.replace("{address}", &bound.to_string()).replace("{port}", &bound.port().to_string());
        measure(&format!("http={written}"), &["-n", "2"]);
    }
}

/// A page, the last one of its connection.
fn closing(body: &str) -> String {
    page(body).replace("OK", "OK\r\nConnection: close")
}

/// Answers so many requests on each connection, the last of them with `last`, and closes it.
fn http_server_that_ends(count: u64, last: String) -> String {
    serve(move |mut stream| {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        for number in 1..=count {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if !matches!(input.read_line(&mut line), Ok(1..)) {
                    return;
                }
            }
            let reply = if number < count { page("hello") } else { last.clone() };
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_connection_whose_end_was_announced_is_opened_again() {
    // As nginx does after so many keepalive_requests.
    let target = format!("http={}", http_server_that_ends(10, closing("hello")));
    let result = measure(&target, &["-n", "95"]);
    assert_eq!(
        [&result["requests"], &result["reopened"], &result["lost"], &result["peer_closed"]],
        [95, 9, 0, 0].map(|count| json!(count)).each_ref()
    );
    let result = measure(&target, &["-n", "300", "-c", "4", "--threads", "2", "--source-ips", "127.0.0.2"]);
    assert_eq!([&result["lost"], &result["peer_closed"]], [&json!(0), &json!(0)]);
    // A connection that is not open yet is no full socket.
    assert_eq!(result["blocked_writes"], 0, "{result}");
    // Of each connection, all but the last of those that took its place have had their ten.
    assert!((26..=30).contains(&result["reopened"].as_u64().unwrap()), "{result}");
    // HTTP/1.0 announces it by its name, and localhost may have several addresses.
    let old = page("hello").replace("HTTP/1.1", "HTTP/1.0");
    let target = format!("http={}", http_server_that_ends(1, old).replace("127.0.0.1", "localhost"));
    let result = measure(&target, &["-n", "30"]);
    assert_eq!(result["lost"], 0, "{result}");
    // The end of the last one may come with its reply.
    assert!((29..=30).contains(&result["reopened"].as_u64().unwrap()), "{result}");
    let output = super::loadgen(&["run", &target, "-n", "30", "-w", "0"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("connections opened again"), "{table}");
}

#[test]
fn what_was_written_before_an_announced_end_is_lost_and_the_rest_is_sent_again() {
    let request = |address: &str| format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").len();
    // Four are written together, and two of them answered. Two more that have room then go out on the next connection.
    for count in ["4", "6"] {
        let is_first = AtomicBool::new(true);
        let address = serve(move |mut stream| {
            let host = stream.local_addr().unwrap().to_string();
            let is_first = is_first.swap(false, Ordering::Relaxed);
            let mut due = vec![0; if is_first { 4 } else { 2 } * request(&host)];
            if stream.read_exact(&mut due).is_ok() {
                let last = if is_first { closing("hello") } else { page("hello") };
                stream.write_all((page("hello") + &last).as_bytes()).unwrap();
            }
            if !is_first {
                let _ = stream.read(&mut due);
            }
        });
        let target = format!("http={address}");
        let output = super::loadgen(&["run", &target, "-d", "4", "-n", count, "-w", "0", "--json", "-"]);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            [&result["lost"], &result["reopened"], &result["peer_closed"], &result["errors"]],
            [2, 1, 0, 0].map(|count| json!(count)).each_ref(),
            "{result}"
        );
        assert_eq!(
            (&result["requests"], &result["limiter"]),
            (&json!(count.parse::<u64>().unwrap()), &json!("server"))
        );
    }

    // The next request falls due between the announcement and the end, and is not written before that.
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let address = serve(move |mut stream| {
        let host = stream.local_addr().unwrap().to_string();
        let mut one = vec![0; request(&host)];
        stream.read_exact(&mut one).unwrap();
        stream.write_all(closing("hello").as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        counter.fetch_add(stream.read(&mut one).unwrap_or(0) as u64, Ordering::Relaxed);
    });
    let result = measure(&format!("http={address}"), &["-n", "5"]);
    assert_eq!(
        (&result["requests"], &result["lost"], &result["peer_closed"]),
        (&json!(5), &json!(0), &json!(0))
    );
    assert_eq!(written.load(Ordering::Relaxed), 0);
    // That wait is seen in the times.
    assert!(result["service_time_us"]["max"].as_f64().unwrap() > 29_000.0, "{result}");
}

#[test]
fn a_connection_that_cannot_be_opened_again_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http={}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(closing("hello").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let told = complaint(&["run", &target, "-w", "0", "-n", "2"], 3);
    assert!(told.contains("peer closed") && told.contains("Connection refused"), "{told}");
}

#[test]
fn another_status_may_be_what_is_due() {
    let address = http_server(|_| Some(page("").replace("200 OK", "404 Not Found")));
    let target = format!("http={address}");
    measure(&target, &["--status", "404", "-n", "10"]);
    let told = complaint(&["run", &target, "-w", "0", "-n", "10"], 3);
    assert!(told.contains("10 wrong replies"), "{told}");
}

#[test]
fn greeting_says_welcome_and_then_greets_each_line() {
    let address = serve(|mut stream| {
        stream.write_all(b"Welcome!").unwrap();
        answer_lines(stream, b"\n", |_, line| Some(greeted(line)));
    });
    let target = format!("greeting={address}");
    for size in ["2", "64", "uniform:2-5000"] {
        let result = measure(&target, &["-c", "3", "-d", "4", "-s", size, "-n", "500"]);
        assert_eq!((&result["requests"], &result["errors"]), (&500.into(), &0.into()));
    }
}

fn greeted(line: &[u8]) -> Vec<u8> {
    let text = line.trim_ascii_end();
    [b"Hello, ", text, b"!\n"].concat()
}

#[test]
fn greeting_with_another_word_is_wrong() {
    for (welcome, hello, told) in [
        ("Welcome!", "Hallo, ", "byte 1 of its replies is 0x61, not 0x65, near \"Hallo, "),
        ("Welcome?", "Hello, ", "the greeting is wrong"),
    ] {
        let address = serve(move |mut stream| {
            stream.write_all(welcome.as_bytes()).unwrap();
            answer_lines(stream, b"\n", |_, line| Some([hello.as_bytes(), &greeted(line)[7..]].concat()));
        });
        let complaint = complaint(&["run", &format!("greeting={address}"), "-w", "0", "-n", "3"], 3);
        assert!(complaint.contains("wrong replies") && complaint.contains(told), "{complaint}");
    }
}

#[test]
fn custom_fills_in_what_its_templates_ask_for() {
    let address = serve(|stream| {
        answer_lines(stream, b"\n", |number, line| {
            let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
            let mut word = || String::from_utf8(words.next().unwrap().to_vec()).unwrap();
            let (seq, conn, len, payload) = (word(), word(), word(), word());
            assert_eq!(seq, number.to_string());
            assert_eq!(len, payload.len().to_string());
            Some(format!("{{{payload}/{len}/any {number} thing\r\n{conn}/{seq}}}").into_bytes())
        });
    });
    let target = format!("custom={address}");
    let (send, expect) = (r"{seq} {conn} {len} {payload}\n", r"{{{payload}/{len}/{line}\r\n{conn}/{seq}}}");
    let arguments =
        ["--send", send, "--expect", expect, "-s", "uniform:1-300", "-c", "7", "-d", "3", "-n", "900"];
    let result = measure(&target, &[&arguments[..], &["--threads", "2"]].concat());
    assert_eq!((&result["requests"], &result["errors"]), (&900.into(), &0.into()));
    assert_eq!((&result["send"], &result["expect"]), (&send.into(), &expect.into()));
    assert_eq!(result["size"], "uniform:1-300");
}

/// What custom says of a server that answers all but the request with number 3 as usual.
fn said_of(usual: &'static str, other: &'static str, expect: &str) -> String {
    let address = serve(move |stream| {
        answer_lines(stream, b"\n", |number, _| {
            Some(if number == 3 { other } else { usual }.as_bytes().to_vec())
        });
    });
    let target = format!("custom={address}");
    let arguments =
        ["run", &target, "--send", r"PING\r\n", "--expect", expect, "-w", "0", "-n", "64", "-d", "16"];
    complaint(&arguments, 3)
}

#[test]
fn custom_counts_a_reply_that_is_another_once_and_shows_it() {
    let told = said_of("+PONG\r\n", "-ERR no such command\r\n", r"+PONG\r\n");
    assert!(told.contains("1 wrong reply"), "{told}");
    assert!(told.contains("byte 21 of its replies is 0x2d, not 0x2b"), "{told}");
    assert!(told.contains(r"-ERR no such command\r\n"), "{told}");
    let told = said_of("+PONG\r\n", "+PONK\r\n", r"+PONG\r\n");
    assert!(told.contains("1 wrong reply") && told.contains("byte 25 of its replies"), "{told}");
    let told = said_of("$1\r\n1\r\n", "$1\r\n1\n", r"${line}\r\n{line}\r\n");
    assert!(told.contains("1 wrong reply"), "{told}");
    let told = said_of("-ERR\r\n", "-ERR\r\n", r"+PONG\r\n");
    assert!(told.contains("64 wrong replies"), "{told}");
    let told = said_of("fixed", "fiXed", "fixed");
    assert!(told.contains("1 wrong reply") && told.contains("byte 17 of its replies"), "{told}");
}

/// What the tests of `--spawn` start: this very program, as a server with one thread for each connection. It tells TELL
/// that it is there, and again when the first request has come, and exits after so many requests.
#[test]
#[ignore = "not a test: it serves until it is ended"]
fn an_echo_server_in_a_process_of_its_own() {
    let variable = |name| std::env::var(name).ok();
    let Some(port) = variable("LOADGEN_TEST_PORT") else { return };
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let mut tell = variable("TELL").map(|address| TcpStream::connect(address).unwrap());
    let left: u64 = variable("REQUESTS").map_or(u64::MAX, |requests| requests.parse().unwrap());
    let left = Arc::new(AtomicU64::new(left));
    for stream in listener.incoming() {
        let (mut stream, left) = (stream.unwrap(), left.clone());
        let mut request = [0; 64];
        if let Some(tell) = &mut tell
            && stream.read_exact(&mut request).is_ok()
        {
            stream.write_all(&request).unwrap();
            tell.write_all(b"!").unwrap();
        }
        std::thread::spawn(move || {
            while stream.read_exact(&mut request).is_ok() {
                if left.fetch_sub(1, Ordering::Relaxed) == 0 {
                    std::process::exit(9);
                }
                if stream.write_all(&request).is_err() {
                    return;
                }
            }
        });
    }
}

/// The command for it, with these variables.
pub fn echo_command(variables: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let name = "services::an_echo_server_in_a_process_of_its_own";
    format!(
        "env LOADGEN_TEST_PORT={{port}} {variables} '{}' --exact {name} --ignored --nocapture",
        program.display()
    )
}

pub const SPAWNED: &str = "echo=127.0.0.1:{port}";

#[track_caller]
fn assert_gone(result: &serde_json::Value) {
    let address = result["address"].as_str().unwrap();
    assert!(!address.contains("{port}"), "{address}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_spawned_server_is_measured_with_its_descendants_and_ended() {
    // The second is a grandchild of loadgen.
    let child = format!("sh -c '{} & wait'", echo_command("").replace('\'', ""));
    for command in [echo_command(""), child] {
        let arguments = ["-c", "5", "-n", "2000", "--spawn", &command, "--timeout", "60s"];
        let result = measure(SPAWNED, &arguments);
        assert_eq!((&result["requests"], &result["errors"]), (&2000.into(), &0.into()));
        // Each request is two system calls at least, and a thread that waits for the next; a shell has none.
        assert!(result["server_cpu_ns_per_request"].as_f64().unwrap() > 100.0, "{result}");
        let switches = &result["server_context_switches_per_request"];
        assert!(switches["voluntary"].as_f64().unwrap() > 0.1, "{result}");
        assert!(switches["involuntary"].as_f64().is_some(), "{result}");
        assert_gone(&result);
    }
}

#[test]
fn a_server_that_ends_by_itself_is_told_with_its_exit_status() {
    for (command, told) in [
        ("sh -c 'exit 7'", "exited: exit status: 7"),
        ("sh -c 'kill -9 $$'", "exited: signal: 9"),
        (&echo_command("REQUESTS=100"), "exited: exit status: 9"),
        ("sleep 600", "accepted no connection at 127.0.0.1:"),
        ("/no/such/program", "starting /no/such/program"),
    ] {
        let command = command.to_owned() + " {port}";
        let timeout = if told.contains("accepted") { "200ms" } else { "60s" };
        let arguments = ["run", SPAWNED, "-w", "0", "-c", "2", "--spawn", &command, "--timeout", timeout];
        let complaint = complaint(&arguments, 3);
        assert!(complaint.contains(told), "{complaint}");
    }
    // Its figures would be those of another server.
    let address = serve(|_| {});
    let complaint = complaint(&["run", &format!("echo={address}"), "--spawn", "sleep 600"], 3);
    assert!(complaint.contains("another server is already listening on"), "{complaint}");
}

#[test]
fn a_spawned_server_ends_with_loadgen_however_that_ends() {
    for name in [Signal::INT, Signal::KILL] {
        let told = TcpListener::bind("127.0.0.1:0").unwrap();
        let command = echo_command(&format!("TELL={}", told.local_addr().unwrap()));
        let loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args([
                "run",
                SPAWNED,
                "-w",
                "0",
                "-t",
                "10m",
                "--json",
                "-",
                "--timeout",
                "60s",
                "--spawn",
                &command,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut server, _) = told.accept().unwrap();
        // The reply that shows that it is ready, and the first of the load.
        server.read_exact(&mut [0; 2]).unwrap();
        signal(loadgen.id(), name);
        server.read_to_end(&mut Vec::new()).unwrap();
        let output = loadgen.wait_with_output().unwrap();
        if name == Signal::INT {
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(result["interrupted"], true);
            assert!(result["server_cpu_ns_per_request"].as_f64().is_some(), "{result}");
            assert_gone(&result);
        }
    }
}

/// `cargo test -p loadgen real_servers -- --ignored --nocapture` shows what came of each.
#[test]
#[ignore = "drives redis-server, memcached and nginx, where they are installed"]
fn real_servers() {
    let folder = std::env::temp_dir().join(format!("loadgen-servers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let page = "<h1>Hello world!</h1>".repeat(1000);
    std::fs::write(folder.join("page"), &page).unwrap();
    let folder = folder.to_str().unwrap();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {folder}/{of};"));
    let nginx_conf = format!(
        "daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; events {{ worker_connections 1024; }}
         http {{ access_log off; keepalive_requests 1000000; {} server {{ listen unix:{folder}/nginx; root {folder};
         location = / {{ return 200 hello; }} }} }}",
        paths.concat(),
    );
    std::fs::write(format!("{folder}/nginx.conf"), nginx_conf).unwrap();

    let redis = ["redis-server --port {port} --save '' --appendonly no", "custom=127.0.0.1:{port}"];
    let memcached = ["memcached -u nobody -l 127.0.0.1 -p {port}", "custom=127.0.0.1:{port}"];
    let nginx = [
        &format!("nginx -e stderr -p {folder} -c {folder}/nginx.conf"),
        &format!("http=unix:{folder}/nginx"),
    ];
    let runs: [([&str; 2], &[&str]); 9] = [
        (redis, &["--send", r"PING\r\n", "--expect", r"+PONG\r\n"]),
        (
            redis,
            &["--send", r"SET k{conn}:{seq} {payload}\r\n", "--expect", r"+OK\r\n", "-s", "uniform:1-2000"],
        ),
        (
            redis,
            &["--send", r"ECHO {payload}\r\n", "--expect", r"${len}\r\n{payload}\r\n", "-s", "zipf:1-9999"],
        ),
        (redis, &["--send", r"TIME\r\n", "--expect", r"*2\r\n${line}\r\n{line}\r\n${line}\r\n{line}\r\n"]),
        (memcached, &["--send", r"set k{conn} 0 0 {len}\r\n{payload}\r\n", "--expect", r"STORED\r\n"]),
        (memcached, &["--send", r"get none\r\n", "--expect", r"END\r\n"]),
        (nginx.map(|text| text.as_str()), &[]),
        (nginx.map(|text| text.as_str()), &["--path", "/page"]),
        (nginx.map(|text| text.as_str()), &["--path", "/no-page", "--status", "404"]),
    ];
    for ([command, target], arguments) in runs {
        let program = command.split(' ').next().unwrap();
        if !crate::skipped::is_installed(program, program) {
            continue;
        }
        let load = ["-c", "50", "-d", "8", "-n", "50000", "--spawn", command];
        let result = measure(target, &[&load[..], arguments].concat());
        assert_eq!(
            (&result["requests"], &result["errors"], &result["lost"]),
            (&50_000.into(), &0.into(), &0.into())
        );
        println!(
            "{program} {}: {:.0} a second, {:.0} ns of its CPU each, {:.3} voluntary switches",
            arguments.join(" "),
            result["throughput_per_s"].as_f64().unwrap(),
            result["server_cpu_ns_per_request"].as_f64().unwrap(),
            result["server_context_switches_per_request"]["voluntary"].as_f64().unwrap(),
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn options_that_do_not_suit_the_service_are_bad_usage() {
    for (arguments, told) in [
        (&["echo=127.0.0.1:1", "--path", "/"][..], "--path is for http"),
        (&["echo=127.0.0.1:1", "--status", "200"], "--status is for http"),
        (&["echo=127.0.0.1:1", "--send", "x"], "--send is for custom"),
        (&["http=127.0.0.1:1", "--expect", "-x"], "--expect is for custom"),
        (&["custom=127.0.0.1:1", "--send", "x"], "both --send and --expect"),
        (&["custom=127.0.0.1:1", "--expect", "x"], "both --send and --expect"),
        (&["custom=127.0.0.1:1", "--send", "{key}", "--expect", "x"], "unknown placeholder {key}"),
        (&["custom=127.0.0.1:1", "--send", "{line}\n", "--expect", "x"], "only in --expect"),
        (&["greeting=127.0.0.1:1", "--size", "1"], "must be 2 or more"),
        (&["echo=127.0.0.1:{port}"], "needs --spawn"),
        (&["echo=127.0.0.1:{port}", "--spawn", "server"], "not in the command"),
        (&["echo=127.0.0.1:1", "--spawn", "server {port}"], "not in the address"),
        (&["echo=127.0.0.1:1", "--spawn", "server '"], "unterminated quote"),
        (&["echo=127.0.0.1:1", "--spawn", "server", "--pid", "1"], "cannot be used with"),
        (&["http=127.0.0.1:1", "--path", "index.html"], "must begin with /"),
        (&["http=127.0.0.1:1", "--path", "/a b"], "%XX"),
    ] {
        let complaint = complaint(&[&["run"], arguments].concat(), 2);
        assert!(complaint.contains(told), "{complaint}");
    }
}
