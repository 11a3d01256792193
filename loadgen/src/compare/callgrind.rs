//! What a server executes for a request: its life under callgrind, twice, with more requests the second time.
//!
//! The difference leaves out what it does once. What is left is counted and not timed, so that it is the same again and
//! again, whatever else the machine does.
//!
//! ```text
//!     fn=(7) b'a'main          this function, called by a, called by main
//!     12 40                    at line 12 it has itself executed 40 instructions
//!     cfn=(9) malloc'b'a'main  it calls this one
//!     calls=2 30               twice
//!     13 500                   from line 13; they have executed 500, which are told where malloc's own are
//! ```

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::case::{Case, Side};
use crate::placement::Placement;
use crate::run::Watch;
use crate::stream::Stream;
use crate::trial::{lock_step, verified};

/// Requests of the first life. They also grow what a server grows to its size.
const REQUESTS: u64 = 500;

/// How many the second life has more: as many as take so much CPU time, going by the first ones, which valgrind
/// makes much slower than those that follow, and between these bounds. With more of them it matters less what
/// a server does by the clock, such as the date that it writes anew each second.
const MORE_TIME: Duration = Duration::from_secs(1);
const MORE_MIN: u64 = 500;
const MORE_MAX: u64 = 20_000;

/// Under valgrind a server takes some fifty times as long.
const SLOW_TIMEOUT: Duration = Duration::from_secs(60);

/// What a server that takes signals may take to end, with its files written.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Functions of a stack, the innermost ones: from a request down to where it is answered.
const CALLERS: usize = 24;

/// What has no name in its program's table of symbols.
const NAMELESS: &str = "(no name)";

/// Functions that allocate, and what allocators put before these names.
const ALLOCATORS: [&str; 16] = [
    "aligned_alloc",
    "calloc",
    "malloc",
    "malloc_aligned",
    "mallocx",
    "memalign",
    "posix_memalign",
    "pvalloc",
    "rallocx",
    "realloc",
    "realloc_aligned",
    "reallocarray",
    "reallocf",
    "valloc",
    "zalloc",
    "zalloc_aligned",
];
const ALLOCATOR_PREFIXES: [&str; 6] = ["__libc_", "_rjem_", "je_", "mi_", "rpmalloc_", "tc_"];

/// Tells why callgrind cannot count here, if that can be known before anything is started.
pub fn check() -> Result<(), String> {
    match Command::new("valgrind").arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("valgrind --version ends with {}", output.status)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err("valgrind is not installed: apt install valgrind".into())
        }
        Err(error) => Err(format!("valgrind cannot be started: {error}")),
    }
}

/// What a server executes in user space for a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    pub instructions: f64,
    /// Calls of functions that allocate. None if they would not be seen, as in a static program without symbols.
    pub allocations: Option<f64>,
    /// Instructions of functions themselves, without those that they call.
    pub functions: BTreeMap<String, f64>,
    /// The same by stack, outermost function first: `main;a;b`.
    pub stacks: BTreeMap<String, f64>,
}

impl Profile {
    /// For each of the requests that the second life has more.
    fn between(low: &Executed, high: &Executed, requests: u64) -> Profile {
        let per_request = |low: u64, high: u64| (high as f64 - low as f64) / requests as f64;
        let mut profile = Profile {
            instructions: per_request(low.instructions, high.instructions),
            allocations: high
                .allocations
                .map(|allocations| per_request(low.allocations.unwrap_or(0), allocations)),
            ..Profile::default()
        };
        let mut names = Demangled::default();
        let gone = low.by_stack.keys().filter(|stack| !high.by_stack.contains_key(*stack));
        for stack in high.by_stack.keys().chain(gone) {
            let count = |of: &Executed| of.by_stack.get(stack).copied().unwrap_or(0);
            let change = per_request(count(low), count(high));
            if change == 0.0 {
                continue;
            }
            let functions: Vec<_> = functions(stack).map(|symbol| names.of(symbol)).collect();
            let folded = functions.iter().rev().map(|name| name.replace(';', ","));
            *profile.stacks.entry(folded.collect::<Vec<_>>().join(";")).or_default() += change;
            if let Some(innermost) = functions.into_iter().next() {
                *profile.functions.entry(innermost).or_default() += change;
            }
        }
        profile
    }

