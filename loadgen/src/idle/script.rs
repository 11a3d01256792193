//! What the held connections say: one exchange, an unfinished request, or requests without end.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::{Asked, Idle, Options};
use crate::exchange::{Custom, Exchange, FirstBody, Http, Walk};
use crate::load::{Amount, Budget, Load, Shape};
use crate::service::Service;
use crate::shortage;
use crate::size::Sizes;
use crate::sources::Sources;
use crate::stream::Stream;
use crate::text::Text;

/// So many bytes of requests are made once, for all stopped connections.
const REQUESTS_BYTES_MIN: usize = 16 * 1024;

/// Requests are kept whole here.
const SIZE_MAX: usize = 16 << 20;

/// The line that an echo is asked for unless another is given.
const LINE: &[u8] = b"hello\n";

/// Has one exchange on each connection, given the index of the first, what a reply may take, and what ends it early.
type Once<'a> = dyn Fn(Vec<Stream>, usize, Duration, &dyn Fn() -> bool) -> Result<Vec<Stream>> + 'a;

/// What is said over any kind of exchange.
pub struct Script<'a> {
    once: Box<Once<'a>>,
    timeout: Duration,
    /// Whole requests, one after the other.
    pub requests: Vec<u8>,
    pub unfinished: Unfinished,
}

/// A request of which one byte after the other is sent, and never the last.
#[derive(Default)]
pub struct Unfinished {
    begin: Vec<u8>,
    /// What follows for ever, where the protocol allows that.
    endless: Option<u8>,
}

impl Unfinished {
    /// The byte at this place; none if only the last one is left.
    pub fn byte(&self, at: u64) -> Option<u8> {
        let byte = usize::try_from(at).ok().and_then(|at| self.begin.get(at));
        byte.copied().or(self.endless)
    }
}

impl<'a> Script<'a> {
    /// Fails if connections to the service cannot be held.
    pub fn of(idle: &Idle, asked: &Asked<'a>) -> Result<Script<'a>, String> {
        let options = &idle.options;
        let (sizes, timeout) = (options.size.clone(), options.timeout());
        if sizes.bounds().0 > SIZE_MAX {
            return Err(format!(
                "--size {sizes}: slow and stopped connections have requests of at most {SIZE_MAX} bytes"
            ));
        }
        // A line without an end, as long as it may get.
        let line = Unfinished { begin: Vec::new(), endless: Some(b'a') };
        Ok(match *asked {
            Asked::Walk(Service::Echo) => {
                let sizes = Sizes::fixed(LINE.len());
                Script::with(|| Walk::new(Text::repeated(LINE)), sizes, timeout, |_| line)
            }
            Asked::Walk(service) => Script::with(move || Walk::of(service), sizes, timeout, |_| line),
            Asked::Greeting => Script::with(Custom::greeting, sizes, timeout, |_| line),
            Asked::Custom { send, expect } => Script::with(
                move || Custom::new(send, expect),
                sizes,
                timeout,
                |mut begin| {
                    begin.pop();
                    Unfinished { begin, endless: None }
                },
            ),
            Asked::Page { path, status } => {
                let (host, first_body) = (options.target.address.host(), FirstBody::default());
                let make = move || Http::new(path, &host, status, first_body.clone());
                Script::with(make, sizes, timeout, |mut begin| {
                    // In place of the empty line that ends the head, a header that goes on.
                    begin.truncate(begin.len() - 2);
                    begin.extend_from_slice(b"X-Slow: ");
                    Unfinished { begin, endless: Some(b'a') }
                })
            }
            Asked::Datagrams(_) => {
                return Err("idle holds connections, of which datagrams have none".into());
            }
            Asked::Said(_) | Asked::Chat { .. } => {
                return Err("idle holds connections to echo, uppercase, greeting, http and custom".into());
            }
        })
    }

    /// `unfinish` makes of a whole request what slow connections send.
    fn with<E: Exchange>(
        make: impl Fn() -> E + 'a,
        sizes: Sizes,
        timeout: Duration,
        unfinish: impl FnOnce(Vec<u8>) -> Unfinished,
    ) -> Script<'a> {
        let mut exchange = make();
        let mut conn = exchange.open(0);
        let (size, mut requests) = (sizes.bounds().0, Vec::new());
        exchange.request(&mut conn, size, &mut requests);
        let unfinished = unfinish(requests.clone());
        while requests.len() < REQUESTS_BYTES_MIN {
            exchange.request(&mut conn, size, &mut requests);
        }
        let once = move |streams: Vec<Stream>, first, timeout, is_over: &dyn Fn() -> bool| {
            let shape = Shape {
                connections: streams.len(),
                first,
                sizes: sizes.clone(),
                timeout,
                seed: first as u64,
                // They are open.
                sources: Sources::default(),
                budget: Budget::WHOLE,
            };
            let connections = format!("connections {} to {}", first + 1, first + streams.len());
            exchange_once(streams, shape, make(), is_over)
                .with_context(|| format!("the first exchange of {connections}"))
        };
        Script { once: Box::new(once), timeout, requests, unfinished }
    }

