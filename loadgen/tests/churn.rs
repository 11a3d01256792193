//! Connections as such: where they leave from, and what runs out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};

use serde_json::{Value, json};

use super::services::echo_command;
use super::{complaint, copy, loadgen, measure, serve};

/// Runs with no more descriptors than that, of which some are taken already.
fn with_descriptors(limit: u32, taken: u32, arguments: &[&str]) -> Output {
    let take: String = (0..taken).map(|index| format!("exec {}<&0; ", 20 + index)).collect();
    let script = format!("{take} ulimit -n {limit}; exec \"$0\" \"$@\"");
    let program = env!("CARGO_BIN_EXE_loadgen");
    Command::new("bash").args(["-c", &script, program]).args(arguments).output().unwrap()
}

#[test]
fn connections_leave_from_each_source_in_turn() {
    let seen = Arc::new(Mutex::new(BTreeMap::<IpAddr, u32>::new()));
    let counted = Arc::clone(&seen);
    let address = serve(move |stream| {
        *counted.lock().unwrap().entry(stream.peer_addr().unwrap().ip()).or_default() += 1;
        copy(stream, |_, _| {});
    });
    let sources = "127.0.0.2-127.0.0.3,127.0.1.0/30";
    let target = format!("echo={address}");
    measure(&target, &["-c", "10", "-n", "10", "--threads", "2", "--source-ips", sources]);
    let from = |ip: &str, count| (ip.parse::<IpAddr>().unwrap(), count);
    let expected = [from("127.0.0.2", 3), from("127.0.0.3", 3), from("127.0.1.1", 2), from("127.0.1.2", 2)];
    assert_eq!(*seen.lock().unwrap(), BTreeMap::from(expected));
    let held = ["idle", &address, "-c", "3", "--stopped", "1", "--hold", "0", "--source-ips", "127.0.0.9"];
    let output = loadgen(&held);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(seen.lock().unwrap()[&"127.0.0.9".parse::<IpAddr>().unwrap()], 3);
}

#[test]
fn datagrams_leave_from_each_source_in_turn() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("echo=udp://{}", socket.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(BTreeMap::<IpAddr, u32>::new()));
    let counted = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            *counted.lock().unwrap().entry(peer.ip()).or_default() += 1;
            socket.send_to(&buffer[..len], peer).unwrap();
        }
    });
    measure(&target, &["-c", "4", "-n", "40", "--source-ips", "127.0.0.2,127.0.0.3"]);
    let seen: Vec<_> = seen.lock().unwrap().keys().map(IpAddr::to_string).collect();
    assert_eq!(seen, ["127.0.0.2", "127.0.0.3"]);
}

#[test]
fn sources_that_do_not_suit_are_refused_in_a_line() {
    for (target, sources, words) in [
        ("echo=127.0.0.1:1", "192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("echo=127.0.0.1:1", "::1", "the server has only IPv4"),
        ("echo=udp://127.0.0.1:1", "::1", "the server has only IPv4"),
        ("echo=unix:/tmp/none", "127.0.0.2", "unix socket"),
        ("echo=127.0.0.1:1", "127.0.0.300", "not an IP address"),
    ] {
        for command in [&["run"][..], &["run", "--repeat", "2"], &["search", "--slo", "p99<1s"]] {
            let told = complaint(&[command, &[target, "--source-ips", sources]].concat(), 2);
            assert!(told.contains(words) && told.lines().count() == 1, "{told}");
        }
    }
    let told = complaint(&["idle", "127.0.0.1:1", "--source-ips", "192.0.2.1"], 2);
    assert!(told.contains("192.0.2.1 is not an address"), "{told}");
}

#[test]
fn descriptors_that_run_out_before_the_load_are_named() {
    let target = format!("echo={}", super::echo_server());
    // What the check beforehand sees, and what it does not.
    for (connections, taken, words) in [("30", 0, "hard limit is 40"), ("24", 15, "no descriptor is left")] {
        let output = with_descriptors(40, taken, &["run", &target, "-c", connections]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(words) && told.lines().count() == 1, "{told}");
    }
}

/// Runs with a connection for each request, without warm-up; returns its exit code, the JSON and what it says.
fn churn(target: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = loadgen(&[&["run", "--reconnect", target, "-w", "0", "--json", "-"], arguments].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).expect(&stderr), stderr)
}

/// Fails if anything but its own CPU limits it.
#[track_caller]
fn churn_rightly(target: &str, arguments: &[&str]) -> Value {
    let (code, result, stderr) = churn(target, arguments);
    match (code, result["limiter"].as_str()) {
        (Some(0), None) | (Some(3), Some("generator's CPU")) => result,
        _ => panic!("{stderr}{result}"),
    }
}

