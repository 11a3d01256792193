//! The result: a table for people, and files for scripts, plotting programs and browsers.

pub mod csv;
pub mod figures;
pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod json;
pub mod lines;
pub mod plot;
mod table;

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::chat;
use crate::churn::Close;
use crate::cli::{Asked, Outputs, Run};
use crate::datagram::Counts;
use crate::fail_if::Condition;
use crate::output::{Output, Table, Written};
use crate::plan::Arrivals;
use crate::record::{Record, quantile_us, us_or_lost};
use crate::run::{Measured, Pace};
use crate::service::Service;
use crate::size::Sizes;
use crate::syscalls::SystemCalls;
use crate::verdict::{Limiter, Verdict, judge};

/// Raised when a field of the JSON changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 2;

/// Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
pub struct Report {
    schema_version: u32,
    loadgen_version: &'static str,
    pub verdict: Verdict,
    /// What stood in the way of a valid run.
    pub limiter: Option<Limiter>,
    /// The conditions of --fail-if that held.
    pub failed_conditions: Vec<String>,
    /// It was ended before its time.
    pub interrupted: bool,
    service: Service,
    address: String,
    /// In progress at once; null where connects follow a rate.
    connections: Option<usize>,
    threads: usize,
    /// Requests in flight on each connection; null in an open loop.
    depth: Option<usize>,
    /// Requests a second that were planned; null in a closed loop.
    rate_per_s: Option<f64>,
    arrivals: Option<Arrivals>,
    /// Bytes in a request, or their distribution; null where they have no size.
    size: Option<String>,
    path: Option<String>,
    send: Option<String>,
    expect: Option<String>,
    seed: u64,
    /// When the window began, in seconds since 1970 (UTC).
    started_unix_s: f64,
    warmup_s: f64,
    /// Sent within the window.
    pub requests: u64,
    /// Of these, replies with a wrong byte.
    pub errors: u64,
    /// Of these, requests without a reply within the timeout.
    pub lost: u64,
    /// Of the lost, those that could not be sent before they were given up.
    unsent: u64,
    #[serde(skip)]
    answered: u64,
    #[serde(skip)]
    knows_server: bool,
    /// Replies that came after that.
    pub late: u64,
    /// Connections that the peer closed.
    pub peer_closed: u64,
    /// Connections that the peer closed as it had announced, and that were opened again.
    reopened: u64,
    /// Writes that found a socket full.
    blocked_writes: u64,
    /// What else is counted over datagrams; null over streams.
    datagrams: Option<Datagrams>,
    /// What else is counted of a chat; null for other services.
    chat: Option<Rooms>,
    /// What else is counted where each connection has one exchange; null elsewhere.
    churn: Option<Churn>,
    first_error: Option<String>,
    /// That came without a request.
    #[serde(skip)]
    unasked_bytes: u64,
    elapsed_s: f64,
    /// Requests per second that were sent.
    pub offered_per_s: f64,
    /// Right replies per second.
    pub throughput_per_s: f64,
    /// From planned send to reply. A closed loop plans no send, so there is none: null, not a guess.
    pub response_time_us: Option<Quantiles>,
    /// From send to reply.
    pub service_time_us: Option<Quantiles>,
    /// From planned send to the attempt to write.
    pub send_lag_us: Option<Quantiles>,
    pub server_cpu_ns_per_request: Option<f64>,
    server_context_switches_per_request: Option<Switching>,
    /// By name, counted after the window; null if that was not asked for, or failed.
    server_system_calls_per_request: Option<SystemCalls>,
    /// Lines that a chat has delivered; null for other services.
    deliveries: Option<u64>,
    pub deliveries_per_s: Option<f64>,
    pub server_cpu_ns_per_delivery: Option<f64>,
    loadgen_cpu_ns_per_delivery: Option<f64>,
    /// Null if nothing was asked.
    loadgen_cpu_ns_per_request: Option<f64>,
    /// Of one processor.
    loadgen_cpu_share: f64,
    /// How long the generator was ready to run and did not.
    loadgen_run_delay_ms: f64,
    /// Of the CPU time of all processors: what the hypervisor gave to other machines. Null where not known.
    pub steal_share: Option<f64>,
    /// Of the same: what processes used that are neither this nor the server, if that is known.
    pub other_cpu_share: Option<f64>,
}