    /// Has one exchange on each of the connections, the first of which has this index.
    pub fn once(&self, streams: Vec<Stream>, first: usize) -> Result<Vec<Stream>> {
        (self.once)(streams, first, self.timeout, &|| false)
    }

    /// Has one exchange on a connection that is not kept.
    pub fn first_reply(
        &self,
        options: &Options,
        patience: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Result<()> {
        let source = options.source_ips.clone().unwrap_or_default().of(0);
        let stream = Stream::connect(&options.target.address.peer, source, patience)
            .map_err(shortage::explained)
            .with_context(|| format!("connecting to {}", options.target.address))?;
        (self.once)(vec![stream], 0, patience, is_over).map(drop)
    }
}

fn exchange_once<E: Exchange>(
    streams: Vec<Stream>,
    shape: Shape,
    exchange: E,
    is_over: &dyn Fn() -> bool,
) -> Result<Vec<Stream>> {
    let connections = streams.len();
    let mut load = Load::over(streams, shape, exchange)?;
    // From quiet and at depth 1, as many requests as connections are one on each.
    load.drive(Amount::Requests(connections as u64), 1, is_over)?;
    let record = load.take_record();
    if let Some(error) = record.first_error {
        bail!("{error}");
    }
    if record.peer_closed > 0 {
        bail!("the server closed {} of them: does it limit its connections?", record.peer_closed);
    }
    load.into_streams()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// What a slow connection sends first, and what stands there after very long.
    fn unfinished(arguments: &[&str]) -> (String, Option<u8>) {
        let cli = Cli::parse_from([&["loadgen", "idle"], arguments].concat());
        let Some(Command::Idle(idle)) = cli.command else {
            panic!("{arguments:?} is idle");
        };
        let asked = idle.options.asked(2).unwrap();
        let script = Script::of(&idle, &asked).unwrap();
        assert!(script.requests.len() >= REQUESTS_BYTES_MIN);
        let Unfinished { begin, .. } = &script.unfinished;
        (begin.escape_ascii().to_string(), script.unfinished.byte(u64::MAX))
    }

    #[test]
    fn no_request_is_ever_finished() {
        let address = "127.0.0.1:7007";
        assert_eq!(unfinished(&[address]), (String::new(), Some(b'a')));
        assert_eq!(
            unfinished(&[&format!("custom={address}"), "--send", r"PING\r\n", "--expect", r"+PONG\r\n"]),
            (r"PING\r".into(), None)
        );
        assert_eq!(
            unfinished(&[&format!("http={address}"), "--path", "/a"]),
            (r"GET /a HTTP/1.1\r\nHost: 127.0.0.1:7007\r\nX-Slow: ".into(), Some(b'a'))
        );
    }
}
