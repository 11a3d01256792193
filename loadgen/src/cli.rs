//! The command line: what it offers and how its values are read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::address::{Address, Peer};
use crate::chat::{Dialect, Seating};
use crate::churn::Close;
use crate::compare::Metric;
use crate::compare::calibrate::Kind;
use crate::datagram::request_bytes;
use crate::fail_if::Condition;
use crate::load::Amount;
use crate::meant;
use crate::plan::Arrivals;
use crate::run::Pace;
use crate::server::{CommandLine, PORT, free_port};
use crate::service::Service;
use crate::size::Sizes;
use crate::sources::Sources;
use crate::steps::steps;
use crate::template::Template;
use crate::units::{count, duration, percent, positive_duration, rate, significance, time_unit};

/// Generates load for a server and verifies every byte of every reply.
///
/// Without a command, loadgen starts tidewheel on free ports of this machine, measures the services echo, uppercase, time
/// and chat, each at full load and then at half of that rate, and stops it.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub tour: Tour,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for the whole run")]
pub enum Command {
    /// Measure a server: at a target rate (--rate), or in a closed loop with DEPTH requests in flight on each connection.
    /// With several rates or connection counts, each is measured in turn.
    Run(Box<RunOnce>),
    /// Find the highest rate that meets conditions such as p99<1ms.
    Search(Box<Search>),
    /// Merge the logs (--hlog) of several load generators that ran at the same time.
    Merge(Merge),
    /// Hold many idle, slow or stopped connections, and measure what they cost the server and its busy connections.
    Idle(Box<Idle>),
    /// Test whether one server is slower than another, and find the functions and system calls that changed.
    Compare(Box<Compare>),
    /// Find regressions in the results of compare --history: steps at one commit, or gradual changes over many.
    History(History),
}

/// What is driven, and what every measurement of it has in common.
#[derive(Args, Clone)]
pub struct Options {
    /// The server to measure: echo, uppercase, greeting, http, chat or custom, at tcp://HOST:PORT, HOST:PORT or unix:PATH; echo,
    /// uppercase or time at udp://HOST:PORT or unix-dgram:PATH. With --reconnect also daytime and banner.
    #[arg(value_name = "SERVICE=ADDRESS")]
    pub target: Target,

    /// Size of a request: 64, 16KiB, 1.5MiB, uniform:64-1500, zipf:64-65536, or sizes with weights: 64:9,1500:1. Datagrams
    /// have 12 (for their number) to 65507 bytes (time: 65481). For chat, names and numbers are added to each line.
    #[arg(short, long, value_name = "BYTES", default_value = "64")]
    pub size: Sizes,

    /// The path that http requests [default: /]
    #[arg(long, value_name = "PATH", value_parser = path)]
    pub path: Option<String>,

    /// The status that http's replies must have [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(200..=999))]
    pub status: Option<u16>,

    /// Rooms of chat, among which members are divided [default: 1]
    #[arg(long, value_name = "N", value_parser = count)]
    pub rooms: Option<usize>,

    /// Members of each chat room that send; all others in the room receive [default: 1]
    #[arg(long, value_name = "N", value_parser = count)]
    pub senders: Option<usize>,

    /// The protocol of the chat server: tidewheel, lines (one room; every line is forwarded unchanged to all others), redis
    /// (rooms are channels; senders only publish) or nats (rooms are subjects) [default: tidewheel]
    #[arg(long, value_name = "NAME")]
    pub dialect: Option<Dialect>,

    /// The request of custom: text with \r \n \t \0 \\ \xHH, and {seq} (number of the request on its connection), {conn} (index
    /// of the connection), {payload} (text of --size bytes), {len} (its length); {{ and }} for braces.
    #[arg(long, value_name = "TEMPLATE", allow_hyphen_values = true, value_parser = Template::of_request)]
    pub send: Option<Template>,

    /// The expected reply of custom, in the same form as --send; {line} matches anything up to the next line ending.
    #[arg(long, value_name = "TEMPLATE", allow_hyphen_values = true, value_parser = Template::of_reply)]
    pub expect: Option<Template>,

    /// The number of threads; connections (or rooms) and rate are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub threads: usize,

    /// The random seed of send times and sizes; the same seed gives the same load.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Measure exactly this many requests.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration")]
    pub requests: Option<u64>,

    /// Measure the requests sent within this time: 500ms, 1.5s, 1m.
    #[arg(short = 't', long, value_name = "TIME", default_value = "5s", value_parser = positive_duration)]
    pub duration: Duration,

    /// Load before the measured window; it is not part of the result.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,

    /// The process id of a server on this machine: report its CPU time per request, child processes included.
    #[arg(long)]
    pub pid: Option<i32>,

