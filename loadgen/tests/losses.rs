//! What did not come back, what was never asked, and what could not be sent: no figure passes for more than it is, and no
//! server makes the generator keep more than it has room for.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::outputs::Folder;
use super::{Signal, copy, echo_server, loadgen, serve, signal};

/// Reads all that comes, and says nothing.
fn silent_server() -> String {
    serve(|mut stream| {
        let mut ignored = vec![0; 64 * 1024];
        while matches!(stream.read(&mut ignored), Ok(1..)) {}
    })
}

/// Accepts, and reads nothing until it is let go.
fn deaf_server() -> (String, Vec<TcpListener>) {
    // What waits in the backlog is connected.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().to_string(), vec![listener])
}

fn answer(output: &Output) -> (i32, Value, String) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (output.status.code().expect(&stderr), result, stderr)
}

/// Runs it without warm-up.
fn run(command: &str, target: &str, arguments: &[&str]) -> (i32, Value, String) {
    answer(&loadgen(&[&[command, target, "-w", "0", "-q", "--json", "-"], arguments].concat()))
}

#[track_caller]
fn assert_silent((code, result, told): (i32, Value, String)) {
    assert_eq!((code, &result["verdict"]), (3, &"invalid".into()), "{told}{result}");
    assert_eq!(result["limiter"], "server", "{result}");
    assert!(told.contains("no replies"), "{told}");
}

