//! The window cut into intervals, so that what happened when is not lost in the sum.
//!
//! Each thread that drives records into the record of its interval alone, and hands it over whole at the interval's end:
//! a comparison for each read, a swap now and then. Adding up, quantiles and logs are the watching thread's business.
//!
//! ```text
//!     thread 0: Lane ──record──┐
//!     thread 1: Lane ──record──┴─► Timeline ──► total, rows, log
//!          ▲                          │
//!          └────── empty record ──────┘
//! ```

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::load::Amount;
use crate::record::Record;
use crate::report::hlog::Log;
use crate::report::{Quantiles, figures};

/// Intervals that a window is cut into, if it is long or short enough for it.
const INTERVALS_WANTED: u32 = 50;

/// Shorter ones would hold too few requests; the log's times have three digits.
const LENGTH_MIN: Duration = Duration::from_millis(10);

/// Longer ones would hide what people look for.
const LENGTH_MAX: Duration = Duration::from_secs(1);

/// For a window of unknown length.
const LENGTH_UNKNOWN: Duration = Duration::from_millis(100);

/// How long the intervals of a window are: 1, 2 or 5 times a power of ten.
pub fn length_for(window: Amount, rate_per_s: Option<f64>) -> Duration {
    let window = match (window, rate_per_s) {
        (Amount::Time(time), _) => time,
        (Amount::Requests(requests), Some(rate)) => {
            Duration::try_from_secs_f64(requests as f64 / rate).unwrap_or(Duration::MAX)
        }
        (Amount::Requests(_), None) => return LENGTH_UNKNOWN,
    };
    let fair = window / INTERVALS_WANTED;
    let mut length = LENGTH_MIN;
    for factor in [2, 5, 10, 20, 50, 100] {
        if LENGTH_MIN * factor <= fair.min(LENGTH_MAX) {
            length = LENGTH_MIN * factor;
        }
    }
    length
}

/// The newest interval may turn out to be too short to stand alone; then it is added to the one before.
const NEWEST_KEPT: usize = 2;

/// What one thread hands over at the end of an interval.
pub struct Part {
    thread: usize,
    index: u64,
    /// The interval that the thread is in now; none once it has ended.
    next: Option<u64>,
    /// When it was handed over, since the window began.
    at_ns: u64,
    record: Record,
}

/// A thread's way to hand over.
pub struct Lane {
    thread: usize,
    length_ns: u64,
    /// When the window began, in the time of the thread.
    origin_ns: u64,
    index: u64,
    end_ns: u64,
    parts: Sender<Part>,
    /// Empty records, made by the thread that watches.
    spares: Receiver<Record>,
}

impl Lane {
    /// The window begins at this time of the thread.
    pub fn begin(&mut self, at_ns: u64) {
        self.origin_ns = at_ns;
        self.index = 0;
        self.end_ns = at_ns + self.length_ns;
    }

    /// When the interval ends, in the time of the thread.
    pub fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// Hands the record over if its interval is at its end, and leaves an empty one.
    pub fn cut(&mut self, record: &mut Record, now_ns: u64) {
        if now_ns >= self.end_ns {
            self.hand_over(record, now_ns);
        }
    }

    #[cold]
    fn hand_over(&mut self, record: &mut Record, now_ns: u64) {
        let next = (now_ns - self.origin_ns) / self.length_ns;
        let empty = self.spares.try_recv().unwrap_or_else(|_| Record::default());
        let full = std::mem::replace(record, empty.after(record));
        self.send(full, Some(next), now_ns);
        self.index = next;
        self.end_ns = self.origin_ns + (next + 1) * self.length_ns;
    }

    /// Hands the last record over. If its interval has ended, what was awaited since then has one of its own.
    pub fn end(mut self, mut record: Record, now_ns: u64) {
        self.cut(&mut record, now_ns);
        self.send(record, None, now_ns);
    }

