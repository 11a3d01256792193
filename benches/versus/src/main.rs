//! Servers side by side, on the same work, each figure beside that of the floor.
//!
//! ```text
//!     peers: build, find, start ─► rounds: slices in shuffled order ─┐
//!                               └► counting: strace, valgrind, /proc ─┴► statistics ─► table, page, record
//! ```
//!
//! Exit codes: as loadgen's.

#![deny(unsafe_code)]
#![deny(clippy::print_stderr, clippy::print_stdout)]

/// Prints a line on standard error, after the name of the program. A failure is ignored.
macro_rules! message {
    ($($words:tt)*) => {
        loadgen::message::line(format_args!("versus: {}", format_args!($($words)*)))
    };
}

mod arguments;
mod counting;
mod headline;
mod peers;
mod record;
mod rounds;
mod statistics;

mod page;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;

use loadgen::output::{Output, Written};
use loadgen::placement::Placement;
use loadgen::report::{Report, SCHEMA_VERSION, counted, figures, json, of_many, write, write_page};
use loadgen::verdict::Verdict;
use loadgen::{EXIT_INVALID, EXIT_USAGE, Usage, os, syscalls};

use arguments::Versus;
use peers::{Kind, Missing, Peer, Workshop};
use record::Conditions;
use rounds::Contender;
use statistics::Estimate;

/// How much is done for the figures.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u32,
    slice: Duration,
    /// How often system calls are counted, and how many slopes are taken of what else is counted.
    counts: usize,
    /// Between two counts of memory: enough pages that where they begin does not matter.
    idle_connections: usize,
}

impl Effort {
    fn of(asked: &Versus) -> Effort {
        match asked.quick {
            true => Effort { rounds: 3, slice: Duration::from_millis(50), counts: 1, idle_connections: 100 },
            false => Effort { rounds: asked.rounds, slice: asked.slice, counts: 3, idle_connections: 1000 },
        }
    }

    /// How many connections are open at once.
    fn connections_max(&self) -> usize {
        let idle = self.idle_connections * (self.counts + 1);
        let busy = Case::value_variants().iter().map(|case| case.load().connections).max();
        idle.max(busy.unwrap_or_default())
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    #[value(name = "1")]
    One,
    #[value(name = "50")]
    Fifty,
    #[value(name = "1000")]
    Thousand,
    #[value(name = "depth16")]
    Deep,
    #[value(name = "16KiB")]
    Large,
    Http,
    Fanout,
    #[value(name = "fanout1000")]
    FanoutThousand,
    #[value(name = "fanout-single")]
    FanoutSingle,
    Udp,
}

/// What a case asks of a server.
#[derive(Clone, Copy, Debug)]
struct CaseLoad {
    pub kind: Kind,
    /// Of a room they are its members, one of whom talks.
    pub connections: usize,
    pub depth: usize,
    /// Of a request, in bytes.
    pub size: usize,
}

impl CaseLoad {
    /// How many get each request's answer.
    fn receivers(&self) -> usize {
        if self.kind == Kind::Room { self.connections - 1 } else { 1 }
    }
}

impl Case {
    /// As it is called on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn load(self) -> CaseLoad {
        let (kind, connections, depth, size) = match self {
            Case::One => (Kind::Echo, 1, 1, 64),
            Case::Fifty => (Kind::Echo, 50, 1, 64),
            Case::Thousand => (Kind::Echo, 1000, 1, 64),
            Case::Deep => (Kind::Echo, 50, 16, 64),
            Case::Large => (Kind::Echo, 50, 1, 16 * 1024),
            Case::Http => (Kind::Page, 50, 1, 64),
            Case::Fanout => (Kind::Room, 101, 64, 64),
            Case::FanoutThousand => (Kind::Room, 1001, 64, 64),
            Case::FanoutSingle => (Kind::Room, 101, 1, 64),
            Case::Udp => (Kind::Datagrams, 256, 1, 64),
        };
        CaseLoad { kind, connections, depth, size }
    }

