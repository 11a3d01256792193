//! The checks of the fuzz targets on inputs that are mostly right: pieces of what peers say, put together, with bytes
//! flipped, dropped, doubled and put in. Everything follows from the seed, which is printed when a check fails.
//!
//! The targets themselves, which find their inputs by what they reach, are in the folder `fuzz`.

use std::collections::BTreeSet;

use tidewheel::sim::{self, Random};

pub mod checks {
    pub mod chat;
    pub mod cuts;
    pub mod framing;
    pub mod http;
    pub mod responses;
    pub mod uri;
}

pub use checks::responses;

const REQUESTS: [&str; 23] = [
    "GET / HTTP/1.1\r\nHost: me\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: me\r\n\r\n",
    "HEAD /?x=1 HTTP/1.1\r\nHost: me:80\r\nConnection: keep-alive\r\n\r\n",
    "GET /missing HTTP/1.1\r\nHost: me\r\nUser-Agent: fuzz/1 (x; y)\r\nAccept: */*\r\n\r\n",
    "GET http://me/ HTTP/1.1\r\nHost: me\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 29\r\n\r\nGET / HTTP/1.1\r\nHost: me\r\n\r\n.",
    "PUT /x HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\nA: b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 65537\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: me\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "BREW / HTTP/1.1\r\nHost: me\r\n\r\n",
    "GET /a%20b/c;d@e:f?g=/?%41 HTTP/1.1\r\nHost: a-b.c:8080\r\n\r\n",
    "GET http://[1:2::3:4.5.6.7]:80/?x HTTP/1.1\r\nHost: [::1]:\r\n\r\n",
    "HEAD https://[v1F.a:b] HTTP/1.1\r\nHost: %41.1.2.3:65535\r\n\r\n",
    "CONNECT [::ffff:1.2.3.4]:443 HTTP/1.1\r\nHost: me:443\r\n\r\n",
    "FIND urn:a:b HTTP/1.1\r\nHost: me\r\n\r\n",
];

/// What makes something else of a request.
const REQUEST_PARTS: [&str; 21] = [
    "GET / HTTP/1.1\r\nHost: me\r\n",
    "POST / HTTP/1.1\r\nHost: me\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    " folded: line\r\n",
    "Host: you\r\n",
    "Host: a:b:c\r\n",
    "Host: [::1\r\n",
    "GET http://a:b:c/ HTTP/1.1\r\nHost: me\r\n\r\n",
    "GET /?a#b HTTP/1.1\r\nHost: me\r\n\r\n",
    "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
    "\r\n",
    "\n\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "ffffffff\r\n",
    "1;x\r\n",
];

const LINES: [&str; 12] = [
    "hello\n",
    "hello\r\n",
    "hello",
    "\n",
    "\r\n",
    "\r",
    "a\rb\n",
    "你好，世界\n",
    "12345678\n",
    "1234567890123456\r\n",
    "123456789012345678901234567890123456789012345678901234567890123\n",
    "\0\u{1b}[2J\n",
];

/// Some of `whole`, changed in some places, behind the bytes that say how they are cut. `parts` come to stand between
/// their lines.
fn generate(random: &mut Random, whole: &[&str], parts: &[&str]) -> Vec<u8> {
    const ODD: [&[u8]; 26] = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"\t",
        b" ",
        b":",
        b",",
        b";",
        b"+",
        b"0",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"\r\n ",
        b"%",
        b"%4a",
        b"#",
        b"?",
        b"/",
        b"@",
        b"[",
        b"]",
        b"::",
        b"1.2.3.4",
    ];
    let mut input: Vec<u8> =
        (0..1 + random.below(5)).flat_map(|_| whole[random.below(whole.len())].bytes()).collect();
    for _ in 0..random.below(4) {
        let at = random.below(input.len());
        let end = input.len().min(at + 1 + random.below(8));
        let line_end = memchr::memchr(b'\n', &input[at..]).map(|offset| at + offset);
        match (random.below(6), line_end) {
            (0, _) if at < end => input[at] ^= 1 << random.below(8),
            (1, _) => drop(input.drain(at..end)),
            (2, _) => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            (3, Some(line_end)) => {
                let part = parts[random.below(parts.len())];
                input.splice(line_end + 1..line_end + 1, part.bytes());
            }
            // The carriage return of a line, if it has one.
            (4, Some(line_end)) => drop(input.drain(line_end.saturating_sub(1)..line_end)),
            _ => drop(input.splice(at..at, ODD[random.below(ODD.len())].iter().copied())),
        }
    }
    let mut bytes = random.bytes(2 + checks::cuts::CUTS_MAX);
    bytes.extend(input);
    bytes
}

#[test]
fn framing() {
    sim::check(0..10_000, |seed| checks::framing::check(&generate(&mut Random::new(seed), &LINES, &LINES)));
}

#[test]
fn http() {
    let (mut runs, mut seen) = (0, BTreeSet::new());
    sim::check(0..10_000, |seed| {
        seen.extend(checks::http::check(&generate(&mut Random::new(seed), &REQUESTS, &REQUEST_PARTS)));
        runs += 1;
    });
    // With the few seeds that somebody chose this says nothing.
    if runs >= 10_000 {
        let all = [200, 400, 404, 405, 413, 431, 501, 505];
        assert!(seen.iter().eq(&all), "the inputs reach {seen:?} and not {all:?}");
    }
}
