//! What the program tells of its connections: the log, and with `--show` every byte that comes and goes.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use tidewheel::{CloseReason, ConnMap, Observer, Peer, Reactor, Report, os};
use tracing::{Level, debug, error, warn};

use super::outlet::Outlet;
use super::serve::OpenListeners;

/// Bytes of one read or one answer that are shown; of what is longer, the beginning.
const SHOWN_BYTES_MAX: usize = 4 << 10;

/// Makes a reactor tell the log, `show` if there is one, and those who count listeners.
pub fn watch(reactor: &mut Reactor, show: Option<Outlet>, listeners: Arc<OpenListeners>) {
    let bytes_wanted = show.is_some();
    let mut watcher = Watcher {
        names_wanted: show.is_some() || tracing::enabled!(Level::DEBUG),
        show,
        names: ConnMap::new(),
        unnamed: 0,
        datagram_service: String::new(),
        evicted: 0,
        listeners,
    };
    let observer: Observer = Box::new(move |report| watcher.tell(report));
    if bytes_wanted { reactor.observe(observer) } else { reactor.observe_events(observer) }
}

struct Watcher {
    show: Option<Outlet>,
    /// Whether anybody wants to hear of single connections.
    names_wanted: bool,
    /// What each connection is called: its service and its peer.
    names: ConnMap<String>,
    /// Peers without an address of their own, so far.
    unnamed: u64,
    /// The service that the last datagram went to. Answers follow their datagrams at once.
    datagram_service: String,
    /// Connections closed for the memory limit so far.
    evicted: u64,
    listeners: Arc<OpenListeners>,
}

impl Watcher {
    fn tell(&mut self, report: &Report<'_>) {
        if let Report::Closed { reason: CloseReason::MemoryLimit, .. } = report {
            self.evicted += 1;
            // At each doubling, so that a flood of them is a few lines.
            if self.evicted.is_power_of_two() {
                warn!(
                    "memory limit reached (--max-memory): closed the connections that use the most, {} so far",
                    self.evicted
                );
            }
        }
        match report {
            Report::ListenerPaused { address, error, .. } if os::is_exhausted(error) => {
                warn!(
                    "{address} is paused: {error} (out of descriptors or memory; new connections wait in the accept backlog)"
                );
            }
            Report::ListenerPaused { address, error, .. } => {
                warn!("{address} is paused after repeated errors: {error} (it is closed if they continue)");
            }
            Report::ListenerResumed { address, .. } => warn!("{address} is resumed"),
            Report::ListenerClosed { address, error, .. } => {
                error!("{address} is closed after errors for too long: {error}");
                self.listeners.one_is_closed();
            }
            Report::WaitPaused { error, .. } => {
                error!("waiting for readiness fails repeatedly: {error} (retrying for a limited time)");
            }
            Report::WaitResumed => warn!("waiting for readiness works again"),
            Report::Panicked { service, conn: Some(_), .. } => {
                error!("the service {service} panicked; the connection that it was serving is closed");
            }
            Report::Panicked { service, conn: None, .. } => {
                error!("the service {service} panicked");
            }
            _ if !self.names_wanted => {}
            Report::Opened { conn, service, peer, .. } => {
                let name = self.name(service, peer);
                self.event(&name, "connected");
                self.names.insert(*conn, name);
            }
            Report::Refused { service, peer, reason, .. } => {
                let name = self.name(service, peer);
                self.event(&name, &format!("refused: {}", reason.name()));
            }
            Report::Closed { conn, reason, .. } => {
                // One that was refused has been told of.
                if let Some(name) = self.names.remove(*conn) {
                    self.event(&name, &format!("closed: {}", reason.name()));
                }
            }
            Report::Input { conn, bytes, .. } => self.bytes(self.names.get(*conn), "->", bytes),
            Report::Output { conn, bytes, .. } => self.bytes(self.names.get(*conn), "<-", bytes),
            Report::DatagramIn { service, from, bytes, .. } => {
                self.datagram_service.clear();
                self.datagram_service.push_str(service);
                let name = self.name(service, from);
                self.bytes(Some(&name), "->", bytes);
            }
            Report::DatagramOut { to, bytes, .. } => {
                let name = format!("{} {}", self.datagram_service, peer_name(to).unwrap_or_default());
                self.bytes(Some(&name), "<-", bytes);
            }
            _ => {}
        }
    }

