//! Graceful shutdown: what had come is answered, the counts are true, and it ends whatever services do meanwhile.

use std::time::Duration;

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::services::http::Http;
use tidewheel::services::reply::Reply;
use tidewheel::sim::{self, Faults, PeerState, Sim};
use tidewheel::{
    Address, Arrival, CloseReason, ConnId, Context, Drained, Limits, Options, Service, ServiceId,
};

use crate::harness::with;

use super::{assert_nothing_leaks, heard, kind_and_hostile, listen_echo, simulate};

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_stands_in_the_backlog_and_in_the_buffers_is_answered() {
    kind_and_hostile(&with!(Limits::default(), accepts_per_turn = 16, effects_per_turn = 16), |sim| {
        let echo = listen_echo(sim);
        let early = [0; 40].map(|_| sim.connect(echo));
        sim.settle();
        let late: Vec<_> = (0..60).map(|_| sim.connect(echo)).collect();
        let silent = sim.connect(echo);
        for (number, &peer) in early.iter().chain(&late).enumerate() {
            sim.send(peer, format!("request {number}").as_bytes());
        }
        // All of it arrives while the reactor does not turn.
        sim.sleep(5000 * MS);
        let drained = sim.reactor().drain(PATIENCE).unwrap();
        assert_eq!(drained, with!(Drained::default(), answered = 101));
        sim.run();
        for (number, &peer) in early.iter().chain(&late).enumerate() {
            assert_eq!(heard(sim, peer), format!("request {number}"));
            assert_eq!(sim.state(peer), PeerState::Ended);
        }
        assert_eq!(heard(sim, silent), "");
        assert_nothing_leaks(sim, 0);
    });
}

#[test]
fn more_than_one_turn_reads_is_answered_too() {
    let mut sim = simulate(0, Faults::none(), with!(Limits::default(), output_hard_bytes = None));
    sim.faults().receive_buffer_bytes = 1 << 20;
    let echo = listen_echo(&mut sim);
    let peers = [0; 10].map(|_| sim.connect(echo));
    sim.settle();
    let long: Vec<u8> = (0..1_000_000).map(|index| index as u8).collect();
    for &peer in &peers {
        sim.send(peer, &long);
    }
    sim.sleep(5000 * MS);
    let drained = sim.reactor().drain(PATIENCE).unwrap();
    assert_eq!(drained, with!(Drained::default(), answered = 10));
    for &peer in &peers {
        assert!(sim.received(peer) == long);
    }
    assert_nothing_leaks(&mut sim, 0);
}

#[test]
fn a_message_without_a_newline_is_answered_after_its_pause() {
    kind_and_hostile(&Limits::default(), |sim| {
        let reply = sim.listen("127.0.0.1:8888", Framed::new(Reply::new("received", ""), Rules::default()));
        let (whole, partial) = (sim.connect(reply), sim.connect(reply));
        sim.send(whole, b"hello");
        sim.send(partial, b"one line\nand a half");
        sim.sleep(1000 * MS);
        let drained = sim.reactor().drain(PATIENCE).unwrap();
        assert_eq!(drained, with!(Drained::default(), answered = 1, unanswered = 1));
        assert_eq!(heard(sim, whole), "received");
        assert_eq!(heard(sim, partial), "received\n");
        assert_nothing_leaks(sim, 0);
    });
}

#[test]
fn what_one_says_last_reaches_the_others_in_the_room() {
    kind_and_hostile(&Limits::default(), |sim| {
        let chat = sim.listen(
            "127.0.0.1:25666",
            Framed::new(Chat::new(Language::English, ChatLimits::default()), Rules::default()),
        );
        let peers = [0; 5].map(|_| sim.connect(chat));
        for (number, &peer) in peers.iter().enumerate() {
            sim.send(peer, format!("user{number}\n").as_bytes());
        }
        sim.settle();
        sim.send(peers[4], b"goodbye\n");
        sim.sleep(1000 * MS);
        sim.reactor().drain(PATIENCE).unwrap();
        for &peer in &peers[..4] {
            assert!(String::from_utf8_lossy(sim.received(peer)).contains("user4: goodbye\n"));
        }
        assert_nothing_leaks(sim, 0);
    });
}

/// Pauses a connection with its first input, and answers in its own time.
struct Slow(Duration);

impl Service for Slow {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.pause(conn);
        cx.set_deadline(conn, cx.now() + self.0);
        bytes.len()
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        cx.send(conn, b"at last");
        cx.resume(conn);
    }
}