    /// Of several counts of the same server.
    pub fn mean(profiles: &[Profile]) -> Option<Profile> {
        let share = 1.0 / profiles.len() as f64;
        let mut profiles = profiles.iter();
        let mut mean = profiles.next()?.scaled(share);
        for profile in profiles {
            let profile = profile.scaled(share);
            mean.instructions += profile.instructions;
            mean.allocations = mean.allocations.zip(profile.allocations).map(|(sum, one)| sum + one);
            add(&mut mean.functions, profile.functions);
            add(&mut mean.stacks, profile.stacks);
        }
        Some(mean)
    }

    fn scaled(&self, factor: f64) -> Profile {
        let scaled = |counts: &BTreeMap<String, f64>| {
            counts.iter().map(|(name, count)| (name.clone(), count * factor)).collect()
        };
        Profile {
            instructions: self.instructions * factor,
            allocations: self.allocations.map(|allocations| allocations * factor),
            functions: scaled(&self.functions),
            stacks: scaled(&self.stacks),
        }
    }
}

fn add(sums: &mut BTreeMap<String, f64>, counts: BTreeMap<String, f64>) {
    for (name, count) in counts {
        *sums.entry(name).or_default() += count;
    }
}

/// Lives of the servers of a case under callgrind.
pub struct Lives<'a> {
    case: Case,
    placement: &'a Placement,
    stop: &'a AtomicBool,
    /// How many requests the second life has more than the first: the same for both sides, once a life has shown how much
    /// CPU time they take.
    more: OnceCell<u64>,
}

impl<'a> Lives<'a> {
    /// None of them has begun.
    pub fn new(case: &Case, placement: &'a Placement, stop: &'a AtomicBool) -> Lives<'a> {
        let mut case = case.clone();
        let start_timeout = case.run.options.start_timeout().max(SLOW_TIMEOUT);
        case.run.options.start_timeout = Some(start_timeout);
        case.run.options.timeout = Some(SLOW_TIMEOUT);
        Lives { case, placement, stop, more: OnceCell::new() }
    }

    /// What a request takes, counted in two lives.
    pub fn profile(&self, side: Side) -> Result<Profile> {
        let (low, cpu) = self.life(side, REQUESTS)?;
        let more = *self.more.get_or_init(|| more(cpu));
        let (high, _) = self.life(side, REQUESTS + more)?;
        let profile = Profile::between(&low, &high, more);
        // No server answers a request with none.
        ensure!(
            profile.instructions > 1.0,
            "more requests took no more instructions: {} and {}",
            low.instructions,
            high.instructions
        );
        Ok(profile)
    }

    /// One life, from the server's start to its end, with so many requests one after the other, and the CPU time that they took.
    fn life(&self, side: Side, requests: u64) -> Result<(Executed, Duration)> {
        let folder = Folder::new()?;
        self.placement.pin_server()?;
        let started = self.case.start(side, &folder.prefix()?, self.stop);
        self.placement.pin_loadgen()?;
        let (mut server, run) = started.context("under valgrind")?;
        let run = lock_step(&run, requests);
        let driven = verified(&run, &mut server, Watch::nobody(), self.stop);
        let (_, measured) = driven.context("under valgrind")?;
        // It writes its files when it ends. In calls that valgrind does not know to block, such as io_uring_enter, it holds
        // signals back; one connection more wakes whoever sleeps there. Nobody else has one, because it would be counted.
        server.ask_to_end();
        if server.check(END_PATIENCE).is_ok() {
            let _ = Stream::connect(&run.options.target.address.peer, None, SLOW_TIMEOUT);
        }
        drop(server);
        Ok((folder.read()?, measured.server_cpu.unwrap_or(measured.elapsed)))
    }
}

