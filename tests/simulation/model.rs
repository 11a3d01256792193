//! The engine beside a model of it that is too simple to be wrong: for each connection the model has a list of what its
//! peer is to receive. Two services do anything to anybody at any time; each thing is done twice, once through the
//! engine and once in the model. What comes to a peer is the beginning of its list, and all of it if it ended in order.
//!
//! The model follows the documentation of [`Context`] alone. Within a turn the messages of two topics may come in either
//! order, and the messages of one topic only in theirs; everything else is in the order in which it was said.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use tidewheel::sim::{self, Faults, PeerId, PeerState, Random, Reach, Sim};
use tidewheel::{
    Address, Arrival, CloseReason, ConnId, Context, Limits, Options, Peer, Receive, Service, ServiceId,
    Shared, TopicId,
};

use crate::harness::{memory, with};

use super::{assert_nothing_leaks, simulate};

/// Outgoing connections of one run, each to an address of its own.
const CALLS_MAX: usize = 30;

// ---- the model ----

/// What a peer is to receive next.
enum Due {
    /// Exactly this.
    Own(Vec<u8>),
    /// What topics brought in this turn: of each its messages in order.
    Topics(u64, BTreeMap<TopicId, VecDeque<Vec<u8>>>),
}

#[derive(Default)]
struct Line {
    due: Vec<Due>,
    /// Nothing more is to come.
    ended: bool,
    half_closed: bool,
    /// Its output may stop anywhere.
    lost: bool,
    /// From here on it may be missing: the engine ended the connection in the turn in which this was said.
    optional_from: Option<usize>,
    /// Where the turn begins, and which one.
    turn: (u64, usize),
    established: bool,
    /// What its service has consumed.
    consumed: Vec<u8>,
    saw_eof: bool,
}

impl Line {
    fn takes(&self) -> bool {
        !self.ended && !self.half_closed
    }

    fn begin_turn(&mut self, turn: u64) {
        if self.turn.0 != turn {
            self.turn = (turn, self.due.len());
        }
    }

    fn own(&mut self, turn: u64, bytes: &[u8]) {
        if self.takes() && !bytes.is_empty() {
            self.begin_turn(turn);
            memory::service(|| self.due.push(Due::Own(bytes.to_vec())));
        }
    }

    fn topic(&mut self, turn: u64, topic: TopicId, bytes: &[u8]) {
        if !self.takes() {
            return;
        }
        self.begin_turn(turn);
        memory::service(|| {
            if !matches!(self.due.last(), Some(Due::Topics(of, _)) if *of == turn) {
                self.due.push(Due::Topics(turn, BTreeMap::new()));
            }
            let Some(Due::Topics(_, topics)) = self.due.last_mut() else { unreachable!() };
            topics.entry(topic).or_default().push_back(bytes.to_vec());
        });
    }

    fn consume(&mut self, bytes: &[u8]) {
        memory::service(|| self.consumed.extend(bytes));
    }

    /// Whether this is a beginning of what was due; if so, whether it is all that had to come.
    fn compare(&self, received: &[u8]) -> Result<bool, String> {
        let mut rest = received;
        let wrong = |rest: &[u8], index| {
            let at = received.len() - rest.len();
            Err(format!(
                "at {at} of {}, item {index} of {}, {:?}",
                received.len(),
                self.due.len(),
                rest[..rest.len().min(40)].escape_ascii().to_string()
            ))
        };
        for (index, due) in self.due.iter().enumerate() {
            let may_stop = self.optional_from.is_some_and(|from| index >= from);
            match due {
                Due::Own(bytes) => {
                    let count = bytes.len().min(rest.len());
                    if bytes[..count] != rest[..count] {
                        return wrong(rest, index);
                    }
                    rest = &rest[count..];
                    if count < bytes.len() {
                        return Ok(may_stop && count == 0);
                    }
                }
                Due::Topics(_, topics) => {
                    let mut topics: Vec<VecDeque<&[u8]>> =
                        topics.values().map(|all| all.iter().map(Vec::as_slice).collect()).collect();
                    loop {
                        topics.retain(|all| !all.is_empty());
                        if topics.is_empty() {
                            break;
                        }
                        if rest.is_empty() {
                            return Ok(may_stop);
                        }
                        let begins = |bytes: &[u8]| {
                            let count = bytes.len().min(rest.len());
                            bytes[..count] == rest[..count]
                        };
                        let next =
                            topics.iter_mut().find(|all| all.front().is_some_and(|bytes| begins(bytes)));
                        let Some(bytes) = next.and_then(VecDeque::pop_front) else {
                            return wrong(rest, index);
                        };
                        if rest.len() < bytes.len() {
                            return Ok(false);
                        }
                        rest = &rest[bytes.len()..];
                    }
                }
            }
        }
        if rest.is_empty() { Ok(true) } else { wrong(rest, self.due.len()) }
    }
}

