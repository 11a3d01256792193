//! HTTP on networks that cut, delay and break: every peer gets the responses to its requests, or the first of them.

use std::time::Duration;

use tidewheel::services::http::Http;
use tidewheel::sim::{self, Faults, Listener, PeerState, Random, Sim};
use tidewheel::{CloseReason, Limits, Options};

use crate::harness::with;

use super::{assert_nothing_leaks, kind_and_hostile, simulate};
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
    let options = Options::new("http").idle_timeout(Duration::from_secs(60));
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
    let mut sim = simulate(seed, faults, Limits::default());
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
        sim.try_send(peer, &said[cut..]);
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
        ask(seed, with!(Faults::hostile(), segment_bytes_max = 1, short_write = 1.0));
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
    let limits = with!(
        Limits::default(),
        output_high_water_bytes = 4000,
        output_low_water_bytes = 1000,
        output_hard_bytes = Some(4200)
    );
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
            sim.try_send(slow, b"H");
            sim.run_for(Duration::from_secs(1));
        }
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::ReadDeadline), 2);
        assert_eq!(heard(sim.received(slow), &[]), [(200, true)]);
        assert_eq!(sim.reactor().metrics().connections_open, 1);
        sim.run();
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::IdleTimeout), 1);
        assert_eq!(
            (heard(sim.received(idle), &[]), heard(sim.received(half), &[])),
            (vec![], vec![(408, true)])
        );
        assert_nothing_leaks(sim, 1);
    });
}

/// Sends `said`, then `pieces` a second as many times as there are, and returns when the response came, in seconds after the
/// first byte, and its status.
fn upload(
    sim: &mut Sim,
    said: &[u8],
    pieces: impl IntoIterator<Item = Vec<u8>>,
    pause: Duration,
) -> (f64, u16) {
    let http = listen(sim);
    let peer = sim.connect(http);
    sim.settle();
    let begun = sim.now();
    sim.send(peer, said);
    let mut pieces = pieces.into_iter();
    while sim.received(peer).is_empty() && sim.now() - begun < Duration::from_secs(200) {
        if let Some(piece) = pieces.next() {
            sim.send(peer, &piece);
        }
        sim.run_for(pause);
    }
    let took = (sim.now() - begun).as_secs_f64();
    let [(status, true)] = heard(sim.received(peer), &[])[..] else { panic!("one response") };
    let closes = Response::read(sim.received(peer), false).unwrap().0.closes();
    assert_eq!(closes, status == 408);
    assert_eq!(sim.reactor().metrics().closed_for(CloseReason::ReadDeadline), u64::from(status == 408));
    sim.finish(peer);
    sim.run();
    assert_nothing_leaks(sim, 1);
    (took, status)
}

const SECOND: Duration = Duration::from_secs(1);

/// The head of a request with a body, whose length is stated or not.
fn post(content_bytes: Option<usize>) -> Vec<u8> {
    let framing = match content_bytes {
        Some(bytes) => format!("Content-Length: {bytes}"),
        None => "Transfer-Encoding: chunked".to_owned(),
    };
    format!("POST / HTTP/1.1\r\nHost: me\r\n{framing}\r\n\r\n").into_bytes()
}

#[test]
fn a_body_that_drips_is_answered_with_408() {
    kind_and_hostile(&Limits::default(), |sim| {
        let (took, status) = upload(sim, &post(Some(60_000)), vec![vec![b'x']; 200], SECOND);
        assert!(status == 408 && (10.0..11.5).contains(&took), "{status} after {took} s");
    });
    kind_and_hostile(&Limits::default(), |sim| {
        let chunks = vec![b"1\r\nx\r\n".to_vec(); 200];
        let (took, status) = upload(sim, &post(None), chunks, SECOND);
        assert!(status == 408 && (10.0..11.5).contains(&took), "{status} after {took} s");
    });
    // The framing alone, a byte at a time.
    kind_and_hostile(&Limits::default(), |sim| {
        let bytes = b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(10);
        let (took, status) = upload(sim, &post(None), bytes.chunks(1).map(<[u8]>::to_vec), SECOND);
        assert!(status == 408 && (10.0..11.5).contains(&took), "{status} after {took} s");
    });
    // Nothing at all.
    kind_and_hostile(&Limits::default(), |sim| {
        let (took, status) = upload(sim, &post(Some(10)), [], SECOND);
        assert!(status == 408 && (10.0..11.5).contains(&took), "{status} after {took} s");
    });
}

#[test]
fn a_body_that_begins_fast_and_stalls_is_answered_with_408() {
    for begin in [&b"x"[..], b"\r\n0", b"\r\n0\r\n", b"\r\n0\r\nA: b", b"\r\n1;x", b""] {
        kind_and_hostile(&Limits::default(), |sim| {
            let said = [&post(None)[..], b"7530\r\n", &[b'y'; 30_000], begin].concat();
            let said = if begin == b"x" { post(Some(60_000)) } else { said };
            let first = if begin == b"x" { vec![vec![b'y'; 30_000]] } else { vec![] };
            let (took, status) = upload(sim, &said, first, SECOND);
            assert!(status == 408 && took < 22.0, "{status} after {took} s with {:?}", begin.escape_ascii());
        });
    }
    // The end of a line that began late in a span which was fast as a whole.
    for begin in [&b"\r\n0"[..], b"\r\n0\r\nA: b", b"\r\n1;x"] {
        kind_and_hostile(&Limits::default(), |sim| {
            let said = [&post(None)[..], b"7530\r\n"].concat();
            let mut pieces = vec![vec![b'y'; 5000]; 6];
            pieces[5].extend(begin);
            let (took, status) = upload(sim, &said, pieces, SECOND);
            assert!(status == 408 && took < 22.0, "{status} after {took} s with {:?}", begin.escape_ascii());
        });
    }
}

