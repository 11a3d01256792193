//! Which connections are still to be answered while a reactor shuts down, and how each has ended.

use crate::connection::{CloseReason, Connection, Marks, Phase};
use crate::slots::{ConnId, ConnMap};
use crate::timer::Instant;

/// How connections ended during a graceful shutdown: those that were open when [`Reactor::drain`](crate::Reactor::drain)
/// began, and those that it accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Everything that the peer had sent was answered, and the answers were passed to the system.
    pub answered: usize,
    /// Closed or refused with input that was not answered: an incomplete message, unread bytes, or bytes that were received
    /// while it was being closed.
    pub unanswered: usize,
    /// Reset: open at the deadline, or the connection failed before, or was closed with unsent output.
    pub reset: usize,
}

impl Drained {
    /// Adds the counts of another reactor.
    pub fn add(&mut self, other: Drained) {
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.reset += other.reset;
    }
}

/// What a connection had sent when the shutdown began.
struct Standing {
    /// Bytes of it in the system's buffer that have not been read.
    unread: usize,
    /// A read has found nothing more: what was on its way has been read as well, as far as it came without a pause.
    drained: bool,
}

/// How far a connection is with what stood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is being read, or its service waits for something before it answers.
    Busy,
    /// It does not go on before its peer takes output, or its service resumes it.
    Stuck,
    Done,
}

#[derive(Default)]
pub(crate) struct Draining {
    standing: ConnMap<Standing>,
    /// Those that may not be done.
    pub waiting: Vec<ConnId>,
    /// What had come is answered: nothing new is begun.
    pub ends: bool,
    pub drained: Drained,
}

impl Draining {
    /// Takes a connection in whose socket has so many bytes unread.
    pub fn stand(&mut self, id: ConnId, unread: usize) {
        self.standing.insert(id, Standing { unread, drained: unread == 0 });
        self.waiting.push(id);
    }

    /// Takes note that `count` bytes were read from a connection, and whether that emptied its socket (`drained`).
    pub fn has_read(&mut self, id: ConnId, count: usize, drained: bool) {
        if let Some(standing) = self.standing.get_mut(id) {
            standing.unread = if drained { 0 } else { standing.unread.saturating_sub(count) };
            standing.drained |= drained;
        }
    }

    /// Whether all that a connection had sent has been read.
    pub fn has_read_all(&self, id: ConnId) -> bool {
        self.standing.get(id).is_none_or(|standing| standing.unread == 0)
    }

    /// `owes`: its service has taken input that it has not answered.
    pub fn stage(&self, id: ConnId, conn: &Connection, owes: bool) -> Stage {
        const UNDER_WAY: Marks = Marks::QUEUED.and(Marks::MOVING).and(Marks::OFFER_AGAIN);
        let unread = self.standing.get(id).is_some_and(|standing| !standing.drained);
        match conn.phase() {
            Phase::Connecting => Stage::Stuck,
            Phase::Closing | Phase::Lingering | Phase::Dead => Stage::Done,
            Phase::Open if conn.marks.any(Marks::PAUSED) => Stage::Stuck,
            Phase::Open if conn.marks.any(Marks::BLOCKED) && (unread || conn.kept.is_some()) => Stage::Stuck,
            Phase::Open if owes || (unread && !conn.marks.any(Marks::ENDED)) => Stage::Busy,
            Phase::Open if conn.kept.is_some() && conn.marks.any(UNDER_WAY) => Stage::Busy,
            Phase::Open if conn.kept.is_some() && conn.deadline != Instant::NEVER => Stage::Busy,
            Phase::Open => Stage::Done,
        }
    }

    /// Counts a connection that is being freed.
    pub fn count(&mut self, id: ConnId, conn: &Connection) {
        let came_too_late = conn.discarded > 0;
        let unread =
            conn.marks.any(Marks::REFUSED | Marks::UNANSWERED) || came_too_late || !self.has_read_all(id);
        let broken = conn.marks.any(Marks::RESET)
            || matches!(conn.reason, CloseReason::Reset | CloseReason::Failed | CloseReason::DrainDeadline);
        let counter = match (broken, unread) {
            (true, _) => &mut self.drained.reset,
            (false, true) => &mut self.drained.unanswered,
            (false, false) => &mut self.drained.answered,
        };
        *counter += 1;
    }
}
