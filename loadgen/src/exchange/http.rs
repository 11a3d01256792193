//! HTTP/1.1: one page, asked for again and again. Its status must be the one that is due, and its body that of the
//! first reply of the run. Any framing that RFC 9112 knows is right.

mod body;
mod head;

use self::body::{Body, Reading};
use self::head::{Framing, Head, Parsed, parse_chunk_end, parse_chunk_size, parse_head, parse_trailer};
use super::{Exchange, Fault, Progress, Wrong};

pub use self::body::FirstBody;

/// A head, a chunk's size with its extensions, or a trailer may be so long.
const PARTIAL_BYTES_MAX: usize = 256 * 1024;

pub struct Http {
    request: Vec<u8>,
    status: u16,
    /// The last head that came in one piece, and what it says: most are followed by others that are the same, and
    /// comparing costs less than parsing.
    known_head: Vec<u8>,
    known: Head,
    body: Body,
}

pub struct HttpConn {
    phase: Phase,
    /// A head, or another part that only makes sense as a whole, of which the end has not come.
    partial: Vec<u8>,
    /// How much of the body has come.
    reading: Reading,
    /// The reply is wrong: the rest of its body is not looked at.
    is_wrong: bool,
    /// The server has said that it will close.
    closes: bool,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Body {
        left: u64,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    /// The line ending behind a chunk.
    ChunkEnd,
    Trailer,
    /// A body that ends with the connection.
    UntilEnd,
}

impl Http {
    /// GET of a path of this host.
    pub fn new(path: &str, host: &str, status: u16, first_body: FirstBody) -> Http {
        Http {
            request: format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
            status,
            known_head: Vec::new(),
            known: Head { status: 0, framing: Framing::Length(0), closes: false },
            body: Body::new(first_body),
        }
    }

    /// Reads the head, if it is there to its end; returns its length among the bytes.
    fn head(&mut self, conn: &mut HttpConn, bytes: &[u8]) -> Result<Option<(usize, Head)>, String> {
        if conn.partial.is_empty() && !self.known_head.is_empty() && bytes.starts_with(&self.known_head) {
            return Ok(Some((self.known_head.len(), self.known)));
        }
        let was_partial = !conn.partial.is_empty();
        let head = whole(&mut conn.partial, bytes, parse_head)?;
        if let Some((len, head)) = head
            && !was_partial
            && !head.is_interim()
        {
            self.known_head.clear();
            self.known_head.extend_from_slice(&bytes[..len]);
            self.known = head;
        }
        Ok(head)
    }

    /// Compares a part of a body with the first one, or adds it to that.
    fn body(&mut self, conn: &mut HttpConn, part: &[u8]) -> Option<(usize, Fault)> {
        if conn.is_wrong { None } else { self.body.compare(&mut conn.reading, part) }
    }

    /// Compares a body that has come whole with the first one, of which all bytes up to the end of this were the same.
    fn end_of_body(&mut self, conn: &HttpConn) -> Option<Fault> {
        if conn.is_wrong { None } else { self.body.end(&conn.reading) }
    }

