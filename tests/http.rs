//! HTTP on real stream sockets: connections that stay, pipelines, half-closes, and refusals that arrive.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod targets;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tidewheel::services::http::Http;
use tidewheel::{CloseReason, Limits, Options};

use crate::fuzz::responses::Response;
use crate::harness::{PATIENCE, Served, any_tcp, listen_with, read_to_end, reset, send_what_goes, tcp, with};

const PAGE: &[u8] = b"<h1>Hello world!</h1>";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: me\r\n\r\n";

fn serve(limits: Limits) -> Served {
    Served::start(limits, |reactor| {
        let options = Options::new("http").idle_timeout(PATIENCE);
        vec![listen_with(reactor, Http::default(), options, &any_tcp())]
    })
}

/// Limits under which time is no matter.
fn patient() -> Limits {
    with!(Limits::default(), linger_timeout = PATIENCE)
}

struct Peer {
    stream: TcpStream,
    /// What has come and is not looked at yet.
    kept: Vec<u8>,
}

impl Peer {
    fn new(served: &Served) -> Peer {
        Peer { stream: tcp(&served.addresses[0]), kept: Vec::new() }
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection is open");
    }

    /// The next response.
    #[track_caller]
    fn receive(&mut self, is_head: bool) -> Response {
        loop {
            if let Some((response, len)) = Response::read(&self.kept, is_head) {
                self.kept.drain(..len);
                return response;
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).expect("the response comes");
            assert!(count > 0, "the connection ends after {}", self.kept.escape_ascii());
            self.kept.extend_from_slice(&piece[..count]);
        }
    }

    #[track_caller]
    fn get(&mut self) {
        self.send(GET);
        let response = self.receive(false);
        assert_eq!((response.status, response.body.as_slice(), response.closes()), (200, PAGE, false));
    }

    /// Asserts that the connection ends in order, and that nothing comes before that.
    #[track_caller]
    fn assert_ends(&mut self) {
        self.stream.read_to_end(&mut self.kept).expect("it ends in order");
        assert!(self.kept.is_empty(), "{}", self.kept.escape_ascii());
    }
}