    fn send(&self, record: Record, next: Option<u64>, now_ns: u64) {
        let at_ns = now_ns.saturating_sub(self.origin_ns);
        // Nobody listens only when the run has failed, which is told elsewhere.
        let _ = self.parts.send(Part { thread: self.thread, index: self.index, next, at_ns, record });
    }
}

/// Where a loop's records go: to a lane once it has one, interval by interval.
#[derive(Default)]
pub struct Intervals(Option<Lane>);

impl Intervals {
    /// What is recorded from now on goes there.
    pub fn hand_over_to(&mut self, lane: Lane) {
        self.0 = Some(lane);
    }

    /// The window begins at this time.
    pub fn begin(&mut self, at_ns: u64) {
        if let Some(lane) = &mut self.0 {
            lane.begin(at_ns);
        }
    }

    /// Hands the record over if its interval has ended, and leaves an empty one.
    #[inline]
    pub fn cut(&mut self, record: &mut Record, now_ns: u64) {
        if let Some(lane) = &mut self.0 {
            lane.cut(record, now_ns);
        }
    }

    /// When the interval ends; never without a lane.
    pub fn end_ns(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, Lane::end_ns)
    }

    /// Hands over what has been recorded since the last interval ended.
    pub fn end(&mut self, record: &mut Record, now_ns: u64) {
        if let Some(lane) = self.0.take() {
            lane.end(std::mem::take(record), now_ns);
        }
    }
}

/// An interval of the window, for those who draw or list it.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Since the window began.
    pub start_s: f64,
    pub length_s: f64,
    /// Sent in it.
    pub requests: u64,
    /// Answered rightly, answered wrongly, or given up in it.
    pub answered: u64,
    pub errors: u64,
    pub lost: u64,
    /// None where nothing was measured. Times belong to the interval in which they ended.
    pub response_time_us: Option<Quantiles>,
    pub service_time_us: Option<Quantiles>,
    pub send_lag_us: Option<Quantiles>,
}

impl Interval {
    pub fn offered_per_s(&self) -> f64 {
        figures::per_s(self.requests as f64, self.length_s)
    }

    pub fn throughput_per_s(&self) -> f64 {
        figures::per_s(self.answered as f64, self.length_s)
    }

    fn new(record: &Record, start: Duration, length: Duration) -> Interval {
        Interval {
            start_s: start.as_secs_f64(),
            length_s: length.as_secs_f64(),
            requests: record.requests,
            answered: record.answered,
            errors: record.errors,
            lost: record.lost,
            response_time_us: Quantiles::of(&record.response_times),
            service_time_us: Quantiles::of(&record.service_times),
            send_lag_us: Quantiles::of(&record.send_lags),
        }
    }
}

/// All threads' intervals, put together in order.
pub struct Timeline {
    length: Duration,
    /// What each thread has reached; none once it has ended.
    reached: Vec<Option<u64>>,
    spares: Vec<Sender<Record>>,
    /// Intervals that a thread may still add to, and the newest.
    pending: VecDeque<Option<Record>>,
    /// The index of the first of these.
    first: u64,
    /// When the last thread ended, since the window began.
    end: Duration,
    keeps_rows: bool,
    /// Of everything that has come.
    total: Record,
    rows: Vec<Interval>,
}

impl Timeline {
    /// With a lane for each thread, and what comes through them. Rows are kept if somebody wants them.
    pub fn new(threads: usize, length: Duration, keeps_rows: bool) -> (Timeline, Vec<Lane>, Receiver<Part>) {
        let (parts, arriving) = mpsc::channel();
        let (spares, lanes) = (0..threads)
            .map(|thread| {
                let (sender, spares) = mpsc::channel();
                // One beforehand: the first swap must not wait for memory either.
                let _ = sender.send(Record::default());
                let length_ns = length.as_nanos() as u64;
                let parts = parts.clone();
                let lane =
                    Lane { thread, length_ns, origin_ns: 0, index: 0, end_ns: u64::MAX, parts, spares };
                (sender, lane)
            })
            .unzip();
        let timeline = Timeline {
            length,
            reached: vec![Some(0); threads],
            spares,
            pending: VecDeque::new(),
            first: 0,
            end: Duration::ZERO,
            keeps_rows,
            total: Record::default(),
            rows: Vec::new(),
        };
        (timeline, lanes, arriving)
    }

