//! Figures as people read them: three digits and a unit that suits them.

use serde::Serializer;

/// A time: `850 ns`, `45.1 µs`, `1.23 ms`, `12.0 s`; `lost` where it is that of a reply that never came.
pub fn time(us: f64) -> String {
    if us == f64::INFINITY {
        return LOST.to_owned();
    }
    // 999.5 of a unit would be told as 1000 of it.
    let (value, unit) = match us {
        us if us < 0.9995 => (us * 1e3, "ns"),
        us if us < 999.5 => (us, "µs"),
        us if us < 999.5e3 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// What stands in place of a time that is longer than any.
const LOST: &str = "lost";

/// A time for the JSON, in microseconds: a number, or `"lost"`. JSON has no infinity, and null would pass for short.
pub fn serialize_us<S: Serializer>(us: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if us.is_finite() { serializer.serialize_f64(*us) } else { serializer.serialize_str(LOST) }
}

/// A time for a CSV, in microseconds.
pub fn csv_us(us: f64) -> String {
    if us.is_finite() { format!("{us:.3}") } else { LOST.to_owned() }
}

/// So many a second: `950/s`, `49.9 k/s`, `1.25 M/s`.
pub fn rate(per_s: f64) -> String {
    let (value, unit) = match per_s {
        per_s if per_s < 999.5 => (per_s, "/s"),
        per_s if per_s < 999.5e3 => (per_s / 1e3, " k/s"),
        per_s => (per_s / 1e6, " M/s"),
    };
    format!("{}{unit}", three_digits(value))
}

/// How many of something there are a second; none in no time at all.
pub fn per_s(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

/// From one figure to another, with one unit if they share it: `44.0–47.2 µs`.
pub fn range(from: &str, to: &str) -> String {
    let unit = |text: &str| text.find(|character: char| !character.is_ascii_digit() && character != '.');
    match (unit(from), unit(to)) {
        (Some(at), Some(of)) if at > 0 && from[at..] == to[of..] => format!("{}–{to}", &from[..at]),
        _ => format!("{from}–{to}"),
    }
}

/// An amount of memory: `850 B`, `12.0 KiB`, `1.25 MiB`.
pub fn bytes(bytes: f64) -> String {
    let (value, unit) = match bytes.abs() {
        size if size < 1023.5 => (bytes, "B"),
        size if size < 1023.5 * 1024.0 => (bytes / 1024.0, "KiB"),
        size if size < 1023.5 * 1024.0 * 1024.0 => (bytes / 1024.0 / 1024.0, "MiB"),
        _ => (bytes / 1024.0 / 1024.0 / 1024.0, "GiB"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A share of one: `12.3 %`.
pub fn share(of_one: f64) -> String {
    format!("{:.1} %", of_one * 100.0)
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        value if value == 0.0 || value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_suit_the_figure() {
        for (us, words) in [
            (0.0, "0 ns"),
            (0.85, "850 ns"),
            (0.9996, "1.00 µs"),
            (45.14, "45.1 µs"),
            (999.4, "999 µs"),
            (999.6, "1.00 ms"),
            (1234.0, "1.23 ms"),
            (12_000_000.0, "12.0 s"),
            (5_000_000_000.0, "5000 s"),
            (f64::INFINITY, "lost"),
        ] {
            assert_eq!(time(us), words);
        }
        for (per_s, words) in
            [(0.5, "0.50/s"), (950.0, "950/s"), (49_900.0, "49.9 k/s"), (1_250_000.0, "1.25 M/s")]
        {
            assert_eq!(rate(per_s), words);
        }
        for (size, words) in [
            (0.0, "0 B"),
            (850.0, "850 B"),
            (1023.6, "1.00 KiB"),
            (12.0 * 1024.0, "12.0 KiB"),
            (1.25 * 1024.0 * 1024.0, "1.25 MiB"),
            (3.0 * 1024.0 * 1024.0 * 1024.0, "3.00 GiB"),
        ] {
            assert_eq!(bytes(size), words);
        }
        assert_eq!(share(0.1234), "12.3 %");
        assert_eq!(range("44.0 µs", "47.2 µs"), "44.0–47.2 µs");
        assert_eq!(range("44.0 µs", "lost"), "44.0 µs–lost");
        assert_eq!(range("lost", "lost"), "lost–lost");
        assert_eq!(range("950/s", "1.25 k/s"), "950/s–1.25 k/s");
    }
}
