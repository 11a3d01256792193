//! One limit bounds the memory for waiting output and unconsumed input together. In these simulations everything that is counted is
//! also checked against a count from the beginning, after every turn.

use std::time::Duration;

use tidewheel::framing::{Answer, Framed, Message, Next, Rules};
use tidewheel::sim::{Faults, Listener, PeerId, PeerState, Sim};
use tidewheel::{Arrival, CloseReason, ConnId, Context, Limits, Options, Service, Shared, TopicId};

use crate::harness::with;

use super::{kind_and_hostile, simulate};

const MS: Duration = Duration::from_millis(1);

fn limits(memory: usize) -> Limits {
    with!(
        Limits::default(),
        memory_bytes_max = Some(memory),
        output_soft_bytes = None,
        output_hard_bytes = None,
        read_deadline = None,
        progress_timeout = None
    )
}

fn held(sim: &mut Sim) -> usize {
    sim.reactor().metrics().memory_bytes as usize
}

fn evicted(sim: &mut Sim) -> u64 {
    sim.reactor().metrics().closed_for(CloseReason::MemoryLimit)
}

/// Leaves everything unconsumed, and sends what it is told to.
#[derive(Default)]
struct Hoard {
    conns: Vec<ConnId>,
    topic: Option<TopicId>,
}

impl Service for Hoard {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        cx.subscribe(topic, conn);
        self.conns.push(conn);
    }

    fn input(&mut self, _: ConnId, _: &[u8], _: &mut Context<'_>) -> usize {
        0
    }
}

