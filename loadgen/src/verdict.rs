//! Whether the figures are to be believed, and if not, what stood in the way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::run::{Measured, Pace};

/// Less than this part of the plan is not what was asked for.
const OFFERED_MIN: f64 = 0.99;

/// A send lag up to this, at the 99th percentile, is no matter.
const LAG_NS_MAX: u64 = 50_000;

/// Beyond it the lag must be less than this part of what is reported.
const LAG_SHARE_MAX: f64 = 0.1;

/// In a closed loop no lag is seen: a generator that was ready to run, and did not, for more than this part of the time is
/// starved.
const RUN_DELAY_SHARE_MAX: f64 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Valid,
    Invalid,
}

/// What kept the run from being what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Limiter {
    #[serde(rename = "wrong replies")]
    WrongReplies,
    /// Datagrams came, and were dropped before they were read.
    #[serde(rename = "generator's socket buffer")]
    SocketBuffer,
    /// The server holds back whoever says much.
    #[serde(rename = "flood control")]
    FloodControl,
    /// No local port was left to connect from.
    #[serde(rename = "ports")]
    Ports,
    /// No descriptor was left to connect with.
    #[serde(rename = "descriptors")]
    Descriptors,
    #[serde(rename = "peer closed")]
    PeerClosed,
    /// Nothing was asked, so nothing is known.
    #[serde(rename = "no requests")]
    NoRequests,
    #[serde(rename = "server")]
    Server,
    #[serde(rename = "generator's CPU")]
    GeneratorCpu,
}

impl Limiter {
    pub fn words(self) -> &'static str {
        match self {
            Limiter::WrongReplies => "wrong replies",
            Limiter::SocketBuffer => "generator's socket buffer",
            Limiter::FloodControl => "flood control",
            Limiter::Ports => "ports",
            Limiter::Descriptors => "descriptors",
            Limiter::PeerClosed => "peer closed",
            Limiter::NoRequests => "no requests",
            Limiter::Server => "server",
            Limiter::GeneratorCpu => "generator's CPU",
        }
    }

    /// Whether it says nothing about the server.
    pub fn is_generator(self) -> bool {
        match self {
            Limiter::SocketBuffer
            | Limiter::Ports
            | Limiter::Descriptors
            | Limiter::NoRequests
            | Limiter::GeneratorCpu => true,
            Limiter::WrongReplies | Limiter::FloodControl | Limiter::PeerClosed | Limiter::Server => false,
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Limiter::WrongReplies => "Fix the server first: the speed of wrong replies means nothing.",
            Limiter::SocketBuffer => "Allow larger socket buffers: sysctl net.core.rmem_max.",
            Limiter::FloodControl => "Disable it to measure the server: tidewheel serve --chat-rate 0.",
            Limiter::Ports => {
                "Connect from more addresses (--source-ips 127.0.1.0/24), or free ports immediately (--reconnect --close rst)."
            }
            Limiter::Descriptors => "Raise the limit of open files (ulimit -n), or use fewer connections.",
            Limiter::PeerClosed => {
                "The server closed or refused connections under load: check its log and its limits."
            }
            Limiter::NoRequests => "Use a longer window (-t), or a higher rate.",
            Limiter::Server => "The server did not answer in time: use a lower rate, or a longer --timeout.",
            Limiter::GeneratorCpu => {
                "Give loadgen its own core (taskset), more --threads or less load, and stop other programs."
            }
        }
    }
}

/// Judges a run.
pub fn judge(measured: &Measured, pace: Pace) -> (Verdict, Option<Limiter>) {
    let record = &measured.record;
    let datagrams = record.datagrams.as_ref();
    let churn = record.churn.as_ref();
    let limiter = if record.errors > 0
        || record.unasked_bytes > 0
        || datagrams.is_some_and(|counts| counts.corrupted > 0)
    {
        Some(Limiter::WrongReplies)
    } else if datagrams.is_some_and(|counts| counts.dropped_by_generator > 0) {
        Some(Limiter::SocketBuffer)
    } else if record.chat.as_ref().is_some_and(|counts| counts.slow_downs > 0) {
        Some(Limiter::FloodControl)
    } else if record.ports_exhausted > 0 {
        Some(Limiter::Ports)
    } else if record.descriptors_exhausted > 0 {
        Some(Limiter::Descriptors)
    } else if record.peer_closed > 0 || churn.is_some_and(|counts| counts.refused + counts.reset > 0) {
        Some(Limiter::PeerClosed)
    } else if record.requests == 0 {
        Some(Limiter::NoRequests)
    } else if is_silent(record) {
        // Lost replies are a result of an open loop, but a run in which nothing came back has shown nothing.
        Some(Limiter::Server)
    } else {
        match pace {
            Pace::Open { .. } => open_limiter(measured),
            Pace::Closed { .. } => {
                let starved = share(measured.run_delay, measured.elapsed) > RUN_DELAY_SHARE_MAX;
                // In a closed loop over streams a lost reply takes its connection out of the load.
                (record.lost > 0 && datagrams.is_none())
                    .then_some(Limiter::Server)
                    .or(starved.then_some(Limiter::GeneratorCpu))
            }
        }
    };
    (if limiter.is_some() { Verdict::Invalid } else { Verdict::Valid }, limiter)
}

/// Nothing has come back. A line of a chat may have come to some and not to others.
fn is_silent(record: &Record) -> bool {
    match &record.chat {
        Some(counts) => counts.deliveries == 0,
        None => record.answered == 0,
    }
}

fn open_limiter(measured: &Measured) -> Option<Limiter> {
    let record = &measured.record;
    // All that was planned is counted, also what could only be given up.
    let planned = record.requests as f64;
    if ((record.requests - record.unsent) as f64) < OFFERED_MIN * planned {
        return Some(Limiter::Server);
    }
    if (record.sent_in_time as f64) < OFFERED_MIN * planned {
        return Some(Limiter::GeneratorCpu);
    }
    let p99 = |times: &hdrhistogram::Histogram<u64>| times.value_at_quantile(0.99);
    let lag_ns = p99(&record.send_lags);
    let counts = lag_ns > LAG_NS_MAX && lag_ns as f64 > LAG_SHARE_MAX * p99(&record.response_times) as f64;
    counts.then_some(Limiter::GeneratorCpu)
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE)
}
