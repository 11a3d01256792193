//! The parts of a reply that frame its body: the head, the sizes of chunks, the trailer. As RFC 9112 has them.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Response, Status};

/// Most heads have fewer; more are read more slowly.
const HEADERS_USUAL: usize = 64;

/// What matters of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub framing: Framing,
    pub closes: bool,
}

impl Head {
    /// Another head follows, which is that of the reply.
    pub fn is_interim(self) -> bool {
        (100..200).contains(&self.status)
    }
}

/// What tells where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunks,
    /// The end of the connection.
    End,
}

/// What was read, and how many bytes that took; nothing if its end has not come.
pub type Parsed<T> = Result<Option<(usize, T)>, String>;

pub fn parse_head(bytes: &[u8]) -> Parsed<Head> {
    // The parser would skip empty lines before it.
    if bytes.first() != Some(&b'H') {
        return Err("what should be a head and is none".into());
    }
    let not_http = |error: httparse::Error| format!("a head that is not HTTP: {error}");
    let mut usual = [const { MaybeUninit::uninit() }; HEADERS_USUAL];
    match parse_with(bytes, &mut usual) {
        Ok(parsed) => parsed,
        Err(httparse::Error::TooManyHeaders) => {
            let mut all = vec![MaybeUninit::uninit(); lines(bytes)];
            parse_with(bytes, &mut all).unwrap_or_else(|error| Err(not_http(error)))
        }
        Err(error) => Err(not_http(error)),
    }
}

/// As many headers at least as there may be.
fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// Lines that are continued, which nobody may send any more, are still to be read as one.
fn parser() -> ParserConfig {
    let mut parser = ParserConfig::default();
    parser.allow_obsolete_multiline_headers_in_responses(true);
    parser
}

fn parse_with<'a>(
    bytes: &'a [u8],
    headers: &mut [MaybeUninit<Header<'a>>],
) -> Result<Parsed<Head>, httparse::Error> {
    let mut response = Response::new(&mut []);
    Ok(match parser().parse_response_with_uninit_headers(&mut response, bytes, headers)? {
        Status::Complete(len) => head_of(&response, bytes).map(|head| Some((len, head))),
        Status::Partial => Ok(None),
    })
}

