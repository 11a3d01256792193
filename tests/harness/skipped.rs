//! Tests that cannot run on a machine say so here, and the last test target of a package lists them, see
//! `what_was_skipped.rs`: what nobody reads of is taken for tested.
//!
//! A file for each run of `cargo test` has them all: every test program that it starts has the same parent.

#![allow(dead_code, reason = "one half is for the tests, the other for the list at the end")]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

/// Says that the calling test, or a part of it, is skipped, and why: `needs strace: apt-get install strace`.
///
/// It is printed at once, also when output is captured, and listed again at the end of the run.
#[track_caller]
pub fn skip(needs: &str) {
    let thread = std::thread::current();
    // Libtest names a test's thread; with one thread it runs in the first.
    let name = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", Location::caller().file(), Location::caller().line()),
    };
    let line = format!("{name} ({needs})\n");
    // Not with eprintln, which libtest captures.
    let _ = std::io::stderr().write_all(format!("skipped: {line}").as_bytes());
    let Some(list) = List::of_this_run() else { return };
    // One write, so that lines of several threads and programs do not mix.
    let written = fs::create_dir_all(&list.folder)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(list.path()))
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        let _ = writeln!(std::io::stderr(), "{}: {error}", list.path().display());
    }
}

/// Whether a program is there; skips the calling test if not.
#[track_caller]
pub fn is_installed(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        skip(&format!("needs {program}: apt-get install {package}"));
    }
    found
}

/// The list of one run.
struct List {
    folder: PathBuf,
    run: String,
}

impl List {
    /// `None` where there is no /proc, or this program has lost its place.
    fn of_this_run() -> Option<List> {
        let program = std::env::current_exe().ok()?;
        // target/debug/deps/tests-0123456789abcdef: all packages and targets of a run have the same folder.
        let folder = program.parent()?.join("skipped-tests");
        Some(List { folder, run: identity(std::os::unix::process::parent_id())? })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.run)
    }

    /// Removes the lists of runs that are over.
    fn remove_old(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split('-').next().and_then(|pid| pid.parse().ok());
            if pid.and_then(identity) != Some(name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A process and when it began: its number alone will be another one's some day.
fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have any character; behind it there are numbers, of which the 20th is the time.
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid}-{began}"))
}

/// What tests of this run have skipped so far, each once.
pub fn skipped() -> BTreeSet<String> {
    let Some(list) = List::of_this_run() else { return BTreeSet::new() };
    list.remove_old();
    let text = fs::read_to_string(list.path()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The reasons for which tests below a folder are ignored, in the order of files.
pub fn reasons_to_ignore(folder: &Path) -> Vec<String> {
    let mut entries: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let mut reasons = Vec::new();
    for path in entries {
        if path.is_dir() {
            reasons.extend(reasons_to_ignore(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix("#[ignore = \""));
            reasons.extend(lines.filter_map(|rest| rest.strip_suffix("\"]")).map(str::to_owned));
        }
    }
    reasons
}
