//! Two services that ask for anything at any time, on a system that fails in every way it can: whatever they do,
//! what they hear of each connection makes sense, and nothing is left behind.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidewheel::sim::{self, Faults, Random, Reach};
use tidewheel::{
    Address, Arrival, CloseReason, ConnId, ConnMap, Context, Instant, Limits, Options, Service, ServiceId,
    Shared, TopicId,
};

use crate::harness::with;

use super::{assert_nothing_leaks, simulate};

/// What a connection may still hear.
#[derive(Default)]
struct Life {
    owner: usize,
    /// It was handed over by this service, and the new owner has not heard `open`.
    moving_from: Option<usize>,
    opened: bool,
    ended: bool,
    paused: bool,
    deadline: Option<Instant>,
    /// How often it asked to be told. Several may be answered as one.
    wants_writable: u32,
    /// Somebody has asked for its end.
    closing: bool,
}

/// What both services know together.
struct World {
    random: Random,
    lives: ConnMap<Life>,
    /// Every connection that there ever was.
    known: Vec<ConnId>,
    topics: Vec<TopicId>,
    services: Vec<ServiceId>,
    quiet: bool,
    deeds: u64,
}

struct Chaos {
    me: usize,
    world: Rc<RefCell<World>>,
}

impl Chaos {
    /// Checks that `conn` may tell this service anything.
    fn check(&self, conn: ConnId, what: &str) {
        let mut world = self.world.borrow_mut();
        let life = world.lives.get_mut(conn);
        let life = life.unwrap_or_else(|| panic!("{what} of connection {conn}, which is over"));
        assert_eq!(life.owner, self.me, "{what} of connection {conn} is told to another service");
        assert!(life.opened && life.moving_from.is_none(), "{what} of connection {conn} before it is open");
        assert!(!life.closing, "{what} of connection {conn}, whose end was asked for");
    }

    /// Asks for a few things, of this connection, of others and of some that are gone.
    fn act(&mut self, conn: Option<ConnId>, cx: &mut Context<'_>) {
        let mut world = self.world.borrow_mut();
        if world.quiet {
            return;
        }
        for _ in 0..world.random.below(4) {
            let mut target = conn;
            if target.is_none() || world.random.chance(0.3) {
                let count = world.known.len();
                let index = world.random.below(count);
                target = world.known.get(index).copied();
            }
            let Some(target) = target else { continue };
            self.act_on(&mut world, target, cx);
        }
    }

    fn act_on(&self, world: &mut World, target: ConnId, cx: &mut Context<'_>) {
        world.deeds += 1;
        let World { random, lives, known, topics, services, .. } = world;
        // Of one's own connections only, or the bookkeeping here would be as involved as the engine's.
        let mut nobody = Life::default();
        let life = match lives.get_mut(target) {
            Some(life) if life.owner != self.me => return,
            Some(life) => life,
            None => &mut nobody,
        };
        let size = [0, 1, 100, 5_000, 40_000][random.below(5)];
        match random.below(24) {
            0..6 => cx.send(target, &vec![b'c'; random.below(size + 1)]),
            6..8 => drop(cx.send_some(target, &vec![b'c'; size])),
            8 => cx.send_shared(target, &Shared::from(vec![b's'; size])),
            9 => {
                let count = random.below(10);
                (0..count).for_each(|_| cx.send(target, b"small"));
            }
            10 => {
                cx.close(target);
                life.closing = true;
            }
            11 => {
                cx.abort(target);
                life.closing = true;
            }
            12 => cx.half_close(target),
            13 => {
                cx.pause(target);
                life.paused = true;
            }
            14..17 => {
                cx.resume(target);
                life.paused = false;
            }
            17 => {
                let at = cx.now() + Duration::from_micros(random.below(20_000) as u64);
                cx.set_deadline(target, at);
                life.deadline = Some(at);
            }
            18 => {
                cx.clear_deadline(target);
                life.deadline = None;
            }
            19 => {
                cx.notify_writable(target);
                life.wants_writable += 1;
            }
            20 => {
                let to = random.below(services.len());
                cx.hand_over(target, services[to]);
                if life.opened && !life.closing {
                    life.moving_from = life.moving_from.or(Some(life.owner));
                    life.owner = to;
                    life.deadline = None;
                    life.wants_writable = 0;
                }
            }
            21 if known.len() < 400 => {
                let addresses = ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "127.0.0.1:7"];
                let address = addresses[random.below(addresses.len())].parse().unwrap();
                let conn = cx.connect(Address::Tcp(address), services[self.me]);
                lives.insert(conn, Life { owner: self.me, ..Life::default() });
                known.push(conn);
            }
            22 => {
                let topic = topics[random.below(topics.len())];
                if random.chance(0.7) { cx.subscribe(topic, target) } else { cx.unsubscribe(topic, target) }
            }
            _ => {
                let topic = topics[random.below(topics.len())];
                cx.publish(topic, &vec![b'p'; random.below(size / 10 + 1)], Some(target));
            }
        }
    }
}

