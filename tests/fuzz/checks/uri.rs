//! Hosts and request targets as RFC 3986 and RFC 9112 define them, in the plainest way: one function a production.

/// Host of RFC 9110; empty is allowed, a port alone is not.
pub fn is_host_field(value: &str) -> bool {
    value.is_empty() || is_host_and_port(value)
}

/// Whether a method may have this target.
pub fn is_target(method: &str, target: &str) -> bool {
    let is_known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"].contains(&method);
    match method {
        "CONNECT" => is_authority_form(target),
        "OPTIONS" if target == "*" => true,
        _ if is_known => is_origin_form(target) || is_http_uri(target),
        _ => {
            target == "*"
                || is_origin_form(target)
                || is_http_uri(target)
                || is_authority_form(target)
                || is_other_uri(target)
        }
    }
}

fn is_origin_form(target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    path.starts_with('/') && path.split('/').all(is_segment) && is_query(query)
}

fn is_http_uri(target: &str) -> bool {
    let Some((scheme, rest)) = target.split_once("://") else { return false };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str())
        && is_host_and_port(authority)
        && (rest.is_empty() || rest.starts_with('?') && is_query(&rest[1..]) || is_origin_form(rest))
}

/// A URI whose scheme is not HTTP's.
fn is_other_uri(target: &str) -> bool {
    let (before, query) = target.split_once('?').unwrap_or((target, ""));
    let Some((scheme, rest)) = before.split_once(':') else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|other| other.is_ascii_alphanumeric() || "+-.".contains(other));
    let is_http = ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str());
    let hierarchy = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let (user, host) = authority.split_once('@').unwrap_or(("", authority));
            let is_user =
                is_encoded(user, |other| is_unreserved(other) || is_sub_delim(other) || other == ':');
            is_user
                && (host.is_empty() || host.starts_with(':') && is_port(&host[1..]) || is_host_and_port(host))
                && path.split('/').all(is_segment)
        }
        None => rest.split('/').all(is_segment),
    };
    is_scheme && !is_http && hierarchy && is_query(query)
}

fn is_authority_form(target: &str) -> bool {
    let Some((_, port)) = target.rsplit_once(':') else { return false };
    let port: String = port.trim_start_matches('0').chars().take(6).collect();
    is_host_and_port(target)
        && !port.contains(']')
        && port.parse::<u32>().is_ok_and(|port| (1..65_536).contains(&port))
}

fn is_host_and_port(text: &str) -> bool {
    // The last colon that is not inside of brackets.
    let at = text.rfind(':').filter(|&at| !text[at..].contains(']'));
    let (host, port) = at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
    is_port(port) && (is_name(host) || is_literal(host))
}

fn is_port(text: &str) -> bool {
    text.chars().all(|digit| digit.is_ascii_digit())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && is_encoded(text, |other| is_unreserved(other) || is_sub_delim(other))
}

fn is_literal(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    is_ipv6(inside) || is_ip_future(inside)
}

fn is_ip_future(text: &str) -> bool {
    let Some((version, address)) = text.split_once('.') else { return false };
    let digits = version.strip_prefix(['v', 'V']).unwrap_or_default();
    !digits.is_empty()
        && digits.chars().all(|digit| digit.is_ascii_hexdigit())
        && !address.is_empty()
        && address.chars().all(|other| is_unreserved(other) || is_sub_delim(other) || other == ':')
}

fn is_ipv6(text: &str) -> bool {
    match text.split_once("::") {
        Some((front, back)) => {
            let front = if front.is_empty() { Some(0) } else { groups(front, false) };
            let back = if back.is_empty() { Some(0) } else { groups(back, true) };
            matches!((front, back), (Some(front), Some(back)) if front + back <= 7)
        }
        None => groups(text, true) == Some(8),
    }
}

/// How many groups of sixteen bits there are; the last two may be an IPv4 address.
fn groups(text: &str, may_end_in_ipv4: bool) -> Option<usize> {
    let mut count = 0;
    let parts: Vec<_> = text.split(':').collect();
    for (index, part) in parts.iter().enumerate() {
        let is_group = (1..=4).contains(&part.len()) && part.chars().all(|digit| digit.is_ascii_hexdigit());
        let is_last = index + 1 == parts.len();
        count += match (is_group, is_last && may_end_in_ipv4 && is_ipv4(part)) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => return None,
        };
    }
    Some(count)
}

fn is_ipv4(text: &str) -> bool {
    let octets: Vec<_> = text.split('.').collect();
    octets.len() == 4 && octets.iter().all(|octet| (0..256).any(|number| number.to_string() == *octet))
}

fn is_segment(text: &str) -> bool {
    is_encoded(text, |other| is_unreserved(other) || is_sub_delim(other) || ":@".contains(other))
}

fn is_query(text: &str) -> bool {
    text.split(['/', '?']).all(is_segment)
}

/// Whether there are only characters of a kind, and percent signs with two hexadecimal digits behind them.
fn is_encoded(text: &str, is_of_kind: impl Fn(char) -> bool) -> bool {
    let mut parts = text.split('%');
    let plain = |part: &str| part.chars().all(&is_of_kind);
    parts.next().is_none_or(plain)
        && parts.all(|part| {
            let digits = part.chars().take(2).filter(char::is_ascii_hexdigit).count();
            digits == 2 && plain(&part[2..])
        })
}

fn is_unreserved(other: char) -> bool {
    other.is_ascii_alphanumeric() || "-._~".contains(other)
}

fn is_sub_delim(other: char) -> bool {
    "!$&'()*+,;=".contains(other)
}
