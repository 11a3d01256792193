//! Every command on the pages is run: servers in the background, conversations with a line typed into them, all else to
//! its end. Each page has an address of loopback, a folder and programs of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use super::pages::{Step, blocks, prose, steps};
use super::{assert_none, files_in, read};
use crate::harness::program::lonely_ip;
use crate::harness::skipped::{is_installed, skip};
use crate::harness::{Folder, PATIENCE};

/// The pages whose commands are run, and how many of their blocks are not, each with its reason on the page.
const PAGES: [(&str, usize); 14] = [
    ("README.md", 3),
    ("CONTRIBUTING.md", 3),
    ("SECURITY.md", 0),
    ("docs/architecture.md", 0),
    ("docs/clients.md", 3),
    ("docs/guide.md", 0),
    ("docs/loadgen-files.md", 0),
    ("docs/measuring.md", 6),
    ("docs/operations.md", 0),
    ("docs/options.md", 0),
    ("docs/simulation.md", 3),
    ("docs/tutorials.md", 0),
    ("docs/tutorials.zh.md", 1),
    ("loadgen/README.md", 1),
];

/// `cargo run` with the programs that are built already.
const CARGO: &str = r#"#!/bin/sh
case "$*" in
"run --release -p loadgen"*) shift 4; [ "$1" != -- ] || shift; exec loadgen "$@" ;;
"run --release -- "*) shift 3; exec tidewheel "$@" ;;
"run --example "*) name=$3; shift 3; [ "$1" != -- ] || shift; exec "$EXAMPLES/$name" "$@" ;;
esac
echo "tests/docs/commands.rs does not know: cargo $*" >&2
exit 2
"#;

/// loadgen for a moment. Its figures do not matter, and a busy machine may make them invalid; a command line that it refuses
/// does.
const LOADGEN: &str = r#"#!/bin/bash
command=$1 timed=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    -t | --duration) arguments+=("$1" 50ms); timed=1; shift 2 ;;
    -n | --requests) arguments+=("$1" "$2"); timed=1; shift 2 ;;
    --hold | --rest) arguments+=("$1" 100ms); shift 2 ;;
    --repeat) arguments+=("$1" 1); shift 2 ;;
    --budget) arguments+=("$1" 2s); shift 2 ;;
    *) arguments+=("$1"); shift ;;
    esac
done
case $command in
merge | history | compare) ;;
"" | -*) arguments+=(-t 50ms) ;;
*) [ -n "$timed" ] || arguments+=(-t 50ms); arguments+=(-w 10ms) ;;
esac
"$LOADGEN" "${arguments[@]}"
code=$?
[ $code -eq 2 ] || exit 0
exit 2
"#;

