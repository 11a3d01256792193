//! The command line: what it offers and how its values are read.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::address::Address;
use crate::datagram::request_bytes;
use crate::fail_if::Condition;
use crate::load::Amount;
use crate::plan::Arrivals;
use crate::run::Pace;
use crate::service::Service;
use crate::size::Sizes;
use crate::units::{count, duration, positive_duration, rate};

/// Drives load at a server and verifies every byte of every reply.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for the whole run")]
pub enum Command {
    /// Measure: with --rate an open loop that follows a plan, else a closed loop in which each connection keeps DEPTH
    /// requests in flight.
    Run(Run),
    /// Open many connections, have one line echoed on each, and hold them.
    Idle(Idle),
}

#[derive(Args)]
pub struct Run {
    /// What to drive: echo or uppercase, at tcp://HOST:PORT, HOST:PORT, unix:PATH, udp://HOST:PORT or unix-dgram:PATH; time, at
    /// the last two, where HOST:PORT is UDP.
    #[arg(value_name = "SERVICE=ADDRESS")]
    pub target: Target,

    /// Connections, or sockets of datagrams, opened before the warm-up.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub connections: usize,

    /// Requests in flight on each connection, in a closed loop.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub depth: usize,

    /// Size of a request: 64, 16KiB, uniform:64-1500, zipf:64-65536, or sizes with weights: 64:9,1500:1. A datagram
    /// has from 12 bytes, which say which one it is, to 65507 (time: 65481).
    #[arg(short, long, value_name = "BYTES", default_value = "64")]
    pub size: Sizes,

    /// An open loop: so many requests a second on all connections together, whatever comes back: 500, 50k.
    #[arg(short, long, value_name = "PER_SECOND", value_parser = rate, conflicts_with = "depth")]
    pub rate: Option<f64>,

    /// How the requests of an open loop are spaced: constant or poisson.
    #[arg(long, value_name = "KIND", default_value = "constant", requires = "rate")]
    pub arrivals: Arrivals,

    /// Let the rate rise from 0 for so long; keep it within the warm-up.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration, requires = "rate")]
    pub ramp: Duration,

    /// Threads, among which connections and rate are divided.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub threads: usize,

    /// Where plans and sizes begin; the same seed is the same load.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Measure exactly this many requests.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration")]
    pub requests: Option<u64>,

    /// Measure the requests sent within this time: 500ms, 5s, 1m.
    #[arg(short = 't', long, value_name = "TIME", default_value = "5s", value_parser = positive_duration)]
    pub duration: Duration,

    /// Load before the measured window, none of which enters the result.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,

    /// The server's process on this machine: adds its CPU time per request.
    #[arg(long)]
    pub pid: Option<i32>,

    /// A connection that takes longer ends the run; a reply that takes longer is lost. [default: 5s; datagrams: 1s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub timeout: Option<Duration>,

    #[command(flatten)]
    pub outputs: Outputs,
}

/// Where results go, beside the table on standard output. A file is written whole, or not at all.
#[derive(Args)]
pub struct Outputs {
    /// Write the result as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write the percentile distribution to FILE as HdrHistogram prints it, in microseconds: response time in an open
    /// loop, service time in a closed one.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<String>,

    /// Write a histogram of each interval to FILE in the HdrHistogram log format, in nanoseconds.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<String>,

    /// Write a row for each interval to FILE.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<String>,

    /// Write a page with plots and all figures to FILE; it needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Exit with 1 if the result is so: 'p99>2ms', 'throughput<50k', 'lost>0', 'cpu>5us'; may be given several times.
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

impl Run {
    /// Whether it all fits together, as far as single options do not tell.
    pub fn check(&self) -> Result<(), String> {
        if self.target.address.takes_datagrams() {
            let (allowed, (smallest, largest)) = (request_bytes(self.target.service), self.size.bounds());
            if !allowed.contains(&smallest) || !allowed.contains(&largest) {
                return Err(format!(
                    "--size {}: a datagram to {} has from {} bytes, which say which one it is, to {}",
                    self.size,
                    self.target.service,
                    allowed.start(),
                    allowed.end()
                ));
            }
        }
        Ok(())
    }

    /// How long a reply may take. A datagram that was lost will not come, and in a closed loop its place is empty until it
    /// is given up.
    pub fn timeout(&self) -> Duration {
        let default_s = if self.target.address.takes_datagrams() { 1 } else { 5 };
        self.timeout.unwrap_or(Duration::from_secs(default_s))
    }

    /// When requests leave.
    pub fn pace(&self) -> Pace {
        match self.rate {
            Some(rate_per_s) => Pace::Open { rate_per_s, arrivals: self.arrivals, ramp: self.ramp },
            None => Pace::Closed { depth: self.depth },
        }
    }

    /// How much the window measures.
    pub fn amount(&self) -> Amount {
        match self.requests {
            Some(requests) => Amount::Requests(requests),
            None => Amount::Time(self.duration),
        }
    }
}

#[derive(Args)]
pub struct Idle {
    /// An echo server at tcp://HOST:PORT, HOST:PORT or unix:PATH.
    #[arg(value_parser = stream_address)]
    pub address: Address,

    /// Connections to hold.
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = count)]
    pub connections: usize,

    /// The line that each connection sends once and must get back.
    #[arg(long, value_name = "TEXT", default_value = "hello")]
    pub line: String,

    /// How long to hold them after the last echo.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub hold: Duration,

    /// A connection or an echo that takes longer ends the run.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = positive_duration)]
    pub timeout: Duration,
}

/// SERVICE=ADDRESS.
#[derive(Clone, Debug)]
pub struct Target {
    pub service: Service,
    pub address: Address,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, address) = text.split_once('=').ok_or("expected SERVICE=ADDRESS")?;
        let service: Service = service.parse()?;
        let address = if service.has_streams() { address.parse()? } else { Address::of_datagrams(address)? };
        match address.takes_datagrams() {
            true if !service.has_datagrams() => {
                Err(format!("{service} is not offered over datagrams: tcp://HOST:PORT or unix:PATH"))
            }
            false if !service.has_streams() => {
                Err(format!("{service} is offered over datagrams alone: udp://HOST:PORT or unix-dgram:PATH"))
            }
            _ => Ok(Target { service, address }),
        }
    }
}

/// An address that can be connected to.
fn stream_address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse()?;
    if address.takes_datagrams() {
        Err("expected tcp://HOST:PORT, HOST:PORT or unix:PATH".into())
    } else {
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn targets() {
        let target: Target = "uppercase=unix:/run/a=b.sock".parse().unwrap();
        assert_eq!(target.service, Service::Uppercase);
        assert_eq!(target.address.to_string(), "unix:/run/a=b.sock");
        let target: Target = "time=:8081".parse().unwrap();
        assert!(target.address.takes_datagrams());
        assert!("time=tcp://:8081".parse::<Target>().unwrap_err().contains("datagrams alone"));
        assert!("127.0.0.1:7007".parse::<Target>().unwrap_err().contains("SERVICE=ADDRESS"));
        assert!("chat=127.0.0.1:7007".parse::<Target>().unwrap_err().contains("not a service"));
    }
}
