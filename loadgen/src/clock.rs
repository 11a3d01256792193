//! The time of a loop, in nanoseconds since it began.

use crate::os::monotonic_ns;

#[derive(Clone, Copy)]
pub struct Clock {
    start_ns: u64,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock { start_ns: monotonic_ns() }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        monotonic_ns() - self.start_ns
    }
}