    /// Takes what comes next of a reply. The error is one after which nothing can be understood any more.
    fn step(&mut self, conn: &mut HttpConn, bytes: &[u8]) -> Result<Step, String> {
        let mut step = Step { taken: bytes.len(), is_complete: false, wrong: None };
        match conn.phase {
            Phase::Head => {
                let Some((len, head)) = self.head(conn, bytes)? else { return Ok(step) };
                step.taken = len;
                if head.status == 101 {
                    return Err("a reply that switches protocols, which was not requested".into());
                }
                if head.is_interim() {
                    return Ok(step);
                }
                conn.closes = head.closes;
                (conn.reading, conn.is_wrong) = (Reading::default(), head.status != self.status);
                conn.phase = match head.framing {
                    Framing::Length(left) => Phase::Body { left },
                    Framing::Chunks => Phase::ChunkSize,
                    Framing::End => Phase::UntilEnd,
                };
                step.is_complete = head.framing == Framing::Length(0);
                step.wrong = conn.is_wrong.then(|| {
                    let words = format!("a reply with status {}, not {}", head.status, self.status);
                    (0, Fault::Reply(words))
                });
            }
            Phase::Body { left } => {
                step.taken = at_most(bytes, left);
                let left = left - step.taken as u64;
                step.wrong = self.body(conn, &bytes[..step.taken]);
                step.is_complete = left == 0;
                conn.phase = Phase::Body { left };
            }
            Phase::ChunkSize => {
                if let Some((len, size)) = whole(&mut conn.partial, bytes, parse_chunk_size)? {
                    step.taken = len;
                    conn.phase = if size == 0 { Phase::Trailer } else { Phase::Chunk { left: size } };
                }
            }
            Phase::Chunk { left } => {
                step.taken = at_most(bytes, left);
                let left = left - step.taken as u64;
                step.wrong = self.body(conn, &bytes[..step.taken]);
                conn.phase = if left == 0 { Phase::ChunkEnd } else { Phase::Chunk { left } };
            }
            Phase::ChunkEnd => {
                if let Some((len, ())) = whole(&mut conn.partial, bytes, parse_chunk_end)? {
                    step.taken = len;
                    conn.phase = Phase::ChunkSize;
                }
            }
            Phase::UntilEnd => step.wrong = self.body(conn, bytes),
            Phase::Trailer => {
                if let Some((len, ())) = whole(&mut conn.partial, bytes, parse_trailer)? {
                    step.taken = len;
                    step.is_complete = true;
                }
            }
        }
        Ok(step)
    }
}

impl Exchange for Http {
    type Conn = HttpConn;

    fn open(&self, _index: usize) -> HttpConn {
        HttpConn {
            phase: Phase::Head,
            partial: Vec::new(),
            reading: Reading::default(),
            is_wrong: false,
            closes: false,
        }
    }

    fn request(&mut self, _conn: &mut HttpConn, _size: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
    }

    fn request_bytes_max(&self, _size: usize) -> usize {
        self.request.len()
    }

    fn verify(&mut self, conn: &mut HttpConn, _size: usize, _at: usize, bytes: &[u8]) -> Progress {
        let (mut taken, mut wrong) = (0, None);
        while taken < bytes.len() {
            let step = match self.step(conn, &bytes[taken..]) {
                Ok(step) => step,
                Err(words) => {
                    let wrong = Wrong { at: taken, fault: Fault::Astray(words) };
                    return Progress { taken: bytes.len(), is_complete: false, wrong: Some(wrong) };
                }
            };
            if let Some((at, fault)) = step.wrong {
                conn.is_wrong = true;
                wrong = Some(Wrong { at: taken + at, fault });
            }
            taken += step.taken;
            if step.is_complete {
                conn.phase = Phase::Head;
                if let Some(fault) = self.end_of_body(conn) {
                    wrong = Some(Wrong { at: taken - 1, fault });
                }
                return Progress { taken, is_complete: true, wrong };
            }
        }
        Progress { taken, is_complete: false, wrong }
    }

    fn end(&mut self, conn: &mut HttpConn, _at: usize) -> Option<Result<(), Fault>> {
        if conn.phase != Phase::UntilEnd {
            return None;
        }
        conn.phase = Phase::Head;
        Some(self.end_of_body(conn).map_or(Ok(()), Err))
    }

