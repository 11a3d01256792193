//! `loadgen compare` of revisions: a small repository whose build is a script, and whose server is this very program.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::services::echo_command;

/// Runs git there, and returns what it says.
fn git(folder: &Path, words: &[&str]) -> String {
    let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgSign=false"];
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(who).args(words);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    let output = git.output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A repository with three commits, of which the last does not build. Its server is a script, which becomes one that is
/// told its port, and writes into `started` which commit it is of and where it lies. `None`, with words, where there is no
/// git.
fn repository() -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("left out: git is not installed");
        return None;
    }
    git(folder.path(), &["init", "--quiet"]);
    fs::write(folder.path().join(".gitignore"), "/started\n").unwrap();
    let started = folder.path().join("started");
    let become_server = echo_command("").replace("{port}", "$1");
    for (name, build) in
        [("one", "cp server.sh server"), ("two", "cp server.sh server"), ("three", "echo error: no; exit 1")]
    {
        let server = format!("#!/bin/sh\necho {name} $0 >> '{}'\nexec {become_server}\n", started.display());
        fs::write(folder.path().join("server.sh"), server).unwrap();
        fs::write(folder.path().join("build.sh"), format!("{build} && chmod +x server\n")).unwrap();
        git(folder.path(), &["add", "--all"]);
        git(folder.path(), &["commit", "--quiet", "--message", name]);
    }
    Some(folder)
}

fn compare(folder: &TempDir, words: &[&str]) -> Output {
    let build = ["--build", "sh build.sh", "--binary", "server", "--command", "{binary} {port}"];
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("compare")
        .args(words)
        .args(build)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Nothing is left in the repository of what was built.
#[track_caller]
fn assert_clean(folder: &TempDir) {
    assert_eq!(git(folder.path(), &["worktree", "list"]).lines().count(), 1);
    assert_eq!(git(folder.path(), &["status", "--porcelain"]), "");
}

#[test]
fn two_revisions_are_built_and_compared() {
    let Some(folder) = repository() else { return };
    let revisions = ["--base-rev", "HEAD~2", "--head-rev", "HEAD~1"];
    let output =
        compare(&folder, &[&revisions[..], &["-c", "2", "--budget", "3s", "--metric", "cpu"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    // What it finds in so short a time is left open.
    assert!(matches!(output.status.code(), Some(0 | 1 | 3 | 4)), "{told}");
    for (side, revision) in [("base", "HEAD~2"), ("head", "HEAD~1")] {
        let commit = git(folder.path(), &["rev-parse", revision]);
        assert!(told.contains(&format!("building the {side}: {revision} ({})", &commit[..10])), "{told}");
    }
    let started = fs::read_to_string(folder.path().join("started")).unwrap();
    let mut started: Vec<_> = started.lines().filter_map(|line| line.split_once(' ')).collect();
    started.sort_unstable();
    started.dedup();
    let [("one", base), ("two", head)] = started.as_slice() else { panic!("{started:?}") };
    assert!(base.ends_with("/base") && head.ends_with("/head") && base.len() == head.len(), "{started:?}");
    assert!(!Path::new(base).exists() && !Path::new(head).exists(), "{started:?}");
    assert_clean(&folder);
}

#[test]
fn what_is_no_revision_or_does_not_build_is_bad_usage() {
    let Some(folder) = repository() else { return };
    for (words, told) in [
        (&["--base-rev", "none"][..], "--base-rev none: git knows no such commit"),
        (&["--base-rev", "HEAD~1", "--head-rev", "none"], "--head-rev none: git knows no such commit"),
        (&["--base-rev", "HEAD"], "does not build (sh build.sh: exit status: 1): error: no"),
        (&["--base-rev", "HEAD~1"], "working tree ("),
        (&["--head-rev", "HEAD~1"], "--base-rev"),
        (&["--base-rev", "HEAD~1", "--base", "server {port}"], "--base"),
    ] {
        let output = compare(&folder, words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        let last = stderr.lines().next_back().unwrap();
        assert!(last.starts_with("loadgen: ") && last.contains(told), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty());
        assert_clean(&folder);
    }
}