    /// What is measured, in words.
    fn title(self) -> String {
        let CaseLoad { kind, connections, depth, size } = self.load();
        let plural = if connections == 1 { "" } else { "s" };
        match kind {
            Kind::Echo => format!("echo, {connections} connection{plural}, depth {depth}, {size} B"),
            Kind::Page => format!("http, {connections} connection{plural}, a page of one line"),
            Kind::Room => {
                let lines = if depth == 1 { "one line".into() } else { format!("{depth} lines") };
                let receivers = self.load().receivers();
                format!(
                    "fan-out, one sender and {receivers} receivers, {lines} in flight, {size} B; figures are per \
                     delivery"
                )
            }
            Kind::Datagrams => format!("echo over UDP, {connections} sources, depth {depth}, {size} B"),
        }
    }
}

/// What is told of each server, in this order.
const COLUMNS: [Column; 8] = [
    Column { key: "throughput_per_s", head: "throughput", words: figures::rate },
    Column { key: "p50_us", head: "p50", words: figures::time },
    Column { key: "p99_us", head: "p99", words: figures::time },
    Column { key: "p999_us", head: "p99.9", words: figures::time },
    Column { key: CPU, head: "server CPU", words: |ns| figures::time(ns / 1e3) },
    Column { key: SYSTEM_CALLS, head: "system calls", words: |calls| format!("{calls:.3}") },
    Column { key: INSTRUCTIONS, head: "instructions", words: |count| format!("{count:.0}") },
    Column { key: MEMORY, head: "idle memory", words: figures::bytes },
];

const CPU: &str = "server_cpu_ns";
const SYSTEM_CALLS: &str = "system_calls";
const INSTRUCTIONS: &str = "instructions";
const MEMORY: &str = "idle_connection_bytes";

struct Column {
    /// In the JSON.
    key: &'static str,
    head: &'static str,
    words: fn(f64) -> String,
}

/// What came of it. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
struct Compared {
    schema_version: u32,
    loadgen_version: &'static str,
    conditions: Conditions,
    /// Why some of it is missing.
    ended_early: Option<String>,
    /// Figures that cannot be counted here.
    not_counted: Vec<Missing>,
    cases: Vec<Measurement>,
}

/// One case.
#[derive(Serialize)]
struct Measurement {
    case: String,
    title: String,
    /// The server that the others are held against.
    reference: String,
    connections: usize,
    depth: usize,
    size: usize,
    requests_per_slice: u64,
    servers: Vec<Row>,
    missing: Vec<Missing>,
    /// Why some figures are missing.
    notes: Vec<String>,
}

/// One server.
#[derive(Serialize)]
struct Row {
    name: String,
    /// In how many slices the generator had too little CPU time.
    starved_slices: usize,
    /// The largest share of the machine's time that the hypervisor took from a slice.
    steal_share_max: Option<f64>,
    /// By the columns' keys; null if it is not known.
    figures: BTreeMap<&'static str, Option<Figure>>,
}

/// A figure of a server: over all slices, or over all counts.
#[derive(Serialize)]
struct Figure {
    #[serde(flatten)]
    estimate: Estimate,
    /// To that of the reference, round by round.
    ratio: Option<Estimate>,
    values: Vec<f64>,
}

impl Figure {
    fn of(values: Vec<f64>, reference: &[f64], random: &mut SmallRng) -> Option<Figure> {
        let estimate = Estimate::of(&values, random)?;
        Some(Figure { estimate, ratio: Estimate::of_ratios(&values, reference, random), values })
    }
}

/// What was counted or timed of one server, by the columns' keys.
type Values = BTreeMap<&'static str, Vec<f64>>;

