//! A suite: a TOML file in which each `[[case]]` is one thing that both servers are asked to do.
//!
//! ```text
//!     connections = 50  ─►  --connections=50  ─►  an option like those that were typed
//! ```
//!
//! There is no list of options here: they are those of `loadgen run`, and their values are read by the same code.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::Command;
use clap::error::ErrorKind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::revision::BINARY;
use crate::Usage;
use crate::cli::{Run, Target};
use crate::server::{CommandLine, PORT};
use crate::service::Service;

/// What the file has, and nothing else.
const CASE: &str = "case";

/// What a case has beside options.
const OWN: [&str; 5] = ["name", "service", "command", "base", "head"];

/// What somebody may want to say in a case, and has to say elsewhere.
const ELSEWHERE: [(&[&str], &str); 3] = [
    (
        &[
            "base-rev", "binary", "budget", "build", "duration", "flames", "floor", "head-rev", "history",
            "html", "json", "margin", "markdown", "metric", "profile", "quiet", "requests", "suite",
            "warmup",
        ],
        "applies to all cases: give --KEY on the command line",
    ),
    (
        &["pid", "spawn"],
        "does not apply to a comparison, which starts its servers itself: use command, or base and head",
    ),
    (&["csv", "fail-if", "hgrm", "hlog", "syscalls"], "applies to loadgen run only"),
];

/// What a file says about one case. Where it says nothing, what the command line says holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SuiteCase {
    /// Without one it is called after what it asks for.
    pub name: Option<String>,
    /// SERVICE or SERVICE=ADDRESS.
    pub service: Option<String>,
    /// Of both servers, with `{binary}`.
    pub command: Option<String>,
    pub base: Option<String>,
    pub head: Option<String>,
    /// Words for [`Run::with`], one for each option: `--connections=50`.
    pub options: Vec<String>,
    /// Where it begins.
    pub line: usize,
}

/// Where in the file something is wrong, and what.
struct Mistake {
    at: usize,
    what: String,
}