/// How many requests more than those of the first life, which took so much.
fn more(cpu: Duration) -> u64 {
    let in_time = MORE_TIME.as_secs_f64() / cpu.as_secs_f64() * REQUESTS as f64;
    (in_time as u64).clamp(MORE_MIN, MORE_MAX)
}

/// Where callgrind writes.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Result<Folder> {
        let folder = tempfile::tempdir().context("a folder for callgrind")?;
        // One file for each process, whoever's it is: some servers give their workers to nobody.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))
            .context("the folder for callgrind")?;
        Ok(Folder(folder))
    }

    /// What stands before a command to have it counted.
    pub fn prefix(&self) -> Result<String> {
        let place = self.0.path().to_str().context("the folder for callgrind is not UTF-8")?;
        let place = shlex::try_quote(place).context("the folder for callgrind")?;
        Ok(format!(
            "valgrind --tool=callgrind --trace-children=yes --separate-callers={CALLERS} --demangle=no --dump-line=no \
             --callgrind-out-file={place}/out.%p --log-file=/dev/null "
        ))
    }

    /// The sum over all processes, which have ended.
    pub fn read(&self) -> Result<Executed> {
        let mut sum = None;
        for entry in fs::read_dir(self.0.path()).context("what callgrind wrote")? {
            let text = fs::read(entry?.path()).context("what callgrind wrote")?;
            let executed = Executed::read(&String::from_utf8_lossy(&text))
                .context("what callgrind wrote (did the server not end when it was told to?)")?;
            sum.get_or_insert_with(Executed::default).add(executed);
        }
        sum.context("callgrind wrote nothing")
    }
}

/// What has been executed, as callgrind counts it.
#[derive(Debug, Default, PartialEq)]
pub struct Executed {
    pub instructions: u64,
    /// Calls of functions that allocate, but for those by others of them. None if there is neither one nor a `main`, because
    /// then their names are not known.
    allocations: Option<u64>,
    /// Instructions of functions themselves, by symbol, with those of their callers after it: `b'a'main`.
    by_stack: HashMap<String, u64>,
}

impl Executed {
    fn add(&mut self, other: Executed) {
        self.instructions += other.instructions;
        self.allocations = match (self.allocations, other.allocations) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        for (stack, count) in other.by_stack {
            *self.by_stack.entry(stack).or_default() += count;
        }
    }

    /// Reads a file of callgrind's.
    fn read(text: &str) -> Result<Executed> {
        let mut executed = Executed::default();
        let mut names = Names::default();
        let mut columns = Columns::default();
        let (mut function, mut callee) = ("", "");
        // What the line after a call or a jump says is told elsewhere as well.
        let mut is_elsewhere = false;
        let mut total = None;
        for line in text.lines() {
            let unreadable = || format!("the line {line:?} of a callgrind file");
            if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                if !std::mem::take(&mut is_elsewhere) {
                    let cost = columns.instructions(line).with_context(unreadable)?;
                    if cost > 0 {
                        *executed.by_stack.entry(function.to_owned()).or_default() += cost;
                    }
                }
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = names.of(name).with_context(unreadable)?;
                // Its program has its symbols: one that allocates would be seen.
                if functions(function).next() == Some("main") {
                    executed.allocations.get_or_insert(0);
                }
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = names.of(name).with_context(unreadable)?;
            } else if let Some(call) = line.strip_prefix("calls=") {
                is_elsewhere = true;
                if allocates(callee) {
                    let count: u64 = call
                        .split_whitespace()
                        .next()
                        .unwrap_or_default()
                        .parse()
                        .with_context(unreadable)?;
                    let calls = if allocates(caller(function)) { 0 } else { count };
                    *executed.allocations.get_or_insert(0) += calls;
                }
            } else if line.starts_with("jump=") || line.starts_with("jcnd=") {
                is_elsewhere = true;
            } else if let Some(positions) = line.strip_prefix("positions:") {
                columns.positions = positions.split_whitespace().count();
            } else if let Some(events) = line.strip_prefix("events:") {
                let instructions = events.split_whitespace().position(|event| event == "Ir");
                columns.event = instructions.context("a callgrind file that counts no instructions")?;
            } else if let Some(totals) = line.strip_prefix("totals:") {
                let totals: Vec<_> = totals.split_whitespace().collect();
                total = totals
                    .get(columns.event)
                    .map(|total| total.parse())
                    .transpose()
                    .with_context(unreadable)?;
            }
        }
        match total {
            Some(total) => Ok(Executed { instructions: total, ..executed }),
            None => bail!("a callgrind file is not whole: it has no total"),
        }
    }
}

