//! Errors that repeat. A call that fails again and again must neither keep the loop busy nor end it: after so many failures in a
//! row it is tried only now and then, and after so long it is given up.
//!
//! ```text
//!  failure 1 ... failures_max - 1   tried again at once: an error of one connection or datagram is no affair of the next
//!  failures_max and each after it   paused for failure_pause; reported once
//!  after failure_timeout            given up, unless the system is only short of something
//!  success                          the row ends
//!  nothing left to do               if the pause was reported, so is its end
//! ```

use crate::limits::Limits;
use crate::timer::Instant;

/// What a failure says of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is broken, if that goes on.
    Broken,
    /// The system is short of something, which may pass: it is never given up for that.
    Short,
    /// The same, and trying again at once is known not to help.
    Exhausted,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again.
    Again,
    /// Try again after the pause, which is to be reported if it is the first of this row.
    Pause { report: bool },
    /// Give it up.
    GiveUp,
}

/// The failures in a row of one source.
#[derive(Default)]
pub(super) struct Failures {
    count: u32,
    /// Since when the errors say that it is broken, not that the system is short of something; and how many of those there were in a row.
    broken_since: Option<Instant>,
    broken: u32,
    paused_until: Option<Instant>,
    reported: bool,
}

impl Failures {
    /// Whether the last call failed, or it is reported to be paused.
    #[inline]
    pub fn any(&self) -> bool {
        self.count > 0 || self.reported
    }

    /// Whether it seems to be broken: no other failure or success has come between as many as pause it.
    pub fn says_broken(&self, limits: &Limits) -> bool {
        self.broken >= limits.failures_max
    }

    /// When it is to be tried again, if not at once.
    pub fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Notes a failure.
    #[cold]
    pub fn add(&mut self, failure: Failure, now: Instant, limits: &Limits) -> Next {
        self.count = self.count.saturating_add(1);
        if failure == Failure::Broken {
            self.broken = self.broken.saturating_add(1);
            let since = *self.broken_since.get_or_insert(now);
            if self.reported && now - since >= limits.failure_timeout {
                return Next::GiveUp;
            }
        } else {
            self.broken_since = None;
            self.broken = 0;
        }
        let at_once = failure == Failure::Exhausted;
        if !at_once && !self.reported && self.count < limits.failures_max {
            return Next::Again;
        }
        self.paused_until = Some(now + limits.failure_pause);
        Next::Pause { report: !std::mem::replace(&mut self.reported, true) }
    }

    /// Notes that the call has worked once: the row ends, but it is still called paused, and the next failure pauses it again.
    #[cold]
    pub fn interrupt(&mut self) {
        *self = Failures { reported: self.reported, ..Failures::default() };
    }

    /// Notes that the call works. Returns whether that is to be reported.
    #[cold]
    pub fn end(&mut self) -> bool {
        std::mem::take(self).reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const REPORTED: Next = Next::Pause { report: true };
    const PAUSED: Next = Next::Pause { report: false };

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    fn limits() -> Limits {
        Limits {
            failures_max: 4,
            failure_pause: Duration::from_millis(50),
            failure_timeout: Duration::from_secs(60),
            ..Limits::default()
        }
    }

    fn add(failures: &mut Failures, failure: Failure, millis: u64) -> Next {
        failures.add(failure, at(millis), &limits())
    }

    #[test]
    fn it_pauses_after_so_many_in_a_row_and_is_reported_once() {
        for failure in [Failure::Broken, Failure::Short] {
            let mut failures = Failures::default();
            for _ in 0..3 {
                assert_eq!(add(&mut failures, failure, 1), Next::Again);
                assert_eq!(failures.paused_until(), None);
            }
            assert_eq!(add(&mut failures, failure, 1), REPORTED);
            assert_eq!(failures.paused_until(), Some(at(51)));
            assert_eq!(add(&mut failures, failure, 51), PAUSED);
            assert_eq!(failures.paused_until(), Some(at(101)));
            // It works, and everything begins anew.
            assert!(failures.end());
            assert_eq!(failures.paused_until(), None);
            assert_eq!(add(&mut failures, failure, 200), Next::Again);
            assert!(!failures.end());
        }
    }

    #[test]
    fn what_is_exhausted_pauses_at_once() {
        let mut failures = Failures::default();
        assert_eq!(add(&mut failures, Failure::Exhausted, 0), REPORTED);
        assert_eq!(add(&mut failures, Failure::Exhausted, 50), PAUSED);
    }

    #[test]
    fn what_works_once_between_failures_is_not_reported_to_work() {
        let mut failures = Failures::default();
        add(&mut failures, Failure::Exhausted, 0);
        for round in 1..10 {
            failures.interrupt();
            assert!(failures.any() && failures.paused_until().is_none());
            assert_eq!(add(&mut failures, Failure::Broken, round * 50_000), PAUSED);
        }
        failures.interrupt();
        assert!(failures.end());
        assert!(!failures.any());
        // Nothing of it is left in a row that never came so far.
        assert_eq!(add(&mut failures, Failure::Broken, 1_000_000), Next::Again);
        failures.interrupt();
        assert!(!failures.any());
    }

    #[test]
    fn what_is_broken_is_given_up_and_what_is_short_of_something_never() {
        for short in [Failure::Short, Failure::Exhausted] {
            let mut failures = Failures::default();
            for _ in 0..4 {
                add(&mut failures, short, 0);
            }
            assert_eq!(add(&mut failures, short, 10_000_000), PAUSED);
            // That it is broken is known only from now on, until that it is short is known again.
            assert_eq!(add(&mut failures, Failure::Broken, 10_000_050), PAUSED);
            assert_eq!(add(&mut failures, short, 10_070_000), PAUSED);
            assert_eq!(add(&mut failures, Failure::Broken, 10_070_050), PAUSED);
            assert_eq!(add(&mut failures, Failure::Broken, 10_130_049), PAUSED);
            assert_eq!(add(&mut failures, Failure::Broken, 10_130_050), Next::GiveUp);
        }
    }
}