    /// Start a server, wait for its first correct reply, measure it as with --pid, and stop it with all its processes. {port} in
    /// the command and in the address is replaced by a free port. The command is split into words as by a shell, and may begin
    /// with variables (NAME=VALUE server); the server must stay in the foreground.
    #[arg(long, value_name = "COMMAND", conflicts_with = "pid")]
    pub spawn: Option<CommandLine>,

    /// How long a server that loadgen starts may take until its first correct reply. [default: --timeout, or 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub start_timeout: Option<Duration>,

    /// Local addresses to connect from, in turn: 127.0.0.2,127.0.0.3, a range such as 127.0.0.2-127.0.0.9 or a network such as
    /// 127.0.1.0/24. One address has about 28 thousand ports.
    #[arg(long, value_name = "IPS")]
    pub source_ips: Option<Sources>,

    /// Timeout of connecting, after which the run fails, and of a reply, after which it is lost. [default: 5s; datagrams: 1s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub timeout: Option<Duration>,
}

/// How requests follow one another.
#[derive(Args, Clone)]
pub struct Pacing {
    /// Requests in flight on each connection, in a closed loop; for chat, undelivered lines of each sender.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub depth: usize,

    /// How the requests of an open loop are spaced: constant or poisson.
    #[arg(long, value_name = "KIND", default_value = "constant", requires = "rate")]
    pub arrivals: Arrivals,
}

/// One measurement.
#[derive(Args, Clone)]
pub struct Run {
    /// Connections, or sockets of datagrams, opened before the warm-up; members of all rooms of a chat together.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub connections: usize,

    /// Target rate of an open loop, in requests per second on all connections together, independent of replies: 500, 50k.
    #[arg(short, long, value_name = "PER_SECOND", value_parser = rate, conflicts_with = "depth")]
    pub rate: Option<f64>,

    #[command(flatten)]
    pub pacing: Pacing,

    #[command(flatten)]
    pub options: Options,

    /// How each connection is closed after one exchange; none where connections stay.
    #[arg(skip)]
    pub churn: Option<Close>,
}

/// `loadgen run`: one measurement, or one of each rate or number of connections.
#[derive(Args)]
pub struct RunOnce {
    /// Connections, or UDP sockets, opened before the warm-up; for chat the members of all rooms. Several are measured in turn:
    /// 1,10,100, or 10..50:5 for five at equal distances.
    #[arg(short, long, value_name = "N[,N...]", default_value = "1", value_parser = counts)]
    pub connections: Steps<usize>,

    /// Target rate of an open loop, in requests per second on all connections together, independent of replies: 500, 50k.
    /// Several are measured in turn: 10k,20k,50k, or 10k..50k:5 for five at equal distances.
    #[arg(id = "rate", short, long = "rate", value_name = "R[,R...]", value_parser = rates, conflicts_with = "depth")]
    pub rates: Option<Steps<f64>>,

    /// Measure each rate or number of connections N times, in rounds of random order. [default: 3 with several rates or
    /// connection counts, otherwise 1]
    #[arg(long, value_name = "N", value_parser = count)]
    pub repeat: Option<usize>,

    /// Open a new connection for each request, and close it after the reply. --rate is then the rate of connects, and
    /// --connections how many are open at once in a closed loop.
    #[arg(long, conflicts_with_all = ["depth", "syscalls"])]
    pub reconnect: bool,

    /// How to close after the reply, with --reconnect: fin closes normally, which leaves the port in TIME_WAIT unless the server
    /// closes first; rst resets the connection, which frees the port immediately.
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t,
        hide_possible_values = true,
        requires = "reconnect"
    )]
    pub close: Close,

    #[command(flatten)]
    pub pacing: Pacing,

    #[command(flatten)]
    pub options: Options,

    /// Count the server's system calls per request, by name: with strace, in a short closed loop after the window. Needs
    /// --pid or --spawn.
    #[arg(long)]
    pub syscalls: bool,

    #[command(flatten)]
    pub outputs: Outputs,
}

/// How often each of several rates or connection counts is measured, unless --repeat is given.
const STEP_REPEATS: usize = 3;

