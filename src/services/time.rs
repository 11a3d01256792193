//! Time: every datagram back to its sender, with the local time before it.

use std::time::SystemTime;

use jiff::tz::TimeZone;

use super::clock::SecondText;
use crate::datagram::Datagram;
use crate::service::{Context, Service};

/// A time as C's ctime writes it, in brackets: the day of the month is padded with a space.
const CTIME: &str = "[%a %b %e %H:%M:%S %Y]";

/// Answers each datagram with `[Sat Nov 21 04:05:06 2026]`, the local time as C's ctime writes it, and the datagram's bytes.
///
/// The time is formatted once a second, not once a datagram.
#[derive(Debug)]
pub struct Time {
    clock: SecondText,
    /// The time in its brackets and, behind it, what the last reply said.
    reply: Vec<u8>,
    prefix_len: usize,
}

impl Time {
    /// In this time zone.
    pub fn new(zone: TimeZone) -> Time {
        Time { clock: SecondText::new(zone, CTIME), reply: Vec::new(), prefix_len: 0 }
    }

    /// In the time zone of the system; UTC if the system has none.
    pub fn local() -> Time {
        Time::new(TimeZone::system())
    }

    /// The reply to `bytes` at the time `wall`.
    fn reply(&mut self, bytes: &[u8], wall: SystemTime) -> &[u8] {
        let (text, is_new) = self.clock.at(wall);
        if is_new {
            self.reply.clear();
            self.reply.extend_from_slice(text.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::super::clock::tests::wall;
    use super::*;

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
            assert_eq!(told(&mut Time::new(TimeZone::UTC), b"", wall(seconds, 0)), format!("[{text}]"));
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
    fn the_text_is_made_once_a_second() {
        let mut time = Time::new(TimeZone::UTC);
        let start = 1_795_233_906;
        assert_eq!(told(&mut time, b"a", wall(start, 999_999_999)), "[Sat Nov 21 04:05:06 2026]a");
        time.reply[1] = b'X';
        assert_eq!(told(&mut time, b"a", wall(start, 0)), "[Xat Nov 21 04:05:06 2026]a");
        assert_eq!(told(&mut time, b"a", wall(start + 1, 0)), "[Sat Nov 21 04:05:07 2026]a");
    }
}
