//! The time that a server of this machine's time zone tells: `[Sat Nov 21 04:05:06 2026]`, as C's ctime writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How long the text is, whatever the time.
pub const TEXT_BYTES: usize = 26;

/// So much may two clocks differ.
const SLACK: Duration = Duration::from_secs(2);

/// A reply is not looked for among older seconds than these, however long it took.
const AGE_MAX: Duration = Duration::from_secs(60);

pub struct LocalTime {
    zone: TimeZone,
    /// The last second that was told, and how.
    second: i64,
    text: String,
}

impl LocalTime {
    /// The time of the system's zone, or of UTC where the system does not say which that is.
    pub fn system() -> LocalTime {
        LocalTime::of(TimeZone::system())
    }

    fn of(zone: TimeZone) -> LocalTime {
        LocalTime { zone, second: i64::MIN, text: String::new() }
    }

    /// Whether `told` is the text for a moment that is not before `age` ago and not after `now`, give or take two seconds.
    pub fn is_told(&mut self, told: &[u8], now: SystemTime, age: Duration) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = now.saturating_sub(age.min(AGE_MAX) + SLACK).as_secs() as i64;
        let last = (now + SLACK).as_secs() as i64;
        // Of thousands of replies in a second all but one tell the same.
        if (first..=last).contains(&self.second) && told == self.text.as_bytes() {
            return true;
        }
        let mut texts = (first..=last).rev().map(|second| (second, self.text(second)));
        match texts.find(|(_, text)| told == text.as_bytes()) {
            Some((second, text)) => {
                (self.second, self.text) = (second, text);
                true
            }
            None => false,
        }
    }

    /// The text for a second since 1970.
    pub fn text(&self, second: i64) -> String {
        let timestamp = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        timestamp.to_zoned(self.zone.clone()).strftime("[%a %b %e %H:%M:%S %Y]").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64, ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second) + Duration::from_millis(ms)
    }

    #[test]
    fn the_form_is_that_of_ctime() {
        let time = LocalTime::of(TimeZone::UTC);
        for (second, text) in [
            (0, "[Thu Jan  1 00:00:00 1970]"),
            (951_782_400, "[Tue Feb 29 00:00:00 2000]"),
            (1_795_233_906, "[Sat Nov 21 04:05:06 2026]"),
        ] {
            assert_eq!(time.text(second), text);
            assert_eq!(text.len(), TEXT_BYTES);
        }
    }

    #[test]
    fn a_clock_may_differ_by_two_seconds_and_a_reply_may_take_its_time() {
        let mut time = LocalTime::of(TimeZone::UTC);
        let told = |from: u64| format!("[Sat Nov 21 04:05:{from:02} 2026]").into_bytes();
        let now = at(1_795_233_930, 500); // 04:05:30.5
        for (second, age_s, expected) in [
            (27, 0, false),
            (28, 0, true),
            (30, 0, true),
            (32, 0, true),
            (33, 0, false),
            (24, 3, false),
            (25, 3, true),
            (33, 3, false),
        ] {
            let age = Duration::from_secs(age_s);
            assert_eq!(time.is_told(&told(second), now, age), expected, "{second} after {age_s} s");
        }
    }

    #[test]
    fn what_is_no_ctime_tells_no_time() {
        let mut time = LocalTime::of(TimeZone::UTC);
        let now = at(1_795_233_906, 0);
        for (told, expected) in [
            ("[Sat Nov 21 04:05:06 2026]", true),
            ("[Sun Nov 21 04:05:06 2026]", false),
            ("[sat Nov 21 04:05:06 2026]", false),
            ("(Sat Nov 21 04:05:06 2026)", false),
            ("[Sat Nov 21 04:05:06 2025]", false),
            ("[Sat Nov 21  4:05:06 2026]", false),
            ("[Sat Nov 21 04:05:06 2026", false),
            ("", false),
        ] {
            assert_eq!(time.is_told(told.as_bytes(), now, Duration::ZERO), expected, "{told}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice_is_told_twice() {
        let rome = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let mut time = LocalTime::of(rome);
        let told = b"[Sun Oct 25 02:59:59 2026]";
        for second in [1_792_889_999, 1_792_889_999 + 3600] {
            assert!(time.is_told(told, at(second, 0), Duration::ZERO));
            assert!(!time.is_told(told, at(second + 600, 0), Duration::ZERO));
        }
    }
}
