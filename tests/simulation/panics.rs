//! A panic in a call of a service costs the connection that it was called for, and nobody else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidewheel::sim::{self, Faults, PeerId, Sim};
use tidewheel::{
    Arrival, CloseReason, ConnId, Context, Datagram, Limits, Options, Receive, Report, Service, ServiceId,
};

use super::{assert_nothing_leaks, heard};

/// Echoes lines; the line `panic WHERE` makes a later call, or this one, panic.
#[derive(Default)]
struct Fragile {
    armed: Option<(ConnId, String)>,
    seen: Vec<u32>,
    closed: Vec<(ConnId, CloseReason)>,
}

impl Fragile {
    fn fall(&mut self, conn: ConnId, place: &str) {
        if self.armed.as_ref().is_some_and(|armed| armed.0 == conn && armed.1 == place) {
            panic!("it fell in {place}\n\u{1b}[31m");
        }
    }
}

impl Service for Fragile {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut consumed = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") || cx.room(conn) == 0 {
                break;
            }
            consumed += line.len();
            if let Some(place) = line.strip_prefix(b"panic ") {
                let place = String::from_utf8_lossy(place.trim_ascii()).into_owned();
                self.armed = Some((conn, place.clone()));
                match place.as_str() {
                    "deadline" => cx.set_deadline(conn, cx.now() + Duration::from_millis(5)),
                    "closed" => cx.close(conn),
                    "writable" => cx.notify_writable(conn),
                    "too much" => return bytes.len() + 1,
                    _ => {}
                }
                self.fall(conn, "input");
            }
            cx.send(conn, line);
        }
        consumed
    }

    fn eof(&mut self, conn: ConnId, _: &[u8], cx: &mut Context<'_>) {
        self.fall(conn, "eof");
        cx.close(conn);
    }

    fn deadline(&mut self, conn: ConnId, _: &mut Context<'_>) {
        self.fall(conn, "deadline");
    }

    fn writable(&mut self, conn: ConnId, _: &mut Context<'_>) {
        self.fall(conn, "writable");
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, _: &mut Context<'_>) {
        self.closed.push((conn, reason));
        self.fall(conn, "closed");
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        assert_ne!(datagram.bytes, b"panic");
        cx.reply(datagram, datagram.bytes);
    }
}

impl Receive<u32> for Fragile {
    fn message(&mut self, message: u32, _: &mut Context<'_>) {
        assert_ne!(message, 3, "three is the one");
        self.seen.push(message);
    }
}

/// What has been reported of panics.
type Reports = Arc<Mutex<Vec<(String, bool)>>>;

/// A simulation in which panics of services are caught, as they are by the program.
fn catching(seed: u64, faults: Faults) -> Sim {
    let mut sim = Sim::new(seed, faults);
    sim.catch_panics();
    sim
}

fn observe(sim: &mut Sim) -> Reports {
    let reports = Reports::default();
    let seen = reports.clone();
    sim.reactor().observe_events(Box::new(move |report| {
        if let Report::Panicked { service, conn, .. } = report {
            seen.lock().unwrap().push(((*service).to_owned(), conn.is_some()));
        }
    }));
    reports
}

#[test]
fn it_ends_that_connection_and_the_others_are_served_on() {
    for place in ["input", "eof", "deadline", "writable", "closed", "too much"] {
        let scenario = |sim: &mut Sim| {
            let reports = observe(sim);
            let fragile = sim.listen_with("127.0.0.1:7", Fragile::default(), Options::new("fragile"));
            let peers: Vec<PeerId> = (0..20).map(|_| sim.connect(fragile)).collect();
            for (number, &peer) in peers.iter().enumerate() {
                sim.send(peer, format!("one {number}\n").as_bytes());
            }
            sim.settle();
            // All at once, so that the others' events are in the same batch, before and behind.
            for (number, &peer) in peers.iter().enumerate() {
                let line = if number == 7 { format!("panic {place}\n") } else { format!("two {number}\n") };
                sim.send(peer, line.as_bytes());
                if number != 7 || place == "eof" {
                    sim.finish(peer);
                }
            }
            assert!(sim.run());
            for (number, &peer) in peers.iter().enumerate() {
                let expected = format!("one {number}\ntwo {number}\n");
                if number == 7 {
                    assert!(heard(sim, peer).starts_with("one 7\n"), "what had been answered is delivered");
                } else {
                    assert_eq!(heard(sim, peer), expected);
                }
            }
            let closed =
                sim.reactor().with(fragile.service, |fragile: &mut Fragile, _| fragile.closed.clone());
            assert_eq!(closed.len(), 20, "the service hears of the end of each once");
            let metrics = sim.reactor().metrics();
            assert_eq!(metrics.service_panics, 1, "{place}: {closed:?}");
            // One that falls in `closed` has been closed for another reason already.
            let expected = u64::from(!matches!(place, "closed"));
            assert_eq!(metrics.closed_for(CloseReason::ServicePanic), expected, "{place}");
            assert_eq!(*reports.lock().unwrap(), [("fragile".to_owned(), true)]);
            assert_nothing_leaks(sim, 1);
        };
        scenario(&mut catching(0, Faults::none()));
        sim::check(0..20, |seed| scenario(&mut catching(seed, Faults::hostile())));
    }
}

