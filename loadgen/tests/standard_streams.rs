//! Standard output and standard error that fail: nobody reads them any more, the disk is full, they are closed. What
//! cannot be printed is lost, and nothing else is: every file is written, and the exit code is that of the result.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::echo_server;
use super::outputs::Folder;

/// How a stream fails.
#[derive(Clone, Copy, Debug)]
enum Failing {
    /// Its reader is gone.
    Pipe,
    Full,
    Closed,
}

const ALL: [Failing; 3] = [Failing::Pipe, Failing::Full, Failing::Closed];

/// The descriptors that fail.
const STDOUT: [u8; 1] = [1];
const STDERR: [u8; 1] = [2];
const BOTH: [u8; 2] = [1, 2];

/// Runs loadgen with these streams; returns its exit code.
fn exit_code(arguments: &[&str], failing: Failing, descriptors: &[u8]) -> Option<i32> {
    let mut command = match failing {
        Failing::Closed => {
            let mut command = Command::new("sh");
            let closed: String = descriptors.iter().map(|number| format!(" {number}>&-")).collect();
            command.args(["-c", &format!("exec \"$0\" \"$@\"{closed}"), env!("CARGO_BIN_EXE_loadgen")]);
            command
        }
        _ => Command::new(env!("CARGO_BIN_EXE_loadgen")),
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let stream = || match failing {
        Failing::Pipe => Stdio::from(io::pipe().unwrap().1),
        Failing::Full => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        Failing::Closed => Stdio::null(),
    };
    if descriptors.contains(&1) {
        command.stdout(stream());
    }
    if descriptors.contains(&2) {
        command.stderr(stream());
    }
    command.status().unwrap().code()
}

/// A line for each of so many entries, none of which is worse than another.
fn history_file(folder: &Folder) -> String {
    let lines = (0..12).map(|index| {
        format!(
            r#"{{"date":"2026-01-{:02}T10:00:00Z","base":"{:040}","head":"{:040}","machine":"m","case":"c","metric":"cpu","unit":"ns","base_value":1.0,"head_value":1.0,"change":0.0,"low":-0.01,"high":0.01,"outcome":"PASS"}}"#,
            index + 1, 0, index
        ) + "\n"
    });
    let path = folder.path("history.jsonl");
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

#[test]
fn no_command_fails_or_loses_a_file_because_nobody_reads_what_it_prints() {
    let folder = Folder::new();
    let address = echo_server();
    let (echo, upper) = (format!("echo={address}"), format!("uppercase={address}"));
    let (log, history) = (folder.path("log"), history_file(&folder));
    super::loadgen(&["run", &echo, "-n", "10", "-w", "0", "--hlog", &log]);
    let slowed = format!("'{}' be-the-slowed-server {{port}} 0", env!("CARGO_BIN_EXE_loadgen"));
    let fails = "lost>=0";
    // Each prints at least one line on each stream, or has nothing to print; 3 also where loadgen had too little CPU.
    let commands: [(&[&str], &[i32]); 9] = [
        (&["run", &upper, "-n", "10", "-w", "0", "--fail-if", fails], &[3]),
        (&["run", &echo, "-r", "1k", "-n", "100", "-w", "0", "--fail-if", fails], &[1, 3]),
        (&["run", "--reconnect", &upper, "-n", "10", "-w", "0"], &[3]),
        (&["run", &echo, "-c", "1,2", "--repeat", "1", "-n", "50", "-w", "0"], &[0, 3]),
        (&["search", &echo, "--slo", "p99<10s", "-t", "20ms", "-w", "0", "--budget", "100ms"], &[0, 3]),
        (&["idle", &echo, "-c", "3", "--busy", "1", "-n", "10", "-w", "0", "--fail-if", fails], &[1, 3]),
        (&["merge", &log, "--fail-if", fails], &[1, 3]),
        (&["history", &history], &[0]),
        (
            &["compare", "--metric", "cpu", "--budget", "1ms", "--base", &slowed, "--head", &slowed],
            &[0, 1, 3, 4],
        ),
    ];
    for (index, (arguments, codes)) in commands.into_iter().enumerate() {
        for (at, descriptors) in [&STDOUT[..], &STDERR, &BOTH].into_iter().enumerate() {
            // Each way for each stream takes long, and they differ in the system's answer alone.
            for failing in
                ALL.into_iter().filter(|&failing| index < 3 || failing as usize == (index + at) % 3)
            {
                let name = format!("{index}-{at}-{failing:?}.json");
                let json = folder.path(&name);
                let code = exit_code(&[arguments, &["--json", &json]].concat(), failing, descriptors);
                let what = format!("{arguments:?}, {failing:?} {descriptors:?}");
                match (failing, descriptors.contains(&1)) {
                    // That the table is nowhere is an error, once everything else is done.
                    (Failing::Full, true) => assert_eq!(code, Some(3), "{what}"),
                    _ => assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:?}"),
                }
                let _: Value = serde_json::from_str(&folder.read(&name)).expect(&what);
            }
        }
    }
}

#[test]
fn the_first_line_of_a_long_run_is_enough_for_its_reader() {
    let folder = Folder::new();
    let (json, target) = (folder.path("json"), format!("echo={}", echo_server()));
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    // It prints its progress after five seconds, and again five seconds later.
    let pipeline = format!("'{loadgen}' run {target} -r 100 -t 11s -w 0 --json {json} 2>&1 | head -1");
    let output = Command::new("sh").args(["-c", &pipeline]).output().unwrap();
    let first = String::from_utf8(output.stdout).unwrap();
    assert!(first.contains("/11 s "), "{first}");
    let json: Value = serde_json::from_str(&folder.read("json")).unwrap();
    assert_eq!((&json["requests"], &json["lost"]), (&1100.into(), &0.into()), "{json}");
}

#[test]
fn mistakes_keep_their_exit_code() {
    let missing = "/nobody/has/this/folder/file";
    for failing in ALL {
        for (arguments, code) in [
            (&["run"][..], 2),
            (&["run", "echo=:1", "--no-such-option"], 2),
            (&["run", "echo=127.0.0.1:1", "--json", missing], 2),
            (&["run", "echo=127.0.0.1:1", "-n", "1"], 3),
            (&["merge", missing], 2),
            (&["history", missing], 2),
            (&["--help"], 0),
            (&["--version"], 0),
        ] {
            let got = exit_code(arguments, failing, &BOTH);
            assert_eq!(got, Some(code), "{arguments:?}, {failing:?}");
        }
    }
}

#[test]
fn idle_holds_though_nobody_reads_that_it_does() {
    let target = echo_server();
    for failing in ALL {
        for json in [&[][..], &["--json", "-"]] {
            let folder = Folder::new();
            let html = folder.path("html");
            let common = ["idle", &target, "-c", "3", "--busy", "1", "-n", "10", "-w", "0", "--html", &html];
            let code = exit_code(&[&common, json].concat(), failing, &BOTH);
            let is_full = matches!(failing, Failing::Full);
            assert!(
                if is_full { code == Some(3) } else { matches!(code, Some(0 | 3)) },
                "{failing:?}: {code:?}"
            );
            assert!(folder.read("html").contains("</html>"), "{failing:?}");
        }
    }
}