/// Which words of a line are its costs.
struct Columns {
    positions: usize,
    /// The index of the instructions among the costs.
    event: usize,
}

impl Default for Columns {
    fn default() -> Columns {
        Columns { positions: 1, event: 0 }
    }
}

impl Columns {
    /// The instructions of a line; those that are left out at its end are 0.
    fn instructions(&self, line: &str) -> Result<u64> {
        let word = line.split_whitespace().nth(self.positions + self.event);
        Ok(word.map_or(Ok(0), str::parse)?)
    }
}

/// Names, each of which is written once, as `(id) name`, and then `(id)`.
#[derive(Default)]
struct Names<'a>(HashMap<u64, &'a str>);

impl<'a> Names<'a> {
    fn of(&mut self, text: &'a str) -> Result<&'a str> {
        let numbered = text.strip_prefix('(').and_then(|text| text.split_once(')'));
        let Some((Ok(id), name)) = numbered.map(|(id, name)| (id.parse(), name.trim_start())) else {
            return Ok(text);
        };
        if name.is_empty() {
            return self.0.get(&id).copied().context("a name that was not given before");
        }
        self.0.insert(id, name);
        Ok(name)
    }
}

/// The stack from its first function that has a name: stubs that lead to another object have none.
fn caller(stack: &str) -> &str {
    let mut stack = stack;
    while let Some((symbol, rest)) = stack.split_once('\'')
        && is_nameless(symbol)
    {
        stack = rest;
    }
    stack
}

/// callgrind tells an address, which is another one in every program.
fn is_nameless(symbol: &str) -> bool {
    symbol.starts_with("0x") || symbol.is_empty()
}

/// The function and its callers. Where a function calls itself the depth of that is among them.
fn functions(stack: &str) -> impl Iterator<Item = &str> {
    stack.split('\'').filter(|symbol| symbol.parse::<u32>().is_err())
}

fn allocates(stack: &str) -> bool {
    let symbol = functions(stack).next().unwrap_or_default();
    let name = stem(symbol);
    let name = ALLOCATOR_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    ALLOCATORS.contains(&name)
}

/// Symbols as their languages write them, each made out once.
#[derive(Default)]
struct Demangled<'a>(HashMap<&'a str, String>);

impl<'a> Demangled<'a> {
    fn of(&mut self, symbol: &'a str) -> String {
        self.0.entry(symbol).or_insert_with(|| demangled(symbol)).clone()
    }
}

fn demangled(symbol: &str) -> String {
    if is_nameless(symbol) {
        return NAMELESS.to_owned();
    }
    let symbol = stem(symbol);
    if let Ok(name) = rustc_demangle::try_demangle(symbol) {
        // Without its hash, which is another one in every build.
        return format!("{name:#}");
    }
    let cpp = cpp_demangle::Symbol::new(symbol).ok().filter(|_| symbol.starts_with("_Z"));
    cpp.and_then(|name| name.demangle().ok()).unwrap_or_else(|| symbol.to_owned())
}