#[test]
fn a_service_that_always_panics_serves_nobody_and_harms_nobody_else() {
    struct Broken;
    impl Service for Broken {
        fn open(&mut self, _: ConnId, _: Arrival, _: &mut Context<'_>) {
            panic!("no");
        }
        fn closed(&mut self, _: ConnId, _: CloseReason, _: &mut Context<'_>) {
            std::panic::panic_any(7);
        }
    }
    sim::check(0..20, |seed| {
        let mut sim = catching(seed, Faults::hostile());
        let broken = sim.listen("127.0.0.1:7", Broken);
        let fragile = sim.listen("127.0.0.1:8", Fragile::default());
        let lost: Vec<_> = (0..10).map(|_| sim.connect(broken)).collect();
        let served: Vec<_> = (0..10).map(|_| sim.connect(fragile)).collect();
        for &peer in &served {
            sim.send(peer, b"hello\n");
            sim.finish(peer);
        }
        assert!(sim.run());
        assert!(served.iter().all(|&peer| sim.received(peer) == b"hello\n"));
        assert!(lost.iter().all(|&peer| sim.received(peer).is_empty()));
        let metrics = sim.reactor().metrics();
        assert_eq!((metrics.service_panics, metrics.closed_for(CloseReason::ServicePanic)), (20, 10));
        assert_nothing_leaks(&mut sim, 2);
    });
}

#[test]
fn messages_and_datagrams_behind_one_that_panics_are_delivered() {
    let mut sim = catching(0, Faults::none());
    let reports = observe(&mut sim);
    let fragile = sim.listen_with("udp://127.0.0.1:7", Fragile::default(), Options::new("fragile"));
    let mailbox = sim.reactor().mailbox::<Fragile, u32>(fragile.service, 100);
    for message in 0..10 {
        mailbox.send(message).unwrap();
    }
    for bytes in [&b"one"[..], b"panic", b"two", b"panic", b"three"] {
        sim.send_datagram(fragile, "10.0.0.1:5000", bytes);
    }
    sim.run();
    let seen = sim.reactor().with(fragile.service, |fragile: &mut Fragile, _| fragile.seen.clone());
    assert_eq!(seen, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(sim.replies("10.0.0.1:5000"), [&b"one"[..], b"two", b"three"]);
    let metrics = sim.reactor().metrics();
    assert_eq!((metrics.service_panics, metrics.mailbox_messages), (3, 10));
    assert_eq!(*reports.lock().unwrap(), [(); 3].map(|()| ("fragile".to_owned(), false)));
}

/// Panics in every call but `open`, in which it sets a deadline.
#[derive(Default)]
struct Faller {
    calls: u64,
    conns: Vec<ConnId>,
}

impl Service for Faller {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.conns.push(conn);
        cx.set_deadline(conn, cx.now() + Duration::from_secs(1));
    }

    fn deadline(&mut self, _: ConnId, _: &mut Context<'_>) {
        self.calls += 1;
        panic!("in deadline");
    }

    fn closed(&mut self, _: ConnId, _: CloseReason, _: &mut Context<'_>) {
        self.calls += 1;
        panic!("in closed");
    }
}

impl Receive<()> for Faller {
    fn message(&mut self, (): (), _: &mut Context<'_>) {
        self.calls += 1;
        panic!("in message");
    }
}

