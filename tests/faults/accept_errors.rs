//! Accept fails for reasons of the system or of a connection that is gone already.

use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::{Address, Limits, Report};

use crate::harness::with;

use super::{PAUSE_MS, assert_served, has_strace, under_strace};
use crate::harness::program::Server;
use crate::harness::{PATIENCE, Served, any_tcp, listen, now, tcp};

/// Every other accept fails with `error`, which is to be counted under `counter`.
fn every_other_accept_fails(error: &str, counter: &str) {
    let mut server = under_strace(&[&format!("accept4:error={error}:when=1+2")], &["echo=:0"]);
    let mut streams: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = server.tcp("echo");
            assert_served(&mut stream);
            stream
        })
        .collect();
    streams.iter_mut().for_each(|stream| assert_served(stream));
    let counters = server.counters();
    assert_eq!(counters["connections_accepted"], 4, "{error}");
    for (name, failed) in [("accepts_exhausted", 0), ("accepts_aborted", 0)] {
        let failed = if name == counter { counters[name] > 0 } else { counters[name] == failed };
        assert!(failed, "{error}: {name} {}", counters[name]);
    }
    drop(streams);
    server.stop();
}

#[test]
fn a_system_without_means_is_waited_for() {
    if has_strace() {
        for error in ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"] {
            every_other_accept_fails(error, "accepts_exhausted");
        }
    }
}

#[test]
fn a_connection_that_is_gone_is_passed_over() {
    if has_strace() {
        for error in ["ECONNABORTED", "EPROTO", "EPERM", "EHOSTUNREACH"] {
            every_other_accept_fails(error, "accepts_aborted");
        }
    }
}

#[test]
fn a_system_that_recovers_after_a_while_is_noticed() {
    if !has_strace() {
        return;
    }
    // Nothing but its own pause makes it try again: the connections have all come by then.
    let mut server = under_strace(&["accept4:error=ENFILE:when=1..6"], &["echo=:0"]);
    let mut streams: Vec<_> = (0..3).map(|_| server.tcp("echo")).collect();
    streams.iter_mut().for_each(|stream| assert_served(stream));
    let counters = server.counters();
    assert_eq!((counters["accepts_exhausted"], counters["connections_accepted"]), (6, 3));
    drop(streams);
    server.stop();
}

/// What is reported of listeners.
#[derive(Debug, PartialEq)]
enum Told {
    Paused(Option<i32>),
    Resumed,
    Closed(Option<i32>),
}

/// A reactor with these limits that listens at two addresses, in a thread of its own, and what it reports of its listeners.
fn observed(limits: Limits) -> (Served, mpsc::Receiver<(Address, Told)>) {
    let (tell, told) = mpsc::channel();
    let served = Served::start(limits, move |reactor| {
        reactor.observe_events(Box::new(move |report| {
            let (address, what) = match report {
                Report::ListenerPaused { address, error, .. } => {
                    (*address, Told::Paused(error.raw_os_error()))
                }
                Report::ListenerResumed { address, .. } => (*address, Told::Resumed),
                Report::ListenerClosed { address, error, .. } => {
                    (*address, Told::Closed(error.raw_os_error()))
                }
                _ => return,
            };
            // The test may have failed and be gone.
            let _ = tell.send((address.clone(), what));
        }));
        [any_tcp(), any_tcp()].iter().map(|address| listen(reactor, Echo, address)).collect()
    });
    (served, told)
}

/// Destroys a listener as an administrator does, if this user and kernel can; says so if not.
fn destroy(listener: &Address) -> bool {
    let Address::Tcp(at) = listener else { unreachable!("only listeners on TCP can be destroyed") };
    // It exits with 0 whatever has come of it, and destroys one of several reactors' at a time.
    let destroy_one = |_| {
        let mut ss = Command::new("ss");
        let tried = ss.args(["-K", "-H", "-t", "state", "listening", "src"]).arg(at.to_string()).output();
        tried.is_ok() && TcpStream::connect(at).is_err()
    };
    let destroyed = (0..8).any(destroy_one);
    if !destroyed {
        crate::harness::skipped::skip("needs root, ss of iproute2, and a kernel with INET_DIAG_DESTROY");
    }
    destroyed
}

