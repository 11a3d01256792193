//! How fast a body has to come: a peer that sends a byte now and then must not hold its connection for as long as it likes.
//!
//! ```text
//!  |◄──── a span: the read deadline ────►|◄──── the next ────►|
//!  ▪▪▪  ▪▪▪▪▪   ▪▪▪▪ ▪▪▪▪   ▪▪▪▪▪▪  ▪▪▪  |    ▪     ▪       ▪ | 408
//!       enough, and something to spare ──┴─► counts here, too
//! ```

use std::time::Duration;

use crate::timer::Instant;

/// Bytes that a body has to bring in a second, on average over a span: its framing counts.
const BYTES_PER_SECOND_MIN: u128 = 1 << 10;

/// A look that is later than this, or than a tenth of the span, shows that the process or its machine was stopped.
const LATE_MIN: Duration = Duration::from_millis(100);

/// How fast one body comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the span ends.
    ends: Instant,
    /// Bytes of the body so far.
    bytes: u32,
    /// So many had come when the span began, less what was to spare then.
    before: u32,
    /// When the line began that is incomplete: the size of a chunk, or the trailer. It has the time of a head.
    line_since: Option<Instant>,
}

impl Pace {
    /// Of a body that begins.
    pub fn new(now: Instant, span: Duration) -> Pace {
        Pace { ends: now + span, bytes: 0, before: 0, line_since: None }
    }

    /// Notes that there are so many bytes by now, the last `waiting` of which are an incomplete line.
    pub fn note(&mut self, now: Instant, bytes: u32, waiting: usize) {
        let whole = bytes - waiting as u32;
        let goes_on = self.line_since.filter(|_| whole < self.bytes);
        self.line_since = (waiting > 0).then(|| goes_on.unwrap_or(now));
        self.bytes = bytes;
    }

    /// When to look again.
    pub fn due(&self, span: Duration) -> Instant {
        self.line_since.map_or(self.ends, |since| self.ends.min(since + span))
    }

    /// Whether the body is fast enough, now that it is time to look.
    pub fn holds(&mut self, now: Instant, span: Duration) -> bool {
        if now.since(self.due(span)) > LATE_MIN.max(span / 10) {
            // It was us who stood still, and the peer's system may have had to wait for that. So nothing is known.
            self.line_since = self.line_since.map(|_| now);
            self.before = self.bytes;
            self.ends = now + span;
            return true;
        }
        if self.line_since.is_some_and(|since| since + span <= now) {
            return false;
        }
        if now < self.ends {
            return true;
        }
        let enough = u32::try_from(BYTES_PER_SECOND_MIN * span.as_millis() / 1000).unwrap_or(u32::MAX);
        let Some(spare) = (self.bytes - self.before).checked_sub(enough) else { return false };
        // Pieces that come in even time do not fall evenly on the spans. More than that would let it stall for longer.
        self.before = self.bytes - spare.min(enough / 2);
        self.ends = now + span;
        true
    }
}
