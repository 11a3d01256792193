//! The rules of the house, held by a test: who may know whom, where unsafe code lives, what the documents must name.
//!
//! A rule that makes the code worse may be changed here, with the reason beside it.

use std::fs;
use std::path::{Path, PathBuf};

/// What stands at the top. Dot-files of editors, and what .gitignore names, are nobody's business.
const TOP_LEVEL: [&str; 16] = [
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "benches",
    "docs",
    "examples",
    "loadgen",
    "tests",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "rustfmt.toml",
    "clippy.toml",
];

/// The modules that know bytes, identities and the time they are handed, and nothing of the system.
const PURE: [&str; 9] =
    ["connection", "framing", "limits", "output", "service", "services", "state", "timer", "topic"];

/// A file of the repository: its path from the top, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is `dir.rs` or below `dir/`.
    fn is_module(&self, dir: &str) -> bool {
        self.path.strip_prefix(dir).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    fn is_of_the_system(&self) -> bool {
        self.is_module("src/net/os")
    }

    /// The lines in which the code, without comments and the insides of literals, satisfies `is_bad`.
    fn lines_where(&self, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
        let code = code_of(&self.text);
        let bad = code.lines().enumerate().filter(|(_, line)| is_bad(line));
        bad.map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim())).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of the repository that are text, in order; not what tools leave behind.
fn files() -> Vec<File> {
    let ignored = read(".gitignore");
    let ignored: Vec<_> =
        ignored.lines().filter_map(|line| line.strip_prefix('/')).map(|name| root().join(name)).collect();
    let top = [".ci", ".github"].iter().chain(&TOP_LEVEL);
    let mut paths: Vec<PathBuf> = top.map(|name| root().join(name)).collect();
    let mut files = Vec::new();
    while let Some(path) = paths.pop() {
        if ignored.contains(&path) {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the folders of the repository are readable");
            paths.extend(entries.map(|entry| entry.expect("a folder can be read to its end").path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root()).expect("it was found there");
            files.push(File { path: path.to_string_lossy().into_owned(), text });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn rust_files() -> Vec<File> {
    let files: Vec<_> = files().into_iter().filter(File::is_rust).collect();
    assert!(files.iter().any(|file| file.path == "src/reactor.rs"), "the rules look in the wrong place");
    files
}

/// The code alone: comments, and what is inside of string and character literals, become spaces. Lines stay lines.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(is_of_word);
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => past_block_comment(rest),
            'r' if !after_word || code.ends_with('b') => past_raw_string(rest),
            '"' => past_quoted(rest, '"'),
            // Not a lifetime: those are not followed by another quote.
            '\'' if rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'') => {
                past_quoted(rest, '\'')
            }
            _ => 0,
        };
        let (literal, after) = rest.split_at(skipped);
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(literal.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// Past a literal that begins and ends with `quote`.
fn past_quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return index + 1;
        }
    }
    text.len()
}

/// Past `r"..."` or `r#"..."#`; 0 if there is none.
fn past_raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|&byte| byte == b'#').count();
    let Some(inside) = text[1 + hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    let len = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    2 + hashes + len
}

/// Past a comment in which others may be nested.
fn past_block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let (step, change) = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether `line` contains `word`, and not as a part of a longer one.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_of_word) && !line[at + word.len()..].starts_with(is_of_word))
}

#[track_caller]
fn assert_none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "\n{}\n\n{what_to_do}\n", found.join("\n"));
}

#[test]
fn the_rules_see_code_and_nothing_else() {
    let text = concat!(
        "let a = \"mio \\\" mio\"; // mio\n",
        "let b = r#\"mio \" mio\"#; /* mio /* mio */ mio\n mio */ let c = br\"mio\";\n",
        "let d = ('\"', '\\'', b'\"'); let e: &'static str = real::mio;\n",
    );
    let code = code_of(text);
    let lines: Vec<_> = code.lines().map(|line| line.split_whitespace().collect::<String>()).collect();
    assert_eq!(lines, ["leta=;", "letb=;", "letc=b;", "letd=(,,b);lete:&'staticstr=real::mio;"]);
    assert!(says("use mio;", "mio") && !says("use mio_like;", "mio") && !says("amio", "mio"));
}

#[test]
fn protocols_and_state_know_no_socket_and_no_clock() {
    const SYSTEM: [&str; 10] = [
        "mio",
        "socket2",
        "libc",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "std::os",
        "net::os",
        "Instant::now",
        "SystemTime::now",
    ];
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| PURE.iter().any(|module| file.is_module(&format!("src/{module}"))))
        .flat_map(|file| file.lines_where(|line| SYSTEM.iter().any(|word| says(line, word))))
        .collect();
    assert_none(
        &found,
        "These modules are given bytes and the time, so that they can be simulated. Ask for what you need through \
         Context, or through the trait Net (src/net.rs), and do it in src/net/os.rs.",
    );
}

