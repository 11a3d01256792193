//! `tidewheel get`: documents over HTTP, HTTPS and FTP, several at once.
//!
//! ```text
//!  URLs, those of a list ─► threads ─► a draft beside its file ─► whole: its name
//!                                        └─ trouble that may pass: again, up to --retry times
//! ```

mod files;
mod forward;
mod http;
mod list;
mod proxy;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};
use ureq::http::HeaderValue;
use url::Url;

use super::Failure;
use super::ftp::accounts::{self, Account};
use super::ftp::login::{Login, Mode};
use super::ftp::names::NameEncoding;
use super::place::{self, FtpPlace, UrlType};
use super::text;
use super::transfer::{Sink, TermOptions, Terms, Trouble, begin_bar};
use super::words::Notice;
use crate::cli::show;
use files::Destination;
use http::{Found, Http};
use list::Field;

/// What it can fetch.
const SCHEMES: [&str; 3] = ["http", "https", "ftp"];

/// How large a list of addresses may be.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// How long it rests before the first retry; before each further one twice as long, up to the most.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Download files over HTTP, HTTPS or FTP, several at the same time
///
/// A file gets its final name when it is complete. Until then it is .tidewheel-*.part in the same directory; this is
/// removed after an error.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GetOptions {
    /// The URLs to download: http://, https:// or ftp://[USER@]HOST/PATH
    #[arg(value_name = "URL", required_unless_present = "list_from")]
    urls: Vec<String>,

    /// Write to this file, which is replaced, to this directory, or to standard output (-) [default: the current directory,
    /// under the last name of the URL, with a number if that exists]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the status and the headers of each response on standard error
    #[arg(short = 'i', long = "include")]
    headers: bool,

    /// Retry N times after temporary errors: after 0.5 s, 1 s, 2 s ...
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry: u32,

    /// The number of downloads at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    at_once: u16,

    /// Also download the URLs in the JSON document at this URL; see --field
    #[arg(long, value_name = "URL", requires = "field")]
    list_from: Option<String>,

    /// The path of the URLs in that document: names separated by dots, [] for each element, [0] for the first
    #[arg(long, value_name = "WAY", requires = "list_from")]
    field: Option<Field>,

    /// The User-Agent header
    #[arg(long, value_name = "TEXT", default_value = http::USER_AGENT, value_parser = header_value)]
    user_agent: String,

    #[command(flatten)]
    terms: TermOptions,
}

const EXAMPLES: &str = "\
Examples:
  tidewheel get http://127.0.0.1:8080/ -o page.html
  tidewheel get -i -o - http://127.0.0.1:8080/        the headers on standard error, the body on standard output
  tidewheel get --retry 3 https://HOST/a.iso ftp://HOST/b.iso
  tidewheel get -o pictures --list-from http://HOST/news.json --field 'newslist[].picUrl'

Accounts: the password for ftp://USER@HOST/PATH is taken from TIDEWHEEL_FTP_PASSWORD, or asked for on a terminal. Without \
USER the login is anonymous. If the server refuses that, the account in TIDEWHEEL_FTP_USER and TIDEWHEEL_FTP_PASSWORD is \
used; if one of them is not set, it is asked for, but only with a single URL and without --list-from. Accounts are not \
sent to servers that only a list names.
Proxies: http_proxy (lower case only) for http://, https_proxy or HTTPS_PROXY for https://, otherwise all_proxy or \
ALL_PROXY, in the form [SCHEME://][USER:PASSWORD@]HOST[:PORT] with the schemes http, https, socks4, socks4a, socks5 and \
socks5h. http:// URLs are requested from an http proxy; for https:// URLs, and always with an https proxy, the proxy must \
allow CONNECT. no_proxy or NO_PROXY lists domains, addresses and networks (192.0.2.0/24) to reach directly; * is all. \
ftp:// uses no proxy.
Types: at the end of an ftp:// URL, ;type=a is a text file, ;type=i a binary file (default), ;type=d a list of names.
Certificates: those that the system trusts, or those in the file SSL_CERT_FILE if it is set.

Exit codes: 0 all files were downloaded; 1 an error, with a line on standard error for each file; 2 invalid command line";

fn header_value(text: &str) -> Result<String, String> {
    match HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a header is one line of printable text".to_owned()),
    }
}

