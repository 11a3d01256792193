//! What must hold of the HTTP service, whatever the bytes are and however they come: the same responses, each of them
//! well-formed, none but a refusal to a request that could be understood in two ways or that the grammar does not have, and
//! a 400 to no other.

use std::time::UNIX_EPOCH;

use tidewheel::services::http::{Http, Next, Progress};

use super::cuts::{Cut, cut};
use super::responses::Response;
use super::uri;

/// Checks one input, and returns the statuses of the responses.
pub fn check(bytes: &[u8]) -> Vec<u16> {
    let Some(Cut { choice, whole, pieces }) = cut(bytes) else { return Vec::new() };
    // Small ones, so that short inputs reach them.
    let head_bytes_max = [40, 100, 300, 32 << 10][usize::from(choice % 4)];
    let mut http = Http::new(head_bytes_max);

    let in_one = converse(&mut http, &[whole]);
    let in_pieces = converse(&mut http, &pieces);
    assert_eq!((&in_one.answers, in_one.next), (&in_pieces.answers, in_pieces.next), "in pieces");
    let single: Vec<&[u8]> = whole.chunks(1).collect();
    let in_bytes = converse(&mut http, &single);
    assert_eq!((&in_one.answers, in_one.next), (&in_bytes.answers, in_bytes.next), "byte by byte");

    let mut statuses = Vec::new();
    let mut start = 0;
    for (index, (answer, end)) in in_one.answers.iter().zip(in_one.ends).enumerate() {
        let rest = &whole[start..];
        let request = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let (response, len) =
            Response::read(answer, request.starts_with(b"HEAD ")).expect("an answer is a whole response");
        assert_eq!(len, answer.len(), "an answer is one response");
        statuses.push(response.status);
        assert!(response.field("date").is_some());

        let is_last = index + 1 == in_one.answers.len();
        if matches!(response.status, 200 | 404 | 405) {
            assert_eq!(response.closes(), is_last && in_one.next == Next::Close, "said and done are one");
            let len = request_len(request, head_bytes_max, response.closes())
                .unwrap_or_else(|what| panic!("{what} is answered with {}", response.status));
            start += rest.len() - request.len() + len;
            assert_eq!(start, end, "two readers see the end of this request in different places");
        } else {
            assert!(
                response.closes() && is_last && in_one.next == Next::Refuse,
                "behind an error nothing comes"
            );
            let len = request_len(request, head_bytes_max, true);
            assert!(response.status != 400 || len.is_err(), "{} is refused", request.escape_ascii());
        }
    }
    assert_eq!(
        in_one.next == Next::Refuse,
        statuses.last().is_some_and(|&last| !matches!(last, 200 | 404 | 405))
    );
    statuses
}

/// What came of an input.
struct Outcome {
    answers: Vec<Vec<u8>>,
    /// How many bytes of the whole were done with after each.
    ends: Vec<usize>,
    next: Next,
}

fn converse(http: &mut Http, pieces: &[&[u8]]) -> Outcome {
    let (mut progress, mut kept, mut consumed) = (Progress::default(), Vec::new(), 0);
    let mut outcome = Outcome { answers: Vec::new(), ends: Vec::new(), next: Next::Input };
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let step = http.next(&mut progress, &kept, UNIX_EPOCH);
            consumed += step.consumed;
            kept.drain(..step.consumed);
            if !step.answer.is_empty() {
                outcome.answers.push(step.answer.to_vec());
                outcome.ends.push(consumed);
            }
            match step.next {
                Next::Request => {}
                Next::Input => break,
                Next::Close | Next::Refuse => {
                    outcome.next = step.next;
                    return outcome;
                }
            }
        }
    }
    outcome
}

/// The length of the request at the front of `input`, found in the plainest way, or what makes it unclear. The body of
/// one that expects to be told to send it is no part of it if `closes`.
fn request_len(input: &[u8], head_bytes_max: usize, closes: bool) -> Result<usize, &'static str> {
    let head_len = find(input, b"\r\n\r\n").ok_or("an incomplete head")? + 4;
    if head_len > head_bytes_max {
        return Err("a head that is too long");
    }
    let head = &input[..head_len - 4];
    if head.iter().any(|&byte| byte.is_ascii_control() && !b"\r\n\t".contains(&byte)) {
        return Err("a control character");
    }
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let (mut lengths, mut codings, mut hosts, mut expects) = (Vec::new(), Vec::new(), 0, false);
    for line in head.split("\r\n") {
        if line.contains(['\r', '\n']) {
            return Err("a line ending that is none");
        }
        if line.is_empty() || line.starts_with([' ', '\t']) {
            return Err("a line that is empty or folded");
        }
    }
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
        if !is_token(name) {
            return Err("a name that is none");
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            "host" => {
                hosts += 1;
                if !uri::is_host_field(value) {
                    return Err("a host that is none");
                }
            }
            "expect" => expects |= value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
    let words: Vec<_> = request_line.split(' ').collect();
    let &[method, target, version] = words.as_slice() else {
        return Err("a request line without three words");
    };
    if !is_token(method) || !uri::is_target(method, target) {
        return Err("a method or a target that is none");
    }
    match (version, hosts) {
        ("HTTP/1.1", 1) | ("HTTP/1.0", 0 | 1) => {}
        _ => return Err("a version or a number of hosts"),
    }
    // Its body may be left out.
    let waits = expects && closes && version == "HTTP/1.1";
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(head_len),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length: u64 = length.parse().map_err(|_| "a length beyond all numbers")?;
            let end = length.saturating_add(head_len as u64);
            match waits {
                true => Ok(head_len),
                false if end > input.len() as u64 => Err("an incomplete body"),
                false => Ok(end as usize),
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => {
            if waits {
                Ok(head_len)
            } else {
                Ok(head_len + chunks_len(&input[head_len..])?)
            }
        }
        _ => Err("a body of no clear length"),
    }
}

fn is_token(text: &str) -> bool {
    let is_of_token = |other: char| other.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(other);
    !text.is_empty() && text.chars().all(is_of_token)
}

fn chunks_len(input: &[u8]) -> Result<usize, &'static str> {
    let mut at = 0;
    loop {
        let line_len = find(&input[at..], b"\r\n").ok_or("an incomplete chunk")?;
        let line = &input[at..at + line_len];
        at += line_len + 2;
        if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
            return Err("a control character in the line of a chunk");
        }
        let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk of no clear size");
        }
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.filter(|&size| size <= 64 << 10).ok_or("a chunk beyond the limit")?;
        if size == 0 {
            break;
        }
        at += size;
        if input.get(at..at + 2) != Some(b"\r\n") {
            return Err("a chunk that does not end where it should");
        }
        at += 2;
    }
    loop {
        let line_len = find(&input[at..], b"\r\n").ok_or("an incomplete trailer")?;
        let line = &input[at..at + line_len];
        at += line_len + 2;
        match line {
            [] => return Ok(at),
            _ if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') => {
                return Err("a control character in a trailer");
            }
            _ => {
                let name = line.split(|&byte| byte == b':').next().filter(|name| name.len() < line.len());
                let name = name.and_then(|name| std::str::from_utf8(name).ok());
                if !name.is_some_and(is_token) {
                    return Err("a trailer without a name");
                }
            }
        }
    }
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    input.windows(what.len()).position(|window| window == what)
}
