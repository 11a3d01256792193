//! The command line: its definition, its help, and how mistakes in it are reported.
//!
//! Exit codes: 0 graceful shutdown; 1 the event loop failed or no listener is left; 2 invalid command line, configuration file or
//! address. A second SIGTERM, SIGINT or SIGHUP kills the program, which a shell reports as 128 plus the number of the signal.

pub mod address;
mod cgroup;
mod config;
mod limits;
mod outlet;
mod serve;
mod services;
pub mod settings;
pub mod show;
mod spelling;
pub mod units;
mod unix_mode;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use address::Request;
use limits::LimitOptions;
use settings::ServiceOptions;
use units::Time;
use unix_mode::UnixMode;

#[cfg(feature = "clients")]
use crate::clients;

/// The exit code for a loop or a client that failed.
pub const EXIT_FAILED: u8 = 1;

/// The exit code for a bad command line or an address that cannot be served.
pub const EXIT_USAGE: u8 = 2;

/// The command that serves.
const SERVE: &str = "serve";

/// An event-loop server: one thread, one epoll, thousands of connections
#[derive(Parser)]
#[command(
    name = "tidewheel",
    version,
    arg_required_else_help = true,
    after_help = "To try it, run `tidewheel serve`, and in another terminal `nc 127.0.0.1 7007`: the server echoes each \
                  line you type.\n\
                  For the options of the server: tidewheel serve --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<ServeOptions>),
    /// List the services: default ports, what they do, how to try them
    #[command(
        after_help = "The commands connect to a running `tidewheel serve`. nc is OpenBSD netcat (Debian: netcat-openbsd)."
    )]
    Services,
    #[cfg(feature = "clients")]
    #[command(flatten)]
    Clients(clients::Command),
}

/// Serve the built-in services until SIGTERM, SIGINT (Ctrl-C) or SIGHUP
#[derive(clap::Args)]
pub struct ServeOptions {
    /// A service and the address to serve it on; may be given several times [default: all services on their default ports]
    #[arg(value_name = "SERVICE=ADDRESS", value_parser = address::request)]
    requests: Vec<Request>,

    /// Read options from a TOML file; the command line and the environment take precedence over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Serve the default ports on this host or IP address instead of loopback; other machines may then be able to connect
    #[arg(long, value_name = "HOST", conflicts_with = "requests")]
    bind: Option<String>,

    /// Print each connection, message (->) and reply (<-) on standard output, with control characters escaped
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true, hide_possible_values = true
    )]
    show: bool,

    /// The log level; the log is written to standard error
    #[arg(long, value_enum, value_name = "LEVEL", env = "TIDEWHEEL_LOG", default_value = "info")]
    log_level: LogLevel,

    /// The file mode of unix sockets, in octal such as 0660; connecting requires write permission [default: 0777 less the
    /// umask]
    #[arg(long, value_name = "MODE")]
    unix_mode: Option<UnixMode>,

    /// The number of threads, each with its own event loop; the kernel distributes connections and datagrams among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    reactors: u16,

    /// How long to poll before sleeping when idle; this lowers response times but keeps a CPU core busy; 0 = sleep immediately
    #[arg(long, value_name = "DURATION", default_value = "0")]
    busy_poll: Time,

    /// Write all replies of a turn with one system call through io_uring, if the kernel permits it
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value = "true", default_missing_value = "true", hide_possible_values = true, action = ArgAction::Set
    )]
    io_uring: bool,

    /// What to do after a panic in a service
    #[arg(long, value_name = "WHAT", value_enum, default_value = "close")]
    panic: PanicPolicy,

    #[command(flatten)]
    services: ServiceOptions,

    #[command(flatten)]
    limits: LimitOptions,
}

/// What follows a panic in a call of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PanicPolicy {
    /// Close the connection that was being served and continue
    Close,
    /// Exit the program with code 101 or 1
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    /// Nothing
    Off,
    /// Errors that end the program or close a listener
    Error,
    /// Also warnings, such as a listener that is paused because descriptors ran out
    Warn,
    /// Also start and stop
    Info,
    /// Also each connection
    Debug,
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        }
    }
}

