//! HTTP on networks that cut, delay and break: every peer gets the responses to its requests, or the first of them.

use std::time::Duration;

use tidewheel::services::http::Http;
use tidewheel::sim::{self, Faults, Listener, PeerState, Random, Sim};
use tidewheel::{CloseReason, Limits, Options};

use super::{assert_nothing_leaks, kind_and_hostile};
use crate::fuzz::responses::Response;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: me\r\n\r\n";

/// What peers ask, and the status of the response.
const REQUESTS: [(&str, u16); 8] = [
    ("GET / HTTP/1.1\r\nHost: me\r\n\r\n", 200),
    ("HEAD / HTTP/1.1\r\nHost: me\r\n\r\n", 200),
    ("GET /?x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
    ("\r\nGET http://me HTTP/1.1\r\nHost: me\r\nX: y\r\n\r\n", 200),
    ("HEAD /missing HTTP/1.1\r\nHost: me\r\n\r\n", 404),
    ("DELETE / HTTP/1.1\r\nHost: me\r\n\r\n", 405),
    ("POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 28\r\n\r\nGET / HTTP/1.1\r\nHost: me\r\n\r\n", 405),
    (
        "PUT /x HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
        404,
    ),
];

/// What some peers say last, and the status of the response, behind which their connection is closed; and so what
/// they say then has none.
const ENDS: [(&str, u16); 6] = [
    ("GET / HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n", 200),
    ("GET / HTTP/1.0\r\n\r\n", 200),
    ("GET / HTTP/1.1\r\nHost: me\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 70000\r\n\r\n", 413),
];

fn listen(sim: &mut Sim) -> Listener {
    let options = Options { idle_timeout: Some(Duration::from_secs(60)), ..Options::new("http") };
    sim.listen_with("127.0.0.1:8080", Http::default(), options)
}

/// What a peer says, and the responses that belong to it: the status, and whether there is a body.
fn requests(random: &mut Random) -> (Vec<u8>, Vec<(u16, bool)>) {
    let (mut said, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..random.below(40) {
        let (request, status) = REQUESTS[random.below(REQUESTS.len())];
        said.extend(request.as_bytes());
        expected.push((status, !request.starts_with("HEAD")));
    }
    if random.chance(0.5) {
        let (request, status) = ENDS[random.below(ENDS.len())];
        said.extend(request.as_bytes());
        said.extend(GET.repeat(random.below(30)));
        expected.push((status, true));
    }
    (said, expected)
}

/// The responses that a peer has read.
fn heard(bytes: &[u8], expected: &[(u16, bool)]) -> Vec<(u16, bool)> {
    let has_body = |number: usize| expected.get(number).is_none_or(|&(_, has_body)| has_body);
    let responses = Response::read_all(bytes, |number| !has_body(number));
    responses.iter().map(|response| (response.status, !response.body.is_empty())).collect()
}

/// Many peers ask in parts, some of them slow readers, and end their side. Returns how many connections broke.
fn ask(seed: u64, faults: Faults) -> usize {
    let loses = faults.reset > 0.0;
    let mut sim = Sim::new(seed, faults);
    let listener = listen(&mut sim);
    let descriptors = sim.descriptors();
    let mut random = Random::new(!seed);
    let mut peers = Vec::new();
    for _ in 0..40 {
        let peer = sim.connect(listener);
        let (said, expected) = requests(&mut random);
        let cut = random.below(said.len() + 1);
        sim.send(peer, &said[..cut]);
        if random.chance(0.2) {
            sim.read_slowly(peer, 1 + random.below(400), Duration::from_millis(3));
        }
        if random.chance(0.2) {
            sim.run_for(Duration::from_micros(random.below(20_000) as u64));
            sim.step_wall(random.below(100) as i64 - 50);
        }
        sim.send(peer, &said[cut..]);
        sim.finish(peer);
        peers.push((peer, expected));
    }
    assert!(sim.run(), "it comes to an end");
    assert_nothing_leaks(&mut sim, descriptors);
    let mut broken = 0;
    for (peer, expected) in peers {
        let has_ended = sim.state(peer) == PeerState::Ended;
        assert!(has_ended || loses);
        let heard = heard(sim.received(peer), &expected);
        assert!(if has_ended { heard == expected } else { expected.starts_with(&heard) });
        broken += usize::from(!has_ended);
    }
    broken
}

#[test]
fn every_peer_gets_the_responses_to_its_requests() {
    sim::check(0..8, |seed| {
        ask(seed, Faults::none());
        ask(seed, Faults::hostile());
    });
    sim::check(0..2, |seed| {
        ask(seed, Faults { segment_bytes_max: 1, short_write: 1.0, ..Faults::hostile() });
    });
}

#[test]
fn who_is_cut_off_has_got_the_first_of_them() {
    let mut broken = 0;
    sim::check(0..8, |seed| broken += ask(seed, Faults::lossy()));
    assert!(broken > 0, "no connection broke: the scenario shows nothing");
}

#[test]
fn a_pipeline_that_is_read_slowly_is_answered_to_its_end() {
    // Room for one response above the mark: whoever goes on when there is no room is closed.
    let limits = Limits {
        output_high_water_bytes: 4000,
        output_low_water_bytes: 1000,
        output_hard_bytes: Some(4200),
        ..Limits::default()
    };
    kind_and_hostile(&limits, |sim| {
        sim.faults().send_buffer_bytes = 1500;
        let http = listen(sim);
        let peer = sim.connect(http);
        // The responses are many times what may wait on a connection.
        sim.send(peer, &GET.repeat(1000));
        sim.finish(peer);
        sim.read_slowly(peer, 1000, Duration::from_millis(1));
        sim.run();
        let expected = vec![(200, true); 1000];
        assert!(heard(sim.received(peer), &expected) == expected);
        assert_eq!(sim.reactor().metrics().messages_in, 1000);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn deadlines_end_a_head_that_drips_and_a_connection_that_is_idle() {
    kind_and_hostile(&Limits::default(), |sim| {
        let http = listen(sim);
        let idle = sim.connect(http);
        let (slow, half) = (sim.connect(http), sim.connect(http));
        sim.send(half, b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 9\r\n\r\nhalf");
        sim.send(slow, &[GET, b"GET / "].concat());
        for _ in 0..30 {
            sim.send(slow, b"H");
            sim.run_for(Duration::from_secs(1));
        }
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::ReadDeadline), 1);
        assert_eq!(heard(sim.received(slow), &[]), [(200, true)]);
        assert_eq!(sim.reactor().metrics().connections_open, 2);
        sim.run();
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::IdleTimeout), 2);
        assert!(sim.received(idle).is_empty() && sim.received(half).is_empty());
        assert_nothing_leaks(sim, 1);
    });
}