fn main() -> ExitCode {
    if let Some(exit) = loadgen::be_a_child() {
        return exit;
    }
    let asked = match Versus::try_parse() {
        Ok(asked) if asked.headline.is_some() => Versus {
            cases: vec![Case::One, Case::Fifty, Case::Thousand],
            only: headline::SERVERS.map(str::to_owned).into(),
            ..asked
        },
        Ok(asked) => asked,
        Err(error) => {
            message!("{}", loadgen::complaint(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    loadgen::stop_on_signal().and_then(|stop| versus(&asked, &stop)).unwrap_or_else(|error| {
        message!("{error:#}");
        ExitCode::from(if error.is::<Usage>() { EXIT_USAGE } else { EXIT_INVALID })
    })
}

/// Builds what is to be measured, measures it, and tells what came of it.
fn versus(versus: &Versus, stop: &AtomicBool) -> Result<ExitCode> {
    check(versus)?;
    let ([json, markdown, html], shown) = Output::open_all([
        ("--json", versus.json.as_deref()),
        ("--markdown", versus.markdown.as_deref()),
        ("--html", versus.html.as_deref()),
    ])?;
    if let Some(folder) = versus.headline.as_deref().and_then(|path| Path::new(path).parent()) {
        fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    }
    let needs_workshop = versus.record
        || versus.headline.is_some()
        || versus.only.is_empty()
        || versus.only.iter().any(|only| peers::names().contains(&only.as_str()));
    let workshop = needs_workshop.then(|| Workshop::find(versus.peers.as_deref())).transpose()?;
    os::raise_descriptor_limit(Effort::of(versus).connections_max())?;

    let mut comparison = Comparison::new(versus, workshop, stop)?;
    let mut written = Written::default();
    written.add(shown.print(&comparison.compared.conditions));
    for missing in &comparison.compared.not_counted {
        written.add(shown.print(format_args!("{missing}\n")));
    }
    let outcome = comparison.measure(|measurement| written.add(shown.print(format_args!("\n{measurement}"))));
    let Comparison { mut compared, workshop, .. } = comparison;
    compared.ended_early = outcome.as_ref().err().map(|error| format!("{error:#}"));
    if let Some(words) = &compared.ended_early {
        written.add(shown.print(format_args!("\nEnded early: {words}\n")));
    }
    // What there is is worth having, even if something went wrong.
    written.add(write(json, |out| json::write(out, &compared)));
    written.add(write(markdown, |out| table::write_markdown(out, &compared)));
    written.add(write_page(html, || Ok(page::page(&compared))));
    if let (true, Some(workshop), Ok(())) = (versus.record, &workshop, &outcome) {
        written.add(record::keep(&compared, &workshop.root().join("benches/record")));
    }
    if let (Some(path), Some(workshop), Ok(())) = (&versus.headline, &workshop, &outcome) {
        written.add(headline::draw(&compared, workshop.root(), path));
    }
    if let Err(error) = &outcome {
        message!("{error:#}");
    }
    written.all()?;
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => ExitCode::from(EXIT_USAGE),
        Err(_) => ExitCode::from(EXIT_INVALID),
    })
}

/// Whether all that is named is there, and no name is twice.
fn check(versus: &Versus) -> Result<()> {
    let known = peers::names();
    for (index, given) in versus.servers.iter().enumerate() {
        let is_other = |other: &str| other == given.name;
        if known.iter().any(|name| is_other(name))
            || versus.servers[..index].iter().any(|other| is_other(&other.name))
        {
            return Err(Usage(format!("--server {}: another server has this name", given.name)).into());
        }
    }
    let given = || versus.servers.iter().map(|server| server.name.as_str());
    for only in &versus.only {
        if !known.contains(&only.as_str()) && !given().any(|name| name == only) {
            let all: Vec<_> = known.iter().copied().chain(given()).collect();
            return Err(
                Usage(format!("--only {only}: unknown server; the servers are {}", all.join(", "))).into()
            );
        }
    }
    Ok(())
}

/// All of it, on its way.
struct Comparison<'a> {
    asked: &'a Versus,
    workshop: Option<Workshop>,
    placement: Placement,
    effort: Effort,
    random: SmallRng,
    stop: &'a AtomicBool,
    /// What an idle connection takes does not depend on the case: by kind and name.
    memory: HashMap<(String, Kind), Vec<f64>>,
    tools: Tools,
    compared: Compared,
}

impl<'a> Comparison<'a> {
    fn new(asked: &'a Versus, workshop: Option<Workshop>, stop: &'a AtomicBool) -> Result<Comparison<'a>> {
        let placement = Placement::choose()?;
        let effort = Effort::of(asked);
        let (tools, not_counted) = Tools::find();
        let root = workshop.as_ref().map(Workshop::root);
        let conditions = Conditions::of(&placement, root, asked, effort);
        Ok(Comparison {
            asked,
            workshop,
            placement,
            effort,
            random: SmallRng::seed_from_u64(asked.seed),
            stop,
            memory: HashMap::new(),
            tools,
            compared: Compared {
                schema_version: SCHEMA_VERSION,
                loadgen_version: env!("CARGO_PKG_VERSION"),
                conditions,
                ended_early: None,
                not_counted,
                cases: Vec::new(),
            },
        })
    }

    /// Case by case; each is shown once it is there.
    fn measure(&mut self, mut show: impl FnMut(&Measurement)) -> Result<()> {
        let cases = match self.asked.cases.as_slice() {
            [] => Case::value_variants(),
            cases => cases,
        };
        let kinds = cases.chunk_by(|one, next| one.load().kind == next.load().kind);
        for cases in kinds {
            let Some(kind) = cases.first().map(|case| case.load().kind) else { continue };
            self.tell(&format!("building and starting what {} needs", cases[0].name()));
            let (peers, mut missing) = peers::gather(kind, self.asked, self.workshop.as_ref())?;
            let mut contenders = self.start(peers, &mut missing)?;
            for &case in cases {
                let measurement = if contenders.is_empty() {
                    Measurement::empty(case, missing.clone())
                } else {
                    self.measure_case(case, &mut contenders, missing.clone())?
                };
                show(&measurement);
                self.compared.cases.push(measurement);
            }
        }
        Ok(())
    }

    /// Starts them on their processor. A peer that this system does not let run is missing; our own server, and those that
    /// were given, have to run.
    fn start(&self, peers: Vec<Peer>, missing: &mut Vec<Missing>) -> Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        for peer in peers {
            let (name, is_required) = (peer.name.clone(), peer.is_required);
            match self.on_servers_processor(|| Contender::start(peer, self.stop)) {
                Ok(contender) => contenders.push(contender),
                Err(error) if is_required || self.stop.load(Ordering::Relaxed) => return Err(error),
                Err(error) => missing.push(Missing { name, why: format!("it does not start: {error:#}") }),
            }
        }
        Ok(contenders)
    }

    /// Does what starts servers where they belong.
    fn on_servers_processor<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        self.placement.pin_server()?;
        let started = start();
        self.placement.pin_loadgen()?;
        started
    }

    fn measure_case(
        &mut self,
        case: Case,
        contenders: &mut [Contender],
        missing: Vec<Missing>,
    ) -> Result<Measurement> {
        self.tell(&format!(
            "{}: {}, {}",
            case.name(),
            counted(contenders.len(), "server"),
            of_many(self.effort.rounds.into(), "round")
        ));
        let requests = rounds::measure(contenders, case, &self.effort, &mut self.random, self.stop)?;
        let mut notes = Vec::new();
        let all: Vec<Values> =
            contenders.iter_mut().map(|contender| self.values_of(case, contender, &mut notes)).collect();
        ensure!(!self.stop.load(Ordering::Relaxed), "ended by a signal while {} was measured", case.name());
        let reference = all.first().cloned().unwrap_or_default();
        let mut servers = Vec::new();
        for (contender, values) in contenders.iter().zip(&all) {
            let figures = COLUMNS.iter().map(|&Column { key, .. }| {
                let others = reference.get(key).map_or(&[][..], Vec::as_slice);
                let figure =
                    values.get(key).and_then(|own| Figure::of(own.clone(), others, &mut self.random));
                (key, figure)
            });
            let figures = figures.collect();
            let slices = &contender.slices;
            servers.push(Row {
                name: contender.peer.name.clone(),
                starved_slices: slices.iter().filter(|slice| slice.verdict == Verdict::Invalid).count(),
                steal_share_max: slices.iter().filter_map(|slice| slice.steal_share).reduce(f64::max),
                figures,
            });
        }
        Ok(Measurement {
            reference: servers.first().map(|first| first.name.clone()).unwrap_or_default(),
            requests_per_slice: requests,
            servers,
            notes,
            ..Measurement::empty(case, missing)
        })
    }

    /// All that is known of a server; what cannot be counted is noted.
    fn values_of(&mut self, case: Case, contender: &mut Contender, notes: &mut Vec<String>) -> Values {
        let mut values = timed(&contender.slices);
        let (stop, times) = (self.stop, self.effort.counts);
        let (peer, kind) = (contender.peer.clone(), case.load().kind);
        self.tell(&format!("{}: counting {}", case.name(), peer.name));
        let mut note = |key, what, counted: Result<Vec<f64>>| match counted {
            Ok(counted) => {
                values.insert(key, counted);
            }
            Err(error) => notes.push(format!("{what} of {} are not known: {error:#}", peer.name)),
        };
        if self.tools.strace {
            note(
                SYSTEM_CALLS,
                "system calls",
                counting::system_calls(contender, case, times, stop).context("strace"),
            );
        }
        if !counting::suits(kind) {
            return values;
        }
        let start = |prefix: &str| self.on_servers_processor(|| peer.start(prefix, stop));
        if self.tools.valgrind {
            note(
                INSTRUCTIONS,
                "instructions",
                counting::instructions(&peer, case, times, &start, stop).context("callgrind"),
            );
        }
        let key = (peer.name.clone(), kind);
        let memory = match self.memory.get(&key) {
            Some(memory) => Ok(memory.clone()),
            None => counting::memory(&peer, case, self.effort.idle_connections, times, &start, stop),
        };
        if let Ok(memory) = &memory {
            self.memory.insert(key, memory.clone());
        }
        note(MEMORY, "bytes per idle connection", memory);
        values
    }

    fn tell(&self, words: &str) {
        if !self.asked.quiet {
            message!("{words}");
        }
    }
}

