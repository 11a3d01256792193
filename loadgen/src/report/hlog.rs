//! The intervals in the HdrHistogram log format, version 2, in nanoseconds.
//!
//! An interval is a line for each kind of time, told apart by the tags `response`, `service` and `lag`. It is written
//! when it ends, so that a long run takes no more memory than a short one. A last line, which is a comment to other
//! readers, says how the run came out.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};
use serde::{Deserialize, Serialize};

use crate::output::Output;
use crate::record::Record;
use crate::report::Report;
use crate::verdict::{Limiter, Verdict};

/// What the comment line begins with by which a log of loadgen is known; its version follows.
pub const OWN_MARK: &str = "[loadgen ";

/// What stands around the outcome in its line.
pub const OUTCOME: (&str, &str) = ("[Loadgen: ", "]");

/// How a run came out, as far as its histograms do not tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// None if it is the sum of several, of which one is not known and none is invalid.
    pub verdict: Option<Verdict>,
    /// What stood in the way of a valid run.
    pub limiter: Option<String>,
    /// Why it is invalid, in a line.
    pub complaint: Option<String>,
    /// It, or one of several, was ended before its time.
    #[serde(default)]
    pub interrupted: bool,
    /// None if it is the sum of several, of which one is not known.
    pub counts: Option<Counts>,
}

/// What was counted. The fields mean what those of the JSON do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u64,
    /// Of these, the ones that were sent in time: in a closed loop all.
    pub offered: u64,
    /// Of these, the ones answered rightly.
    pub answered: u64,
    pub errors: u64,
    pub lost: u64,
    pub late: u64,
    pub peer_closed: u64,
    /// Planned; none in a closed loop.
    pub rate_per_s: Option<f64>,
    pub elapsed_s: f64,
}

impl Outcome {
    /// How a run came out.
    pub fn of(report: &Report, record: &Record) -> Outcome {
        Outcome {
            verdict: Some(report.verdict),
            limiter: report.limiter.map(|limiter: Limiter| limiter.words().to_owned()),
            complaint: (report.verdict == Verdict::Invalid).then(|| report.complaint()),
            interrupted: report.interrupted,
            counts: Some(Counts {
                requests: record.requests,
                offered: if report.is_open_loop() { record.sent_in_time } else { record.requests },
                answered: record.answered,
                errors: record.errors,
                lost: record.lost,
                late: record.late,
                peer_closed: record.peer_closed,
                rate_per_s: report.rate_per_s,
                elapsed_s: report.elapsed_s,
            }),
        }
    }
}

/// Writes a log line by line.
pub struct Lines {
    out: Output,
    serializer: V2DeflateSerializer,
}

impl Lines {
    pub fn new(out: Output) -> Lines {
        Lines { out, serializer: V2DeflateSerializer::new() }
    }

    /// Writes what precedes the intervals. Their times count from `at`.
    pub fn begin(&mut self, at: SystemTime) -> Result<()> {
        self.write_head(at).with_context(|| self.words())
    }

    fn write_head(&mut self, at: SystemTime) -> io::Result<()> {
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("{OWN_MARK}{}: times in nanoseconds]", env!("CARGO_PKG_VERSION")))
            .with_start_time(at)
            .with_base_time(at)
            .begin_log_with(&mut self.out, &mut self.serializer)?;
        writeln!(
            self.out,
            r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
        )
    }

    /// Writes the line of an interval.
    pub fn add(
        &mut self,
        times: &Histogram<u64>,
        start: Duration,
        length: Duration,
        tag: Option<&str>,
    ) -> Result<()> {
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.out, &mut self.serializer)
            .map_err(IntervalLogWriterError::from)
            .and_then(|mut log| log.write_histogram(times, start, length, tag.and_then(Tag::new)))
            .with_context(|| self.words())
    }

    /// Writes the line that says how it came out, and puts the file where it belongs.
    pub fn keep(mut self, outcome: &Outcome) -> Result<()> {
        let (before, after) = OUTCOME;
        let json = serde_json::to_string(outcome)?;
        writeln!(self.out, "#{before}{json}{after}").with_context(|| self.words())?;
        self.out.keep()
    }

    fn words(&self) -> String {
        self.out.name().to_owned()
    }
}

/// The log of a run.
pub struct Log {
    lines: Lines,
    /// An open loop has response times and lags also in intervals in which nothing came.
    is_open_loop: bool,
    /// What went wrong first. The run goes on: its other results are worth having.
    written: Result<()>,
}

impl Log {
    pub fn new(out: Output, is_open_loop: bool) -> Log {
        Log { lines: Lines::new(out), is_open_loop, written: Ok(()) }
    }

    /// Writes what precedes the intervals. The window begins now; their times count from here.
    pub fn begin(&mut self, at: SystemTime) {
        self.written = self.lines.begin(at);
    }

    /// Writes the lines of an interval.
    pub fn add(&mut self, record: &Record, start: Duration, length: Duration) {
        if self.written.is_ok() {
            self.written = self.write(record, start, length);
        }
    }

    fn write(&mut self, record: &Record, start: Duration, length: Duration) -> Result<()> {
        let kinds = [
            ("response", &record.response_times, self.is_open_loop),
            ("service", &record.service_times, true),
            ("lag", &record.send_lags, self.is_open_loop),
        ];
        let mut kinds = kinds.into_iter().filter(|(_, _, is_there)| *is_there);
        kinds.try_for_each(|(tag, times, _)| self.lines.add(times, start, length, Some(tag)))
    }

    /// Writes how it came out, and puts the file where it belongs.
    pub fn keep(self, outcome: &Outcome) -> Result<()> {
        self.written.and_then(|()| self.lines.keep(outcome))
    }
}
