//! One document over HTTP or HTTPS.

use std::fmt::Display;
use std::path::PathBuf;
use std::{env, fs, io};

use ureq::config::Config;
use ureq::http::header::{CONTENT_ENCODING, LOCATION, TRANSFER_ENCODING};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};
use ureq::{Agent, Body, Error, Proxy, Timeout};
use url::Url;

use super::forward::{self, Forward, ToProxy};
use super::proxy;
use crate::clients::place;
use crate::clients::transfer::{Broken, Sink, Terms, Trouble, begin_bar};

/// What the program calls itself.
pub const USER_AGENT: &str = concat!("tidewheel/", env!("CARGO_PKG_VERSION"));

/// What it can fetch, and be sent on to.
const SCHEMES: [&str; 2] = ["http", "https"];

/// How often servers may send on.
const REDIRECTS_MAX: usize = 10;

/// What was found.
pub struct Found {
    /// Where it is from, after all that was sent on.
    pub at: Url,
    /// How it is encoded, with gzip for instance, if the server chose to though nobody had asked for it.
    pub encoding: Option<String>,
}

/// Fetches over HTTP and HTTPS.
pub struct Http {
    agent: Agent,
    terms: Terms,
}

impl Http {
    pub fn new(terms: Terms, user_agent: &str) -> Http {
        let Terms { timeout, .. } = terms;
        // The system's certificates, so that those of a company or a test count, too.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed here, where it is known what may follow what.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(user_agent)
            .tls_config(tls)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_recv_response(timeout)
            // Of the body each piece: a limit for all of it would be one for its size.
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            // Each request has its own.
            .proxy(None)
            // Each document on a connection of its own: a server may close one that was used at any time, and the next
            // request on it would fail though nothing is wrong.
            .max_idle_connections(0)
            .build();
        let connector = DefaultConnector::default().chain(HonestEnds);
        Http { agent: Agent::with_parts(config, connector, WithInterfaces::default()), terms }
    }

    /// Fetches one document. `on_head` is shown the status and the headers of the answer as lines, whatever the status.
    ///
    /// # Errors
    /// Why it was not fetched as a whole.
    pub fn fetch(&self, url: &Url, sink: &mut Sink<'_>, on_head: &dyn Fn(&str)) -> Result<Found, Trouble> {
        let (at, response) = self.ask(url)?;
        on_head(&head(&response));
        let status = response.status();
        // Nobody has asked for a part.
        if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
            let line = format!("the server answers {status}");
            return Err(Trouble { line, may_pass: may_pass(status) });
        }
        // What was made smaller for the way alone is not the document.
        if let Some(codings) = response.headers().get(TRANSFER_ENCODING) {
            let codings = String::from_utf8_lossy(codings.as_bytes()).into_owned();
            if !codings.trim().eq_ignore_ascii_case("chunked") {
                return Err(Trouble::lasting(format!("unsupported Transfer-Encoding: {codings}")));
            }
        }
        let encoding = response.headers().get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity");
        let encoding = encoding.map(|encoding| String::from_utf8_lossy(encoding.as_bytes()).into_owned());
        let body = response.into_body();
        let total = body.content_length();
        begin_bar(sink.bar, total);
        sink.fill(&mut body.into_reader()).map_err(|broken| match broken {
            Broken::Source(error) => self.trouble(Error::from(error), Some((sink.bytes, total))),
            Broken::Sink(trouble) => trouble,
        })?;
        Ok(Found { at, encoding })
    }

    /// Fetches a document over plain HTTP through a proxy.
    fn through(&self, proxy: &Proxy, url: &Url) -> Agent {
        let connector = DefaultConnector::default().chain(HonestEnds).chain(Forward::new(url, proxy));
        Agent::with_parts(self.agent.config().clone(), connector, ToProxy::new(proxy))
    }

    /// Asks for a document, also where the servers send on to. Where the answer is from, and the answer.
    fn ask(&self, url: &Url) -> Result<(Url, Response<Body>), Trouble> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let proxy = proxy::of(&at)?;
            let response = match &proxy {
                Some(proxy) if forward::is_for(&at, proxy) => {
                    self.through(proxy, &at).get(at.as_str()).call()
                }
                _ => self.agent.get(at.as_str()).config().proxy(proxy).build().call(),
            };
            let response = response.map_err(|error| self.trouble(error, None))?;
            let location = response.headers().get(LOCATION).filter(|_| sends_on(response.status()));
            let Some(location) = location else { return Ok((at, response)) };
            at = next(&at, &String::from_utf8_lossy(location.as_bytes())).map_err(Trouble::lasting)?;
        }
        Err(Trouble::lasting("it sends from one address to the next without end".to_owned()))
    }

    /// An error in words; `body` is how much of it had come, of how much, if it had begun.
    fn trouble(&self, error: Error, body: Option<(u64, Option<u64>)>) -> Trouble {
        match error {
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                let patience = self.terms.patience();
                Trouble::passing(format!("no connection for {patience}"))
            }
            Error::Timeout(_) => self.terms.silence(body.map_or(0, |(bytes, _)| bytes)),
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => insecure(&error),
            Error::Io(error) => match (body, error.kind()) {
                (Some((bytes, total)), _) => self.terms.cut(bytes, total),
                (
                    None,
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe,
                ) => self.terms.closed(),
                (None, _) => Trouble::unreachable(&error),
            },
            Error::HostNotFound => Trouble::lasting("there is no such host".to_owned()),
            Error::Rustls(error) => insecure(&error),
            // Of the library, which has no setting for it.
            Error::Protocol(error) if error.to_string().ends_with("too many headers") => {
                Trouble::lasting("the answer has more than 128 headers, the most that are read".to_owned())
            }
            Error::Protocol(error) => Trouble::lasting(format!("the answer is not sound HTTP: {error}")),
            other => Trouble::lasting(other.to_string()),
        }
    }
}

