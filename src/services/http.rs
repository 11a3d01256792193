//! HTTP: one page, at `/`, to whoever asks for it in HTTP/1.1 or 1.0.
//!
//! ```text
//!  bytes ─► find_end ─► Head::parse ─► Body::skip ─► answer ─► the next request
//!              │ none yet     │ refused     │ incomplete
//!              ▼              ▼             ▼
//!        kept by the engine   4xx, 5xx,     dropped as it comes, the answer waits
//!                             close
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `GET` or `HEAD` of `/`, also with a query or as `http://host/` | 200 |
//! | any other path | 404 |
//! | `POST`, `PUT`, `PATCH`, `DELETE`, `OPTIONS`, `TRACE` of `/`, `OPTIONS *` | 405 |
//! | any other method (`CONNECT host:port` is one), codings before `chunked` | 501, close |
//! | a body that brings less than 1 KiB a second | 408, close |
//! | a body of more than 64 KiB as it comes | 413, close |
//! | a head or trailer that is too large, or has more than 64 fields | 431, close |
//! | any other version of HTTP, so also the preface of HTTP/2 | 505, close |
//! | anything malformed, or that two readers could understand differently | 400, close |
//!
//! What two readers could understand differently is what requests are smuggled with: Content-Length twice or beside
//! Transfer-Encoding, lines that end in LF alone, folded lines, blanks before a colon, control characters, Host missing
//! or twice, chunks of no clear size. One empty line before a request is passed over.
//!
//! Host and the request target must match their grammar to the byte (`target.rs`): so a host with a second colon or half
//! a bracket, a fragment, or a character that has to be percent-encoded is a 400. The host of `http://host/` comes before
//! that of the field; neither makes another page.
//!
//! Connections stay open as the peer's version and its `Connection` say. Bodies are read to their end and dropped, and
//! the answer comes behind that; chunks that are malformed make it 400. A peer that sends `Expect: 100-continue` with a
//! body is answered at once, without a 100, and its connection is closed. A peer that ends its side in the middle of a
//! request gets no answer to that one.

mod answer;
mod body;
mod head;
mod pace;
mod target;

use std::borrow::Cow;
use std::mem;
use std::time::SystemTime;

use crate::connection::CloseReason;
use crate::service::{Arrival, Context, Service};
use crate::slots::{ConnId, ConnMap};

use answer::{Answer, Persistence, Status, Texts};
use body::Body;
use head::Head;
use pace::Pace;

const REFUSED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: tidewheel\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 20\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    too many connections";

const REFUSED_PER_IP: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: tidewheel\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    too many connections from your address";

/// Serves the page `<h1>Hello world!</h1>`.
///
/// [`Limits::read_deadline`](crate::Limits::read_deadline) applies to the head of a request. A body may take longer than one
/// read deadline, but must bring 1 KiB a second on average over each of them; what it brings above that counts for the next, up
/// to half of what is needed. Without an idle timeout, connections stay open between requests for as long as their peers like.
#[derive(Debug)]
pub struct Http {
    head_bytes_max: usize,
    texts: Texts,
    conns: ConnMap<Progress>,
}

/// How far the requests of one connection have been read.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// So many bytes at the front of what is left need not be searched again.
    searched: usize,
    /// A request whose body is incomplete. Few connections have one, and most of them for a moment.
    pending: Option<Box<Pending>>,
}

/// A request whose body is incomplete.
#[derive(Clone, Debug)]
struct Pending {
    /// The rest of the body.
    body: Body,
    /// What is answered behind it.
    answer: Answer,
    /// How many bytes of the body are done with.
    bytes: u32,
    /// Whether it is fast enough, where that matters.
    pace: Option<Pace>,
}

/// The outcome of [`Http::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step<'a> {
    /// How many bytes of the input, from the front, are consumed.
    pub consumed: usize,
    /// The bytes to send: the answer to one request, or nothing.
    pub answer: &'a [u8],
    /// What the connection does next.
    pub next: Next,
}

