//! Looking at who gets on with its output, a part of the effects phase: some connections in each turn while a pass is under way. See
//! [`crate::progress`].

use super::Reactor;
use crate::connection::{CloseReason, Marks, Phase};
use crate::net::Net;
use crate::progress::{ASKED_PER_TURN, LOOKED_AT_PER_TURN};

impl<N: Net> Reactor<N> {
    /// Output is on its way, and there are no passes: there will be.
    #[cold]
    pub(super) fn begin_passes(&mut self) {
        let progress = &mut self.state.progress;
        progress.wanted = false;
        // Without an alarm, which takes nothing but a descriptor that is open, the next output tries again.
        progress.asleep = self.net.set_alarm(progress.pause()).is_err();
    }

    #[cold]
    pub(super) fn begin_pass(&mut self) {
        let now = self.state.time(&self.net);
        self.state.progress.begin(now, self.state.metrics.bytes_out);
        self.state.attention = true;
    }

    #[cold]
    pub(super) fn look_at_progress(&mut self) {
        let Some(mut slot) = self.state.progress.slot else { return };
        let end = self.state.conns.slots().min(slot + LOOKED_AT_PER_TURN);
        let mut asked = 0;
        while slot < end && asked < ASKED_PER_TURN {
            asked += usize::from(self.look_at_progress_of(slot));
            slot += 1;
        }
        self.state.progress.slot = Some(slot);
        if slot >= self.state.conns.slots() && self.state.progress.end(self.state.metrics.bytes_out) {
            self.begin_passes();
        }
    }

    /// Looks at the connection in a slot. Returns whether the system was asked about it.
    fn look_at_progress_of(&mut self, slot: usize) -> bool {
        let Reactor { net, state, .. } = self;
        let now = state.time(net);
        let Some((id, conn)) = state.conns.at_mut(slot) else { return false };
        let flushes = matches!(conn.phase(), Phase::Open | Phase::Closing) && !conn.marks.any(Marks::WATCHED);
        let pending = conn.output.tail_bytes() > 0;
        if !flushes || !(pending || state.progress.may_wait(id, conn.active_at)) {
            state.progress.forget(id);
            return false;
        }
        let delivery = net.delivery(id).ok().filter(|delivery| pending || delivery.waiting > 0);
        let marked = delivery.is_some();
        match state.progress.note(id, delivery, now) {
            Some(since) if state.progress.is_over(since, now) => {
                state.kill(id, CloseReason::ProgressTimeout);
            }
            None if marked => conn.active_at = now,
            _ => {}
        }
        true
    }
}