#[test]
fn a_run_in_which_nothing_came_back_is_invalid_in_every_mode() {
    let address = silent_server();
    let target = format!("echo={address}");
    for (command, arguments) in [
        ("run", &["-n", "5"][..]),
        ("run", &["-n", "20", "-r", "500"]),
        ("run", &["-t", "100ms", "-r", "200", "-c", "3", "--threads", "2", "--arrivals", "poisson"]),
        ("run", &["--reconnect", "-n", "3"]),
        ("run", &["--reconnect", "-n", "20", "-r", "500"]),
    ] {
        assert_silent(run(command, &target, &[arguments, &["--timeout", "100ms"]].concat()));
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = format!("echo=udp://{}", socket.local_addr().unwrap());
    for arguments in [&["-n", "5"][..], &["-n", "20", "-r", "500"]] {
        assert_silent(run("run", &datagrams, &[arguments, &["--timeout", "100ms"]].concat()));
    }
    let sweep = [
        "run",
        &target,
        "--rate",
        "100,200",
        "-w",
        "0",
        "-n",
        "5",
        "--timeout",
        "100ms",
        "-q",
        "--json",
        "-",
    ];
    let (code, result, _) = answer(&loadgen(&sweep));
    assert_eq!((code, &result["verdict"]), (3, &"invalid".into()), "{result}");
    for step in result["steps"].as_array().unwrap() {
        assert_eq!((&step["verdict"], &step["p99_us"]), (&"invalid".into(), &Value::Null), "{result}");
    }
    // A merged one is no more than its parts.
    let folder = Folder::new();
    let log = folder.path("log");
    run("run", &target, &["-n", "5", "-r", "500", "--timeout", "100ms", "--hlog", &log]);
    let (code, result, _) = answer(&loadgen(&["merge", &log, "--json", "-"]));
    assert_eq!((code, &result["verdict"]), (3, &"invalid".into()), "{result}");
    assert_eq!(result["times"][0]["us"]["p50"], "lost", "{result}");
}

#[test]
fn a_search_at_a_server_that_never_answers_finds_no_rate() {
    for (slo, time, start) in [
        ("p99<200ms", "20ms", "400"),
        ("service_p50<=100ms", "20ms", "400"),
        ("lag_p99<10s", "20ms", "400"),
        ("throughput>=0", "20ms", "400"),
        ("errors<1", "20ms", "400"),
        // In the end the rate is so low that nothing is due in time.
        ("p99<200ms", "200ms", "10"),
    ] {
        let search = ["search", &format!("echo={}", silent_server()), "--slo", slo, "--repeat", "1"];
        let load = ["-t", time, "-w", "0", "--start", start, "--timeout", "50ms", "-q", "--json", "-"];
        let (code, found, told) = answer(&loadgen(&[&search[..], &load[..]].concat()));
        assert_eq!(
            (code, &found["verdict"], &found["all_passed"]),
            (3, &"invalid".into(), &Value::Null),
            "{slo}"
        );
        assert_eq!(found["limiter"], "server");
        assert!(told.contains("no replies at any rate"), "{told}");
    }
}

#[test]
fn a_lost_reply_is_above_every_bound_in_every_file() {
    // Of every ten requests on a connection one is never answered: the connection is good for nine.
    let address = serve(|mut stream| {
        let mut left = 9 * 64;
        copy(&mut stream, |_, bytes| {
            bytes.truncate(left);
            left -= bytes.len();
        });
    });
    let target = format!("echo={address}");
    let folder = Folder::new();
    let paths = ["csv", "html", "hgrm", "hlog"].map(|name| (format!("--{name}"), folder.path(name)));
    let files: Vec<&str> = paths.iter().flat_map(|(option, path)| [option.as_str(), path.as_str()]).collect();
    let load = ["-c", "10", "-r", "1k", "-n", "100", "--timeout", "2s"];
    let conditions = ["--fail-if", "p99>3s", "--fail-if", "max>3600s", "--fail-if", "mean>=3s"];
    let below = ["--fail-if", "p50>3s", "--fail-if", "p99<3s"];
    let (code, result, told) = run("run", &target, &[&load[..], &conditions, &below, &files].concat());
    assert_eq!((&result["requests"], &result["lost"]), (&100.into(), &10.into()));
    assert_eq!(result["failed_conditions"].as_array().unwrap().len(), 3, "{told}");
    assert!(told.contains("--fail-if p99>3s: p99 is lost"), "{told}");
    assert!(matches!(code, 1 | 3), "the tests share their processors: {told}");
    for times in ["response_time_us", "service_time_us"] {
        assert!(result[times]["p50"].as_f64().unwrap() < 2_000_000.0, "{result}");
        assert_eq!([&result[times]["p99"], &result[times]["max"], &result[times]["mean"]], ["lost"; 3]);
    }
    let (csv, html, hgrm) = (folder.read("csv"), folder.read("html"), folder.read("hgrm"));
    assert!(super::outputs::rows(&csv).iter().any(|row| row["response_max_us"] == "lost"), "{csv}");
    assert!(html.contains("<td>lost</td>"), "{html}");
    for text in [&csv, &html, &hgrm, &result.to_string()] {
        assert!(!text.contains("NaN") && !text.contains("inf,") && !text.contains(">inf"), "{text}");
    }
    // The distribution ends where the losses begin.
    let last = hgrm.lines().take_while(|line| !line.starts_with("#[Mean")).last().unwrap();
    let fields: Vec<&str> = last.split_whitespace().collect();
    assert!(
        fields[1].parse::<f64>().unwrap() <= 0.9 && fields[0].parse::<f64>().unwrap() < 2_000_000.0,
        "{hgrm}"
    );
    assert!(
        hgrm.contains("Total count    =          100]") && hgrm.contains("#[Lost    =           10]"),
        "{hgrm}"
    );
    // A log keeps them apart as well.
    let merged = loadgen(&["merge", &folder.path("hlog"), "--fail-if", "p99>3600s", "--json", "-"]);
    let (_, merged, told) = answer(&merged);
    assert_eq!((&merged["lost"], &merged["times"][0]["us"]["p99"]), (&10.into(), &"lost".into()), "{merged}");
    assert_eq!(merged["failed_conditions"], serde_json::json!(["p99>3600s"]), "{told}");
}

#[test]
fn connections_that_were_never_made_are_above_every_bound_too() {
    // Port 1 is reserved, and unlike a port just released no other test can be given it.
    let (code, result, _) = run("run", "echo=127.0.0.1:1", &["--reconnect", "-n", "5"]);
    assert_eq!((code, &result["churn"]["refused"]), (3, &5.into()), "{result}");
    assert_eq!(result["churn"]["connect_time_us"]["p50"], "lost", "{result}");
}

#[test]
fn rates_are_what_was_planned_however_few_requests_there_are() {
    let target = format!("echo={}", echo_server());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = format!("echo=udp://{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], peer);
        }
    });
    let folder = Folder::new();
    let (csv, html) = (folder.path("csv"), folder.path("html"));
    for (command, target, connections) in [
        ("run", &target, &["-c", "4"][..]),
        ("run", &target, &["--reconnect"]),
        ("run", &datagrams, &["-c", "4"]),
    ] {
        for load in [
            ["-n", "1", "--threads", "1", "-w", "0"],
            ["-n", "2", "--threads", "2", "-w", "0"],
            ["-n", "3", "--threads", "2", "-w", "0"],
            ["-n", "5", "--threads", "1", "-w", "33ms"],
            ["-t", "15ms", "--threads", "1", "-w", "0"],
            ["-t", "123ms", "--threads", "3", "-w", "5ms"],
        ] {
            let first = [command, target, "-q", "-r", "100", "--timeout", "60s", "--json", "-"];
            let files = ["--csv", &csv, "--html", &html];
            let (_, result, told) = answer(&loadgen(&[&first[..], &load, connections, &files].concat()));
            // All are answered, however late; those that were sent too late were not offered.
            let answered = result["throughput_per_s"].as_f64().expect(&told);
            assert!((answered / 100.0 - 1.0).abs() < 1e-6, "{command} {load:?}: {result}");
            let offered = result["offered_per_s"].as_f64().expect(&told);
            assert!((0.0..=100.001).contains(&offered), "{command} {load:?}: {result}");
            for text in [folder.read("csv"), folder.read("html")] {
                assert!(!text.contains("NaN") && !text.contains(",inf") && !text.contains("inf/s"), "{text}");
            }
        }
    }
}

