//! The command line: what it offers and how its values are read.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::address::Address;
use crate::closed_loop::Amount;
use crate::text::Service;

/// Drives load at a stream server and verifies every byte of every reply.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measure: a closed loop in which each connection keeps DEPTH requests in flight.
    Run(Run),
    /// Open many connections, have one line echoed on each, and hold them.
    Idle(Idle),
}

#[derive(Args)]
pub struct Run {
    /// What to drive: echo or uppercase, at tcp://HOST:PORT, HOST:PORT or unix:PATH.
    #[arg(value_name = "SERVICE=ADDRESS")]
    pub target: Target,

    /// Connections, opened before the warm-up.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub connections: usize,

    /// Requests in flight on each connection.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub depth: usize,

    /// Size of a request: 64, 16KiB, 1MiB.
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = size)]
    pub size: usize,

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

    /// A connection or a reply that takes longer ends the run.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = positive_duration)]
    pub timeout: Duration,

    /// Write the result as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

impl Run {
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
        let service = match service {
            "echo" => Service::Echo,
            "uppercase" => Service::Uppercase,
            other => return Err(format!("{other:?} is not a service; there are echo and uppercase")),
        };
        Ok(Target { service, address: address.parse()? })
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => return Err(format!("unknown unit {other:?}; there are B, KiB and MiB")),
    };
    count(number)?.checked_mul(factor).ok_or_else(|| "too large".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        // A bare 0 needs no unit; any other bare number would be a guess.
        "" if number == 0 => Some(0),
        "" => return Err("needs a unit: ms, s or m".into()),
        other => return Err(format!("unknown unit {other:?}; there are ms, s and m")),
    };
    match milliseconds {
        Some(milliseconds) if milliseconds <= DURATION_MS_MAX => Ok(Duration::from_millis(milliseconds)),
        _ => Err("must be at most 24 hours".into()),
    }
}

/// Keeps every instant that is computed from a duration far from overflow.
const DURATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// Splits `16KiB` into `16` and `KiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
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
    fn sizes() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64B"), Ok(64));
        assert_eq!(size("16KiB"), Ok(16 * 1024));
        assert_eq!(size("2MiB"), Ok(2 * 1024 * 1024));
        for bad in
            ["", "0", "0KiB", "KiB", "16k", "-1", "1.5KiB", "99999999999999999999", "18446744073709551615MiB"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1440m"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "5h", "1.5s", "-1s", "1441m", "18446744073709551615m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn targets() {
        let target: Target = "uppercase=unix:/run/a=b.sock".parse().unwrap();
        assert_eq!(target.service, Service::Uppercase);
        assert_eq!(target.address.to_string(), "unix:/run/a=b.sock");
        assert!("127.0.0.1:7007".parse::<Target>().unwrap_err().contains("SERVICE=ADDRESS"));
        assert!("chat=127.0.0.1:7007".parse::<Target>().unwrap_err().contains("not a service"));
    }
}
