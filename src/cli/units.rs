//! Durations and sizes as they are written on the command line: `30s`, `50ms`, `64KiB`, `1000`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration, written and shown as `30s` or `1m 30s`. A bare `0` needs no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Time {
    /// The limit that this stands for: 0 is none.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        if text == "0" {
            return Ok(Time(Duration::ZERO));
        }
        // The parser's own words explain three notations; one is enough here.
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .map(Time)
            .ok_or_else(|| "expected a duration such as 30s, 50ms or 2m".to_owned())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

/// A size in bytes, written and shown as `64KiB` or `1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// The limit that this stands for: 0 is none.
    pub fn limit(self) -> Option<usize> {
        (self.0 > 0).then_some(self.0)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let shift = UNITS
            .iter()
            .find(|(name, _)| unit.is_empty() || unit.eq_ignore_ascii_case(name))
            .map(|&(_, shift)| if unit.is_empty() { 0 } else { shift });
        match (number.parse::<usize>(), shift) {
            (Ok(number), Some(shift)) => number
                .checked_mul(1 << shift)
                .map(Size)
                .ok_or_else(|| "that is more than this machine can address".to_owned()),
            _ => Err("expected a size such as 64KiB, 1MiB or a number of bytes".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|&&(_, shift)| self.0 > 0 && shift > 0 && self.0.is_multiple_of(1 << shift)) {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let time = |text: &str| text.parse::<Time>().map(|time| time.0);
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("0"), Ok(Duration::ZERO));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "-5s", "5s ago", "5 parsecs", "99999999999999999999s", "1\n"] {
            assert!(time(bad).is_err(), "{bad:?} was taken for {:?}", time(bad));
        }
        assert_eq!(Time(Duration::from_secs(90)).to_string(), "1m 30s");
        assert_eq!(Time(Duration::ZERO).limit(), None);
    }

    #[test]
    fn sizes() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("64KiB"), Ok(64 << 10));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("2 gib"), Ok(2 << 30));
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(size("1000B"), Ok(1000));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "KiB", "-1", "1.5MiB", "64KB", "64k", "99999999999GiB", "18446744073709551616", "1é"]
        {
            assert!(size(bad).is_err(), "{bad:?} was taken for {:?}", size(bad));
        }
        for text in ["64KiB", "1MiB", "3GiB", "1025", "0"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }
}