#[test]
fn nothing_asked_is_invalid_and_has_no_rates_but_zero() {
    let target = format!("echo={}", echo_server());
    // The first is due before the window, the second after it.
    let (code, result, told) =
        answer(&loadgen(&["run", &target, "-r", "2", "-w", "100ms", "-t", "100ms", "-q", "--json", "-"]));
    assert_eq!((code, &result["verdict"], &result["limiter"]), (3, &"invalid".into(), &"no requests".into()));
    assert!(told.contains("no request was due in the window"), "{told}");
    assert_eq!((&result["offered_per_s"], &result["throughput_per_s"]), (&0.0.into(), &0.0.into()));
}

#[test]
fn an_interrupt_in_the_warm_up_leaves_figures_that_are_none() {
    let folder = Folder::new();
    for (index, load) in [&["-r", "100"][..], &["-d", "2"]].into_iter().enumerate() {
        for (command, reconnect) in [("run", &[][..]), ("reconnect", &["--reconnect"])] {
            // The first byte of the warm-up shows that it has begun.
            let (begun, wait) = std::sync::mpsc::channel();
            let begun = std::sync::Mutex::new(begun);
            let address = serve(move |stream| {
                let _ = begun.lock().unwrap().send(());
                copy(stream, |_, _| {});
            });
            let (csv, html) = (folder.path(&format!("csv{index}{command}")), folder.path("html"));
            let target = format!("echo={address}");
            let outputs = ["-q", "--json", "-", "--csv", &csv, "--html", &html];
            let load = if command == "reconnect" && load[0] == "-d" { &["-c", "2"][..] } else { load };
            let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
                .args([&["run", &target, "-w", "60s", "-t", "60s"], reconnect, load, &outputs[..]].concat())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            wait.recv().unwrap();
            signal(child.id(), Signal::INT);
            let (code, result, told) = answer(&child.wait_with_output().unwrap());
            assert_eq!(
                (code, &result["interrupted"], &result["verdict"]),
                (3, &true.into(), &"invalid".into())
            );
            assert_eq!(result["limiter"], "no requests", "{result}");
            assert!(told.contains("interrupted before any request was due"), "{told}");
            assert_eq!(
                [&result["offered_per_s"], &result["throughput_per_s"]],
                [&0.0.into(), &Value::from(0.0)]
            );
            let page = std::fs::read_to_string(&html).unwrap() + &std::fs::read_to_string(&csv).unwrap();
            assert!(!page.contains("NaN") && !page.contains(",inf") && !page.contains("inf/s"), "{page}");
        }
    }
}