/// Does what the options say.
///
/// # Errors
/// A line for people.
pub fn run(options: &GetOptions) -> Result<(), Failure> {
    let terms = options.terms.terms();
    let read = |text: &String| place::url(text, &SCHEMES, terms.names).map_err(Failure::usage);
    let mut urls = options.urls.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let list = options.list_from.as_ref().map(read).transpose()?.zip(options.field.as_ref());
    let output = options.output.as_deref();
    let known: Vec<&Url> = urls.iter().chain(list.as_ref().map(|(url, _)| url)).collect();
    let accounts = accounts(&known, terms)?;
    let downloads = Downloads {
        http: Http::new(terms, &options.user_agent),
        asks: known.len() == 1 && list.is_none(),
        retries: options.retry,
        headers: options.headers,
        ..Downloads::new(accounts, destination(output, urls.len())?, None, terms)
    };
    let mut failed = 0;
    if let Some((url, field)) = list {
        let listed = downloads.list(&url, field).map_err(|trouble| {
            let line = trouble.line;
            Failure::failed(format!("{url}: {line}"))
        })?;
        for address in listed {
            match address {
                Ok(url) => urls.push(url),
                Err(line) => {
                    downloads.complain(&line);
                    failed += 1;
                }
            }
        }
        destination(output, urls.len())?;
    }
    let all = urls.len() + failed;
    if let ([url], 1) = (&urls[..], all) {
        return downloads.one(url);
    }
    failed += downloads.run(&urls, usize::from(options.at_once));
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{failed} of {all} could not be fetched"))),
    }
}

/// Where so many downloads go.
pub fn destination(output: Option<&Path>, count: usize) -> Result<Destination, Failure> {
    let path = output.unwrap_or(Path::new(".")).display();
    match Destination::of(output) {
        Ok(Destination::File(_)) if count > 1 => Err(Failure::usage(format!(
            "-o {path} is one file, for {count} documents: name a folder that is there, or - for standard output"
        ))),
        Ok(destination) => Ok(destination),
        Err(error) => Err(Failure::failed(format!("cannot write {path}: {error}"))),
    }
}

/// The accounts for URLs, whose passwords are asked for before anything else is on the terminal. A URL that names none
/// may still need that of the environment.
pub fn accounts(urls: &[&Url], terms: Terms) -> Result<HashMap<String, Account>, Failure> {
    let mut accounts = HashMap::new();
    for url in urls.iter().filter(|url| url.scheme() == "ftp") {
        let place = FtpPlace::of(url).map_err(Failure::usage)?;
        if !accounts.contains_key(&place.account())
            && let Some(account) = accounts::known_account(&place, terms)?
        {
            accounts.insert(place.account(), account);
        }
    }
    Ok(accounts)
}

/// Downloads to one destination on the same terms.
pub struct Downloads {
    http: Http,
    /// Of places that were typed: what strangers name is not there.
    accounts: HashMap<String, Account>,
    /// Whether an account is asked for where there is none: one document is fetched, and nothing else.
    pub asks: bool,
    /// What was answered, for further tries.
    typed: OnceLock<Account>,
    destination: Destination,
    /// For FTP; without it the URL says it.
    mode: Option<Mode>,
    retries: u32,
    /// Whether what an answer begins with is shown.
    headers: bool,
    terms: Terms,
    bars: MultiProgress,
}

impl Downloads {
    pub fn new(
        accounts: HashMap<String, Account>,
        destination: Destination,
        mode: Option<Mode>,
        terms: Terms,
    ) -> Downloads {
        let http = Http::new(terms, http::USER_AGENT);
        Downloads {
            http,
            accounts,
            asks: false,
            typed: OnceLock::new(),
            destination,
            mode,
            retries: 0,
            headers: false,
            terms,
            bars: MultiProgress::new(),
        }
    }