#[test]
fn a_listener_that_was_destroyed_is_tried_now_and_then_and_closed_in_the_end() {
    let pause = Duration::from_millis(20);
    let limits =
        with!(Limits::default(), failure_pause = pause, failure_timeout = Duration::from_millis(500));
    let (served, told) = observed(limits);
    let address = served.addresses[0].clone();
    let mut before = tcp(&address);
    assert_served(&mut before);
    let begun = now();
    if !destroy(&address) {
        return;
    }
    let broken = Some(libc::EINVAL);
    assert_eq!(told.recv_timeout(PATIENCE), Ok((address.clone(), Told::Paused(broken))));
    // Its connections, and the other listener, are not affected.
    assert_served(&mut before);
    assert_served(&mut tcp(&served.addresses[1]));
    assert_eq!(told.recv_timeout(PATIENCE), Ok((address.clone(), Told::Closed(broken))));
    let metrics = served.metrics();
    // However slow the machine is, that can only make it less often.
    let allowed = 64 + (begun.elapsed().as_millis() / pause.as_millis()) as u64 + 1;
    let tried = metrics.accepts_aborted;
    assert!(tried > 64 && tried <= allowed, "{tried} tries where {allowed} are allowed");
    assert_eq!(metrics.listeners_closed, 1);
    assert_served(&mut before);
    assert_served(&mut tcp(&served.addresses[1]));
    assert_eq!(served.metrics().accepts_aborted, tried);
    assert!(told.try_recv().is_err(), "it was reported more than once");
}

#[test]
fn a_listener_on_which_accepting_always_fails_is_tried_now_and_then() {
    if !has_strace() {
        return;
    }
    for (error, text) in
        [("EINVAL", "Invalid argument"), ("EPERM", "Operation not permitted"), ("EBADF", "Bad file")]
    {
        let begun = now();
        let inject = format!("accept4:error={error}");
        let mut server = under_strace(&[&inject], &["echo=:0", "echo=udp://127.0.0.1:0"]);
        let _waiting = [server.tcp("echo"), server.tcp("echo")];
        let line = server.await_err("is paused");
        assert!(line.contains("tcp://") && line.contains(text), "{line}");
        // Datagrams are answered meanwhile.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..20 {
            client.send_to(b"still?", server.address("echo", "udp://")).unwrap();
            assert_eq!(client.recv(&mut [0; 16]).unwrap(), 6);
        }
        let counters = server.counters();
        let allowed = 64 + (begun.elapsed().as_millis() / PAUSE_MS) as u64 + 1;
        let tried = counters["accepts_aborted"];
        assert!(tried >= 64 && tried <= allowed, "{error}: {tried} tries where {allowed} are allowed");
        server.stop();
    }
}

#[test]
#[ignore = "long: a minute until the last listener is closed"]
fn the_program_ends_when_its_last_listener_is_closed() {
    for reactors in ["1", "2"] {
        let args = ["--reactors", reactors, "echo=127.0.0.1:0", "uppercase=127.0.0.1:0"];
        let mut server = Server::start_for_long(args);
        let mut live = server.tcp("echo");
        assert_served(&mut live);
        for service in ["echo", "uppercase"] {
            if !destroy(&server.tcp_address(service)) {
                return;
            }
            assert_served(&mut live);
        }
        let (used, begun) = (server.processor_time(), now());
        std::thread::sleep(Duration::from_secs(50));
        assert_served(&mut live);
        let used = (server.processor_time() - used).as_secs_f64();
        println!("row 26: {reactors} reactors: CPU {:.2} %", 100.0 * used / begun.elapsed().as_secs_f64());
        let status = server.wait();
        println!("row 26: ended after {:.1} s", begun.elapsed().as_secs_f64());
        let log = server.rest_of_err();
        assert_eq!(status.code(), Some(1), "{log}");
        let closed = log.lines().filter(|line| line.contains("is closed after errors for too long")).count();
        assert_eq!(closed, 2 * reactors.parse::<usize>().unwrap(), "{log}");
        assert!(log.ends_with("tidewheel: every listener was closed after errors for too long\n"), "{log}");
    }
}
