//! What must hold between two turns, whatever has happened: checked after every turn of a simulated reactor, and nowhere
//! else.
//!
//! The engine notes much twice, because a look at one number must be enough on the way of every byte: a mark mirrors a
//! phase or a list, a count mirrors what could be added up. Here everything of that kind is derived again, and a
//! difference is a panic. So a simulated test fails at the turn that forgot something, not where it shows much later or
//! never.

use std::collections::{HashMap, HashSet};

use super::Reactor;
use crate::connection::{Connection, Marks, Phase};
use crate::net::{Checks, Net, Totals};
use crate::slots::ConnId;
use crate::state::State;
use crate::timer::Instant;

/// What is wrong, in words.
type Checked = Result<(), String>;

/// Fails with these words unless the condition holds.
macro_rules! must {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

impl<N: Net> Reactor<N> {
    /// Panics if something that must hold at the end of a turn does not.
    #[cold]
    #[inline(never)]
    pub(crate) fn assert_invariants(&mut self, checks: Checks) {
        let checked = match checks {
            Checks::None => Ok(()),
            Checks::Cheap => self.check_cheaply(),
            Checks::All => self.check_cheaply().and_then(|()| self.check_all()),
        };
        #[cfg(debug_assertions)]
        if checks == Checks::All {
            self.state.check_memory();
        }
        if let Err(wrong) = checked {
            panic!("after turn {} the reactor contradicts itself: {wrong}", self.state.metrics.turns);
        }
    }

    /// What the simulation's bound of work per turn is measured by.
    #[inline(always)]
    pub(super) fn totals(&self) -> Totals {
        let state = &self.state;
        Totals {
            deadlines: state.timers.fired,
            messages: state.metrics.mailbox_messages,
            evictions: state.memory.evictions,
            mailboxes: self.inboxes.len(),
        }
    }

    /// Bytes that count against limits of memory.
    pub(crate) fn accounted_bytes(&self) -> usize {
        self.state.memory_bytes()
    }

    /// What costs the same however many connections there are.
    fn check_cheaply(&self) -> Checked {
        let state = &self.state;
        state.outbox.check_turn_ended(state.memory.exceeds)?;
        must!(state.touched.is_empty(), "{} connections are still to settle", state.touched.len());
        let to_do = !(state.ready.is_empty()
            && state.ended.is_empty()
            && state.freed.is_empty()
            && state.connects.is_empty()
            && state.handed.is_empty()
            && state.progress.slot.is_none()
            && state.dirty_sockets.is_empty());
        must!(
            state.attention == to_do,
            "it pays attention: {}, and of its lists ready has {}, ended {}, freed {}, connects {}, handed {}, dirty {}; \
             a look at progress is under way: {}",
            state.attention,
            state.ready.len(),
            state.ended.len(),
            state.freed.len(),
            state.connects.len(),
            state.handed.len(),
            state.dirty_sockets.len(),
            state.progress.slot.is_some()
        );
        must!(!state.look_again, "somebody is to look again, and nobody is there to");
        let waiting = self.sources.iter().any(|source| source.is_waiting());
        must!(
            self.left_over || (state.ready.is_empty() && !waiting),
            "what is left over will not be looked at"
        );

        let open = state.conns.len() - state.watched;
        must!(state.metrics.connections_open == open as u64, "{} are counted open of {open}", {
            state.metrics.connections_open
        });
        must!(
            state.admitted + state.refusals == open,
            "{} admitted and {} refused are not {open}",
            state.admitted,
            state.refusals
        );
        let metrics = &state.metrics;
        let begun = metrics.connections_accepted + metrics.connections_refused + metrics.connections_begun;
        let closed: u64 = metrics.closed.iter().sum();
        must!(begun == closed + open as u64, "{begun} have begun, {closed} were closed and {open} are open");
        for (index, (source, departures)) in self.sources.iter().zip(&state.departures).enumerate() {
            must!(
                departures.out.is_empty() || source.write_blocked || !source.open,
                "{} datagrams of source {index} wait, and nobody will tell when there is room",
                departures.out.len()
            );
            let listed = state.dirty_sockets.contains(&(index as u32));
            must!(departures.dirty == listed, "source {index} is dirty, or listed so, and not both");
        }
        Ok(())
    }

    /// Everything that can be derived again.
    fn check_all(&self) -> Checked {
        let state = &self.state;
        state.conns.check()?;
        state.timers.check()?;
        for id in state.timers.owners() {
            must!(state.conns.get(id).is_some(), "{id} has a timer and is gone");
        }
        let lists = Lists::of(state)?;
        let (mut watched, mut refused) = (0, 0);
        for (id, conn) in state.conns.iter() {
            let check = || {
                self.check_flags(id, conn, &lists)?;
                self.check_output(conn, !lists.ended.contains(&id))?;
                self.check_progress(id, conn, &lists)
            };
            check().and_then(|()| conn.output.check()).map_err(|wrong| {
                format!("connection {id}, {:?} with {:?}: {wrong}", conn.phase(), conn.marks)
            })?;
            watched += usize::from(conn.marks.any(Marks::WATCHED));
            refused += usize::from(conn.marks.any(Marks::REFUSED));
        }
        must!(watched == state.watched, "{} are counted as watched, and {watched} are", state.watched);
        must!(refused == state.refusals, "{} are counted as refused, and {refused} are", state.refusals);
        self.check_addresses()?;
        state.topics.check(|id| match state.conns.get(id) {
            Some(conn) => (conn.phase() == Phase::Open || lists.ended.contains(&id), conn.output.alarm()),
            None => (false, None),
        })
    }

    /// What each address has is what its connections are.
    fn check_addresses(&self) -> Checked {
        let state = &self.state;
        let mut per_ip = HashMap::new();
        for (id, ip) in state.ips.iter() {
            must!(state.conns.get(id).is_some(), "{id} is counted for its address and is gone");
            *per_ip.entry(*ip).or_insert(0) += 1;
        }
        must!(state.per_ip == per_ip, "connections by address: {:?}, counted again {per_ip:?}", state.per_ip);
        Ok(())
    }

    /// Marks that mirror something else.
    fn check_flags(&self, id: ConnId, conn: &Connection, lists: &Lists) -> Checked {
        let (marks, phase) = (conn.marks, conn.phase());
        let is = |mark| marks.any(mark);
        must!(is(Marks::NOT_OPEN) == (phase != Phase::Open), "the mark for its phase");
        must!(is(Marks::QUEUED) == lists.ready.contains(&id), "the mark for the ready list");
        must!(is(Marks::MOVING) == lists.handed.contains(&id), "the mark for those handed over");
        must!(!is(Marks::TOUCHED), "it is to be settled, and on no list");
        must!(is(Marks::ASIDE) == conn.output.alarm().is_some(), "the mark for having been set aside");
        must!(!is(Marks::OBSERVED) || self.state.observes_bytes, "it is observed by nobody");
        let told = !lists.ended.contains(&id);
        must!(is(Marks::UNREPORTED) != told, "the mark for those whose service has yet to receive `closed`");
        if phase == Phase::Open {
            must!(is(Marks::KEPT) == conn.kept.is_some(), "the mark for kept input");
        } else {
            must!(!told || conn.kept.is_none(), "it keeps input that nobody will see");
        }
        must!(conn.kept.as_ref().is_none_or(|kept| !kept.is_empty()), "it keeps nothing");
        must!(
            phase != Phase::Dead || !told || lists.freed.contains(&id),
            "it is dead and nobody will free it"
        );
        must!(
            phase != Phase::Connecting || conn.deadline != Instant::NEVER || {
                lists.connects.contains(&id) || self.state.limits.connect_timeout.is_none()
            },
            "nobody will begin to connect"
        );
        Ok(())
    }

    /// What follows from how much output waits. A connection that closes goes on with that once its service is `told`.
    fn check_output(&self, conn: &Connection, told: bool) -> Checked {
        let limits = &self.state.limits;
        let (marks, phase) = (conn.marks, conn.phase());
        let is = |mark| marks.any(mark);
        let pending = conn.output.tail_bytes();
        if matches!(phase, Phase::Connecting | Phase::Dead) {
            return Ok(());
        }
        must!(is(Marks::WRITE_BLOCKED) == (pending > 0), "{pending} bytes wait, and the mark for that");
        let unsettled = pending > 0 || is(Marks::BLOCKED | Marks::WANTS_WRITABLE);
        must!(is(Marks::UNSETTLED) == unsettled, "{pending} bytes wait, and the mark for being unsettled");
        let low = limits.output_low_water_bytes;
        must!(!is(Marks::BLOCKED) || pending > low, "its input rests, and {pending} bytes of output wait");
        if phase == Phase::Open {
            let hard = limits.output_hard_bytes;
            must!(hard.is_none_or(|hard| pending <= hard), "{pending} bytes wait, above the hard limit");
            let soft = limits.output_soft_bytes.is_some_and(|soft| pending > soft);
            let since = conn.output.soft_since() != Instant::NEVER;
            must!(soft == since, "{pending} bytes wait, and the time above the soft limit");
        }
        if phase == Phase::Closing && !told {
            return Ok(());
        }
        let ends = is(Marks::HALF_CLOSE) || matches!(phase, Phase::Closing | Phase::Lingering);
        must!(is(Marks::WRITE_SHUT) == (ends && pending == 0), "{pending} bytes wait, and its side is shut");
        must!(phase != Phase::Closing || pending > 0, "it is flushed, and still closing");
        must!(phase != Phase::Lingering || pending == 0, "it lingers, and {pending} bytes wait");
        Ok(())
    }

    /// What makes sure that a connection is looked at again.
    fn check_progress(&self, id: ConnId, conn: &Connection, lists: &Lists) -> Checked {
        let is = |mark| conn.marks.any(mark);
        let waits = conn.phase() == Phase::Closing && is(Marks::UNREPORTED);
        if is(Marks::MOVING) || conn.phase() == Phase::Dead || waits {
            return Ok(());
        }
        must!(conn.armed == conn.interest(), "armed for {:?} instead of {:?}", conn.armed, conn.interest());
        let queued = lists.ready.contains(&id);
        if conn.phase() == Phase::Open {
            let offers = is(Marks::OFFER_AGAIN) && conn.kept.is_some();
            must!(
                queued || !conn.takes_input() || !(is(Marks::READABLE) || offers),
                "there is input, and nobody will look"
            );
            must!(queued || !is(Marks::WRITABLE_DUE), "its service is never told that there is room");
        }
        let (deadline, due) = conn.next_deadline(&self.state.timeouts[conn.service as usize]);
        let timer = self.state.timers.at(id);
        must!(timer <= deadline, "{due:?} is due at {deadline:?}, and its timer says {timer:?}");
        Ok(())
    }
}

/// The reactor's lists of connections, to be asked who is on them.
struct Lists {
    ready: HashSet<ConnId>,
    ended: HashSet<ConnId>,
    freed: HashSet<ConnId>,
    handed: HashSet<ConnId>,
    connects: HashSet<ConnId>,
}

impl Lists {
    /// Nobody is on one of them twice.
    fn of(state: &State) -> Result<Lists, String> {
        let once = |list: &mut dyn Iterator<Item = ConnId>, name| {
            let mut all = HashSet::new();
            for id in list {
                must!(all.insert(id), "{id} is twice on the list of those {name}");
            }
            Ok(all)
        };
        Ok(Lists {
            ready: once(&mut state.ready.iter().copied(), "ready")?,
            ended: once(&mut state.ended.iter().copied(), "ended")?,
            freed: state.freed.iter().copied().collect(),
            handed: once(&mut state.handed.iter().copied(), "handed over")?,
            connects: once(&mut state.connects.iter().map(|&(id, _)| id), "connecting")?,
        })
    }
}
