//! Whether a turn is shared with connections that exchange small messages.
//!
//! Whoever has much to say, a connection with megabytes on their way or a flood of datagrams, is served best in large
//! portions, but a portion is as long as everybody else waits: 64 KiB read and echoed take some 30 µs, 64 datagrams
//! 150 µs, and a small echo 1 µs. So portions are large while nobody waits, and small in company. Measured with 20
//! connections that echo 64 bytes beside one that pipelines without end: their 99th percentile rises to 2.1 times with
//! portions of 64 KiB, 1.6 with 32 KiB, 1.1 with 16 KiB; without company portions of 16 KiB cost 1.5 to 2 times the CPU
//! of those of 64 KiB.

use crate::metrics::Metrics;

/// Input up to this size, in bytes and on average, is that of small messages.
const SMALL_BYTES_MAX: u64 = 8 << 10;

/// For so many turns after small messages came more of them are expected.
const SHARED_TURNS: u64 = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Sharing {
    /// Events and bytes that were no small messages: those of connections that have more than one read takes, of
    /// listeners and of datagram sockets.
    pub(super) large_events: u64,
    pub(super) large_bytes: u64,
    /// All others, when they were last looked at.
    events: u64,
    bytes: u64,
    until_turn: u64,
}

impl Sharing {
    /// Whether this turn is shared, by what has come since the last look.
    pub(super) fn look(&mut self, metrics: &Metrics) -> bool {
        let (events, bytes) = (metrics.events - self.large_events, metrics.bytes_in - self.large_bytes);
        let (new_events, new_bytes) = (events - self.events, bytes - self.bytes);
        (self.events, self.bytes) = (events, bytes);
        if new_events > 0 && new_bytes / new_events <= SMALL_BYTES_MAX {
            self.until_turn = metrics.turns + SHARED_TURNS;
        }
        metrics.turns < self.until_turn
    }
}
