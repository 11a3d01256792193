//! Revisions of a repository as servers: each is built in a worktree of its own, which is gone once its binary is there.
//!
//! ```text
//!     --base-rev ─► git worktree ─► build ─► FOLDER/base
//!     --head-rev ─► git worktree ─► build ─► FOLDER/head
//!     (none) ─────► the tree as it is ──────────┘
//! ```
//!
//! The worktrees share a folder for what cargo builds, so that what both depend on is built once. cargo tells by times whether
//! something is to be built again, and takes one worktree for the other: a file that is older than the last build counts as
//! built. So each worktree is made after the build of the one before, and the tree as it is, whose files may be older,
//! is built where it always is, and never leaves anything for the worktrees or finds anything of theirs.
//!
//! What is measured is what the build made: of cargo the executable that its messages name, of anything else a file that
//! was not there before.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::cli::Revisions;
use crate::message::message;
use crate::server::{CommandLine, command_of};
use crate::service::Service;
use crate::{Usage, os};

use super::binary::{Cleared, sha256};
use super::cargo::{Cargo, choose, executables};

/// What stands for the binary that was built, in a command.
pub const BINARY: &str = "{binary}";

/// What builds a server of this repository. All its services are one feature, and no smaller one has the program.
const BUILD: &str = "cargo build --release --locked -p tidewheel --no-default-features --features cli";

/// What that makes.
const BINARY_PATH: &str = "target/release/tidewheel";

/// Between two looks at a build: the system does not tell that it has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What git sets for its hooks, from which this may run: the repository is the one around the current folder.
const OF_HOOKS: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];

/// The servers, as long as this is there.
pub struct Built {
    /// Paths of one length: what a program is called lies on its stack, and moves all else there.
    pub base: PathBuf,
    pub head: PathBuf,
    /// What they are called: a revision with its commit, or the working tree.
    pub base_label: String,
    pub head_label: String,
    pub base_commit: Option<String>,
    /// `None` if it is not what any commit says.
    pub head_commit: Option<String>,
    pub base_sha256: String,
    pub head_sha256: String,
    _folder: TempDir,
}

/// A copy of what a build has made.
struct Kept {
    path: PathBuf,
    sha256: String,
    /// The file that it is a copy of, if that is the same file for each build.
    shared: Option<PathBuf>,
}

/// Builds what is asked for of the repository around the current folder. All that can go wrong is the fault of what was
/// asked for, unless it was stopped.
pub fn build(asked: &Revisions, quiet: bool, stop: &AtomicBool) -> Result<Built> {
    let here = env::current_dir().context("asking for the current folder")?;
    build_around(&here, asked, quiet, stop)
}

/// The command that serves it, if the server built of this repository does, with `{binary}` and `{port}`.
pub fn default_command(service: Service, datagrams: bool) -> Option<&'static str> {
    Some(match (service, datagrams) {
        (Service::Echo, false) => "{binary} serve --log-level error echo=127.0.0.1:{port}",
        (Service::Echo, true) => "{binary} serve --log-level error echo=udp://127.0.0.1:{port}",
        (Service::Uppercase, false) => "{binary} serve --log-level error uppercase=127.0.0.1:{port}",
        (Service::Uppercase, true) => "{binary} serve --log-level error uppercase=udp://127.0.0.1:{port}",
        (Service::Time, true) => "{binary} serve --log-level error time=udp://127.0.0.1:{port}",
        (Service::Greeting, false) => "{binary} serve --log-level error greeting=127.0.0.1:{port}",
        (Service::Daytime, false) => "{binary} serve --log-level error daytime=127.0.0.1:{port}",
        (Service::Banner, false) => "{binary} serve --log-level error banner=127.0.0.1:{port}",
        (Service::Http, false) => "{binary} serve --log-level error http=127.0.0.1:{port}",
        // Whoever measures it says much.
        (Service::Chat, false) => "{binary} serve --log-level error chat=127.0.0.1:{port} --chat-rate 0",
        _ => return None,
    })
}

