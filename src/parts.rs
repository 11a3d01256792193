//! The insides of the engine, each by itself, as `benches/parts` measures them.
//!
//! What the reactor does with a part in one turn is one call here. The feature that shows this module is switched on by
//! the benchmarks alone, and nothing here is promised to anybody.

use std::time::Duration;

pub use crate::datagram::{BATCH_MAX, Inbound, Outbound, Received};
pub use crate::net::{Delivery, Flags, ListenOptions, Readiness, Wake, Wire, source_token};

use crate::limits::Limits;
use crate::log::Logs;
use crate::net::Net;
use crate::output::{Outbox, Output};
use crate::reactor::Reactor;
use crate::slots::ConnId;
use crate::timer::Instant;
use crate::topic::TopicId;
use crate::{slots, timer, topic};

/// A reactor on a system of the benchmarks' own.
pub fn reactor<N: Net>(net: N, limits: Limits) -> Reactor<N> {
    Reactor::with_net(net, limits, usize::MAX)
}

/// The ids of so many connections.
fn ids(count: usize) -> Vec<ConnId> {
    let mut slots = slots::Slots::new();
    (0..count).map(|_| slots.insert(())).collect()
}

/// The slab of connections.
pub struct Slots {
    slots: slots::Slots<u64>,
    ids: Vec<ConnId>,
}

impl Slots {
    /// With so many connections.
    pub fn new(count: usize) -> Slots {
        let mut slots = slots::Slots::new();
        let ids = (0..count).map(|_| slots.insert(0)).collect();
        Slots { slots, ids }
    }

    /// Finds each connection by the token that the system knows it by, and changes it. Returns how many were found.
    #[inline]
    pub fn find_all(&mut self) -> usize {
        let tokens = self.ids.iter().map(|id| id.token());
        let mut found = 0;
        for token in tokens {
            if let Some((_, entry)) = self.slots.get_by_token(token) {
                *entry += 1;
                found += 1;
            }
        }
        found
    }

    /// Ends each connection and begins another one in its slot.
    #[inline]
    pub fn replace_all(&mut self) {
        for id in &mut self.ids {
            let entry = self.slots.remove(*id).unwrap_or_default();
            *id = self.slots.insert(entry);
        }
    }
}

/// The heap of deadlines.
pub struct Timers {
    timers: timer::Timers,
    ids: Vec<ConnId>,
    now: Instant,
}

impl Timers {
    /// With a deadline for each of so many connections.
    pub fn new(count: usize) -> Timers {
        let mut timers =
            Timers { timers: timer::Timers::default(), ids: ids(count), now: Instant::default() };
        timers.move_all();
        timers
    }

    /// When a connection is due: all within a second, in no order.
    fn due(&self, index: usize) -> Instant {
        self.now + Duration::from_micros(1 + index as u64 * 7919 % 1_000_000)
    }

    /// Sets every deadline anew, a second later than before.
    #[inline]
    pub fn move_all(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        for index in 0..self.ids.len() {
            let at = self.due(index);
            self.timers.set(self.ids[index], at);
        }
    }

    /// Takes every connection out in the order of deadlines, and sets a new one for each. Returns how many there were.
    #[inline]
    pub fn fire_all(&mut self) -> usize {
        self.now = self.now + Duration::from_secs(1);
        let (mut fired, now) = (0, self.now);
        while let Some(id) = self.timers.pop_due(now) {
            self.timers.set(id, self.due(fired));
            fired += 1;
        }
        fired
    }
}

/// The output of connections.
pub struct Outputs {
    outbox: Outbox,
    outputs: Vec<Output>,
    ids: Vec<ConnId>,
    input: Box<[u8]>,
}

impl Outputs {
    /// That of so many connections, which have `request` for their input.
    pub fn new(count: usize, request: &[u8]) -> Outputs {
        let mut outbox = Outbox::new();
        let room = count * request.len() + crate::output::INPUT_ALIGN;
        let mut input: Box<[u8]> = vec![0; room].into();
        outbox.set_input(&input);
        let begin = outbox.level();
        for place in input[begin..].chunks_exact_mut(request.len()).take(count) {
            place.copy_from_slice(request);
        }
        let outputs = (0..count).map(|_| Output::default()).collect();
        Outputs { outbox, outputs, ids: ids(count), input }
    }

