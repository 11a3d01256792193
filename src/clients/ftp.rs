//! `tidewheel ftp`: files and folders on an FTP server.

pub mod accounts;
mod control;
pub mod login;
pub mod names;
mod reply;
mod source;
mod text_mode;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use indicatif::{MultiProgress, ProgressBar};
use url::Url;

use super::Failure;
use super::get::{self, Downloads};
use super::place::{self, FtpPlace, UrlType};
use super::text;
use super::transfer::{TermOptions, Terms, Trouble, begin_bar};
use super::words::Notice;
use login::{Login, Mode};
use source::{Signals, Source};

/// Work with files on an FTP server
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, subcommand_required = true)]
pub struct FtpOptions {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    terms: TermOptions,
}

#[derive(Subcommand)]
enum Action {
    /// Print the directory after the login, or the full name of the one in the URL
    #[command(after_help = "Example: tidewheel ftp pwd ftp://HOST/pub")]
    Pwd(At),
    /// List a directory in the server's format, with sizes and dates
    #[command(after_help = "Example: tidewheel ftp ls ftp://HOST/pub/")]
    Ls(At),
    /// List the names in a directory
    #[command(after_help = "Example: tidewheel ftp nlst ftp://HOST/pub/")]
    Nlst(At),
    /// Download a file
    #[command(after_help = "Example: tidewheel ftp get ftp://HOST/pub/README -o -")]
    Get(GetOptions),
    /// Upload a file
    #[command(after_help = "Example: tidewheel ftp put report.txt ftp://bob@HOST/incoming/ --ascii")]
    Put(PutOptions),
    /// Rename a file or a directory
    #[command(
        after_help = "Example: tidewheel ftp rename ftp://bob@HOST/incoming/report.txt incoming/old.txt"
    )]
    Rename(RenameOptions),
    /// Remove a file
    #[command(after_help = "Example: tidewheel ftp rm ftp://bob@HOST/incoming/old.txt")]
    Rm(At),
    /// Create a directory
    #[command(after_help = "Example: tidewheel ftp mkdir ftp://bob@HOST/incoming/2026")]
    Mkdir(At),
    /// Remove an empty directory
    #[command(after_help = "Example: tidewheel ftp rmdir ftp://bob@HOST/incoming/2026")]
    Rmdir(At),
}

#[derive(clap::Args)]
struct At {
    /// The URL: ftp://[USER@]HOST[:PORT]/PATH
    url: String,
}

#[derive(clap::Args)]
struct RenameOptions {
    /// The URL: ftp://[USER@]HOST[:PORT]/PATH
    url: String,

    /// The new path, relative to the directory after the login unless it begins with a slash
    to: String,
}

#[derive(clap::Args)]
struct GetOptions {
    /// The file: ftp://[USER@]HOST[:PORT]/PATH
    url: String,

    /// Write to this file, which is replaced, to this directory, or to standard output (-) [default: the current directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    mode: ModeOptions,
}

#[derive(clap::Args)]
struct PutOptions {
    /// The file to upload; - for standard input
    file: PathBuf,

    /// The URL on the server; if it ends with a slash, the directory for the file
    url: String,

    /// Write to the final name from the start, for servers that do not allow renaming: others may see an incomplete file
    #[arg(long)]
    in_place: bool,

    #[command(flatten)]
    mode: ModeOptions,
}

#[derive(clap::Args)]
struct ModeOptions {
    /// Transfer a text file: its lines end with CRLF on the network and with LF here
    #[arg(long)]
    ascii: bool,

    /// Transfer a binary file [default, unless the URL ends in ;type=a]
    #[arg(long, conflicts_with = "ascii")]
    binary: bool,
}

