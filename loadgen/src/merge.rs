//! `loadgen merge`: what several machines have seen of one server at the same time, added up.
//!
//! Histograms are added, and quantiles are those of the sum: the mean of two p99 is the p99 of nothing. The clocks of the
//! machines say what was at the same time; nothing else could.
//!
//! ```text
//!     logs ──► intervals in the order of time ──► cells, one after another ──► log, rows
//!                                          └────► sums of each log and of all ──► table, JSON
//! ```

mod log;
mod page;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::Merge;
use crate::fail_if::{self, Count, Figures, Metric, Rate};
use crate::merge::log::{Interval, Log};
use crate::message::message;
use crate::output::{Output, Written};
use crate::record::LOST_NS;
use crate::report::hlog::{Counts, Lines, Outcome};
use crate::report::{Quantiles, SCHEMA_VERSION, figures, hgrm, write, write_page};
use crate::verdict::Verdict;
use crate::{EXIT_FAILED, EXIT_INVALID, Usage};

/// What the logs came to. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Merged {
    schema_version: u32,
    loadgen_version: &'static str,
    /// Invalid if one part is; null if none is, and one is not known.
    verdict: Option<Verdict>,
    /// Of the first part that is invalid.
    limiter: Option<String>,
    /// One run was ended before its time.
    interrupted: bool,
    warnings: Vec<String>,
    failed_conditions: Vec<String>,
    started_unix_s: f64,
    /// From the beginning of the first log to the end of the last.
    span_s: f64,
    /// As long as all were driving; null if they never were.
    common_span_s: Option<f64>,
    /// These five are null if a log does not tell.
    requests: Option<u64>,
    errors: Option<u64>,
    lost: Option<u64>,
    late: Option<u64>,
    peer_closed: Option<u64>,
    /// Null if one was a closed loop, too.
    rate_per_s: Option<f64>,
    /// These two also if there is no common span.
    offered_per_s: Option<f64>,
    throughput_per_s: Option<f64>,
    /// Of each kind of time.
    times: Vec<Times>,
    files: Vec<Part>,
    #[serde(skip)]
    counts: Option<Counts>,
    /// No log has a time of anything that came back.
    #[serde(skip)]
    is_silent: bool,
    #[serde(skip)]
    sums: BTreeMap<Kind, Sum>,
    #[serde(skip)]
    rows: Vec<Row>,
}

/// One log.
#[derive(Serialize)]
struct Part {
    path: String,
    /// Null if it does not tell.
    verdict: Option<Verdict>,
    limiter: Option<String>,
    complaint: Option<String>,
    /// It was ended before its time.
    interrupted: bool,
    counts: Option<Counts>,
    started_unix_s: f64,
    span_s: f64,
    times: Vec<Times>,
    #[serde(skip)]
    span: Span,
    #[serde(skip)]
    sums: BTreeMap<Kind, Sum>,
}

/// Of one kind of time.
#[derive(Serialize)]
struct Times {
    /// Null for times without a tag.
    tag: Kind,
    count: u64,
    /// While all were driving; null if they never were.
    per_s: Option<f64>,
    /// In microseconds; null if there was none.
    us: Option<Quantiles>,
}

/// All times of one kind in a cell of the merged time line.
struct Row {
    start_s: f64,
    length_s: f64,
    times: BTreeMap<Kind, (u64, Option<Quantiles>)>,
}

/// A kind of time: the tag of its lines, if they have one. Those of loadgen come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Response,
    Service,
    Lag,
    Other(String),
    Untagged,
}

/// Times that were added up.
struct Sum {
    times: Histogram<u64>,
    /// How many of them came while all were driving.
    in_common: f64,
}

/// A stretch of time, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Span {
    start_us: u64,
    end_us: u64,
}