/// What became of the datagrams.
#[derive(Serialize)]
struct Switching {
    voluntary: f64,
    involuntary: f64,
}

/// What became of the datagrams.
#[derive(Serialize)]
struct Datagrams {
    #[serde(flatten)]
    counts: Counts,
    /// As above.
    lost: u64,
    late: u64,
    /// Dropped by the kernel on their way into the server's UDP socket; null where that is not on this machine.
    dropped_by_server: Option<u64>,
}

/// What became of the lines of a chat.
#[derive(Serialize)]
struct Rooms {
    /// How the server is spoken to.
    dialect: chat::Dialect,
    rooms: usize,
    /// Of each room.
    senders: usize,
    #[serde(flatten)]
    counts: chat::Counts,
}

/// What became of connections that had one exchange each.
#[derive(Serialize)]
struct Churn {
    close: Close,
    /// From the beginning of a connect to its end; null if there was none.
    connect_time_us: Option<Quantiles>,
    /// Connects that the server's machine refused.
    refused: u64,
    /// Connections that were reset before the whole reply.
    reset: u64,
    /// Not connected, or not answered, within the timeout.
    timed_out: u64,
    /// Connects that failed in another way.
    failed: u64,
    /// Connects for which no local port, or no descriptor, was left.
    ports_exhausted: u64,
    descriptors_exhausted: u64,
}

/// Times in microseconds; infinite where they are those of lost replies, which are above every bound.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Quantiles {
    #[serde(serialize_with = "figures::serialize_us")]
    pub p50: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    pub p90: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    pub p99: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    pub p999: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    pub max: f64,
    #[serde(serialize_with = "figures::serialize_us")]
    pub mean: f64,
}

impl Quantiles {
    /// None if there is no time at all.
    pub fn of(nanoseconds: &Histogram<u64>) -> Option<Quantiles> {
        let at = |quantile| quantile_us(nanoseconds, quantile);
        let max = us_or_lost(nanoseconds.max());
        (!nanoseconds.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
            mean: if max.is_finite() { nanoseconds.mean() / 1e3 } else { f64::INFINITY },
        })
    }

    /// With their names, in the order of the report.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        let Quantiles { p50, p90, p99, p999, max, mean } = *self;
        [("p50", p50), ("p90", p90), ("p99", p99), ("p999", p999), ("max", max), ("mean", mean)]
    }

    /// The one of this name.
    pub fn at(&self, quantile: &str) -> Option<f64> {
        self.named().into_iter().find(|(name, _)| *name == quantile).map(|(_, us)| us)
    }

    /// The longer of each.
    pub fn longest(&self, other: &Quantiles) -> Quantiles {
        Quantiles {
            p50: self.p50.max(other.p50),
            p90: self.p90.max(other.p90),
            p99: self.p99.max(other.p99),
            p999: self.p999.max(other.p999),
            max: self.max.max(other.max),
            mean: self.mean.max(other.mean),
        }
    }
}

