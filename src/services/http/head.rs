//! The head of a request: where it ends, and what it asks for. Whatever two readers could understand differently is
//! refused.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Request};

use super::answer::{Answer, Persistence, Status};
use super::body::Body;
use super::target::{self, is_host};

/// Header fields that a head may have.
pub(super) const FIELDS_MAX: usize = 64;

/// A request that can be answered once its body has come.
#[derive(Debug)]
pub(super) struct Head {
    pub answer: Answer,
    pub body: Body,
}

/// Where the head, or the trailer, at the front of `input` ends: behind its empty line. `None` if more has to come;
/// then `searched` bytes need not be looked at again. One empty line before it is passed over if `leading_line`, as
/// RFC 9112, section 2.2 recommends.
///
/// What is wrong is found at the same byte however the input is split.
///
/// # Errors
/// A line that is not ended by CRLF, control characters, more than `bytes_max` bytes.
pub(super) fn find_end(
    input: &[u8],
    searched: &mut usize,
    bytes_max: usize,
    leading_line: bool,
) -> Result<Option<usize>, Status> {
    let window = &input[..input.len().min(bytes_max)];
    let begin = window.len().min(*searched);
    for at in memchr::memchr_iter(b'\n', &window[begin..]).map(|at| begin + at) {
        if at == 0 || window[at - 1] != b'\r' {
            return Err(Status::BadRequest);
        }
        let is_empty = if at == 1 { !leading_line } else { window[at - 2] == b'\n' };
        if is_empty {
            *searched = 0;
            return Ok(Some(at + 1));
        }
    }
    // Whoever speaks TLS here, or no text at all, need not wait until a head is complete to hear that it is none.
    if has_control(&window[begin..]) {
        return Err(Status::BadRequest);
    }
    if window.len() == bytes_max {
        return Err(Status::HeadTooLarge);
    }
    *searched = window.len();
    Ok(None)
}

/// Whether there is a control character that no head may contain. CR and LF are judged by where they stand.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|&byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n'))
}

impl Head {
    /// Reads a head up to and with its empty line, as [`find_end`] found it: so all its lines end in CRLF.
    pub fn parse(head: &[u8]) -> Result<Head, Status> {
        let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
        let mut request = Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut fields) {
            Ok(status) if status.is_complete() => {}
            // There was nothing but empty lines.
            Ok(_) => return Err(Status::BadRequest),
            // A control character is told first, as it was where the head came in pieces.
            Err(_) if has_control(head) => return Err(Status::BadRequest),
            Err(Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
            Err(Error::Version) if names_a_version(head) => return Err(Status::VersionNotSupported),
            Err(_) => return Err(Status::BadRequest),
        }
        let is_1_0 = request.version == Some(0);
        let fields = Fields::gather(request.headers)?;
        if fields.hosts == 0 && !is_1_0 {
            return Err(Status::BadRequest);
        }
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let reads = matches!(method, "GET" | "HEAD");
        let target = target.as_bytes();
        let is_page = match method {
            // It may ask about the server as a whole, which is the page.
            "OPTIONS" if target == b"*" => Some(true),
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "TRACE" => {
                target::is_page(target)
            }
            // This is no proxy, so there is no tunnel.
            "CONNECT" if target::is_authority(target) => return Err(Status::NotImplemented),
            "CONNECT" => None,
            _ if target::is_any(target) => return Err(Status::NotImplemented),
            _ => None,
        };
        let is_page = is_page.ok_or(Status::BadRequest)?;
        let mut body = match (fields.content_bytes, fields.transfer_coding) {
            (None, None) => Body::Done,
            (Some(bytes), None) => Body::content(bytes)?,
            // RFC 9112, section 6.1: the framing of such a request is faulty.
            (None, Some(_)) if is_1_0 => return Err(Status::BadRequest),
            (None, Some(coding)) => coding.map(|Chunked| Body::chunked())?,
            (Some(_), Some(_)) => return Err(Status::BadRequest),
        };
        let mut persistence = match (is_1_0, fields.says_close, fields.says_keep_alive) {
            (_, true, _) | (true, _, false) => Persistence::Closes,
            (true, false, true) => Persistence::StaysAsAsked,
            (false, false, _) => Persistence::Stays,
        };
        // No body is wanted here, so a peer that asks first whether to send one is answered without it. Whether it
        // comes nevertheless cannot be known, so nothing can be read behind it.
        if fields.expects_continue && !is_1_0 && body != Body::Done {
            body = Body::Done;
            persistence = Persistence::Closes;
        }
        let status = match (is_page, reads) {
            (true, true) => Status::Ok,
            (true, false) => Status::MethodNotAllowed,
            (false, _) => Status::NotFound,
        };
        Ok(Head { answer: Answer { status, is_head: method == "HEAD", persistence }, body })
    }
}

/// The only transfer coding that is understood.
struct Chunked;

/// What the header fields say.
#[derive(Default)]
struct Fields {
    hosts: usize,
    content_bytes: Option<u64>,
    transfer_coding: Option<Result<Chunked, Status>>,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
}

impl Fields {
    fn gather(headers: &[Header<'_>]) -> Result<Fields, Status> {
        let mut fields = Fields::default();
        for Header { name, value } in headers {
            if name.eq_ignore_ascii_case("host") {
                fields.hosts += 1;
                if fields.hosts > 1 || !is_host(value) {
                    return Err(Status::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("connection") {
                for option in list(value) {
                    fields.says_close |= option.eq_ignore_ascii_case(b"close");
                    fields.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                // Also if both say the same: somebody on the way may have read only one of them.
                if fields.content_bytes.replace(number(value, 10).ok_or(Status::BadRequest)?).is_some() {
                    return Err(Status::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if fields.transfer_coding.replace(transfer_coding(value)).is_some() {
                    return Err(Status::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("expect") {
                fields.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
        }
        Ok(fields)
    }
}

/// `chunked` alone is understood; behind other codings it shows at least where the body ends; anything else leaves
/// that to be guessed.
fn transfer_coding(value: &[u8]) -> Result<Chunked, Status> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Chunked);
    }
    let mut codings = list(value).rev();
    let ends_chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    let are_others = codings.all(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"chunked"));
    Err(if ends_chunked && are_others { Status::NotImplemented } else { Status::BadRequest })
}

/// The elements of a list, without the white space around them.
fn list(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits and nothing else, as a number; `None` also for one that is too large for any computer.
pub(super) fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// Whether the request line consists of three words and the last is a version of HTTP, be it one that is not spoken
/// here.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let version = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none()
        && matches!(version, Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Whether the bytes of a trailer are header fields. They say nothing that matters here.
pub(super) fn check_trailer(trailer: &[u8]) -> Result<(), Status> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(trailer, &mut fields) {
        Ok(status) if status.is_complete() => Ok(()),
        Err(Error::TooManyHeaders) if !has_control(trailer) => Err(Status::HeadTooLarge),
        Ok(_) | Err(_) => Err(Status::BadRequest),
    }
}