/// What both services know together, with the model in it.
struct World {
    random: Random,
    turn: u64,
    quiet: bool,
    services: Vec<ServiceId>,
    lines: HashMap<ConnId, Line>,
    /// In the order in which they came.
    conns: Vec<ConnId>,
    /// By the address of the peer, which no other one has.
    by_ip: HashMap<IpAddr, ConnId>,
    topics: Vec<TopicId>,
    members: HashMap<TopicId, HashSet<ConnId>>,
    messages: u32,
    calls: usize,
    deeds: u64,
}

impl World {
    /// A message that is like no other one.
    fn message(&mut self, bytes_max: usize) -> Vec<u8> {
        self.messages += 1;
        let mut bytes = format!("<{:x} ", self.messages).into_bytes();
        let filling = self.random.below(bytes_max);
        bytes.resize(bytes.len() + filling, b'a' + (self.messages % 26) as u8);
        bytes.push(b'>');
        bytes
    }

    fn size(&mut self) -> usize {
        [1, 30, 300, 3_000, 20_000][self.random.below(5)]
    }

    fn line(&mut self, conn: ConnId) -> &mut Line {
        memory::service(|| self.lines.entry(conn).or_default())
    }

    fn publish(&mut self, topic: TopicId, bytes: &[u8], except: Option<ConnId>) {
        let turn = self.turn;
        for &member in self.members.get(&topic).into_iter().flatten() {
            if Some(member) != except {
                self.lines.entry(member).or_default().topic(turn, topic, bytes);
            }
        }
    }

    fn forget(&mut self, conn: ConnId) {
        self.members.values_mut().for_each(|members| {
            members.remove(&conn);
        });
    }
}

struct Twin {
    me: usize,
    world: Rc<RefCell<World>>,
}

impl Twin {
    /// Does a few things to this connection and to others, through the engine and in the model.
    fn act(&mut self, conn: Option<ConnId>, cx: &mut Context<'_>) {
        let world = &mut *self.world.borrow_mut();
        if world.quiet {
            return;
        }
        for _ in 0..world.random.below(4) {
            let count = world.conns.len();
            let chosen = world.conns.get(world.random.below(count)).copied();
            let Some(target) = conn.filter(|_| world.random.chance(0.6)).or(chosen) else { return };
            self.act_on(world, target, cx);
        }
    }