/// The command with this binary.
pub fn with_binary(command: &str, binary: &Path) -> Result<String> {
    if !command.contains(BINARY) {
        return Err(Usage(format!("the command {command:?} must contain {{binary}}")).into());
    }
    let path = binary.to_str().with_context(|| format!("{} is not UTF-8", binary.display()))?;
    let word = shlex::try_quote(path).with_context(|| format!("{path:?} cannot stand in a command"))?;
    Ok(command.replace(BINARY, &word))
}

fn build_around(here: &Path, asked: &Revisions, quiet: bool, stop: &AtomicBool) -> Result<Built> {
    let repository = Repository::around(here).map_err(Usage)?;
    // Before anything is built, which takes its time.
    let commit_of = |option: &str, revision: &String| {
        repository.commit(revision).map_err(|told| Usage(format!("{option} {revision}: {told}")))
    };
    let base = asked.base_rev.as_ref().context("there is no --base-rev")?;
    let base_commit = commit_of("--base-rev", base)?;
    let head = asked.head_rev.as_ref().map(|head| Ok::<_, Usage>((head, commit_of("--head-rev", head)?)));
    let head = head.transpose()?;

    let command = match &asked.build {
        Some(command) => command.clone(),
        None => BUILD.parse().map_err(Usage)?,
    };
    let folder = tempfile::tempdir().context("a folder for what is built")?;
    let (binary, is_default) = (asked.binary.as_deref(), asked.binary.is_none());
    let binary = binary.unwrap_or(Path::new(BINARY_PATH));
    let workshop =
        Workshop { repository: &repository, command, binary, is_default, folder: folder.path(), stop };
    let target = repository.target();
    let _lock = target.as_deref().map(|target| workshop.lock(target)).transpose()?;
    let tell = |side: &str, label: &str| {
        if !quiet {
            message!("building {side}: {label}");
        }
    };

    let base_label = label(base, &base_commit);
    tell("the base", &base_label);
    let base = workshop.build_commit("base", &base_label, &base_commit, target.as_deref())?;
    let (head, head_label, head_commit) = match head {
        Some((head, commit)) => {
            let label = label(head, &commit);
            let built = if commit == base_commit {
                workshop.keep("head", &base.path)?
            } else {
                tell("the head", &label);
                workshop.build_commit("head", &label, &commit, target.as_deref())?
            };
            (built, label, Some(commit))
        }
        None => {
            let (label, commit) = repository.tree();
            tell("the head", &label);
            (workshop.build_tree("head", &label)?, label, commit)
        }
    };
    if let (Some(shared), true) = (&head.shared, base.shared == head.shared)
        && base.sha256 == head.sha256
        && head_commit.as_ref() != Some(&base_commit)
    {
        let words = format!(
            "both builds made {}, with the same content, and the second may have taken it for up to date: have each build in its \
             own folder (--binary PATH below it)",
            shared.display()
        );
        return Err(Usage(words).into());
    }
    Ok(Built {
        base: base.path,
        head: head.path,
        base_label,
        head_label,
        base_commit: Some(base_commit),
        head_commit,
        base_sha256: base.sha256,
        head_sha256: head.sha256,
        _folder: folder,
    })
}

/// What a revision is called: as it was asked for, and its commit.
fn label(revision: &str, commit: &str) -> String {
    if commit.starts_with(revision) {
        short(commit).into()
    } else {
        format!("{revision} ({})", short(commit))
    }
}

/// Enough of it.
fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

struct Repository {
    root: PathBuf,
}

impl Repository {
    fn around(folder: &Path) -> Result<Repository, String> {
        git(folder, &["rev-parse", "--show-toplevel"])
            .map(|root| Repository { root: root.into() })
            .map_err(|told| format!("--base-rev: {} is in no repository: {told}", folder.display()))
    }

