//! What all kinds of load have in common: one thread that waits for many sockets.

use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry};

/// When nothing comes for so long, something is wrong, and the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Load on one server, over connections that it keeps.
pub trait Load {
    /// How many answers or deliveries come in one iteration.
    fn elements(&self) -> u64;

    /// Makes so many iterations, checks all that comes, and returns how long it took.
    fn run(&mut self, iterations: u64) -> Duration;
}

/// The clock.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Where the events of many sockets come together.
pub struct Waiting {
    poll: Poll,
    events: Events,
}

impl Waiting {
    pub fn new() -> Waiting {
        let poll = Poll::new().expect("the system has room for an event queue");
        Waiting { poll, events: Events::with_capacity(1024) }
    }

    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits until there are events.
    pub fn wait(&mut self) -> &Events {
        loop {
            match self.poll.poll(&mut self.events, Some(PATIENCE)) {
                Ok(()) => break,
                Err(error) => assert!(error.kind() == std::io::ErrorKind::Interrupted, "{error}"),
            }
        }
        assert!(!self.events.is_empty(), "answers that are due have not come for {PATIENCE:?}");
        &self.events
    }
}