/// The cases of a file, one at least, each of them found good by itself. Fails with a line that names the file, the line in
/// it, and what is wrong.
pub fn read(path: &Path) -> Result<Vec<SuiteCase>> {
    let text = fs::read_to_string(path)
        .map_err(|error| Usage(format!("cannot read the suite {}: {error}", path.display())))?;
    let at = |Mistake { at, what }| Usage(format!("{}:{}: {what}", path.display(), line_of(&text, at)));
    Ok(parse(&text).map_err(at)?)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

fn parse(text: &str) -> Result<Vec<SuiteCase>, Mistake> {
    let mistake = |at, what: &str| Mistake { at, what: what.to_owned() };
    let table = DeTable::parse(text)
        .map_err(|error| mistake(error.span().map_or(0, |span| span.start), error.message()))?
        .into_inner();
    let mut cases = Vec::new();
    for (name, value) in in_order(&table) {
        if name.get_ref() != CASE {
            let known = |name: &str| {
                OWN.contains(&name) || Run::changes().get_arguments().any(|arg| arg.get_long() == Some(name))
            };
            let what = match name.get_ref() {
                name if known(name) => format!("'{name}' must be in a case, below a line with [[{CASE}]]"),
                name => {
                    format!("unknown key '{name}': a suite has only cases, each below a line with [[{CASE}]]")
                }
            };
            return Err(Mistake { at: name.span().start, what });
        }
        let wrong = "write [[case]], with two brackets on each side";
        let list = value.get_ref().as_array().ok_or_else(|| mistake(name.span().start, wrong))?;
        for each in list {
            let at = each.span().start;
            let table = each.get_ref().as_table().ok_or_else(|| mistake(at, wrong))?;
            cases.push((at, read_case(table, at, line_of(text, at))?));
        }
    }
    for (index, (at, case)) in cases.iter().enumerate() {
        let Some(name) = &case.name else { continue };
        if let Some((_, other)) = cases[..index].iter().find(|(_, other)| other.name.as_ref() == Some(name)) {
            let what = format!(
                "the case in line {} has the name '{name}' too: give them different names",
                other.line
            );
            return Err(Mistake { at: *at, what });
        }
    }
    if cases.is_empty() {
        return Err(mistake(0, "a suite needs at least one case, below a line with [[case]]"));
    }
    Ok(cases.into_iter().map(|(_, case)| case).collect())
}

/// As they were written, which is how somebody repairs them.
fn in_order<'a, 'b>(table: &'a DeTable<'b>) -> Vec<Entry<'a, 'b>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

type Entry<'a, 'b> = (&'a Spanned<toml::de::DeString<'b>>, &'a Spanned<DeValue<'b>>);

fn read_case(table: &DeTable<'_>, at: usize, line: usize) -> Result<SuiteCase, Mistake> {
    let options = Run::changes();
    let mut case = SuiteCase { line, ..SuiteCase::default() };
    for (name, value) in in_order(table) {
        let key: &str = name.get_ref();
        let in_value = |what: String| Mistake { at: value.span().start, what };
        if OWN.contains(&key) {
            let text = value.get_ref().as_str().ok_or_else(|| in_value(format!("{key} must be a string")))?;
            check_own(key, text).map_err(|words| in_value(format!("{key} {text:?}: {words}")))?;
            let place = match key {
                "name" => &mut case.name,
                "service" => &mut case.service,
                "command" => &mut case.command,
                "base" => &mut case.base,
                _ => &mut case.head,
            };
            *place = Some(text.to_owned());
        } else {
            check_option(key, &options).map_err(|what| Mistake { at: name.span().start, what })?;
            let text = word(value.get_ref()).map_err(|kind| in_value(format!("{key} must be {kind}")))?;
            let word = format!("--{key}={text}");
            match options.clone().try_get_matches_from([&word]) {
                // Another option may yet come.
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
                judged => drop(judged.map_err(|error| in_value(sentence(&error)))?),
            }
            case.options.push(word);
        }
    }
    let whole = |what: String| Mistake { at, what };
    options.try_get_matches_from(&case.options).map_err(|error| whole(sentence(&error)))?;
    if case.command.is_some() && (case.base.is_some() || case.head.is_some()) {
        return Err(whole("either command, or base and head, starts the servers of a case".into()));
    }
    Ok(case)
}

/// Whether a value that is no option's can be right.
fn check_own(key: &str, text: &str) -> Result<(), String> {
    match key {
        "name" if text.trim().is_empty() => Err("is empty".into()),
        "name" if text.contains(char::is_control) => Err("must not contain control characters".into()),
        "name" => Ok(()),
        "service" if text.contains('=') => text.replace(PORT, "1").parse::<Target>().map(drop),
        "service" => text.parse::<Service>().map(drop),
        "command" if !text.contains(BINARY) => {
            Err("must contain {binary}, the executable that was built".into())
        }
        _ => text.parse::<CommandLine>().map(drop),
    }
}

/// Whether there is such an option, for a case.
fn check_option(key: &str, options: &Command) -> Result<(), String> {
    for (keys, words) in ELSEWHERE {
        if keys.contains(&key) {
            return Err(format!("'{key}' {}", words.replace("KEY", key)));
        }
    }
    let is_elsewhere = |name: &str| ELSEWHERE.iter().any(|(keys, _)| keys.contains(&name));
    let known: Vec<_> = options.get_arguments().filter_map(|arg| arg.get_long()).collect();
    if known.contains(&key) {
        return Ok(());
    }
    let names = OWN.into_iter().chain(known.iter().copied().filter(|name| !is_elsewhere(name)));
    Err(match nearest(key, names) {
        Some(nearest) => format!("unknown key '{key}': did you mean '{nearest}'?"),
        None => format!(
            "unknown key '{key}': the keys of a case are {} and the options of loadgen run",
            OWN.join(", ")
        ),
    })
}

/// The name that `wrong` resembles most, if any does.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| (strsim::jaro(name, &wrong), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        // The bound that clap uses for its own suggestions.
        .filter(|&(likeness, _)| likeness > 0.7)
        .map(|(_, name)| name)
}