/// A symbol without its version (`malloc@@GLIBC_2.2.5`) and without the number of its copy (`write.llvm.123`), which is
/// another one in every build.
fn stem(symbol: &str) -> &str {
    let mut stem = symbol.split('@').next().unwrap_or(symbol);
    while let Some((rest, copy)) = stem.rsplit_once('.') {
        if copy != "llvm" && copy.parse::<u64>().is_err() {
            break;
        }
        stem = rest;
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 7
cmd: ./server --fn=1
part: 1

desc: I1 cache:
desc: Trigger: Program termination

positions: line
events: Ir
summary: 1000

ob=(1) /usr/bin/server
fl=(1) server.c
fn=(1) main
10 5
+2 3
cfi=(2) other.c
cfn=(2) answer'main
calls=4 20
* 900
-1 2

fn=(2)
20 60
fi=(3) inline.h
7 40
fe=(1)
cfn=(3) malloc'answer'main
calls=8 0
21 500
cfn=(4) calloc'answer'main
calls=1 0
22 200
cfn=(5) (below main)'2'answer'main
calls=1 0
23 100

fn=(4)
0 30
cfn=(6) malloc'calloc'answer'main
calls=1 0
0 170
cfn=(7) 0x123'calloc'answer'main
calls=1 0
0 10

fn=(7)
0 4
cfn=(8) malloc'0x123'calloc'answer'main
calls=1 0
0 6

fn=(8)
0 6

fn=(3)
0 500

fn=(6)
0 170

fn=(5)
0 100
+0 90

totals: 1010
";

    #[test]
    fn what_functions_themselves_execute_is_apart_from_what_they_call() {
        let executed = Executed::read(FILE).unwrap();
        let mut stacks: Vec<_> =
            executed.by_stack.iter().map(|(name, &count)| (name.as_str(), count)).collect();
        stacks.sort();
        assert_eq!(
            stacks,
            [
                ("(below main)'2'answer'main", 190),
                ("0x123'calloc'answer'main", 4),
                ("answer'main", 100),
                ("calloc'answer'main", 30),
                ("main", 10),
                ("malloc'0x123'calloc'answer'main", 6),
                ("malloc'answer'main", 500),
                ("malloc'calloc'answer'main", 170),
            ]
        );
        assert_eq!(executed.instructions, 1010);
        assert_eq!(executed.instructions, executed.by_stack.values().sum::<u64>());
        assert_eq!(executed.allocations, Some(9), "not the one that calloc makes");
    }

    #[test]
    fn columns_are_as_the_file_says() {
        let text = "\
positions: instr line
events: Dr Ir Dw
fn=a
0x100 1 7 20 3
+3 * 9
0x110 2 8 30
jcnd=1/2 0x120 9
0x118 3
jump=4 0x120 9
0x119 3
+1 +1 0 5
totals: 24 55 3
";
        let executed = Executed::read(text).unwrap();
        assert_eq!(executed.by_stack, HashMap::from([("a".into(), 55)]));
        assert_eq!((executed.instructions, executed.allocations), (55, None));
        // It has its symbols, and none of them is one that allocates.
        let executed = Executed::read(&text.replace("fn=a", "fn=main'(below main)")).unwrap();
        assert_eq!(executed.allocations, Some(0));
    }

    #[test]
    fn a_file_that_is_not_whole_is_none() {
        let error = |text: &str| format!("{:#}", Executed::read(text).unwrap_err());
        assert!(error(&FILE.replace("totals: 1010\n", "")).contains("not whole"));
        assert!(error(&FILE.replace("20 60", "20 many")).contains("20 many"));
        assert!(error(&FILE.replace("fn=(4)\n0", "fn=(9)\n0")).contains("not given before"));
        assert!(error(&FILE.replace("calls=8", "calls=eight")).contains("calls=eight"));
        assert!(error(&FILE.replace("events: Ir", "events: Dr")).contains("no instructions"));
    }

    /// Of functions that have executed so much themselves, each called by `main`.
    fn executed(allocations: Option<u64>, functions: &[(&str, u64)]) -> Executed {
        let by_stack: HashMap<_, _> =
            functions.iter().map(|&(name, count)| (format!("{name}'main"), count)).collect();
        Executed { instructions: by_stack.values().sum(), allocations, by_stack }
    }

    #[test]
    fn what_is_done_once_is_in_no_profile() {
        let low = executed(Some(100), &[("start", 7000), ("read", 1000), ("write", 500)]);
        let high = executed(Some(300), &[("start", 7000), ("read", 3000), ("write", 1500), ("late", 20)]);
        let profile = Profile::between(&low, &high, 100);
        assert_eq!((profile.instructions, profile.allocations), (30.2, Some(2.0)));
        let functions: Vec<_> =
            profile.functions.iter().map(|(name, &count)| (name.as_str(), count)).collect();
        assert_eq!(functions, [("late", 0.2), ("read", 20.0), ("write", 10.0)]);
        assert_eq!(profile.stacks["main;read"], 20.0);
        // Nothing that allocates has a name.
        let (low, high) = (executed(None, &[("a", 1)]), executed(None, &[("a", 2)]));
        assert_eq!(Profile::between(&low, &high, 1).allocations, None);
    }

    #[test]
    fn there_are_as_many_requests_as_there_is_time_for() {
        for (cpu_ms, requests) in [(100, 5000), (0, MORE_MAX), (1, MORE_MAX), (5000, MORE_MIN)] {
            assert_eq!(more(Duration::from_millis(cpu_ms)), requests);
        }
    }

    #[test]
    fn the_mean_is_over_all_counts() {
        let profile =
            |count| Profile::between(&executed(Some(0), &[]), &executed(Some(count), &[("a", count)]), 1);
        let other = Profile::between(&executed(Some(0), &[]), &executed(Some(6), &[("b", 6)]), 1);
        let mean = Profile::mean(&[profile(2), profile(4), other]).unwrap();
        assert!((mean.instructions - 4.0).abs() < 1e-9 && (mean.allocations.unwrap() - 4.0).abs() < 1e-9);
        assert!((mean.functions["a"] - 2.0).abs() < 1e-9 && (mean.functions["b"] - 2.0).abs() < 1e-9);
        assert!((mean.stacks["main;b"] - 2.0).abs() < 1e-9);
        assert_eq!(Profile::mean(&[]), None);
    }

    #[test]
    fn processes_are_added() {
        let mut sum = executed(None, &[("a", 1), ("b", 2)]);
        sum.add(executed(Some(3), &[("b", 4)]));
        sum.add(executed(Some(5), &[]));
        assert_eq!(sum, executed(Some(8), &[("a", 1), ("b", 6)]));
    }

    #[test]
    fn names_are_those_of_their_languages() {
        for (symbol, name) in [
            ("_ZN6server5write17h0123456789abcdefE", "server::write"),
            ("_ZN6server5write17h0123456789abcdefE.llvm.123", "server::write"),
            ("_ZN6server5write17h0123456789abcdefE.1881", "server::write"),
            ("_RNvC6server5write", "server::write"),
            ("write.part.0", "write.part"),
            ("fclose@@GLIBC_2.2.5", "fclose"),
            ("_ZN6server5writeEPKcm", "server::write(char const*, unsigned long)"),
            ("__memcpy_avx_unaligned_erms", "__memcpy_avx_unaligned_erms"),
            ("0x0000000000012340", "(no name)"),
        ] {
            assert_eq!(demangled(symbol), name);
        }
        let stacks = Profile::between(
            &Executed::default(),
            &executed(None, &[("_ZN60_$LT$$u5b$u8$u3b$$u20$4$u5d$$u20$as$u20$server..Write$GT$5write17h0123456789abcdefE", 1)]),
            1,
        )
        .stacks;
        let stack = stacks.keys().next().unwrap();
        assert_eq!(stack.matches(';').count(), 1, "it stands between functions alone: {stack}");
    }

    #[test]
    fn functions_that_allocate() {
        for symbol in [
            "malloc",
            "malloc'main",
            "malloc@@GLIBC_2.2.5'main",
            "realloc'2'main",
            "posix_memalign'main",
            "__libc_calloc",
            "_rjem_mallocx'main",
            "mi_malloc_aligned",
        ] {
            assert!(allocates(symbol), "{symbol}");
        }
        for symbol in ["free", "_int_malloc'malloc", "main'malloc", "my_malloc", ""] {
            assert!(!allocates(symbol), "{symbol}");
        }
    }
}
