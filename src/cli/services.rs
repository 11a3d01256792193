//! The table of services: what there is, where it listens by default, how it is made.

use std::fmt::Write as _;

use tidewheel::services::echo::Echo;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::{Options, Reactor, ServiceId};

use super::address::Transport;

/// One service of the program. A new one is a new row of [`TABLE`].
pub struct Entry {
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// What it can be served on. A bare HOST:PORT takes the first.
    pub transports: &'static [Transport],
    /// Where it listens when the command line names no address at all.
    pub defaults: &'static [(Transport, u16)],
    /// Adds it to a reactor. One value serves all of its addresses there.
    pub add: fn(&mut Reactor) -> ServiceId,
}

const TCP: Transport = Transport::Tcp;
const UDP: Transport = Transport::Udp;
const UNIX: Transport = Transport::Unix;
const UNIX_DGRAM: Transport = Transport::UnixDatagram;

pub static TABLE: &[Entry] = &[
    Entry {
        name: "echo",
        about: "sends every byte back",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 7007), (UDP, 7007)],
        add: |reactor| reactor.add_service(Echo, bytes("echo")),
    },
    Entry {
        name: "uppercase",
        about: "sends everything back in upper case",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 6666), (UDP, 6666)],
        add: |reactor| reactor.add_service(Uppercase::default(), bytes("uppercase")),
    },
    Entry {
        name: "time",
        about: "sends each datagram back behind the local time",
        transports: &[UDP, UNIX_DGRAM],
        defaults: &[(UDP, 8081)],
        add: |reactor| reactor.add_service(Time::local(), Options::new("time")),
    },
];

/// The options of a service that knows no messages, only bytes: no read deadline applies to what has no end.
fn bytes(name: &str) -> Options {
    Options { messages: false, ..Options::new(name) }
}

/// Finds a service by its name.
///
/// # Errors
/// A line that names the nearest one, or all that there are.
pub fn find(name: &str) -> Result<&'static Entry, String> {
    if let Some(entry) = TABLE.iter().find(|entry| entry.name == name) {
        return Ok(entry);
    }
    let likeness = |entry: &&Entry| strsim::jaro(entry.name, &name.to_lowercase());
    let nearest = TABLE
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        // The bound that clap uses for its own suggestions.
        .filter(|entry| likeness(entry) > 0.7);
    Err(match nearest {
        Some(entry) => format!("there is no service '{name}': did you mean '{}'?", entry.name),
        None => {
            let names: Vec<_> = TABLE.iter().map(|entry| entry.name).collect();
            format!("there is no service '{name}': there are {}", names.join(", "))
        }
    })
}

/// The table as `--help` shows it.
pub fn describe() -> String {
    let mut text = String::from("Services, their default ports, what they do:\n");
    for entry in TABLE {
        let ports: Vec<_> =
            entry.defaults.iter().map(|(transport, port)| format!("{} {port}", transport.name())).collect();
        let transports: Vec<_> = entry.transports.iter().map(|transport| transport.name()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<10} {:<19} {}", entry.name, ports.join(", "), entry.about);
        let _ = writeln!(text, "  {:<10} {:<19} on {}", "", "", transports.join(", "));
    }
    text
}
