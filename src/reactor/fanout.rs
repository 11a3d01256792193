//! Fan-out, a part of the flush phase: each member of a topic gets what the turn brought, in one write.
//!
//! Most members have nothing else to send and hear all of it: they are written to straight from the topic's log. For the
//! others (with own messages in it, other output, other topics, a tail) the log becomes pieces of their output. Members who
//! take nothing are set aside: they cost nothing here, for what they have still to get is kept once, see `arrears.rs`.

use std::io;

use super::{Reactor, would_block};
use crate::connection::Marks;
use crate::net::{Net, uninterrupted};
use crate::slots::ConnId;
use crate::state::{State, reason_of};

/// Why a run over the members of a topic stopped: whose turn it is, where it is in the list, and how writing went, if
/// it was tried.
type Stopped = (usize, ConnId, Option<io::Result<usize>>);

impl<N: Net> Reactor<N> {
    #[inline(never)]
    pub(super) fn deliver_logs(&mut self) {
        for log in self.state.outbox.logs.numbers() {
            let mut from = 0;
            while let Some((index, id, written)) = self.write_log(log, from) {
                from = index + 1;
                match written {
                    None => self.state.hear(id, false),
                    Some(written) => self.keep_log(log, id, written),
                }
            }
            self.state.append_to_arrears(log);
        }
    }

    /// Writes the log to its topic's members, until one is out of the ordinary or does not take it whole.
    #[inline]
    fn write_log(&mut self, log: u64, from: usize) -> Option<Stopped> {
        let Reactor { net, state: State { outbox, topics, conns, metrics, now, .. }, .. } = self;
        let bytes = outbox.logs.bytes(log);
        let members = topics.attending(outbox.logs.topic(log)).iter().enumerate().skip(from);
        for (index, member) in members {
            let id = member.conn;
            match conns.get_mut(id) {
                Some(conn)
                    if member.hears_all(log)
                        && conn.marks.only(Marks::OF_INPUT)
                        && !conn.output.is_queued(outbox) =>
                {
                    conn.active_at = now.get();
                }
                _ => return Some((index, id, None)),
            }
            match uninterrupted(|| net.write(id, bytes)) {
                Ok(count) if count == bytes.len() => metrics.bytes_out += count as u64,
                written => return Some((index, id, Some(written))),
            }
        }
        None
    }

    /// A write that failed or took less than it was offered: what is left becomes the connection's tail.
    fn keep_log(&mut self, log: u64, id: ConnId, written: io::Result<usize>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get_mut(id) else { return };
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