/// What counts, beside loadgen itself.
#[derive(Clone, Copy)]
struct Tools {
    strace: bool,
    valgrind: bool,
}

impl Tools {
    /// Those that are here, and what is to be said of those that are not.
    fn find() -> (Tools, Vec<Missing>) {
        let mut missing = Vec::new();
        let strace = syscalls::check();
        if let Err(words) = &strace {
            let why = words.trim_start_matches("--syscalls").trim_start_matches([':', ' ']);
            missing.push(Missing { name: "system calls".into(), why: why.into() });
        }
        let valgrind = peers::is_installed("valgrind");
        if !valgrind {
            let why = "valgrind is not installed: apt install valgrind";
            missing.push(Missing { name: "instructions".into(), why: why.into() });
        }
        (Tools { strace: strace.is_ok(), valgrind }, missing)
    }
}

/// What the slices say, by the columns' keys; of a room per delivery.
fn timed(slices: &[Report]) -> Values {
    let all = |of: &dyn Fn(&Report) -> Option<f64>| -> Vec<f64> { slices.iter().filter_map(of).collect() };
    let time =
        |quantile: &str| all(&|slice| slice.service_time_us.as_ref().and_then(|times| times.at(quantile)));
    let cpu = |slice: &Report| slice.server_cpu_ns_per_delivery.or(slice.server_cpu_ns_per_request);
    Values::from([
        ("throughput_per_s", all(&|slice| Some(slice.deliveries_per_s.unwrap_or(slice.throughput_per_s)))),
        ("p50_us", time("p50")),
        ("p99_us", time("p99")),
        ("p999_us", time("p999")),
        (CPU, all(&cpu)),
    ])
}

impl Measurement {
    /// Nothing is measured yet.
    fn empty(case: Case, missing: Vec<Missing>) -> Measurement {
        let CaseLoad { connections, depth, size, .. } = case.load();
        Measurement {
            case: case.name(),
            title: case.title(),
            reference: String::new(),
            connections,
            depth,
            size,
            requests_per_slice: 0,
            servers: Vec::new(),
            missing,
            notes: Vec::new(),
        }
    }
}
