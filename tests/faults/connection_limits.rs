//! More connections than the limit, or than one address may have.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

use tidewheel::{CloseReason, Limits};

use super::assert_served;
use crate::harness::{PATIENCE, Served, read_to_end, tcp, tcp_from, with};

const FULL: &[u8] = b"too many connections, try again later\n";
const OF_ONE_ADDRESS: &[u8] = b"too many connections from your address, try again later\n";

/// Limits under which a slow machine is no matter.
fn patient() -> Limits {
    with!(Limits::default(), linger_timeout = PATIENCE)
}

/// A refused peer that was not asked and talks all the same: closing with unread input would destroy the line on its
/// way.
#[track_caller]
fn assert_refused(mut stream: TcpStream, line: &[u8]) {
    stream.write_all(&[b'x'; 30_000]).expect("it is listened to until it has heard the line");
    assert_eq!(read_to_end(&mut stream), (line.to_vec(), false));
}

#[test]
fn above_the_limit_each_one_is_told_so_and_the_others_go_on() {
    let served = Served::echo(with!(patient(), connections_max = Some(8)));
    let address = &served.addresses[0];
    let mut live: Vec<_> = (0..8).map(|_| tcp(address)).collect();
    live.iter_mut().for_each(|stream| assert_served(stream));
    for _ in 0..20 {
        assert_refused(tcp(address), FULL);
        live.iter_mut().for_each(|stream| assert_served(stream));
    }
    // Several at a time.
    let crowd: Vec<_> = (0..20).map(|_| tcp(address)).collect();
    crowd.into_iter().for_each(|stream| assert_refused(stream, FULL));
    live.iter_mut().for_each(|stream| assert_served(stream));

    // One leaves, and exactly one more is taken.
    drop(live.pop());
    served.await_metrics("one has left", |metrics| metrics.connections_open == 7);
    live.push(tcp(address));
    live.iter_mut().for_each(|stream| assert_served(stream));
    assert_refused(tcp(address), FULL);
    let metrics = served.await_metrics("the refused are gone", |metrics| metrics.connections_open == 8);
    assert_eq!((metrics.connections_accepted, metrics.connections_refused), (9, 41));
    assert_eq!(metrics.closed_for(CloseReason::RefusedFull), 41);
}

#[test]
fn the_share_of_one_address_is_exact_and_no_affair_of_others() {
    let served = Served::echo(with!(patient(), connections_per_ip_max = Some(3)));
    let address = &served.addresses[0];
    let hosts = [2, 3, 4].map(|host| Ipv4Addr::new(127, 0, 0, host));
    let mut live: Vec<Vec<_>> =
        hosts.iter().map(|&host| (0..3).map(|_| tcp_from(host, address)).collect()).collect();
    for round in 0..5 {
        live.iter_mut().flatten().for_each(|stream| assert_served(stream));
        for host in hosts {
            assert_refused(tcp_from(host, address), OF_ONE_ADDRESS);
        }
        // What one leaves is its own address's to take.
        drop(live[round % 3].pop());
        served.await_metrics("one has left", |metrics| metrics.connections_open == 8);
        assert_refused(tcp_from(hosts[(round + 1) % 3], address), OF_ONE_ADDRESS);
        live[round % 3].push(tcp_from(hosts[round % 3], address));
    }
    live.iter_mut().flatten().for_each(|stream| assert_served(stream));
    let metrics = served.await_metrics("the refused are gone", |metrics| metrics.connections_open == 9);
    assert_eq!((metrics.connections_accepted, metrics.connections_refused), (14, 20));
    assert_eq!(metrics.closed_for(CloseReason::RefusedPerIp), 20);
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: memory while 30,000 are refused"]
fn the_memory_of_refusing() {
    use crate::harness::program::Server;
    let mut server = Server::start_for_long(["--max-connections", "8", "echo=:0"]);
    let mut live: Vec<_> = (0..8).map(|_| server.tcp("echo")).collect();
    let mut refuse = |server: &Server, count| {
        for _ in 0..count {
            assert_eq!(read_to_end(&mut server.tcp("echo")), (FULL.to_vec(), false));
            assert_served(&mut live[0]);
        }
    };
    refuse(&server, 1000);
    let before = server.resident_kib();
    refuse(&server, 30_000);
    let after = server.resident_kib();
    let counters =
        server.await_counters("the refused are gone", |counters| counters["connections_open"] == 8);
    assert_eq!((counters["connections_accepted"], counters["connections_refused"]), (8, 31_000));
    println!("row 3: 31000 of 31000 refused with the whole line; memory {before} KiB, then {after} KiB");
    drop(live);
    server.stop();
}