impl RunOnce {
    /// What is to be measured, one run for each rate or number of connections.
    pub fn runs(&self) -> Result<Vec<Run>, String> {
        let rates = match &self.rates {
            Some(rates) => rates.0.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let connections = &self.connections.0;
        if rates.len() > 1 && connections.len() > 1 {
            return Err("either --rate or --connections can have several values, not both".into());
        }
        if self.reconnect && self.rates.is_some() && *connections != [1] {
            return Err(
                "--connections does not apply to --reconnect with --rate: the number of open connections depends on \
                        the server"
                    .into(),
            );
        }
        let churn = self.reconnect.then_some(self.close);
        let (pacing, options) = (&self.pacing, &self.options);
        let run = |rate, connections| Run {
            connections,
            rate,
            pacing: pacing.clone(),
            options: options.clone(),
            churn,
        };
        Ok(rates
            .into_iter()
            .flat_map(|rate| connections.iter().map(move |&count| run(rate, count)))
            .collect())
    }

    /// How often each of so many runs is measured.
    pub fn repeats(&self, runs: usize) -> usize {
        self.repeat.unwrap_or(if runs > 1 { STEP_REPEATS } else { 1 })
    }

    /// Fails if something is asked for that several measurements do not have.
    pub fn check_several(&self) -> Result<(), String> {
        let outputs = &self.outputs;
        let given = [
            ("--syscalls", self.syscalls),
            ("--hgrm", outputs.hgrm.is_some()),
            ("--hlog", outputs.hlog.is_some()),
            ("--fail-if", !outputs.fail_if.is_empty()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(format!(
                "{option} needs a single measurement: give one rate and one number of connections, without --repeat"
            )),
            None => Ok(()),
        }
    }
}

/// `loadgen search`. Its measurements are many, and therefore short unless they are asked to be longer.
#[derive(Args)]
#[command(mut_arg("duration", |arg| arg.default_value("1s")), mut_arg("warmup", |arg| arg.default_value("200ms")))]
pub struct Search {
    /// A condition that the rate must meet: 'p99<1ms', 'lost<1', 'cpu<5us'; may be given several times.
    #[arg(long, value_name = "CONDITION", required = true)]
    pub slo: Vec<Condition>,

    /// Connections, or sockets of datagrams.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub connections: usize,

    /// The first rate; it is doubled while it passes.
    #[arg(long, value_name = "PER_SECOND", default_value = "1k", value_parser = rate)]
    pub start: f64,

    /// The precision of the result.
    #[arg(long, value_name = "SHARE", default_value = "2%", value_parser = percent)]
    pub precision: f64,

    /// How often to measure each rate near the limit.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    pub repeat: usize,

    /// The maximum time of the search; no measurement starts that would end later.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive_duration)]
    pub budget: Duration,

    /// How requests are spaced: constant or poisson.
    #[arg(long, value_name = "KIND", default_value = "constant")]
    pub arrivals: Arrivals,

    #[command(flatten)]
    pub options: Options,

    /// Write every figure of every measurement as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Values in ascending order, one at least.
#[derive(Clone, Debug)]
pub struct Steps<T>(pub Vec<T>);

fn rates(text: &str) -> Result<Steps<f64>, String> {
    steps(text, rate).map(Steps)
}

fn counts(text: &str) -> Result<Steps<usize>, String> {
    let values = steps(text, |text| count(text).map(|count| count as f64))?;
    let mut counts: Vec<_> = values.into_iter().map(|value| value.round() as usize).collect();
    counts.dedup();
    Ok(Steps(counts))
}

/// Where results go, beside the table on standard output. A file is written whole, or not at all.
#[derive(Args)]
pub struct Outputs {
    /// Write the result as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write the percentile distribution to FILE, or to standard output (-), as HdrHistogram prints it, in microseconds: response time in an open
    /// loop, service time in a closed one.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<String>,

    /// Write a histogram of each interval to FILE, or to standard output (-), in the HdrHistogram log format, in nanoseconds.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<String>,

    /// Write a row for each interval, or for each rate or number of connections, to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub csv: Option<String>,

    /// Write an HTML page with plots and all figures to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Exit with code 1 if the result meets this condition: 'p99>2ms', 'throughput<50k', 'lost>0', 'cpu>5us'; may be given
    /// several times.
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

impl Outputs {
    /// The files, each with its option.
    pub fn asked(&self) -> [(&'static str, Option<&str>); 5] {
        let Outputs { json, hgrm, csv, html, hlog, .. } = self;
        [
            ("--json", json.as_deref()),
            ("--hgrm", hgrm.as_deref()),
            ("--csv", csv.as_deref()),
            ("--html", html.as_deref()),
            ("--hlog", hlog.as_deref()),
        ]
    }
}

/// What a run asks of the server.
pub enum Asked<'a> {
    /// Datagrams, each with one in return.
    Datagrams(Service),
    /// The bytes of a text.
    Walk(Service),
    /// Nothing: what the server says before it closes.
    Said(Service),
    /// To be greeted.
    Greeting,
    /// To pass on what members of rooms say.
    Chat { rooms: usize, senders: usize, dialect: Dialect },
    /// What the templates say.
    Custom { send: &'a Template, expect: &'a Template },
    /// A page of HTTP.
    Page { path: &'a str, status: u16 },
}

impl Asked<'_> {
    /// Whether its requests are as large as they are asked to be.
    pub fn has_size(&self) -> bool {
        match self {
            Asked::Datagrams(_) | Asked::Walk(_) | Asked::Greeting | Asked::Chat { .. } => true,
            Asked::Custom { send, expect } => send.has_size() || expect.has_size(),
            Asked::Said(_) | Asked::Page { .. } => false,
        }
    }
}

impl Options {
    /// What is asked, if the options suit the service and so many connections at least.
    pub fn asked(&self, connections_min: usize) -> Result<Asked<'_>, String> {
        match self.asked_of_any(connections_min)? {
            Asked::Said(service) => Err(format!(
                "{service} needs --reconnect, because the server closes each connection after one text"
            )),
            asked => Ok(asked),
        }
    }

    /// What is asked on a connection for each exchange, which is closed so.
    pub fn asked_once(&self, close: Close) -> Result<Asked<'_>, String> {
        let Target { service, address, .. } = &self.target;
        if *service == Service::Chat || address.takes_datagrams() {
            return Err(format!(
                "--reconnect needs a stream service with requests and replies, not {service} at {address}"
            ));
        }
        if close == Close::Rst && !matches!(address.peer, Peer::Tcp(_)) {
            return Err("--close rst needs tcp: unix sockets have no reset and no TIME_WAIT".into());
        }
        self.asked_of_any(1)
    }

    fn asked_of_any(&self, connections_min: usize) -> Result<Asked<'_>, String> {
        let service = self.target.service;
        let options = [
            ("--path", self.path.is_some(), Service::Http),
            ("--status", self.status.is_some(), Service::Http),
            ("--rooms", self.rooms.is_some(), Service::Chat),
            ("--senders", self.senders.is_some(), Service::Chat),
            ("--dialect", self.dialect.is_some(), Service::Chat),
            ("--send", self.send.is_some(), Service::Custom),
            ("--expect", self.expect.is_some(), Service::Custom),
        ];
        for (option, is_given, of) in options {
            if is_given && of != service {
                return Err(format!("{option} is for {of}, not for {service}"));
            }
        }
        match (self.target.has_port, self.spawn.as_ref().map(CommandLine::has_port)) {
            (true, None) => return Err("{port} in the address needs --spawn".into()),
            (true, Some(false)) => return Err("{port} is in the address but not in the command".into()),
            (false, Some(true)) => return Err("{port} is in the command but not in the address".into()),
            _ => {}
        }
        if let Some(sources) = &self.source_ips {
            sources.check(&self.target.address.peer)?;
        }
        if self.target.address.takes_datagrams() {
            let (allowed, (smallest, largest)) = (request_bytes(self.target.service), self.size.bounds());
            if !allowed.contains(&smallest) || !allowed.contains(&largest) {
                return Err(format!(
                    "--size {}: a datagram to {} must have {} (for its number) to {} bytes",
                    self.size,
                    self.target.service,
                    allowed.start(),
                    allowed.end()
                ));
            }
        }
        Ok(match service {
            service if self.target.address.takes_datagrams() => Asked::Datagrams(service),
            Service::Echo | Service::Uppercase => Asked::Walk(service),
            Service::Daytime | Service::Banner => Asked::Said(service),
            Service::Time => {
                return Err("time is served over datagrams only: udp://HOST:PORT or unix-dgram:PATH".into());
            }
            Service::Greeting if self.size.bounds().0 < 2 => {
                return Err("--size must be 2 or more for greeting: one byte and a newline".into());
            }
            Service::Greeting => Asked::Greeting,
            Service::Chat => {
                let (rooms, senders) = (self.rooms.unwrap_or(1), self.senders.unwrap_or(1));
                let dialect = self.dialect.unwrap_or_default();
                let seating = Seating { members: connections_min, rooms, senders, dialect };
                seating.check()?;
                seating.check_size(self.size.bounds().1)?;
                Asked::Chat { rooms, senders, dialect }
            }
            Service::Custom => match (&self.send, &self.expect) {
                (Some(send), Some(expect)) => Asked::Custom { send, expect },
                _ => return Err("custom needs both --send and --expect".into()),
            },
            Service::Http => {
                Asked::Page { path: self.path.as_deref().unwrap_or("/"), status: self.status.unwrap_or(200) }
            }
        })
    }

    /// Whether the server's CPU time will be known.
    pub fn knows_server(&self) -> bool {
        self.pid.is_some() || self.spawn.is_some()
    }

    /// How long a reply may take. A datagram that was lost will not come, and in a closed loop its place is empty until it
    /// is given up.
    pub fn timeout(&self) -> Duration {
        let default_s = if self.target.address.takes_datagrams() { 1 } else { 5 };
        self.timeout.unwrap_or(Duration::from_secs(default_s))
    }

    /// How long a server that is started may take until its first right reply.
    pub fn start_timeout(&self) -> Duration {
        self.start_timeout.or(self.timeout).unwrap_or(Duration::from_secs(10))
    }

    /// How much the window measures.
    pub fn amount(&self) -> Amount {
        match self.requests {
            Some(requests) => Amount::Requests(requests),
            None => Amount::Time(self.duration),
        }
    }
}

impl Run {
    /// What `loadgen run` would do with this target and no option.
    pub fn of(target: &str) -> Result<Run, clap::Error> {
        Run::parse([target])
    }