fn with(sim: &mut Sim, hoard: Listener, act: impl FnOnce(&mut Hoard, &mut Context<'_>)) {
    sim.reactor().with(hoard.service, act);
}

/// So many peers that read nothing, and whose system buffers little.
fn deaf_peers(sim: &mut Sim, hoard: Listener, count: usize) -> Vec<PeerId> {
    sim.faults().send_buffer_bytes = 1500;
    sim.faults().receive_buffer_bytes = 2000;
    let connect = |_| {
        let peer = sim.connect(hoard);
        sim.stop_reading(peer);
        // One after the other, so that they are known in this order.
        sim.settle();
        peer
    };
    (0..count).map(connect).collect()
}

#[test]
fn unconsumed_input_counts_however_it_comes() {
    const LIMIT: usize = 200_000;
    for piece in [1, 37, 5_000, 30_000] {
        kind_and_hostile(&limits(LIMIT), |sim| {
            let hoard = sim.listen("127.0.0.1:7", Hoard::default());
            let peers: Vec<_> = (0..12).map(|_| sim.connect(hoard)).collect();
            let total = if piece == 1 { 300 } else { 30_000 };
            for _ in 0..total / piece {
                peers.iter().for_each(|&peer| _ = sim.try_send(peer, &vec![b'x'; piece]));
                sim.run_for(MS);
                assert!(held(sim) <= LIMIT, "{} bytes", held(sim));
            }
            sim.settle();
            assert_eq!(evicted(sim) > 0, 12 * total > LIMIT, "{piece} bytes at a time");
            peers.iter().for_each(|&peer| _ = sim.reset(peer));
            sim.settle();
            assert_eq!(held(sim), 0);
        });
    }
}

#[test]
fn the_largest_goes_first_whether_it_is_input_or_output() {
    kind_and_hostile(&limits(110_000), |sim| {
        let hoard = sim.listen("127.0.0.1:7", Hoard::default());
        let peers = deaf_peers(sim, hoard, 5);
        sim.send(peers[0], &[b'i'; 40_000]);
        sim.settle();
        with(sim, hoard, |hoard, cx| cx.send(hoard.conns[1], &[b'o'; 20_000]));
        sim.send(peers[2], &[b'i'; 10_000]);
        sim.settle();
        assert_eq!(evicted(sim), 0);
        // Two who share 25,000 bytes hold them together, and neither is the largest.
        let shared = Shared::from(vec![b's'; 25_000]);
        with(sim, hoard, |hoard, cx| {
            (3..5).for_each(|number| cx.send_shared(hoard.conns[number], &shared));
        });
        sim.settle();
        assert_eq!(evicted(sim), 0, "{} bytes", held(sim));
        sim.send(peers[2], &[b'i'; 19_000]);
        sim.settle();
        // 40,000 bytes of input are the most.
        sim.resume_reading(peers[0]);
        sim.settle();
        assert_eq!((evicted(sim), sim.state(peers[0])), (1, PeerState::Ended));
        with(sim, hoard, |hoard, cx| cx.send(hoard.conns[1], &[b'o'; 40_000]));
        sim.settle();
        sim.resume_reading(peers[1]);
        sim.settle();
        assert_eq!((evicted(sim), sim.state(peers[1])), (2, PeerState::Reset));
        for peer in [peers[2], peers[3], peers[4]] {
            assert_eq!(sim.state(peer), PeerState::Open);
        }
    });
}

#[test]
fn a_slice_holds_all_that_it_is_a_part_of() {
    kind_and_hostile(&limits(100_000), |sim| {
        let hoard = sim.listen("127.0.0.1:7", Hoard::default());
        let peers = deaf_peers(sim, hoard, 3);
        // What each has still to take is little of a large message.
        for (number, &peer) in peers.iter().take(2).enumerate() {
            let message = Shared::from(vec![b'm'; 40_000]);
            with(sim, hoard, |hoard, cx| cx.send_shared(hoard.conns[number], &message));
            drop(message);
            sim.read_slowly(peer, 39_000, 100 * MS);
            sim.resume_reading(peer);
            sim.run_for(300 * MS);
            sim.stop_reading(peer);
        }
        let before = held(sim);
        assert!(before == 0 || before > 40_000, "{before} bytes");
        with(sim, hoard, |hoard, cx| cx.send(hoard.conns[2], &[b'o'; 30_000]));
        sim.settle();
        assert!(held(sim) <= 100_000);
    });
}

#[test]
fn one_turn_closes_a_bounded_number() {
    const PEERS: usize = 900;
    let limits = with!(limits(1 << 20), accepts_per_turn = PEERS);
    let sim = &mut simulate(3, Faults::none(), limits);
    let hoard = sim.listen("127.0.0.1:7", Hoard::default());
    sim.faults().send_buffer_bytes = 1500;
    sim.faults().receive_buffer_bytes = 2000;
    let peers: Vec<_> = (0..PEERS).map(|_| sim.connect(hoard)).collect();
    peers.iter().for_each(|&peer| sim.stop_reading(peer));
    sim.settle();
    // All of them have missed the same: while one is left that has, nothing is gained.
    for _ in 0..30 {
        with(sim, hoard, |hoard, cx| cx.publish(hoard.topic.unwrap(), &[b'x'; 60_000], None));
        let (mut before, mut turns) = (evicted(sim), 0);
        loop {
            sim.reactor().turn(Some(Duration::ZERO)).unwrap();
            let now = evicted(sim);
            assert!(now - before <= 256, "{} in one turn", now - before);
            turns += 1;
            if now == before && turns > 3 {
                break;
            }
            before = now;
        }
        assert!(held(sim) <= 1 << 20);
    }
    assert_eq!(evicted(sim), PEERS as u64);
}

#[test]
fn those_who_hold_one_block_together_are_closed_in_several_turns() {
    for effects_per_turn in [1, 40, 256] {
        let limits = with!(limits(1 << 20), effects_per_turn = effects_per_turn);
        let sim = &mut simulate(5, Faults::none(), limits);
        let hoard = sim.listen("127.0.0.1:7", Hoard::default());
        deaf_peers(sim, hoard, 600);
        let block = Shared::from(vec![b'x'; 2 << 20]);
        with(sim, hoard, |hoard, cx| hoard.conns.iter().for_each(|&conn| cx.send_shared(conn, &block)));
        // That no turn closes more than it may is checked by the simulation.
        sim.settle();
        assert_eq!(evicted(sim), 600, "nothing is gained before the last one is closed");
        assert_eq!(held(sim), 0);
    }
}

#[test]
fn what_a_room_says_between_private_words_is_stored_once() {
    const PEERS: usize = 50;
    kind_and_hostile(&limits(8 << 20), |sim| {
        let hoard = sim.listen("127.0.0.1:7", Hoard::default());
        deaf_peers(sim, hoard, PEERS);
        // Everybody is sent something of their own after each of the room's lines, all in one turn.
        for _ in 0..3 {
            with(sim, hoard, |hoard, cx| {
                for _ in 0..5 {
                    cx.publish(hoard.topic.unwrap(), &[b'x'; 20_000], None);
                    hoard.conns.iter().for_each(|&conn| cx.send(conn, b"a private word"));
                }
            });
            sim.settle();
        }
        let most = 15 * 20_000 + PEERS * 15 * 512;
        assert!(held(sim) <= most, "{} bytes are held, of {most}", held(sim));
        assert_eq!(evicted(sim), 0);
    });
}

#[test]
fn a_small_turn_behind_a_large_one_keeps_what_it_has_and_no_more() {
    let sim = &mut simulate(5, Faults::none(), limits(8 << 20));
    let (loud, quiet) =
        (sim.listen("127.0.0.1:7", Hoard::default()), sim.listen("127.0.0.1:8", Hoard::default()));
    sim.connect(loud);
    deaf_peers(sim, quiet, 2);
    with(sim, quiet, |hoard, cx| cx.publish(hoard.topic.unwrap(), &[b'q'; 10_000], None));
    sim.settle();
    let before = held(sim);
    for _ in 0..10 {
        with(sim, loud, |hoard, cx| cx.publish(hoard.topic.unwrap(), &[b'l'; 700_000], None));
        sim.reactor().turn(Some(Duration::ZERO)).unwrap();
        with(sim, quiet, |hoard, cx| cx.publish(hoard.topic.unwrap(), &[b'q'; 130], None));
        sim.run_for(MS);
    }
    sim.settle();
    let more = held(sim) - before;
    assert!(more <= 10 * 512, "{more} bytes for 10 messages of 130 bytes");
}

/// Answers each line to the room.
#[derive(Default)]
struct Room {
    topic: Option<TopicId>,
}

impl Answer for Room {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        cx.subscribe(topic, conn);
    }

    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        if let Some(topic) = self.topic {
            cx.publish(topic, message.text, Some(conn));
            cx.publish(topic, b"\n", Some(conn));
        }
        Next::Message
    }
}