/// What TLS has to say, mostly of a certificate.
fn insecure(error: &impl Display) -> Trouble {
    let told = error.to_string();
    Trouble::lasting(match told.strip_prefix("invalid peer certificate: ") {
        // As `openssl req -x509` makes them, unless it is told otherwise.
        Some(reason) if reason.contains("CaUsedAsEndEntity") => {
            "the server's certificate is that of an authority (CA:TRUE), which no server may use: it needs one with \
             basicConstraints=CA:FALSE"
                .to_owned()
        }
        Some(reason) => {
            let see = useless_certificates().unwrap_or_else(|| "see SSL_CERT_FILE in --help".to_owned());
            format!("the server's certificate is not trusted ({see}): {reason}")
        }
        None => match useless_certificates() {
            Some(why) => format!("no certificate can be trusted: {why}"),
            None => format!("TLS: {told}"),
        },
    })
}

/// Why a variable that names certificates has brought none.
fn useless_certificates() -> Option<String> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("SSL_CERT_FILE") {
        let why = match fs::read_to_string(&path) {
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => return None,
            Ok(_) => "it has no certificate in PEM".to_owned(),
            Err(error) => error.to_string(),
        };
        return Some(format!("SSL_CERT_FILE={}: {why}", path.display()));
    }
    let path = set("SSL_CERT_DIR")?;
    let error = fs::read_dir(&path).err()?;
    Some(format!("SSL_CERT_DIR={}: {error}", path.display()))
}

/// Whether an answer only names another address.
fn sends_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where `at` sends on to.
fn next(at: &Url, location: &str) -> Result<Url, String> {
    let to = at.join(location).map_err(|error| format!("it sends on to '{location}': {error}"))?;
    let scheme = to.scheme().to_owned();
    let to = place::accept(to, &SCHEMES)
        .map_err(|reason| format!("it sends on to an address of {scheme}:, which {reason}"))?;
    // Who asks for TLS is not sent on to where anybody on the way can read and change the document.
    if at.scheme() == "https" && scheme == "http" {
        return Err(format!("it sends on to {to}, without TLS: fetch that if you mean to"));
    }
    Ok(to)
}

/// Whether the same request may succeed a little later.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The status and the headers, one line each.
fn head(response: &Response<Body>) -> String {
    let mut lines = format!("{:?} {}\n", response.version(), response.status());
    for (name, value) in response.headers() {
        lines.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    lines
}

/// Finds hosts as the library does, and adds the interfaces that URLs have named.
#[derive(Debug, Default)]
pub struct WithInterfaces(DefaultResolver);

impl Resolver for WithInterfaces {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut all = self.0.resolve(uri, config, timeout)?;
        for address in all.iter_mut() {
            *address = place::with_interface(*address);
        }
        Ok(all)
    }
}

/// Makes connections whose breaking is told: see [`HonestEnd`].
#[derive(Debug)]
struct HonestEnds;

impl<In: Transport> Connector<In> for HonestEnds {
    type Out = HonestEnd<In>;

    fn connect(&self, _details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(HonestEnd))
    }
}

/// A connection that ends in order or in an error. A body without a length goes on to the end of the connection, and the
/// library takes a reset and a TLS stream that was cut for such an end.
#[derive(Debug)]
struct HonestEnd<In>(In);

impl<In: Transport> Transport for HonestEnd<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.await_input(timeout).map_err(|error| match error {
            Error::Io(broken)
                if matches!(
                    broken.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Error::Io(io::Error::new(io::ErrorKind::BrokenPipe, broken))
            }
            other => other,
        })
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_on_to_where_he_would_not_go() {
        let next = |at: &str, location| next(&Url::parse(at).expect("a URL"), location).map(String::from);
        assert_eq!(next("http://h/a/b", "c?d=1").as_deref(), Ok("http://h/a/c?d=1"));
        assert_eq!(next("http://h/a/b", "https://i/").as_deref(), Ok("https://i/"));
        assert_eq!(next("https://h/a/b", "//i/c").as_deref(), Ok("https://i/c"));
        for (at, location, told) in [
            ("https://h/", "http://h/", "it sends on to http://h/, without TLS"),
            (
                "http://h/",
                "file:///etc/passwd",
                "an address of file:, which begins with none of http://, https://",
            ),
            ("http://h/", "ftp://h/x", "begins with none of"),
            ("https://h/", "http://u:secret@h/", "has a password"),
            ("http://h/", "http://[::", "it sends on to 'http://[::'"),
        ] {
            let line = next(at, location).expect_err(location);
            assert!(line.contains(told) && !line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn a_certificate_that_no_server_may_use_is_told_with_its_remedy() {
        let told = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        assert!(insecure(&told).line.contains("it needs one with basicConstraints=CA:FALSE"));
    }

    #[test]
    fn what_is_overloaded_may_pass_and_what_is_not_there_stays_so() {
        let passes = |code| may_pass(StatusCode::from_u16(code).expect("a status"));
        assert!([408, 429, 500, 502, 503, 504].into_iter().all(passes));
        assert!(![301, 400, 401, 403, 404, 410, 501].into_iter().any(passes));
    }
}
