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
#[track_caller]
fn repository() -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if Command::new("git").arg("--version").output().is_err() {
        crate::skipped::skip("needs git: apt-get install git");
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
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("SHA-256 of the binaries: base "), "{table}");
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
fn two_revisions_that_build_the_same_binary_are_not_measured() {
    let Some(folder) = repository() else { return };
    git(folder.path(), &["reset", "--quiet", "--hard", "HEAD~1"]);
    fs::write(folder.path().join("README"), "words").unwrap();
    git(folder.path(), &["add", "--all"]);
    git(folder.path(), &["commit", "--quiet", "--message", "words"]);
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).display().to_string();
    let (json, markdown, html, history, suite) =
        (path("a.json"), path("a.md"), path("a.html"), path("a.jsonl"), path("suite.toml"));
    let cases =
        "[[case]]\nservice = \"echo\"\nconnections = 3\n\n[[case]]\nservice = \"echo\"\nconnections = 5\n";
    fs::write(&suite, cases).unwrap();
    let files =
        ["--json", &json, "--markdown", &markdown, "--html", &html, "--history", &history, "--suite", &suite];
    // A commit against another, the working tree, and itself.
    for head in [&["--head-rev", "HEAD"][..], &[], &["--head-rev", "HEAD~1"]] {
        let output = compare(&folder, &[&["--base-rev", "HEAD~1"], head, &files[..]].concat());
        let (stdout, stderr) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
        let read = |path: &str| fs::read_to_string(path).unwrap();
        let result: serde_json::Value = serde_json::from_str(&read(&json)).unwrap();
        assert_eq!((&result["outcome"], &result["exit_code"]), (&"IDENTICAL".into(), &0.into()));
        let hash = result["base_sha256"].as_str().unwrap();
        assert_eq!((hash.len(), &result["head_sha256"]), (64, &hash.into()));
        let cases = result["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 2);
        assert!(cases.iter().all(|case| case["outcome"] == "IDENTICAL" && case["lives"] == 0), "{result}");
        for text in [&stdout, &read(&markdown), &read(&html)] {
            assert!(text.contains("IDENTICAL: both revisions build the same binary"), "{text}");
            assert!(text.contains(&format!("base {hash}, head {hash}")), "{text}");
        }
        assert_eq!(read(&history), "");
        assert!(!folder.path().join("started").exists(), "no server was started");
        // What is built in the working tree is there.
        assert_eq!(folder.path().join("server").exists(), head.is_empty());
        if head.is_empty() {
            fs::remove_file(folder.path().join("server")).unwrap();
        }
        assert_clean(&folder);
    }
}

#[test]
fn what_is_no_revision_or_does_not_build_is_bad_usage() {
    let Some(folder) = repository() else { return };
    for (words, told) in [
        (&["--base-rev", "none"][..], "--base-rev none: no such commit"),
        (&["--base-rev", "HEAD~1", "--head-rev", "none"], "--head-rev none: no such commit"),
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