    /// What `loadgen run` would do with these words of the command line.
    pub fn parse<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<Run, clap::Error> {
        let command = Run::augment_args(clap::Command::new("run").no_binary_name(true));
        Run::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    /// The same, but for what these words say. Of a rate and a depth the later one holds.
    pub fn with<W: Into<OsString> + Clone>(
        &self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<Run, clap::Error> {
        let changes = Run::changes().try_get_matches_from(words)?;
        let mut run = self.clone();
        if changes.contains_id("depth") {
            run.rate = None;
        }
        run.update_from_arg_matches(&changes)?;
        Ok(run)
    }

    /// The options of a run, none of which has to be there, and none of which is unless it is given.
    pub fn changes() -> clap::Command {
        let command = clap::Command::new("run").no_binary_name(true).disable_help_flag(true);
        Run::augment_args_for_update(command).mut_args(|arg| arg.default_value(None))
    }

    /// What is asked, if the options suit it.
    pub fn asked(&self) -> Result<Asked<'_>, String> {
        match self.churn {
            None => self.options.asked(self.connections),
            Some(close) => self.options.asked_once(close),
        }
    }

    /// When requests leave.
    pub fn pace(&self) -> Pace {
        let Pacing { depth, arrivals } = self.pacing;
        match self.rate {
            Some(rate_per_s) => Pace::Open { rate_per_s, arrivals },
            None => Pace::Closed { depth },
        }
    }
}

/// `loadgen` without a command.
#[derive(Args)]
pub struct Tour {
    /// Duration of each of the two measurements of a service: 500ms, 5s, 1m.
    #[arg(short = 't', long, value_name = "TIME", default_value = "1200ms", value_parser = positive_duration)]
    pub duration: Duration,