/// What a connection does after a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on with the next request, which may have been received already.
    Request,
    /// It waits for more input.
    Input,
    /// It is closed, as the peer or its version of HTTP asks.
    Close,
    /// It is closed because of what the peer sent.
    Refuse,
}

impl Default for Http {
    /// Heads of up to 32 KiB.
    fn default() -> Http {
        Http::new(32 << 10)
    }
}

impl Http {
    /// Serves requests whose heads (the request line and the header fields, with their line endings) have up to
    /// `head_bytes_max` bytes. Longer heads are answered with status 431, unless
    /// [`Limits::input_bytes_max`](crate::Limits::input_bytes_max) is smaller.
    pub fn new(head_bytes_max: usize) -> Http {
        Http { head_bytes_max, texts: Texts::default(), conns: ConnMap::new() }
    }

    /// The answer to the request at the front of `input`, at the time `wall`: the whole protocol, on bytes.
    ///
    /// `input` begins where the last step's `consumed` ended; if that step had [`Next::Input`], it is longer than before. How
    /// the input is split does not change the answers.
    ///
    /// ```
    /// use std::time::UNIX_EPOCH;
    /// use tidewheel::services::http::{Http, Next, Progress};
    ///
    /// let (mut http, mut progress) = (Http::default(), Progress::default());
    /// let step = http.next(&mut progress, b"GET / HTTP/1.1\r\n", UNIX_EPOCH);
    /// assert_eq!((step.consumed, step.next), (0, Next::Input));
    /// let step = http.next(&mut progress, b"GET / HTTP/1.1\r\nHost: me\r\n\r\n", UNIX_EPOCH);
    /// assert!(step.answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    /// assert_eq!((step.consumed, step.next), (28, Next::Request));
    /// ```
    pub fn next(&mut self, progress: &mut Progress, input: &[u8], wall: SystemTime) -> Step<'_> {
        self.next_of(progress, input, wall, false)
    }

    /// The same; where this is the `last` input, the answer to the request at its end says that the connection is closed.
    fn next_of(&mut self, progress: &mut Progress, input: &[u8], wall: SystemTime, last: bool) -> Step<'_> {
        match self.advance(progress, input) {
            Ok((consumed, None)) => Step { consumed, answer: &[], next: Next::Input },
            Ok((consumed, Some(mut answer))) => {
                if last && consumed == input.len() {
                    answer.persistence = Persistence::Closes;
                }
                let closes = answer.persistence == Persistence::Closes;
                let next = if closes { Next::Close } else { Next::Request };
                Step { consumed, answer: self.texts.text(answer, wall), next }
            }
            Err(answer) => {
                let consumed = input.len();
                Step { consumed, answer: self.texts.text(answer, wall), next: Next::Refuse }
            }
        }
    }

    /// How many bytes from the front of `input` are done with, and the answer if a request is complete; or what it is
    /// refused with.
    fn advance(&self, progress: &mut Progress, input: &[u8]) -> Result<(usize, Option<Answer>), Answer> {
        let kept = progress.pending.take();
        let (mut consumed, mut body, answer) = match &kept {
            Some(pending) => (0, pending.body, pending.answer),
            None => {
                let refuse = |status| {
                    let request = input.strip_prefix(b"\r\n").unwrap_or(input);
                    let is_head = request.starts_with(b"HEAD ");
                    Answer { status, is_head, persistence: Persistence::Closes }
                };
                let end = head::find_end(input, &mut progress.searched, self.head_bytes_max, true);
                let Some(end) = end.map_err(refuse)? else { return Ok((0, None)) };
                let Head { body, answer } = Head::parse(&input[..end]).map_err(refuse)?;
                (end, body, answer)
            }
        };
        let refuse = |status| Answer { status, persistence: Persistence::Closes, ..answer };
        let rest = &input[consumed..];
        let skipped = body.skip(rest, &mut progress.searched, self.head_bytes_max).map_err(refuse)?;
        consumed += skipped;
        if body == Body::Done {
            return Ok((consumed, Some(answer)));
        }
        let mut pending = kept.unwrap_or_else(|| Box::new(Pending { body, answer, bytes: 0, pace: None }));
        pending.body = body;
        pending.bytes += skipped as u32;
        progress.pending = Some(pending);
        Ok((consumed, None))
    }

    /// Answers the requests at the front of `bytes`, as many as there is room for, and returns how many bytes that
    /// was; and what then. The end of the stream, `last`, does not wait for room.
    fn answer(&mut self, conn: ConnId, bytes: &[u8], last: bool, cx: &mut Context<'_>) -> (usize, Next) {
        let mut progress = self.conns.get_mut(conn).map(mem::take).unwrap_or_default();
        let was_pending = progress.pending.is_some();
        let mut consumed = 0;
        let mut next = Next::Request;
        while next == Next::Request && consumed < bytes.len() && (last || cx.room(conn) > 0) {
            let step = self.next_of(&mut progress, &bytes[consumed..], cx.wall(), cx.is_last(conn));
            consumed += step.consumed;
            next = step.next;
            if !step.answer.is_empty() {
                cx.count_messages(1);
                cx.send(conn, step.answer);
            }
        }
        if let Some(pending) = &mut progress.pending {
            pending.await_more(conn, bytes.len() - consumed, cx);
        } else if was_pending {
            cx.clear_deadline(conn);
        }
        if let Some(kept) = self.conns.get_mut(conn) {
            *kept = progress;
        }
        (consumed, next)
    }
}

