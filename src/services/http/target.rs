//! The grammar of Host and of the request target, as far as a server needs it that serves no proxy and no tunnel.
//!
//! ```text
//!  Host            [ HOST [ ":" *DIGIT ] ]                       RFC 9110, section 7.2
//!  origin-form     PATH [ "?" QUERY ]                            RFC 9112, section 3.2.1
//!  absolute-form   "http" [ "s" ] "://" HOST [ ":" *DIGIT ] [ PATH ] [ "?" QUERY ]     section 3.2.2
//!  authority-form  HOST ":" PORT                for CONNECT      section 3.2.3
//!  asterisk-form   "*"                          for OPTIONS      section 3.2.4
//!
//!  HOST            a name, an IPv4 address, "[" IPv6 address "]", "[v" HEX "." ... "]"      RFC 3986, section 3.2.2
//! ```
//!
//! No form has a fragment, and a host has neither a user in front of it nor the zone of an address behind it. A name may
//! consist of digits and dots, so an IPv4 address is a name here.

use std::net::Ipv6Addr;

/// Of a name: `reg-name` of RFC 3986, without the percent sign.
const NAME: u8 = 1;
/// Of the address behind the version of an IPvFuture.
const FUTURE: u8 = 1 << 1;
/// Of a path, with its slashes and without the percent sign.
const PATH: u8 = 1 << 2;
/// Of a query, without the percent sign.
const QUERY: u8 = 1 << 3;
/// Of a scheme, behind its first letter.
const SCHEME: u8 = 1 << 4;

/// What each byte may be a part of.
static PARTS: [u8; 256] = parts();

const fn parts() -> [u8; 256] {
    let mut parts = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        parts[byte] = match byte as u8 {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'+' => {
                NAME | FUTURE | PATH | QUERY | SCHEME
            }
            b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b',' | b';' | b'=' => {
                NAME | FUTURE | PATH | QUERY
            }
            b':' => FUTURE | PATH | QUERY,
            b'@' | b'/' => PATH | QUERY,
            b'?' => QUERY,
            _ => 0,
        };
        byte += 1;
    }
    parts
}

/// Whether there is nothing but such bytes.
fn is_only(text: &[u8], part: u8) -> bool {
    text.iter().all(|&byte| PARTS[byte as usize] & part != 0)
}

/// Whether there is nothing but such bytes and percent signs, each with two hexadecimal digits behind it.
fn is_encoded(mut text: &[u8], part: u8) -> bool {
    loop {
        let Some(at) = text.iter().position(|&byte| PARTS[byte as usize] & part == 0) else { return true };
        match &text[at..] {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                text = rest
            }
            _ => return false,
        }
    }
}

/// A host, and the digits behind its colon: none if there is no colon either.
struct Authority<'a> {
    host: &'a [u8],
    port: &'a [u8],
}

impl Authority<'_> {
    /// The host may be empty.
    fn parse(text: &[u8]) -> Option<Authority<'_>> {
        let host_len = if text.first() == Some(&b'[') {
            let end = memchr::memchr(b']', text)?;
            if !is_ip_literal(&text[1..end]) {
                return None;
            }
            end + 1
        } else {
            let end = memchr::memchr(b':', text).unwrap_or(text.len());
            if !is_encoded(&text[..end], NAME) {
                return None;
            }
            end
        };
        let (host, rest) = text.split_at(host_len);
        match rest {
            [] => Some(Authority { host, port: rest }),
            [b':', port @ ..] if port.iter().all(u8::is_ascii_digit) => Some(Authority { host, port }),
            _ => None,
        }
    }
}

/// Whether this is an address of IPv6, or of a later version, without the brackets around it.
fn is_ip_literal(text: &[u8]) -> bool {
    if let [b'v' | b'V', rest @ ..] = text {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        return digits > 0
            && matches!(&rest[digits..], [b'.', address @ ..] if !address.is_empty() && is_only(address, FUTURE));
    }
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Whether this may be the value of Host. It is empty where the target has no host.
pub(super) fn is_host(value: &[u8]) -> bool {
    value.is_empty() || Authority::parse(value).is_some_and(|authority| !authority.host.is_empty())
}

/// Whether a target is the page, with any query; `None` if it is neither of origin-form nor of absolute-form with a scheme
/// of HTTP.
pub(super) fn is_page(target: &[u8]) -> Option<bool> {
    if target == b"/" {
        return Some(true);
    }
    let (before, query) = split_query(target);
    let path = if before.first() == Some(&b'/') {
        before
    } else {
        let rest = strip_scheme(before, b"http://").or_else(|| strip_scheme(before, b"https://"))?;
        let (authority, path) = rest.split_at(memchr::memchr(b'/', rest).unwrap_or(rest.len()));
        if Authority::parse(authority)?.host.is_empty() {
            return None;
        }
        path
    };
    let is_well_formed = is_encoded(path, PATH) && is_encoded(query, QUERY);
    is_well_formed.then_some(matches!(path, b"" | b"/"))
}

/// Whether a target is of the form that CONNECT has: a host and a port that there is.
pub(super) fn is_authority(target: &[u8]) -> bool {
    Authority::parse(target).is_some_and(|Authority { host, port }| {
        let port = super::head::number(port, 10).unwrap_or(0);
        !host.is_empty() && (1..=u64::from(u16::MAX)).contains(&port)
    })
}

/// Whether a target is of any form that there is: which of them a method has that is not known here nobody can say.
pub(super) fn is_any(target: &[u8]) -> bool {
    target == b"*" || is_page(target).is_some() || is_authority(target) || is_uri_of_another_scheme(target)
}

/// Whether this is an `absolute-URI` of RFC 3986, section 4.3, and not of HTTP.
fn is_uri_of_another_scheme(target: &[u8]) -> bool {
    let (before, query) = split_query(target);
    let Some(colon) = memchr::memchr(b':', before) else { return false };
    let (scheme, rest) = (&before[..colon], &before[colon + 1..]);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic) && is_only(scheme, SCHEME);
    let is_http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    let path = match rest {
        [b'/', b'/', rest @ ..] => {
            let (authority, path) = rest.split_at(memchr::memchr(b'/', rest).unwrap_or(rest.len()));
            let (user, host) = match memchr::memchr(b'@', authority) {
                Some(at) => (&authority[..at], &authority[at + 1..]),
                None => (&[][..], authority),
            };
            if !is_encoded(user, FUTURE) || Authority::parse(host).is_none() {
                return false;
            }
            path
        }
        path => path,
    };
    is_scheme && !is_http && is_encoded(path, PATH) && is_encoded(query, QUERY)
}

/// What stands before the first question mark, and what behind it.
fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[]),
    }
}

/// What stands behind a scheme, whose letters may be of either case.
fn strip_scheme<'a>(text: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (front, rest) = text.split_at_checked(scheme.len())?;
    front.eq_ignore_ascii_case(scheme).then_some(rest)
}
