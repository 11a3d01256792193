//! Numbers as they are written on the command line.

use std::time::Duration;

/// A number from 1 on.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

/// A number of bytes from 1 on: `64`, `16KiB`, `1MiB`.
pub fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => return Err(format!("unknown unit {other:?}; there are B, KiB and MiB")),
    };
    count(number)?.checked_mul(factor).ok_or_else(|| "too large".into())
}

/// A time: `250ms`, `5s`, `2m`, or 0.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        // A bare 0 needs no unit; any other bare number would be a guess.
        "" if number == 0 => Some(0),
        "" => return Err("needs a unit: ms, s or m".into()),
        other => return Err(format!("unknown unit {other:?}; there are ms, s and m")),
    };
    match milliseconds {
        Some(milliseconds) if milliseconds <= DURATION_MS_MAX => Ok(Duration::from_millis(milliseconds)),
        _ => Err("must be at most 24 hours".into()),
    }
}

/// Keeps every instant that is computed from a duration far from overflow.
const DURATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

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
        _ => Err("there are ns, us, ms and s".into()),
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
        _ => Err("expected so many a second, such as 500, 50k or 1.5M".into()),
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
    if part > 0.0 && part < 0.5 { Ok(part) } else { Err("expected more than 0 and less than a half".into()) }
}

/// Splits `16KiB` into `16` and `KiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
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
        for bad in
            ["", "0", "0KiB", "KiB", "16k", "-1", "1.5KiB", "99999999999999999999", "18446744073709551615MiB"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1440m"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "5h", "1.5s", "-1s", "1441m", "18446744073709551615m"] {
            assert!(duration(bad).is_err(), "{bad}");
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