/// Everything from the arguments to the exit code.
pub fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let asked = words.get(1).cloned().unwrap_or_default();
    match parse(words) {
        Ok(Cli { command: Command::Serve(options) }) => serve::serve(&options),
        Ok(Cli { command: Command::Services }) => print(&services::list()),
        #[cfg(feature = "clients")]
        Ok(Cli { command: Command::Clients(command) }) => clients::run(command),
        Err(error) if !is_mistake(&error) => error.exit(),
        Err(error) => {
            let command = command();
            let about = command.find_subcommand(&asked).map_or(SERVE, clap::Command::get_name);
            let line = match other_than_a_command(&asked.to_string_lossy(), cfg!(feature = "clients")) {
                Some(line) if error.kind() == ErrorKind::InvalidSubcommand => format!("tidewheel: {line}\n"),
                _ => {
                    format!(
                        "tidewheel: {} (see tidewheel {about} --help)\n",
                        show::printable(&sentence(&error))
                    )
                }
            };
            // The stream may be closed; the exit code tells all the same.
            let _ = io::stderr().write_all(line.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The remedy for a word that is not a command here: one of the clients, or another word for `serve`.
fn other_than_a_command(asked: &str, has_clients: bool) -> Option<String> {
    match asked {
        "talk" | "chat" | "get" | "ftp" | "completions" | "man" if !has_clients => Some(format!(
            "the client '{asked}' is not part of this build; to add the clients: {INSTALL_CLIENTS}"
        )),
        "start" | "server" | "run" | "listen" => {
            Some(format!("unknown command '{asked}': did you mean 'tidewheel serve'?"))
        }
        _ => None,
    }
}

/// Prints on standard output. Whoever has read enough of it has had what was wanted.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let line = format!("tidewheel: cannot write to standard output: {error}\n");
            let _ = io::stderr().write_all(line.as_bytes());
            ExitCode::from(EXIT_FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Reads the command line, and the configuration file if it names one.
fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let command = command();
    let matches = command.clone().try_get_matches_from(&words)?;
    if let (Some((SERVE, typed)), Some(serve)) = (matches.subcommand(), command.find_subcommand(SERVE))
        && let Some(path) = typed.get_one::<PathBuf>("config")
    {
        let settings =
            config::read(path, serve).map_err(|line| clap::Error::raw(ErrorKind::InvalidValue, line))?;
        let is_given = |id: &str| {
            matches!(typed.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        // Both say where to serve.
        let place = ["requests", "bind"];
        let is_overridden =
            |id: &str| is_given(id) || place.contains(&id) && place.iter().any(|id| is_given(id));
        let settings = settings.into_iter().filter(|setting| !is_overridden(&setting.id));
        // The program and the command, then what the file says, then what was typed.
        let mut all = words;
        all.splice(2..2, settings.map(|setting| setting.word.into()));
        return Cli::from_arg_matches(&command.try_get_matches_from(all)?);
    }
    Cli::from_arg_matches(&matches)
}

/// The whole command line, as it is parsed and shown.
pub fn command() -> clap::Command {
    without_empty_variables(described())
}

/// A variable that is set to nothing counts as one that is not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(None),
            _ => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn described() -> clap::Command {
    let mut program = Cli::command();
    if !cfg!(feature = "clients") {
        let help = program.get_after_help().map(ToString::to_string).unwrap_or_default();
        program = program.after_help(format!("{help}\nClients (talk, chat, get, ftp): {INSTALL_CLIENTS}"));
    }
    // The table of services belongs in the help, and is known only when the program runs.
    program.mut_subcommand(SERVE, |serve| {
        let about = serve.get_about().cloned().unwrap_or_default();
        let services = services::describe();
        serve
            .after_help(format!("{services}\n{MORE_HELP}"))
            .long_about(format!("{about}\n\n{services}\n{EXAMPLES}"))
            .after_long_help(BEHAVIOUR)
    })
}

fn is_mistake(error: &clap::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// The mistake and the remedy that clap reports in several lines, as one line, without the usage.
fn sentence(error: &clap::Error) -> String {
    // clap's tip for -1 would make it a positional argument.
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
        && word.starts_with('-')
        && word[1..].starts_with(|first: char| first.is_ascii_digit())
    {
        return format!("unexpected argument '{word}': values must not be negative");
    }
    let text = error.render().to_string();
    let parts: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    parts.join("; ").trim_start_matches("error: ").to_owned()
}

/// What adds the clients to a program that was built without them.
pub const INSTALL_CLIENTS: &str = "cargo install --path . --locked --features clients";

const MORE_HELP: &str = "See --help for examples, the forms of ADDRESS, signals and exit codes.";

const EXAMPLES: &str = "\
Examples:
  tidewheel serve                           all services, on loopback only
  tidewheel serve --show                    the same, and print each message and reply
  tidewheel serve echo=:7007                echo only; in another terminal: nc 127.0.0.1 7007
  tidewheel serve echo=[::]:7007 echo=unix:/tmp/echo.sock time=udp://0.0.0.0:8081
  tidewheel serve --bind 0.0.0.0 --max-connections-per-ip 100
  tidewheel serve --reactors 4 echo=0.0.0.0:7007
  tidewheel serve --config tidewheel.toml   with the options in a file

ADDRESS:
  tcp://HOST:PORT, udp://HOST:PORT, unix:PATH, unix-dgram:PATH
  HOST:PORT   uses the service's first transport
  :PORT       the same, on loopback
  HOST is an IP address or a name. [::] listens on all IPv4 and IPv6 addresses.
  A link-local address needs its interface: [fe80::1%eth0].
  With port 0 the system chooses the port.
";

// Paragraphs are one line each: clap wraps them to the terminal.
const BEHAVIOUR: &str = "\
Start: when all addresses are bound, the server prints `listening SERVICE ADDRESS` for each, then `ready`, on \
standard output. A default port that is in use is skipped with a message on standard error. If an address given on \
the command line cannot be bound, the server exits.

Unix sockets: the server locks PATH.lock while it serves PATH, so that only one instance serves it. A stale socket is \
replaced. The socket is removed at exit; the lock file is not. To connect, a program needs write permission on the \
socket: see --unix-mode. Datagrams from a socket bound to a relative path are not answered.

Configuration file: TOML with the names of these options, `idle-timeout = '30s'`, `max-connections = 1000`, `show = \
true`, and `services = ['echo=127.0.0.1:7007']` for SERVICE=ADDRESS.

Reactors: with --reactors N, each reactor has its own socket on every tcp and udp port, and a connection stays with the \
reactor that accepted it. Unix sockets are served by the first reactor only. chat requires --reactors 1. \
--max-connections and --max-memory are divided among the reactors.

Output: the server never waits for a program that reads its standard output or standard error. Lines that exceed the \
buffer of 1 MiB are dropped and counted.

Signals:
  SIGTERM, SIGINT, SIGHUP   stop accepting, finish pending replies, exit; a second one kills the program
  SIGHUP                    is ignored if it was ignored at start, as under nohup
  SIGUSR1                   print all counters on standard error as `name value` lines, then `end`

Exit codes:
  0    graceful shutdown after SIGTERM, SIGINT or SIGHUP
  1    the event loop failed, or every listener failed for a minute and was closed
  2    invalid command line or configuration file, or an address that cannot be bound
  143  killed by a second SIGTERM (SIGINT: 130, SIGHUP: 129), as a shell reports it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_the_definition_sound() {
        command().debug_assert();
    }

    #[test]
    fn words_that_are_commands_elsewhere_get_the_right_command() {
        for client in ["talk", "chat", "get", "ftp", "completions", "man"] {
            let line = other_than_a_command(client, false).expect("it is a client");
            assert!(line.contains(client) && line.ends_with(INSTALL_CLIENTS), "{line}");
            assert_eq!(other_than_a_command(client, true), None);
        }
        for word in ["start", "server", "run"] {
            let line = other_than_a_command(word, true).expect("there is a hint");
            assert!(line.ends_with("did you mean 'tidewheel serve'?"), "{line}");
        }
        assert_eq!(other_than_a_command("serve", false), None);
    }

    #[test]
    fn a_mistake_is_told_in_one_line_with_its_remedy() {
        for (words, expected) in [
            (&["serve", "--idle-timout", "3s"][..], "a similar argument exists: '--idle-timeout'"),
            (&["serv"], "some similar subcommands exist: 'services', 'serve'"),
            (&["serve", "--lang", "fr"], "[possible values: en, zh]"),
            (&["serve", "--reactors", "0"], "0 is not in 1..=1024"),
            (&["serve", "ecco=:1"], "did you mean 'echo'?"),
            (&["serve", "echo=:1", "--bind", "::1"], "--bind"),
            (&["serve", "--max-line"], "--max-line"),
            (&["serve", "--max-connections", "-1"], "unexpected argument '-1': values must not be negative"),
        ] {
            let words = std::iter::once("tidewheel").chain(words.iter().copied());
            let line = sentence(&command().try_get_matches_from(words).expect_err(expected));
            assert!(line.contains(expected), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
