//! Which proxy a document is fetched through, if any: as curl reads it from the environment.

use std::env;
use std::net::IpAddr;

use ureq::Proxy;
use url::{Host, Url};

use crate::clients::transfer::Trouble;

/// The proxy for a URL, from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.
///
/// # Errors
/// A proxy is named that cannot be used: nothing is fetched without it then.
pub fn of(url: &Url) -> Result<Option<Proxy>, Trouble> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    match choose(url, variable) {
        None => Ok(None),
        Some((name, value)) => Proxy::new(value.trim()).map(Some).map_err(|_| {
            // Without its value: that may have a password.
            Trouble::lasting(format!(
                "{name} names no proxy that can be used: expected [SCHEME://][USER:PASSWORD@]HOST[:PORT] with http, https, \
                 socks4, socks4a, socks5 or socks5h"
            ))
        }),
    }
}

/// The variable that counts, and what it says.
fn choose(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let exceptions = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
    if exceptions.split([',', ' ']).any(|entry| is_excepted(url, entry.trim())) {
        return None;
    }
    // HTTP_PROXY is what a web server gives a program for the request header `Proxy`.
    let names: &[&'static str] = match url.scheme() {
        "http" => &["http_proxy", "all_proxy", "ALL_PROXY"],
        _ => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
    };
    names.iter().find_map(|name| Some((*name, variable(name)?)))
}

/// Whether an entry of `no_proxy` is about the host of a URL.
fn is_excepted(url: &Url, entry: &str) -> bool {
    if entry == "*" {
        return true;
    }
    let (place, port) = match entry.rsplit_once(':') {
        Some((place, port)) if !place.contains(':') || place.ends_with(']') => match port.parse() {
            Ok(port) => (place, Some(port)),
            Err(_) => return false,
        },
        _ => (entry, None),
    };
    if port.is_some() && url.port_or_known_default() != port {
        return false;
    }
    let place = place.trim_start_matches('[').trim_end_matches(']');
    match url.host() {
        Some(Host::Ipv4(ip)) => is_within(ip.into(), place),
        Some(Host::Ipv6(ip)) => is_within(ip.into(), place),
        Some(Host::Domain(host)) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            let domain = place.trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
            !domain.is_empty()
                && host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        None => false,
    }
}

/// Whether an address is the one that is written, or in a network as 192.0.2.0/24.
fn is_within(ip: IpAddr, written: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let (network, length) =
        written.split_once('/').map_or((written, None), |(network, bits)| (network, Some(bits)));
    let Ok(network) = network.parse::<IpAddr>() else { return false };
    let ((one, width), (other, other_width)) = (bits(ip), bits(network));
    let length = match length.map(str::parse::<u32>) {
        None => width,
        Some(Ok(length)) if length <= width => length,
        Some(_) => return false,
    };
    width == other_width && (length == 0 || (one ^ other) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Option<(&'static str, String)> {
        let url = Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
        choose(&url, |name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_scheme_decides_which_variable_counts() {
        let all = [
            ("http_proxy", "h"),
            ("HTTP_PROXY", "H"),
            ("https_proxy", "s"),
            ("HTTPS_PROXY", "S"),
            ("ALL_PROXY", "A"),
        ];
        for (url, variables, name) in [
            ("http://a/", &all[..], Some("http_proxy")),
            ("https://a/", &all, Some("https_proxy")),
            ("https://a/", &all[3..], Some("HTTPS_PROXY")),
            ("http://a/", &all[2..], Some("ALL_PROXY")),
            ("http://a/", &all[1..2], None),
            ("http://a/", &all[2..3], None),
            ("https://a/", &all[..2], None),
            ("https://a/", &all[4..], Some("ALL_PROXY")),
        ] {
            assert_eq!(chosen(url, variables).map(|(name, _)| name), name, "{url} {variables:?}");
        }
    }

    #[test]
    fn hosts_that_need_no_proxy_are_recognized() {
        for (url, entries, excepted) in [
            ("http://example.com/", "example.com", true),
            ("http://www.EXAMPLE.com./", ".example.com", true),
            ("http://example.com/", ".example.com", true),
            ("http://notexample.com/", "example.com", false),
            ("http://example.com/", "a.com, example.com", true),
            ("http://example.com:8080/", "example.com:8080", true),
            ("http://example.com/", "example.com:8080", false),
            ("http://example.com/", "*", true),
            ("http://example.com/", "com", true),
            ("http://example.com/", ",, ,", false),
            ("http://192.0.2.7/", "192.0.2.7", true),
            ("http://192.0.2.7/", "192.0.2.0/24", true),
            ("http://192.0.3.7/", "192.0.2.0/24", false),
            ("http://192.0.2.7/", "0.0.0.0/0", true),
            ("http://192.0.2.7/", "192.0.2.0/33", false),
            ("http://[2001:db8::1]/", "2001:db8::/32", true),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]:81", true),
            ("http://[2001:db8::1]/", "[2001:db8::1]", true),
            ("http://[::1]/", "0.0.0.0/0", false),
            ("http://192.0.2.7/", "2.7", false),
        ] {
            let found = chosen(url, &[("http_proxy", "p"), ("NO_PROXY", entries)]);
            assert_eq!(found.is_none(), excepted, "{url} with {entries}");
        }
    }
}
