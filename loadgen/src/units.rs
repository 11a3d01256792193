//! Numbers as they are written on the command line.

use std::time::Duration;

use jiff::SignedDuration;

/// A number from 1 on.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

/// A number of bytes from 1 on: `64`, `16KiB`, `1.5MiB`.
pub fn size(text: &str) -> Result<usize, String> {
    match parse_size::parse_size(text) {
        Ok(_) if !is_unambiguous(text) => Err("expected a size such as 64, 16KiB or 1.5MiB".into()),
        Ok(0) => Err("must be at least 1".into()),
        Ok(bytes) => usize::try_from(bytes).map_err(|_| "too large".into()),
        Err(parse_size::Error::PosOverflow) => Err("too large".into()),
        Err(_) => Err("expected a size such as 64, 16KiB or 1.5MiB".into()),
    }
}

/// Whether the unit, if there is one, counts in 1024s: of KB and k some would expect 1024 and others 1000.
fn is_unambiguous(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| !c.is_alphabetic());
    ["", "B", "KiB", "MiB", "GiB", "TiB"].iter().any(|known| unit.eq_ignore_ascii_case(known))
}

/// A time: `250ms`, `1.5s`, `1m 30s`, or 0.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration = match text.parse::<SignedDuration>() {
        Ok(duration) => duration,
        Err(_) if is_out_of_range(text) => return Err(TOO_LONG.into()),
        // A bare 0 needs no unit; any other bare number would be a guess.
        Err(_) if text.parse::<f64>().is_ok_and(|number| number >= 0.0) => {
            return Err(format!("needs a unit: {text}ms, {text}s or {text}m"));
        }
        // The parser's own words explain several notations; one is enough here.
        Err(_) => return Err("expected a time such as 250ms, 1.5s or 2m".into()),
    };
    match Duration::try_from(duration) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err(TOO_LONG.into()),
        Err(_) => Err("must not be negative".into()),
    }
}

/// Whether nothing but the size of its numbers keeps it from being a time.
fn is_out_of_range(text: &str) -> bool {
    let mut small = String::new();
    for character in text.chars() {
        match character.is_ascii_digit() {
            true if small.ends_with('1') => {}
            true => small.push('1'),
            false => small.push(character),
        }
    }
    small.parse::<SignedDuration>().is_ok()
}

/// Keeps every instant that is computed from a duration far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const TOO_LONG: &str = "must be at most 24h";

/// The same, but not 0.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// The nanoseconds in a unit of time.
pub fn time_unit(text: &str) -> Result<u64, String> {
    match text {
        "ns" => Ok(1),
        "us" | "µs" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(1_000_000_000),
        _ => Err("the units are ns, us, ms and s".into()),
    }
}

/// So many a second: `500`, `50k`, `1.5M`.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor <= RATE_MAX => Ok(number * factor),
        _ => Err("expected a rate per second, such as 500, 50k or 1.5M".into()),
    }
}

/// One a nanosecond, the unit of the plan.
const RATE_MAX: f64 = 1e9;

/// A share of one, in percent: `2%`, `0.5%`.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("needs a unit: %")?;
    match number.trim_end().parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number / 100.0),
        _ => Err("expected more than 0%, and at most 100%".into()),
    }
}

/// How often chance may be taken for more: `0.01`, `1%`.
pub fn significance(text: &str) -> Result<f64, String> {
    let part = percent(text).or_else(|_| text.parse::<f64>().map_err(|error| format!("{error}")))?;
    if part > 0.0 && part < 0.5 { Ok(part) } else { Err("expected more than 0 and less than 0.5".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64B"), Ok(64));
        assert_eq!(size("16KiB"), Ok(16 * 1024));
        assert_eq!(size("2MiB"), Ok(2 * 1024 * 1024));
        assert_eq!(size("1.5KiB"), Ok(1536));
        assert_eq!(size("1 gib"), Ok(1 << 30));
        for (bad, words) in [
            ("", "such as"),
            ("0", "at least 1"),
            ("0KiB", "at least 1"),
            ("KiB", "such as"),
            ("-1", "such as"),
            ("16k", "such as"),
            ("16KB", "such as"),
            ("64 apples", "such as"),
            ("99999999999999999999", "too large"),
            ("18446744073709551615MiB", "too large"),
        ] {
            let error = size(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1440m"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0.25m"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 2m 3s"), Ok(Duration::from_secs(3723)));
        for (bad, words) in [
            ("", "such as"),
            ("5", "needs a unit: 5ms, 5s or 5m"),
            ("1.5", "needs a unit: 1.5ms"),
            ("s", "such as"),
            ("5 parsecs", "such as"),
            ("-1s", "negative"),
            ("1s ago", "negative"),
            ("1441m", "at most 24h"),
            ("25h", "at most 24h"),
            ("9999999999999999h", "at most 24h"),
            ("18446744073709551615m", "at most 24h"),
            ("99999999999999999999999s", "at most 24h"),
        ] {
            let error = duration(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn shares() {
        assert_eq!(percent("2%"), Ok(0.02));
        assert_eq!(percent("0.5 %"), Ok(0.005));
        for bad in ["", "2", "%", "0%", "-1%", "101%", "NaN%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn significances() {
        assert_eq!(significance("0.01"), Ok(0.01));
        assert_eq!(significance("1%"), Ok(0.01));
        for bad in ["", "0", "1", "0.5", "60%", "-0.1", "NaN"] {
            assert!(significance(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        for (text, expected) in [("500", 500.0), ("50k", 50_000.0), ("1.5M", 1_500_000.0), ("0.5", 0.5)] {
            assert_eq!(rate(text), Ok(expected));
        }
        for bad in ["", "0", "-1", "k", "1e400", "NaN", "inf", "50 k", "2000M"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
