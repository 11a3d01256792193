//! The result: a table for people, JSON for scripts.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::Run;
use crate::closed_loop::Stretch;
use crate::text::Service;

/// Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
pub struct Report {
    service: Service,
    address: String,
    connections: usize,
    depth: usize,
    /// Bytes in a request.
    size: usize,
    /// Sent and answered within the window.
    requests: u64,
    /// Of these, replies with a wrong byte.
    errors: u64,
    elapsed_s: f64,
    /// Right replies per second.
    throughput_per_s: f64,
    /// From send to reply.
    service_time_us: Quantiles,
    /// From planned send to reply. A closed loop plans no send, so there is none: null, not a guess.
    response_time_us: Option<Quantiles>,
    server_cpu_ns_per_request: Option<f64>,
    loadgen_cpu_ns_per_request: f64,
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
    pub fn new(run: &Run, window: &Stretch, errors: u64) -> Report {
        let requests = window.requests as f64;
        let elapsed_s = window.elapsed.as_secs_f64();
        Report {
            service: run.target.service,
            address: run.target.address.to_string(),
            connections: run.connections,
            depth: run.depth,
            size: run.size,
            requests: window.requests,
            errors,
            elapsed_s,
            throughput_per_s: window.service_times.len() as f64 / elapsed_s,
            service_time_us: Quantiles::of(&window.service_times),
            response_time_us: None,
            server_cpu_ns_per_request: window.server_cpu.map(|cpu| cpu.as_nanos() as f64 / requests),
            loadgen_cpu_ns_per_request: window.own_cpu.as_nanos() as f64 / requests,
        }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text have a JSON form")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = match self.service {
            Service::Echo => "echo",
            Service::Uppercase => "uppercase",
        };
        let time = &self.service_time_us;
        writeln!(f, "{service} at {}, closed loop", self.address)?;
        writeln!(
            f,
            "  load           {} connections, depth {}, {} B",
            self.connections, self.depth, self.size
        )?;
        writeln!(
            f,
            "  requests       {} in {:.3} s, {} wrong replies",
            self.requests, self.elapsed_s, self.errors
        )?;
        writeln!(f, "  throughput     {:.0} per second", self.throughput_per_s)?;
        writeln!(
            f,
            "  service time   {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "p50", "p90", "p99", "p99.9", "max", "mean"
        )?;
        writeln!(
            f,
            "            µs   {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            time.p50, time.p90, time.p99, time.p999, time.max, time.mean
        )?;
        match self.server_cpu_ns_per_request {
            Some(cpu) => writeln!(f, "  server CPU     {cpu:.0} ns per request")?,
            None => writeln!(f, "  server CPU     unknown without --pid")?,
        }
        writeln!(f, "  loadgen CPU    {:.0} ns per request", self.loadgen_cpu_ns_per_request)
    }
}