/// Merges logs, and tells what came of it.
pub fn merge(merge: &Merge) -> Result<ExitCode> {
    let outputs = &merge.outputs;
    let mut seen = HashSet::new();
    for path in &merge.logs {
        // One that is not there is told when it is read.
        if fs::canonicalize(path).is_ok_and(|place| !seen.insert(place)) {
            return Err(Usage(format!("{path} is given twice")).into());
        }
    }
    let logs = merge.logs.iter().map(|path| Log::read(path)).collect::<Result<Vec<_>>>()?;
    let ([json, hgrm, csv, html, hlog], table) = Output::open_all(outputs.asked())?;

    let mut lines = hlog.map(Lines::new);
    let mut merged = Merged::of(&logs, merge.unit_ns, lines.as_mut())?;
    for condition in &outputs.fail_if {
        if !condition.is_known(&merged) {
            return Err(Usage(format!("--fail-if '{condition}': these logs do not have that figure")).into());
        }
        if condition.held(&merged).is_some() {
            merged.failed_conditions.push(condition.to_string());
        }
    }
    let times = match (&hgrm, merged.main_kind()) {
        (Some(_), None) => {
            return Err(Usage("--hgrm: the logs have no common kind of time".into()).into());
        }
        (_, kind) => kind.and_then(|kind| merged.sums.get(kind)),
    };

    // What can be written is, even if something else cannot.
    let interruption = merged.interruption();
    let write_quantiles =
        |out: &mut Output| times.map_or(Ok(()), |sum| hgrm::write(out, &sum.times, interruption.as_deref()));
    let mut written = Written::default();
    written.add(write(json, |out| merged.write_json(out)));
    written.add(write(hgrm, write_quantiles));
    written.add(write(csv, |out| merged.write_csv(out)));
    written.add(write_page(html, || page::page(&merged)));
    written.add(lines.map_or(Ok(()), |lines| lines.keep(&merged.outcome())));
    written.add(table.print(&merged));
    for warning in &merged.warnings {
        message!("{warning}");
    }
    for condition in &outputs.fail_if {
        if let Some(figure) = condition.held(&merged) {
            message!("failed: --fail-if {condition}: {figure}");
        }
    }
    for complaint in merged.complaints() {
        message!("{complaint}");
    }
    written.all()?;
    Ok(match merged.verdict {
        Some(Verdict::Invalid) => ExitCode::from(EXIT_INVALID),
        _ if !merged.failed_conditions.is_empty() => ExitCode::from(EXIT_FAILED),
        _ => ExitCode::SUCCESS,
    })
}

/// An empty histogram of so many digits, of any value.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new(digits).expect("the digits are those of another histogram")
}

impl Merged {
    /// Adds up logs; the merged time line goes to `lines`.
    fn of(logs: &[Log], unit_ns: u64, mut lines: Option<&mut Lines>) -> Result<Merged> {
        let spans: Vec<_> = logs.iter().map(Log::span).collect();
        let common = spans.iter().copied().reduce(Span::common).unwrap_or_default();
        let whole = spans.iter().copied().reduce(Span::around).unwrap_or_default();
        let mut parts: Vec<_> = logs.iter().zip(&spans).map(|(log, &span)| Part::new(log, span)).collect();
        let mut sums = BTreeMap::new();
        let mut time_line = TimeLine::new(logs, whole.start_us);
        if let Some(lines) = &mut lines {
            lines.begin(UNIX_EPOCH + Duration::from_micros(whole.start_us))?;
        }
        let mut intervals: Vec<_> = logs
            .iter()
            .enumerate()
            .flat_map(|(index, log)| log.intervals.iter().map(move |interval| (index, interval)))
            .collect();
        intervals.sort_by_key(|(_, interval)| interval.span.middle_us());
        for (index, interval) in intervals {
            let times = logs[index].histogram(interval, unit_ns)?;
            let kind = Kind::of(interval.tag.as_deref());
            let in_common = interval.span.share_in(common, spans[index]) * times.len() as f64;
            for sums in [&mut parts[index].sums, &mut sums] {
                sums.entry(kind.clone()).or_insert_with(|| Sum::new(times.sigfig())).add(&times, in_common);
            }
            time_line.add(interval, kind, &times, lines.as_deref_mut())?;
        }
        let rows = time_line.finish(lines)?;

        let common_s = (common.end_us > common.start_us).then(|| common.length_s());
        for part in &mut parts {
            part.times = times(&part.sums, common_s);
        }
        let counts = sum_of_counts(&parts, whole);
        let is_silent = is_silent(&sums);
        let per_s = |of: fn(&Counts) -> u64| {
            let in_common = |part: &Part| Some(of(part.counts.as_ref()?) as f64 * part.share_in(common));
            let sum = parts.iter().map(in_common).sum::<Option<f64>>();
            sum.zip(common_s).map(|(sum, common_s)| sum / common_s)
        };
        Ok(Merged {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            verdict: if is_silent { Some(Verdict::Invalid) } else { verdict(&parts) },
            is_silent,
            limiter: parts.iter().find(|part| part.is_invalid()).and_then(|part| part.limiter.clone()),
            interrupted: parts.iter().any(|part| part.interrupted),
            warnings: warnings(logs, &parts, common_s.is_some()),
            failed_conditions: Vec::new(),
            started_unix_s: whole.start_us as f64 / 1e6,
            span_s: whole.length_s(),
            common_span_s: common_s,
            requests: counts.as_ref().map(|counts| counts.requests),
            errors: counts.as_ref().map(|counts| counts.errors),
            lost: counts.as_ref().map(|counts| counts.lost),
            late: counts.as_ref().map(|counts| counts.late),
            peer_closed: counts.as_ref().map(|counts| counts.peer_closed),
            rate_per_s: counts.as_ref().and_then(|counts| counts.rate_per_s),
            offered_per_s: per_s(|counts| counts.offered),
            throughput_per_s: per_s(|counts| counts.answered),
            counts,
            times: times(&sums, common_s),
            files: parts,
            sums,
            rows,
        })
    }