    fn announced_end(&self, conn: &HttpConn) -> bool {
        conn.closes
    }
}

/// What has come of a reply in one step.
struct Step {
    taken: usize,
    is_complete: bool,
    wrong: Option<(usize, Fault)>,
}

fn at_most(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

/// Reads what only makes sense as a whole, if it is there to its end; else keeps what there is.
fn whole<T>(partial: &mut Vec<u8>, bytes: &[u8], parse: impl Fn(&[u8]) -> Parsed<T>) -> Parsed<T> {
    if partial.is_empty() {
        let parsed = parse(bytes)?;
        if parsed.is_none() {
            partial.extend_from_slice(bytes);
        }
        return Ok(parsed);
    }
    let before = partial.len();
    partial.extend_from_slice(bytes);
    // Whatever it is, it ends with a line.
    let parsed = if bytes.contains(&b'\n') { parse(partial)? } else { None };
    match parsed {
        Some((len, parsed)) => {
            partial.clear();
            // Its end had not come before.
            Ok(Some((len.saturating_sub(before), parsed)))
        }
        None if partial.len() > PARTIAL_BYTES_MAX => {
            Err(format!("a head that has no end after {PARTIAL_BYTES_MAX} bytes"))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16) -> Http {
        Http::new("/", "localhost", status, FirstBody::default())
    }

    /// What is said of each reply, the text cut at every multiple of `cut`.
    fn verified(exchange: &mut Http, replies: &str, cut: usize) -> Vec<Option<String>> {
        let mut conn = exchange.open(0);
        let (mut verdicts, mut at, mut first_wrong) = (Vec::new(), 0, None);
        for mut piece in replies.as_bytes().chunks(cut) {
            while !piece.is_empty() {
                let Progress { taken, is_complete, wrong } = exchange.verify(&mut conn, 1, at, piece);
                assert!(taken > 0);
                piece = &piece[taken..];
                at += taken;
                let is_astray = wrong.as_ref().is_some_and(|wrong| matches!(wrong.fault, Fault::Astray(_)));
                first_wrong = first_wrong.or(wrong.map(|wrong| wrong.fault.to_string()));
                if is_complete || is_astray {
                    verdicts.push(first_wrong.take());
                    at = 0;
                }
                if is_astray {
                    return verdicts;
                }
            }
        }
        verdicts
    }

    /// As it is said of the last of the replies, whatever pieces they come in.
    #[track_caller]
    fn said_of_last(status: u16, replies: &str) -> Option<String> {
        let said = verified(&mut http(status), replies, replies.len());
        for cut in 1..replies.len() {
            assert_eq!(verified(&mut http(status), replies, cut).len(), said.len(), "{cut}");
        }
        said.last().expect("a reply is complete").clone()
    }

    const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    #[test]
    fn the_request_is_one_that_keeps_the_connection() {
        let mut exchange = Http::new("/a?b", "[::1]:80", 200, FirstBody::default());
        let (mut conn, mut out) = (exchange.open(0), Vec::new());
        exchange.request(&mut conn, 64, &mut out);
        assert_eq!(out, b"GET /a?b HTTP/1.1\r\nHost: [::1]:80\r\n\r\n");
    }

    #[test]
    fn the_same_body_is_right_in_every_framing_and_in_all_pieces() {
        let replies = [
            HELLO,
            "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             1;ext=1\r\nh\r\n04\r\nello\r\n0\r\nTrailer: 1\r\n\r\n",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
            HELLO,
        ]
        .concat();
        for cut in 1..=replies.len() {
            assert_eq!(verified(&mut http(200), &replies, cut), [const { None }; 5], "{cut}");
        }
    }

    #[test]
    fn whatever_the_rfc_allows_is_right() {
        let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
        let replies = [
            HELLO,
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 199 \r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 200 \r\nContent-Length: 5, 5 ,5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length:\r\n 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: , Chunked\r\n\r\n\
             5;a;b=\"c;\\\"d\"\r\nhello\r\n000;last\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             00000000000000000002\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\nC: d\r\n e\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 5\r\n\r\nhello"),
            HELLO,
        ]
        .concat();
        for cut in (1..20).chain([100, 1000, replies.len()]) {
            assert_eq!(verified(&mut http(200), &replies, cut), [const { None }; 10], "{cut}");
        }
        for reply in
            ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"]
        {
            let status = reply[9..12].parse().unwrap();
            assert_eq!(said_of_last(status, &reply.repeat(2)), None, "{reply}");
        }
    }

    #[test]
    fn a_body_may_end_with_the_connection() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            let mut exchange = http(200);
            let mut reply = |body: &str, cut: usize| {
                let mut conn = exchange.open(0);
                let text = format!("{head}{body}");
                let mut at = 0;
                for piece in text.as_bytes().chunks(cut) {
                    let progress = exchange.verify(&mut conn, 1, at, piece);
                    assert_eq!((progress.taken, progress.is_complete), (piece.len(), false));
                    at += piece.len();
                }
                assert!(exchange.announced_end(&conn));
                exchange.end(&mut conn, at)
            };
            assert_eq!(reply("hello", 100), Some(Ok(())));
            assert_eq!(reply("hello", 1), Some(Ok(())));
            assert!(
                matches!(reply("hell", 7), Some(Err(Fault::Reply(words))) if words.contains("the first had 5"))
            );
        }
        let mut exchange = http(200);
        let mut conn = exchange.open(0);
        let cut_short = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell";
        exchange.verify(&mut conn, 1, 0, cut_short);
        assert_eq!(exchange.end(&mut conn, cut_short.len()), None, "it is cut short");
    }

