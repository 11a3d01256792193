//! What is due all at once is spread over several turns, and what grows costs time in proportion.

use std::time::Duration;

use tidewheel::sim::{Faults, Sim};
use tidewheel::{
    Address, Arrival, CloseReason, ConnId, Context, Limits, Options, Service, ServiceId, TopicId,
};

use crate::harness::with;

use super::{assert_nothing_leaks, simulate};

const MS: Duration = Duration::from_millis(1);

fn limits() -> Limits {
    with!(Limits::default(), deadlines_per_turn = 50, effects_per_turn = 40)
}

/// Turns until nothing is left to do at once, and returns the largest step of what is counted.
fn largest_step(sim: &mut Sim, count: impl Fn(&mut Sim) -> u64) -> u64 {
    let (mut largest, mut before) = (0, count(sim));
    loop {
        sim.reactor().turn(Some(Duration::ZERO)).unwrap();
        let now = count(sim);
        largest = largest.max(now - before);
        before = now;
        if sim.reactor().next_timeout() != Some(Duration::ZERO) {
            return largest;
        }
    }
}

#[test]
fn idle_connections_whose_time_is_up_together_are_closed_in_several_turns() {
    let mut sim = simulate(0, Faults::none(), with!(limits(), idle_timeout = Some(1000 * MS)));
    let crowd = sim.listen("127.0.0.1:7", Crowd::default());
    for _ in 0..1000 {
        sim.connect(crowd);
    }
    sim.run_for(500 * MS);
    assert_eq!(sim.reactor().connections(), 1000);
    sim.sleep(2000 * MS);
    let closed = |sim: &mut Sim| sim.reactor().with(crowd.service, |crowd: &mut Crowd, _| crowd.closed);
    assert_eq!((largest_step(&mut sim, closed), closed(&mut sim)), (40, 1000));
    sim.run();
    assert_eq!(sim.reactor().metrics().closed_for(CloseReason::IdleTimeout), 1000);
    assert_nothing_leaks(&mut sim, 1);
}

/// Sets its deadline to now in each call of `deadline`, up to a number of times.
struct Restless {
    left: u64,
    calls: u64,
}

impl Service for Restless {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.set_deadline(conn, cx.now());
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.calls += 1;
        if self.calls < self.left {
            cx.set_deadline(conn, cx.now());
        }
    }
}

#[test]
fn a_deadline_that_is_set_to_now_when_it_comes_waits_for_the_next_turn() {
    for peers in [1, 7, 300] {
        let mut sim = simulate(0, Faults::none(), limits());
        let restless = sim.listen("127.0.0.1:7", Restless { left: 5000, calls: 0 });
        for _ in 0..peers {
            sim.connect(restless);
        }
        let calls =
            |sim: &mut Sim| sim.reactor().with(restless.service, |restless: &mut Restless, _| restless.calls);
        while calls(&mut sim) == 0 {
            sim.reactor().turn(Some(MS)).unwrap();
        }
        let most = largest_step(&mut sim, calls);
        assert!((1..=peers.min(50)).contains(&most), "{peers} connections: {most} calls in one turn");
        assert!(calls(&mut sim) >= 5000);
    }
}

/// Closes, hands over or opens many connections in one call.
#[derive(Default)]
struct Crowd {
    conns: Vec<ConnId>,
    opened: u64,
    closed: u64,
}

impl Service for Crowd {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        self.conns.push(conn);
        self.opened += 1;
    }

    fn closed(&mut self, _: ConnId, _: CloseReason, _: &mut Context<'_>) {
        self.closed += 1;
    }
}

fn crowd_of(count: usize) -> (Sim, ServiceId) {
    let mut sim = simulate(0, Faults::none(), limits());
    let crowd = sim.listen("127.0.0.1:7", Crowd::default());
    for _ in 0..count {
        sim.connect(crowd);
    }
    sim.settle();
    (sim, crowd.service)
}

