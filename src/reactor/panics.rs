//! A panic in a call of a service ends the connection that it was called for; the turn goes on behind that call.
//!
//! Panics are caught once around [`Reactor::run`], not around each call, so that a call costs what it did without. Everything that a
//! turn has still to do is kept where unwinding leaves it: in lists, or, for events, by [`Unfinished`].

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Batch, Reactor};
use crate::connection::CloseReason;
use crate::error::Error;
use crate::net::{Flags, Net};
use crate::slots::ConnId;
use crate::state::Report;

/// The events of a batch that have not been taken up. Dropped only by a panic, it notes how many they are.
pub(super) struct Unfinished<'a, N: Net> {
    pub(super) rest: N::Readiness<'a>,
    pub(super) left: &'a mut Option<usize>,
}

impl<N: Net> Drop for Unfinished<'_, N> {
    fn drop(&mut self) {
        *self.left = Some(self.rest.by_ref().count());
    }
}

/// Datagrams of a batch that their service has not been shown. Dropped only by a panic, it notes which they are.
pub(super) struct Unshown<'a> {
    pub(super) source: usize,
    pub(super) rest: Range<usize>,
    pub(super) left: &'a mut Option<(usize, Range<usize>)>,
}

impl Drop for Unshown<'_> {
    fn drop(&mut self) {
        *self.left = Some((self.source, self.rest.clone()));
    }
}

/// Where a turn is, after its events.
#[derive(Clone, Copy)]
pub(super) enum At {
    Deadlines,
    /// Of which mailbox.
    Messages(usize),
    Effects,
}

/// Where a turn goes on.
#[derive(Clone, Copy)]
struct Behind {
    /// So many events have been taken up.
    taken: usize,
    /// All of them, and what else comes before this.
    at: Option<At>,
}

impl<N: Net> Reactor<N> {
    pub(crate) fn set_catch_panics(&mut self, catch_panics: bool) {
        self.catch_panics = catch_panics;
    }

    /// Does something that takes turns, and, when a service panics in it, what is left of that turn.
    #[inline]
    pub(super) fn catch_panics(
        &mut self,
        turns: impl FnOnce(&mut Reactor<N>, &mut Batch<N>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch =
            self.batch.take().unwrap_or_else(|| Batch { events: Box::new(self.net.events()), left: None });
        let mut outcome = catch_unwind(AssertUnwindSafe(|| turns(self, &mut batch)));
        while let Err(panic) = outcome {
            let behind = self.recover(&mut batch, panic);
            outcome = catch_unwind(AssertUnwindSafe(|| {
                self.resume_turn(&mut batch, behind);
                Ok(())
            }));
        }
        self.batch = Some(batch);
        outcome.unwrap_or(Ok(()))
    }

    /// What is left of a turn. The phase that was interrupted finishes what it had taken up and begins nothing more, so that a
    /// turn in which services panic is no longer than others.
    #[cold]
    #[inline(never)]
    fn resume_turn(&mut self, batch: &mut Batch<N>, behind: Behind) {
        let Some(at) = behind.at else {
            self.show_unshown();
            batch.left = None;
            self.take_events(batch, behind.taken);
            return self.finish_turn();
        };
        if matches!(at, At::Deadlines) {
            self.act_on_deadlines();
            if self.mail {
                self.deliver_messages();
            }
        }
        if let At::Messages(interrupted) = at {
            self.deliver_from(interrupted, 0);
            self.deliver_behind(interrupted + 1);
        }
        match at {
            At::Effects => self.apply_rest(),
            _ => self.apply_effects(),
        }
        self.end_turn();
    }

    /// Closes the connection whose service has panicked. Returns where the turn goes on.
    ///
    /// # Panics
    /// With the same panic, when it did not come from a service, or is not to be caught.
    #[cold]
    fn recover(&mut self, batch: &mut Batch<N>, panic: Box<dyn Any + Send>) -> Behind {
        let total = N::readiness(&batch.events).count();
        if self.in_left_over {
            batch.left = Some(total);
        }
        let left = batch.left;
        let taken = total - left.unwrap_or(0);
        let noted = self.state.calling.take();
        let on_fast_path = || self.input_of(batch, left.and(taken.checked_sub(1))?);
        let called = noted.or_else(on_fast_path).filter(|_| self.catch_panics);
        let Some((service, conn)) = called else { resume_unwind(panic) };
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        let name = &self.services[service as usize].options.name;
        self.state.metrics.service_panics += 1;
        self.state.report(&Report::Panicked { service: name, conn, message });
        if let Some(id) = conn {
            self.state.finish(id, CloseReason::ServicePanic);
        }
        let at = left.is_none().then_some(self.at);
        // Whatever was interrupted is looked through again.
        self.in_left_over = false;
        self.left_over = true;
        self.mail = true;
        self.state.look_again = false;
        self.state.attention = true;
        Behind { taken, at }
    }

    /// The connection, and its service, that an event offers plain input on.
    fn input_of(&self, batch: &Batch<N>, index: usize) -> Option<(u16, Option<ConnId>)> {
        let event = N::readiness(&batch.events).nth(index).filter(|event| event.flags == Flags::READ)?;
        let id = ConnId::from_token(event.token)?;
        let conn = self.state.conns.get(id)?;
        Some((conn.service, Some(id)))
    }
}
