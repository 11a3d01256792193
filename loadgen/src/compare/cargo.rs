//! Commands that have cargo build: which file they have made, as cargo itself says it.
//!
//! Where cargo puts it depends on too much to be guessed: `CARGO_TARGET_DIR`, `build.target-dir`, `build.target`, `--target`,
//! `--profile`. Its JSON messages name each executable, also one that was up to date.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::server::variables;

/// Subcommands that take `--message-format` and make executables to keep.
const BUILDS: [&str; 3] = ["build", "b", "rustc"];

/// cargo's own options, before the subcommand, that are followed by a value.
const VALUED: [&str; 4] = ["--config", "--color", "-C", "-Z"];

/// A command in which cargo builds, and no shell: `cargo build`, `nice /usr/bin/cargo +stable -q b`.
pub struct Cargo<'a> {
    words: &'a [String],
    /// The place after the subcommand.
    at: usize,
}

impl Cargo<'_> {
    pub fn of(words: &[String]) -> Option<Cargo<'_>> {
        let is_cargo = |word: &String| Path::new(word).file_name() == Some(OsStr::new("cargo"));
        let first = variables(words);
        let mut at = first + words[first..].iter().position(is_cargo)? + 1;
        if words.get(at).is_some_and(|word| word.starts_with('+')) {
            at += 1;
        }
        while let Some(option) = words.get(at).filter(|word| word.starts_with('-')) {
            at += if VALUED.contains(&option.as_str()) { 2 } else { 1 };
        }
        BUILDS.contains(&words.get(at)?.as_str()).then_some(Cargo { words, at: at + 1 })
    }

    /// The same with JSON messages on standard output, and into this folder if there is one.
    pub fn words(&self, target: Option<&Path>) -> Vec<String> {
        let (before, after) = self.words.split_at(self.at);
        let mut words = before.to_vec();
        words.push("--message-format=json-render-diagnostics".into());
        let mut replaced = vec!["--message-format"];
        if let Some(target) = target.and_then(Path::to_str) {
            words.extend(["--target-dir".into(), target.into()]);
            replaced.push("--target-dir");
        }
        let mut after = after.iter();
        while let Some(word) = after.next() {
            if word == "--" {
                words.push(word.clone());
                break;
            }
            if replaced.contains(&word.as_str()) {
                // With its value.
                after.next();
            } else if !word.split_once('=').is_some_and(|(option, _)| replaced.contains(&option)) {
                words.push(word.clone());
            }
        }
        words.extend(after.cloned());
        words
    }
}

/// What matters of a message.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The executables that these messages name, but for tests.
pub fn executables(messages: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for line in messages.lines() {
        // A program that runs in the build may print whatever it likes.
        let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
        let is_test = message.profile.is_some_and(|profile| profile.test);
        let executable = message.executable.filter(|_| message.reason == "compiler-artifact" && !is_test);
        all.extend(executable.filter(|executable| !all.contains(executable)));
    }
    all
}