/// What a head says of what follows it.
fn head_of(response: &Response<'_, '_>, bytes: &[u8]) -> Result<Head, String> {
    // `HTTP/1.1 200` and a space, even where no reason follows.
    if bytes.get(12) != Some(&b' ') {
        return Err("a head without a space behind its status".into());
    }
    let status = response.code.unwrap_or_default();
    let is_old = response.version == Some(0);
    let mut said = Said::default();
    for Header { name, value } in response.headers.iter() {
        if name.eq_ignore_ascii_case("content-length") {
            said.take_length(value)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            said.take_codings(value)?;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in elements(value) {
                said.closes |= option.eq_ignore_ascii_case(b"close");
                said.keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    if said.has_codings && is_old {
        return Err("a head of HTTP/1.0 with a Transfer-Encoding, which it does not have".into());
    }
    let framing = match (said.len, said.has_codings) {
        _ if matches!(status, 100..200 | 204 | 304) => Framing::Length(0),
        (Some(_), true) => return Err("a head with both Content-Length and Transfer-Encoding".into()),
        (Some(len), false) => Framing::Length(len),
        (None, true) if said.is_chunked => Framing::Chunks,
        (None, _) => Framing::End,
    };
    // HTTP/1.0 closes unless it says that it does not.
    let closes = said.closes || framing == Framing::End || (is_old && !said.keeps);
    Ok(Head { status, framing, closes })
}

/// What the headers have said so far.
#[derive(Default)]
struct Said {
    len: Option<u64>,
    has_codings: bool,
    /// The last of the codings is chunked.
    is_chunked: bool,
    closes: bool,
    keeps: bool,
}

impl Said {
    /// One length, which may be said several times.
    fn take_length(&mut self, value: &[u8]) -> Result<(), String> {
        let mut is_there = false;
        for element in elements(value) {
            let text = str::from_utf8(element).ok().filter(|_| element.iter().all(u8::is_ascii_digit));
            let len = text.and_then(|text| text.parse().ok());
            let len = len.ok_or_else(|| format!("a head with a Content-Length of {}", quoted(element)))?;
            if self.len.replace(len).is_some_and(|other| other != len) {
                return Err("a head with two values of Content-Length".into());
            }
            is_there = true;
        }
        if is_there { Ok(()) } else { Err(format!("a head with a Content-Length of {}", quoted(value))) }
    }

    fn take_codings(&mut self, value: &[u8]) -> Result<(), String> {
        for coding in elements(value) {
            let (name, parameters) = match coding.iter().position(|&byte| byte == b';') {
                Some(at) => (coding[..at].trim_ascii(), true),
                None => (coding, false),
            };
            let is_chunked = name.eq_ignore_ascii_case(b"chunked");
            if is_chunked && (self.is_chunked || parameters) || name.is_empty() || !name.iter().all(is_token)
            {
                return Err(format!("a head with a Transfer-Encoding of {}", quoted(value)));
            }
            (self.has_codings, self.is_chunked) = (true, is_chunked);
        }
        if self.has_codings { Ok(()) } else { Err("a head with an empty Transfer-Encoding".into()) }
    }
}

/// The elements of a list, of which empty ones do not count.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn quoted(value: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&value[..value.len().min(100)]))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as iterators pass it")]
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// The line before a chunk: its size, and extensions, which say nothing to us.
pub fn parse_chunk_size(bytes: &[u8]) -> Parsed<u64> {
    let wrong = || Err("what should be a chunk's size and is none".into());
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        // What cannot become one any more need not be waited for.
        let digits = bytes.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(bytes.len());
        let may_be = digits > 0 && bytes.get(digits).is_none_or(|byte| b" \t;\r".contains(byte));
        return if may_be || bytes.is_empty() { Ok(None) } else { wrong() };
    };
    let Some(line) = bytes[..end].strip_suffix(b"\r") else { return wrong() };
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at(digits);
    if size.is_empty() || !are_extensions(extensions) {
        return wrong();
    }
    let digit = |byte: u8| u64::from((byte as char).to_digit(16).unwrap_or_default());
    let size = size.iter().try_fold(0_u64, |size, &byte| Some(size.checked_mul(16)? | digit(byte)));
    size.map_or_else(wrong, |size| Ok(Some((end + 1, size))))
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
fn are_extensions(mut rest: &[u8]) -> bool {
    loop {
        rest = rest.trim_ascii_start();
        let Some(after) = rest.strip_prefix(b";") else { return rest.is_empty() };
        let Some(after) = after_token(after.trim_ascii_start()) else { return false };
        rest = after;
        if let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") {
            let value = value.trim_ascii_start();
            let after = if value.first() == Some(&b'"') { after_quoted(value) } else { after_token(value) };
            let Some(after) = after else { return false };
            rest = after;
        }
    }
}

fn after_token(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().position(|byte| !is_token(byte)).unwrap_or(bytes.len());
    (len > 0).then(|| &bytes[len..])
}

fn after_quoted(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(&bytes[at + 1..]),
            b'\\' if bytes.get(at + 1).is_some_and(|&byte| is_text(byte)) => at += 2,
            b'\\' => return None,
            &byte if is_text(byte) => at += 1,
            _ => return None,
        }
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

pub fn parse_chunk_end(bytes: &[u8]) -> Parsed<()> {
    match bytes {
        [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((2, ()))),
        _ => Err("a chunk longer than its size".into()),
    }
}

/// Fields as in a head, and an empty line.
pub fn parse_trailer(bytes: &[u8]) -> Parsed<()> {
    // Without any, which is the rule.
    match bytes {
        [b'\r', b'\n', ..] => return Ok(Some((2, ()))),
        [b'\r'] => return Ok(None),
        _ => {}
    }
    const LINE: &[u8] = b"HTTP/1.1 200 \r\n";
    let mut response = Response::new(&mut []);
    let mut headers = vec![MaybeUninit::uninit(); lines(bytes)];
    let head = [LINE, bytes].concat();
    match parser().parse_response_with_uninit_headers(&mut response, &head, &mut headers) {
        Ok(Status::Complete(len)) => Ok(Some((len - LINE.len(), ()))),
        Ok(Status::Partial) => Ok(None),
        Err(error) => Err(format!("a trailer that is not HTTP: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_chunks_are_hexadecimal_and_may_have_extensions() {
        for (line, size) in [
            ("0", 0),
            ("000000000000000000000000a", 10),
            ("ffffFFFFffffFFFF", u64::MAX),
            ("5;name", 5),
            ("5 ;\tname = value ; other", 5),
            (r#"5;name="a \"b\"; c";x"#, 5),
            ("5 ", 5),
        ] {
            let line = format!("{line}\r\n");
            assert_eq!(parse_chunk_size(line.as_bytes()), Ok(Some((line.len(), size))), "{line}");
            for cut in 0..line.len() {
                assert_eq!(parse_chunk_size(&line.as_bytes()[..cut]), Ok(None), "{}", &line[..cut]);
            }
        }
        for line in [
            "\r\n",
            ";name\r\n",
            " 5\r\n",
            "0x5\r\n",
            "-5\r\n",
            "5g\r\n",
            "5\n",
            "5;\r\n",
            "5;a=\r\n",
            "5;a b\r\n",
            "5;a=\"b\r\n",
            "5;a\rb\r\n",
            "10000000000000000\r\n",
            "x",
        ] {
            assert!(parse_chunk_size(line.as_bytes()).is_err(), "{line:?}");
        }
    }
}
