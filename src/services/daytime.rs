//! Daytime: the local date and time, once.

use std::io::Write as _;
use std::time::SystemTime;

use jiff::tz::TimeZone;

use super::clock::SecondText;
use crate::datagram::Datagram;
use crate::service::{Arrival, Context, Service};
use crate::slots::ConnId;

/// Sends `2026-11-21 04:05:06.123456`, the local date and time to the microsecond, on connect and closes; or answers each
/// datagram with it.
#[derive(Debug)]
pub struct Daytime {
    clock: SecondText,
    /// What is sent next, in memory that is used again.
    out: Vec<u8>,
}

impl Daytime {
    /// In this time zone.
    pub fn new(zone: TimeZone) -> Daytime {
        Daytime { clock: SecondText::new(zone, "%Y-%m-%d %H:%M:%S"), out: Vec::new() }
    }

    /// In the time zone of the system; UTC if the system has none.
    pub fn local() -> Daytime {
        Daytime::new(TimeZone::system())
    }

    fn text(&mut self, wall: SystemTime) -> &[u8] {
        self.out.clear();
        self.out.extend_from_slice(self.clock.at(wall).0.as_bytes());
        let micros = self.clock.since_second(wall).subsec_micros();
        // Writing to a vector cannot fail.
        let _ = write!(self.out, ".{micros:06}");
        &self.out
    }
}

impl Service for Daytime {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let wall = cx.wall();
        cx.send(conn, self.text(wall));
        cx.close(conn);
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.count_messages(1);
        let wall = cx.wall();
        cx.reply(datagram, self.text(wall));
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::tests::wall;
    use super::*;

    #[test]
    fn the_time_is_told_to_the_microsecond() {
        let mut daytime = Daytime::new(TimeZone::UTC);
        for (nanos, micros) in
            [(0, "000000"), (999, "000000"), (123_456_789, "123456"), (999_999_999, "999999")]
        {
            let expected = format!("2026-11-21 04:05:06.{micros}");
            assert_eq!(daytime.text(wall(1_795_233_906, nanos)), expected.as_bytes());
        }
        assert_eq!(daytime.text(wall(-1, 5_000)), b"1969-12-31 23:59:59.000005");
    }

    #[test]
    fn the_time_is_that_of_the_zone() {
        let mut daytime = Daytime::new(TimeZone::posix("CST-8").unwrap());
        assert_eq!(daytime.text(wall(1_795_233_906, 0)), b"2026-11-21 12:05:06.000000");
    }
}
