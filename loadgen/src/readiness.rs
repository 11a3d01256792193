//! Waiting: for sockets, and until a time of the plan. What every loop stands on.

use std::io;
use std::mem;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Events, Poll, Registry, Token};

use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::shortage;

/// Readiness taken from one wait. More sockets than that take turns.
const EVENTS_MAX: usize = 1024;

/// A sleeping thread is woken some time later than asked: before a time of the plan so much is spun. How much it takes is
/// seen from how late alarms are: a processor of a virtual machine that was at rest may be late by a quarter of a
/// millisecond each time.
const SPIN_NS_MIN: u64 = 100_000;
const SPIN_NS_MAX: u64 = 2_000_000;

/// Of what is spun, one part in so many is taken back with each alarm, so that one late alarm is forgotten in time.
const SPIN_DECAY: u64 = 512;

/// Tokens of sockets are below.
const ALARM: Token = Token(usize::MAX);

pub struct Readiness {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    clock: Clock,
    spin_ns: u64,
}

impl Readiness {
    pub fn new() -> Result<Readiness> {
        let poll = Poll::new().map_err(shortage::explained).context("creating the poll")?;
        let alarm =
            Alarm::new(poll.registry(), ALARM).map_err(shortage::explained).context("creating a timer")?;
        Ok(Readiness {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            alarm,
            clock: Clock::start(),
            spin_ns: SPIN_NS_MIN,
        })
    }

    /// Where sockets are registered, with any token but the greatest.
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Nanoseconds since the clock was started, here or in [`Readiness::restart_clock`].
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// From here on times count from now.
    pub fn restart_clock(&mut self) {
        self.clock = Clock::start();
    }

    /// Waits for sockets, for so long at most, which is good to a millisecond.
    pub fn wait(&mut self, longest: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, longest) {
            Ok(()) => Ok(()),
            // A debugger, a signal, a stop and continue; there is nothing to read, and the next turn waits again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(error).context("waiting for readiness"),
        }
    }

    /// Waits for sockets until a time of the plan. The system's wait is good to a millisecond, the alarm's to the
    /// wake-up of a sleeping thread: the last of it is spun.
    pub fn wait_until(&mut self, until_ns: u64) -> Result<()> {
        let left_ns = until_ns.saturating_sub(self.now_ns());
        if left_ns <= self.spin_ns {
            return self.wait(Some(Duration::ZERO));
        }
        self.alarm.set(Duration::from_nanos(left_ns - self.spin_ns))?;
        self.wait(None)?;
        // Woken earlier, by a socket, it has shown nothing.
        let late_ns = self.now_ns().saturating_sub(until_ns - self.spin_ns);
        if late_ns > 0 {
            let decayed_ns = self.spin_ns - self.spin_ns / SPIN_DECAY;
            self.spin_ns = decayed_ns.max(2 * late_ns).clamp(SPIN_NS_MIN, SPIN_NS_MAX);
        }
        Ok(())
    }

    /// What the last wait has found, for `each` socket's token.
    pub fn take(&mut self) -> Found {
        Found(mem::replace(&mut self.events, Events::with_capacity(0)))
    }

    /// Gives the memory back.
    pub fn put_back(&mut self, found: Found) {
        self.events = found.0;
    }
}

/// The sockets that are ready.
pub struct Found(Events);

impl Found {
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Event)> {
        self.0.iter().filter(|event| event.token() != ALARM).map(|event| (event.token().0, event))
    }
}