impl Report {
    pub fn new(run: &Run, asked: &Asked<'_>, measured: &Measured) -> Report {
        let options = &run.options;
        let record = &measured.record;
        let elapsed_s = measured.elapsed.as_secs_f64();
        let (depth, rate_per_s, arrivals) = match run.pace() {
            Pace::Closed { depth } => (Some(depth), None, None),
            Pace::Open { rate_per_s, arrivals, .. } => (None, Some(rate_per_s), Some(arrivals)),
        };
        let (mut path, mut send, mut expect, mut rooms) = (None, None, None, None);
        match asked {
            Asked::Datagrams(_) | Asked::Walk(_) | Asked::Said(_) | Asked::Greeting => {}
            Asked::Chat { rooms: of, senders, dialect } => {
                let counts = record.chat.clone().unwrap_or_default();
                rooms = Some(Rooms { dialect: *dialect, rooms: *of, senders: *senders, counts });
            }
            Asked::Page { path: of, .. } => path = Some((*of).to_owned()),
            Asked::Custom { send: request, expect: reply } => {
                send = Some(request.text().to_owned());
                expect = Some(reply.text().to_owned());
            }
        }
        let (verdict, limiter) = judge(measured, run.pace());
        let open_loop = |times| rate_per_s.and_then(|_| Quantiles::of(times));
        let started = measured.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let deliveries = record.chat.as_ref().map(|counts| counts.deliveries);
        let offered = if rate_per_s.is_some() { record.sent_in_time } else { record.requests };
        let per_s = |count: u64| figures::per_s(count as f64, elapsed_s);
        // What never came back may have cost the server nothing: it makes no request cheaper. A line of a chat that one
        // member has not got is worth what the others have.
        let served = if record.chat.is_some() { record.requests } else { record.answered + record.errors };
        let each = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let each_ns = |cpu: Duration, count: u64| each(cpu.as_nanos() as f64, count);
        Report {
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            verdict,
            limiter,
            failed_conditions: Vec::new(),
            interrupted: measured.interrupted,
            service: options.target.service,
            address: options.target.address.to_string(),
            connections: (run.churn.is_none() || run.rate.is_none()).then_some(run.connections),
            threads: options.threads,
            depth,
            rate_per_s,
            arrivals,
            size: asked.has_size().then(|| options.size.to_string()),
            path,
            send,
            expect,
            seed: options.seed,
            started_unix_s: started.as_secs_f64(),
            warmup_s: options.warmup.as_secs_f64(),
            requests: record.requests,
            errors: record.errors,
            lost: record.lost,
            unsent: record.unsent,
            answered: record.answered,
            knows_server: measured.server_cpu.is_some(),
            late: record.late,
            peer_closed: record.peer_closed,
            reopened: record.reopened,
            blocked_writes: record.blocked_writes,
            datagrams: record.datagrams.clone().map(|counts| Datagrams {
                counts,
                lost: record.lost,
                late: record.late,
                dropped_by_server: measured.server_drops,
            }),
            chat: rooms,
            churn: run.churn.map(|close| Churn::new(close, record)),
            first_error: record.first_error.clone(),
            unasked_bytes: record.unasked_bytes,
            elapsed_s,
            offered_per_s: per_s(offered),
            throughput_per_s: per_s(record.answered),
            response_time_us: open_loop(&record.response_times),
            service_time_us: Quantiles::of(&record.service_times),
            send_lag_us: open_loop(&record.send_lags),
            server_cpu_ns_per_request: measured.server_cpu.and_then(|cpu| each_ns(cpu, served)),
            deliveries,
            deliveries_per_s: deliveries.map(per_s),
            server_cpu_ns_per_delivery: deliveries
                .zip(measured.server_cpu)
                .and_then(|(deliveries, cpu)| each_ns(cpu, deliveries)),
            loadgen_cpu_ns_per_delivery: deliveries
                .and_then(|deliveries| each_ns(measured.own_cpu, deliveries)),
            server_context_switches_per_request: measured.server_switches.and_then(|switches| {
                Some(Switching {
                    voluntary: each(switches.voluntary as f64, served)?,
                    involuntary: each(switches.involuntary as f64, served)?,
                })
            }),
            server_system_calls_per_request: measured
                .system_calls
                .as_ref()
                .and_then(|counted| counted.as_ref().ok())
                .cloned(),
            loadgen_cpu_ns_per_request: each_ns(measured.own_cpu, record.requests),
            loadgen_cpu_share: figures::per_s(
                measured.own_cpu.as_secs_f64(),
                measured.clocks_apart.as_secs_f64(),
            ),
            loadgen_run_delay_ms: measured.run_delay.as_secs_f64() * 1e3,
            steal_share: measured.machine.map(|shares| shares.stolen),
            other_cpu_share: measured.machine.map(|shares| shares.others),
        }
    }