#[test]
fn a_service_that_closes_a_thousand_connections_in_one_call_hears_of_them_in_several_turns() {
    for abort in [false, true] {
        let (mut sim, service) = crowd_of(1000);
        sim.reactor().with(service, |crowd: &mut Crowd, cx| {
            for &conn in &crowd.conns {
                cx.send(conn, b"goodbye");
                if abort { cx.abort(conn) } else { cx.close(conn) }
            }
        });
        let closed = |sim: &mut Sim| sim.reactor().with(service, |crowd: &mut Crowd, _| crowd.closed);
        let most = largest_step(&mut sim, closed);
        assert_eq!((most, closed(&mut sim)), (40, 1000));
        sim.run();
        assert_nothing_leaks(&mut sim, 1);
    }
}

#[test]
fn a_thousand_connections_that_a_service_asks_for_are_begun_and_handed_over_in_several_turns() {
    let (mut sim, service) = crowd_of(1);
    let other = sim.reactor().add_service(Crowd::default(), Options::new("other"));
    sim.reactor().with(service, |_: &mut Crowd, cx| {
        for _ in 0..1000 {
            cx.connect(Address::Tcp(([127, 0, 0, 1], 7).into()), service);
        }
    });
    let before = sim.descriptors();
    let most = largest_step(&mut sim, |sim| sim.descriptors() as u64 - before as u64);
    assert!((1..=2 * 40).contains(&most), "{most} connections were begun in one turn");
    sim.settle();
    let opened = |sim: &mut Sim| sim.reactor().with(other, |crowd: &mut Crowd, _| crowd.opened);
    sim.reactor().with(service, |crowd: &mut Crowd, cx| {
        assert_eq!(crowd.conns.len(), 2001, "both ends of each, and the first");
        crowd.conns.iter().for_each(|&conn| cx.hand_over(conn, other));
    });
    assert_eq!((largest_step(&mut sim, opened), opened(&mut sim)), (40, 2001));
}

/// Subscribes its connection to many topics in one call and publishes to each.
struct Subscriber {
    topics: Vec<TopicId>,
}

impl Service for Subscriber {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        for &topic in &self.topics {
            cx.subscribe(topic, conn);
        }
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        // Every other topic is left; what it brings does not come any more.
        for &topic in self.topics.iter().step_by(2) {
            cx.unsubscribe(topic, conn);
        }
        for (number, &topic) in self.topics.iter().enumerate() {
            cx.publish(topic, format!("{number}\n").as_bytes(), None);
        }
        bytes.len()
    }
}

#[test]
fn a_connection_in_many_topics_receives_what_each_brings_once() {
    for count in [1, 2, 3, 15, 16, 17, 18, 2000] {
        let mut sim = Sim::with_limits(0, Faults::none(), limits());
        let service = sim.reactor().add_service(Subscriber { topics: Vec::new() }, Options::new("topics"));
        sim.reactor().with(service, |subscriber: &mut Subscriber, cx| {
            // The order of subscribing is not that of the topics.
            let topics: Vec<_> = (0..count).map(|_| cx.create_topic()).collect();
            subscriber.topics = (0..count).map(|index| topics[index * 7 % count]).collect();
            subscriber.topics.sort_unstable_by_key(|topic| (format!("{topic:?}").len(), *topic));
            subscriber.topics.dedup();
        });
        let subscriber = sim.listen_for("127.0.0.1:7", service);
        let peer = sim.connect(subscriber);
        sim.send(peer, b"go");
        sim.finish(peer);
        assert!(sim.run());
        let mut numbers: Vec<usize> =
            String::from_utf8_lossy(sim.received(peer)).lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        let last = sim.reactor().with(service, |subscriber: &mut Subscriber, _| subscriber.topics.len());
        assert_eq!(numbers, (1..last).step_by(2).collect::<Vec<_>>(), "{count} topics");
    }
}

/// Not a threshold: it may take as long as it likes, but with quadratic time it would be minutes.
#[test]
fn subscribing_one_connection_to_thirty_thousand_topics_is_not_quadratic() {
    let mut sim = Sim::with_limits(0, Faults::none(), limits());
    let service = sim.reactor().add_service(Subscriber { topics: Vec::new() }, Options::new("topics"));
    sim.reactor().with(service, |subscriber: &mut Subscriber, cx| {
        subscriber.topics = (0..30_000).map(|_| cx.create_topic()).collect();
    });
    let subscriber = sim.listen_for("127.0.0.1:7", service);
    let peer = sim.connect(subscriber);
    sim.send(peer, b"go");
    sim.finish(peer);
    sim.run();
    assert_nothing_leaks(&mut sim, 1);
}
