//! A log as it is read: lines with their times on the clock of its machine, and histograms that are unpacked one by one.

use std::fs;
use std::io::Read;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::Tag;

use super::Span;
use crate::Usage;
use crate::report::hlog::{OUTCOME, OWN_MARK, Outcome};

/// A time stamp so far before the log's StartTime does not count from 1970, but from there.
const YEAR_S: f64 = 365.0 * 24.0 * 3600.0;

/// Later times (in three thousand years) could not be counted in microseconds.
const TIME_S_MAX: f64 = 1e11;

/// What a compressed histogram of version 2 begins with, and what is inside of it.
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
const PLAIN_COOKIE: u32 = 0x1c84_9313;

/// Of a histogram without its counts.
const HEAD_BYTES: usize = 40;

/// No histogram that can be made is larger: 64 bits of range, five digits.
const HISTOGRAM_BYTES_MAX: u64 = 128 << 20;

/// A log.
pub struct Log {
    pub path: String,
    /// Written by loadgen: its times are in nanoseconds.
    pub is_own: bool,
    /// How the run came out, if the log says it.
    pub outcome: Option<Outcome>,
    /// Whether its times are those of a clock on a wall.
    pub has_clock: bool,
    /// In the order of the log.
    pub intervals: Vec<Interval>,
}

/// A line of a log.
pub struct Interval {
    line: usize,
    pub tag: Option<String>,
    pub span: Span,
    encoded: String,
}

impl Log {
    /// Reads a file. What is wrong with it is told with its line.
    pub fn read(path: &str) -> Result<Log> {
        let bytes = fs::read(path).with_context(|| format!("reading {path}")).map_err(usage)?;
        let mut log = Log {
            path: path.to_owned(),
            is_own: false,
            outcome: None,
            has_clock: false,
            intervals: Vec::new(),
        };
        let mut clock = Clock::default();
        let mut line = 1;
        for text in bytes.split_inclusive(|&byte| byte == b'\n') {
            let taken = match text.strip_suffix(b"\n") {
                Some(text) => log.take(text, line, &mut clock),
                None => Err(anyhow!("the line has no end: the file was cut short")),
            };
            taken.map_err(|error| usage(error.context(log.place(line))))?;
            line += 1;
        }
        if log.intervals.is_empty() {
            let words =
                if bytes.is_empty() { "the file is empty" } else { "the log ends without any interval" };
            return Err(usage(anyhow!(words).context(log.place(line))));
        }
        Ok(log)
    }

    fn place(&self, line: usize) -> String {
        format!("{}, line {line}", self.path)
    }

    fn take(&mut self, text: &[u8], line: usize, clock: &mut Clock) -> Result<()> {
        let no_log = "this is no line of an HdrHistogram log";
        let text = std::str::from_utf8(text).context(no_log)?.trim_end_matches('\r');
        if let Some(comment) = text.strip_prefix('#') {
            return self.take_comment(comment, clock);
        }
        // The names of the columns, and lines that say nothing.
        if text.starts_with('"') || text.trim().is_empty() {
            return Ok(());
        }
        let (tag, rest) = match text.strip_prefix("Tag=") {
            Some(rest) => rest.split_once(',').map(|(tag, rest)| (Some(tag), rest)).context(no_log)?,
            None => (None, text),
        };
        if tag.is_some_and(|tag| Tag::new(tag).is_none()) {
            bail!("a tag may not have spaces in it");
        }
        let [start, length, _max, encoded] =
            rest.splitn(4, ',').collect::<Vec<_>>().try_into().map_err(|_| anyhow!(no_log))?;
        let (start, length) = (seconds(start).context(no_log)?, seconds(length).context(no_log)?);
        let start_us = microseconds(clock.on_the_wall(start));
        self.has_clock |= clock.is_set() || start > YEAR_S;
        self.intervals.push(Interval {
            line,
            tag: tag.map(str::to_owned),
            span: Span { start_us, end_us: start_us + microseconds(length) },
            encoded: encoded.to_owned(),
        });
        Ok(())
    }

    fn take_comment(&mut self, comment: &str, clock: &mut Clock) -> Result<()> {
        let time = |name| {
            let rest: Option<&str> = comment.strip_prefix(name);
            let number = rest.map(|rest| rest.split([' ', ']']).next().unwrap_or_default());
            number.map(|number| seconds(number).with_context(|| format!("{number:?} is no time"))).transpose()
        };
        // A log that was continued begins anew.
        if let Some(start_s) = time("[StartTime: ")? {
            *clock = Clock { start_s: Some(start_s), base_s: None };
        } else if let Some(base_s) = time("[BaseTime: ")? {
            clock.base_s = Some(base_s);
        }
        let (before, after) = OUTCOME;
        if let Some(json) = comment.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)) {
            self.outcome = Some(serde_json::from_str(json).context("how the run came out cannot be read")?);
        }
        self.is_own |= comment.starts_with(OWN_MARK);
        Ok(())
    }

    /// Unpacks the histogram of one of its intervals, with its values in nanoseconds.
    pub fn histogram(&self, interval: &Interval, unit_ns: u64) -> Result<Histogram<u64>> {
        let times = decode(&interval.encoded)
            .map_err(|error| Usage(format!("{}: the histogram {error:#}", self.place(interval.line))))?;
        Ok(if self.is_own || unit_ns == 1 { times } else { scaled(&times, unit_ns) })
    }

    /// From its first interval to the end of the load.
    pub fn span(&self) -> Span {
        let spans = || self.intervals.iter().map(|interval| interval.span);
        let span = spans().reduce(Span::around).unwrap_or_default();
        // After the load comes the wait for what was still on its way.
        let counts = self.outcome.as_ref().and_then(|outcome| outcome.counts.as_ref());
        let end_us =
            counts.map_or(u64::MAX, |counts| span.start_us.saturating_add(microseconds(counts.elapsed_s)));
        Span { end_us: span.end_us.min(end_us), ..span }
    }
}