    /// Fetches one.
    ///
    /// # Errors
    /// A line for people.
    pub fn one(&self, url: &Url) -> Result<(), Failure> {
        self.remove_drafts_on_signals();
        self.save(url).map_err(|trouble| Failure::failed(format!("{url}: {}", trouble.line)))
    }

    fn remove_drafts_on_signals(&self) {
        if let Err(error) = files::remove_on_signals() {
            self.complain(&format!("a draft stays behind if a signal ends this: {error}"));
        }
    }

    /// Fetches them all, and says of each what became of it. How many failed.
    pub fn run(&self, urls: &[Url], at_once: usize) -> usize {
        self.remove_drafts_on_signals();
        // Documents on one stream come in order.
        let at_once =
            if self.destination == Destination::StandardOutput { 1 } else { at_once.min(urls.len()) };
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(url) = urls.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(trouble) = self.save(url) {
                            self.complain(&format!("{url}: {}", trouble.line));
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        failed.into_inner()
    }

    /// Fetches one and puts it where it belongs.
    fn save(&self, url: &Url) -> Result<(), Trouble> {
        let unwritable = |error: io::Error| Trouble::unwritable(&error);
        let name = self.name(url).map_err(Trouble::lasting)?;
        let mut draft = self.destination.draft(&name).map_err(unwritable)?;
        let bar = self.bar(&name);
        let fetched = self.try_often(url, || {
            draft.restart().map_err(unwritable)?;
            self.fetch(url, &mut draft, &bar, u64::MAX)
        });
        bar.finish_and_clear();
        let (_, bytes) = fetched?;
        if let Some(path) = draft.finish().map_err(unwritable)? {
            let path = path.display();
            let line =
                Notice::Saved { path: &path.to_string(), bytes, url: url.as_str() }.text(self.terms.language);
            self.bars.suspend(|| {
                // Whoever closed standard output does not want to know.
                let _ = writeln!(io::stdout(), "{}", text::harmless(line.as_bytes()));
            });
        }
        Ok(())
    }

    /// The name of what is at a URL.
    fn name(&self, url: &Url) -> Result<String, String> {
        Ok(if url.scheme() == "ftp" {
            let (path, _) = place::path_and_type(url)?;
            files::name_for(&path, self.terms.names)
        } else {
            files::name_for(url.path(), NameEncoding::default())
        })
    }

    /// Tries until it succeeds, fails for good, or there are no retries left.
    fn try_often<T>(&self, url: &Url, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let (mut left, mut pause) = (self.retries, PAUSE_FIRST);
        loop {
            match attempt() {
                Err(Trouble { line, may_pass: true }) if left > 0 => {
                    self.complain(&format!("{url}: {line}; trying again ({left} left)"));
                    thread::sleep(pause);
                    left -= 1;
                    pause = PAUSE_MAX.min(2 * pause);
                }
                ended => return ended,
            }
        }
    }

    /// Fetches one document once. Where it was found, and how many bytes it has.
    fn fetch(
        &self,
        url: &Url,
        out: &mut dyn Write,
        bar: &ProgressBar,
        bytes_max: u64,
    ) -> Result<(Url, u64), Trouble> {
        let mut sink = Sink { out, bar, bytes: 0, bytes_max };
        let on_head = |head: &str| {
            if self.headers {
                self.bars.suspend(|| {
                    let head: String =
                        head.lines().map(|line| text::harmless(line.as_bytes()) + "\n").collect();
                    // The stream may be closed; the exit code tells all the same.
                    let _ = writeln!(io::stderr(), "{url}\n{head}");
                });
            }
        };
        if url.scheme() == "ftp" {
            self.fetch_by_ftp(url, &mut sink, on_head)?;
            Ok((url.clone(), sink.bytes))
        } else {
            let Found { at, encoding } = self.http.fetch(url, &mut sink, &on_head)?;
            if let Some(encoding) = encoding {
                self.complain(&format!("{url}: the server sends it as {encoding}, and it stays so"));
            }
            Ok((at, sink.bytes))
        }
    }

    fn fetch_by_ftp(&self, url: &Url, sink: &mut Sink<'_>, on_head: impl Fn(&str)) -> Result<(), Trouble> {
        let place = FtpPlace::of(url).map_err(Trouble::lasting)?;
        if place.path.is_empty() && place.url_type != Some(UrlType::Folder) {
            return Err(Trouble::lasting("it names no file".to_owned()));
        }
        let mut login = Login::open(&place, || self.account(&place), self.terms)?;
        on_head(login.welcome());
        match place.url_type {
            Some(UrlType::Folder) => login.retrieve_names(&place.path, sink)?,
            url_type => login.retrieve(&place.path, self.mode.unwrap_or(Mode::of(url_type)), sink)?,
        }
        login.close();
        Ok(())
    }

    /// Who logs in at a place.
    fn account(&self, place: &FtpPlace) -> Result<Option<Account>, Trouble> {
        let known = self.accounts.get(&place.account()).or_else(|| self.typed.get());
        if known.is_some() || !self.asks {
            return Ok(known.cloned());
        }
        let typed = self.bars.suspend(|| accounts::typed_account(place, self.terms))?;
        Ok(typed.map(|account| self.typed.get_or_init(|| account).clone()))
    }

    /// The addresses that a JSON document names, or what is wrong with them.
    fn list(&self, url: &Url, field: &Field) -> Result<Vec<Result<Url, String>>, Trouble> {
        let mut bytes = Vec::new();
        let bar = self.bar("list");
        let fetched = self.try_often(url, || {
            bytes.clear();
            self.fetch(url, &mut bytes, &bar, LIST_BYTES_MAX)
        });
        bar.finish_and_clear();
        let (at, _) = fetched?;
        let document = serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::lasting(format!("it is no JSON: {error}")))?;
        let texts = field.texts(&document);
        if texts.is_empty() {
            return Err(Trouble::lasting(format!("there are no addresses at {field}")));
        }
        Ok(texts.into_iter().map(|text| listed(&at, text, self.terms.names)).collect())
    }

