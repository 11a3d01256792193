//! The proxy of the examples between real sockets: both directions at once, ends of one side and of both, and ends that
//! are none.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[allow(dead_code, reason = "its main is for those who run it as a program")]
#[path = "../examples/proxy.rs"]
pub mod example;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use tidewheel::{Address, CloseReason, Limits, Metrics};

use self::example::Proxy;
use crate::harness::{PATIENCE, Served, any_tcp, ask, pattern, read_to_end, reset, send_what_goes, tcp};

const COUNT: usize = 1_000_000;

/// A proxy, and what it is a proxy for: a listener that the test accepts from.
struct Proxied {
    served: Served,
    backend: TcpListener,
}

impl Proxied {
    fn new() -> Proxied {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(backend.local_addr().unwrap());
        Proxied { served: proxy_to(address), backend }
    }

    /// Both ends of a connection through the proxy.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let mut near = tcp(&self.served.addresses[0]);
        let (mut far, _) = self.backend.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_write_timeout(Some(PATIENCE)).unwrap();
        near.write_all(b"hello").unwrap();
        let mut came = [0; 5];
        far.read_exact(&mut came).unwrap();
        ask(&mut far, b"yes", b"");
        let mut answer = [0; 3];
        near.read_exact(&mut answer).unwrap();
        assert_eq!((&came, &answer), (b"hello", b"yes"));
        (near, far)
    }

    /// Waits until no connection is left.
    #[track_caller]
    fn await_end(&self) -> Metrics {
        self.served.await_metrics("all connections are closed", |metrics| metrics.connections_open == 0)
    }
}

fn proxy_to(backend: Address) -> Served {
    Served::start(Limits::default(), |reactor| {
        let proxy = Proxy::add_to(reactor, backend);
        vec![reactor.listen(&any_tcp(), proxy).unwrap().1]
    })
}

/// Writes, ends that side, and reads to the end of the other at the same time.
fn exchange(mut stream: TcpStream, bytes: Vec<u8>) -> (Vec<u8>, bool) {
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let came = read_to_end(&mut stream);
    writing.join().unwrap();
    came
}

#[test]
fn a_million_bytes_go_both_ways_at_once() {
    let proxied = Proxied::new();
    let (near, far) = proxied.pair();
    let (there, back) = (pattern(COUNT), pattern(COUNT + 1)[1..].to_vec());
    let (sent_there, sent_back) = (there.clone(), back.clone());
    let far = thread::spawn(move || exchange(far, sent_back));
    assert!(exchange(near, sent_there) == (back, false));
    assert!(far.join().unwrap() == (there, false));
    assert_eq!(proxied.await_end().closed_for(CloseReason::PeerClosed), 2);
}

#[test]
fn one_direction_goes_on_while_the_other_is_stopped() {
    let proxied = Proxied::new();
    for turned in [false, true] {
        let (near, far) = proxied.pair();
        let (mut one, mut other) = if turned { (far, near) } else { (near, far) };
        // As much as all buffers on the way hold, which nobody reads.
        let bytes = pattern(64 << 20);
        let mut held = 0;
        let mut before = 0;
        loop {
            held += send_what_goes(&mut other, &bytes[held..]);
            let taken = proxied.served.metrics().bytes_in;
            if std::mem::replace(&mut before, taken) == taken && proxied.served.metrics().bytes_in == taken {
                break;
            }
        }
        let sent = pattern(COUNT);
        let bytes_there = sent.clone();
        let writing = thread::spawn(move || {
            one.write_all(&bytes_there).unwrap();
            one.shutdown(Shutdown::Write).unwrap();
            one
        });
        let (came, is_reset) = read_to_end(&mut other);
        assert!(came == sent && !is_reset, "{} of {COUNT} bytes passed", came.len());
        let mut one = writing.join().unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        let (came, is_reset) = read_to_end(&mut one);
        assert!(came == bytes[..held] && !is_reset, "{} of {held} bytes came back", came.len());
    }
    assert_eq!(proxied.await_end().closed_for(CloseReason::PeerClosed), 4);
}

#[test]
fn who_ends_one_side_still_gets_the_other() {
    let proxied = Proxied::new();
    for turned in [false, true] {
        let (near, far) = proxied.pair();
        let (mut one, mut other) = if turned { (far, near) } else { (near, far) };
        one.write_all(b"a question").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut other), (b"a question".to_vec(), false));
        let sent = pattern(COUNT);
        let bytes = sent.clone();
        let writing = thread::spawn(move || other.write_all(&bytes).unwrap());
        let (came, is_reset) = read_to_end(&mut one);
        writing.join().unwrap();
        assert!(came == sent && !is_reset, "{} of {COUNT} bytes, reset: {is_reset}", came.len());
    }
    assert_eq!(proxied.await_end().closed_for(CloseReason::PeerClosed), 4);
}

#[test]
fn fifty_pairs_leave_nothing_behind() {
    let proxied = Proxied::new();
    let pairs: Vec<_> = (0..50).map(|_| proxied.pair()).collect();
    for (index, (mut near, mut far)) in pairs.into_iter().enumerate() {
        let streams = if index % 2 == 0 { [&mut near, &mut far] } else { [&mut far, &mut near] };
        for stream in streams {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!((read_to_end(&mut near), read_to_end(&mut far)), ((vec![], false), (vec![], false)));
    }
    assert_eq!(proxied.await_end().closed_for(CloseReason::PeerClosed), 100);
}

#[test]
fn where_the_backend_refuses_the_peer_is_reset() {
    // Bound and not listening: nobody else gets the port.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    nobody.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let served = proxy_to(Address::Tcp(nobody.local_addr().unwrap().as_socket().unwrap()));
    for said in [&b""[..], b"hello"] {
        let mut near = tcp(&served.addresses[0]);
        // Whoever writes may hear of the reset before it reads.
        if near.write_all(said).is_ok() {
            assert_eq!(read_to_end(&mut near), (vec![], true));
        }
    }
    let metrics = served.await_metrics("both are closed", |metrics| {
        metrics.connections_accepted == 2 && metrics.connections_open == 0
    });
    let closed = [CloseReason::ConnectFailed, CloseReason::Aborted].map(|reason| metrics.closed_for(reason));
    assert_eq!(closed, [2, 2]);
}

#[test]
fn a_reset_goes_through() {
    let proxied = Proxied::new();
    for turned in [false, true] {
        let (near, far) = proxied.pair();
        let (one, mut other) = if turned { (far, near) } else { (near, far) };
        reset(one);
        assert_eq!(read_to_end(&mut other), (vec![], true));
    }
    let metrics = proxied.await_end();
    assert_eq!([CloseReason::Reset, CloseReason::Aborted].map(|reason| metrics.closed_for(reason)), [2, 2]);
}