    /// Notes which of the conditions of --fail-if hold.
    pub fn check(&mut self, conditions: &[Condition]) {
        let held = |condition: &&Condition| condition.held(self).is_some();
        self.failed_conditions = conditions.iter().filter(held).map(Condition::to_string).collect();
    }

    pub fn is_open_loop(&self) -> bool {
        self.rate_per_s.is_some()
    }

    /// The response time in an open loop, the service time in a closed one.
    pub fn times_us(&self) -> Option<&Quantiles> {
        if self.is_open_loop() { self.response_time_us.as_ref() } else { self.service_time_us.as_ref() }
    }

    /// What was driven, and how.
    pub fn title(&self) -> String {
        let pace = match self.rate_per_s {
            Some(rate) => format!("open loop at {}", figures::rate(rate)),
            None => format!("closed loop, depth {}", self.depth.unwrap_or_default()),
        };
        format!("{} at {}, {pace}", self.service, self.address)
    }

    /// What the load was made of.
    fn shape(&self) -> String {
        let arrivals = match self.arrivals {
            Some(Arrivals::Poisson) => ", Poisson arrivals",
            _ => "",
        };
        let threads = counted(self.threads, "thread");
        let size = self.size.as_ref().map(|size| format!(", {}", Sizes::words(size))).unwrap_or_default();
        let connections = match &self.chat {
            Some(Rooms { rooms, senders, .. }) => {
                let rooms = counted(*rooms, "room");
                let members = self.connections.unwrap_or_default();
                let members = counted(members, "member");
                format!("{members} in {rooms}, {} in each", counted(*senders, "sender"))
            }
            None => match (&self.churn, self.connections) {
                (None, connections) => counted(connections.unwrap_or_default(), "connection"),
                (Some(_), None) => "a connection for each exchange".to_owned(),
                (Some(_), Some(connections)) => {
                    format!("a connection for each exchange, {connections} at once")
                }
            },
        };
        format!("{connections}, {threads}{size}{arrivals}, seed {}", self.seed)
    }