#[test]
fn a_turn_in_which_every_call_panics_does_no_more_than_any_other() {
    let mut limits = Limits::default();
    (limits.deadlines_per_turn, limits.messages_per_turn, limits.effects_per_turn) = (20, 30, 40);
    let mut sim = Sim::with_limits(0, Faults::none(), limits);
    sim.catch_panics();
    let faller = sim.listen("127.0.0.1:7", Faller::default());
    let other = sim.listen("127.0.0.1:8", Faller::default());
    for _ in 0..200 {
        sim.connect(faller);
    }
    sim.settle();
    for service in [faller.service, other.service, faller.service] {
        let mailbox = sim.reactor().mailbox::<Faller, ()>(service, 1000);
        (0..100).for_each(|_| mailbox.send(()).unwrap());
    }
    sim.sleep(Duration::from_secs(2));
    let calls = |sim: &mut Sim| {
        let of = |sim: &mut Sim, service| sim.reactor().with(service, |faller: &mut Faller, _| faller.calls);
        of(sim, faller.service) + of(sim, other.service)
    };
    let (mut before, mut turns) = (0, 0);
    while before < 200 + 300 + 200 {
        sim.reactor().turn(Some(Duration::ZERO)).unwrap();
        let now = calls(&mut sim);
        assert!(now - before <= 20 + 3 * 30 + 40, "turn {turns}: {} calls in one turn", now - before);
        assert!(now > before, "turn {turns}: nothing is done");
        (before, turns) = (now, turns + 1);
    }
    assert!(turns <= 12, "{turns} turns for what ten can do");
    sim.run();
    assert_nothing_leaks(&mut sim, 2);
}

#[test]
fn connections_whose_events_come_with_datagrams_that_panic_are_served() {
    // Datagrams that earlier turns left come before all events, others between them.
    for datagrams_per_turn in [1, 2, 3, 64] {
        let mut limits = Limits::default();
        limits.datagrams_per_turn = datagrams_per_turn;
        let mut sim = Sim::with_limits(0, Faults::none(), limits);
        sim.catch_panics();
        let lines = sim.listen("127.0.0.1:7", Fragile::default());
        let datagrams = sim.listen("udp://127.0.0.1:7", Fragile::default());
        let peers: Vec<PeerId> = (0..10).map(|_| sim.connect(lines)).collect();
        sim.settle();
        for (number, &peer) in peers.iter().enumerate() {
            if number % 3 == 1 {
                for bytes in [&b"panic"[..], b"one", b"panic", b"two", b"panic"] {
                    sim.send_datagram(datagrams, "10.0.0.1:5000", bytes);
                }
            }
            sim.send(peer, format!("line {number}\n").as_bytes());
        }
        // All of it has come when the reactor looks again.
        sim.sleep(Duration::from_secs(1));
        sim.settle();
        for (number, &peer) in peers.iter().enumerate() {
            assert_eq!(
                heard(&mut sim, peer),
                format!("line {number}\n"),
                "{datagrams_per_turn} datagrams a turn"
            );
        }
        assert_eq!(sim.replies("10.0.0.1:5000").len(), 6);
        assert_eq!(sim.reactor().metrics().service_panics, 9);
    }
}

#[test]
#[should_panic(expected = "it fell in input")]
fn where_panics_are_not_caught_it_ends_the_loop() {
    let mut sim = Sim::new(0, Faults::none());
    let fragile = sim.listen("127.0.0.1:7", Fragile::default());
    let peer = sim.connect(fragile);
    sim.send(peer, b"panic input\n");
    sim.run();
}

#[test]
#[should_panic(expected = "a fault of ours")]
fn a_panic_outside_of_a_service_is_not_caught() {
    let mut sim = catching(0, Faults::none());
    let fragile = sim.listen("127.0.0.1:7", Fragile::default());
    sim.reactor().observe_events(Box::new(|report| {
        assert!(!matches!(report, Report::Closed { .. }), "a fault of ours");
    }));
    let peer = sim.connect(fragile);
    sim.finish(peer);
    sim.run();
}

#[test]
fn connections_that_are_handed_over_or_established_are_closed_too() {
    /// Hands each connection to a service that panics when it is opened.
    struct Gate(ServiceId);
    impl Service for Gate {
        fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
            cx.hand_over(conn, self.0);
        }
    }
    struct Broken;
    impl Service for Broken {
        fn open(&mut self, _: ConnId, _: Arrival, _: &mut Context<'_>) {
            panic!("no");
        }
    }
    let mut sim = catching(0, Faults::none());
    let broken = sim.reactor().add_service(Broken, Options::new("broken"));
    let gate = sim.listen("127.0.0.1:7", Gate(broken));
    for _ in 0..5 {
        sim.connect(gate);
    }
    sim.run();
    let metrics = sim.reactor().metrics();
    assert_eq!((metrics.service_panics, metrics.closed_for(CloseReason::ServicePanic)), (5, 5));
    assert_nothing_leaks(&mut sim, 1);
}