    #[test]
    fn a_body_that_differs_from_the_first_is_wrong() {
        let another = |length: usize, body: &str| {
            format!("{HELLO}HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        for (length, body, reason) in [
            (5, "hellO", "0x4f, not 0x6f"),
            (4, "hell", "4 bytes, the first had 5"),
            (0, "", "0 bytes, the first had 5"),
            (6, "hello!", "longer than the first"),
        ] {
            let said = said_of_last(200, &another(length, body)).expect(reason);
            assert!(said.contains(reason), "{said}");
            assert_eq!(said_of_last(200, &(another(length, body) + HELLO)), None, "the next is right again");
        }
    }

    #[test]
    fn connections_and_threads_share_the_first_body() {
        let first_body = FirstBody::default();
        let thread = || Http::new("/", "localhost", 200, first_body.clone());
        let (mut one, mut other) = (thread(), thread());
        let (head, body) = HELLO.split_at(HELLO.len() - 3);
        let (mut ahead, mut behind) = (one.open(0), one.open(1));
        assert_eq!(one.verify(&mut ahead, 1, 0, head.as_bytes()).wrong, None);
        let progress = one.verify(&mut behind, 1, 0, HELLO.as_bytes());
        assert_eq!((progress.is_complete, progress.wrong), (true, None));
        let progress = one.verify(&mut ahead, 1, head.len(), body.as_bytes());
        assert_eq!((progress.is_complete, progress.wrong), (true, None));
        let hullo = HELLO.replace("ello", "ullo");
        let said = &verified(&mut other, &hullo, hullo.len())[0];
        assert!(said.as_ref().is_some_and(|said| said.contains("another thread")), "{said:?}");
    }

    #[test]
    fn another_status_is_wrong_and_its_body_is_no_measure() {
        let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
        let said = said_of_last(200, &[HELLO, not_found].concat()).expect("it is wrong");
        assert!(said.contains("status 404, not 200"), "{said}");
        assert_eq!(said_of_last(200, &[not_found, HELLO, HELLO].concat()), None);
        assert_eq!(said_of_last(404, not_found), None);
        assert_eq!(said_of_last(304, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), None);
    }

    #[test]
    fn what_has_no_certain_end_leads_astray() {
        for (reply, reason) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "two values"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", "two values"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "\"+5\""),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n", "\"5 5\""),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "\"\""),
            ("HTTP/1.1 200 OK\r\nContent-Length: ,\r\n\r\n", "\",\""),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "Content-Length of"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "Transfer-Encoding of"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", "Transfer-Encoding of"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n", "empty Transfer-Encoding"),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "both"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "chunk's size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "chunk's size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhe\r\n", "longer than its size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n:x\r\n\r\n", "a trailer"),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "switches protocols"),
            ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", "space"),
            ("HTTP/1.1 20 OK\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "not HTTP"),
            ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "should be a head"),
            ("+PONG\r\n", "should be a head"),
            ("HTTP/2 200 OK\r\n\r\n", "not HTTP"),
        ] {
            let said = said_of_last(200, reply).expect(reason);
            assert!(said.contains(reason), "{said}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(PARTIAL_BYTES_MAX));
        let said = &verified(&mut http(200), &endless, 1000)[0];
        assert!(said.as_ref().is_some_and(|said| said.contains("no end")), "{said:?}");
    }

    #[test]
    fn a_server_that_will_close_has_said_so() {
        let mut exchange = http(200);
        for (reply, closes) in [
            (HELLO, false),
            ("HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: close, keep-alive\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
        ] {
            let mut conn = exchange.open(0);
            exchange.verify(&mut conn, 1, 0, reply.as_bytes());
            assert_eq!(exchange.announced_end(&conn), closes, "{reply}");
        }
    }
}