impl ModeOptions {
    /// What is wanted, whatever the URL says.
    fn mode(&self) -> Option<Mode> {
        // Only one of them is given.
        match (self.ascii, self.binary) {
            (true, _) => Some(Mode::Text),
            (false, true) => Some(Mode::Binary),
            (false, false) => None,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  tidewheel ftp ls ftp://HOST/pub/
  tidewheel ftp get ftp://HOST/pub/README -o -
  tidewheel ftp put report.txt ftp://bob@HOST/incoming/ --ascii
  tidewheel ftp rename ftp://bob@HOST/incoming/report.txt incoming/old.txt

URLs have the form ftp://[USER@]HOST[:PORT]/PATH. PATH is relative to the directory after the login; with two slashes after \
the host it is absolute. At its end, ;type=a is a text file, ;type=i a binary file, and for get ;type=d a list of names.
Accounts: without USER the login is anonymous. If the server refuses that, the account in TIDEWHEEL_FTP_USER is used, or \
its name is asked for on a terminal. The password is taken from TIDEWHEEL_FTP_PASSWORD, or asked for; it cannot be given \
on the command line.
Names that are not UTF-8 are percent-encoded, unless --encoding gives their encoding. Proxies are not used.

Exit codes: 0 success; 1 an error, with a line on standard error; 2 invalid command line";

/// The URLs that are taken.
const SCHEMES: [&str; 1] = ["ftp"];

/// Does what the options say.
///
/// # Errors
/// A line for people.
pub fn run(options: &FtpOptions) -> Result<(), Failure> {
    let terms = options.terms.terms();
    match &options.action {
        Action::Pwd(At { url }) => within(url, terms, Login::folder),
        Action::Ls(At { url }) => within(url, terms, Login::list),
        Action::Nlst(At { url }) => within(url, terms, Login::names),
        Action::Get(options) => fetch(options, terms),
        Action::Put(options) => put(options, terms),
        Action::Rename(RenameOptions { url, to }) => {
            let to =
                one_name(to, terms).map_err(|reason| Failure::usage(format!("the new path: {reason}")))?;
            at(url, terms, |login, path| login.rename(path, &to).map(silently))
        }
        Action::Rm(At { url }) => at(url, terms, |login, path| login.remove(path).map(silently)),
        Action::Mkdir(At { url }) => at(url, terms, |login, path| login.make_folder(path).map(silently)),
        Action::Rmdir(At { url }) => at(url, terms, |login, path| login.remove_folder(path).map(silently)),
    }
}

/// A path that was typed, as it stands in a command.
fn one_name(path: &str, terms: Terms) -> Result<Vec<u8>, String> {
    if path.is_empty() {
        return Err("it is empty".to_owned());
    }
    let bytes = terms.names.encode(path)?.into_owned();
    place::without_ends(&bytes)?;
    Ok(bytes)
}

/// What is done needs no words.
fn silently((): ()) -> String {
    String::new()
}

fn ftp_url(text: &str, terms: Terms) -> Result<(Url, FtpPlace), Failure> {
    let url = place::url(text, &SCHEMES, terms.names).map_err(Failure::usage)?;
    let place = FtpPlace::of(&url).map_err(Failure::usage)?;
    Ok((url, place))
}

/// Asks something of the folder that a URL names.
fn within(
    url: &str,
    terms: Terms,
    ask: impl FnOnce(&mut Login) -> Result<String, Trouble>,
) -> Result<(), Failure> {
    let (url, place) = ftp_url(url, terms)?;
    log_in(&url, &place, terms, |login| {
        login.enter(&place.path)?;
        ask(login)
    })
}

/// Does something to what a URL names.
fn at(
    url: &str,
    terms: Terms,
    act: impl FnOnce(&mut Login, &[u8]) -> Result<String, Trouble>,
) -> Result<(), Failure> {
    let (url, place) = ftp_url(url, terms)?;
    if place.path.is_empty() {
        return Err(Failure::usage(format!("{url} names no file or folder")));
    }
    log_in(&url, &place, terms, |login| act(login, &place.path))
}

/// Logs in, does something, and prints what that tells, as a terminal can show it.
fn log_in(
    url: &Url,
    place: &FtpPlace,
    terms: Terms,
    act: impl FnOnce(&mut Login) -> Result<String, Trouble>,
) -> Result<(), Failure> {
    let known = accounts::known_account(place, terms)?;
    let account = || known.map_or_else(|| accounts::typed_account(place, terms), |known| Ok(Some(known)));
    let told = Login::open(place, account, terms).and_then(|mut login| {
        let told = act(&mut login)?;
        login.close();
        Ok(told)
    });
    match told {
        Ok(lines) => io::stdout()
            .write_all(
                lines
                    .lines()
                    .map(|line| text::harmless(line.as_bytes()) + "\n")
                    .collect::<String>()
                    .as_bytes(),
            )
            .map_err(|error| Failure::failed(format!("cannot write to standard output: {error}"))),
        Err(trouble) => Err(Failure::failed(format!("{url}: {}", trouble.line))),
    }
}

/// Fetches a file, in the way of `tidewheel get`.
fn fetch(options: &GetOptions, terms: Terms) -> Result<(), Failure> {
    let (url, _) = ftp_url(&options.url, terms)?;
    let mut downloads = Downloads::new(
        get::accounts(&[&url], terms)?,
        get::destination(options.output.as_deref(), 1)?,
        options.mode.mode(),
        terms,
    );
    downloads.asks = true;
    downloads.one(&url)
}

/// Stores a file. It has its final name once it is whole, unless it is written in place.
fn put(options: &PutOptions, terms: Terms) -> Result<(), Failure> {
    let shown = options.file.display();
    let source = Source::open(&options.file)
        .map_err(|error| Failure::failed(format!("cannot read {shown}: {error}")))?;
    let (url, place) = ftp_url(&options.url, terms)?;
    let mut path = place.path.clone();
    if place.url_type == Some(UrlType::Folder) {
        return Err(Failure::usage(format!(
            "{url} is a list of names, by ;type=d: nothing can be stored there"
        )));
    }
    if path.is_empty() || path.ends_with(b"/") {
        let name = options.file.file_name().and_then(OsStr::to_str).filter(|name| *name != "-");
        let name = name.and_then(|name| one_name(name, terms).ok()).ok_or_else(|| {
            Failure::usage(format!(
                "{url} is a folder, and {shown} has no name to have there: write the whole path"
            ))
        })?;
        path.extend_from_slice(&name);
    }
    let mode = options.mode.mode().unwrap_or(Mode::of(place.url_type));
    let shown = terms.names.decode(&path);
    log_in(&url, &place, terms, |login| {
        let draft = if options.in_place { path.clone() } else { draft_of(&path) };
        let signals = Signals::hold()
            .map_err(|error| Trouble::lasting(format!("cannot hold signals back: {error}")))?;
        let stream = login.begin_to_store(&draft, mode)?;
        // A text grows on the way.
        let total = source.total.filter(|_| mode == Mode::Binary);
        let bar =
            MultiProgress::new().add(ProgressBar::no_length().with_message(text::harmless(shown.as_bytes())));
        begin_bar(&bar, total);
        let sent = login.store(stream, mode, &mut signals.watch(&source), |bytes| bar.inc(bytes));
        let stored = sent.and_then(|bytes| {
            if !options.in_place {
                login.rename(&draft, &path).map_err(|trouble| {
                    let line = trouble.line;
                    Trouble::lasting(format!("cannot give it its name (--in-place does without): {line}"))
                })?;
            }
            Ok(bytes)
        });
        bar.finish_and_clear();
        match stored {
            Ok(bytes) => Ok(Notice::Stored { path: &shown, bytes }.text(terms.language)),
            Err(trouble) if login.remove(&draft).is_ok() => {
                signals.release();
                Err(trouble)
            }
            Err(Trouble { line, may_pass }) => {
                let draft = terms.names.decode(&draft);
                Err(Trouble { line: format!("{line}; a part of it may be left there as {draft}"), may_pass })
            }
        }
    })
}

/// The name that a file has on the server until it is whole, beside its final one.
fn draft_of(path: &[u8]) -> Vec<u8> {
    let (folder, name) =
        path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1));
    // Two of us may store the same name at the same time.
    [folder, format!(".tidewheel-{}-", std::process::id()).as_bytes(), name, b".part"].concat()
}