    fn act_on(&self, world: &mut World, target: ConnId, cx: &mut Context<'_>) {
        world.deeds += 1;
        let (turn, size) = (world.turn, world.size());
        let topic = world.topics[world.random.below(world.topics.len())];
        match world.random.below(40) {
            0..8 => {
                let bytes = world.message(size);
                cx.send(target, &bytes);
                world.line(target).own(turn, &bytes);
            }
            8 => {
                let bytes = world.message(size);
                let count = cx.send_some(target, &bytes);
                world.line(target).own(turn, &bytes[..count]);
            }
            9..11 => {
                let bytes = world.message(size);
                cx.send_shared(target, &Shared::from(&bytes[..]));
                // It is not for those that are not established.
                if world.line(target).established {
                    world.line(target).own(turn, &bytes);
                }
            }
            11..22 => {
                let bytes = world.message(size / 4 + 2);
                let except = world.random.chance(0.5).then_some(target);
                cx.publish(topic, &bytes, except);
                world.publish(topic, &bytes, except);
            }
            22..28 => {
                cx.subscribe(topic, target);
                let line = world.line(target);
                if line.established && !line.ended {
                    world.members.entry(topic).or_default().insert(target);
                }
            }
            28..30 => {
                cx.unsubscribe(topic, target);
                world.members.entry(topic).or_default().remove(&target);
            }
            30 if world.random.chance(0.2) => {
                cx.remove_topic(topic);
                world.members.remove(&topic);
                let new = cx.create_topic();
                world.topics.retain(|&other| other != topic);
                world.topics.push(new);
            }
            31 if world.random.chance(0.3) => {
                cx.half_close(target);
                world.line(target).half_closed = true;
            }
            32 if world.random.chance(0.2) => {
                cx.close(target);
                let line = world.line(target);
                line.lost |= !line.established;
                line.ended = true;
            }
            33 if world.random.chance(0.1) => {
                cx.abort(target);
                let line = world.line(target);
                (line.ended, line.lost) = (true, true);
            }
            34 => cx.pause(target),
            35..37 => cx.resume(target),
            37 => {
                let at = cx.now() + Duration::from_micros(world.random.below(3_000) as u64);
                cx.set_deadline(target, at);
                cx.notify_writable(target);
            }
            38 => cx.hand_over(target, world.services[1 - self.me]),
            39 if world.calls < CALLS_MAX => {
                let conn = cx.connect(call_address(world.calls), world.services[self.me]);
                world.calls += 1;
                world.conns.push(conn);
                let bytes = world.message(300);
                cx.send(conn, &bytes);
                world.line(conn).own(turn, &bytes);
            }
            _ => {}
        }
    }
}

fn call_address(number: usize) -> Address {
    Address::Tcp(([192, 0, 2, number as u8], 80).into())
}

fn address_of(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a64_0000 + number as u32))
}

impl Service for Twin {
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        {
            let mut world = self.world.borrow_mut();
            match &arrival {
                Arrival::Accepted(peer) | Arrival::Connected(peer) => {
                    if let (Arrival::Accepted(_), Peer::Inet(at)) = (&arrival, peer) {
                        assert_eq!(world.by_ip.insert(at.ip(), conn), None, "{at} came twice");
                        world.conns.push(conn);
                    }
                    world.line(conn).established = true;
                }
                _ => {}
            }
        }
        self.act(Some(conn), cx);
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let consumed = {
            let world = &mut *self.world.borrow_mut();
            let all = world.random.chance(0.8);
            let consumed = if all { bytes.len() } else { 1 + world.random.below(bytes.len()) };
            let part = &bytes[..consumed];
            world.line(conn).consume(part);
            let turn = world.turn;
            // What is relayed from where it was read takes another way than anything else.
            if !world.quiet && world.random.chance(0.3) {
                // It tells everybody before its own answer, which must not be there first.
                let topic = world.topics[world.random.below(world.topics.len())];
                let said = world.message(200);
                cx.publish(topic, &said, None);
                world.publish(topic, &said, None);
            }
            if !world.quiet && world.random.chance(0.7) {
                cx.send(conn, part);
                world.line(conn).own(turn, part);
            }
            consumed
        };
        self.act(Some(conn), cx);
        if consumed < bytes.len() {
            cx.offer_again(conn);
        }
        consumed
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        {
            let mut world = self.world.borrow_mut();
            let line = world.line(conn);
            line.consume(rest);
            line.saw_eof = true;
        }
        self.act(Some(conn), cx);
        let mut world = self.world.borrow_mut();
        if world.quiet || world.random.chance(0.7) {
            cx.close(conn);
            world.line(conn).ended = true;
        }
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.act(Some(conn), cx);
    }

    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.act(Some(conn), cx);
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        {
            let world = &mut *self.world.borrow_mut();
            world.forget(conn);
            let turn = world.turn;
            let line = world.line(conn);
            match reason {
                CloseReason::PeerClosed | CloseReason::Service => {
                    // With both directions ended, and all of it flushed, it closes by itself.
                    let asked = line.ended || (line.half_closed && line.saw_eof);
                    assert!(asked, "{conn} was closed, and nobody had asked for it");
                }
                CloseReason::IdleTimeout | CloseReason::Drained => {
                    let begin = if line.turn.0 == turn { line.turn.1 } else { line.due.len() };
                    line.optional_from.get_or_insert(begin);
                }
                _ => line.lost = true,
            }
            line.ended = true;
        }
        self.act(None, cx);
    }
}