    /// The random seed of send times and texts; the same seed gives the same load.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Write every figure as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `loadgen idle`. What says how to measure is for the busy connections.
#[derive(Args)]
#[command(
    mut_arg("target", |arg| arg.value_name("[SERVICE=]ADDRESS").value_parser(held_target).help(
        "The server: echo (the default), uppercase, greeting, http or custom, at tcp://HOST:PORT, HOST:PORT or unix:PATH.",
    )),
    mut_arg("requests", |arg| arg.requires("busy")),
    mut_arg("duration", |arg| arg.requires("busy")),
    mut_arg("warmup", |arg| arg.requires("busy")),
    mut_arg("threads", |arg| arg.requires("busy")),
    mut_arg("depth", |arg| arg.requires("busy")),
    mut_arg("hgrm", |arg| arg.requires("busy")),
    mut_arg("hlog", |arg| arg.requires("busy")),
    mut_arg("csv", |arg| arg.requires("busy")),
    mut_arg("html", |arg| arg.requires("busy")),
    mut_arg("fail_if", |arg| arg.requires("busy")),
)]
pub struct Idle {
    /// The number of connections to hold. Those that are neither slow nor stopped make one exchange and then stay idle.
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = count)]
    pub connections: usize,

    /// The number of these that are slow: they send an endless request, one byte at a time.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub slow: usize,

    /// The time between two bytes of a slow connection.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = positive_duration, requires = "slow")]
    pub slow_interval: Duration,

    /// The number of these that are stopped: they send requests until the socket is full, and read no reply.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub stopped: usize,

    /// The number of additional busy connections, measured first without and then with the held connections.
    #[arg(long, value_name = "N", value_parser = count)]
    pub busy: Option<usize>,

    /// Target rate of an open loop, in requests per second on all busy connections together: 500, 50k.
    #[arg(short, long, value_name = "PER_SECOND", value_parser = rate, conflicts_with = "depth", requires = "busy")]
    pub rate: Option<f64>,

    #[command(flatten)]
    pub pacing: Pacing,

    #[command(flatten)]
    pub options: Options,

    /// How long to hold the connections; with --busy, until the measurement ends.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, conflicts_with = "busy")]
    pub hold: Duration,

    /// How long to measure the server's CPU time while all connections are idle, with --pid or --spawn; without slow, stopped
    /// and busy connections, for the whole hold time.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub rest: Duration,

    /// Do not report INVALID if the server closes idle connections.
    #[arg(long)]
    pub may_close: bool,

    #[command(flatten)]
    pub outputs: Outputs,
}

