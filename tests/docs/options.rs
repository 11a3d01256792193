//! docs/options.md names every option of `tidewheel serve` and every limit of the library, and docs/architecture.md every
//! module.

use std::path::Path;
use std::process::Command;

use super::pages::prose;
use super::{assert_none, files_in, read};
use crate::harness::program::Server;
use crate::harness::skipped::skip;

#[test]
fn the_map_of_the_source_has_every_module() {
    let map = read("docs/architecture.md");
    let found: Vec<_> = files_in("src", ".rs")
        .into_iter()
        .filter(|path| !map.contains(path) && !map.contains(&path.replace(".rs", "/")))
        .collect();
    assert_none(&found, "docs/architecture.md has a map of src: put these modules on it.");
}

#[test]
fn every_limit_of_the_library_is_named() {
    // By option or by name: the defaults of these are those of the options, which is tested in src/cli/limits.rs.
    let options = [
        ("connections_max", "--max-connections"),
        ("connections_per_ip_max", "--max-connections-per-ip"),
        ("idle_timeout", "--idle-timeout"),
        ("read_deadline", "--read-deadline"),
        ("progress_timeout", "--progress-timeout"),
        ("input_bytes_max", "--max-line"),
        ("output_soft_bytes", "--output-soft-limit"),
        ("output_soft_grace", "--output-soft-grace"),
        ("output_hard_bytes", "--output-hard-limit"),
        ("memory_bytes_max", "--max-memory"),
        ("udp_replies_per_prefix", "--udp-replies-per-prefix"),
    ];
    let page = read("docs/options.md");
    let limits = read("src/limits.rs");
    let fields: Vec<_> = limits
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "))
        .map(|(field, _)| field)
        .collect();
    assert!(fields.contains(&"idle_timeout"), "the fields of Limits are not where they were");
    let found: Vec<_> = fields
        .into_iter()
        .filter(|field| {
            let option = options.iter().find(|(name, _)| name == field).map(|(_, option)| *option);
            !page.contains(&format!("`{}", option.unwrap_or(field)))
        })
        .map(str::to_owned)
        .collect();
    assert_none(&found, "docs/options.md names every limit, its default and what it does: add these.");
}

#[test]
fn every_option_of_serve_is_in_the_table_with_its_default() {
    let help = Command::new(env!("CARGO_BIN_EXE_tidewheel"))
        .args(["serve", "--help"])
        .env_remove("TIDEWHEEL_LOG")
        .output()
        .expect("the program was built with the tests");
    let help = String::from_utf8(help.stdout).expect("the help is UTF-8");
    // An option stands alone on a line, indented by six; the lines up to the next one are about it.
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        if let Some(name) = line.strip_prefix("      --") {
            options.push((format!("--{name}"), String::new()));
        } else if let Some((_, text)) = options.last_mut() {
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    assert!(options.len() > 10, "the help is not laid out as it was: {options:?}");

    let page = read("docs/options.md");
    let found: Vec<_> = options
        .iter()
        .filter_map(|(option, text)| {
            let (_, default) = text.split_once("[default: ").unwrap_or_default();
            let (default, _) = default.split_once(']').unwrap_or_default();
            let option = option.replace(['<', '>'], "");
            let row = page.lines().find(|line| line.starts_with(&format!("| `{option}` |")));
            match row {
                None => Some(format!("| `{option}` | is not in the table of options")),
                Some(row) if row.contains(default) => None,
                Some(_) => Some(format!("{option}: the default is {default}")),
            }
        })
        .collect();
    assert_none(&found, "docs/options.md and `tidewheel serve --help` disagree: repair whichever is wrong.");

    let known: Vec<_> = options.iter().map(|(option, _)| option.replace(['<', '>'], "")).collect();
    let gone: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `--")?.split_once('`'))
        .map(|(option, _)| format!("--{option}"))
        .filter(|option| !known.contains(option))
        .collect();
    assert_none(&gone, "docs/options.md has options that `tidewheel serve --help` does not have.");
}

#[test]
fn every_counter_is_explained() {
    let page = read("docs/operations.md");
    // In the first cells of the tables.
    let explained: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(" |"))
        .flat_map(|(names, _)| names.split("`, `"))
        .map(|name| name.trim_end_matches('`'))
        .collect();
    let mut server = Server::start(["echo=127.0.0.1:0"]);
    let found: Vec<_> = server
        .counters()
        .into_keys()
        .filter(|name| {
            let kind = ["closed_", "datagrams_dropped_"].iter().find_map(|kind| name.strip_prefix(kind));
            !explained.contains(&kind.unwrap_or(name))
        })
        .collect();
    assert_none(&found, "docs/operations.md explains every counter of SIGUSR1: add these.");
    server.stop();
}

/// What a program says of itself and its commands.
fn help(program: &Path, command: &[&str]) -> String {
    let output = Command::new(program).args(command).arg("--help").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    String::from_utf8(output.stdout).expect("the help is UTF-8")
}

#[test]
fn options_that_pages_name_exist() {
    let tidewheel = Path::new(env!("CARGO_BIN_EXE_tidewheel"));
    let loadgen = tidewheel.with_file_name("loadgen");
    if !loadgen.exists() {
        return skip("needs loadgen: cargo build -p loadgen");
    }
    let versus = tidewheel.with_file_name("versus");
    if !versus.exists() {
        return skip("needs versus: cargo build -p versus");
    }
    let mut helps = help(tidewheel, &["serve"]) + &help(&loadgen, &[]) + &help(&versus, &[]);
    let commands = help(&loadgen, &[]);
    let (_, commands) = commands.split_once("Commands:").expect("loadgen has commands");
    let (commands, _) = commands.split_once("\n\n").expect("there is something behind them");
    for command in commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()) {
        helps += &help(&loadgen, &[command]);
    }
    if cfg!(feature = "clients") {
        for command in [&["talk"][..], &["chat"], &["get"], &["ftp"], &["ftp", "put"]] {
            helps += &help(tidewheel, command);
        }
    }
    let mut found = Vec::new();
    for page in files_in("docs", ".md").iter().map(String::as_str).chain(["README.md", "SECURITY.md"]) {
        if page == "docs/clients.md" && !cfg!(feature = "clients") {
            continue;
        }
        let text = read(page);
        for (number, line) in prose(&text) {
            let code = line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("--"));
            for code in code {
                let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '-';
                let name = &code[..code.find(|letter| !is_of_name(letter)).unwrap_or(code.len())];
                let is_there = helps
                    .match_indices(name)
                    .any(|(at, _)| !helps[at + name.len()..].starts_with(is_of_name));
                if !is_there {
                    found.push(format!("{page}:{number}: {name}"));
                }
            }
        }
    }
    assert_none(&found, "No command has such an option.");
}
