//! `loadgen` without a command: what it measures, what it leaves behind, and how it ends before its time.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::{Signal, complaint, signal};

/// Started without a command; whatever belongs to it can be told by its environment.
struct Bare {
    child: Child,
    mark: String,
}

impl Bare {
    fn start(arguments: &[&str]) -> Bare {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(arguments)
            .env("LOADGEN_TEST", &mark)
            .env("COLUMNS", "80")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Bare { child, mark }
    }

    /// The processes that it has started.
    fn servers(&self) -> Vec<String> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits for the first result, and returns where the rest of standard error comes.
    fn first_result(&mut self) -> BufReader<ChildStderr> {
        let mut stderr = BufReader::new(self.child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("loadgen: 1 of 8: echo, full load: "), "{line}");
        stderr
    }

    fn signal(&self, name: Signal) {
        signal(self.child.id(), name);
    }

    /// Waits for the end; fails if a process is left. Returns the exit code and what went to standard output.
    fn end(self) -> (Option<i32>, String) {
        let output = self.child.wait_with_output().unwrap();
        let mark = format!("LOADGEN_TEST={}\0", self.mark);
        let left: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.path()))
            // What has ended meanwhile, or is somebody else's, cannot be read.
            .filter(|folder| {
                let environment = fs::read(folder.join("environ")).unwrap_or_default();
                environment.windows(mark.len()).any(|part| part == mark.as_bytes())
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}

fn services(toured: &Value) -> &[Value] {
    toured["services"].as_array().unwrap()
}

#[test]
fn all_services_are_measured_twice_and_nothing_is_left_behind() {
    let bare = Bare::start(&["-t", "100ms", "--seed", "7", "--json", "-", "-q"]);
    let (code, stdout) = bare.end();
    let toured: Value = serde_json::from_str(&stdout).unwrap();
    let names: Vec<_> = services(&toured).iter().map(|each| each["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "uppercase", "time", "chat"]);
    let mut all_valid = true;
    for each in services(&toured) {
        let (full, half) = (&each["full_load"], &each["half_load"]);
        let verdicts = [full, half].map(|report| report["verdict"] == "valid");
        all_valid &= verdicts == [true, true];
        assert_eq!(each["verdict"], if verdicts == [true, true] { "valid" } else { "invalid" });
        assert!(each["error"].is_null(), "{each}");
        for report in [full, half] {
            assert!(report["requests"].as_u64().unwrap() > 0, "{report}");
            assert_eq!((&report["errors"], &report["seed"]), (&0.into(), &7.into()), "{report}");
            assert_eq!(report["service"], each["service"]);
            // The tests share their processors: of those the generator may have had too little, and of nothing else.
            let limiter = &report["limiter"];
            assert!(limiter.is_null() || limiter == "generator's CPU", "{report}");
            assert!(report["server_cpu_ns_per_request"].as_f64().unwrap() > 100.0, "{report}");
        }
        let number = |value: &Value| value.as_f64().unwrap();
        assert!(full["rate_per_s"].is_null() && full["response_time_us"].is_null(), "{full}");
        // Reading JSON may change the last digit.
        let halves = 2.0 * number(&half["rate_per_s"]) / number(&full["throughput_per_s"]);
        assert!((halves - 1.0).abs() < 1e-9, "{halves}");
        assert!(number(&half["response_time_us"]["p50"]) > 0.0, "{half}");
        let is_chat = each["service"] == "chat";
        assert_eq!(full["deliveries"].as_u64().is_some_and(|count| count > 0), is_chat, "{full}");
    }
    assert_eq!(toured["verdict"], if all_valid { "valid" } else { "invalid" });
    assert_eq!(code, Some(if all_valid { 0 } else { 3 }));
    assert!(toured["ended_early"].is_null(), "{toured}");
    let cpus = |of: &str| -> Vec<u64> {
        toured[of].as_array().unwrap().iter().map(|cpu| cpu.as_u64().unwrap()).collect()
    };
    let (server, loadgen) = (cpus("server_cpus"), cpus("loadgen_cpus"));
    let is_alone = std::thread::available_parallelism().unwrap().get() == 1;
    assert_eq!(server.iter().any(|cpu| loadgen.contains(cpu)), is_alone, "{server:?} {loadgen:?}");
}

#[test]
fn the_table_has_a_row_for_each_service_and_no_control_characters() {
    let mut bare = Bare::start(&["-t", "50ms"]);
    let mut progress = String::new();
    bare.child.stderr.take().unwrap().read_to_string(&mut progress).unwrap();
    let (_, table) = bare.end();
    let is_control = |character: char| character.is_control() && character != '\n';
    assert!(!progress.contains(is_control) && !table.contains(is_control), "{progress:?}\n{table:?}");
    for row in ["echo ", "uppercase ", "time (UDP) ", "chat "] {
        let rows = table.lines().filter(|line| line.trim_start().starts_with(row) && line.ends_with("VALID"));
        assert_eq!(rows.count(), 1, "{row}\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    for place in 1..=8 {
        assert!(progress.contains(&format!("loadgen: {place} of 8: ")), "{progress}");
    }
}

#[test]
fn one_processor_is_shared_and_that_is_told() {
    let output = Command::new("taskset")
        .args(["-c", &first_processor(), env!("CARGO_BIN_EXE_loadgen"), "-t", "50ms", "-q"])
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("both on CPU "), "{table}");
}

/// One that this process may use.
fn first_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

#[test]
fn a_signal_ends_it_early_with_what_there_is() {
    let mut bare = Bare::start(&["-t", "1s", "--json", "-"]);
    let mut stderr = bare.first_result();
    bare.signal(Signal::INT);
    let mut told = String::new();
    stderr.read_to_string(&mut told).unwrap();
    let (code, stdout) = bare.end();
    assert!(told.contains("ended by a signal after 1 of 8"), "{told}");
    let toured: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(toured["ended_early"], "ended by a signal after 1 of 8");
    let [echo, others @ ..] = services(&toured) else { panic!("{toured}") };
    assert!(echo["full_load"]["requests"].as_u64().unwrap() > 0, "{echo}");
    for other in others {
        assert!(other["verdict"].is_null() && other["full_load"].is_null(), "{other}");
    }
    assert_eq!(code, Some(if toured["verdict"] == "valid" { 0 } else { 3 }));
    assert_eq!(toured["verdict"], echo["verdict"]);
}

#[test]
fn a_server_that_dies_is_told_and_ends_it() {
    let mut bare = Bare::start(&["-t", "1s"]);
    let mut stderr = bare.first_result();
    let [server] = bare.servers().try_into().unwrap();
    signal(server.parse().unwrap(), Signal::KILL);
    let mut told = String::new();
    stderr.read_to_string(&mut told).unwrap();
    let (code, table) = bare.end();
    assert_eq!(code, Some(3));
    assert!(told.contains("the embedded tidewheel exited: signal: 9"), "{told}");
    let is_there = |name: &str, verdict: &str| {
        table.lines().any(|line| line.trim_start().starts_with(name) && line.ends_with(verdict))
    };
    assert!(is_there("echo", "INVALID") && is_there("chat", "not measured"), "{table}");
}

#[test]
fn the_server_ends_with_loadgen_however_that_ends() {
    let mut bare = Bare::start(&["-t", "10m"]);
    let mut stderr = bare.child.stderr.take().unwrap();
    while bare.servers().is_empty() {
        std::thread::yield_now();
    }
    bare.signal(Signal::KILL);
    // The server has it open too, so its end comes with that of both.
    stderr.read_to_end(&mut Vec::new()).unwrap();
    bare.end();
}

#[test]
fn its_options_are_not_those_of_a_command() {
    complaint(&["-t", "5s", "idle", "127.0.0.1:1"], 2);
    complaint(&["-t", "5"], 2);
    complaint(&["--json", "/no/such/folder/json"], 2);
    let help = super::loadgen(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Without a command") && help.contains("search"), "{help}");
}
