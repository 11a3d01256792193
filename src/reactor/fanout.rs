//! Fan-out, a part of the flush phase: each member of a topic gets what the turn brought, in one write.
//!
//! Most members have nothing else to send and hear all of it: they are written to straight from the topic's log. For the
//! others (with own messages in it, other output, other topics, a tail) the log becomes pieces of their output. Members who
//! take nothing are set aside: they cost nothing here, for what they have still to get is kept once, see `arrears.rs`.

use std::io;

use super::{Reactor, would_block};
use crate::connection::{Marks, Phase};
use crate::net::Net;
use crate::slots::ConnId;
use crate::state::{State, reason_of};

impl<N: Net> Reactor<N> {
    #[inline(never)]
    pub(super) fn deliver_logs(&mut self) {
        for log in self.state.outbox.logs.numbers() {
            let topic = self.state.outbox.logs.topic(log);
            let mut from = 0;
            while let Some((index, id)) = self.write_log(log, from) {
                self.state.hear_topic(id, topic);
                from = index + 1;
            }
            self.state.append_to_arrears(log);
        }
    }

    /// Writes the log to its topic's members, until one is out of the ordinary. Returns where that one is in the list, and who.
    fn write_log(&mut self, log: u64, from: usize) -> Option<(usize, ConnId)> {
        let Reactor { net, state, short, .. } = self;
        let State { outbox, topics, conns, metrics, now, progress, attention, .. } = state;
        let topic = outbox.logs.topic(log);
        let bytes = outbox.logs.bytes(log);
        let mut stopped = None;
        let members = topics.attending(topic).iter().enumerate().skip(from);
        let ordinary = members.map_while(|(index, member)| match conns.get_mut(member.conn) {
            Some(conn)
                if member.hears_all(log)
                    && conn.marks.only(Marks::OF_INPUT)
                    && !conn.output.is_queued(outbox) =>
            {
                conn.active_at = now.get();
                Some((index, member.conn, bytes))
            }
            _ => {
                stopped = Some((index, member.conn));
                None
            }
        });
        let whole = net.write_each(ordinary, short);
        metrics.bytes_out += whole as u64;
        *attention |= whole > 0 && progress.has_output();
        while let Some((index, written)) = self.short.pop() {
            let id = self.state.topics.attending(topic)[index].conn;
            self.keep_log(log, id, written);
        }
        stopped
    }

    /// A write that failed or took less than it was offered: what is left becomes the connection's tail.
    fn keep_log(&mut self, log: u64, id: ConnId, written: io::Result<usize>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get_mut(id) else { return };
        if conn.phase() == Phase::Dead {
            return;
        }
        let count = match written {
            Ok(count) => count,
            Err(error) if would_block(&error) => 0,
            Err(error) => return state.kill(id, reason_of(&error)),
        };
        state.metrics.bytes_out += count as u64;
        state.outbox.keep_log(&mut conn.output, log, count);
        conn.marks.set(Marks::WRITE_BLOCKED);
        state.after_send(id);
    }
}