/// Runs it with so much memory, in KiB of addresses, and a minute of time.
fn within(kib: u64, arguments: &[&str]) -> Output {
    let script = format!("ulimit -v {kib}; exec timeout 60 \"$0\" \"$@\"");
    Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_loadgen")]).args(arguments).output().unwrap()
}

#[test]
fn a_plan_that_cannot_be_sent_is_invalid_and_takes_no_memory() {
    let (address, _listeners) = deaf_server();
    let target = format!("echo={address}");
    let custom = format!("custom={address}");
    for arguments in [
        &["run", &target, "-c", "2", "-r", "400", "-s", "1MiB", "-t", "2s"][..],
        &["run", &target, "-c", "2", "-r", "100k", "-s", "64KiB", "-t", "1s"],
        &["run", &target, "-c", "2", "-r", "20", "-s", "1024MiB", "-t", "1s"],
        &["run", &target, "-c", "100", "-r", "1k", "-s", "uniform:1-1048576", "-t", "1s", "--threads", "2"],
        &["run", &target, "-c", "2", "-r", "1000M", "-t", "1s"],
        &[
            "run",
            &custom,
            "-c",
            "2",
            "-r",
            "200",
            "-s",
            "4MiB",
            "-t",
            "1s",
            "--send",
            "{payload}{payload}\\n",
            "--expect",
            "x",
        ],
        &["run", "--reconnect", &target, "-r", "300", "-s", "4MiB", "-t", "500ms"],
    ] {
        let output =
            within(500_000, &[arguments, &["-w", "0", "--timeout", "500ms", "-q", "--json", "-"]].concat());
        let (code, result, told) = answer(&output);
        assert_eq!((code, &result["verdict"]), (3, &"invalid".into()), "{arguments:?}: {told}");
        assert!(["server", "generator's CPU"].contains(&result["limiter"].as_str().unwrap()), "{told}");
        let counts = ["requests", "lost", "errors"].map(|field| result[field].as_u64().unwrap());
        assert_eq!(counts[0], counts[1] + counts[2], "{arguments:?}: all is accounted for: {result}");
    }
}

#[test]
fn a_closed_loop_of_large_requests_is_sent_piece_by_piece() {
    let (address, _listeners) = deaf_server();
    let target = format!("echo={address}");
    let load = ["run", &target, "-c", "30", "-d", "8", "-s", "16MiB", "-n", "240", "-w", "0"];
    let output = within(500_000, &[&load[..], &["--timeout", "300ms", "-q", "--json", "-"]].concat());
    let (code, result, told) = answer(&output);
    assert_eq!((code, &result["limiter"], &result["lost"]), (3, &"server".into(), &240.into()), "{told}");
    // What is sent so is what is asked for.
    let target = format!("echo={}", echo_server());
    let load = ["run", &target, "-c", "3", "-d", "3", "-s", "uniform:1-3000000", "-n", "30", "-w", "0"];
    let (_, result, told) =
        answer(&loadgen(&[&load[..], &["--timeout", "60s", "-q", "--json", "-"]].concat()));
    assert_eq!(
        (&result["errors"], &result["lost"], &result["requests"]),
        (&0.into(), &0.into(), &30.into()),
        "{told}"
    );
}

#[test]
fn more_in_flight_than_can_be_remembered_is_bad_usage() {
    let target = format!("echo={}", echo_server());
    for arguments in [
        &["run", &target, "-c", "2", "-d", "1000000000"][..],
        &["run", "chat=127.0.0.1:1", "-c", "100000", "--senders", "100000"],
        &["run", "chat=127.0.0.1:1", "-c", "1000", "--size", "16MiB"],
    ] {
        let output = within(500_000, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains("at most"), "{told}");
    }
}