impl Receive<()> for Twin {
    fn message(&mut self, (): (), cx: &mut Context<'_>) {
        self.act(None, cx);
    }
}

// ---- the run ----

/// A peer that the scenario plays, and what it has said.
struct Played {
    peer: PeerId,
    said: Vec<u8>,
    /// It has closed or reset its end.
    gone: bool,
    finished: bool,
}

fn run_beside_the_model(seed: u64, faults: Faults, limits: Limits, rounds: usize) -> u64 {
    let sim = &mut simulate(seed, faults, limits);
    for number in 0..CALLS_MAX {
        let reach = [Reach::Answers, Reach::Answers, Reach::Answers, Reach::Refuses][number % 4];
        sim.remote(&call_address(number).to_string(), reach);
    }
    let mut random = Random::new(!seed);
    let world = Rc::new(RefCell::new(World {
        random: Random::new(seed.wrapping_mul(77)),
        turn: 1,
        quiet: false,
        services: Vec::new(),
        lines: HashMap::new(),
        conns: Vec::new(),
        by_ip: HashMap::new(),
        topics: Vec::new(),
        members: HashMap::new(),
        messages: 0,
        calls: 0,
        deeds: 0,
    }));
    // So that the model knows which turn it is.
    let turned = world.clone();
    sim.check_each_turn(move |_| turned.borrow_mut().turn += 1);
    let options = || Options::new("twin").messages(false);
    let listener = sim.listen_with("127.0.0.1:7", Twin { me: 0, world: world.clone() }, options());
    let other = sim.reactor().add_service(Twin { me: 1, world: world.clone() }, options());
    world.borrow_mut().services.extend([listener.service, other]);
    sim.reactor().with(other, |twin: &mut Twin, cx| {
        twin.world.borrow_mut().topics.extend([(); 3].map(|()| cx.create_topic()));
    });
    let mailbox = sim.reactor().mailbox::<Twin, ()>(other, 8);
    let mut peers: Vec<Played> = Vec::new();
    for _ in 0..rounds {
        match random.below(20) {
            0..5 if peers.len() < 60 => {
                let peer = sim.connect_from(listener, address_of(peers.len()));
                peers.push(Played { peer, said: Vec::new(), gone: false, finished: false });
            }
            _ if peers.is_empty() => {}
            deed => {
                let index = random.below(peers.len());
                let played = &mut peers[index];
                let peer = played.peer;
                match deed {
                    5..14 if !played.finished && !played.gone => {
                        let count = [10, 200, 3_000][random.below(3)];
                        let bytes = random.bytes(count);
                        if sim.try_send(peer, &bytes) {
                            played.said.extend(bytes);
                        }
                    }
                    14 => sim.stop_reading(peer),
                    15 | 16 => sim.resume_reading(peer),
                    18 if random.chance(0.3) => {
                        sim.finish(peer);
                        played.finished = true;
                    }
                    19 if random.chance(0.2) => {
                        if random.chance(0.5) {
                            sim.reset(peer);
                        } else {
                            sim.close(peer);
                        }
                        played.gone = true;
                    }
                    _ => sim.read_slowly(peer, 1 + random.below(2_000), Duration::from_micros(300)),
                }
            }
        }
        if random.chance(0.3) {
            sim.reactor().with(other, |twin: &mut Twin, cx| twin.act(None, cx));
        }
        if random.chance(0.2) {
            let _ = mailbox.send(());
        }
        sim.run_for(Duration::from_micros(random.below(2_000) as u64));
        if random.chance(0.05) {
            let index = random.below(peers.len().max(1));
            if let Some(played) = peers.get(index) {
                compare(sim, &world.borrow(), played.peer, address_of(index), played, false);
            }
        }
    }
    finish(sim, &world, listener.service, &peers);
    world.borrow().deeds
}

