//! Daytime and banner: what a server says by itself before it closes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Exchange, Fault, Progress, Wrong};
use crate::service::Service;

/// So much may two clocks differ.
const SLACK: Duration = Duration::from_secs(2);

/// More than that says nobody.
const SAID_BYTES_MAX: usize = 64 * 1024;

/// The form of `2026-11-21 04:05:06.123456`, in which 0 is any digit.
const DAYTIME: &[u8] = b"0000-00-00 00:00:00.000000";

pub struct Said {
    service: Service,
    zone: TimeZone,
}

/// What one connection has said.
pub struct SaidConn {
    text: Vec<u8>,
    /// When it was opened: the time that it tells is none before that.
    opened: SystemTime,
}

impl Said {
    /// What daytime or banner says.
    pub fn of(service: Service) -> Said {
        Said { service, zone: TimeZone::system() }
    }

    /// What is wrong with a text, told between these moments.
    fn fault(&self, text: &[u8], from: SystemTime, until: SystemTime) -> Option<String> {
        let quoted = || text[..text.len().min(48)].escape_ascii();
        match self.service {
            Service::Daytime => match moments(text, &self.zone) {
                None => Some(format!("a text that is not YYYY-MM-DD HH:MM:SS.ffffff: \"{}\"", quoted())),
                Some(moments) => {
                    let is_right = moments.iter().any(|&told| told + SLACK >= from && told <= until + SLACK);
                    (!is_right).then(|| format!("a time that is not this machine's: {}", quoted()))
                }
            },
            _ => {
                let line =
                    text.strip_suffix(b"\r\n").filter(|line| !line.is_empty() && !line.contains(&b'\n'));
                line.is_none().then(|| format!("a text that is not one line with \\r\\n: \"{}\"", quoted()))
            }
        }
    }
}

/// The moments that a text tells: two in the hour that comes twice.
fn moments(text: &[u8], zone: &TimeZone) -> Option<[SystemTime; 2]> {
    let has_form = text.len() == DAYTIME.len()
        && text.iter().zip(DAYTIME).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        });
    let text = str::from_utf8(text).ok().filter(|_| has_form)?;
    let told = DateTime::strptime("%Y-%m-%d %H:%M:%S%.6f", text).ok()?;
    let moments = zone.to_ambiguous_timestamp(told);
    let moment = |timestamp: Result<jiff::Timestamp, _>| {
        let microseconds = u64::try_from(timestamp.ok()?.as_microsecond()).ok()?;
        Some(UNIX_EPOCH + Duration::from_micros(microseconds))
    };
    Some([moment(moments.earlier())?, moment(moments.later())?])
}

impl Exchange for Said {
    type Conn = SaidConn;

    fn open(&self, _index: usize) -> SaidConn {
        SaidConn { text: Vec::new(), opened: SystemTime::now() }
    }

    fn request(&mut self, _conn: &mut SaidConn, _size: usize, _out: &mut Vec<u8>) {}

    fn request_bytes_max(&self, _size: usize) -> usize {
        0
    }

    fn verify(&mut self, conn: &mut SaidConn, _size: usize, _at: usize, bytes: &[u8]) -> Progress {
        conn.text.extend_from_slice(bytes);
        let wrong = (conn.text.len() > SAID_BYTES_MAX).then(|| {
            let words = format!("a text that has no end after {SAID_BYTES_MAX} bytes");
            Wrong { at: 0, fault: Fault::Astray(words) }
        });
        Progress { taken: bytes.len(), is_complete: false, wrong }
    }

    fn end(&mut self, conn: &mut SaidConn, at: usize) -> Option<Result<(), Fault>> {
        let fault = || self.fault(&conn.text, conn.opened, SystemTime::now());
        (at > 0).then(|| fault().map_or(Ok(()), |words| Err(Fault::Reply(words))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(service: Service, text: &str, zone: TimeZone, at: SystemTime) -> Option<String> {
        Said { service, zone }.fault(text.as_bytes(), at, at)
    }

    #[test]
    fn daytime_has_a_form_and_is_right_to_two_seconds() {
        let at = UNIX_EPOCH + Duration::from_micros(1_795_233_906_500_000);
        for (text, is_right) in [
            ("2026-11-21 04:05:06.500000", true),
            ("2026-11-21 04:05:04.500000", true),
            ("2026-11-21 04:05:04.499999", false),
            ("2026-11-21 04:05:08.500000", true),
            ("2026-11-21 04:05:08.500001", false),
            ("2026-11-21 04:05:06", false),
            ("2026-11-21 04:05:06.500000\n", false),
            ("2026-11-21T04:05:06.500000", false),
            ("2026-11-21 24:05:06.500000", false),
            ("2026-11-21 04:05:06.50000", false),
        ] {
            let said = said(Service::Daytime, text, TimeZone::UTC, at);
            assert_eq!(said.is_none(), is_right, "{text}: {said:?}");
        }
    }

    #[test]
    fn the_hour_that_comes_twice_is_told_twice() {
        let rome = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        for second in [1_792_889_999, 1_792_889_999 + 3600] {
            let at = UNIX_EPOCH + Duration::from_secs(second);
            assert_eq!(said(Service::Daytime, "2026-10-25 02:59:59.000000", rome.clone(), at), None);
        }
    }

    #[test]
    fn a_banner_is_one_line_and_nothing_else() {
        for (text, is_right) in [
            ("Welcome!\r\n", true),
            ("\r\n", false),
            ("", false),
            ("Welcome!\n", false),
            ("Welcome!", false),
            ("Welcome!\r\nAgain!\r\n", false),
        ] {
            let said = said(Service::Banner, text, TimeZone::UTC, UNIX_EPOCH);
            assert_eq!(said.is_none(), is_right, "{text:?}: {said:?}");
        }
    }

    #[test]
    fn what_ends_before_a_word_is_no_reply() {
        let mut banner = Said::of(Service::Banner);
        let mut conn = banner.open(0);
        assert_eq!(banner.end(&mut conn, 0), None);
        assert!(!banner.verify(&mut conn, 1, 0, b"Hi\r").is_complete);
        banner.verify(&mut conn, 1, 3, b"\n");
        assert_eq!(banner.end(&mut conn, 4), Some(Ok(())));
    }
}