#[test]
fn in_a_mixture_of_everything_the_limit_holds_and_nothing_is_left() {
    const LIMIT: usize = 150_000;
    kind_and_hostile(&limits(LIMIT), |sim| {
        sim.faults().send_buffer_bytes = 3000;
        sim.faults().receive_buffer_bytes = 3000;
        let room = sim.listen_with(
            "127.0.0.1:7",
            Framed::new(Room::default(), with!(Rules::default(), message_pause = None)),
            Options::new("room"),
        );
        let mut random = tidewheel::sim::Random::new(11);
        let mut peers: Vec<PeerId> = Vec::new();
        for _ in 0..400 {
            match random.below(10) {
                0 | 1 => peers.push(sim.connect(room)),
                _ if peers.is_empty() => {}
                deed => {
                    let peer = peers[random.below(peers.len())];
                    match deed {
                        2 => sim.stop_reading(peer),
                        3 => sim.resume_reading(peer),
                        4 => sim.read_slowly(peer, 700, MS),
                        5 if random.chance(0.2) => _ = sim.reset(peer),
                        _ => {
                            let mut text = vec![b'x'; [1, 100, 3_000, 20_000][random.below(4)]];
                            if random.chance(0.7) {
                                text.push(b'\n');
                            }
                            sim.try_send(peer, &text);
                        }
                    }
                }
            }
            sim.run_for(MS / 2);
            assert!(held(sim) <= LIMIT, "{} bytes", held(sim));
        }
        peers.iter().for_each(|&peer| _ = sim.reset(peer));
        sim.run();
        assert_eq!(held(sim), 0);
    });
}