impl Idle {
    /// How many are silent, if the others are not more than there are.
    pub fn silent(&self) -> Result<usize, String> {
        let others = self.slow.saturating_add(self.stopped);
        self.connections.checked_sub(others).ok_or_else(|| {
            format!(
                "--slow and --stopped together are {others}, but there are {} connections: raise -c",
                self.connections
            )
        })
    }

    /// How the busy ones are measured, if there are any.
    pub fn busy_run(&self) -> Option<Run> {
        let (rate, pacing, options) = (self.rate, self.pacing.clone(), self.options.clone());
        self.busy.map(|connections| Run { connections, rate, pacing, options, churn: None })
    }
}

/// `loadgen merge`.
#[derive(Args)]
#[command(mut_arg("quiet", |arg| arg.hide(true)))]
pub struct Merge {
    /// HdrHistogram logs (version 2) of loadgen or other programs.
    #[arg(value_name = "FILE", required = true)]
    pub logs: Vec<String>,

    /// Unit of the times in the logs of other programs: ns, us, ms or s; loadgen's own are in nanoseconds.
    #[arg(long = "unit", value_name = "UNIT", default_value = "ns", value_parser = time_unit)]
    pub unit_ns: u64,

    #[command(flatten)]
    pub outputs: Outputs,
}

/// `loadgen compare`. What says how to measure is for each slice.
#[derive(Args)]
#[command(
    mut_arg("target", |arg| arg.value_name("SERVICE[=ADDRESS]").required(false).default_value("echo").value_parser(compared_target).help(
        "The service to measure, as for run; the default address is 127.0.0.1:{port}.",
    )),
    mut_arg("connections", |arg| arg.default_value("50")),
    mut_arg("duration", |arg| arg.default_value("5ms").help("Approximate duration of a slice.")),
    mut_arg("requests", |arg| arg.help("The exact number of requests in each slice.")),
    mut_arg("warmup", |arg| arg.default_value("1ms").help("Load before each slice.")),
    mut_arg("pid", |arg| arg.hide(true).value_parser(not_compared::<i32>)),
    mut_arg("spawn", |arg| arg.hide(true).value_parser(not_compared::<CommandLine>)),
)]
pub struct Compare {
    #[command(flatten)]
    pub run: Run,

    /// The command of the base, the server to compare with; {port} is replaced by a free port. It is split into words as by a
    /// shell, and the server must stay in the foreground.
    #[arg(long, value_name = "COMMAND")]
    pub base: Option<String>,

    /// The command of the head, the server to test.
    #[arg(long, value_name = "COMMAND", requires = "base")]
    pub head: Option<String>,

    #[command(flatten)]
    pub revisions: Revisions,

    /// Compare all cases in this TOML file; the options given here are the defaults of the cases.
    #[arg(long, value_name = "FILE")]
    pub suite: Option<PathBuf>,

    /// The maximum measuring time of all cases together.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = positive_duration)]
    pub budget: Duration,

    /// PASS requires that the head is worse by less than this, with confidence.
    #[arg(long, value_name = "SHARE", default_value = "2%", value_parser = percent)]
    pub margin: f64,

    /// FAIL requires that the estimated change is larger than this.
    #[arg(long, value_name = "SHARE", default_value = "0.5%", value_parser = percent)]
    pub floor: f64,

    /// What to compare: cpu, throughput, p50, p99, instructions, syscalls, allocations; may be given several times [default:
    /// cpu and the last three]
    #[arg(
        long = "metric",
        value_name = "NAME",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub metrics: Vec<Metric>,

    /// Write the result as JSON, with every slice, to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write the result as Markdown to FILE, or to standard output (-), for the summary of a pull request.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<String>,

    /// Write an HTML page with plots and tables to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Write a flame graph of each case that changed to a file in FOLDER, named after the case: width is the head's
    /// instructions, red means more than the base.
    #[arg(long, value_name = "FOLDER")]
    pub flames: Option<PathBuf>,

    /// Append a line for each case and metric to FILE, or print them (-), for loadgen history.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,

    /// Report the functions and system calls that changed even if no metric fails.
    #[arg(long)]
    pub profile: bool,

    /// Measure the error rates of the CPU comparison on this machine: with identical servers, also beside a CPU hog, and with
    /// servers slowed by 1 and 2 %. This takes about half an hour.
    #[arg(long, conflicts_with_all = ["base", "head", "metrics", "profile", "html", "history", "flames"])]
    pub calibrate: bool,