#[test]
fn each_exchange_has_a_connection_of_its_own() {
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&accepted);
    let target = format!(
        "echo={}",
        serve(move |stream| {
            counter.fetch_add(1, Ordering::Relaxed);
            copy(stream, |_, _| {});
        })
    );
    for (arguments, connections) in [
        (&["-c", "7", "-n", "200", "--threads", "2"][..], json!(7)),
        (&["-r", "500", "-n", "200", "--threads", "2"], Value::Null),
        (&["-c", "3", "-n", "200", "--close", "rst", "-s", "100KiB"], json!(3)),
    ] {
        accepted.store(0, Ordering::Relaxed);
        let result = churn_rightly(&target, arguments);
        // Every reply has been read, so every connection had been counted before.
        assert_eq!(accepted.load(Ordering::Relaxed), 200);
        assert_eq!(
            (&result["requests"], &result["errors"], &result["lost"]),
            (&json!(200), &json!(0), &json!(0))
        );
        assert_eq!(result["connections"], connections);
        let churn = &result["churn"];
        for count in ["refused", "reset", "timed_out", "failed", "ports_exhausted", "descriptors_exhausted"] {
            assert_eq!(churn[count], 0, "{count}");
        }
        let (connect, service) = (&churn["connect_time_us"], &result["service_time_us"]);
        assert!(connect["p50"].as_f64().unwrap() > 0.0, "{result}");
        assert!(connect["max"].as_f64().unwrap() <= service["max"].as_f64().unwrap(), "{result}");
        assert_eq!(result["response_time_us"].is_null(), result["rate_per_s"].is_null());
    }
    assert!(measure(&target, &["-n", "1"])["churn"].is_null());
}

#[test]
fn how_a_connection_is_closed() {
    for (close, ends_in_order) in [("fin", true), ("rst", false)] {
        let (told, ends) = mpsc::channel();
        let told = Mutex::new(told);
        let address = serve(move |mut stream| {
            let mut request = [0; 64];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
            told.lock().unwrap().send(stream.read(&mut request).map_err(|error| error.kind())).unwrap();
        });
        let result = churn_rightly(&format!("echo={address}"), &["-n", "3", "--close", close]);
        assert_eq!(result["churn"]["close"], close);
        let due = if ends_in_order { Ok(0) } else { Err(ErrorKind::ConnectionReset) };
        assert_eq!(ends.iter().take(3).collect::<Vec<_>>(), [due; 3], "{close}");
    }
}

#[test]
fn a_plan_of_connects_is_kept_whatever_the_server_does() {
    // It answers the first when the last is there.
    let (all, waiting) = (Arc::new(Barrier::new(40)), ["-r", "200", "-n", "40", "--timeout", "60s"]);
    let address = serve(move |mut stream| {
        let mut request = [0; 64];
        stream.read_exact(&mut request).unwrap();
        all.wait();
        stream.write_all(&request).unwrap();
        let _ = stream.read(&mut request);
    });
    let result = churn_rightly(&format!("echo={address}"), &waiting);
    assert_eq!((&result["requests"], &result["lost"]), (&json!(40), &json!(0)));
    // The last was planned 195 ms after the first.
    for times in ["response_time_us", "service_time_us"] {
        assert!(result[times]["max"].as_f64().unwrap() > 190_000.0, "{result}");
    }
    assert!(result["churn"]["connect_time_us"]["p50"].as_f64().unwrap() < 190_000.0, "{result}");
}

#[test]
fn all_services_of_one_request_are_verified() {
    let upper = serve(|stream| copy(stream, |_, bytes| bytes.make_ascii_uppercase()));
    churn_rightly(&format!("uppercase={upper}"), &["-n", "20", "-c", "2"]);
    // A name that may have several addresses.
    let upper = upper.replace("127.0.0.1", "localhost");
    churn_rightly(&format!("uppercase={upper}"), &["-n", "20", "-c", "2"]);
    let greeting = serve(|mut stream| {
        stream.write_all(b"Welcome!").unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        writeln!(stream, "Hello, {}!", line.trim_end()).unwrap();
    });
    churn_rightly(&format!("greeting={greeting}"), &["-n", "20", "-c", "2"]);
    let numbered = serve(|mut stream| {
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
    });
    let templates = ["--send", r"{conn} {seq}\n", "--expect", r"{conn} {seq}\n"];
    churn_rightly(&format!("custom={numbered}"), &[&templates[..], &["-n", "20"]].concat());
    let page = serve(|mut stream| {
        let mut head = [0; 1024];
        let read = stream.read(&mut head).unwrap();
        assert!(head[..read].ends_with(b"\r\n\r\n"));
        // In two pieces, and the server closes first.
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n").unwrap();
        stream.write_all(b"\r\nhello").unwrap();
    });
    churn_rightly(&format!("http={page}"), &["-n", "20", "-c", "4"]);
}

