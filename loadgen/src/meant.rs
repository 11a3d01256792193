//! What a target was meant to be that is no SERVICE=ADDRESS: URLs are pasted from elsewhere, and names are left out.

use std::net::Ipv6Addr;

use crate::server::PORT;
use crate::service::Service;

/// Where echo is served unless somebody says otherwise.
const ECHO_PORT: &str = "7007";

/// The form that a target should have had, with what is known of it filled in.
pub fn target(text: &str) -> String {
    // A = may also be in the query of a URL, or in a path.
    let (service, address) = match text.split_once('=') {
        Some((service, address)) if !service.contains([':', '/', '.']) => (Some(service), address),
        _ if text.parse::<Service>().is_ok() => (Some(text), ""),
        _ => (None, text),
    };
    if address.starts_with("unix:") || address.starts_with("unix-dgram:") {
        return format!("{}={address}", service.unwrap_or("echo"));
    }
    if address.starts_with(['/', '.']) {
        return format!("{}=unix:{address}", service.unwrap_or("echo"));
    }
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        // Without its slashes.
        None => match address.split_once(':') {
            Some((scheme @ ("tcp" | "udp"), rest)) if rest.contains(':') => (scheme.to_owned(), rest),
            _ => (String::new(), address),
        },
    };
    let is_web = matches!(scheme.as_str(), "http" | "https");
    let service = match service {
        Some(service) if !is_web => service,
        _ if is_web => "http",
        _ => "echo",
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host_port)| host_port);
    let is_host = |host: &str| !host.contains(':') || host.ends_with(']') || host.parse::<Ipv6Addr>().is_ok();
    let is_port = |port: &str| port == PORT || port.parse::<u16>().is_ok_and(|port| port > 0);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) && is_host(host) => (host, port),
        Some((host, _)) if !host.contains(':') => (host, default_port(service)),
        // All colons of an IPv6 address without brackets are its own.
        _ => (authority, default_port(service)),
    };
    // The port of an https URL speaks TLS.
    let port = if scheme == "https" { "80" } else { port };
    let host = match host {
        "" => "127.0.0.1".to_owned(),
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let transport = match scheme.as_str() {
        "tcp" => "tcp://",
        "udp" => "udp://",
        _ => "",
    };
    let path = path.split('#').next().unwrap_or_default();
    let path = match (service, path) {
        ("http", path) if path.starts_with('?') => format!(" --path '/{path}'"),
        ("http", path) if path.contains(['?', '&']) => format!(" --path '{path}'"),
        ("http", path) if !matches!(path, "" | "/") => format!(" --path {path}"),
        _ => String::new(),
    };
    format!("{service}={transport}{host}:{port}{path}")
}

fn default_port(service: &str) -> &'static str {
    if service == "http" { "80" } else { ECHO_PORT }
}

/// Why it is not a target, and what would be one.
pub fn complaint(text: &str) -> String {
    tls_complaint(text).unwrap_or_else(|| format!("expected SERVICE=ADDRESS, such as {}", target(text)))
}

/// The error for a target that is an https URL, or has one as its address.
pub fn tls_complaint(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_tls = scheme == "https" || scheme.ends_with("=https");
    is_tls.then(|| {
        format!(
            "loadgen does not support TLS yet: give the address of a port without TLS, such as {}",
            target(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_or_left_out_is_shown_in_the_right_form() {
        for (text, expected) in [
            ("http://host/", "http=host:80"),
            ("http://host", "http=host:80"),
            ("HTTP://Host/", "http=Host:80"),
            ("http://host:8080/path", "http=host:8080 --path /path"),
            ("http://host:8080/a/b?c=d#e", "http=host:8080 --path '/a/b?c=d'"),
            ("http://host?c=d", "http=host:80 --path '/?c=d'"),
            ("http://user:word@host:8080/", "http=host:8080"),
            ("http://[::1]:8080/", "http=[::1]:8080"),
            ("http://[::1]/", "http=[::1]:80"),
            ("http://127.0.0.1:{port}/", "http=127.0.0.1:{port}"),
            ("http://", "http=127.0.0.1:80"),
            ("https://host/", "http=host:80"),
            ("https://[::1]:8443/path", "http=[::1]:80 --path /path"),
            ("tcp://host:7007", "echo=tcp://host:7007"),
            ("udp://host:7007", "echo=udp://host:7007"),
            ("tcp:127.0.0.1:80", "echo=tcp://127.0.0.1:80"),
            ("echo=udp:127.0.0.1:80", "echo=udp://127.0.0.1:80"),
            ("redis://host:6379/0", "echo=host:6379"),
            ("localhost:8080", "echo=localhost:8080"),
            ("localhost", "echo=localhost:7007"),
            (":8080", "echo=127.0.0.1:8080"),
            ("::1", "echo=[::1]:7007"),
            ("[::1]:80", "echo=[::1]:80"),
            ("::1:80", "echo=[::1]:80"),
            ("echo=host:0", "echo=host:7007"),
            ("echo=tcp://host:80", "echo=tcp://host:80"),
            ("unix:/run/a.sock", "echo=unix:/run/a.sock"),
            ("/run/a=b.sock", "echo=unix:/run/a=b.sock"),
            ("echo", "echo=127.0.0.1:7007"),
            ("http", "http=127.0.0.1:80"),
            ("http=http://host:8080/path", "http=host:8080 --path /path"),
            ("echo=http://host/", "http=host:80"),
            ("http=host", "http=host:80"),
            ("http=host/", "http=host:80"),
            ("http=host:8080/path", "http=host:8080 --path /path"),
            ("echo=host:", "echo=host:7007"),
            ("echo=/run/a.sock", "echo=unix:/run/a.sock"),
            ("", "echo=127.0.0.1:7007"),
        ] {
            assert_eq!(target(text), expected, "{text}");
        }
    }
}