    /// The kind of time that conditions without a prefix, and --hgrm, are about: response times if all logs have them,
    /// else service times, else the only kind that there is.
    fn main_kind(&self) -> Option<&Kind> {
        let is_in_all = |kind: &&Kind| self.files.iter().all(|part| part.sums.contains_key(*kind));
        match self.sums.keys().filter(is_in_all).collect::<Vec<_>>()[..] {
            [kind @ (Kind::Response | Kind::Service), ..] => Some(kind),
            [kind] if self.sums.len() == 1 => Some(kind),
            _ => None,
        }
    }

    fn times_of(&self, kind: &Kind) -> Option<&Quantiles> {
        self.times.iter().find(|times| times.tag == *kind)?.us.as_ref()
    }

    /// Why parts are invalid, a line for each.
    fn complaints(&self) -> impl Iterator<Item = String> {
        self.files
            .iter()
            .filter(|part| part.is_invalid())
            .map(|part| format!("{}: {}", part.path, part.complaint.as_deref().unwrap_or("INVALID")))
            .chain(self.is_silent_alone().then(|| "INVALID: no replies, in any of the logs".to_owned()))
    }

    /// That nothing came back is no part's own complaint.
    fn is_silent_alone(&self) -> bool {
        self.is_silent && !self.files.iter().any(Part::is_invalid)
    }

    /// How all of it came out, as the merged log says it.
    fn outcome(&self) -> Outcome {
        Outcome {
            verdict: self.verdict,
            limiter: self.limiter.clone(),
            complaint: self.complaints().next(),
            interrupted: self.interrupted,
            counts: self.counts.clone(),
        }
    }

    /// That the runs of some logs were ended before their time.
    fn interruption(&self) -> Option<String> {
        let paths: Vec<_> =
            self.files.iter().filter(|part| part.interrupted).map(|part| part.path.as_str()).collect();
        (!paths.is_empty()).then(|| format!("ended by a signal: {}", paths.join(", ")))
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    /// A row for each cell of the time line, and in it columns for each kind of time, empty where there are none.
    fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "start_s,length_s")?;
        for kind in self.sums.keys() {
            write!(out, ",{kind}_count")?;
            for (name, _) in Quantiles::default().named() {
                write!(out, ",{kind}_{name}_us")?;
            }
        }
        writeln!(out, ",interrupted")?;
        for Row { start_s, length_s, times } in &self.rows {
            write!(out, "{start_s:.3},{length_s:.3}")?;
            for kind in self.sums.keys() {
                let (count, quantiles) = times.get(kind).cloned().unwrap_or_default();
                write!(out, ",{count}")?;
                for (place, _) in Quantiles::default().named().iter().enumerate() {
                    match &quantiles {
                        Some(quantiles) => {
                            write!(out, ",{}", figures::csv_us(quantiles.named()[place].1))?;
                        }
                        None => write!(out, ",")?,
                    }
                }
            }
            writeln!(out, ",{}", u8::from(self.interrupted))?;
        }
        Ok(())
    }
}