    /// The figures beside the times, each with its name, in words.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let per_request = |ns: f64| format!("{} per request", figures::time(ns / 1e3));
        let of_machine = |share: Option<f64>| match share {
            Some(share) => format!("{} of the machine's CPU time", figures::share(share)),
            None => "not known".into(),
        };
        let offered = figures::rate(self.offered_per_s);
        let rest: String = [
            ("of them not sent", self.unsent),
            ("late", self.late),
            ("closed by the peer", if self.churn.is_some() { 0 } else { self.peer_closed }),
            ("opened again", self.reopened),
            ("found the socket full", self.blocked_writes),
        ]
        .into_iter()
        .filter(|&(_, count)| count > 0)
        .map(|(name, count)| match name {
            "late" => format!(", {count} late"),
            "found the socket full" => format!(", {} that {name}", of_many(count, "write")),
            _ => format!(", {} {name}", of_many(count, "connection")),
        })
        .collect();
        let mut figures = vec![
            (
                "requests",
                format!(
                    "{} in {:.3} s, {}, {} lost{rest}",
                    self.requests,
                    self.elapsed_s,
                    replies(self.errors, "wrong"),
                    self.lost
                ),
            ),
            (
                "offered",
                match self.rate_per_s {
                    Some(rate) => format!("{offered} of {}", figures::rate(rate)),
                    None => offered,
                },
            ),
            ("achieved", figures::rate(self.throughput_per_s)),
            (
                "server CPU",
                match (self.server_cpu_ns_per_request, &self.server_context_switches_per_request) {
                    (Some(cpu), Some(switches)) => format!(
                        "{}, {:.3} voluntary and {:.3} involuntary switches",
                        per_request(cpu),
                        switches.voluntary,
                        switches.involuntary
                    ),
                    (Some(cpu), None) => per_request(cpu),
                    (None, _) if self.knows_server => "not known per request: no replies".into(),
                    (None, _) => "not known without --pid or --spawn".into(),
                },
            ),
            (
                "loadgen CPU",
                format!(
                    "{}, {} of a core",
                    self.loadgen_cpu_ns_per_request.map_or("not known per request".into(), per_request),
                    figures::share(self.loadgen_cpu_share)
                ),
            ),
            ("stolen", of_machine(self.steal_share)),
            (
                "other load",
                match self.server_cpu_ns_per_request {
                    Some(_) => of_machine(self.other_cpu_share),
                    None => of_machine(self.other_cpu_share) + ", a server on this machine included",
                },
            ),
        ];
        if let Some(calls) = &self.server_system_calls_per_request {
            let after_cpu = figures.iter().position(|(name, _)| *name == "server CPU").map_or(0, |at| at + 1);
            figures.insert(after_cpu, ("system calls", calls.words()));
        }
        if let Some(datagrams) = &self.datagrams {
            figures.splice(1..1, datagrams.figures());
        }
        if let Some(rooms) = &self.chat {
            figures.splice(1..1, [("deliveries", self.deliveries_in_words(&rooms.counts))]);
        }
        if let Some(churn) = &self.churn {
            figures.splice(1..1, [("without reply", churn.in_words(self.peer_closed))]);
        }
        figures
    }

    /// What became of the lines of a chat.
    fn deliveries_in_words(&self, counts: &chat::Counts) -> String {
        let mut words = format!("{}", counts.deliveries);
        if let Some(per_s) = self.deliveries_per_s {
            words += &format!(", {}", figures::rate(per_s));
        }
        if let Some(ns) = self.server_cpu_ns_per_delivery {
            words += &format!(", server CPU {} each", figures::time(ns / 1e3));
        }
        let others = [
            ("corrupted", counts.corrupted),
            ("duplicated", counts.duplicated),
            ("reordered", counts.reordered),
            ("in the wrong room", counts.wrong_room),
            ("unexpected", counts.unexpected),
            ("announcements", counts.announcements),
        ];
        for (name, count) in others.into_iter().filter(|&(_, count)| count > 0) {
            words += &format!(", {count} {name}");
        }
        words
    }

    /// What came of it, in a line.
    pub fn summary(&self) -> String {
        match self.verdict {
            Verdict::Valid => {
                let delivered =
                    self.deliveries_per_s.map(|per_s| format!(", {} delivered", figures::rate(per_s)));
                let p99 = self.times_us().map_or("not known".into(), |times| figures::time(times.p99));
                let (achieved, delivered) =
                    (figures::rate(self.throughput_per_s), delivered.unwrap_or_default());
                format!("{achieved} achieved{delivered}, p99 {p99}")
            }
            Verdict::Invalid => self.complaint(),
        }
    }

    /// Something was asked, and no replies.
    pub fn is_silent(&self) -> bool {
        let answered = match &self.chat {
            Some(rooms) => rooms.counts.deliveries,
            None => self.answered + self.errors,
        };
        self.requests > 0 && answered == 0
    }

    /// What has not come back, in words.
    fn losses(&self) -> String {
        let mut words = format!("{} {} lost", self.lost, if self.lost == 1 { "reply" } else { "replies" });
        if self.is_silent() {
            words += ", no replies";
        }
        if self.unsent > 0 {
            words += &format!(", {} could not be sent", of_many(self.unsent, "request"));
        }
        words
    }

    /// That it was ended before its time, and when.
    pub fn interruption(&self) -> Option<String> {
        self.interrupted.then(|| format!("ended by a signal after {:.3} s", self.elapsed_s))
    }

    /// What to do about an invalid run.
    pub fn hint(&self) -> Option<&'static str> {
        self.limiter.map(Limiter::hint)
    }

    /// That the run is invalid, and why, in a line.
    pub fn complaint(&self) -> String {
        format!("INVALID, {}", self.cause())
    }

    /// Why the run is invalid, in a line.
    pub fn cause(&self) -> String {
        let limiter = self.limiter.map_or("", Limiter::words);
        let counts = match self.limiter {
            Some(Limiter::WrongReplies) => match &self.datagrams {
                Some(datagrams) if datagrams.counts.corrupted > 0 => {
                    counted(datagrams.counts.corrupted as usize, "corrupted datagram")
                }
                // What came though it was not asked for is no reply.
                _ if self.errors == 0 => {
                    format!("{} received without a request", of_many(self.unasked_bytes, "byte"))
                }
                _ => replies(self.errors, "wrong"),
            },
            Some(Limiter::SocketBuffer) => {
                let dropped =
                    self.datagrams.as_ref().map_or(0, |datagrams| datagrams.counts.dropped_by_generator);
                let (datagrams, they) =
                    (of_many(dropped, "datagram"), if dropped == 1 { "it was" } else { "they were" });
                format!("{datagrams} dropped before {they} read")
            }
            Some(Limiter::FloodControl) => {
                let told = self.chat.as_ref().map_or(0, |rooms| rooms.counts.slow_downs);
                format!("members were asked {} to slow down", of_many(told, "time"))
            }
            Some(Limiter::PeerClosed) => match &self.churn {
                Some(churn) => format!("connections without reply: {}", churn.in_words(self.peer_closed)),
                None => format!("{} closed by the peer", of_many(self.peer_closed, "connection")),
            },
            Some(Limiter::Ports | Limiter::Descriptors) => {
                let churn = self.churn.as_ref();
                churn.map_or("a connection was not opened again".to_owned(), |churn| {
                    format!("connections without reply: {}", churn.in_words(self.peer_closed))
                })
            }
            Some(Limiter::NoRequests) if self.interrupted => {
                return "interrupted before any request was due".to_owned();
            }
            Some(Limiter::NoRequests) => return "no request was due in the window".to_owned(),
            Some(Limiter::Server) => self.losses(),
            Some(Limiter::GeneratorCpu) if self.is_open_loop() => {
                let lag = self.send_lag_us.as_ref().map_or("not known".into(), |lag| figures::time(lag.p99));
                format!("{} offered, p99 send lag {lag}", figures::rate(self.offered_per_s))
            }
            _ => format!("ready to run and waiting for {}", figures::time(self.loadgen_run_delay_ms * 1e3)),
        };
        let first =
            self.first_error.as_ref().map(|first| format!(", the first on {first}")).unwrap_or_default();
        format!("limited by {limiter}: {counts}{first}")
    }
}

