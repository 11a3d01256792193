//! Time: every datagram back to its sender, with the local time before it.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::datagram::Datagram;
use crate::service::{Context, Service};

/// Sends back `[Sat Nov 21 04:05:06 2026]` and what it was sent: the local time as C's ctime writes it.
///
/// The time is formatted once a second, not once a datagram.
#[derive(Debug)]
pub struct Time {
    zone: TimeZone,
    /// The second that `reply` begins with.
    second: Range<SystemTime>,
    /// The time in its brackets and, behind it, what the last reply said.
    reply: Vec<u8>,
    prefix_len: usize,
}

impl Time {
    /// Tells the time of a zone.
    pub fn new(zone: TimeZone) -> Time {
        Time { zone, second: UNIX_EPOCH..UNIX_EPOCH, reply: Vec::new(), prefix_len: 0 }
    }

    /// Tells the time of the system's zone, or UTC where the system does not say which that is.
    pub fn local() -> Time {
        Time::new(TimeZone::system())
    }

    /// The reply to `bytes` at the time `wall`.
    fn reply(&mut self, bytes: &[u8], wall: SystemTime) -> &[u8] {
        if !self.second.contains(&wall) {
            let start = start_of_second(wall);
            self.second = start..start + Duration::from_secs(1);
            self.reply = format!("[{}]", ctime(start, &self.zone)).into_bytes();
            self.prefix_len = self.reply.len();
        }
        self.reply.truncate(self.prefix_len);
        self.reply.extend_from_slice(bytes);
        &self.reply
    }
}

impl Service for Time {
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.count_messages(1);
        let wall = cx.wall();
        cx.reply(datagram, self.reply(datagram.bytes, wall));
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

/// A time as C's ctime writes it, without the newline: `Sat Nov 21 04:05:06 2026`, the day of the month padded with a
/// space.
fn ctime(wall: SystemTime, zone: &TimeZone) -> String {
    // A clock that is set beyond the years -9999 to 9999 is told as the end of them.
    let timestamp =
        Timestamp::try_from(wall).unwrap_or(if wall < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX });
    timestamp.to_zoned(zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(seconds: i64, nanos: u32) -> SystemTime {
        let start = UNIX_EPOCH + Duration::from_nanos(u64::from(nanos));
        match u64::try_from(seconds) {
            Ok(after) => start + Duration::from_secs(after),
            Err(_) => start - Duration::from_secs(seconds.unsigned_abs()),
        }
    }

    fn told(time: &mut Time, bytes: &[u8], at: SystemTime) -> String {
        String::from_utf8_lossy(time.reply(bytes, at)).into_owned()
    }

    #[test]
    fn the_time_is_written_as_ctime_writes_it() {
        let cases = [
            (0, "Thu Jan  1 00:00:00 1970"),
            (-1, "Wed Dec 31 23:59:59 1969"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_795_233_906, "Sat Nov 21 04:05:06 2026"),
            (1_790_812_799, "Wed Sep 30 23:59:59 2026"),
            (1_791_072_000, "Sun Oct  4 00:00:00 2026"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ctime(wall(seconds, 0), &TimeZone::UTC), text);
        }
    }

    #[test]
    fn the_time_is_that_of_the_zone_also_where_its_clocks_change() {
        let rome = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let before = 1_792_889_999; // one second before the clocks are set back
        let mut time = Time::new(rome);
        assert_eq!(told(&mut time, b"", wall(before, 0)), "[Sun Oct 25 02:59:59 2026]");
        assert_eq!(told(&mut time, b"", wall(before + 1, 0)), "[Sun Oct 25 02:00:00 2026]");
    }

    #[test]
    fn data_follows_unchanged() {
        let mut time = Time::new(TimeZone::UTC);
        let at = wall(1_795_233_906, 0);
        assert_eq!(told(&mut time, b"hello", at), "[Sat Nov 21 04:05:06 2026]hello");
        assert_eq!(told(&mut time, b"", at), "[Sat Nov 21 04:05:06 2026]");
        assert_eq!(time.reply(b"\xff\x00]\n", at), b"[Sat Nov 21 04:05:06 2026]\xff\x00]\n");
    }

    #[test]
    fn the_text_is_made_once_a_second_and_follows_a_clock_that_is_set_back() {
        let mut time = Time::new(TimeZone::UTC);
        let start = 1_795_233_906;
        assert_eq!(told(&mut time, b"a", wall(start, 999_999_999)), "[Sat Nov 21 04:05:06 2026]a");
        time.reply[1] = b'X';
        for nanos in [0, 1, 500_000_000, 999_999_999] {
            assert_eq!(told(&mut time, b"a", wall(start, nanos)), "[Xat Nov 21 04:05:06 2026]a");
        }
        assert_eq!(told(&mut time, b"a", wall(start + 1, 0)), "[Sat Nov 21 04:05:07 2026]a");
        assert_eq!(told(&mut time, b"a", wall(start - 1, 5)), "[Sat Nov 21 04:05:05 2026]a");
        assert_eq!(told(&mut time, b"a", wall(-1, 1)), "[Wed Dec 31 23:59:59 1969]a");
        assert_eq!(told(&mut time, b"a", wall(-1, 999_999_999)), "[Wed Dec 31 23:59:59 1969]a");
    }

    #[test]
    fn a_clock_beyond_all_calendars_is_no_reason_to_stop() {
        let mut time = Time::new(TimeZone::UTC);
        let year = Duration::from_secs(31_557_600);
        assert!(told(&mut time, b"", UNIX_EPOCH + 20_000 * year).ends_with(" 9999]"));
        assert!(told(&mut time, b"", UNIX_EPOCH - 20_000 * year).starts_with('['));
    }
}