/// From when the times of a log count.
#[derive(Default)]
struct Clock {
    start_s: Option<f64>,
    base_s: Option<f64>,
}

impl Clock {
    fn is_set(&self) -> bool {
        self.start_s.is_some() || self.base_s.is_some()
    }

    /// As the format's other readers understand it: without a BaseTime, times are either since the StartTime or since 1970.
    fn on_the_wall(&self, time_s: f64) -> f64 {
        let base_s = self.base_s.or(self.start_s.filter(|start_s| time_s < start_s - YEAR_S));
        time_s + base_s.unwrap_or_default()
    }
}

/// A time as logs write it.
fn seconds(text: &str) -> Option<f64> {
    text.parse().ok().filter(|time_s| (0.0..TIME_S_MAX).contains(time_s))
}

fn microseconds(time_s: f64) -> u64 {
    (time_s * 1e6).round() as u64
}

/// Base64 around a length around a zlib stream, which has a checksum, around the histogram: each is checked.
fn decode(encoded: &str) -> Result<Histogram<u64>> {
    let bytes = BASE64.decode(encoded).context("is cut short or no Base64")?;
    let (cookie, rest) = number(&bytes).context("is cut short")?;
    let plain = match cookie {
        PLAIN_COOKIE => bytes,
        COMPRESSED_COOKIE => {
            let (len, packed) = number(rest).context("is cut short")?;
            if packed.len() != len as usize {
                bail!("has {} bytes and should have {len}", packed.len());
            }
            let mut plain = Vec::new();
            ZlibDecoder::new(packed)
                .take(HISTOGRAM_BYTES_MAX)
                .read_to_end(&mut plain)
                .context("is corrupt: it cannot be unpacked")?;
            plain
        }
        _ => bail!("is not one of version 2"),
    };
    // What it says of its own length decides how much memory is taken for it.
    let counts_len = plain.get(4..).and_then(number).map(|(len, _)| len as usize);
    if counts_len.is_none() || counts_len != plain.len().checked_sub(HEAD_BYTES) {
        bail!("is corrupt: its length is not the one that it states");
    }
    Deserializer::new().deserialize(&mut plain.as_slice()).map_err(|error| anyhow!("is corrupt: {error}"))
}

/// The number at the beginning, and what follows.
fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// With every value so many times as large.
fn scaled(times: &Histogram<u64>, factor: u64) -> Histogram<u64> {
    let mut scaled = super::histogram(times.sigfig());
    for value in times.iter_recorded() {
        scaled
            .record_n(value.value_iterated_to().saturating_mul(factor), value.count_at_value())
            .expect("it grows to what it is given");
    }
    scaled
}

/// What is wrong with a file is wrong with the command line that names it. The causes make one line with it.
fn usage(error: anyhow::Error) -> anyhow::Error {
    Usage(format!("{error:#}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_on_the_wall_whatever_they_count_from() {
        let clock = |start_s, base_s| Clock { start_s, base_s };
        for (clock, told_s, expected_s) in [
            (clock(Some(2e9), Some(2e9)), 1.5, 2e9 + 1.5),
            (clock(Some(2e9), None), 1.5, 2e9 + 1.5),
            (clock(Some(2e9), None), 2e9 + 1.5, 2e9 + 1.5),
            (clock(Some(2e9 + 7.0), Some(2e9)), 1.5, 2e9 + 1.5),
            (clock(None, None), 1.5, 1.5),
        ] {
            assert!((clock.on_the_wall(told_s) - expected_s).abs() < 1e-6, "{told_s} {expected_s}");
        }
    }

    #[test]
    fn a_histogram_with_one_wrong_bit_is_never_taken_for_another() {
        use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
        let mut times = super::super::histogram(3);
        (1..2000_u64).for_each(|value| times.record(value * value).unwrap());
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&times, &mut bytes).unwrap();
        assert_eq!(decode(&BASE64.encode(&bytes)).unwrap(), times);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[at] ^= 1 << bit;
                // zlib ignores a bit or two of its head; then it is the same one.
                if let Ok(read) = decode(&BASE64.encode(&broken)) {
                    assert_eq!(read, times, "bit {bit} of byte {at}");
                }
            }
            assert!(decode(&BASE64.encode(&bytes[..at])).is_err(), "cut after {at} bytes");
        }
    }

    #[test]
    fn values_of_another_unit_are_scaled() {
        let mut times = super::super::histogram(3);
        times.record_n(5, 3).unwrap();
        times.record(1200).unwrap();
        times.record(u64::MAX / 2).unwrap();
        let scaled = scaled(&times, 1000);
        assert_eq!((scaled.len(), scaled.count_at(5000), scaled.count_at(1_200_000)), (5, 3, 1));
        assert_eq!(scaled.count_at(u64::MAX), 1);
    }
}