    /// A turn in which each connection is sent `reply`, which a service has made.
    #[inline]
    pub fn reply_to_all(&mut self, reply: &[u8], sink: impl FnMut(&[u8])) {
        for (&id, output) in self.ids.iter().zip(&mut self.outputs) {
            self.outbox.push(id, output, reply);
        }
        self.flush(sink);
    }

    /// A turn in which each connection is sent its own input, from where it was read.
    #[inline]
    pub fn echo_to_all(&mut self, len: usize, sink: impl FnMut(&[u8])) {
        for (&id, output) in self.ids.iter().zip(&mut self.outputs) {
            let begin = self.outbox.level();
            let request = &self.input[begin..begin + len];
            if !self.outbox.begin_with_input(id, output, request) {
                self.outbox.push(id, output, request);
            }
        }
        self.flush(sink);
    }

    fn flush(&mut self, mut sink: impl FnMut(&[u8])) {
        for (_, _, bytes) in self.outbox.whole(&self.input) {
            sink(bytes);
        }
        self.outbox.end_turn();
    }

    /// Two turns: in the first nobody takes the reply, which becomes each connection's tail; in the second everybody
    /// takes it.
    #[inline]
    pub fn keep_and_write_all(&mut self, reply: &[u8], mut sink: impl FnMut(usize)) {
        for (index, (&id, output)) in self.ids.iter().zip(&mut self.outputs).enumerate() {
            self.outbox.push(id, output, reply);
            self.outbox.keep_chain(index, output, &self.input, 0);
        }
        self.outbox.end_turn();
        for output in &mut self.outputs {
            let written = output.write_tail(|pieces| Ok(pieces.iter().map(|piece| piece.len()).sum()));
            sink(written.expect("it is taken"));
        }
    }
}

/// One topic.
pub struct Topic {
    topics: topic::Topics,
    logs: Logs,
    topic: TopicId,
    ids: Vec<ConnId>,
}

impl Topic {
    /// With so many members.
    pub fn new(members: usize) -> Topic {
        let (mut topics, logs, ids) = (topic::Topics::default(), Logs::default(), ids(members));
        let topic = topics.create();
        for &id in &ids {
            topics.subscribe(topic, id, &logs);
        }
        Topic { topics, logs, topic, ids }
    }

    /// A turn in which the first member says a message so many times, and all others hear it.
    #[inline]
    pub fn publish_and_hear(&mut self, message: &[u8], times: usize, mut sink: impl FnMut(&[u8])) {
        let speaker = self.ids.first().copied();
        for _ in 0..times {
            self.topics.publish(self.topic, message, speaker, &mut self.logs);
        }
        for log in self.logs.numbers() {
            let topic = self.logs.topic(log);
            for index in 0..self.topics.len(topic) {
                let member = &self.topics.members(topic)[index];
                if member.hears_all(log) {
                    sink(self.logs.bytes(log));
                    continue;
                }
                let conn = member.conn;
                let Some((log, mut rest)) = self.topics.take(topic, conn, &self.logs) else { continue };
                while let Some(part) = self.logs.next_part(log, &mut rest) {
                    sink(&self.logs.bytes(log)[part]);
                }
            }
        }
        self.logs.end_turn();
    }

    /// Everybody leaves and comes back.
    #[inline]
    pub fn leave_and_join(&mut self) {
        for &id in &self.ids {
            self.topics.unsubscribe(self.topic, id);
        }
        for &id in &self.ids {
            self.topics.subscribe(self.topic, id, &self.logs);
        }
    }
}

/// How many bytes a message in chat says to the room: 0 if it asks for something else.
#[cfg(feature = "services")]
#[inline]
pub fn said_in_chat(message: &[u8]) -> usize {
    use crate::services::chat::commands::{Command, clean, parse};

    match parse(&clean(message)) {
        Command::Say(text) => text.len(),
        _ => 0,
    }
}
