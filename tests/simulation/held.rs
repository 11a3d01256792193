//! What the engine holds is what it accounts for, and a constant for each connection: measured by an allocator that knows
//! who has allocated what. Limits of memory are worth nothing if a buffer can be larger than what is counted for it.

use tidewheel::sim::{Faults, Listener, PeerId, Sim};
use tidewheel::{Arrival, ConnId, Context, Limits, Options, Service, TopicId};

use crate::harness::{memory, with};

/// What one connection may take beside what is counted for it, in bytes: its state, its timer, its place in a topic, its
/// output's own and the lists that have room for it, which double when they grow.
const CONNECTION_BYTES: usize = 2_048;

/// Connections of one address, which the engine is told to do things with. It allocates nothing of its own later.
struct Idle {
    conns: Vec<ConnId>,
    rooms: Vec<TopicId>,
    /// How many bytes of each input stay unconsumed.
    leaves: usize,
}

impl Service for Idle {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        memory::service(|| self.conns.push(conn));
    }

    fn input(&mut self, _: ConnId, bytes: &[u8], _: &mut Context<'_>) -> usize {
        bytes.len().saturating_sub(self.leaves)
    }
}

/// A scenario with so many connections whose peers do not read.
struct Held {
    sim: Sim,
    listener: Listener,
    peers: Vec<PeerId>,
    before: isize,
    accounted_before: usize,
}

impl Held {
    fn new(count: usize, limits: Limits) -> Held {
        let mut sim = Sim::with_limits(1, Faults::none(), limits);
        sim.faults().send_buffer_bytes = 1500;
        sim.faults().receive_buffer_bytes = 2000;
        let idle = Idle { conns: Vec::new(), rooms: Vec::new(), leaves: usize::MAX };
        let listener =
            memory::engine(|| sim.listen_with("127.0.0.1:7", idle, Options::new("idle").messages(false)));
        let peers: Vec<PeerId> = (0..count).map(|_| sim.connect(listener)).collect();
        peers.iter().for_each(|&peer| sim.stop_reading(peer));
        memory::engine(|| sim.settle());
        let mut held = Held { sim, listener, peers, before: 0, accounted_before: 0 };
        // Fills what the system holds for each, so that everything later stays with the engine.
        held.with(|idle, cx| idle.conns.iter().for_each(|&conn| cx.send(conn, &[b'f'; 4_000])));
        held.begin();
        held
    }

    /// What is held now is the baseline.
    fn begin(&mut self) {
        self.before = memory::held_by_engine();
        self.accounted_before = self.sim.accounted_bytes();
    }

    /// Has the service do something, and turns until nothing is left to do.
    fn with(&mut self, call: impl FnOnce(&mut Idle, &mut Context<'_>)) {
        let Held { sim, listener, .. } = self;
        memory::engine(|| {
            sim.reactor().with(listener.service, |idle: &mut Idle, cx| call(idle, cx));
            sim.settle();
        });
    }

    fn settle(&mut self) {
        memory::engine(|| self.sim.settle());
    }

    /// Bytes that the engine holds, beyond the baseline, and those that it accounts for.
    fn grown(&mut self) -> (isize, isize) {
        let accounted = self.sim.accounted_bytes() as isize - self.accounted_before as isize;
        (memory::held_by_engine() - self.before, accounted)
    }

    #[track_caller]
    fn assert_accounted(&mut self, what: &str) {
        let (held, accounted) = self.grown();
        let constant = (self.peers.len() * CONNECTION_BYTES) as isize;
        assert!(
            held <= accounted + constant,
            "{what}: {held} bytes are held beyond the baseline, {accounted} of them accounted for"
        );
    }
}

fn unlimited() -> Limits {
    with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None, progress_timeout = None)
}

#[test]
fn output_is_accounted_for_as_it_is_held() {
    // Sent to one alone: small ones, large ones, and some of both.
    for sizes in [&[10; 300][..], &[3_000; 20], &[70_000; 2], &[1, 5_000, 100, 40_000, 7], &[65_000, 1_000]] {
        let mut held = Held::new(20, unlimited());
        for &size in sizes {
            held.with(|idle, cx| idle.conns.iter().for_each(|&conn| cx.send(conn, &vec![b's'; size])));
        }
        held.assert_accounted(&format!("sent {:?}", &sizes[..sizes.len().min(5)]));
    }
}

#[test]
fn what_topics_bring_is_accounted_for_as_it_is_held() {
    let mut held = Held::new(30, unlimited());
    held.with(|idle, cx| {
        memory::service(|| idle.rooms.reserve(30));
        for index in 0..idle.conns.len() {
            let room = cx.create_topic();
            cx.subscribe(room, idle.conns[index]);
            idle.rooms.push(room);
        }
    });
    // A loud room's turn is followed by a quiet one's, whose only member has stopped.
    held.with(|idle, cx| (0..16).for_each(|room| cx.publish(idle.rooms[room], &[b'l'; 1000], None)));
    held.begin();
    for round in 0..14 {
        held.with(|idle, cx| {
            // Its only member is gone before it could be kept for it.
            cx.publish(idle.rooms[round], &vec![b'l'; 700_000], None);
            cx.abort(idle.conns[round]);
        });
        held.with(|idle, cx| cx.publish(idle.rooms[15 + round], &[b'q'; 130], None));
    }
    // One such buffer may be kept for the next turn.
    held.before += 2 << 20;
    held.assert_accounted("a loud room and quiet ones");
}

#[test]
fn what_nobody_receives_takes_no_memory() {
    let mut held = Held::new(30, unlimited());
    held.with(|idle, cx| {
        memory::service(|| idle.rooms.reserve(30));
        for index in 0..idle.conns.len() {
            let room = cx.create_topic();
            cx.subscribe(room, idle.conns[index]);
            idle.rooms.push(room);
        }
    });
    held.begin();
    let line = vec![b'l'; 100_000];
    let peak = memory::peak_of_engine(|| {
        held.with(|idle, cx| {
            for (room, conn) in idle.rooms.iter().zip(&idle.conns) {
                cx.publish(*room, &line, Some(*conn));
            }
        });
    });
    let grown = peak - held.before;
    assert!(grown < line.len() as isize, "{grown} bytes for lines that their own senders alone would hear");
}

#[test]
fn unfinished_input_is_accounted_for_as_it_is_held() {
    let mut held = Held::new(50, unlimited());
    for peer in held.peers.clone() {
        held.sim.send(peer, &[b'u'; 32_000]);
    }
    held.settle();
    held.assert_accounted("32,000 unfinished bytes of each");
    // Nearly all of it is consumed at last: what is left is little, and so must be what it is kept in.
    held.with(|idle, _| idle.leaves = 10);
    for peer in held.peers.clone() {
        held.sim.send(peer, b"and the end");
    }
    held.settle();
    held.assert_accounted("ten unfinished bytes of each");
}

#[test]
fn what_is_closed_is_given_back() {
    let mut held = Held::new(50, unlimited());
    held.with(|idle, cx| idle.conns.iter().for_each(|&conn| cx.send(conn, &[b's'; 50_000])));
    for peer in held.peers.clone() {
        held.sim.send(peer, &[b'u'; 32_000]);
    }
    held.settle();
    for peer in held.peers.clone() {
        held.sim.reset(peer);
    }
    held.settle();
    let (grown, accounted) = held.grown();
    assert!(accounted <= 0, "{accounted} bytes are accounted for, and nobody is there");
    assert!(grown <= 0, "{grown} bytes more are held than when 50 connections were open");
}
