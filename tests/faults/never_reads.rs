//! Echo clients that send and never read: their window closes and stays closed.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidewheel::services::echo::Echo;
use tidewheel::{Address, CloseReason, Limits, Metrics};

use super::assert_served;
use crate::harness::{
    Folder, PATIENCE, Served, any_tcp, await_that, expect, listen, pattern, socket_address, stuff, tcp, unix,
    with,
};

/// A connection whose kernel buffers little.
fn narrow(address: &Address) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.connect(&socket_address(address).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the server itself holds of the connections' bytes.
fn held(metrics: &Metrics) -> u64 {
    metrics.bytes_in - metrics.bytes_out
}

#[test]
fn reading_from_it_pauses_and_resumes_where_it_was() {
    let folder = Folder::new();
    let path = folder.unix("echo");
    let limits = with!(Limits::default(), progress_timeout = None);
    // What one read brings may come on top of the mark.
    let bound = (limits.output_high_water_bytes + limits.read_bytes_per_turn) as u64;
    let served = Served::start(limits, move |reactor| {
        vec![listen(reactor, Echo, &any_tcp()), listen(reactor, Echo, &path)]
    });
    let mut other = tcp(&served.addresses[0]);
    assert_served(&mut other);
    let sent = pattern(64 << 20);

    let mut stream = narrow(&served.addresses[0]);
    let count = stuff(&mut stream, &sent, || served.bytes_in_and_out());
    let metrics = served.metrics();
    assert!(held(&metrics) <= bound, "{} bytes are held", held(&metrics));
    assert!((metrics.bytes_in as usize) < count, "nothing was left unread");
    assert_served(&mut other);
    expect(&mut stream, &sent[..count]);

    let mut stream = unix(&served.addresses[1]);
    let count = stuff(&mut stream, &sent, || served.bytes_in_and_out());
    let metrics = served.metrics();
    assert!(held(&metrics) > 0 && held(&metrics) <= bound, "{} bytes are held", held(&metrics));
    assert_served(&mut other);
    expect(&mut stream, &sent[..count]);
    assert_eq!(held(&served.metrics()), 0);
}

#[test]
fn it_is_closed_at_the_progress_deadline_and_the_others_go_on() {
    const COUNT: u64 = 10;
    let folder = Folder::new();
    let path = folder.unix("echo");
    let limits = with!(Limits::default(), progress_timeout = Some(Duration::from_millis(200)));
    let served = Served::start(limits, move |reactor| {
        vec![listen(reactor, Echo, &any_tcp()), listen(reactor, Echo, &path)]
    });
    let mut other = tcp(&served.addresses[0]);
    let mut tcp: Vec<_> = (0..COUNT).map(|_| narrow(&served.addresses[0])).collect();
    let mut unix: Vec<_> = (0..COUNT).map(|_| unix(&served.addresses[1])).collect();
    tcp.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    unix.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let block = pattern(1 << 20);
    // Each goes on sending until it is broken off.
    let goes_on = |stream: &mut dyn Write| match stream.write(&block) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(error) => {
            let broken_off = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            assert!(broken_off, "{error}");
            false
        }
    };
    await_that("all are broken off", || {
        tcp.retain_mut(|stream| goes_on(stream));
        unix.retain_mut(|stream| goes_on(stream));
        assert_served(&mut other);
        (tcp.is_empty() && unix.is_empty()).then_some(())
    });
    let metrics = served.await_metrics("they are gone", |metrics| metrics.connections_open == 1);
    assert_eq!(metrics.closed_for(CloseReason::ProgressTimeout), 2 * COUNT);
    assert!(metrics.bytes_unsent > 0 && metrics.bytes_out + metrics.bytes_unsent <= metrics.bytes_in);
    assert_served(&mut other);
}

#[cfg(feature = "cli")]
#[test]
#[ignore = "long: memory of two hundred of them"]
fn the_memory_of_two_hundred() {
    use crate::harness::program::Server;
    use crate::harness::{now, send_what_goes};
    const COUNT: u64 = 200;
    let mut server = Server::start_for_long(["--progress-timeout", "0", "echo=:0"]);
    let mut other = server.tcp("echo");
    let block = pattern(64 << 10);
    let mut streams: Vec<(TcpStream, usize)> = Vec::new();
    // Each sends until nobody has taken anything more for a second.
    let mut add = |server: &Server, count: u64| {
        streams.extend((0..count).map(|_| (narrow(&server.tcp_address("echo")), 0)));
        let mut taken_at = now();
        while taken_at.elapsed() < Duration::from_secs(1) {
            for (stream, sent) in &mut streams {
                let more = send_what_goes(stream, &block[*sent % block.len()..]);
                *sent += more;
                if more > 0 {
                    taken_at = now();
                }
            }
            assert_served(&mut other);
        }
    };
    // The first ones bring what is allocated once.
    add(&server, 5);
    let before = server.resident_kib();
    add(&server, COUNT);
    let counters = server.counters();
    println!(
        "row 9: {} KiB of memory for each of {COUNT}, of which {} KiB is output that waits",
        (server.resident_kib() - before) / COUNT,
        (counters["bytes_in"] - counters["bytes_out"]) / (COUNT + 5) / 1024
    );
    drop(streams);
    server.stop();
}