    /// The commit that a revision stands for.
    fn commit(&self, revision: &str) -> Result<String, String> {
        let peeled = format!("{revision}^{{commit}}");
        git(&self.root, &["rev-parse", "--verify", &peeled]).map_err(|told| {
            let is_shallow = git(&self.root, &["rev-parse", "--is-shallow-repository"]);
            let advice = match is_shallow.as_deref() {
                Ok("true") => " (this clone is shallow: git fetch --unshallow)",
                _ => "",
            };
            format!("no such commit: {told}{advice}")
        })
    }

    /// What the working tree is called, and its commit if it is what that says.
    fn tree(&self) -> (String, Option<String>) {
        // A repository without a commit has a working tree as well.
        let Ok(commit) = self.commit("HEAD") else { return ("working tree".into(), None) };
        match git(&self.root, &["status", "--porcelain"]) {
            Ok(changes) if changes.is_empty() => (format!("working tree ({})", short(&commit)), Some(commit)),
            _ => (format!("working tree ({} and changes)", short(&commit)), None),
        }
    }

    /// Where cargo puts what it builds in worktrees, if it is cargo that builds.
    fn target(&self) -> Option<PathBuf> {
        let is_of_cargo = self.root.join("Cargo.toml").is_file();
        is_of_cargo.then(|| self.own_target().unwrap_or_else(|| self.root.join("target")).join("compare"))
    }

    /// Where cargo puts what it builds in the working tree, if it is told that.
    fn own_target(&self) -> Option<PathBuf> {
        let target = env::var_os("CARGO_TARGET_DIR").or_else(|| env::var_os("CARGO_BUILD_TARGET_DIR"));
        target.map(|target| self.root.join(target))
    }
}

fn forget_hooks(command: &mut Command) {
    for name in OF_HOOKS {
        command.env_remove(name);
    }
}

/// What git answers, or what it has to complain about.
fn git<S: AsRef<OsStr>>(folder: &Path, words: &[S]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(words).stdin(Stdio::null());
    forget_hooks(&mut command);
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "git is not installed".to_owned(),
        _ => format!("git: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(last_error(&told).unwrap_or("git printed no error").trim_start_matches("fatal: ").to_owned())
}

/// The line that says most of what went wrong, if there is any.
fn last_error(told: &str) -> Option<&str> {
    let lines = || told.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains("error")).or_else(|| lines().next())
}

/// Where and how servers are built.
struct Workshop<'a> {
    repository: &'a Repository,
    command: CommandLine,
    binary: &'a Path,
    /// Nobody has asked for it.
    is_default: bool,
    /// Where they are kept.
    folder: &'a Path,
    stop: &'a AtomicBool,
}