#[test]
fn one_place_touches_the_system() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| file.path.starts_with("src/") && !file.is_of_the_system())
        .flat_map(|file| {
            file.lines_where(|line| ["mio", "libc", "socket2"].iter().any(|name| says(line, name)))
        })
        .collect();
    assert_none(
        &found,
        "mio, libc and socket2 are known to src/net/os.rs and src/net/os/ alone. What the reactor needs of them is a \
         method of the trait Net, which the simulation (src/net/sim) must have too.",
    );
}

#[test]
fn unsafe_code_is_in_one_place() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| !file.is_of_the_system() && file.path != "loadgen/src/os.rs")
        // An allocator cannot be written without; it is in no program.
        .filter(|file| file.path != "tests/harness/memory.rs")
        .flat_map(|file| file.lines_where(|line| says(line, "unsafe")))
        .collect();
    assert_none(
        &found,
        "Unsafe code belongs in src/net/os.rs, src/net/os/ or loadgen/src/os.rs, with a SAFETY comment, and the \
         measurement if it is there for speed.",
    );
}

#[test]
fn nobody_but_the_program_knows_the_command_line() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| file.path.starts_with("src/") && file.path != "src/main.rs")
        .filter(|file| !file.is_module("src/cli") && !file.is_module("src/clients"))
        .flat_map(|file| file.lines_where(|line| says(line, "cli")))
        .collect();
    assert_none(
        &found,
        "The command line depends on the library, never the other way round: hand the library a value.",
    );
}

#[test]
fn loadgen_shares_no_code_with_the_engine() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| file.path.starts_with("loadgen/") && file.path != "loadgen/src/embedded.rs")
        .flat_map(|file| file.lines_where(|line| says(line, "tidewheel")))
        .collect();
    assert_none(
        &found,
        "An instrument that shares code with what it measures hides their common faults: only \
         loadgen/src/embedded.rs, which is a server in a process of its own, may name the engine.",
    );
    let told = read("loadgen/src/embedded.rs");
    assert!(
        code_of(&told).contains("tidewheel"),
        "the one file that may name the engine is not where it was"
    );
}

/// What is public stands either at the root, from a module that is private, or in a public module alone.
#[test]
fn each_public_item_has_one_path() {
    let lib = code_of(&read("src/lib.rs"));
    let is_public = |module: &str| lib.lines().any(|line| line.trim() == format!("pub mod {module};"));
    let mut found: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub use "))
        .filter(|path| path.split("::").next().is_some_and(is_public))
        .map(|path| format!("src/lib.rs: pub use {path}"))
        .collect();
    assert!(is_public("framing"), "the public modules are not where they were");
    let public = ["src/framing", "src/services", "src/net/sim", "src/net/os"];
    for file in rust_files().iter().filter(|file| public.iter().any(|module| file.is_module(module))) {
        let again =
            |line: &str| ["crate", "super"].iter().any(|from| line.starts_with(&format!("pub use {from}::")));
        found.extend(file.lines_where(again));
    }
    assert_none(
        &found,
        "Make the module private, or leave the re-export out: whoever reads two paths looks for a difference.",
    );
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    // In two parts, or this file would be found.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut found = Vec::new();
    for file in files() {
        for (index, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| says(line, word)) {
                found.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    assert_none(&found, "Do it now, or open an issue and delete the comment.");
}

#[test]
fn every_file_says_what_it_is_for() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.clone())
        .collect();
    assert_none(&found, "Begin each of these files with a `//!` comment that says what it is for.");
}

#[test]
fn the_top_level_is_the_one_that_newcomers_expect() {
    let ignored = read(".gitignore");
    let ignored: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let is_ignored = |name: &str| {
        ignored.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        })
    };
    let found: Vec<_> = fs::read_dir(root())
        .expect("the repository is readable")
        .map(|entry| entry.expect("a folder can be read to its end").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !is_ignored(name))
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    assert_none(
        &found,
        "The top level is fixed. Code goes into src, benches, loadgen or tests; what tools leave behind goes into \
         .gitignore, with a slash in front.",
    );
    for name in TOP_LEVEL {
        assert!(root().join(name).exists(), "{name} is missing from the top level");
    }
}

#[test]
fn the_pages_name_the_oldest_compiler_that_will_do() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""))
        .and_then(|rest| rest.strip_suffix('"'))
        .expect("Cargo.toml states a rust-version for the workspace");
    for (page, wanted) in [
        ("README.md", format!("Rust {version} or later")),
        ("docs/tutorials.zh.md", format!("Rust {version} 或更新")),
    ] {
        assert!(read(page).contains(&wanted), "{page} does not say `{wanted}`, as Cargo.toml does");
    }
}