    fn name(&mut self, service: &str, peer: &Peer) -> String {
        match peer_name(peer) {
            Some(peer) => format!("{service} {peer}"),
            None => {
                self.unnamed += 1;
                format!("{service} unix#{}", self.unnamed)
            }
        }
    }

    fn event(&self, name: &str, what: &str) {
        debug!("{name} {what}");
        if let Some(show) = &self.show {
            show.put(format!("{name} {what}\n").as_bytes());
        }
    }

    fn bytes(&self, name: Option<&String>, arrow: &str, bytes: &[u8]) {
        if let (Some(show), Some(name)) = (&self.show, name) {
            show.put(format!("{name} {arrow} {}\n", quoted(bytes)).as_bytes());
        }
    }
}

fn peer_name(peer: &Peer) -> Option<String> {
    match peer {
        Peer::Inet(address) => Some(address.to_string()),
        Peer::Unix(Some(path)) => Some(format!("unix:{}", escaped(path.as_os_str().as_bytes()))),
        _ => None,
    }
}

/// Bytes of a stranger in quotes, at most a screenful of them.
fn quoted(bytes: &[u8]) -> String {
    match bytes.split_at_checked(SHOWN_BYTES_MAX) {
        Some((beginning, rest)) if !rest.is_empty() => {
            format!("\"{}\" and {} more bytes", escaped(beginning), rest.len())
        }
        _ => format!("\"{}\"", escaped(bytes)),
    }
}

/// Bytes of a stranger without any power over a terminal or the lines of a log: whatever is no printable character
/// (controls, and what changes the direction of writing, too) is escaped as in a Rust string, what is no UTF-8 as
/// `\xFF`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

/// A line of our own in which strangers may have had a word: like [`escaped`], but quotes stay what they are.
pub fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        match character {
            '\'' | '"' | '\\' => text.push(character),
            _ => text.extend(character.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_readable_stays_readable() {
        assert_eq!(quoted("hello, Grüße, 你好, שלום".as_bytes()), "\"hello, Grüße, 你好, שלום\"");
        assert_eq!(quoted(b"a\tb\r\n"), r#""a\tb\r\n""#);
        assert_eq!(quoted(br#"say "no" \ yes"#), r#""say \"no\" \\ yes""#);
        assert_eq!(quoted(b""), "\"\"");
    }

    #[test]
    fn nothing_that_comes_in_reaches_a_terminal_raw() {
        for code in (0..0x20).chain(0x7f..0xa0).chain([0x61c, 0x200e, 0x200f, 0x2028, 0x2029]) {
            check(char::from_u32(code).expect("these are characters"));
        }
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            check(c);
        }
        fn check(c: char) {
            let text = quoted(format!("a{c}b").as_bytes());
            assert!(text.starts_with("\"a\\") && text.ends_with("b\"") && !text.contains(c), "{c:?}: {text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
        assert_eq!(quoted(b"a\xFF\xC3b\x9b1m"), r#""a\xFF\xC3b\x9B1m""#);
    }

    #[test]
    fn long_messages_are_cut() {
        let text = quoted(&vec![b'x'; SHOWN_BYTES_MAX + 7]);
        assert!(text.ends_with("x\" and 7 more bytes"), "{}", &text[SHOWN_BYTES_MAX..]);
        assert!(quoted(&vec![b'x'; SHOWN_BYTES_MAX]).ends_with("x\""));
    }
}
