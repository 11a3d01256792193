//! The table of services: what there is, where it listens by default, how it is made.

use std::fmt::Write as _;

use tidewheel::framing::Framed;
use tidewheel::services::Language;
use tidewheel::services::banner::{self, Banner};
use tidewheel::services::daytime::Daytime;
use tidewheel::services::echo::Echo;
use tidewheel::services::greeting::Greeting;
use tidewheel::services::reply::Reply;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::{Address, Options, Reactor, ServiceId};

use super::address::Transport;
use super::settings::Settings;
use super::spelling;

/// One service of the program. A new one is a new row of [`TABLE`].
pub struct Entry {
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// What it can be served on. A bare HOST:PORT takes the first.
    pub transports: &'static [Transport],
    /// Where it listens when the command line names no address at all.
    pub defaults: &'static [(Transport, u16)],
    pub add: Add,
}

/// How a service is added to a reactor.
pub enum Add {
    /// One value serves all of its addresses.
    ForAll(fn(&mut Reactor, &Settings) -> ServiceId),
    /// Each address has a value of its own, which may depend on it.
    ForEach(fn(&mut Reactor, &Settings, &Address) -> ServiceId),
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
        add: Add::ForAll(|reactor, _| reactor.add_service(Echo, bytes("echo"))),
    },
    Entry {
        name: "uppercase",
        about: "sends everything back in upper case",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 6666), (UDP, 6666)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Uppercase::default(), bytes("uppercase"))),
    },
    Entry {
        name: "greeting",
        about: "greets each message by its text",
        transports: &[TCP, UNIX],
        defaults: &[(TCP, 9999)],
        add: Add::ForAll(|reactor, settings| {
            reactor.add_service(Framed::new(Greeting::default(), settings.rules), Options::new("greeting"))
        }),
    },
    Entry {
        name: "daytime",
        about: "tells the local date and time",
        transports: &[TCP, UDP],
        defaults: &[(TCP, 6789)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Daytime::local(), Options::new("daytime"))),
    },
    Entry {
        name: "banner",
        about: "sends a welcome and closes",
        transports: &[TCP, UNIX],
        defaults: &[(TCP, 9998)],
        add: Add::ForAll(|reactor, settings| {
            let text = settings.banner_text.as_deref();
            let banner = Banner::new(text.unwrap_or(banner::default_text(settings.language)));
            reactor.add_service(banner, Options::new("banner"))
        }),
    },
    Entry {
        name: "reply",
        about: "answers each message with one text",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 8888), (UDP, 8080), (UDP, 8888)],
        add: Add::ForEach(|reactor, settings, address| {
            let text = settings.reply_text.as_deref();
            let text = text.unwrap_or(reply_text(settings.language, address));
            let reply = Framed::new(Reply::new(text, text), settings.rules);
            reactor.add_service(reply, Options::new("reply"))
        }),
    },
    Entry {
        name: "time",
        about: "sends each datagram back behind the local time",
        transports: &[UDP, UNIX_DGRAM],
        defaults: &[(UDP, 8081)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Time::local(), Options::new("time"))),
    },
];

/// The options of a service that knows no messages, only bytes: no read deadline applies to what has no end.
fn bytes(name: &str) -> Options {
    Options { messages: false, ..Options::new(name) }
}

/// What reply answers by default: it stands for three servers, each with a text of its own.
fn reply_text(language: Language, address: &Address) -> &'static str {
    match (address, language) {
        (Address::Tcp(_) | Address::Unix(_), Language::English) => "your message has been received",
        (Address::Tcp(_) | Address::Unix(_), Language::Chinese) => "已经成功接收您发送的消息",
        (Address::Udp(at), Language::English) if at.port() == 8888 => "my name is server",
        (Address::Udp(at), Language::Chinese) if at.port() == 8888 => "my name is server, 服务器",
        (Address::Udp(_) | Address::UnixDatagram(_), _) => "hello, my name is server",
    }
}

/// Finds a service by its name.
///
/// # Errors
/// A line that names the nearest one, or all that there are.
pub fn find(name: &str) -> Result<&'static Entry, String> {
    if let Some(entry) = TABLE.iter().find(|entry| entry.name == name) {
        return Ok(entry);
    }
    let names = TABLE.iter().map(|entry| entry.name);
    Err(match spelling::nearest(name, names.clone()) {
        Some(nearest) => format!("there is no service '{name}': did you mean '{nearest}'?"),
        None => {
            let names: Vec<_> = names.collect();
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