    /// The number of comparisons of a server with itself; the other kinds are run a third as often.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = count, requires = "calibrate")]
    pub runs: usize,

    /// Use the runs of an earlier calibration of this machine (written with --json) instead of measuring; may be given several
    /// times.
    #[arg(long = "from", value_name = "FILE", requires = "calibrate", conflicts_with_all = ["kinds", "runs"])]
    pub recorded: Vec<PathBuf>,

    /// Run only these kinds: same, same-beside-hog, one-percent, two-percent, separated by commas [default: all]
    #[arg(
        long = "kind",
        value_name = "KIND",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true,
        requires = "calibrate"
    )]
    pub kinds: Vec<Kind>,

    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `loadgen history`.
#[derive(Args)]
pub struct History {
    /// The file that compare --history appended to.
    #[arg(value_name = "FILE")]
    pub file: String,

    /// Analyse only this case; may be given several times [default: all]
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<String>,

    /// Analyse only this metric: cpu, throughput, p50, p99, instructions, syscalls or allocations; may be given several times
    /// [default: all]
    #[arg(long = "metric", value_name = "NAME", value_enum, hide_possible_values = true)]
    pub metrics: Vec<Metric>,

    /// Exit with code 1 if a metric is worse at the end than earlier in the file, by more than this.
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = percent)]
    pub min_change: f64,

    /// The false-alarm rate of all series together.
    #[arg(long, value_name = "PART", default_value = "0.01", value_parser = significance)]
    pub significance: f64,

    /// Write the results as JSON to FILE as well, or to standard output (-) instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// Write an HTML page with a plot of each metric of each case to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,

    /// Write the plots as SVG to FILE, or to standard output (-).
    #[arg(long, value_name = "FILE")]
    pub svg: Option<String>,
}

/// What `loadgen compare` builds its servers of.
#[derive(Args, Clone)]
pub struct Revisions {
    /// Build the base from this revision of the current repository, in a temporary worktree.
    #[arg(long, value_name = "REV", conflicts_with_all = ["base", "head"])]
    pub base_rev: Option<String>,

    /// Build the head from this revision [default: the working tree]
    #[arg(long, value_name = "REV", requires = "base_rev")]
    pub head_rev: Option<String>,

    /// The command that builds the server, run in the worktree [default: cargo build --release of tidewheel, without loadgen]
    #[arg(long, value_name = "COMMAND", requires = "base_rev")]
    pub build: Option<CommandLine>,

    /// The executable that the build makes, in the worktree. With cargo build, the executable of this name is used wherever cargo
    /// puts it. With another command, the file is deleted before the build. It is copied, and must run at another path [default:
    /// target/release/tidewheel, or the only executable that cargo build makes]
    #[arg(long, value_name = "PATH", requires = "base_rev")]
    pub binary: Option<PathBuf>,

    /// The command that starts the server; {binary} is replaced by the executable, {port} by a free port [default: tidewheel
    /// with the service]
    #[arg(long, value_name = "COMMAND", requires = "base_rev")]
    pub command: Option<String>,
}

/// A path as it stands in a request.
fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("must begin with /".into());
    }
    match text.chars().find(|character| !character.is_ascii_graphic()) {
        None => Ok(text.to_owned()),
        Some(character) => Err(format!("{character:?} must be written as %XX")),
    }
}

/// SERVICE=ADDRESS.
#[derive(Clone, Debug)]
pub struct Target {
    pub service: Service,
    pub address: Address,
    /// Whether it was written with `{port}`.
    pub has_port: bool,
    /// As it was written.
    text: String,
}

impl Target {
    /// The same with this port for `{port}`.
    pub fn at(&self, port: u16) -> Result<Target, String> {
        self.text.replace(PORT, &port.to_string()).parse()
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A = may also be in a URL.
        let (service, address) = text
            .split_once('=')
            .filter(|(service, _)| !service.contains([':', '/', '.']))
            .ok_or_else(|| meant::complaint(text))?;
        let service: Service = service.parse()?;
        let has_port = address.contains(PORT);
        let address =
            if has_port { address.replace(PORT, &free_port().to_string()) } else { address.to_owned() };
        let read = if service.has_streams() { address.parse() } else { Address::of_datagrams(&address) };
        let address = read.map_err(|error| match meant::target(text) {
            // Its form is not what is wrong with it.
            form if form == text => error,
            form => meant::tls_complaint(text).unwrap_or_else(|| format!("{error}; write {form}")),
        })?;
        match address.takes_datagrams() {
            true if !service.has_datagrams() => {
                Err(format!("{service} is not served over datagrams: use tcp://HOST:PORT or unix:PATH"))
            }
            false if !service.has_streams() => Err(format!(
                "{service} is served over datagrams only: use udp://HOST:PORT or unix-dgram:PATH"
            )),
            _ => Ok(Target { service, address, has_port, text: text.to_owned() }),
        }
    }
}

