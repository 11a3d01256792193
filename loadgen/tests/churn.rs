//! Connections as such: where they leave from, and what runs out.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::{complaint, copy, loadgen, measure, serve};

/// Runs with no more descriptors than that.
fn with_descriptors(limit: u32, arguments: &[&str]) -> std::process::Output {
    let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
    let program = env!("CARGO_BIN_EXE_loadgen");
    Command::new("sh").args(["-c", &script, program]).args(arguments).output().unwrap()
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
        ("echo=127.0.0.1:1", "192.0.2.1", "192.0.2.1 is no address of this machine"),
        ("echo=127.0.0.1:1", "::1", "the server has IPv4 alone"),
        ("echo=udp://127.0.0.1:1", "::1", "the server has IPv4 alone"),
        ("echo=unix:/tmp/none", "127.0.0.2", "unix socket"),
        ("echo=127.0.0.1:1", "127.0.0.300", "no IP address"),
    ] {
        for command in [&["run"][..], &["sweep"], &["search", "--slo", "p99<1s"]] {
            let told = complaint(&[command, &[target, "--source-ips", sources]].concat(), 2);
            assert!(told.contains(words) && told.lines().count() == 1, "{told}");
        }
    }
    let told = complaint(&["idle", "127.0.0.1:1", "--source-ips", "192.0.2.1"], 2);
    assert!(told.contains("192.0.2.1 is no address"), "{told}");
}

#[test]
fn descriptors_that_run_out_before_the_load_are_named() {
    let target = format!("echo={}", super::echo_server());
    // What the check beforehand sees, and what it does not: each thread has a poll and a timer of its own.
    for (arguments, words) in
        [(["-c", "30", "--threads", "1"], "hard limit is 40"), (["-c", "24", "--threads", "24"], "ulimit -n")]
    {
        let output = with_descriptors(40, &[&["run", &target][..], &arguments].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(words) && told.lines().count() == 1, "{told}");
    }
}