impl Pending {
    /// Sees to it that the body is looked at when it should have brought more; `waiting` bytes are an incomplete line of it.
    fn await_more(&mut self, conn: ConnId, waiting: usize, cx: &mut Context<'_>) {
        if let Some(span) = cx.limits().read_deadline {
            let now = cx.now();
            let pace = self.pace.get_or_insert_with(|| Pace::new(now, span));
            pace.note(now, self.bytes.saturating_add(waiting as u32), waiting);
            cx.set_deadline(conn, pace.due(span));
        }
    }

    /// Whether the body is fast enough. If so, it is looked at again.
    fn holds_pace(&mut self, conn: ConnId, cx: &mut Context<'_>) -> bool {
        let (Some(pace), Some(span)) = (&mut self.pace, cx.limits().read_deadline) else { return true };
        let holds = pace.holds(cx.now(), span);
        if holds {
            cx.set_deadline(conn, pace.due(span));
        }
        holds
    }
}

impl Service for Http {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        self.conns.insert(conn, Progress::default());
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        match self.answer(conn, bytes, false, cx) {
            (consumed, Next::Request | Next::Input) => consumed,
            (_, Next::Close) => {
                cx.close(conn);
                bytes.len()
            }
            (_, Next::Refuse) => {
                cx.close_for(conn, CloseReason::BadInput);
                bytes.len()
            }
        }
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        match self.answer(conn, rest, true, cx) {
            (_, Next::Refuse) => cx.close_for(conn, CloseReason::BadInput),
            (_, Next::Request | Next::Input | Next::Close) => cx.close(conn),
        }
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let Some(pending) = self.conns.get_mut(conn).and_then(|progress| progress.pending.as_mut()) else {
            return;
        };
        if !pending.holds_pace(conn, cx) {
            let answer =
                Answer { status: Status::RequestTimeout, persistence: Persistence::Closes, ..pending.answer };
            cx.count_messages(1);
            cx.send(conn, self.texts.text(answer, cx.wall()));
            cx.close_for(conn, CloseReason::ReadDeadline);
        }
    }

    fn owes(&self, conn: ConnId) -> bool {
        self.conns.get(conn).is_some_and(|progress| progress.pending.is_some())
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, _: &mut Context<'_>) {
        self.conns.remove(conn);
    }

    fn refusal(&self, reason: CloseReason) -> Cow<'static, [u8]> {
        Cow::Borrowed(match reason {
            CloseReason::RefusedPerIp => REFUSED_PER_IP,
            _ => REFUSED,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: me\r\n\r\n";

    fn wall() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_233_906)
    }

    /// The answers to these pieces, each offered behind what was left of those before, and what became of the
    /// connection.
    fn converse<'a>(http: &mut Http, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Next) {
        let (mut progress, mut kept, mut answers) = (Progress::default(), Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            loop {
                let step = http.next(&mut progress, &kept, wall());
                answers.extend_from_slice(step.answer);
                kept.drain(..step.consumed);
                match step.next {
                    Next::Request => {}
                    Next::Input => break,
                    Next::Close | Next::Refuse => return (answers, step.next),
                }
            }
        }
        (answers, Next::Input)
    }

    /// The statuses of the answers to this input, and what became of the connection; both the same however the input
    /// is split.
    fn statuses(http: &mut Http, input: &[u8]) -> (Vec<u16>, Next) {
        let whole = converse(http, [input]);
        for at in 0..=input.len() {
            let (front, back) = input.split_at(at);
            assert!(converse(http, [front, back]) == whole, "{} split at {at}", input.escape_ascii());
        }
        assert!(converse(http, input.chunks(1)) == whole, "{} byte by byte", input.escape_ascii());
        let (answers, next) = whole;
        let text = String::from_utf8(answers).unwrap();
        let lines = text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap());
        (lines.collect(), next)
    }

    /// A request with these header fields beside Host, and with this body.
    fn post(fields: &str, body: &str) -> Vec<u8> {
        format!("POST / HTTP/1.1\r\nHost: me\r\n{fields}\r\n{body}").into_bytes()
    }

    #[test]
    fn the_page_is_answered_to_the_byte() {
        let mut http = Http::default();
        let (answers, _) = converse(&mut http, [GOOD]);
        let expected = "HTTP/1.1 200 OK\r\nServer: tidewheel\r\nDate: Sat, 21 Nov 2026 04:05:06 GMT\r\n\
            Content-Type: text/html; charset=utf-8\r\nContent-Length: 21\r\n\r\n<h1>Hello world!</h1>";
        assert_eq!(String::from_utf8(answers).unwrap(), expected);

        let (answers, _) = converse(&mut http, [&b"HEAD / HTTP/1.1\r\nHost: me\r\n\r\n"[..]]);
        assert_eq!(String::from_utf8(answers).unwrap(), expected.trim_end_matches("<h1>Hello world!</h1>"));
    }

    #[test]
    fn other_answers_give_the_reason_and_nothing_of_the_request() {
        let mut http = Http::default();
        let (answers, next) = converse(&mut http, [&b"PUT / HTTP/1.0\r\nX: y\r\n\r\n"[..]]);
        let expected = "HTTP/1.1 405 Method Not Allowed\r\nServer: tidewheel\r\n\
            Date: Sat, 21 Nov 2026 04:05:06 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 22\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n405 Method Not Allowed";
        assert_eq!((String::from_utf8(answers).unwrap().as_str(), next), (expected, Next::Close));

        for (request, body) in [
            ("GET /secret HTTP/1.1\r\nHost: me\r\n\r\n", "404 Not Found"),
            ("HEAD /secret HTTP/1.1\r\nHost: me\r\n\r\n", ""),
            ("HEAD / HTTP/1.1\r\nsecret: y\r\n\r\n", ""),
            ("\r\nHEAD / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: secret\r\n\r\n", ""),
            ("HEAD / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n", ""),
            ("GET /secret\n", "400 Bad Request"),
        ] {
            let (answers, _) = converse(&mut http, [request.as_bytes()]);
            let answers = String::from_utf8(answers).unwrap();
            assert!(!answers.contains("secret"), "{answers}");
            assert_eq!(answers.split_once("\r\n\r\n").unwrap().1, body, "to {request:?}");
        }
    }

    #[test]
    fn methods_and_targets() {
        for (line, status, next) in [
            ("GET / HTTP/1.1", 200, Next::Input),
            ("HEAD / HTTP/1.1", 200, Next::Input),
            ("GET /?x=1 HTTP/1.1", 200, Next::Input),
            ("GET /?x=http://other/path HTTP/1.1", 200, Next::Input),
            ("GET http://host/ HTTP/1.1", 200, Next::Input),
            ("GET HTTP://host:80 HTTP/1.1", 200, Next::Input),
            ("GET https://[::1]:443/?x=/ HTTP/1.1", 200, Next::Input),
            ("GET http://host?x HTTP/1.1", 200, Next::Input),
            ("GET http://host/path HTTP/1.1", 404, Next::Input),
            ("GET /index.html HTTP/1.1", 404, Next::Input),
            ("GET // HTTP/1.1", 404, Next::Input),
            ("DELETE /index.html HTTP/1.1", 404, Next::Input),
            ("POST / HTTP/1.1", 405, Next::Input),
            ("PUT / HTTP/1.1", 405, Next::Input),
            ("PATCH / HTTP/1.1", 405, Next::Input),
            ("DELETE / HTTP/1.1", 405, Next::Input),
            ("TRACE / HTTP/1.1", 405, Next::Input),
            ("OPTIONS / HTTP/1.1", 405, Next::Input),
            ("OPTIONS * HTTP/1.1", 405, Next::Input),
            ("CONNECT host:443 HTTP/1.1", 501, Next::Refuse),
            ("BREW / HTTP/1.1", 501, Next::Refuse),
            ("get / HTTP/1.1", 501, Next::Refuse),
            ("GET * HTTP/1.1", 400, Next::Refuse),
            ("GET index.html HTTP/1.1", 400, Next::Refuse),
            ("GET http:/// HTTP/1.1", 400, Next::Refuse),
            ("GET http://a@b/ HTTP/1.1", 400, Next::Refuse),
            ("GET ftp://host/ HTTP/1.1", 400, Next::Refuse),
            ("GET / HTTP/2.0", 505, Next::Refuse),
            ("GET / HTTP/1.2", 505, Next::Refuse),
            ("PRI * HTTP/2.0", 505, Next::Refuse),
            ("GET / HTTP/1.10", 400, Next::Refuse),
            ("GET / HTTP/11", 400, Next::Refuse),
            ("GET / http/1.1", 400, Next::Refuse),
            ("GET / HTTP/1.1 ", 400, Next::Refuse),
            ("GET / FTP/1.1", 400, Next::Refuse),
            ("GET /", 400, Next::Refuse),
            ("GET  / HTTP/1.1", 400, Next::Refuse),
            ("GET /  HTTP/1.1", 400, Next::Refuse),
            ("GET\t/ HTTP/1.1", 400, Next::Refuse),
            ("GET / /?x HTTP/1.1", 400, Next::Refuse),
            (" GET / HTTP/1.1", 400, Next::Refuse),
            ("G@T / HTTP/1.1", 400, Next::Refuse),
        ] {
            let request = format!("{line}\r\nHost: me\r\n\r\n");
            assert_eq!(statuses(&mut Http::default(), request.as_bytes()), (vec![status], next), "{line}");
        }
    }

    #[test]
    fn connections_stay_as_the_version_and_the_peer_say() {
        for (head, field, stays) in [
            ("GET / HTTP/1.1\r\nHost: me", None, true),
            ("GET / HTTP/1.1\r\nHost: me\r\nConnection: keep-alive", None, true),
            ("GET / HTTP/1.1\r\nHost: me\r\nConnection: close", Some("close"), false),
            ("GET / HTTP/1.1\r\nHost: me\r\nconnection: foo ,\tCLOSE", Some("close"), false),
            (
                "GET / HTTP/1.1\r\nHost: me\r\nConnection: close\r\nConnection: keep-alive",
                Some("close"),
                false,
            ),
            ("GET / HTTP/1.0", Some("close"), false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive", Some("keep-alive"), true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive, close", Some("close"), false),
            ("GET /other HTTP/1.0\r\nConnection: keep-alive", Some("keep-alive"), true),
            ("POST / HTTP/1.1\r\nHost: me\r\nConnection: close", Some("close"), false),
        ] {
            let request = format!("{head}\r\n\r\n");
            let (answers, next) = converse(&mut Http::default(), [request.as_bytes()]);
            let answers = String::from_utf8(answers).unwrap();
            let said = answers.split("\r\n").find_map(|line| line.strip_prefix("Connection: "));
            assert_eq!((said, next == Next::Input), (field, stays), "{head}");
        }
    }

    #[test]
    fn requests_behind_a_body_are_found() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        for request in [
            post("", ""),
            post("Content-Length: 0\r\n", ""),
            post("Content-Length:3\r\n", "abc"),
            post("content-length: \t 0003 \r\n", "G\r\n"),
            post("Content-Length: 29\r\n", "GET / HTTP/1.1\r\nHost: you\r\n\r\n"),
            post(chunked, "0\r\n\r\n"),
            post("TRANSFER-ENCODING: Chunked\r\n", "3\r\nabc\r\n00\r\n\r\n"),
            post(chunked, "00a;name=value;other=\"quoted\"\r\n0\r\n\r\n\r\n\r\nx\r\n0;last\r\n\r\n"),
            post(chunked, "1\r\na\r\n0\r\nTrailer: x\r\nContent-Length: 5\r\n\r\n"),
        ] {
            let input = [&request, GOOD, GOOD].concat();
            assert_eq!(statuses(&mut Http::default(), &input), (vec![405, 200, 200], Next::Input));
        }
        // A body does not make it another request.
        let get = b"GET / HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\nab";
        let head = b"HEAD /x HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let input = [&get[..], head, GOOD].concat();
        assert_eq!(statuses(&mut Http::default(), &input), (vec![200, 404, 200], Next::Input));
    }

    #[test]
    fn one_empty_line_before_a_request_is_passed_over() {
        let one = [b"\r\n", GOOD, b"\r\n", GOOD].concat();
        assert_eq!(statuses(&mut Http::default(), &one), (vec![200, 200], Next::Input));
        for lines in [&b"\r\n\r\n"[..], b"\n", b"\r\n\n", b"\r\n\r", b"\r\r\n"] {
            let input = [GOOD, lines, GOOD].concat();
            assert_eq!(statuses(&mut Http::default(), &input), (vec![200, 400], Next::Refuse), "{lines:?}");
        }
    }

    /// Requests that two readers could understand differently, or of which nobody knows where they end.
    const AMBIGUOUS: [&str; 55] = [
        // Line endings, folding, blanks.
        "GET / HTTP/1.1\nHost: me\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\n\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\n\nC: d\r\n\r\n",
        "GET / HTTP/1.1\rHost: me\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\rA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\r\n\tContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: me\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\nHost : me\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nContent-Length : 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nContent-Length\t: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nContent Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nname\r\n\r\n",
        // Control characters.
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\x0bc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA: b\x7fc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nA\0: b\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: me\r\n\r\n",
        "GET /?\x01 HTTP/1.1\r\nHost: me\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: me\r\nA: b\0c\r\n\r\n",
        // Host.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me\r\nHost: me\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me, you\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me you\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: you@me/\r\n\r\n",
        // Content-Length.
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 2, 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: +2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: -2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 1 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 0x2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 18446744073709551618\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length:\r\n\r\nab",
        // Transfer-Encoding.
        "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding:\r\n\r\n",
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: me\r\nHost: you\r\n\r\n",
        // What is no HTTP.
        "\x16\x03\x01\x02\x00\x01\x00\x01\x03\x03",
        "GET /\n",
        "\0",
        "\r\n\r\n",
    ];

    #[test]
    fn what_could_be_understood_differently_is_refused() {
        for request in AMBIGUOUS {
            let input = [GOOD, request.as_bytes(), GOOD].concat();
            assert_eq!(statuses(&mut Http::default(), &input), (vec![200, 400], Next::Refuse), "{request:?}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long_line = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
        for body in [
            "\r\n",
            ";\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1 \r\na\r\n0\r\n\r\n",
            "1 ;x\r\na\r\n0\r\n\r\n",
            "g\r\na\r\n0\r\n\r\n",
            "10000000000000001\r\na\r\n0\r\n\r\n",
            "1\na\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "1\r\na\r0\r\n\r\n",
            "1\r\r\na\r\n0\r\n\r\n",
            "1;a\0b\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "1;a\nb\r\na\r\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nname\r\n\r\n",
            "0\r\n folded: x\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\0\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\nHost: me\r\n\r\n",
            &long_line,
        ] {
            let request = post("Transfer-Encoding: chunked\r\n", body);
            let input = [GOOD, &request, GOOD].concat();
            assert_eq!(statuses(&mut Http::default(), &input), (vec![200, 400], Next::Refuse), "{body:?}");
        }
    }

    #[test]
    fn codings_that_are_not_understood_are_told_so() {
        for coding in ["gzip, chunked", "gzip,deflate , CHUNKED", "x;a=b, chunked"] {
            let request = post(&format!("Transfer-Encoding: {coding}\r\n"), "0\r\n\r\n");
            assert_eq!(statuses(&mut Http::default(), &request), (vec![501], Next::Refuse), "{coding}");
        }
    }

    #[test]
    fn heads_have_a_limit_however_they_come() {
        let mut http = Http::new(GOOD.len());
        assert_eq!(statuses(&mut http, &[GOOD, GOOD].concat()), (vec![200, 200], Next::Input));
        let longer = b"GET /? HTTP/1.1\r\nHost: me\r\n\r\n";
        assert_eq!(statuses(&mut http, &[GOOD, longer].concat()), (vec![200, 431], Next::Refuse));
        assert_eq!(statuses(&mut http, &[b'x'; 100]), (vec![431], Next::Refuse));
        // What is not only long but wrong is wrong first.
        let wrong = b"GET / HTTP/1.1\r\nHost: me\0and more than that\r\n\r\n";
        assert_eq!(statuses(&mut http, wrong), (vec![400], Next::Refuse));
        let wrong_behind = b"GET / HTTP/1.1\r\nHost: me and more than that\0\r\n\r\n";
        assert_eq!(statuses(&mut http, wrong_behind), (vec![431], Next::Refuse));

        let with_fields = |count: usize| {
            let fields: String = (1..count).map(|number| format!("x{number}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: me\r\n{fields}\r\n").into_bytes()
        };
        let mut http = Http::default();
        assert_eq!(statuses(&mut http, &with_fields(64)), (vec![200], Next::Input));
        assert_eq!(statuses(&mut http, &with_fields(65)), (vec![431], Next::Refuse));
    }

    #[test]
    fn trailers_have_the_same_limit() {
        let mut http = Http::new(100);
        let request = |trailer: usize| {
            let trailer = format!("0\r\nx:{}\r\n\r\n", "y".repeat(trailer - 6));
            post("Transfer-Encoding: chunked\r\n", &trailer)
        };
        assert_eq!(statuses(&mut http, &request(100)), (vec![405], Next::Input));
        assert_eq!(statuses(&mut http, &request(101)), (vec![431], Next::Refuse));
        let fields = "x: y\r\n".repeat(65);
        let many = post("Transfer-Encoding: chunked\r\n", &format!("0\r\n{fields}\r\n"));
        assert_eq!(statuses(&mut Http::default(), &many), (vec![431], Next::Refuse));
    }

    #[test]
    fn bodies_have_a_limit_which_counts_the_framing_of_chunks() {
        let mut http = Http::default();
        let content = |bytes: usize| post(&format!("Content-Length: {bytes}\r\n"), &"x".repeat(bytes));
        let one_chunk = |bytes: usize| {
            let framing = "ffff\r\n\r\n".len();
            let body = format!("{:04x}\r\n{}\r\n0\r\n\r\n", bytes - framing, "x".repeat(bytes - framing));
            post("Transfer-Encoding: chunked\r\n", &body)
        };
        let small_chunks = |count: usize| {
            let body = format!("{}0\r\n\r\n", "001;\r\nx\r\n".repeat(count)); // 9 bytes each
            post("Transfer-Encoding: chunked\r\n", &body)
        };
        for (request, expected) in [
            (content(65_536), (vec![405, 200], Next::Input)),
            (content(65_537), (vec![413], Next::Refuse)),
            (one_chunk(65_536), (vec![405, 200], Next::Input)),
            (one_chunk(65_537), (vec![413], Next::Refuse)),
            (small_chunks(65_536 / 9), (vec![405, 200], Next::Input)),
            (small_chunks(65_536 / 9 + 1), (vec![413], Next::Refuse)),
        ] {
            let input = [&request, GOOD].concat();
            let whole = converse(&mut http, [&input[..]]);
            assert!(converse(&mut http, input.chunks(1)) == whole, "byte by byte");
            let (answers, next) = whole;
            let answers = String::from_utf8(answers).unwrap();
            let lines = answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap());
            assert_eq!((lines.collect::<Vec<u16>>(), next), expected);
        }
        let huge = post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n");
        assert_eq!(statuses(&mut http, &huge), (vec![413], Next::Refuse));
    }

    #[test]
    fn who_asks_whether_to_send_a_body_is_answered_without_it() {
        let request = post("Content-Length: 3\r\nExpect: 100-Continue\r\n", "");
        for behind in [&b""[..], b"abc", GOOD] {
            let input = [&request, behind].concat();
            assert_eq!(statuses(&mut Http::default(), &input), (vec![405], Next::Close));
        }
        // There is nothing to ask about.
        let request = [&post("Expect: 100-continue\r\n", ""), GOOD].concat();
        assert_eq!(statuses(&mut Http::default(), &request), (vec![405, 200], Next::Input));
        let old = b"GET / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc";
        assert_eq!(statuses(&mut Http::default(), &[old, GOOD].concat()), (vec![200, 200], Next::Input));
    }

    #[test]
    fn no_byte_of_a_head_is_searched_twice() {
        let (http, mut progress) = (Http::default(), Progress::default());
        for end in 0..GOOD.len() {
            assert!(matches!(http.advance(&mut progress, &GOOD[..end]), Ok((0, None))));
            assert_eq!(progress.searched, end);
        }
        assert!(matches!(http.advance(&mut progress, GOOD), Ok((28, Some(_)))));
        assert_eq!(progress.searched, 0);
    }

    #[test]
    fn refusals_are_responses() {
        for reason in [CloseReason::RefusedFull, CloseReason::RefusedPerIp] {
            let refusal = Http::default().refusal(reason);
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut fields);
            let head_len = response.parse(&refusal).unwrap().unwrap();
            assert_eq!(response.code, Some(503));
            let length = response.headers.iter().find(|field| field.name == "Content-Length").unwrap();
            let body = (refusal.len() - head_len).to_string();
            assert_eq!(length.value, body.as_bytes());
        }
    }
}
