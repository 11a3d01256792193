//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use loadgen::server::CommandLine;
use loadgen::units::positive_duration;

use crate::Case;

/// Compare servers under the same load: tidewheel, the floors in C, and the other servers that can be built or are installed
#[derive(Parser)]
#[command(name = "versus", version)]
pub struct Versus {
    /// The case to measure: 1, 50 or 1000 connections of echo, depth16, 16KiB, http, fanout, fanout1000, fanout-single or udp; may
    /// be given several times [default: all of them]
    #[arg(long = "case", value_name = "CASE", value_enum, hide_possible_values = true)]
    pub cases: Vec<Case>,

    /// The number of slices of each server in each case; at least 3.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(3..))]
    pub rounds: u32,

    /// Approximate duration of a slice; its number of requests is what the first server answers in this time.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = positive_duration)]
    pub slice: Duration,

    /// The random seed of the order of slices; the same seed gives the same order.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Measure only this server; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,

    /// Add an echo server, which must print `listening echo tcp://HOST:PORT` and then `ready`; may be given several times.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    pub servers: Vec<Named>,

    /// The folder of the peers, benches/peers of the repository [default: searched in this folder and its parents]
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,

    /// A release binary of tidewheel [default: build it]
    #[arg(id = "binary", long = "tidewheel", value_name = "PATH")]
    pub binary: Option<PathBuf>,

    /// Test in seconds that everything works; the figures are not meaningful.
    #[arg(long, conflicts_with_all = ["rounds", "slice", "record"])]
    pub quick: bool,

    /// Write every figure of every slice as JSON to FILE as well, or to standard output (-) instead of the tables.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write the tables as Markdown to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<String>,

    /// Write an HTML page with a chart and the tables to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Save the JSON, the tables and the chart in benches/record, named after the date and the commit.
    #[arg(long)]
    pub record: bool,

    /// Write the chart of the README to FILE as SVG, and its figures to a JSON file beside it: tidewheel compared with one
    /// thread per connection. This also runs `cargo bench`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cases", "only", "servers", "record"])]
    pub headline: Option<String>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// NAME=COMMAND.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    pub command: CommandLine,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() => {
                Ok(Named { name: name.to_owned(), command: command.parse()? })
            }
            _ => Err("expected NAME=COMMAND".into()),
        }
    }
}