impl Service for Chaos {
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        {
            let mut world = self.world.borrow_mut();
            let world = &mut *world;
            match (arrival, world.lives.get_mut(conn)) {
                (Arrival::Accepted(_), None) => {
                    world.lives.insert(conn, Life { owner: self.me, opened: true, ..Life::default() });
                    world.known.push(conn);
                }
                (Arrival::Connected(_), Some(life)) if !life.opened => {
                    assert_eq!(life.owner, self.me);
                    life.opened = true;
                }
                (Arrival::HandedOver, Some(life)) if life.moving_from.is_some() => {
                    assert_eq!(life.owner, self.me, "handed over to another service than was asked for");
                    life.moving_from = None;
                }
                (arrival, _) => panic!("connection {conn} cannot come by {arrival:?}"),
            }
        }
        self.act(Some(conn), cx);
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        self.check(conn, "input");
        let consumed = {
            let mut world = self.world.borrow_mut();
            let life = world.lives.get(conn).unwrap();
            assert!(!life.ended, "input after the end on {conn}");
            assert!(!life.paused, "input on {conn}, which is paused");
            assert!(!bytes.is_empty(), "input without bytes on {conn}");
            if world.random.chance(0.7) { bytes.len() } else { world.random.below(bytes.len() + 1) }
        };
        self.act(Some(conn), cx);
        consumed
    }

    fn eof(&mut self, conn: ConnId, _: &[u8], cx: &mut Context<'_>) {
        self.check(conn, "eof");
        {
            let mut world = self.world.borrow_mut();
            let life = world.lives.get_mut(conn).unwrap();
            assert!(!std::mem::replace(&mut life.ended, true), "a second end on {conn}");
            if world.random.chance(0.5) {
                cx.close(conn);
                world.lives.get_mut(conn).unwrap().closing = true;
                return;
            }
        }
        self.act(Some(conn), cx);
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.check(conn, "deadline");
        let at = self.world.borrow_mut().lives.get_mut(conn).unwrap().deadline.take();
        assert!(at.is_some_and(|at| at <= cx.now()), "a deadline on {conn} that was not set, or not due");
        self.act(Some(conn), cx);
    }

    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.check(conn, "writable");
        let mut world = self.world.borrow_mut();
        let wants = &mut world.lives.get_mut(conn).unwrap().wants_writable;
        *wants =
            wants.checked_sub(1).unwrap_or_else(|| panic!("writable on {conn}, which did not ask for it"));
        drop(world);
        self.act(Some(conn), cx);
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        {
            let mut world = self.world.borrow_mut();
            let life = world.lives.remove(conn).unwrap_or_else(|| panic!("a second `closed` of {conn}"));
            // If it ended while it was being handed over, either may hear of it.
            let belongs = life.owner == self.me || life.moving_from == Some(self.me);
            assert!(belongs, "the end of {conn} is told to another service");
        }
        self.act(None, cx);
    }
}

/// How a scenario ends.
#[derive(Clone, Copy)]
enum End {
    /// The services close everything and ask for nothing more.
    Closed,
    /// The reactor shuts down gracefully, while the services go on asking.
    Drained,
}

