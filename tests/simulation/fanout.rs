//! Whatever is published, sent to one alone, joined, left and ended in the same turn: each connection hears what was said
//! to it and in rooms while it was there, in that order, and nothing twice or by halves.

use std::time::Duration;

use tidewheel::sim::{self, Faults, PeerId, Random};
use tidewheel::{Arrival, CloseReason, ConnId, Context, Limits, Service, TopicId};

use crate::harness::with;

use super::{assert_nothing_leaks, simulate};

const ROOMS: usize = 3;
const PEOPLE: usize = 6;

/// Does what it is told, and keeps a record of what everybody must hear.
#[derive(Default)]
struct Hall {
    rooms: Vec<TopicId>,
    people: Vec<Person>,
}

struct Person {
    conn: ConnId,
    room: Option<usize>,
    has_ended: bool,
    due: Vec<u8>,
}

impl Service for Hall {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        self.people.push(Person { conn, room: None, has_ended: false, due: Vec::new() });
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, _: &mut Context<'_>) {
        if let Some(person) = self.people.iter_mut().find(|person| person.conn == conn) {
            person.has_ended = true;
        }
    }
}

impl Hall {
    fn act(&mut self, random: &mut Random, number: usize, cx: &mut Context<'_>) {
        let who = random.below(PEOPLE);
        let said = format!("{number}:{}\n", "x".repeat([3, 40, 600, 3000][random.below(4)])).into_bytes();
        match random.below(12) {
            0..6 => {
                let room = random.below(ROOMS);
                let except = random.chance(0.7).then_some(self.people[who].conn);
                cx.publish(self.rooms[room], &said, except);
                let hear = |person: &&mut Person| {
                    person.room == Some(room) && !person.has_ended && Some(person.conn) != except
                };
                self.people.iter_mut().filter(hear).for_each(|person| person.due.extend(&said));
            }
            6..9 => {
                cx.send(self.people[who].conn, &said);
                if !self.people[who].has_ended {
                    self.people[who].due.extend(&said);
                }
            }
            9 | 10 => {
                let room = random.below(ROOMS);
                if let Some(old) = self.people[who].room.replace(room) {
                    cx.unsubscribe(self.rooms[old], self.people[who].conn);
                }
                cx.subscribe(self.rooms[room], self.people[who].conn);
            }
            _ if random.chance(0.1) => {
                let person = &mut self.people[who];
                match random.chance(0.5) {
                    true => cx.close(person.conn),
                    false => cx.half_close(person.conn),
                }
                person.has_ended = true;
            }
            _ if random.chance(0.2) => {
                // Everybody is still there, and nobody in the new room.
                let room = random.below(ROOMS);
                cx.remove_topic(self.rooms[room]);
                self.rooms[room] = cx.create_topic();
                for person in self.people.iter_mut().filter(|person| person.room == Some(room)) {
                    person.room = None;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn everybody_hears_what_is_meant_for_them_in_the_order_in_which_it_was_said() {
    let limits = with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None);
    sim::check(0..50, |seed| {
        let faults = if seed % 5 == 0 { Faults::none() } else { Faults::hostile() };
        let sim = &mut simulate(seed, faults, limits.clone());
        let hall = sim.listen("127.0.0.1:7", Hall::default());
        let peers: Vec<PeerId> = (0..PEOPLE)
            .map(|_| {
                let peer = sim.connect(hall);
                sim.settle();
                peer
            })
            .collect();
        let mut random = Random::new(seed);
        sim.reactor().with(hall.service, |hall: &mut Hall, cx| {
            hall.rooms = (0..ROOMS).map(|_| cx.create_topic()).collect();
        });
        for turn in 0..60 {
            let deeds = 1 + random.below(12);
            sim.reactor().with(hall.service, |hall: &mut Hall, cx| {
                (0..deeds).for_each(|deed| hall.act(&mut random, turn * 100 + deed, cx));
            });
            if random.chance(0.8) {
                sim.run_for(Duration::from_micros(300));
            }
        }
        sim.settle();
        for (number, &peer) in peers.iter().enumerate() {
            let due = sim.reactor().with(hall.service, |hall: &mut Hall, _| hall.people[number].due.clone());
            assert!(sim.received(peer) == due, "person {number} heard something else than was said");
        }
        peers.iter().for_each(|&peer| _ = sim.finish(peer));
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

/// Publishes to two topics, of which every connection is a member, in one call.
#[derive(Default)]
struct Two(Option<[TopicId; 2]>);

impl Service for Two {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topics = *self.0.get_or_insert_with(|| [cx.create_topic(), cx.create_topic()]);
        topics.into_iter().for_each(|topic| cx.subscribe(topic, conn));
    }

    fn input(&mut self, _: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        for (number, topic) in self.0.into_iter().flatten().enumerate() {
            cx.publish(topic, format!("{number}").as_bytes(), None);
        }
        bytes.len()
    }
}

#[test]
fn who_is_in_two_topics_gets_what_a_turn_brings_in_one_write() {
    let mut sim = simulate(0, Faults::none(), Limits::default());
    let two = sim.listen("127.0.0.1:7", Two::default());
    let peers = [0; 3].map(|_| sim.connect(two));
    sim.settle();
    sim.keep_trace();
    sim.send(peers[0], b"!");
    sim.settle();
    assert_eq!(peers.map(|peer| sim.received(peer).len()), [2; 3]);
    let steps = sim.trace().to_string();
    let writes = steps.lines().filter(|step| step.split_whitespace().nth(1) == Some("write")).count();
    assert_eq!(writes, peers.len(), "{steps}");
}