/// Ends with what it has started, whatever becomes of the test.
struct Running {
    child: Child,
    /// Everything that it prints, in pieces.
    output: Receiver<Vec<u8>>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("bash is there");
        let (said, output) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("it is piped")),
            Box::new(child.stderr.take().expect("it is piped")),
        ];
        for stream in streams {
            let said = said.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Ok(piece) = stream.fill_buf().map(<[u8]>::to_vec) {
                    stream.consume(piece.len());
                    if piece.is_empty() || said.send(piece).is_err() {
                        return;
                    }
                }
            });
        }
        Running { child, output }
    }

    /// Waits until its output is as wanted, or it has ended. Returns all of it.
    #[track_caller]
    fn output_until(&self, command: &str, is_enough: impl Fn(&str) -> bool) -> String {
        let mut all = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&all).into_owned();
            if is_enough(&text) {
                return text;
            }
            match self.output.recv_timeout(PATIENCE) {
                Ok(piece) => all.extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => return text,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("{command}: it goes on for ever, having printed {text}")
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Where the commands of one page run.
struct Shell {
    folder: Folder,
    ip: IpAddr,
    path: std::ffi::OsString,
    /// Those that run until the page is done.
    servers: Vec<Running>,
}

impl Shell {
    fn new(number: u8) -> Shell {
        let folder = Folder::new();
        let programs = folder.path("programs");
        fs::create_dir_all(&programs).expect("the folder is there");
        symlink(env!("CARGO_BIN_EXE_tidewheel"), programs.join("tidewheel")).expect("the folder is empty");
        let ip = lonely_ip(number);
        let server = folder.path("server");
        let scripts = [
            ("cargo", CARGO.to_owned()),
            ("loadgen", LOADGEN.to_owned()),
            // That of another test is none of the page's business.
            ("pidof", format!("#!/bin/sh\ncat '{}'\n", server.display())),
            ("hostname", format!("#!/bin/sh\necho {ip}\n")),
        ];
        for (name, text) in scripts {
            let path = programs.join(name);
            fs::write(&path, text).expect("the folder is there");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&inherited)))
            .expect("the folder's name has no colon");
        Shell { folder, ip, path, servers: Vec::new() }
    }

    fn command(&self, program: &str, argument: &str, text: &str) -> Command {
        let built = Path::new(env!("CARGO_BIN_EXE_tidewheel")).parent().expect("it is in a folder");
        let mut command = Command::new(program);
        command.args([argument, text]).current_dir(self.folder.path("")).stdin(Stdio::null());
        command
            .env("PATH", &self.path)
            .env("EXAMPLES", built.join("examples"))
            .env("LOADGEN", built.join("loadgen"));
        for variable in ["LC_ALL", "LC_MESSAGES", "LANG", "TIDEWHEEL_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// With the page's address and folder.
    fn own(&self, text: &str) -> String {
        let ip = self.ip.to_string();
        let folder = self.folder.path("").display().to_string();
        // The chat's default address is fixed.
        text.replace("127.0.0.1", &ip)
            .replace("0.0.0.0", &ip)
            .replace("/tmp/", &folder)
            .replace("tidewheel chat --nick", &format!("tidewheel chat {ip}:25666 --nick"))
    }

    #[track_caller]
    fn run(&mut self, step: &Step) {
        match step {
            Step::Python { program, prints } => {
                if is_installed("python3", "python3") {
                    let command = self.command("python3", "-c", &self.own(program));
                    self.run_to_the_end(command, program, prints);
                }
            }
            Step::Shell { command, prints } => {
                if !is_there(command) {
                    return;
                }
                let mut text = self.own(command);
                if is_server(command) {
                    if !text.split_whitespace().any(|word| word.contains('=') && !word.starts_with("--"))
                        && text.contains(" serve")
                    {
                        text += &format!(" --bind {}", self.ip);
                    }
                    self.serve(&text);
                } else if is_conversation(command) {
                    self.converse(&text, prints);
                } else {
                    let command = self.command("bash", "-c", &text);
                    self.run_to_the_end(command, &text, prints);
                }
            }
        }
    }

    /// Starts a server. One of the program takes the place of those before it.
    #[track_caller]
    fn serve(&mut self, text: &str) {
        if !text.contains("--example") {
            self.servers.clear();
        }
        let server = Running::start(&mut self.command("bash", "-c", &format!("exec {text}")));
        fs::write(self.folder.path("server"), server.child.id().to_string()).expect("the folder is there");
        let is_up =
            |said: &str| said.lines().any(|line| line == "ready" || line.starts_with("listening on "));
        let said = server.output_until(text, is_up);
        assert!(is_up(&said), "{text}: it ended before it served, with {said}");
        self.servers.push(server);
    }

    /// Types a line into a program that talks, which must say something.
    #[track_caller]
    fn converse(&self, text: &str, prints: &[String]) {
        let mut program =
            Running::start(self.command("bash", "-c", &format!("exec {text}")).stdin(Stdio::piped()));
        let mut input = program.child.stdin.take().expect("it is piped");
        // It may say something and end at once.
        let _ = input.write_all(b"hello\n");
        // What the program says itself is a line, which may come in pieces.
        let is_whole =
            |said: &str| !said.is_empty() && (!said.starts_with("tidewheel: ") || said.ends_with('\n'));
        let is_enough = |said: &str| is_whole(said) && prints.iter().all(|wanted| said.contains(&**wanted));
        let said = program.output_until(text, is_enough);
        let is_refused = said.starts_with("tidewheel: cannot");
        assert!(is_enough(&said) && !is_refused, "{text}: expected {prints:?}, got {said:?}");
    }

    #[track_caller]
    fn run_to_the_end(&self, mut command: Command, text: &str, prints: &[String]) {
        let mut program = Running::start(&mut command);
        let said = program.output_until(text, |_| false);
        let status = program.child.wait().expect("it is a child of the test");
        if !status.success() && said.contains("ptrace_scope") {
            return skip("needs the right to trace: sysctl kernel.yama.ptrace_scope=0, or root");
        }
        assert!(status.success(), "{text}: {status}, having printed {said}");
        for wanted in prints {
            assert!(said.contains(&**wanted), "{text}: expected {wanted:?}, got {said:?}");
        }
    }
}

/// Whether the programs that a command needs are here; says so if not.
#[track_caller]
fn is_there(command: &str) -> bool {
    let built = Path::new(env!("CARGO_BIN_EXE_tidewheel")).parent().expect("it is in a folder");
    let words: Vec<&str> =
        command.split(|letter: char| letter.is_whitespace() || "'\"".contains(letter)).collect();
    let has = |word: &str| words.contains(&word);
    if has("loadgen") && !built.join("loadgen").exists() {
        skip("needs loadgen: cargo build -p loadgen");
        return false;
    }
    if let Some((_, rest)) = command.split_once("cargo run --example ")
        && !rest.split_whitespace().next().is_some_and(|name| built.join("examples").join(name).exists())
    {
        skip("needs the examples: cargo build --examples");
        return false;
    }
    let packages =
        [("nc", "netcat-openbsd"), ("curl", "curl"), ("redis-server", "redis-server"), ("strace", "strace")];
    let needed =
        packages.iter().filter(|(program, _)| has(program) || *program == "strace" && has("--syscalls"));
    needed.fold(true, |all, (program, package)| all & is_installed(program, package))
}

/// Whether it serves until it is ended.
fn is_server(command: &str) -> bool {
    ["tidewheel serve", "cargo run --release -- serve", "cargo run --example "]
        .iter()
        .any(|beginning| command.starts_with(beginning))
}

/// Whether it talks with whoever types.
fn is_conversation(command: &str) -> bool {
    ["nc ", "tidewheel talk", "tidewheel chat"].iter().any(|beginning| command.starts_with(beginning))
}

#[track_caller]
fn try_page(path: &str) {
    let index = PAGES.iter().position(|(page, _)| *page == path).expect("the page is in the list");
    let mut shell = Shell::new(100 + index as u8);
    for step in steps(&read(path)) {
        shell.run(&step);
    }
}

#[test]
fn commands_of_the_readme() {
    try_page("README.md");
}

#[test]
fn commands_of_contributing() {
    try_page("CONTRIBUTING.md");
    try_page("SECURITY.md");
}

#[test]
fn commands_of_the_guide() {
    try_page("docs/guide.md");
    try_page("docs/simulation.md");
    try_page("docs/architecture.md");
}

#[test]
fn commands_of_the_options() {
    try_page("docs/options.md");
}

#[test]
fn commands_of_operations() {
    try_page("docs/operations.md");
}

#[test]
fn commands_of_the_tutorials() {
    try_page("docs/tutorials.md");
}

#[test]
fn commands_of_the_tutorials_in_chinese() {
    try_page("docs/tutorials.zh.md");
}

#[cfg(feature = "clients")]
#[test]
fn commands_of_the_clients() {
    try_page("docs/clients.md");
}

#[test]
fn commands_of_measuring() {
    try_page("docs/measuring.md");
    try_page("docs/loadgen-files.md");
    try_page("loadgen/README.md");
}

#[test]
fn every_page_is_tried_and_what_is_not_run_is_counted() {
    let mut expected =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "loadgen/README.md"].map(str::to_owned).to_vec();
    expected.extend(files_in("docs", ".md"));
    let mut listed: Vec<_> = PAGES.iter().map(|(page, _)| (*page).to_owned()).collect();
    expected.sort();
    listed.sort();
    assert_eq!(
        listed, expected,
        "PAGES in tests/docs/commands.rs lists every page, each of which has a test there"
    );

    let mut found = Vec::new();
    for (page, count) in PAGES {
        let not_run: Vec<String> = blocks(&read(page))
            .into_iter()
            .filter_map(|block| block.not_run.map(|reason| format!("{page}:{}: {reason}", block.line)))
            .collect();
        for each in &not_run {
            println!("not run: {each}");
        }
        if not_run.len() != count {
            found.push(format!("{page} has {} blocks that are not run, not {count}", not_run.len()));
            found.extend(not_run);
        }
    }
    assert_none(&found, "A block that is not run has its reason before it, and is counted in PAGES.");
}

#[test]
fn blocks_are_of_a_kind_that_is_tried() {
    // Rust is tried as documentation of the library, see src/lib.rs, except for parts of programs (rs).
    const KINDS: [&str; 9] = ["sh", "python", "rust", "rust,no_run", "rs", "toml", "ini", "json", "text"];
    let mut found = Vec::new();
    for (page, _) in PAGES {
        let text = read(page);
        let others = blocks(&text).into_iter().filter(|block| !KINDS.contains(&&*block.language));
        found.extend(others.map(|block| format!("{page}:{}: {:?}", block.line, block.language)));
        let indented = prose(&text).into_iter().filter(|(_, line)| line.starts_with("    "));
        found.extend(indented.map(|(line, text)| format!("{page}:{line}: {text}")));
    }
    assert_none(&found, "Commands are in fenced blocks of sh, or nothing tries them.");
}