impl Workshop<'_> {
    /// Builds a commit, where cargo is to build in this folder, and keeps the binary by this name.
    fn build_commit(&self, name: &str, label: &str, commit: &str, target: Option<&Path>) -> Result<Kept> {
        // All at the same place, which may be in the binary.
        let worktree = Worktree::add(self.repository, self.folder.join("tree"), commit)
            .map_err(|told| Usage(format!("no worktree of {label}: {told}")))?;
        self.build_in(&worktree.path, name, label, target)
    }

    /// Builds the working tree as it is, as whoever works on it does.
    fn build_tree(&self, name: &str, label: &str) -> Result<Kept> {
        self.build_in(&self.repository.root, name, label, None)
    }

    /// Builds, and keeps what was built.
    fn build_in(&self, tree: &Path, name: &str, label: &str, target: Option<&Path>) -> Result<Kept> {
        let own_target = self.repository.own_target().filter(|_| tree == self.repository.root);
        let in_target = target.map(Path::to_owned).or(own_target);
        let in_target =
            in_target.and_then(|target| Some(target.join(self.binary.strip_prefix("target").ok()?)));
        let mut places = vec![tree.join(self.binary)];
        places.extend(in_target.filter(|place| *place != places[0]));
        let cleared = places.into_iter().map(Cleared::at).collect::<Result<Vec<_>, _>>().map_err(Usage)?;

        let made = self.run(tree, label, target)?;
        let chosen =
            choose(&made, self.binary, self.is_default).map_err(|told| Usage(format!("{label}: {told}")))?;
        // One that was built elsewhere, as in a container, is not here.
        if let Some(executable) = chosen.filter(|executable| executable.is_file()) {
            return self.keep(name, &executable);
        }
        let Some(found) = cleared.iter().find(|cleared| cleared.place.is_file()) else {
            let binary = self.binary.display();
            let advice = match made.as_slice() {
                [] if Cargo::of(self.command.words()).is_some() => "cargo has made no executable".to_owned(),
                [] => "an older file does not count".to_owned(),
                made => {
                    let made: Vec<_> = made.iter().map(|path| path.display().to_string()).collect();
                    format!("cargo has made {}", made.join(", "))
                }
            };
            let words = format!(
                "{label} was built, but the build did not make {binary} ({advice}): give the executable with --binary PATH"
            );
            return Err(Usage(words).into());
        };
        let kept = self.keep(name, &found.place)?;
        Ok(Kept { shared: self.binary.is_absolute().then(|| found.place.clone()), ..kept })
    }

    /// A copy by this name.
    fn keep(&self, name: &str, binary: &Path) -> Result<Kept> {
        let path = self.folder.join(name);
        let told = || format!("keeping {}", binary.display());
        fs::copy(binary, &path).with_context(told)?;
        let sha256 = sha256(&path).with_context(told)?;
        Ok(Kept { path, sha256, shared: None })
    }

    /// Runs the command. What it says is shown if it fails. Returns the executables that cargo says it has made, if it is cargo.
    fn run(&self, tree: &Path, label: &str, target: Option<&Path>) -> Result<Vec<PathBuf>> {
        let [log, messages] = ["log", "messages"].map(|name| self.folder.join(name));
        let said = File::create(&log).context("a file for what the build says")?;
        let cargo = Cargo::of(self.command.words());
        let (mut command, stdout) = match &cargo {
            Some(cargo) => {
                let messages = File::create(&messages).context("a file for what cargo says")?;
                (command_of(&cargo.words(target)), messages)
            }
            None => (self.command.command(), said.try_clone()?),
        };
        command.current_dir(tree).stdin(Stdio::null()).stderr(said).stdout(stdout);
        // A signal to loadgen's own group is for loadgen to pass on.
        command.process_group(0);
        os::end_with_parent(&mut command);
        forget_hooks(&mut command);
        if let Some(target) = target {
            // Both of them: what is on the way may be shared as well, by what the user has set.
            command.env("CARGO_TARGET_DIR", target).env("CARGO_BUILD_BUILD_DIR", target);
        }
        let mut child =
            command.spawn().map_err(|error| Usage(format!("--build {}: {error}", self.command)))?;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting for the build")? {
                break status;
            }
            if self.stop.load(Ordering::Relaxed) {
                // It may have ended just now.
                let _ = kill_process_group(Pid::from_child(&child), Signal::TERM);
                child.wait().context("ending the build")?;
                bail!("stopped while {label} was built");
            }
            thread::sleep(LOOK_INTERVAL);
        };
        if status.success() {
            return match cargo {
                Some(_) => {
                    let messages = fs::read(&messages).context("reading what cargo says")?;
                    Ok(executables(&String::from_utf8_lossy(&messages)))
                }
                None => Ok(Vec::new()),
            };
        }
        let said = fs::read(&log).context("reading what the build says")?;
        io::stderr().write_all(&said).context("showing what the build says")?;
        let said = String::from_utf8_lossy(&said);
        let last = last_error(&said).unwrap_or("it printed no error");
        Err(Usage(format!("{label} does not build ({}: {status}): {last}", self.command)).into())
    }

    /// Has the folder to itself until the file is closed: two that build there at once would take each other's binary.
    fn lock(&self, target: &Path) -> Result<File> {
        let told = || format!("building in {}", target.display());
        fs::create_dir_all(target).with_context(told)?;
        let file = File::create(target.join(".lock")).with_context(told)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error).with_context(told),
            }
            if self.stop.load(Ordering::Relaxed) {
                bail!("stopped while another comparison built in {}", target.display());
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// A commit's files in a folder of their own, as long as this is there.
struct Worktree<'a> {
    repository: &'a Repository,
    path: PathBuf,
}