/// Everybody reads again and nobody does anything more: what is due must come.
fn finish(sim: &mut Sim, world: &RefCell<World>, service: ServiceId, peers: &[Played]) {
    world.borrow_mut().quiet = true;
    let callers: Vec<(usize, PeerId)> = (0..CALLS_MAX)
        .flat_map(|number| {
            sim.callers(&call_address(number).to_string()).into_iter().map(move |peer| (number, peer))
        })
        .collect();
    peers.iter().map(|played| played.peer).chain(callers.iter().map(|&(_, peer)| peer)).for_each(|peer| {
        sim.resume_reading(peer);
    });
    let conns = world.borrow().conns.clone();
    sim.reactor().with(service, |_: &mut Twin, cx| conns.iter().for_each(|&conn| cx.resume(conn)));
    // Longer than anything takes but the deadline of somebody who takes nothing.
    sim.run_for(Duration::from_secs(5));
    for (index, played) in peers.iter().enumerate() {
        compare(sim, &world.borrow(), played.peer, address_of(index), played, true);
    }
    for (number, peer) in callers {
        let played = Played { peer, said: Vec::new(), gone: false, finished: false };
        let conn = world.borrow().calls_to(number);
        compare_line(sim, &world.borrow().lines[&conn], &played, true);
    }
    // With those that came meanwhile.
    let conns = world.borrow().conns.clone();
    sim.reactor().with(service, |_: &mut Twin, cx| conns.iter().for_each(|&conn| cx.close(conn)));
    world.borrow_mut().lines.values_mut().for_each(|line| line.ended = true);
    assert!(sim.run(), "it comes to an end");
    assert_nothing_leaks(sim, 1);
}

impl World {
    /// The connection of one of the calls.
    fn calls_to(&self, number: usize) -> ConnId {
        let calls: Vec<_> =
            self.conns.iter().filter(|&conn| !self.by_ip.values().any(|accepted| accepted == conn)).collect();
        *calls[number]
    }
}

fn compare(sim: &mut Sim, world: &World, peer: PeerId, ip: IpAddr, played: &Played, all: bool) {
    let Some(conn) = world.by_ip.get(&ip) else {
        assert!(sim.received(peer).is_empty(), "{peer:?} was not accepted, and received something");
        return;
    };
    let line = &world.lines[conn];
    compare_line(sim, line, played, all);
    assert!(played.said.starts_with(&line.consumed), "{conn} was given something else than {peer:?} sent");
}

fn compare_line(sim: &mut Sim, line: &Line, played: &Played, all: bool) {
    let state = sim.state(played.peer);
    let peer = played.peer;
    let complete = match line.compare(sim.received(peer)) {
        Ok(complete) => complete,
        Err(wrong) => panic!("{peer:?} received something else than was said: {wrong}"),
    };
    if !all || played.gone || state == PeerState::Reset || line.lost {
        return;
    }
    assert!(complete, "{peer:?}, {state:?}, has not received everything");
    let complete = line.half_closed || !line.saw_eof || !played.finished || line.consumed == played.said;
    assert!(complete, "the end of {peer:?} was seen before all that it had sent");
    if line.ended || line.half_closed {
        assert_eq!(state, PeerState::Ended, "{peer:?} was not told the end");
    }
}

#[test]
fn peers_receive_what_a_simple_model_says() {
    let open = with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None);
    let tight = with!(
        Limits::default(),
        output_high_water_bytes = 4_000,
        output_low_water_bytes = 1_000,
        output_soft_bytes = Some(100_000),
        output_soft_grace = Duration::from_millis(20),
        output_hard_bytes = Some(200_000),
        idle_timeout = Some(Duration::from_secs(20)),
        read_bytes_per_turn = 2_000
    );
    let mut deeds = 0;
    sim::check(0..40, |seed| {
        let faults = [Faults::none(), Faults::hostile(), Faults::hostile(), Faults::lossy()];
        let limits = if seed % 3 == 0 { &tight } else { &open };
        deeds += run_beside_the_model(seed, faults[(seed % 4) as usize].clone(), limits.clone(), 150);
    });
    assert!(deeds > 200, "next to nothing was done");
}

#[test]
#[ignore = "a longer run of the test above"]
fn a_day_beside_the_model() {
    let limits = with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None);
    sim::check(1_000..3_000, |seed| {
        let faults = [Faults::none(), Faults::hostile(), Faults::lossy()];
        run_beside_the_model(seed, faults[(seed % 3) as usize].clone(), limits.clone(), 400);
    });
}
