//! How much one connection may say: a burst, and then so many messages a second.

use std::time::Duration;

use super::ChatLimits;
use crate::timer::Instant;

/// Whoever is out of tokens for every message of so long a time is closed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The tokens of one connection. Each message costs one.
///
/// They are kept as an instant: the later the bucket will be full again, the emptier it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at: Instant,
    /// The next message had to wait for its token.
    waits: bool,
    /// Since when every message had to.
    waiting_since: Option<Instant>,
    /// It was told to slow down since the bucket was last full.
    told: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// Every message has had to wait for [`PATIENCE`]: its sender is to be closed.
    Flood,
}

/// A message has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Until then.
    pub until: Instant,
    /// Its sender is to be told so.
    pub tell: bool,
}

impl Bucket {
    /// Whether the message that is there has to wait.
    pub fn hold(&mut self, now: Instant, limits: &ChatLimits) -> Option<Wait> {
        let until = self.token_at(limits)?;
        if until <= now {
            return None;
        }
        self.waits = true;
        self.waiting_since.get_or_insert(now);
        Some(Wait { until, tell: !std::mem::replace(&mut self.told, true) })
    }

    /// Takes the token of a message.
    pub fn take(&mut self, now: Instant, limits: &ChatLimits) -> Verdict {
        if !std::mem::take(&mut self.waits) {
            self.waiting_since = None;
        }
        if self.waiting_since.is_some_and(|since| now - since >= PATIENCE) {
            return Verdict::Flood;
        }
        if self.full_at <= now {
            self.told = false;
        }
        if let Some(interval) = interval(limits) {
            self.full_at = self.full_at.max(now) + interval;
        }
        Verdict::Taken
    }

    /// When there is a token; `None` if none is needed.
    fn token_at(&self, limits: &ChatLimits) -> Option<Instant> {
        let others = interval(limits)? * (limits.burst.max(1) - 1);
        Some(Instant::from_start(self.full_at.since_start().saturating_sub(others)))
    }
}

/// The time between two tokens.
fn interval(limits: &ChatLimits) -> Option<Duration> {
    (limits.rate > 0).then(|| Duration::from_secs(1) / limits.rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChatLimits = ChatLimits { burst: 3, rate: 5, announce_max: 500, rooms_max: 10 };

    fn at(ms: u64) -> Instant {
        Instant::from_start(Duration::from_millis(ms))
    }

    /// Sends a message at the first moment that it may be, from `now` on, and returns when that was.
    fn say(bucket: &mut Bucket, now: Instant) -> (Instant, Verdict) {
        let taken_at = bucket.hold(now, &LIMITS).map_or(now, |wait| wait.until);
        assert_eq!(bucket.hold(taken_at, &LIMITS), None);
        (taken_at, bucket.take(taken_at, &LIMITS))
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let mut bucket = Bucket::default();
        let now = at(1000);
        let taken: Vec<_> = (0..6).map(|_| say(&mut bucket, now).0).collect();
        assert_eq!(taken, [1000, 1000, 1000, 1200, 1400, 1600].map(at));
        // Three tokens come in 600 ms, and no more are kept.
        let taken: Vec<_> = (0..4).map(|_| say(&mut bucket, at(90_000)).0).collect();
        assert_eq!(taken, [90_000, 90_000, 90_000, 90_200].map(at));
    }

    #[test]
    fn it_is_told_once_until_it_has_been_quiet() {
        let mut bucket = Bucket::default();
        // Each time it says three messages at once and has a fourth.
        let mut tells = |ms| {
            for _ in 0..3 {
                bucket.take(at(ms), &LIMITS);
            }
            bucket.hold(at(ms), &LIMITS).map(|wait| wait.tell)
        };
        assert_eq!(tells(0), Some(true));
        assert_eq!(tells(500), Some(false));
        assert_eq!(tells(9_000), Some(true));
    }

    #[test]
    fn whoever_never_lets_up_is_closed_after_ten_seconds() {
        let mut bucket = Bucket::default();
        let mut now = at(0);
        let closed_at = loop {
            let (taken_at, verdict) = say(&mut bucket, now);
            if verdict == Verdict::Flood {
                break taken_at;
            }
            now = taken_at;
        };
        assert_eq!(closed_at, at(10_000));
    }

    #[test]
    fn a_single_message_that_did_not_wait_begins_the_time_anew() {
        let mut bucket = Bucket::default();
        let mut now = at(0);
        for _ in 0..10 {
            // Nine seconds of messages that wait, and one that does not.
            for _ in 0..45 {
                let verdict;
                (now, verdict) = say(&mut bucket, now);
                assert_eq!(verdict, Verdict::Taken);
            }
            now = now + Duration::from_millis(400);
            assert_eq!(say(&mut bucket, now), (now, Verdict::Taken));
        }
        assert!(now > at(90_000));
    }

    #[test]
    fn without_a_rate_nothing_waits_and_a_burst_is_at_least_one() {
        let free = ChatLimits { rate: 0, ..LIMITS };
        let mut bucket = Bucket::default();
        for _ in 0..10_000 {
            assert_eq!(bucket.hold(at(0), &free), None);
            assert_eq!(bucket.take(at(0), &free), Verdict::Taken);
        }
        let tight = ChatLimits { burst: 0, ..LIMITS };
        assert_eq!(bucket.hold(at(0), &tight), None);
        bucket.take(at(0), &tight);
        assert_eq!(bucket.hold(at(0), &tight), Some(Wait { until: at(200), tell: true }));
    }
}