#[test]
fn a_connection_that_its_service_has_paused_is_waited_for() {
    for (takes, expected, drained) in [
        (2000 * MS, "at last", with!(Drained::default(), answered = 1)),
        (20_000 * MS, "", with!(Drained::default(), reset = 1)),
    ] {
        let mut sim = simulate(0, Faults::none(), Limits::default());
        let slow = sim.listen("127.0.0.1:7", Slow(takes));
        let peer = sim.connect(slow);
        sim.send(peer, b"well?");
        sim.sleep(100 * MS);
        let begun = sim.now();
        assert_eq!(sim.reactor().drain(10_000 * MS).unwrap(), drained);
        assert!(sim.now() - begun <= 10_001 * MS);
        assert_eq!(heard(&mut sim, peer), expected);
        assert_nothing_leaks(&mut sim, 0);
    }
}

/// Opens, sends to, closes, aborts or hands over connections whenever one ends.
struct Stubborn {
    service: Option<ServiceId>,
    address: Address,
    conns: Vec<ConnId>,
}

impl Service for Stubborn {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.conns.push(conn);
        cx.set_deadline(conn, cx.now() + 10 * MS);
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        cx.set_deadline(conn, cx.now() + 10 * MS);
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        let (Some(service), address) = (self.service, self.address.clone()) else { return };
        cx.connect(address.clone(), service);
        cx.connect(address, service);
        cx.send(conn, b"still there?");
        cx.close(conn);
        cx.abort(conn);
        cx.half_close(conn);
        cx.resume(conn);
        for (number, &other) in self.conns.iter().enumerate() {
            cx.send(other, b"one of us is gone");
            match number % 4 {
                0 => cx.close(other),
                1 => cx.hand_over(other, service),
                2 => cx.half_close(other),
                _ => cx.abort(other),
            }
        }
    }
}

#[test]
fn a_service_that_does_everything_inside_closed_does_not_keep_the_shutdown_from_ending() {
    let scenario = |sim: &mut Sim| {
        let address = Address::Tcp(([127, 0, 0, 1], 7).into());
        let stubborn = sim.listen("127.0.0.1:7", Stubborn { service: None, address, conns: Vec::new() });
        sim.reactor()
            .with(stubborn.service, |itself: &mut Stubborn, _| itself.service = Some(stubborn.service));
        for number in 0..30 {
            let peer = sim.connect(stubborn);
            sim.send(peer, b"hello");
            if number % 3 == 0 {
                sim.stay(peer);
            }
        }
        sim.run_for(20 * MS);
        let begun = sim.now();
        sim.reactor().drain(2000 * MS).unwrap();
        assert!(sim.now() - begun <= 2100 * MS, "{:?}", sim.now() - begun);
        assert_nothing_leaks(sim, 0);
    };
    scenario(&mut simulate(0, Faults::none(), Limits::default()));
    sim::check(0..20, |seed| scenario(&mut simulate(seed, Faults::lossy(), Limits::default())));
}

#[test]
fn datagrams_that_have_come_are_answered() {
    let mut sim = simulate(0, Faults::none(), Limits::default());
    let options = Options::new("echo");
    let echo = sim.listen_with("udp://127.0.0.1:7", tidewheel::services::echo::Echo, options);
    for number in 0..500 {
        sim.send_datagram(echo, &format!("10.0.{}.1:5000", number % 250), b"hello");
    }
    sim.sleep(1000 * MS);
    sim.reactor().drain(PATIENCE).unwrap();
    sim.sleep(1000 * MS);
    let answers: usize = (0..250).map(|number| sim.replies(&format!("10.0.{number}.1:5000")).len()).sum();
    assert_eq!(answers, 500);
}

#[test]
fn the_last_response_of_http_says_that_the_connection_is_closed() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: me\r\n\r\n";
    kind_and_hostile(&Limits::default(), |sim| {
        let http = sim.listen("127.0.0.1:8080", Http::default());
        let (several, partial, body) = (sim.connect(http), sim.connect(http), sim.connect(http));
        let slow = sim.connect(http);
        sim.send(several, GET.repeat(3).as_bytes());
        sim.send(partial, format!("{GET}GET / HT").as_bytes());
        sim.send(body, b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 5\r\n\r\nhello");
        // The rest of this body does not come.
        sim.send(slow, b"POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 5\r\n\r\nhe");
        sim.sleep(1000 * MS);
        let begun = sim.now();
        let drained = sim.reactor().drain(4000 * MS).unwrap();
        assert!(sim.now() - begun <= 4100 * MS);
        assert_eq!((drained.answered, drained.unanswered + drained.reset), (2, 2), "{drained:?}");
        sim.run();
        for (peer, responses, closes) in [(several, 3, 1), (partial, 1, 0), (body, 1, 1)] {
            let text = String::from_utf8_lossy(sim.received(peer)).into_owned();
            let count = |part: &str| text.matches(part).count();
            assert_eq!((count("HTTP/1.1 "), count("Connection: close")), (responses, closes), "{text}");
            assert!(closes == 0 || text.rfind("Connection: close") > text.rfind("HTTP/1.1 "), "{text}");
        }
        assert_nothing_leaks(sim, 0);
    });
}