#[test]
fn a_connection_stays_for_the_next_request() {
    let served = serve(Limits::default());
    let mut peer = Peer::new(&served);
    for _ in 0..3 {
        peer.get();

        peer.send(b"HEAD / HTTP/1.1\r\nHost: me\r\n\r\n");
        let head = peer.receive(true);
        assert_eq!((head.status, head.field("content-length")), (200, Some("21")));
        assert_eq!(head.field("content-type"), Some("text/html; charset=utf-8"));

        peer.send(b"GET /other HTTP/1.1\r\nHost: me\r\n\r\n");
        assert_eq!(peer.receive(false).status, 404);

        // A body that comes in several reads.
        peer.send(b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 60000\r\n\r\n");
        peer.send(&[b'x'; 60_000]);
        let response = peer.receive(false);
        assert_eq!((response.status, response.field("allow")), (405, Some("GET, HEAD")));
    }
    peer.send(b"GET / HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n");
    assert!(peer.receive(false).closes());
    peer.assert_ends();
    drop(peer);
    served.await_metrics("it is closed", |metrics| metrics.closed_for(CloseReason::Service) == 1);
    assert_eq!(served.stop().messages_in, 13);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let served = serve(Limits::default());
    let mut stream = tcp(&served.addresses[0]);
    let kinds = [
        ("GET / HTTP/1.1\r\nHost: me\r\n\r\n", 200, false),
        ("HEAD / HTTP/1.1\r\nHost: me\r\n\r\n", 200, true),
        ("GET /x HTTP/1.1\r\nHost: me\r\n\r\n", 404, false),
        (
            "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            405,
            false,
        ),
        ("HEAD /x HTTP/1.1\r\nHost: me\r\n\r\n", 404, true),
    ];
    let said: String = (0..1000).map(|number| kinds[number % 5].0).collect();
    // More than the buffers hold may come before all of it is sent, so somebody must read meanwhile.
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(said.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (came, is_reset) = read_to_end(&mut stream);
    writing.join().unwrap();
    assert!(!is_reset);
    let responses = Response::read_all(&came, |number| kinds[number % 5].2);
    assert_eq!(responses.len(), 1000);
    for (number, response) in responses.iter().enumerate() {
        let (_, status, is_head) = kinds[number % 5];
        assert_eq!((response.status, response.body.is_empty()), (status, is_head), "response {number}");
    }
    let metrics = served.stop();
    assert_eq!(metrics.messages_in, 1000);
    assert_eq!(metrics.closed_for(CloseReason::PeerClosed), 1);
}

#[test]
fn who_has_ended_its_side_gets_its_answers_but_none_to_half_a_request() {
    let served = serve(Limits::default());
    let halves: [&[u8]; 4] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 9\r\n\r\nhalf",
        b"\r\n",
    ];
    for half in halves {
        let mut stream = tcp(&served.addresses[0]);
        stream.write_all(&[GET, GET, half].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (came, is_reset) = read_to_end(&mut stream);
        let statuses: Vec<_> =
            Response::read_all(&came, |_| false).iter().map(|response| response.status).collect();
        assert_eq!((statuses, is_reset), (vec![200, 200], false), "before {}", half.escape_ascii());
    }
    assert_eq!(served.stop().closed_for(CloseReason::PeerClosed), 4);
}

#[test]
fn a_refusal_arrives_although_the_peer_sent_much_more() {
    let served = serve(patient());
    let bad: [(&[u8], u16); 4] = [
        (b"GET / HTTP/1.1\r\nHost: me\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 10000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ];
    for (request, status) in bad {
        let mut peer = Peer::new(&served);
        peer.send(&[GET, request].concat());
        let sent = send_what_goes(&mut peer.stream, &GET.repeat(100_000));
        assert!(sent > 64 << 10, "{sent} bytes are less than what it discards");
        assert_eq!(peer.receive(false).status, 200);
        let response = peer.receive(false);
        assert_eq!((response.status, response.closes()), (status, true));
        // The rest is left unread, so only a reset shows that nobody sends it any more.
        reset(peer.stream);
    }
    served.await_metrics("they are closed", |metrics| metrics.closed_for(CloseReason::BadInput) == 4);
    assert_eq!(served.stop().messages_in, 8);
}

#[test]
fn who_sends_all_before_it_reads_gets_the_refusal() {
    const UPLOAD: usize = 10 << 20;
    let served = serve(Limits::default());
    let sized = format!("Content-Length: {UPLOAD}");
    let requests = [
        (format!("POST / HTTP/1.1\r\nHost: me\r\n{sized}\r\n\r\n"), 413),
        (format!("PUT /x HTTP/1.1\r\nHost: me\r\n{sized}\r\nConnection: close\r\n\r\n"), 413),
        ("POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\na00000\r\n".to_owned(), 413),
        (format!("POST /#x HTTP/1.1\r\nHost: me\r\n{sized}\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\nHost: a:b:c\r\n{sized}\r\n\r\n"), 400),
        (format!("BREW / HTTP/1.1\r\nHost: me\r\n{sized}\r\n\r\n"), 501),
        ("POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip, chunked\r\n\r\na00000\r\n".to_owned(), 501),
        (format!("POST / HTTP/3.0\r\nHost: me\r\n{sized}\r\n\r\n"), 505),
        ("POST / HTTP/1.1\r\nHost: me\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".to_owned(), 405),
    ];
    for (head, status) in requests {
        let mut peer = Peer::new(&served);
        peer.send(head.as_bytes());
        peer.send(&vec![b'x'; UPLOAD]);
        let response = peer.receive(false);
        assert_eq!((response.status, response.closes()), (status, true), "{head}");
        peer.assert_ends();
    }
    served.await_metrics("they are closed", |metrics| metrics.connections_open == 0);
    let metrics = served.stop();
    assert!(metrics.bytes_in + metrics.bytes_discarded >= 9 * UPLOAD as u64);
    assert_eq!(metrics.closed_for(CloseReason::BadInput), 8);
}

#[test]
fn a_head_without_end_is_refused_at_the_limit() {
    let served = serve(patient());
    let mut peer = Peer::new(&served);
    peer.send(b"GET / HTTP/1.1\r\nHost: me\r\n");
    let line = format!("X: {}\r\n", "y".repeat(1000));
    send_what_goes(&mut peer.stream, line.repeat(10_000).as_bytes());
    let response = peer.receive(false);
    assert_eq!((response.status, response.closes()), (431, true));
    reset(peer.stream);
    let metrics =
        served.await_metrics("it is closed", |metrics| metrics.closed_for(CloseReason::BadInput) == 1);
    // What is kept of a head, and what one read brings.
    assert!(metrics.bytes_in <= (32 << 10) + (64 << 10), "{} bytes were taken in", metrics.bytes_in);
}

#[test]
fn what_is_no_http_is_told_so_at_once() {
    let served = serve(with!(Limits::default(), read_deadline = None));
    // The beginning of TLS, and a line that ends as on a unix terminal: neither is a complete head.
    for said in [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], b"GET / HTTP/1.1\n"] {
        let mut peer = Peer::new(&served);
        peer.send(said);
        assert_eq!(peer.receive(false).status, 400);
        peer.assert_ends();
    }
}

#[test]
fn a_head_that_stops_runs_into_the_read_deadline_and_a_pause_between_requests_does_not() {
    let served = serve(with!(Limits::default(), read_deadline = Some(Duration::from_millis(20))));
    let mut patient = Peer::new(&served);
    patient.get();
    let mut slow = Peer::new(&served);
    slow.send(&[GET, b"GET / HT"].concat());
    assert_eq!(slow.receive(false).status, 200);
    slow.assert_ends();
    drop(slow);
    served.await_metrics("it is closed", |metrics| metrics.closed_for(CloseReason::ReadDeadline) == 1);
    patient.get();
}

#[test]
fn above_the_connection_limit_the_refusal_is_a_response() {
    let served = serve(with!(patient(), connections_max = Some(1)));
    let mut live = Peer::new(&served);
    live.get();
    let mut refused = Peer::new(&served);
    refused.send(GET);
    let response = refused.receive(false);
    assert_eq!((response.status, response.closes()), (503, true));
    assert!(response.field("retry-after").is_some());
    refused.assert_ends();
    live.get();
}