impl Figures for Merged {
    fn figure(&self, metric: Metric) -> Option<f64> {
        let count = |count: Option<u64>| count.map(|count| count as f64);
        match metric {
            Metric::Time(times, quantile) => {
                let kind = match times {
                    fail_if::Times::Either => self.main_kind()?,
                    fail_if::Times::Response => &Kind::Response,
                    fail_if::Times::Service => &Kind::Service,
                    fail_if::Times::Lag => &Kind::Lag,
                };
                self.times_of(kind)?.at(quantile)
            }
            Metric::ServerCpu => None,
            Metric::Rate(Rate::Throughput) => self.throughput_per_s,
            Metric::Rate(Rate::Offered) => self.offered_per_s,
            Metric::Count(Count::Errors) => count(self.errors),
            Metric::Count(Count::Lost) => count(self.lost),
            Metric::Count(Count::Late) => count(self.late),
            Metric::Count(Count::PeerClosed) => count(self.peer_closed),
        }
    }
}

/// The counts of all, over the whole span; none if a log does not tell.
fn sum_of_counts(parts: &[Part], whole: Span) -> Option<Counts> {
    let counts = parts.iter().map(|part| part.counts.as_ref()).collect::<Option<Vec<_>>>()?;
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(|counts| of(counts)).sum();
    Some(Counts {
        requests: sum(|counts| counts.requests),
        offered: sum(|counts| counts.offered),
        answered: sum(|counts| counts.answered),
        errors: sum(|counts| counts.errors),
        lost: sum(|counts| counts.lost),
        late: sum(|counts| counts.late),
        peer_closed: sum(|counts| counts.peer_closed),
        // Null if one was a closed loop.
        rate_per_s: counts.iter().map(|counts| counts.rate_per_s).sum(),
        elapsed_s: whole.length_s(),
    })
}

impl Part {
    fn new(log: &Log, span: Span) -> Part {
        let outcome = log.outcome.clone();
        let outcome = outcome.unwrap_or(Outcome {
            verdict: None,
            limiter: None,
            complaint: None,
            interrupted: false,
            counts: None,
        });
        Part {
            path: log.path.clone(),
            verdict: outcome.verdict,
            limiter: outcome.limiter,
            complaint: outcome.complaint,
            interrupted: outcome.interrupted,
            counts: outcome.counts,
            started_unix_s: span.start_us as f64 / 1e6,
            span_s: span.length_s(),
            times: Vec::new(),
            span,
            sums: BTreeMap::new(),
        }
    }

    fn is_invalid(&self) -> bool {
        self.verdict == Some(Verdict::Invalid)
    }

    /// Of what it counts, the share that came while all were driving: that of its times, of which the log says when they
    /// came.
    fn share_in(&self, common: Span) -> f64 {
        match self.sums.get(&Kind::Service) {
            Some(sum) if !sum.times.is_empty() => sum.in_common / sum.times.len() as f64,
            _ => self.span.share_in(common, self.span),
        }
    }

    /// What tells most in a line or two: response times, else service times, else all there are.
    fn main_times(&self) -> &[Times] {
        match &self.times[..] {
            [first, ..] if first.tag < Kind::Lag => std::slice::from_ref(first),
            all => all,
        }
    }
}

fn times(sums: &BTreeMap<Kind, Sum>, common_s: Option<f64>) -> Vec<Times> {
    let times = sums.iter().map(|(kind, sum)| Times {
        tag: kind.clone(),
        count: sum.times.len(),
        per_s: common_s.map(|common_s| sum.in_common / common_s),
        us: Quantiles::of(&sum.times),
    });
    times.collect()
}

/// There is no time in any log but of sends and of lost replies.
fn is_silent(sums: &BTreeMap<Kind, Sum>) -> bool {
    sums.iter().all(|(kind, sum)| *kind == Kind::Lag || sum.times.is_empty() || sum.times.min() >= LOST_NS)
}

/// Invalid if one is, and valid only if all are known to be.
fn verdict(parts: &[Part]) -> Option<Verdict> {
    if parts.iter().any(Part::is_invalid) {
        return Some(Verdict::Invalid);
    }
    parts.iter().all(|part| part.verdict.is_some()).then_some(Verdict::Valid)
}