#[test]
fn datagrams_that_nobody_takes_are_given_up() {
    let folder = Folder::new();
    let path = folder.path("sock");
    // Nobody reads: what its queue cannot hold is refused.
    let _socket = UnixDatagram::bind(&path).unwrap();
    let target = format!("echo=unix-dgram:{path}");
    for rate in ["5k", "1000M"] {
        let load = ["run", &target, "-c", "4", "-r", rate, "-s", "20000", "-t", "500ms", "-w", "0"];
        let output = within(500_000, &[&load[..], &["--timeout", "200ms", "-q", "--json", "-"]].concat());
        let (code, result, told) = answer(&output);
        assert_eq!((code, &result["limiter"]), (3, &"server".into()), "{told}");
        assert!(result["unsent"].as_u64().unwrap() > 1000, "{result}");
        assert_eq!(result["requests"], result["lost"]);
    }
}

#[test]
fn lines_of_a_chat_that_nobody_takes_are_given_up() {
    // Passes the greetings on, and reads no more once somebody talks.
    let members = std::sync::Arc::new(std::sync::Mutex::new(Vec::<std::net::TcpStream>::new()));
    let address = serve(move |stream| {
        let own = stream.peer_addr().unwrap();
        members.lock().unwrap().push(stream.try_clone().unwrap());
        let mut input = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(input.read_until(b'\n', &mut line), Ok(1..)) && line == b"* hello\n" {
            for mut other in
                members.lock().unwrap().iter().filter(|it| it.peer_addr().is_ok_and(|it| it != own))
            {
                let _ = std::io::Write::write_all(&mut other, &line);
            }
            line.clear();
        }
        std::thread::park();
    });
    let target = format!("chat={address}");
    let load =
        ["run", &target, "--dialect", "lines", "-c", "3", "-r", "2k", "-s", "1MiB", "-t", "1s", "-w", "0"];
    let output = within(500_000, &[&load[..], &["--timeout", "3s", "-q", "--json", "-"]].concat());
    let (code, result, told) = answer(&output);
    assert_eq!((code, &result["limiter"]), (3, &"server".into()), "{told}");
    assert!(result["unsent"].as_u64().unwrap() > 100, "{result}");
    assert!(told.contains("no replies") && told.contains("could not be sent"), "{told}");
}

#[test]
fn replies_that_come_after_all_are_late_and_still_verified() {
    // It answers when 150 requests are there, of which the first were given up long before.
    for (size, bytes) in [("64", Some(150 * 64)), ("uniform:1-200", None)] {
        let address = serve(move |mut stream| {
            let mut first = vec![0; bytes.unwrap_or(150 * 80)];
            if stream
                .read_exact(&mut first)
                .and_then(|()| std::io::Write::write_all(&mut stream, &first))
                .is_ok()
            {
                copy(stream, |_, _| {});
            }
        });
        let load = ["-r", "1k", "-n", "300", "-s", size, "--timeout", "40ms"];
        let (_, result, told) = run("run", &format!("echo={address}"), &load);
        let count = |field: &str| result[field].as_u64().unwrap();
        assert_eq!((count("requests"), count("errors"), count("unsent")), (300, 0, 0), "{told}{result}");
        assert!(count("lost") >= 50 && count("late") >= 50, "{result}");
    }
}

#[test]
fn what_was_given_up_before_it_was_sent_is_not_sent_later() {
    // It reads nothing for a while, then all of it: bytes that are right, and no more than belong to what was sent.
    let address = serve(|stream| {
        std::thread::sleep(std::time::Duration::from_millis(400));
        copy(stream, |_, _| {});
    });
    let load = ["-r", "400", "-n", "300", "-s", "uniform:100000-300000", "--timeout", "100ms"];
    let (_, result, told) = run("run", &format!("echo={address}"), &load);
    let count = |field: &str| result[field].as_u64().unwrap();
    assert_eq!((count("requests"), count("errors"), count("peer_closed")), (300, 0, 0), "{told}{result}");
    assert!(count("unsent") > 10 && count("unsent") <= count("lost"), "{result}");
}