    /// What has come so far.
    pub fn total(&self) -> &Record {
        &self.total
    }

    /// Takes what has come through a lane, and logs the intervals that it completes.
    pub fn add(&mut self, part: Part, mut log: Option<&mut Log>) {
        let Part { thread, index, next, at_ns, record } = part;
        if next.is_some() {
            // A thread that has ended needs none.
            let _ = self.spares[thread].send(Record::default());
        } else {
            self.end = self.end.max(Duration::from_nanos(at_ns));
        }
        self.reached[thread] = next;
        self.total.add(&record);
        if !self.keeps_rows && log.is_none() {
            return;
        }
        let place = (index - self.first) as usize;
        while self.pending.len() <= place {
            self.pending.push_back(None);
        }
        merge(&mut self.pending[place], Some(record));
        let Some(&slowest) = self.reached.iter().flatten().min() else { return };
        while self.pending.len() > NEWEST_KEPT && self.first < slowest {
            self.settle(self.length, log.as_deref_mut());
        }
    }

    /// The total and the rows, once every thread has ended.
    pub fn finish(mut self, mut log: Option<&mut Log>) -> (Record, Vec<Interval>) {
        let newest = self.first + self.pending.len().saturating_sub(1) as u64;
        // Of a window of 5 s the last reply comes a moment later: that is no interval of its own.
        if self.pending.len() > 1 && self.end.saturating_sub(self.start(newest)) < self.length / 2 {
            let last = self.pending.pop_back().flatten();
            if let Some(before) = self.pending.back_mut() {
                merge(before, last);
            }
        }
        while self.pending.len() > 1 {
            self.settle(self.length, log.as_deref_mut());
        }
        if !self.pending.is_empty() {
            self.settle(self.end.saturating_sub(self.start(self.first)), log);
        }
        (self.total, self.rows)
    }

    /// When an interval began.
    fn start(&self, index: u64) -> Duration {
        Duration::from_nanos((self.length.as_nanos() as u64).saturating_mul(index))
    }

    /// Nothing more comes for the first of the pending intervals.
    fn settle(&mut self, length: Duration, log: Option<&mut Log>) {
        let start = self.start(self.first);
        let record = self.pending.pop_front().flatten().unwrap_or_default();
        self.first += 1;
        if self.keeps_rows {
            self.rows.push(Interval::new(&record, start, length));
        }
        if let Some(log) = log {
            log.add(&record, start, length);
        }
    }
}