/// What should be known of the logs before the sum is believed.
fn warnings(logs: &[Log], parts: &[Part], have_common: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (log, part) in logs.iter().zip(parts) {
        if !log.has_clock {
            warnings.push(format!("{} has no start time and cannot be aligned", log.path));
        }
        match (part.verdict, &log.outcome, log.is_own) {
            (Some(_), ..) => {}
            (None, Some(_), _) => {
                warnings.push(format!("the verdict of {} is unknown: it is a merged log", log.path));
            }
            (None, None, true) => warnings.push(format!(
                "the verdict of {} is unknown: it was written by an older loadgen, or its end is missing",
                log.path
            )),
            (None, None, false) => {
                warnings.push(format!(
                    "the verdict of {} is unknown: it was written by another program",
                    log.path
                ));
            }
        }
    }
    let first_to_end = parts.iter().min_by_key(|part| part.span.end_us);
    let last_to_begin = parts.iter().max_by_key(|part| part.span.start_us);
    if let (false, Some(one), Some(other)) = (have_common, first_to_end, last_to_begin) {
        warnings.push(if one.path == other.path {
            format!("{} has no duration: there is no time at which all ran", one.path)
        } else {
            format!(
                "{} had ended when {} began, by the clocks of their machines: there is no time at which all ran",
                one.path, other.path
            )
        });
    }
    warnings
}

/// Intervals of several logs, put into the cells of one time line whole, by their middle: a histogram cannot be cut.
struct TimeLine {
    start_us: u64,
    cell_us: u64,
    /// The cell that is being filled, and until when it lasts.
    cell: u64,
    end_us: u64,
    sums: BTreeMap<Kind, Sum>,
    rows: Vec<Row>,
}

impl TimeLine {
    /// Cells are as long as the intervals of the log in which they are longest.
    fn new(logs: &[Log], start_us: u64) -> TimeLine {
        let usual_us = |log: &Log| {
            let mut lengths: Vec<_> =
                log.intervals.iter().map(|interval| interval.span.end_us - interval.span.start_us).collect();
            lengths.sort_unstable();
            lengths[lengths.len() / 2]
        };
        let cell_us = logs.iter().map(usual_us).max().unwrap_or_default().max(1000);
        TimeLine { start_us, cell_us, cell: 0, end_us: start_us, sums: BTreeMap::new(), rows: Vec::new() }
    }

    /// Takes an interval. Each begins no earlier than those before.
    fn add(
        &mut self,
        interval: &Interval,
        kind: Kind,
        times: &Histogram<u64>,
        lines: Option<&mut Lines>,
    ) -> Result<()> {
        let cell = (interval.span.middle_us() - self.start_us) / self.cell_us;
        if cell != self.cell {
            self.settle((self.cell + 1) * self.cell_us, lines)?;
            self.cell = cell;
        }
        self.end_us = self.end_us.max(interval.span.end_us);
        self.sums.entry(kind).or_insert_with(|| Sum::new(times.sigfig())).add(times, 0.0);
        Ok(())
    }

    /// The rows, once all intervals are in.
    fn finish(mut self, lines: Option<&mut Lines>) -> Result<Vec<Row>> {
        let end_us = (self.end_us - self.start_us).max(self.cell * self.cell_us);
        self.settle(end_us, lines)?;
        Ok(self.rows)
    }

    /// Nothing more comes for the cell, which lasts until `until_us` of the time line.
    fn settle(&mut self, until_us: u64, mut lines: Option<&mut Lines>) -> Result<()> {
        let start_us = self.cell * self.cell_us;
        let start = Duration::from_micros(start_us);
        let length = Duration::from_micros(until_us - start_us);
        let sums = std::mem::take(&mut self.sums);
        if sums.is_empty() {
            return Ok(());
        }
        if let Some(lines) = &mut lines {
            for (kind, sum) in &sums {
                lines.add(&sum.times, start, length, kind.tag())?;
            }
        }
        self.rows.push(Row {
            start_s: start.as_secs_f64(),
            length_s: length.as_secs_f64(),
            times: sums
                .into_iter()
                .map(|(kind, sum)| (kind, (sum.times.len(), Quantiles::of(&sum.times))))
                .collect(),
        });
        Ok(())
    }
}

