//! What is counted and timed, request by request.

use hdrhistogram::Histogram;

use crate::shortage::Shortage;
use crate::{chat, churn, datagram};

/// What a histogram has room for from the beginning, in nanoseconds: it grows with the times that come. One for a whole day
/// takes 300 KB, and making three of them for each interval costs more than some servers do.
const TIME_NS_USUAL: u64 = 4_000_000;

/// A histogram of nanoseconds, kept to three digits from 1 ns.
pub fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_max(TIME_NS_USUAL, 3)
        .expect("three digits and a maximum above two are what it asks for");
    histogram.auto(true);
    histogram
}

/// In place of a time, for replies that never came: later than any time, so that no quantile or condition mistakes a
/// lost reply for one that took the timeout. Histograms and logs hold it as a value like others (146 years).
pub const LOST_NS: u64 = 1 << 62;

/// The time at a quantile, in microseconds: infinite where it falls among lost replies.
pub fn quantile_us(times: &Histogram<u64>, quantile: f64) -> f64 {
    us_or_lost(times.value_at_quantile(quantile))
}

/// A value of a histogram in microseconds: infinite if it stands for a lost reply.
pub fn us_or_lost(ns: u64) -> f64 {
    if ns < LOST_NS { ns as f64 / 1e3 } else { f64::INFINITY }
}

/// Takes up a time of so many requests. (The histogram's own saturating calls would not let it grow.)
#[inline]
pub fn note(times: &mut Histogram<u64>, ns: u64, count: u64) {
    times.record_n(ns, count).expect("it grows, and has room for every u64");
}

/// What happened to the requests of a window.
#[derive(Clone)]
pub struct Record {
    /// Requests of earlier intervals that were unresolved when this record was begun.
    pub carried: u64,
    /// Requests that belong to the window.
    pub requests: u64,
    /// Of these, in an open loop, the ones that were offered to their socket before the window's end.
    pub sent_in_time: u64,
    /// Of these, the ones answered rightly.
    pub answered: u64,
    /// Of these, the ones whose reply had a wrong byte.
    pub errors: u64,
    /// Of these, the ones not answered within the timeout, or whose connection ended before the reply.
    pub lost: u64,
    /// Of the lost, those of which nothing was sent before they were given up: the socket took nothing for so long, or
    /// there were too many to be kept.
    pub unsent: u64,
    /// From planned send to reply; nothing in a closed loop, which plans no send. What was lost is [`LOST_NS`].
    pub response_times: Histogram<u64>,
    /// From actual send to reply.
    pub service_times: Histogram<u64>,
    /// From planned send to the attempt to write: the generator's own delay.
    pub send_lags: Histogram<u64>,
    /// Writes that found a socket full, which is the server's doing.
    pub blocked_writes: u64,
    /// Connections that the peer ended.
    pub peer_closed: u64,
    /// Connections that the peer ended as it had announced, and that were opened again.
    pub reopened: u64,
    /// Connections for which no local port, or no descriptor, was left.
    pub ports_exhausted: u64,
    pub descriptors_exhausted: u64,
    /// Replies that came after their request was lost.
    pub late: u64,
    /// Bytes that came without a request.
    pub unasked_bytes: u64,
    /// What else is counted where there are no streams.
    pub datagrams: Option<datagram::Counts>,
    /// What else is counted of a chat, where a request is a line, `lost` and `errors` count deliveries of lines, and
    /// a line is answered once all of its deliveries are right.
    pub chat: Option<chat::Counts>,
    /// What else is counted where each connection has one exchange.
    pub churn: Option<churn::Counts>,
    /// The first thing that went wrong, in words.
    pub first_error: Option<String>,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            carried: 0,
            requests: 0,
            sent_in_time: 0,
            answered: 0,
            errors: 0,
            lost: 0,
            unsent: 0,
            response_times: histogram(),
            service_times: histogram(),
            send_lags: histogram(),
            blocked_writes: 0,
            peer_closed: 0,
            reopened: 0,
            ports_exhausted: 0,
            descriptors_exhausted: 0,
            late: 0,
            unasked_bytes: 0,
            datagrams: None,
            chat: None,
            churn: None,
            first_error: None,
        }
    }
}

impl Record {
    /// Goes on where another record ends.
    pub fn after(self, earlier: &Record) -> Record {
        Record { carried: earlier.unresolved(), ..self }
    }

    /// Adds what another thread has recorded, or the same one in another interval.
    pub fn add(&mut self, other: &Record) {
        self.requests += other.requests;
        self.sent_in_time += other.sent_in_time;
        self.answered += other.answered;
        self.errors += other.errors;
        self.lost += other.lost;
        self.unsent += other.unsent;
        for (sum, part) in [
            (&mut self.response_times, &other.response_times),
            (&mut self.service_times, &other.service_times),
            (&mut self.send_lags, &other.send_lags),
        ] {
            sum.add(part).expect("histograms grow");
        }
        self.blocked_writes += other.blocked_writes;
        self.peer_closed += other.peer_closed;
        self.reopened += other.reopened;
        self.ports_exhausted += other.ports_exhausted;
        self.descriptors_exhausted += other.descriptors_exhausted;
        self.late += other.late;
        self.unasked_bytes += other.unasked_bytes;
        if let Some(datagrams) = &other.datagrams {
            self.datagrams.get_or_insert_default().add(datagrams);
        }
        if let Some(chat) = &other.chat {
            self.chat.get_or_insert_default().add(chat);
        }
        if let Some(churn) = &other.churn {
            self.churn.get_or_insert_default().add(churn);
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// So many requests that count are given up.
    pub fn lose(&mut self, count: u64, is_planned: bool) {
        // Not even a histogram's maximum may know of what there is none of.
        if count == 0 {
            return;
        }
        self.lost += count;
        note(&mut self.service_times, LOST_NS, count);
        if is_planned {
            note(&mut self.response_times, LOST_NS, count);
        }
    }

    /// Keeps the first of all errors.
    pub fn note_error(&mut self, words: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(words);
    }

    /// For a connection there was no port or no descriptor.
    pub fn note_shortage(&mut self, shortage: Shortage) {
        match shortage {
            Shortage::Ports => self.ports_exhausted += 1,
            Shortage::Descriptors => self.descriptors_exhausted += 1,
        }
    }

    /// Requests of the window that are neither answered nor given up. It means nothing for a chat, where a request has
    /// many replies.
    pub fn unresolved(&self) -> u64 {
        (self.carried + self.requests).saturating_sub(self.answered + self.errors + self.lost)
    }
}