fn merge(sum: &mut Option<Record>, part: Option<Record>) {
    match (sum, part) {
        (Some(sum), Some(part)) => sum.add(&part),
        (sum, Some(part)) => *sum = Some(part),
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(100);

    fn ns(ms: u64) -> u64 {
        ms * 1_000_000
    }

    /// A request is answered at each of these times.
    fn answer(lane: &mut Lane, record: &mut Record, times_ms: &[u64]) {
        for &at_ms in times_ms {
            lane.cut(record, ns(at_ms));
            record.requests += 1;
            record.answered += 1;
            record.service_times.record(ns(at_ms)).unwrap();
        }
    }

    fn all(mut timeline: Timeline, arriving: &Receiver<Part>) -> (Record, Vec<Interval>) {
        for part in arriving.try_iter() {
            timeline.add(part, None);
        }
        timeline.finish(None)
    }

    fn answered(rows: &[Interval]) -> Vec<(f64, u64)> {
        rows.iter().map(|row| (row.start_s, row.answered)).collect()
    }

    #[test]
    fn threads_meet_in_the_interval_whoever_comes_first() {
        let (timeline, mut lanes, arriving) = Timeline::new(2, LENGTH, true);
        let (mut late, mut early) = (lanes.pop().unwrap(), lanes.pop().unwrap());
        let (mut one, mut other) = (Record::default(), Record::default());
        early.begin(ns(0));
        // A thread's own time may begin anywhere.
        late.begin(ns(1000));
        answer(&mut early, &mut one, &[10, 110, 220, 390]);
        early.end(one, ns(390));
        answer(&mut late, &mut other, &[1020, 1250]);
        late.end(other, ns(1270));
        let (total, rows) = all(timeline, &arriving);
        assert_eq!(answered(&rows), [(0.0, 2), (0.1, 1), (0.2, 2), (0.3, 1)]);
        assert_eq!((total.answered, total.service_times.len()), (6, 6));
        assert!((rows[3].length_s - 0.09).abs() < 1e-9, "{rows:?}");
    }

    #[test]
    fn an_interval_without_anything_is_a_row_and_a_short_rest_is_none() {
        let (timeline, mut lanes, arriving) = Timeline::new(1, LENGTH, true);
        let (mut lane, mut record) = (lanes.pop().unwrap(), Record::default());
        lane.begin(0);
        answer(&mut lane, &mut record, &[50, 350, 410]);
        lane.end(record, ns(420));
        let (_, rows) = all(timeline, &arriving);
        assert_eq!(answered(&rows), [(0.0, 1), (0.1, 0), (0.2, 0), (0.3, 2)]);
        assert!((rows[3].length_s - 0.12).abs() < 1e-9, "{rows:?}");
        assert!(rows[1].service_time_us.is_none());
    }

    #[test]
    fn what_is_awaited_after_the_last_reply_stretches_no_interval() {
        let (timeline, mut lanes, arriving) = Timeline::new(1, LENGTH, true);
        let (mut lane, mut record) = (lanes.pop().unwrap(), Record::default());
        lane.begin(0);
        answer(&mut lane, &mut record, &[50, 150]);
        lane.end(record, ns(380));
        let (_, rows) = all(timeline, &arriving);
        assert_eq!(answered(&rows), [(0.0, 1), (0.1, 1), (0.2, 0), (0.3, 0)]);
        let lengths: Vec<_> = rows.iter().map(|row| (row.length_s * 1e3).round() as u64).collect();
        assert_eq!(lengths, [100, 100, 100, 80]);
    }

    #[test]
    fn what_is_in_flight_goes_over_into_the_next_interval() {
        let (timeline, mut lanes, arriving) = Timeline::new(1, LENGTH, false);
        let (mut lane, mut record) = (lanes.pop().unwrap(), Record::default());
        lane.begin(0);
        record.requests = 3;
        record.answered = 1;
        lane.cut(&mut record, ns(100));
        assert_eq!((record.requests, record.unresolved()), (0, 2));
        record.answered = 2;
        lane.cut(&mut record, ns(200));
        assert_eq!(record.unresolved(), 0);
        lane.end(record, ns(200));
        let (total, rows) = all(timeline, &arriving);
        assert_eq!((total.requests, total.answered, total.unresolved()), (3, 3, 0));
        assert!(rows.is_empty(), "nobody wanted them");
    }

    #[test]
    fn lengths_are_round() {
        let of_time = |time| length_for(Amount::Time(time), None).as_millis();
        let seconds = Duration::from_secs;
        let lengths =
            [Duration::from_millis(50), seconds(1), seconds(5), seconds(60), seconds(3600)].map(of_time);
        assert_eq!(lengths, [10, 20, 100, 1000, 1000]);
        assert_eq!(length_for(Amount::Requests(100_000), Some(1000.0)), seconds(1));
        assert_eq!(length_for(Amount::Requests(100_000), None), LENGTH_UNKNOWN);
    }
}