/// So many of something.
pub fn of_many(count: u64, one: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), one)
}

/// `1 wrong reply`, `2 wrong replies`.
pub fn replies(count: u64, kind: &str) -> String {
    format!("{count} {kind} {}", if count == 1 { "reply" } else { "replies" })
}

/// So many of something.
pub fn counted(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

impl Churn {
    fn new(close: Close, record: &Record) -> Churn {
        let counts = record.churn.clone().unwrap_or_default();
        Churn {
            close,
            connect_time_us: Quantiles::of(&counts.connect_times),
            refused: counts.refused,
            reset: counts.reset,
            timed_out: counts.timed_out,
            failed: counts.failed,
            ports_exhausted: record.ports_exhausted,
            descriptors_exhausted: record.descriptors_exhausted,
        }
    }

    /// Why connections had no reply, beside those that the peer has closed.
    fn in_words(&self, peer_closed: u64) -> String {
        let reasons = [
            ("refused", self.refused),
            ("reset", self.reset),
            ("closed by the peer", peer_closed),
            ("too late", self.timed_out),
            ("failed otherwise", self.failed),
            ("without a port", self.ports_exhausted),
            ("without a descriptor", self.descriptors_exhausted),
        ];
        let told = reasons.iter().filter(|(_, count)| *count > 0);
        let told: Vec<_> = told.map(|(name, count)| format!("{count} {name}")).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    }
}

impl Datagrams {
    /// What became of them, in words.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let counts = &self.counts;
        let seen = format!(
            "{} sent, {} received: {} corrupted, {} late, {} duplicated, {} reordered",
            counts.sent, counts.received, counts.corrupted, self.late, counts.duplicated, counts.reordered
        );
        let by_server = self.dropped_by_server.map_or("not known".to_owned(), |drops| drops.to_string());
        let dropped = format!("server's socket {by_server}, generator's own {}", counts.dropped_by_generator);
        let mut figures = vec![("datagrams", seen), ("dropped by", dropped)];
        let troubles = [
            ("connection refused", counts.refused),
            ("unreachable", counts.unreachable),
            ("sends that would block", counts.send_would_block),
            ("sends without buffers", counts.send_no_buffers),
        ];
        let told = troubles.iter().filter(|(_, count)| *count > 0);
        let told: Vec<_> = told.map(|(name, count)| format!("{name} {count}")).collect();
        if !told.is_empty() {
            figures.push(("kernel told", told.join(", ")));
        }
        figures
    }
}

