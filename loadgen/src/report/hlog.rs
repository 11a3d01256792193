//! The intervals in the HdrHistogram log format, version 2, in nanoseconds.
//!
//! An interval is a line for each kind of time, told apart by the tags `response`, `service` and `lag`. It is written
//! when it ends, so that a long run takes no more memory than a short one.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use crate::output::Output;
use crate::record::Record;

pub struct Log {
    out: Output,
    serializer: V2DeflateSerializer,
    /// An open loop has response times and lags also in intervals in which nothing came.
    is_open_loop: bool,
    /// What went wrong first. The run goes on: its other results are worth having.
    outcome: Result<()>,
}

impl Log {
    pub fn new(out: Output, is_open_loop: bool) -> Log {
        Log { out, serializer: V2DeflateSerializer::new(), is_open_loop, outcome: Ok(()) }
    }

    /// Writes what precedes the intervals. The window begins now; their times count from here.
    pub fn begin(&mut self, at: SystemTime) {
        self.outcome = self.write_head(at).with_context(|| self.words());
    }

    fn write_head(&mut self, at: SystemTime) -> io::Result<()> {
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(concat!("[loadgen ", env!("CARGO_PKG_VERSION"), ": times in nanoseconds]"))
            .with_start_time(at)
            .with_base_time(at)
            .begin_log_with(&mut self.out, &mut self.serializer)?;
        writeln!(
            self.out,
            r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
        )
    }

    fn words(&self) -> String {
        format!("writing {}", self.out.path().display())
    }

    /// Writes the lines of an interval.
    pub fn add(&mut self, record: &Record, start: Duration, length: Duration) {
        if self.outcome.is_ok() {
            self.outcome = self.write(record, start, length);
        }
    }

    fn write(&mut self, record: &Record, start: Duration, length: Duration) -> Result<()> {
        let kinds = [
            ("response", &record.response_times, self.is_open_loop),
            ("service", &record.service_times, true),
            ("lag", &record.send_lags, self.is_open_loop),
        ];
        for (tag, times, _) in kinds.into_iter().filter(|(_, _, is_there)| *is_there) {
            IntervalLogWriterBuilder::new()
                .begin_log_with(&mut self.out, &mut self.serializer)
                .map_err(IntervalLogWriterError::from)
                .and_then(|mut log| log.write_histogram(times, start, length, Tag::new(tag)))
                .with_context(|| self.words())?;
        }
        Ok(())
    }

    /// Puts the file where it belongs.
    pub fn keep(self) -> Result<()> {
        self.outcome.and_then(|()| self.out.keep())
    }
}
