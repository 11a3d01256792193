//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use loadgen::server::CommandLine;
use loadgen::units::positive_duration;

use crate::Case;

/// Put servers side by side on the same work: tidewheel, the floors in C, and the other servers that can be built or are
/// installed here
#[derive(Parser)]
#[command(name = "versus", version)]
pub struct Versus {
    /// What to measure: 1, 50 or 1000 connections of echo, depth16, 16KiB, http, fanout, fanout1000, fanout-single or udp; may
    /// be given several times [default: all of them]
    #[arg(long = "case", value_name = "CASE", value_enum, hide_possible_values = true)]
    pub cases: Vec<Case>,

    /// Slices of each server in each case; 3 at least.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(3..))]
    pub rounds: u32,

    /// About how long a slice takes: it is what the first server answers in that time.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = positive_duration)]
    pub slice: Duration,

    /// Where the order of the slices begins; the same seed is the same order.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Measure this server and no others but those that are named as well; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,

    /// Another server of echo, which says `listening echo tcp://HOST:PORT` and then `ready`; may be given several times.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    pub servers: Vec<Named>,

    /// The folder of the peers, benches/peers of the repository [default: found from here upwards]
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,

    /// A release binary of tidewheel [default: it is built]
    #[arg(id = "binary", long = "tidewheel", value_name = "PATH")]
    pub binary: Option<PathBuf>,

    /// Show in seconds that all of it works: the figures mean nothing.
    #[arg(long, conflicts_with_all = ["rounds", "slice", "record"])]
    pub quick: bool,

    /// Write every figure of every slice as JSON to FILE as well, or to standard output (-) instead of the tables.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write the tables to FILE, or to standard output (-), for a document.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<String>,

    /// Write a page with a chart and the tables to FILE, or to standard output (-); it needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Keep the JSON, the tables and the chart in benches/record, named by the date and the commit.
    #[arg(long)]
    pub record: bool,

    /// Draw the README's chart to FILE, an SVG, with its figures as JSON beside it: tidewheel against a thread for each
    /// connection. It runs `cargo bench` as well.
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
