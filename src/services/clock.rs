//! The time as text, made once a second.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The time of a zone in one format, whole seconds at most.
#[derive(Debug)]
pub(super) struct SecondText {
    zone: TimeZone,
    format: &'static str,
    /// The second that `text` tells.
    second: Range<SystemTime>,
    text: String,
}

impl SecondText {
    /// `format` is one of [`jiff::fmt::strtime`], and sound: it is the service's own.
    pub fn new(zone: TimeZone, format: &'static str) -> SecondText {
        SecondText { zone, format, second: UNIX_EPOCH..UNIX_EPOCH, text: String::new() }
    }

    /// The text for a time, and whether it has been made anew.
    pub fn at(&mut self, wall: SystemTime) -> (&str, bool) {
        let is_new = !self.second.contains(&wall);
        if is_new {
            let start = start_of_second(wall);
            self.second = start..start + Duration::from_secs(1);
            // A clock that is set beyond the years -9999 to 9999 is told as the end of them.
            let limit = if start < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
            let timestamp = Timestamp::try_from(start).unwrap_or(limit);
            self.text = timestamp.to_zoned(self.zone.clone()).strftime(self.format).to_string();
        }
        (&self.text, is_new)
    }

    /// How far a time lies behind the start of its second.
    pub fn since_second(&self, wall: SystemTime) -> Duration {
        wall.duration_since(self.second.start).unwrap_or_default()
    }
}

/// The whole second that a time lies in, also before 1970.
fn start_of_second(wall: SystemTime) -> SystemTime {
    match wall.duration_since(UNIX_EPOCH) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after.as_secs()),
        Err(before) => {
            let before = before.duration();
            UNIX_EPOCH - Duration::from_secs(before.as_secs() + u64::from(before.subsec_nanos() > 0))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A time by its distance from 1970.
    pub fn wall(seconds: i64, nanos: u32) -> SystemTime {
        let start = UNIX_EPOCH + Duration::from_nanos(u64::from(nanos));
        match u64::try_from(seconds) {
            Ok(after) => start + Duration::from_secs(after),
            Err(_) => start - Duration::from_secs(seconds.unsigned_abs()),
        }
    }

    #[test]
    fn the_text_is_made_once_a_second_and_follows_a_clock_that_is_set_back() {
        let mut text = SecondText::new(TimeZone::UTC, "%H:%M:%S");
        let start = 1_795_233_906;
        assert_eq!(text.at(wall(start, 999_999_999)), ("04:05:06", true));
        for nanos in [0, 1, 500_000_000, 999_999_999] {
            assert_eq!(text.at(wall(start, nanos)), ("04:05:06", false));
        }
        assert_eq!(text.at(wall(start + 1, 0)), ("04:05:07", true));
        assert_eq!(text.at(wall(start - 1, 5)), ("04:05:05", true));
        assert_eq!(text.at(wall(-1, 1)), ("23:59:59", true));
        assert_eq!(text.at(wall(-1, 999_999_999)), ("23:59:59", false));
        assert_eq!(text.since_second(wall(-1, 999_999_999)), Duration::from_nanos(999_999_999));
    }

    #[test]
    fn a_clock_beyond_all_calendars_is_no_reason_to_stop() {
        let mut text = SecondText::new(TimeZone::UTC, "%Y");
        let year = Duration::from_secs(31_557_600);
        assert_eq!(text.at(UNIX_EPOCH + 20_000 * year).0, "9999");
        assert_eq!(text.at(UNIX_EPOCH - 20_000 * year).0, "-9999");
    }
}
