//! The machine sleeps: the program is stopped (SIGSTOP) and goes on later, while its peers went on all the time.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::assert_served;
use crate::harness::program::Server;
use crate::harness::{PATIENCE, await_that, expect, now, read_to_end, socket_address, unread_by};

#[test]
fn everything_that_came_meanwhile_is_answered() {
    let server = Server::start(["echo=:0", "uppercase=:0", "echo=udp://:0"]);
    let mut streams: Vec<_> = (0..20).map(|_| server.tcp("echo")).collect();
    streams.iter_mut().for_each(|stream| assert_served(stream));
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    datagrams.connect(server.address("echo", "udp://")).unwrap();

    server.suspend();
    for (index, stream) in streams.iter_mut().enumerate() {
        (0..=index).for_each(|_| stream.write_all(b"meanwhile").unwrap());
    }
    let mut late: Vec<_> = (0..20).map(|_| server.tcp("uppercase")).collect();
    late.iter_mut().for_each(|stream| stream.write_all(b"late").unwrap());
    (0..20).for_each(|_| assert_eq!(datagrams.send(b"datagram").unwrap(), 8));
    server.resume();

    for (index, stream) in streams.iter_mut().enumerate() {
        expect(stream, &b"meanwhile".repeat(index + 1));
    }
    late.iter_mut().for_each(|stream| expect(stream, b"LATE"));
    (0..20).for_each(|_| assert_eq!(datagrams.recv(&mut [0; 16]).unwrap(), 8));
    drop((streams, late));
    server.stop();
}

/// A server that is stopped for longer than its connections may be idle, and goes on. Some speak meanwhile; returns
/// these and those that do not. Where the machine is too slow for the timeout it is done again with a longer one.
fn sleep_through_the_idle_timeout(count: usize) -> (Server, Vec<TcpStream>, Vec<TcpStream>) {
    for seconds in [1, 2, 4, 8, 16] {
        let begun = now();
        let timeout = Duration::from_secs(seconds);
        let server = Server::start(["--idle-timeout", &format!("{seconds}s"), "echo=:0"]);
        let mut speaking: Vec<_> = (0..count).map(|_| server.tcp("echo")).collect();
        let mut silent: Vec<_> = (0..count).map(|_| server.tcp("echo")).collect();
        // Some may have been idle for too long by now.
        let mut answer = [0; 5];
        let awake = speaking.iter_mut().chain(&mut silent).all(|stream| {
            stream.write_all(b"awake").is_ok()
                && stream.read_exact(&mut answer).is_ok()
                && answer == *b"awake"
        });
        server.suspend();
        if awake && begun.elapsed() < timeout.mul_f64(0.9) {
            speaking.iter_mut().for_each(|stream| stream.write_all(b"wake up").unwrap());
            // The kernel may lose packets on loopback, too, and send them again later.
            let port = socket_address(&server.tcp_address("echo")).port();
            await_that("what they say is there", || (unread_by(port) == count).then_some(()));
            thread::sleep(timeout.mul_f64(1.1));
            server.resume();
            return (server, speaking, silent);
        }
        server.resume();
    }
    panic!("the machine is too slow to connect within 16 seconds");
}

#[test]
fn deadlines_pass_while_it_sleeps_but_whoever_spoke_meanwhile_is_heard_first() {
    let (mut server, mut speaking, mut silent) = sleep_through_the_idle_timeout(10);
    speaking.iter_mut().for_each(|stream| expect(stream, b"wake up"));
    silent.iter_mut().for_each(|stream| assert_eq!(read_to_end(stream), (vec![], false)));
    drop((speaking, silent));
    server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
    server.stop();
}

#[test]
fn of_more_than_one_batch_too_whoever_spoke_meanwhile_is_heard_first() {
    // More than the events of one turn.
    let (server, mut speaking, silent) = sleep_through_the_idle_timeout(1500);
    speaking.iter_mut().for_each(|stream| expect(stream, b"wake up"));
    drop((speaking, silent));
    server.stop();
}

#[test]
#[ignore = "long: how soon it is itself again after five seconds"]
fn recovery_after_five_seconds() {
    use crate::harness::load::{ask_together, describe, p99_ratio};
    let server = Server::start_for_long(["echo=:0"]);
    let mut streams: Vec<_> = (0..50).map(|_| server.tcp("echo")).collect();
    let before = ask_together(&mut streams, Duration::from_secs(3));
    server.suspend();
    streams.iter_mut().for_each(|stream| stream.write_all(b"meanwhile").unwrap());
    thread::sleep(Duration::from_secs(5));
    let resumed = now();
    server.resume();
    streams.iter_mut().for_each(|stream| expect(stream, b"meanwhile"));
    let recovered = resumed.elapsed().as_secs_f64() * 1e3;
    let after = ask_together(&mut streams, Duration::from_secs(1));
    println!(
        "row 23: all of 50 answered {recovered:.1} ms after it went on; before: {}, in the first second after: {}: \
         p99 x {:.2}",
        describe(&before),
        describe(&after),
        p99_ratio(&after, &before)
    );
    drop(streams);
    server.stop();
}
