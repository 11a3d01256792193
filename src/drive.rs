//! The fast path of input, compiled for each service.
//!
//! Under load nearly every event is the same: an open connection without anything out of the ordinary has input, one
//! read drains it, and the service takes it all. A run of such events is handled here, in a loop that is generic
//! over the service, so that the service's `input` and what it asks for become part of the loop. Against a call through
//! `dyn Service` for each that saved 26 of 248 instructions per echo (callgrind). Whatever turns out to be different is
//! left to the reactor.

use std::io;

use crate::net::{Flags, Net, Readiness};
use crate::service::{Context, Service};
use crate::slots::ConnId;
use crate::state::{READ_BYTES, State};

/// What the fast path works with.
pub(crate) struct Parts<'a, N: Net> {
    pub net: &'a mut N,
    pub state: &'a mut State,
    /// The turn's input; see [`crate::output`].
    pub buffer: &'a mut [u8],
}

/// What a read of a connection begins with.
pub(crate) enum First {
    /// Read.
    Read,
    /// Offer the kept input before anything is read.
    Offer,
    /// Go on with what a read gave.
    Got(io::Result<usize>),
    /// Go on after the service was offered this part of the buffer, without any kept input, and consumed some.
    Offered { begin: usize, end: usize, consumed: usize },
}

/// Why a run stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There are no more events.
    End,
    /// [`Stopped::event`] has not been taken up.
    Other,
    /// The event has been taken up, and [`Stopped::unusual`] needs more than the fast path.
    Unusual,
}

/// Where a run stopped, if not at the end.
#[derive(Default)]
pub(crate) struct Stopped {
    pub event: Option<Readiness>,
    pub unusual: Option<(ConnId, First)>,
}

impl Stopped {
    #[cold]
    fn other(&mut self, event: Readiness) -> Stop {
        self.event = Some(event);
        Stop::Other
    }

    #[cold]
    fn unusual(&mut self, id: ConnId, first: First) -> Stop {
        self.unusual = Some((id, first));
        Stop::Unusual
    }
}

/// A service as the reactor drives it.
pub(crate) trait Drive<N: Net>: Service {
    /// Takes up the event in `at`, if there is one, and those that follow in `rest`, as long as they are input on
    /// ordinary connections of this service, whose index is `own`.
    fn read_run(
        &mut self,
        own: u16,
        rest: &mut N::Readiness<'_>,
        parts: Parts<'_, N>,
        at: &mut Stopped,
    ) -> Stop;
}

impl<S: Service, N: Net> Drive<N> for S {
    fn read_run(
        &mut self,
        own: u16,
        rest: &mut N::Readiness<'_>,
        parts: Parts<'_, N>,
        at: &mut Stopped,
    ) -> Stop {
        let Parts { net, state, buffer } = parts;
        let mut next = at.event.take().or_else(|| rest.next());
        while let Some(event) = next {
            let Some((id, conn)) = state.conns.get_by_token(event.token) else {
                return at.other(event);
            };
            if event.flags != Flags::READ || !conn.marks.none() || conn.service != own {
                return at.other(event);
            }
            state.metrics.events += 1;
            let begin = state.outbox.level();
            if state.outbox.is_full() {
                return at.unusual(id, First::Read);
            }
            let space = &mut buffer[begin..begin + READ_BYTES];
            let active_at = std::mem::replace(&mut conn.active_at, state.now.get());
            let read = match net.read(id, space) {
                Ok(read) if read > 0 && read < READ_BYTES => read,
                other => {
                    // Nothing may have come: then nothing was active.
                    if let Some(conn) = state.conns.get_mut(id) {
                        conn.active_at = active_at;
                    }
                    return at.unusual(id, First::Got(other));
                }
            };
            state.metrics.bytes_in += read as u64;
            let consumed = self.input(id, &space[..read], &mut Context { state, wire: net });
            if consumed != read || state.look_again {
                return at.unusual(id, First::Offered { begin, end: begin + read, consumed });
            }
            next = rest.next();
        }
        Stop::End
    }
}