/// The kinds of times that a report has, in the order of reading.
fn quantile_rows(report: &Report) -> impl Iterator<Item = (&'static str, &Quantiles)> {
    [
        ("response time", &report.response_time_us),
        ("service time", &report.service_time_us),
        ("send lag", &report.send_lag_us),
        ("connect time", report.churn.as_ref().map_or(&None, |churn| &churn.connect_time_us)),
    ]
    .into_iter()
    .filter_map(|(name, times)| Some((name, times.as_ref()?)))
}

/// The results that were asked for.
pub struct Files {
    /// What is shown beside them.
    pub table: Table,
    json: Option<Output>,
    hgrm: Option<Output>,
    csv: Option<Output>,
    html: Option<Output>,
    /// Written while the run goes on.
    pub log: Option<hlog::Log>,
}

impl Files {
    /// Fails if one of them cannot be written, before any load.
    pub fn open(outputs: &Outputs, is_open_loop: bool) -> Result<Files> {
        let ([json, hgrm, csv, html, hlog], table) = Output::open_all(outputs.asked())?;
        Ok(Files { table, json, hgrm, csv, html, log: hlog.map(|out| hlog::Log::new(out, is_open_loop)) })
    }

    /// Whether somebody wants to see the intervals.
    pub fn want_rows(&self) -> bool {
        self.csv.is_some() || self.html.is_some()
    }

    /// Whether somebody wants to see what was measured, beside the JSON.
    pub fn want_measured(&self) -> bool {
        self.want_rows() || self.hgrm.is_some() || self.log.is_some()
    }

    /// Writes all of them.
    pub fn write(self, report: &Report, measured: &Measured) -> Written {
        self.write_with(report, || html::page(report, measured), Some((report, measured)))
    }

    /// Writes all of them, with a JSON and a page of one's own; without a measurement nothing but the JSON.
    pub fn write_with(
        self,
        json: &impl Serialize,
        page: impl FnOnce() -> Result<String>,
        of: Option<(&Report, &Measured)>,
    ) -> Written {
        let mut written = Written::default();
        written.add(write(self.json, |out| json::write(out, json)));
        let Some((report, measured)) = of else { return written };
        let record = &measured.record;
        let times = if report.is_open_loop() { &record.response_times } else { &record.service_times };
        let interruption = report.interruption();
        written.add(write(self.hgrm, |out| hgrm::write(out, times, interruption.as_deref())));
        written.add(write(self.csv, |out| csv::write(out, &measured.intervals, report.interrupted)));
        written.add(write_page(self.html, page));
        written.add(self.log.map_or(Ok(()), |log| log.keep(&hlog::Outcome::of(report, record))));
        written
    }
}

/// Writes a page, if it was asked for.
pub fn write_page(out: Option<Output>, page: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(out) = out else { return Ok(()) };
    let page = page()?;
    out.keep_with(|out| out.write_all(page.as_bytes()))
}

/// Writes a file, if it was asked for.
pub fn write(out: Option<Output>, content: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
    out.map_or(Ok(()), |out| out.keep_with(content))
}