impl Worktree<'_> {
    fn add<'a>(repository: &'a Repository, path: PathBuf, commit: &str) -> Result<Worktree<'a>, String> {
        // What is made of it by half goes away as well.
        let worktree = Worktree { repository, path };
        // Hooks are for those who work there.
        let no_hooks = ["-c", "core.hooksPath=/dev/null"].map(OsStr::new);
        let add = ["worktree", "add", "--detach", "--quiet"].map(OsStr::new);
        let what = [worktree.path.as_os_str(), OsStr::new(commit)];
        git(&repository.root, &[&no_hooks[..], &add, &what].concat())?;
        Ok(worktree)
    }
}

impl Drop for Worktree<'_> {
    fn drop(&mut self) {
        let root = &self.repository.root;
        let words = ["worktree", "remove", "--force"].map(OsStr::new);
        if git(root, &[&words[..], &[self.path.as_os_str()]].concat()).is_err() {
            // What git does not know as a worktree, or cannot remove as one. There is nobody to tell.
            let _ = fs::remove_dir_all(&self.path);
        }
        // Forgets those whose folder is gone.
        let _ = git(root, &["worktree", "prune"]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A repository whose build copies `version` to `out/server`, and which has two commits of it, tagged `one` and `two`.
    /// `None`, with words, where there is no git.
    fn repository() -> Option<TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if let Err(told) = git(folder.path(), &["--version"]) {
            eprintln!("left out: {told}");
            return None;
        }
        run(&folder, &["init", "--quiet"]);
        let build = "if grep -q broken version; then echo error: version is broken >&2; echo bye; exit 7; fi\n\
                     mkdir -p out && cat version > out/server && chmod +x out/server\n";
        write(&folder, "build.sh", build);
        write(&folder, ".gitignore", "/out\n/target\n");
        for version in ["one", "two"] {
            write(&folder, "version", version);
            commit(&folder, version);
        }
        Some(folder)
    }

    fn write(folder: &TempDir, name: &str, text: &str) {
        fs::write(folder.path().join(name), text).unwrap();
    }

    fn run(folder: &TempDir, words: &[&str]) -> String {
        git(folder.path(), words).unwrap()
    }

    fn commit(folder: &TempDir, tag: &str) {
        run(folder, &["add", "--all"]);
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgSign=false"];
        run(folder, &[&who[..], &["commit", "--quiet", "--message", tag]].concat());
        run(folder, &["tag", tag]);
    }

    fn revisions(base: &str, head: Option<&str>) -> Revisions {
        Revisions {
            base_rev: Some(base.into()),
            head_rev: head.map(str::to_owned),
            build: Some("sh build.sh".parse().unwrap()),
            binary: Some("out/server".into()),
            command: None,
        }
    }

    fn build(folder: &TempDir, asked: &Revisions) -> Result<Built> {
        let built = build_around(folder.path(), asked, true, &AtomicBool::new(false));
        assert_eq!(run(folder, &["worktree", "list"]).lines().count(), 1, "none is left");
        built
    }

    #[track_caller]
    fn complaint(folder: &TempDir, asked: &Revisions) -> String {
        let error = build(folder, asked).err().expect("it cannot be built");
        assert!(error.is::<Usage>(), "{error:#}");
        assert!(!error.to_string().contains('\n'), "{error}");
        error.to_string()
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn two_revisions_are_two_binaries() {
        let Some(folder) = repository() else { return };
        fs::create_dir(folder.path().join("below")).unwrap();
        // What is in the working tree is none of their business.
        write(&folder, "version", "three");
        let asked = revisions("one", Some("HEAD"));
        let built =
            build_around(&folder.path().join("below"), &asked, true, &AtomicBool::new(false)).unwrap();
        assert_eq!((text(&built.base), text(&built.head)), ("one".into(), "two".into()));
        assert_eq!(built.base.as_os_str().len(), built.head.as_os_str().len());
        assert!(fs::metadata(&built.head).unwrap().permissions().mode() & 0o111 != 0);
        let [one, two] = ["one", "two"].map(|tag| run(&folder, &["rev-parse", tag]));
        assert_eq!(built.base_label, format!("one ({})", &one[..10]));
        assert_eq!(built.head_label, format!("HEAD ({})", &two[..10]));
        assert_eq!((built.base_commit.as_ref(), built.head_commit.as_ref()), (Some(&one), Some(&two)));
        assert_eq!(run(&folder, &["worktree", "list"]).lines().count(), 1);
        let kept = built.base.clone();
        drop(built);
        assert!(!kept.exists());

        // A commit by itself has no other name, and one that is both sides' is built once.
        let same = build(&folder, &revisions(&one[..7], Some("one"))).unwrap();
        assert_eq!(same.base_label, one[..10]);
        assert_eq!((text(&same.base), text(&same.head)), ("one".into(), "one".into()));
    }

    #[test]
    fn the_working_tree_is_taken_as_it_is() {
        let Some(folder) = repository() else { return };
        let clean = build(&folder, &revisions("one", None)).unwrap();
        let two = run(&folder, &["rev-parse", "two"]);
        assert_eq!((text(&clean.base), text(&clean.head)), ("one".into(), "two".into()));
        assert_eq!(clean.head_label, format!("working tree ({})", &two[..10]));
        assert_eq!(clean.head_commit, Some(two));
        write(&folder, "version", "three");
        let changed = build(&folder, &revisions("one", None)).unwrap();
        assert_eq!(text(&changed.head), "three");
        assert!(changed.head_label.contains("and changes"), "{}", changed.head_label);
        assert_eq!(changed.head_commit, None);
    }

    #[test]
    fn worktrees_share_what_cargo_builds_and_the_working_tree_has_its_own() {
        let Some(folder) = repository() else { return };
        write(&folder, "Cargo.toml", "");
        let into_target = "target=${CARGO_TARGET_DIR:-target}\nmkdir -p $target/release\n\
                           pwd >> $target/built\ncat version > $target/release/server\n";
        write(&folder, "build.sh", into_target);
        commit(&folder, "three");
        write(&folder, "version", "four");
        commit(&folder, "four");
        write(&folder, "version", "five");
        let asked =
            |head| Revisions { binary: Some("target/release/server".into()), ..revisions("three", head) };
        let built = build(&folder, &asked(Some("four"))).unwrap();
        assert_eq!((text(&built.base), text(&built.head)), ("two".into(), "four".into()));
        if env::var_os("CARGO_TARGET_DIR").is_some() {
            // It is that of the tests themselves.
            return;
        }
        let target = folder.path().join("target");
        assert_eq!(text(&target.join("compare/built")).lines().count(), 2);
        assert!(!target.join("built").exists());
        let built = build(&folder, &asked(None)).unwrap();
        assert_eq!((text(&built.base), text(&built.head)), ("two".into(), "five".into()));
        assert_eq!(text(&target.join("built")).lines().count(), 1);
    }

    /// A repository of a cargo package `srv`, with a second program and an example. What they print is `one` and `two` in the
    /// commits and `three` in the working tree. `None`, with words, where there is no git.
    fn cargo_repository() -> Option<TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if let Err(told) = git(folder.path(), &["--version"]) {
            eprintln!("left out: {told}");
            return None;
        }
        run(&folder, &["init", "--quiet"]);
        for name in ["src/bin", "examples", ".cargo"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let manifest = "[package]\nname = \"srv\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n\
                        [profile.perf]\ninherits = \"dev\"\n";
        write(&folder, "Cargo.toml", manifest);
        write(&folder, ".gitignore", "/target\n/elsewhere\n/.cargo\nCargo.lock\n");
        for version in ["one", "two", "three"] {
            for file in ["src/main.rs", "src/bin/tool.rs", "examples/shown.rs"] {
                write(&folder, file, &format!("fn main() {{ println!(\"{version}\") }}\n"));
            }
            if version != "three" {
                commit(&folder, version);
            }
        }
        Some(folder)
    }

    /// Builds both, so often, and runs what comes of it.
    #[track_caller]
    fn assert_built(folder: &TempDir, command: &str, binary: Option<&str>, times: usize) {
        let asked = Revisions {
            build: Some(command.parse().unwrap()),
            binary: binary.map(PathBuf::from),
            ..revisions("one", None)
        };
        let says = |path: &Path| String::from_utf8(Command::new(path).output().unwrap().stdout).unwrap();
        // The second time there is nothing to be built in the working tree.
        for _ in 0..times {
            let built = build(folder, &asked).unwrap_or_else(|error| panic!("{command}: {error:#}"));
            assert_eq!(
                (says(&built.base), says(&built.head)),
                ("one\n".into(), "three\n".into()),
                "{command}"
            );
            assert_eq!(built.head_sha256, sha256(&built.head).unwrap());
            assert_ne!(built.base_sha256, built.head_sha256);
        }
    }

    /// This system's own target, and the cargo that builds this.
    fn host_and_cargo() -> (String, String) {
        let output = Command::new("rustc").arg("-vV").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        (host, env::var("CARGO").unwrap_or("cargo".into()))
    }

    #[test]
    fn what_cargo_has_built_is_taken_wherever_it_puts_it() {
        let Some(folder) = cargo_repository() else { return };
        let (host, cargo) = host_and_cargo();
        let elsewhere = folder.path().join("elsewhere").display().to_string();
        fs::create_dir_all(folder.path().join("target/debug")).unwrap();
        write(&folder, "target/debug/srv", "of long ago");
        let debug = Some("target/debug/srv");
        assert_built(&folder, &format!("CARGO_BUILD_TARGET_DIR='{elsewhere}/a' cargo build -q"), debug, 2);
        assert_built(&folder, &format!("A=1 CARGO_TARGET_DIR='{elsewhere}/b' '{cargo}' build -q"), debug, 1);
        assert_built(&folder, &format!("env A=1 cargo -q build --target-dir '{elsewhere}/c'"), debug, 2);
        assert_eq!(text(&folder.path().join("target/debug/srv")), "of long ago", "it is where it was");
        assert_built(
            &folder,
            "cargo build -q --profile perf --message-format short",
            Some("target/release/srv"),
            1,
        );
        assert_built(&folder, &format!("cargo build -q --target {host}"), debug, 1);
        assert_built(&folder, "cargo build -q --examples", Some("target/debug/examples/shown"), 1);
        assert_built(&folder, "cargo rustc -q --bin tool", None, 1);
        for config in ["target-dir = \"elsewhere/d\"", &format!("target = \"{host}\"")] {
            write(&folder, ".cargo/config.toml", &format!("[build]\n{config}\n"));
            assert_built(&folder, "cargo build -q", debug, 2);
        }
    }

    #[test]
    fn a_file_that_the_build_does_not_make_anew_is_not_taken() {
        let Some(folder) = cargo_repository() else { return };
        let stale = folder.path().join("target/debug/srv");
        fs::create_dir_all(stale.parent().unwrap()).unwrap();
        let complains = |command: &str, binary: &str, words: &str| {
            fs::write(&stale, "of long ago").unwrap();
            let (build, binary) = (Some(command.parse().unwrap()), Some(binary.into()));
            let told = complaint(&folder, &Revisions { build, binary, ..revisions("one", None) });
            assert!(told.contains(words), "{command}: {told}");
            assert_eq!(text(&stale), "of long ago", "it is where it was");
        };
        let no_file = "the build did not make target/debug/srv (an older file does not count)";
        // It builds the base, where it is asked to, and the working tree elsewhere.
        let only_base =
            "sh -c 'if [ -f .git ]; then cargo build -q; else cargo build -q --target-dir elsewhere; fi'";
        complains(only_base, "target/debug/srv", no_file);
        complains("true", "target/debug/srv", no_file);
        complains("cargo build -q --bin tool", "target/debug/srv", "cargo has made ");
        complains("cargo build -q --lib --message-format json", "target/debug/srv", "does not build");
        complains("cargo build -q", "srv/none", "did not make srv/none");
        if env::var_os("CARGO_TARGET_DIR").is_none() {
            // Fresh or not, the file is made anew.
            assert_built(&folder, "sh -c 'exec cargo build -q'", Some("target/debug/srv"), 2);
        }
        // In one folder for both, cargo takes one for the other.
        let shared = folder.path().join("elsewhere").display().to_string();
        let asked = Revisions {
            build: Some(format!("sh -c 'cargo build -q --target-dir {shared}'").parse().unwrap()),
            binary: Some(format!("{shared}/debug/srv").into()),
            ..revisions("one", None)
        };
        for _ in 0..2 {
            match build(&folder, &asked) {
                Ok(built) => assert_ne!(built.base_sha256, built.head_sha256),
                Err(error) => assert!(error.to_string().contains("both builds made"), "{error:#}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_built_is_told_in_a_line() {
        let Some(folder) = repository() else { return };
        write(&folder, "version", "broken");
        commit(&folder, "broken");
        for (asked, words) in [
            (revisions("none", None), &["--base-rev none: no such commit: Needed a single revision"][..]),
            (revisions("one", Some("none")), &["--head-rev none: no such commit"]),
            (
                revisions("broken", Some("one")),
                &["broken (", "does not build (sh build.sh: exit status: 7): error: version is broken"],
            ),
            (revisions("one", None), &["working tree (", "does not build"]),
            (
                Revisions { binary: Some("out/client".into()), ..revisions("one", Some("two")) },
                &["one (", "was built, but the build did not make out/client"],
            ),
            (
                Revisions {
                    build: Some("/no/such/program".parse().unwrap()),
                    ..revisions("one", Some("two"))
                },
                &["--build /no/such/program: No such file"],
            ),
        ] {
            let told = complaint(&folder, &asked);
            assert!(words.iter().all(|words| told.contains(words)), "{told}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let error = build_around(elsewhere.path(), &revisions("one", None), true, &AtomicBool::new(false));
        let told = error.err().expect("there is no repository").to_string();
        assert!(told.contains("is in no repository"), "{told}");
    }

    #[test]
    fn a_build_that_is_stopped_leaves_nothing() {
        let Some(folder) = repository() else { return };
        let asked = Revisions { build: Some("sleep 600".parse().unwrap()), ..revisions("one", Some("two")) };
        let error = build_around(folder.path(), &asked, true, &AtomicBool::new(true)).err().unwrap();
        assert!(error.to_string().contains("stopped while one ("), "{error:#}");
        assert!(!error.is::<Usage>());
        assert_eq!(run(&folder, &["worktree", "list"]).lines().count(), 1);
    }

    #[test]
    fn every_service_but_custom_has_a_command() {
        for (service, datagrams) in [
            (Service::Echo, false),
            (Service::Echo, true),
            (Service::Uppercase, false),
            (Service::Uppercase, true),
            (Service::Time, true),
            (Service::Greeting, false),
            (Service::Daytime, false),
            (Service::Banner, false),
            (Service::Http, false),
            (Service::Chat, false),
        ] {
            let command = default_command(service, datagrams).expect("there is one");
            let target = if datagrams { "=udp://127.0.0.1:{port}" } else { "=127.0.0.1:{port}" };
            assert!(command.contains(&format!(" {service}{target}")), "{command}");
            assert!(with_binary(command, Path::new("/a b")).unwrap().starts_with("'/a b' serve "));
        }
        assert_eq!(default_command(Service::Custom, false), None);
        assert!(with_binary("server {port}", Path::new("/a")).unwrap_err().to_string().contains("{binary}"));
    }
}