/// SERVICE[=ADDRESS], of which a bare service is at a free port of this machine.
fn compared_target(text: &str) -> Result<Target, String> {
    if text.contains(['=', ':', '/', '.']) {
        text.parse()
    } else {
        format!("{text}=127.0.0.1:{PORT}").parse()
    }
}

/// Of options that say which server is measured.
fn not_compared<T>(_: &str) -> Result<T, String> {
    Err("compare starts the servers itself: use --base and --head".into())
}

/// [SERVICE=]ADDRESS, of which a bare address is one of echo. The path of a unix socket may have a = in it.
fn held_target(text: &str) -> Result<Target, String> {
    match text.split_once('=') {
        Some((service, _)) if !service.contains([':', '/']) => text.parse(),
        _ => format!("echo={text}").parse(),
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
        assert!("time=tcp://:8081".parse::<Target>().unwrap_err().contains("datagrams only"));
        assert!("127.0.0.1:7007".parse::<Target>().unwrap_err().contains("SERVICE=ADDRESS"));
        assert!("talk=127.0.0.1:7007".parse::<Target>().unwrap_err().contains("unknown service"));
    }

    #[test]
    fn a_url_and_half_a_target_are_answered_with_the_right_form() {
        type Parse = fn(&str) -> Result<Target, String>;
        let parsers: [Parse; 3] = [str::parse, held_target, compared_target];
        for parse in parsers {
            for (text, form) in [
                ("http://host/", "http=host:80"),
                ("http://host:8080/path", "http=host:8080 --path /path"),
                ("http://host/?a=b", "http=host:80 --path '/?a=b'"),
                ("https://host/", "http=host:80"),
                ("echo=https://host/", "http=host:80"),
                ("http=http://host/", "http=host:80"),
                ("http=127.0.0.1:8080/path", "http=127.0.0.1:8080 --path /path"),
                ("http=127.0.0.1", "http=127.0.0.1:80"),
                ("https=127.0.0.1:443", "loadgen does not support TLS yet"),
                ("https://127.0.0.1/", "loadgen does not support TLS yet"),
                ("echo=https://127.0.0.1/", "loadgen does not support TLS yet"),
                ("tcp:127.0.0.1:80", "echo=tcp://127.0.0.1:80"),
                ("echo=tcp:127.0.0.1:80", "write echo=tcp://127.0.0.1:80"),
                ("echo=/run/a.sock", "echo=unix:/run/a.sock"),
            ] {
                let error = parse(text).unwrap_err();
                assert!(error.contains(form), "{text}: {error}");
            }
        }
        for text in ["localhost:8080", "tcp://localhost:8080", "echo"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains("such as echo="), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_said_anew_stays() {
        let run = Run::parse(["echo=127.0.0.1:1", "--connections=50", "--size=1KiB", "--seed=7"]).unwrap();
        let changed = run.with(["--size=16KiB", "--depth=4"]).unwrap();
        assert_eq!((changed.connections, changed.pacing.depth, changed.options.seed), (50, 4, 7));
        assert_eq!(changed.options.size.to_string(), "16KiB");
        assert_eq!(changed.options.target.service, Service::Echo);
        let changed = changed.with(["http=127.0.0.1:1", "--status=404"]).unwrap();
        assert_eq!(changed.options.target.service, Service::Http);
        assert_eq!((changed.options.status, changed.connections), (Some(404), 50));
        let open = run.with(["--rate=1k"]).unwrap();
        assert!(matches!(open.pace(), Pace::Open { .. }));
        assert!(matches!(open.with(["--depth=2"]).unwrap().pace(), Pace::Closed { depth: 2 }));
        assert!(run.with(["--connections=0"]).is_err());
    }

    #[test]
    fn what_is_held_is_echo_unless_it_says_so() {
        for (text, service, address) in [
            ("127.0.0.1:7007", Service::Echo, "127.0.0.1:7007"),
            ("unix:/run/a=b.sock", Service::Echo, "unix:/run/a=b.sock"),
            ("http=:8080", Service::Http, ":8080"),
            ("uppercase=unix:/run/a=b.sock", Service::Uppercase, "unix:/run/a=b.sock"),
        ] {
            let target = held_target(text).unwrap();
            assert_eq!((target.service, target.address.to_string().as_str()), (service, address));
        }
        assert!(held_target("talk=127.0.0.1:7007").unwrap_err().contains("unknown service"));
        assert!(held_target("127.0.0.1").unwrap_err().contains("HOST:PORT"));
    }
}