#[test]
fn what_a_server_says_before_it_closes_is_verified() {
    let says = |text: fn() -> String| serve(move |mut stream| stream.write_all(text().as_bytes()).unwrap());
    let now = || jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
    churn_rightly(&format!("daytime={}", says(now)), &["-n", "20", "-c", "2"]);
    churn_rightly(&format!("banner={}", says(|| "Hi!\r\n".into())), &["-n", "20", "-c", "2"]);
    for (service, text, words) in [
        ("daytime", (|| "2001-01-01 00:00:00.000000".into()) as fn() -> String, "not this machine's"),
        ("daytime", || "noon".into(), "not YYYY-MM-DD"),
        ("banner", || "Hi!\n".into(), "not one line"),
        ("banner", || "Hi!\r\nHo!\r\n".into(), "not one line"),
    ] {
        let (code, result, stderr) = churn(&format!("{service}={}", says(text)), &["-n", "5"]);
        assert_eq!(
            (code, &result["limiter"], &result["errors"]),
            (Some(3), &json!("wrong replies"), &json!(5))
        );
        assert!(stderr.contains(words), "{stderr}");
    }
    let told = complaint(&["run", "banner=127.0.0.1:1"], 2);
    assert!(told.contains("--reconnect"), "{told}");
}

#[test]
fn wrong_replies_are_errors_with_their_offset() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes[9] ^= 1));
    let (code, result, stderr) = churn(&format!("echo={address}"), &["-n", "10"]);
    assert_eq!((code, &result["errors"]), (Some(3), &json!(10)), "{result}");
    assert!(stderr.contains("connection 0: byte 9 of its reply"), "{stderr}");
    let address = serve(|stream| copy(stream, |_, bytes| bytes.push(b'!')));
    let (code, _, stderr) = churn(&format!("echo={address}"), &["-n", "1"]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("1 byte received without a request"), "{stderr}");
}

#[test]
fn connections_without_a_reply_are_counted_one_by_one() {
    // By the number of the connection: closed in order, reset, too late, or answered.
    let number = AtomicU64::new(0);
    let address = serve(move |mut stream| {
        let mut request = [0; 64];
        let number = number.fetch_add(1, Ordering::Relaxed);
        if number % 4 == 1 {
            // What is not read when it is closed makes the close a reset.
            while stream.peek(&mut request).unwrap() == 0 {}
            return;
        }
        stream.read_exact(&mut request).unwrap();
        match number % 4 {
            0 => {}
            2 => drop(stream.read(&mut request)),
            _ => stream.write_all(&request).unwrap(),
        }
    });
    let target = format!("echo={address}");
    for pace in [&["-c", "1"][..], &["-r", "200"]] {
        let arguments = [pace, &["-n", "20", "--timeout", "100ms"]].concat();
        let (code, result, stderr) = churn(&target, &arguments);
        assert_eq!((code, &result["limiter"]), (Some(3), &json!("peer closed")), "{stderr}");
        let churn = &result["churn"];
        assert_eq!(
            [
                &result["requests"],
                &result["lost"],
                &result["peer_closed"],
                &churn["reset"],
                &churn["timed_out"]
            ],
            [20, 15, 5, 5, 5].map(|count| json!(count)).each_ref(),
            "{stderr}{result}"
        );
        assert!(stderr.contains("5 reset, 5 closed by the peer, 5 too late"), "{stderr}");
    }
    // Port 1 is reserved, and unlike a port just released no other test can be given it.
    let (code, result, stderr) = churn("echo=127.0.0.1:1", &["-n", "30", "-c", "4"]);
    assert_eq!(
        (code, &result["churn"]["refused"], &result["lost"]),
        (Some(3), &json!(30), &json!(30)),
        "{stderr}"
    );
    assert!(stderr.contains("30 refused"), "{stderr}");
}

#[test]
fn descriptors_that_run_out_under_load_are_the_limiter() {
    // It answers nobody, so that an open loop has more and more in progress.
    let address = serve(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let target = format!("echo={address}");
    let arguments = [
        "run",
        "--reconnect",
        &target,
        "-w",
        "0",
        "-r",
        "1k",
        "-n",
        "100",
        "--timeout",
        "300ms",
        "--json",
        "-",
    ];
    let output = with_descriptors(40, 0, &arguments);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &result["limiter"]), (Some(3), &json!("descriptors")), "{result}");
    let count = |name: &str| result["churn"][name].as_u64().unwrap();
    assert!(count("descriptors_exhausted") > 0 && count("timed_out") > 0, "{result}");
    assert_eq!(count("descriptors_exhausted") + count("timed_out"), 100, "{result}");
}