#[test]
fn a_body_has_to_bring_1_kib_a_second() {
    for (bytes, pause, is_enough) in [
        (900, SECOND, false),
        (1200, SECOND, true),
        (90, SECOND / 10, false),
        (120, SECOND / 10, true),
        (4000, 5 * SECOND, false),
        (4000, 3 * SECOND, true),
    ] {
        let count = 60_000_usize.div_ceil(bytes);
        let expected = if is_enough { 405 } else { 408 };
        kind_and_hostile(&Limits::default(), |sim| {
            let (took, status) =
                upload(sim, &post(Some(count * bytes)), vec![vec![b'x'; bytes]; count], pause);
            assert_eq!(status, expected, "after {took} s with {bytes} bytes each {pause:?}");
        });
        kind_and_hostile(&Limits::default(), |sim| {
            let chunk = [format!("{:x}\r\n", bytes - 8).as_bytes(), &vec![b'x'; bytes - 8], b"\r\n"].concat();
            let mut chunks = vec![chunk; count];
            chunks.push(b"0\r\n\r\n".to_vec());
            let (took, status) = upload(sim, &post(None), chunks, pause);
            assert_eq!(status, expected, "after {took} s with chunks of {bytes} bytes each {pause:?}");
        });
    }
}

#[test]
fn a_body_that_is_there_is_never_too_slow() {
    kind_and_hostile(&Limits::default(), |sim| {
        let http = listen(sim);
        let peer = sim.connect(http);
        // One behind the other, and a pause between them that is nobody's body.
        for round in 0..3 {
            sim.send(
                peer,
                &[&post(Some(9))[..], b"some body", &post(None)[..], b"1\r\nx\r\n0\r\n\r\n"].concat(),
            );
            sim.run_for(25 * SECOND);
            sim.send(peer, &[&post(Some(2))[..], b"a"].concat());
            sim.run_for(8 * SECOND);
            sim.send(peer, b"b");
            sim.run_for(25 * SECOND);
            assert_eq!(heard(sim.received(peer), &[]), vec![(405, true); 3 * (round + 1)]);
        }
        sim.finish(peer);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
    // The reactor is stopped, not the peer.
    kind_and_hostile(&Limits::default(), |sim| {
        let http = listen(sim);
        let peer = sim.connect(http);
        sim.send(peer, &post(Some(1500)));
        sim.run_for(SECOND);
        sim.send(peer, &[b'x'; 1500]);
        sim.sleep(30 * SECOND);
        sim.run_for(SECOND);
        assert_eq!(heard(sim.received(peer), &[]), [(405, true)]);
    });
    // Without a read deadline a body may take its time.
    kind_and_hostile(&with!(Limits::default(), read_deadline = None), |sim| {
        let (took, status) = upload(sim, &post(Some(60)), vec![vec![b'x']; 60], SECOND);
        assert!(status == 405 && took > 59.0, "{status} after {took} s");
    });
}

/// A peer that sends a body which is refused at once, in pieces of 10,000 bytes and with a pause behind each, and reads
/// nothing before the end. Returns how it saw the connection end.
fn refused_upload(sim: &mut Sim, pieces: usize, pause: Duration) -> (PeerState, usize) {
    let http = listen(sim);
    let peer = sim.connect(http);
    sim.stop_reading(peer);
    sim.stay(peer);
    sim.send(peer, &post(Some(10_000_000)));
    for _ in 0..pieces {
        sim.send(peer, &[b'x'; 10_000]);
        sim.run_for(pause);
    }
    sim.finish(peer);
    sim.resume_reading(peer);
    sim.run();
    assert_nothing_leaks(sim, 1);
    let statuses: Vec<_> = heard(sim.received(peer), &[]).into_iter().map(|(status, _)| status).collect();
    assert!(statuses == [413] || sim.state(peer) == PeerState::Reset, "{statuses:?}, {:?}", sim.state(peer));
    (sim.state(peer), sim.reactor().metrics().bytes_discarded as usize)
}

#[test]
fn who_sends_on_after_a_refusal_is_read_for_a_while() {
    let limits = with!(
        Limits::default(),
        linger_timeout = SECOND,
        linger_time_max = 60 * SECOND,
        linger_bytes_max = 5_000_000
    );
    // A quick one, a slow one, and one that is as slow as it may be.
    for (pieces, pause) in [(60, SECOND / 1000), (40, SECOND / 2), (20, SECOND * 9 / 10)] {
        kind_and_hostile(&limits, |sim| {
            assert_eq!(
                refused_upload(sim, pieces, pause).0,
                PeerState::Ended,
                "{pieces} pieces each {pause:?}"
            );
        });
    }
}

#[test]
fn who_sends_on_after_a_refusal_is_not_read_for_ever() {
    let limits = with!(
        Limits::default(),
        linger_timeout = SECOND,
        linger_time_max = 10 * SECOND,
        linger_bytes_max = 300_000
    );
    // Too long, too much, with too long a pause.
    for (pieces, pause, max) in
        [(40, SECOND / 2, 220_000), (40, SECOND / 100, 300_000 + (64 << 10)), (3, 3 * SECOND, 30_000)]
    {
        kind_and_hostile(&limits, |sim| {
            let (state, discarded) = refused_upload(sim, pieces, pause);
            assert_eq!(state, PeerState::Reset, "{pieces} pieces each {pause:?}");
            assert!(discarded <= max, "{discarded} bytes");
        });
    }
}
