//! The result: a table for people, JSON for scripts.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::Run;
use crate::plan::Arrivals;
use crate::run::{Measured, Pace};
use crate::service::Service;
use crate::verdict::{Limiter, Verdict, judge};

/// Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
pub struct Report {
    verdict: Verdict,
    /// What stood in the way of a valid run.
    limiter: Option<Limiter>,
    /// It was ended before its time.
    interrupted: bool,
    service: Service,
    address: String,
    connections: usize,
    threads: usize,
    /// Requests in flight on each connection; null in an open loop.
    depth: Option<usize>,
    /// Requests a second that were planned; null in a closed loop.
    rate_per_s: Option<f64>,
    arrivals: Option<Arrivals>,
    /// Bytes in a request, or their distribution.
    size: String,
    seed: u64,
    /// Sent within the window.
    requests: u64,
    /// Of these, replies with a wrong byte.
    errors: u64,
    /// Of these, requests without a reply within the timeout.
    lost: u64,
    /// Replies that came after that.
    late: u64,
    /// Connections that the peer closed.
    peer_closed: u64,
    /// Writes that found a socket full.
    blocked_writes: u64,
    first_error: Option<String>,
    elapsed_s: f64,
    /// Requests per second that were sent.
    offered_per_s: f64,
    /// Right replies per second.
    throughput_per_s: f64,
    /// From planned send to reply. A closed loop plans no send, so there is none: null, not a guess.
    response_time_us: Option<Quantiles>,
    /// From send to reply.
    service_time_us: Quantiles,
    /// From planned send to the attempt to write.
    send_lag_us: Option<Quantiles>,
    server_cpu_ns_per_request: Option<f64>,
    loadgen_cpu_ns_per_request: f64,
    /// How long the generator was ready to run and did not.
    loadgen_run_delay_ms: f64,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    mean: f64,
}

impl Quantiles {
    fn of(nanoseconds: &Histogram<u64>) -> Quantiles {
        let at = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: nanoseconds.max() as f64 / 1e3,
            mean: nanoseconds.mean() / 1e3,
        }
    }
}

impl Report {
    pub fn new(run: &Run, measured: &Measured) -> Report {
        let record = &measured.record;
        let requests = record.requests as f64;
        let elapsed_s = measured.elapsed.as_secs_f64();
        let (depth, rate_per_s, arrivals) = match run.pace() {
            Pace::Closed { depth } => (Some(depth), None, None),
            Pace::Open { rate_per_s, arrivals, .. } => (None, Some(rate_per_s), Some(arrivals)),
        };
        // What a signal has cut short was not planned any more.
        let planned = rate_per_s
            .filter(|_| run.requests.is_none() && !measured.interrupted)
            .map(|rate| (rate * run.duration.as_secs_f64()) as u64);
        let (verdict, limiter) = judge(measured, run.pace(), planned);
        let open_loop = |times| rate_per_s.map(|_| Quantiles::of(times));
        Report {
            verdict,
            limiter,
            interrupted: measured.interrupted,
            service: run.target.service,
            address: run.target.address.to_string(),
            connections: run.connections,
            threads: run.threads,
            depth,
            rate_per_s,
            arrivals,
            size: run.size.to_string(),
            seed: run.seed,
            requests: record.requests,
            errors: record.errors,
            lost: record.lost,
            late: record.late,
            peer_closed: record.peer_closed,
            blocked_writes: record.blocked_writes,
            first_error: record.first_error.clone(),
            elapsed_s,
            offered_per_s: if rate_per_s.is_some() { record.sent_in_time as f64 } else { requests }
                / elapsed_s,
            throughput_per_s: record.answered as f64 / elapsed_s,
            response_time_us: open_loop(&record.response_times),
            service_time_us: Quantiles::of(&record.service_times),
            send_lag_us: open_loop(&record.send_lags),
            server_cpu_ns_per_request: measured.server_cpu.map(|cpu| cpu.as_nanos() as f64 / requests),
            loadgen_cpu_ns_per_request: measured.own_cpu.as_nanos() as f64 / requests,
            loadgen_run_delay_ms: measured.run_delay.as_secs_f64() * 1e3,
        }
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why the run is invalid, in a line.
    pub fn complaint(&self) -> String {
        let limiter = self.limiter.map_or("", Limiter::words);
        let counts = match self.limiter {
            Some(Limiter::WrongReplies) => format!("{} wrong replies", self.errors),
            Some(Limiter::PeerClosed) => format!("{} connections closed by the peer", self.peer_closed),
            Some(Limiter::Server) => format!("{} replies lost", self.lost),
            _ => format!("{:.0} offered a second, p99 send lag {:.0} us", self.offered_per_s, self.lag_us()),
        };
        let first =
            self.first_error.as_ref().map(|first| format!(", the first on {first}")).unwrap_or_default();
        format!("INVALID, limited by {limiter}: {counts}{first}")
    }

    fn lag_us(&self) -> f64 {
        self.send_lag_us.as_ref().map_or(0.0, |lag| lag.p99)
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text have a JSON form")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match (self.rate_per_s, self.depth) {
            (Some(rate), _) => format!("open loop at {rate:.0} per second"),
            (None, depth) => format!("closed loop, depth {}", depth.unwrap_or_default()),
        };
        writeln!(f, "{} at {}, {pace}", self.service, self.address)?;
        writeln!(f, "  load           {} connections, {} B", self.connections, self.size)?;
        writeln!(
            f,
            "  requests       {} in {:.3} s, {} wrong replies, {} lost",
            self.requests, self.elapsed_s, self.errors, self.lost
        )?;
        writeln!(f, "  offered        {:.0} per second", self.offered_per_s)?;
        writeln!(f, "  throughput     {:.0} per second", self.throughput_per_s)?;
        writeln!(
            f,
            "            µs   {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "p50", "p90", "p99", "p99.9", "max", "mean"
        )?;
        let rows = [
            ("response time", self.response_time_us.as_ref()),
            ("service time", Some(&self.service_time_us)),
            ("send lag", self.send_lag_us.as_ref()),
        ];
        for (name, times) in rows {
            let Some(time) = times else { continue };
            writeln!(
                f,
                "  {name:<14} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                time.p50, time.p90, time.p99, time.p999, time.max, time.mean
            )?;
        }
        match self.server_cpu_ns_per_request {
            Some(cpu) => writeln!(f, "  server CPU     {cpu:.0} ns per request")?,
            None => writeln!(f, "  server CPU     unknown without --pid")?,
        }
        writeln!(f, "  loadgen CPU    {:.0} ns per request", self.loadgen_cpu_ns_per_request)?;
        match self.verdict {
            Verdict::Valid => writeln!(f, "  verdict        valid"),
            Verdict::Invalid => writeln!(f, "  verdict        {}", self.complaint()),
        }
    }
}