/// Runs in a network of its own whose loopback has ten ports to connect from; none where that is not allowed.
fn with_ten_ports(arguments: &[&str]) -> Option<Output> {
    let script = "ip link set lo up && echo 50000 50009 > /proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"";
    let unshare = |command: &[&str]| Command::new("unshare").arg("-rn").args(command).output().ok();
    unshare(&["ip", "link", "set", "lo", "up"]).filter(|output| output.status.success())?;
    unshare(&[&["sh", "-c", script, env!("CARGO_BIN_EXE_loadgen")], arguments].concat())
}

#[test]
fn ports_that_run_out_are_named_and_further_addresses_bring_more() {
    let server = echo_command("");
    let target = "echo=127.0.0.1:{port}";
    // The look whether the server accepts takes one or two of them.
    let run = ["run", target, "--spawn", &server, "-w", "0", "-n", "20", "-c", "20"];
    let Some(output) = with_ten_ports(&run) else {
        crate::skipped::skip(
            "needs root or user namespaces, with unshare and ip: apt-get install util-linux iproute2",
        );
        return;
    };
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("no local port is left") && stderr.contains("--source-ips"), "{stderr}");
    let more = ["--source-ips", "127.0.0.2-127.0.0.9", "--json", "-"];
    let result: Value =
        serde_json::from_slice(&with_ten_ports(&[&run[..], &more].concat()).unwrap().stdout).unwrap();
    assert_eq!((&result["requests"], &result["errors"], &result["lost"]), (&json!(20), &json!(0), &json!(0)));

    // TIME_WAIT keeps a port that was closed in order for a second at least.
    let churn =
        ["run", "--reconnect", target, "--spawn", &server, "-w", "0", "-n", "200", "-c", "1", "--json", "-"];
    let result: Value = serde_json::from_slice(&with_ten_ports(&churn).unwrap().stdout).unwrap();
    assert_eq!(result["limiter"], "ports", "{result}");
    assert_eq!(result["churn"]["ports_exhausted"], result["lost"]);
    let result: Value =
        serde_json::from_slice(&with_ten_ports(&[&churn[..], &["--close", "rst"]].concat()).unwrap().stdout)
            .unwrap();
    assert_eq!((&result["lost"], &result["churn"]["ports_exhausted"]), (&json!(0), &json!(0)), "{result}");
}

#[test]
fn a_unix_listener_with_a_full_backlog_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // The standard library's backlog is large; this one has room for two.
    rustix::net::listen(&listener, 1).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| copy(stream.unwrap(), |_, _| {})));
    let target = format!("echo=unix:{}", path.display());
    for pace in [&["-c", "20"][..], &["-r", "2k"]] {
        let result = churn_rightly(&target, &[pace, &["-n", "300", "--timeout", "60s"]].concat());
        assert_eq!((&result["requests"], &result["lost"]), (&json!(300), &json!(0)), "{result}");
    }
    let told = complaint(&["run", "--reconnect", &target, "--close", "rst"], 2);
    assert!(told.contains("unix socket"), "{told}");
}

#[test]
fn what_reconnect_cannot_do_is_refused_in_a_line() {
    for (arguments, words) in [
        (&["time=127.0.0.1:1"][..], "stream service"),
        (&["echo=udp://127.0.0.1:1"], "stream service"),
        (&["chat=127.0.0.1:1"], "stream service"),
        (&["echo=127.0.0.1:1", "-r", "5", "-c", "5"], "does not apply"),
        (&["echo=127.0.0.1:1", "-d", "5"], "--depth"),
        (&["echo=127.0.0.1:1", "--close", "no"], "--close"),
        (&["echo=127.0.0.1:1", "--source-ips", "192.0.2.1"], "not an address of this machine"),
        (&["echo=127.0.0.1:1", "--fail-if", "lag_p99>1ms"], "needs --rate"),
    ] {
        let told = complaint(&[&["run", "--reconnect"], arguments].concat(), 2);
        assert!(told.contains(words) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn reconnect_has_every_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let target = format!("echo={}", super::echo_server());
    let (json, csv, hgrm, hlog, html) = (file("json"), file("csv"), file("hgrm"), file("hlog"), file("html"));
    let output = loadgen(&[
        "run",
        "--reconnect",
        &target,
        "-r",
        "200",
        "-n",
        "20",
        "-w",
        "50ms",
        "--json",
        &json,
        "--csv",
        &csv,
        "--hgrm",
        &hgrm,
        "--hlog",
        &hlog,
        "--html",
        &html,
        "--fail-if",
        "lost>=0",
    ]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("connect time") && table.contains("without reply   none"), "{table}");
    assert!(table.contains("--fail-if lost>=0\n"), "{table}");
    for path in [&json, &csv, &hgrm, &hlog, &html] {
        assert!(std::fs::metadata(path).unwrap().len() > 0, "{path}");
    }
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["requests"], 20);
}