    /// A bar below those that are there.
    fn bar(&self, name: &str) -> ProgressBar {
        // Whatever is drawn before it has its place would be drawn elsewhere.
        let bar = self.bars.add(ProgressBar::no_length().with_message(text::harmless(name.as_bytes())));
        begin_bar(&bar, None);
        bar
    }

    /// Says what is wrong, above the bars.
    fn complain(&self, line: &str) {
        self.bars.suspend(|| {
            // The stream may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "tidewheel: {}", show::printable(line));
        });
    }
}

/// An address in the list that was fetched from `from`, which it may be relative to.
fn listed(from: &Url, text: &str, names: NameEncoding) -> Result<Url, String> {
    let url = place::joined(from, text, names).map_err(|error| format!("'{text}' in the list: {error}"))?;
    // Strangers wrote it: our password is not for whatever host they name.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{} in the list names an account", url.host_str().unwrap_or_default()));
    }
    place::accept(url, &SCHEMES).map_err(|reason| format!("'{text}' in the list {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_lists_are_relative_to_the_list_and_name_no_accounts() {
        let from = Url::parse("http://h/api/news.json?x=1").expect("a URL");
        for (text, url) in [
            ("http://pics/1.jpg", "http://pics/1.jpg"),
            ("//pics/1.jpg", "http://pics/1.jpg"),
            ("/1.jpg", "http://h/1.jpg"),
            ("1.jpg", "http://h/api/1.jpg"),
            ("ftp://h/1.jpg", "ftp://h/1.jpg"),
        ] {
            assert_eq!(listed(&from, text, NameEncoding::default()).map(String::from).as_deref(), Ok(url));
        }
        for bad in ["ftp://root@h/x", "http://u:secret@h/", "file:///etc/passwd", "javascript:x", "http://"] {
            let told = listed(&from, bad, NameEncoding::default()).expect_err(bad);
            assert!(!told.contains("secret"), "{told}");
        }
    }
}
