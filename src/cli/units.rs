//! Durations and sizes as they are written on the command line: `30s`, `1.5s`, `64KiB`, `1000`.

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
        match text.parse::<jiff::SignedDuration>().map(Duration::try_from) {
            Ok(Ok(duration)) if duration <= TIME_MAX => Ok(Time(duration)),
            Ok(Ok(_)) => Err(TOO_LONG.to_owned()),
            Ok(Err(_)) => Err("a duration must not be negative".to_owned()),
            Err(_) if is_out_of_range(text) => Err(TOO_LONG.to_owned()),
            Err(_) => Err("expected a duration such as 30s, 50ms or 2m".to_owned()),
        }
    }
}

/// Whether nothing but the size of its numbers keeps it from being a duration.
fn is_out_of_range(text: &str) -> bool {
    let mut small = String::new();
    for character in text.chars() {
        match character.is_ascii_digit() {
            true if small.ends_with('1') => {}
            true => small.push('1'),
            false => small.push(character),
        }
    }
    small.parse::<jiff::SignedDuration>().is_ok()
}

/// Longer than any program runs; instants that are computed from it are far from overflow.
const TIME_MAX: Duration = Duration::from_secs(100_000 * 60 * 60);

const TOO_LONG: &str = "a duration is at most 100000h (use 0 for no limit)";

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

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Size {
    /// The limit that this stands for: 0 is none.
    pub fn limit(self) -> Option<usize> {
        (self.0 > 0).then_some(self.0)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let too_large = || "that is more than this machine can address".to_owned();
        match parse_size::parse_size(text) {
            Ok(bytes) if is_unambiguous(text) => usize::try_from(bytes).map(Size).map_err(|_| too_large()),
            Err(parse_size::Error::PosOverflow) => Err(too_large()),
            _ => Err("expected a size such as 64KiB, 1MiB or a number of bytes".to_owned()),
        }
    }
}

/// Whether the unit, if there is one, counts in 1024s: of KB and k some would expect 1024 and others 1000.
fn is_unambiguous(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| !c.is_alphabetic());
    ["", "B", "KiB", "MiB", "GiB", "TiB"].iter().any(|known| unit.eq_ignore_ascii_case(known))
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|&&(_, shift)| self.0 > 0 && self.0.is_multiple_of(1 << shift)) {
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
        for (bad, words) in [
            ("", "such as 30s"),
            ("5", "such as 30s"),
            ("s", "such as 30s"),
            ("-5s", "not be negative"),
            ("5s ago", "not be negative"),
            ("5 parsecs", "such as 30s"),
            ("1\n", "such as 30s"),
            ("100001h", "at most 100000h"),
            ("9999999999999999h", "at most 100000h"),
            ("99999999999999999999s", "at most 100000h"),
        ] {
            let error = time(bad).expect_err(bad);
            assert!(error.contains(words), "{bad:?}: {error}");
        }
        for text in ["30s", "1.5s", "50ms", "1h30m", "100000h", "0", "1us"] {
            let read = text.parse::<Time>().expect(text);
            assert_eq!(read.to_string().parse::<Time>(), Ok(read), "{text} is shown as {read}");
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
        assert_eq!(size("1.5MiB"), Ok(3 << 19));
        for bad in
            ["", "KiB", "-1", "64KB", "64k", "64 apples", "99999999999GiB", "18446744073709551616", "1é"]
        {
            assert!(size(bad).is_err(), "{bad:?} was taken for {:?}", size(bad));
        }
        for text in ["64KiB", "1MiB", "3GiB", "1025", "0", "1536KiB"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }
}