/// Which of them is asked for: the one of this name, and of several the one whose path ends most like it. `None` if there
/// is none. `is_default` if nobody has asked for it by name: then it is also the only one.
pub fn choose(executables: &[PathBuf], wanted: &Path, is_default: bool) -> Result<Option<PathBuf>, String> {
    let named: Vec<_> = executables.iter().filter(|path| path.file_name() == wanted.file_name()).collect();
    let alike = |path: &Path| {
        let pairs = path.components().rev().zip(wanted.components().rev());
        pairs.take_while(|(one, other)| one == other).count()
    };
    let most = named.iter().map(|path| alike(path)).max();
    let best: Vec<_> = named.into_iter().filter(|path| Some(alike(path)) == most).collect();
    match (best.as_slice(), executables) {
        ([one], _) => Ok(Some((*one).clone())),
        ([], [only]) if is_default => Ok(Some(only.clone())),
        ([], _) => Ok(None),
        (several, _) => {
            let told: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(format!("cargo has made {}: choose one with --binary PATH", told.join(" and ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(command: &str, target: Option<&str>) -> Option<String> {
        let words = shlex::split(command).unwrap();
        Some(Cargo::of(&words)?.words(target.map(Path::new)).join(" "))
    }

    #[test]
    fn cargo_is_known_however_it_is_started() {
        const JSON: &str = "--message-format=json-render-diagnostics";
        for (command, expected) in [
            ("cargo build", format!("cargo build {JSON}")),
            ("A=1 B= /usr/bin/cargo b -r", format!("A=1 B= /usr/bin/cargo b {JSON} -r")),
            (
                "env A=1 cargo +1.95 -q --config a=b --offline build -p x",
                format!("env A=1 cargo +1.95 -q --config a=b --offline build {JSON} -p x"),
            ),
            (
                "rustup run stable cargo --color never rustc -- -C opt-level=1",
                format!("rustup run stable cargo --color never rustc {JSON} -- -C opt-level=1"),
            ),
            (
                "cargo build --message-format short -v --message-format=human",
                format!("cargo build {JSON} -v"),
            ),
            ("cargo rustc -- --message-format x", format!("cargo rustc {JSON} -- --message-format x")),
            ("cargo build --target-dir /t", format!("cargo build {JSON} --target-dir /t")),
        ] {
            assert_eq!(changed(command, None), Some(expected), "{command}");
        }
        let into = format!("cargo build {JSON} --target-dir /ours --release -- --target-dir=x");
        assert_eq!(
            changed("cargo build --target-dir /t --release -- --target-dir=x", Some("/ours")),
            Some(into.clone())
        );
        assert_eq!(
            changed("cargo build --target-dir=/t --release -- --target-dir=x", Some("/ours")),
            Some(into)
        );
        for other in [
            "make",
            "sh -c 'cargo build'",
            "./cargo.sh build",
            "cargo install --path .",
            "cargo",
            "cargo +stable",
            "A=1",
        ] {
            assert_eq!(changed(other, None), None, "{other}");
        }
    }

    #[test]
    fn the_executable_is_the_one_of_the_name() {
        let messages = r#"
            {"reason":"compiler-artifact","executable":null,"profile":{"test":false},"target":{"kind":["lib"]}}
            warning: a line of something else
            {"reason":"compiler-artifact","executable":"/t/x86/perf/srv","profile":{"test":false},"fresh":true}
            {"reason":"compiler-artifact","executable":"/t/x86/perf/examples/srv","profile":{"test":false}}
            {"reason":"compiler-artifact","executable":"/t/x86/perf/tool","profile":{"test":false}}
            {"reason":"compiler-artifact","executable":"/t/x86/perf/deps/srv","profile":{"test":true}}
            {"reason":"build-finished","success":true}
        "#;
        let all = executables(messages);
        assert_eq!(all.len(), 3, "{all:?}");
        let chosen = |wanted: &str| {
            choose(&all, Path::new(wanted), false).map(|path| path.map(|path| path.display().to_string()))
        };
        assert_eq!(chosen("target/release/tool"), Ok(Some("/t/x86/perf/tool".into())));
        assert_eq!(chosen("target/perf/srv"), Ok(Some("/t/x86/perf/srv".into())));
        assert_eq!(chosen("target/release/examples/srv"), Ok(Some("/t/x86/perf/examples/srv".into())));
        assert_eq!(chosen("target/release/none"), Ok(None));
        assert!(
            chosen("srv")
                .unwrap_err()
                .contains("/t/x86/perf/srv and /t/x86/perf/examples/srv: choose one with --binary")
        );
        let only = &all[2..];
        assert_eq!(choose(only, Path::new("target/release/tidewheel"), true), Ok(Some(only[0].clone())));
        assert_eq!(choose(only, Path::new("target/release/tidewheel"), false), Ok(None));
    }
}