fn chaos(seed: u64, faults: Faults, rounds: usize, end: End) -> (u64, sim::Trace) {
    let limits = with!(
        Limits::default(),
        connections_max = Some(60),
        connections_per_ip_max = Some(50),
        progress_timeout = Some(Duration::from_millis(300)),
        idle_timeout = Some(Duration::from_millis(500)),
        read_deadline = Some(Duration::from_millis(200)),
        connect_timeout = Some(Duration::from_millis(100)),
        output_soft_bytes = Some(60_000),
        output_soft_grace = Duration::from_millis(50),
        output_hard_bytes = Some(300_000),
        memory_bytes_max = Some(900_000),
        output_high_water_bytes = 20_000,
        output_low_water_bytes = 5_000,
        input_bytes_max = 4_000,
        read_bytes_per_turn = 3_000
    );
    let mut sim = simulate(seed, faults, limits);
    sim.remote("192.0.2.1:80", Reach::Answers);
    sim.remote("192.0.2.2:80", Reach::Silent);
    let world = Rc::new(RefCell::new(World {
        random: Random::new(seed.wrapping_mul(31)),
        lives: ConnMap::new(),
        known: Vec::new(),
        topics: Vec::new(),
        services: Vec::new(),
        quiet: false,
        deeds: 0,
    }));
    let addresses = ["127.0.0.1:7", "unix:/chaos"];
    let listeners = [0, 1].map(|me| {
        let chaos = Chaos { me, world: world.clone() };
        sim.listen_with(addresses[me], chaos, Options::new("chaos").messages(me == 0))
    });
    world.borrow_mut().services.extend(listeners.map(|listener| listener.service));
    sim.reactor().with(listeners[0].service, |chaos: &mut Chaos, cx| {
        chaos.world.borrow_mut().topics.extend([cx.create_topic(), cx.create_topic()]);
    });
    let descriptors = sim.descriptors();

    let mut random = Random::new(!seed);
    let mut peers = Vec::new();
    for _ in 0..rounds {
        match random.below(10) {
            0..3 => peers.push(sim.connect(listeners[random.below(2)])),
            _ if peers.is_empty() => {}
            deed => {
                let peer = peers[random.below(peers.len())];
                match deed {
                    3..6 => _ = sim.try_send(peer, &vec![b'x'; random.below(6_000)]),
                    6 => _ = sim.finish(peer),
                    7 => sim.stop_reading(peer),
                    8 => sim.resume_reading(peer),
                    _ => match random.below(4) {
                        0 => _ = sim.reset(peer),
                        1 => _ = sim.close(peer),
                        _ if !sim.can_send(peer) => {}
                        2 => _ = sim.send_urgent(peer),
                        _ => sim.stay(peer),
                    },
                }
            }
        }
        sim.run_for(Duration::from_micros(random.below(5_000) as u64));
        if random.chance(0.2) {
            let me = random.below(2);
            sim.reactor().with(listeners[me].service, |chaos: &mut Chaos, cx| chaos.act(None, cx));
        }
        if random.chance(0.02) {
            sim.faults().descriptors_max = if random.chance(0.5) { 10 } else { 1000 };
        }
    }
    sim.faults().descriptors_max = 1000;
    if let End::Drained = end {
        sim.reactor().drain(Duration::from_secs(2)).unwrap();
        let world = world.borrow();
        // What a service asked for at the very end was not begun, and so does not end either.
        let open: Vec<_> = world.lives.iter().filter(|(_, life)| life.opened).map(|(conn, _)| conn).collect();
        assert!(open.is_empty(), "never told to be closed: {open:?}");
        assert_eq!(sim.reactor().connections(), 0);
        return (world.deeds, sim.trace().clone());
    }
    // Everybody goes home.
    world.borrow_mut().quiet = true;
    for listener in listeners {
        sim.reactor().with(listener.service, |chaos: &mut Chaos, cx| {
            let mut world = chaos.world.borrow_mut();
            for index in 0..world.known.len() {
                let conn = world.known[index];
                if let Some(life) = world.lives.get_mut(conn).filter(|life| life.owner == chaos.me) {
                    life.closing = true;
                    cx.close(conn);
                }
            }
        });
    }
    assert!(sim.run(), "it comes to an end");
    assert!(world.borrow().lives.is_empty(), "some connections were never told to be closed");
    assert_nothing_leaks(&mut sim, descriptors);
    let deeds = world.borrow().deeds;
    (deeds, sim.trace().clone())
}

#[test]
fn whatever_services_ask_for_what_they_hear_makes_sense() {
    sim::check(0..40, |seed| {
        let stopped = with!(Faults::lossy(), stall = 0.02, stall_max = Duration::from_secs(1));
        for faults in [Faults::hostile(), Faults::lossy(), stopped] {
            let (deeds, _) = chaos(seed, faults, 120, End::Closed);
            assert!(deeds > 20, "next to nothing was asked for");
        }
    });
}

#[test]
fn whatever_services_ask_for_while_it_shuts_down_each_connection_ends_once() {
    sim::check(0..40, |seed| {
        for faults in [Faults::none(), Faults::hostile(), Faults::lossy()] {
            chaos(seed, faults, 120, End::Drained);
        }
    });
}

#[test]
fn chaos_is_the_same_for_the_same_seed() {
    sim::check(0..3, |seed| {
        let [one, other] = [(), ()].map(|()| chaos(seed, Faults::lossy(), 100, End::Closed));
        assert_eq!(one.1, other.1);
    });
}

#[test]
#[ignore = "a longer run of the tests above"]
fn a_day_of_chaos() {
    sim::check(1_000..3_000, |seed| {
        chaos(seed, Faults::lossy(), 600, End::Closed);
        chaos(seed, Faults::lossy(), 600, End::Drained);
    });
}