/// A value as it is written on the command line, or what kind is expected instead.
fn word(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "a smaller number"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        _ => Err("a string or a number"),
    }
}

/// What clap has to say, in a line.
pub fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn cases(text: &str) -> Vec<SuiteCase> {
        parse(text).unwrap_or_else(|mistake| panic!("{}: {}", mistake.at, mistake.what))
    }

    /// The line of the mistake, and what it is.
    #[track_caller]
    fn mistake(text: &str) -> (usize, String) {
        let Mistake { at, what } = parse(text).expect_err("it has a mistake");
        assert!(!what.contains('\n'), "{what}");
        (line_of(text, at), what)
    }

    #[test]
    fn a_case_is_what_the_command_line_would_be() {
        let text = "\
# Two.
[[case]]
name = 'echo, 50 connections'
service = 'echo=127.0.0.1:{port}'
command = '{binary} serve echo=127.0.0.1:{port}'
connections = 50
size = '16KiB'
rate = 0.5e3
arrivals = 'poisson'
seed = 0x10

[[case]]
service = 'custom'
send = '-PING\\r\\n'
expect = '+PONG\\r\\n'
base = 'old {port}'
head = 'new {port}'
";
        let cases = cases(text);
        let [echo, custom] = cases.as_slice() else { panic!("{cases:?}") };
        assert_eq!((echo.line, custom.line), (2, 12));
        assert_eq!((echo.name.as_deref(), &custom.name), (Some("echo, 50 connections"), &None));
        assert_eq!(echo.service.as_deref(), Some("echo=127.0.0.1:{port}"));
        assert_eq!(echo.command.as_deref(), Some("{binary} serve echo=127.0.0.1:{port}"));
        let words = ["--connections=50", "--size=16KiB", "--rate=0.5e3", "--arrivals=poisson", "--seed=16"];
        assert_eq!(echo.options, words);
        assert_eq!(custom.options, ["--send=-PING\\r\\n", "--expect=+PONG\\r\\n"]);
        assert_eq!(
            (custom.base.as_deref(), custom.head.as_deref()),
            (Some("old {port}"), Some("new {port}"))
        );

        let line = Run::parse(["echo=127.0.0.1:1", "--connections=7", "--timeout=9s"]).unwrap();
        let run = line.with(&echo.options).unwrap();
        assert_eq!((run.connections, run.rate, run.options.seed), (50, Some(500.0), 16));
        assert_eq!(run.options.timeout(), line.options.timeout());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, words) in [
            ("", 1, "at least one case"),
            (
                "\n[[cases]]\n",
                2,
                "unknown key 'cases': a suite has only cases, each below a line with [[case]]",
            ),
            ("connections = 5\n", 1, "'connections' must be in a case"),
            ("[case]\nconnections = 5\n", 1, "two brackets"),
            ("case = [5]\n", 1, "two brackets"),
            ("[[case]]\nname = 'a\n", 2, ""),
            ("[[case]]\nname = 'a'\nname = 'b'\n", 3, "duplicate key"),
            ("[[case]]\nname = ' '\n", 2, "name \" \": is empty"),
            ("[[case]]\nname = \"a\\nb\"\n", 2, "must not contain control characters"),
            ("[[case]]\nname = 5\n", 2, "name must be a string"),
            ("[[case]]\n\nconections = 5\n", 3, "unknown key 'conections': did you mean 'connections'?"),
            ("[[case]]\nsource_ips = '127.0.0.1'\n", 2, "did you mean 'source-ips'?"),
            ("[[case]]\nSize = 5\n", 2, "did you mean 'size'?"),
            ("[[case]]\nzzz = 5\n", 2, "unknown key 'zzz': the keys of a case are name, service"),
            ("[[case]]\nconnections = 0\n", 2, "--connections <N>': must be at least 1"),
            ("[[case]]\nconnections = true\n", 2, "connections must be a string or a number"),
            ("[[case]]\nconnections = [5]\n", 2, "connections must be a string or a number"),
            ("[[case]]\nsize = 'big'\n", 2, "--size"),
            ("[[case]]\nsize = 5\nrate = 5\ndepth = 5\n", 1, "cannot be used with"),
            ("[[case]]\nsize = 5\narrivals = 'poisson'\n", 1, "--rate"),
            (
                "[[case]]\nduration = '1s'\n",
                2,
                "'duration' applies to all cases: give --duration on the command line",
            ),
            ("[[case]]\nrequests = 5\n", 2, "'requests' applies to all cases"),
            ("[[case]]\nwarmup = '1s'\n", 2, "'warmup' applies to all cases"),
            ("[[case]]\njson = 'a'\n", 2, "'json' applies to all cases"),
            ("[[case]]\nspawn = 'a'\n", 2, "'spawn' does not apply to a comparison"),
            ("[[case]]\npid = 5\n", 2, "'pid' does not apply to a comparison"),
            ("[[case]]\nhgrm = 'a'\n", 2, "'hgrm' applies to loadgen run only"),
            ("[[case]]\nservice = 'ecco'\n", 2, "unknown service 'ecco'"),
            ("[[case]]\nservice = 'echo=127.0.0.1'\n", 2, "HOST:PORT"),
            ("[[case]]\ncommand = 'serve {port}'\n", 2, "must contain {binary}"),
            ("[[case]]\nbase = \"a 'b\"\n", 2, "unterminated quote"),
            ("[[case]]\ncommand = '{binary}'\nbase = 'a'\n", 1, "either command, or base and head"),
            (
                "[[case]]\nname = 'a'\n[[case]]\n[[case]]\nname = 'a'\n",
                4,
                "the case in line 1 has the name 'a' too",
            ),
        ] {
            let (told_line, told) = mistake(text);
            assert!(told_line == line && told.contains(words), "{text:?}: {told_line}: {told}");
        }
    }

    #[test]
    fn a_case_may_say_what_is_driven_and_nothing_else() {
        let options = Run::changes();
        let known: Vec<_> = options.get_arguments().filter_map(|arg| arg.get_long()).collect();
        for key in [
            "connections",
            "depth",
            "size",
            "rooms",
            "senders",
            "dialect",
            "send",
            "expect",
            "path",
            "status",
            "threads",
            "rate",
            "arrivals",
            "timeout",
            "seed",
            "source-ips",
        ] {
            assert!(known.contains(&key), "{key}");
            assert_eq!(check_option(key, &options), Ok(()));
        }
        for key in ["duration", "requests", "warmup", "pid", "spawn"] {
            assert!(known.contains(&key) && check_option(key, &options).is_err(), "{key}");
        }
    }

    #[test]
    fn a_file_is_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf.toml");
        let told = read(&path).unwrap_err();
        assert!(told.is::<Usage>() && told.to_string().contains("cannot read the suite"), "{told}");
        fs::write(&path, "[[case]]\nsizes = 5\n").unwrap();
        let told = read(&path).unwrap_err();
        let expected = format!("{}:2: unknown key 'sizes': did you mean 'size'?", path.display());
        assert!(told.is::<Usage>() && told.to_string() == expected, "{told}");
    }

    #[test]
    fn the_suite_of_this_repository_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/perf.toml");
        for case in read(&path).unwrap() {
            let line = Run::parse(["echo=127.0.0.1:1"]).unwrap();
            let service = case.service.clone().unwrap_or_default().replace(PORT, "1");
            let target = if service.contains('=') { service } else { format!("{service}=127.0.0.1:1") };
            let run = line.with(case.options.iter().cloned().chain([target])).unwrap();
            run.asked().unwrap_or_else(|words| panic!("{:?}: {words}", case.name));
        }
    }
}