impl Sum {
    fn new(digits: u8) -> Sum {
        Sum { times: histogram(digits), in_common: 0.0 }
    }

    /// Adds times, with as many digits as the finest of them have.
    fn add(&mut self, times: &Histogram<u64>, in_common: f64) {
        let grows = "it grows to what it is given";
        if times.sigfig() > self.times.sigfig() {
            let mut finer = histogram(times.sigfig());
            finer.add(&self.times).expect(grows);
            self.times = finer;
        }
        self.times.add(times).expect(grows);
        self.in_common += in_common;
    }
}

impl Span {
    /// Both, and what is between.
    fn around(self, other: Span) -> Span {
        Span { start_us: self.start_us.min(other.start_us), end_us: self.end_us.max(other.end_us) }
    }

    /// What both have; it ends before it begins if that is nothing.
    fn common(self, other: Span) -> Span {
        Span { start_us: self.start_us.max(other.start_us), end_us: self.end_us.min(other.end_us) }
    }

    fn length_s(self) -> f64 {
        self.end_us.saturating_sub(self.start_us) as f64 / 1e6
    }

    fn middle_us(self) -> u64 {
        self.start_us + (self.end_us - self.start_us) / 2
    }

    /// What part of an interval of a log lies in the common span, if what is in it is spread evenly. What came after the
    /// log's load belongs to its end.
    fn share_in(self, common: Span, log: Span) -> f64 {
        let inside = self.common(log);
        if inside.end_us <= inside.start_us {
            let at_us = inside.start_us.min(log.end_us);
            return f64::from(u8::from(common.start_us <= at_us && at_us <= common.end_us));
        }
        inside.common(common).length_s() / inside.length_s()
    }
}

impl Kind {
    fn of(tag: Option<&str>) -> Kind {
        match tag {
            Some("response") => Kind::Response,
            Some("service") => Kind::Service,
            Some("lag") => Kind::Lag,
            Some(other) => Kind::Other(other.to_owned()),
            None => Kind::Untagged,
        }
    }

    fn tag(&self) -> Option<&str> {
        match self {
            Kind::Response => Some("response"),
            Kind::Service => Some("service"),
            Kind::Lag => Some("lag"),
            Kind::Other(tag) => Some(tag),
            Kind::Untagged => None,
        }
    }

    /// As the table calls it.
    fn words(&self) -> &str {
        match self {
            Kind::Response => "response time",
            Kind::Service => "service time",
            Kind::Lag => "send lag",
            Kind::Other(tag) => tag,
            Kind::Untagged => "without a tag",
        }
    }
}

/// As columns are called.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag().unwrap_or("untagged"))
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tag().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start_us: u64, end_us: u64) -> Span {
        Span { start_us, end_us }
    }

    #[test]
    fn what_is_not_in_the_common_span_is_not_in_its_rates() {
        let (log, common) = (span(0, 100), span(25, 90));
        for (interval, share) in [
            (span(0, 20), 0.0),
            (span(20, 40), 0.75),
            (span(40, 60), 1.0),
            (span(80, 100), 0.5),
            // Of what reaches beyond the load, all of it came before the end or was awaited.
            (span(80, 200), 0.5),
            (span(100, 150), 0.0),
            (span(30, 30), 1.0),
        ] {
            assert!((interval.share_in(common, log) - share).abs() < 1e-9, "{interval:?}");
        }
        assert!((span(100, 150).share_in(log, log) - 1.0).abs() < 1e-9, "it is what was awaited");
        assert!((span(0, 100).share_in(span(120, 110), log)).abs() < 1e-9, "there is no common span");
    }

    #[test]
    fn a_sum_is_as_fine_as_its_finest_part() {
        let mut coarse = histogram(2);
        coarse.record_n(1_000_000, 10).unwrap();
        let mut fine = histogram(4);
        fine.record(u64::MAX / 4).unwrap();
        let mut sum = Sum::new(2);
        sum.add(&coarse, 0.0);
        sum.add(&fine, 0.0);
        assert_eq!((sum.times.len(), sum.times.sigfig()), (11, 4));
        assert!(sum.times.max() >= u64::MAX / 4 / 10_000 * 9_999);
    }
}
