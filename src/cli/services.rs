//! The table of services: what there is, where it listens by default, how it is made.

use tidewheel::framing::Framed;
use tidewheel::services::Language;
use tidewheel::services::banner::{self, Banner};
use tidewheel::services::chat::Chat;
use tidewheel::services::daytime::Daytime;
use tidewheel::services::echo::Echo;
use tidewheel::services::greeting::Greeting;
use tidewheel::services::http::Http;
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
    /// What it does, in few words.
    pub about: &'static str,
    /// A command that shows it at its default address.
    pub trial: &'static str,
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
    /// One value serves all of its addresses, and has to be the only one: there can be no other reactor.
    Alone(fn(&mut Reactor, &Settings) -> ServiceId),
}

const TCP: Transport = Transport::Tcp;
const UDP: Transport = Transport::Udp;
const UNIX: Transport = Transport::Unix;
const UNIX_DGRAM: Transport = Transport::UnixDatagram;

pub static TABLE: &[Entry] = &[
    Entry {
        name: "echo",
        about: "sends every byte back",
        trial: "nc 127.0.0.1 7007",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 7007), (UDP, 7007)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Echo, bytes("echo"))),
    },
    Entry {
        name: "uppercase",
        about: "sends everything back in upper case",
        trial: "echo hello | nc -N 127.0.0.1 6666",
        transports: &[TCP, UDP, UNIX, UNIX_DGRAM],
        defaults: &[(TCP, 6666), (UDP, 6666)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Uppercase::default(), bytes("uppercase"))),
    },
    Entry {
        name: "greeting",
        about: "answers a name with a greeting",
        trial: "nc 127.0.0.1 9999",
        transports: &[TCP, UNIX],
        defaults: &[(TCP, 9999)],
        add: Add::ForAll(|reactor, settings| {
            reactor.add_service(Framed::new(Greeting::default(), settings.rules), Options::new("greeting"))
        }),
    },
    Entry {
        name: "daytime",
        about: "sends the local date and time",
        trial: "nc 127.0.0.1 6789",
        transports: &[TCP, UDP],
        defaults: &[(TCP, 6789)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Daytime::local(), Options::new("daytime"))),
    },
    Entry {
        name: "banner",
        about: "sends a welcome and closes",
        trial: "nc 127.0.0.1 9998",
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
        trial: "echo hello | nc -N 127.0.0.1 8888",
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
        name: "http",
        about: "serves a page over HTTP/1.1",
        trial: "curl http://127.0.0.1:8080/",
        transports: &[TCP],
        defaults: &[(TCP, 8080)],
        add: Add::ForAll(|reactor, settings| {
            let options = Options::new("http").idle_timeout(settings.http_idle_timeout);
            reactor.add_service(Http::new(settings.rules.line_bytes_max), options)
        }),
    },
    Entry {
        name: "time",
        about: "prefixes datagrams with local time",
        trial: "echo hello | nc -u -w 1 127.0.0.1 8081",
        transports: &[UDP, UNIX_DGRAM],
        defaults: &[(UDP, 8081)],
        add: Add::ForAll(|reactor, _| reactor.add_service(Time::local(), Options::new("time"))),
    },
    Entry {
        name: "chat",
        about: "chat rooms and private messages",
        trial: "nc 127.0.0.1 25666",
        transports: &[TCP, UNIX],
        defaults: &[(TCP, 25666)],
        add: Add::Alone(|reactor, settings| {
            let chat = Chat::new(settings.language, settings.chat_limits.clone());
            reactor.add_service(Framed::new(chat, settings.rules), Options::new("chat"))
        }),
    },
];

/// The options of a service that knows no messages, only bytes: no read deadline applies to what has no end.
fn bytes(name: &str) -> Options {
    Options::new(name).messages(false)
}

/// What reply answers by default: it stands for three servers, each with a text of its own.
fn reply_text(language: Language, address: &Address) -> &'static str {
    match (address, language) {
        (Address::Tcp(_) | Address::Unix(_), Language::English) => "your message has been received",
        (Address::Tcp(_) | Address::Unix(_), Language::Chinese) => "已经成功接收您发送的消息",
        (Address::Udp(at), Language::English) if at.port() == 8888 => "my name is server",
        (Address::Udp(at), Language::Chinese) if at.port() == 8888 => "my name is server, 服务器",
        _ => "hello, my name is server",
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
        Some(nearest) => format!("unknown service '{name}': did you mean '{nearest}'?"),
        None => {
            let names: Vec<_> = names.collect();
            format!("unknown service '{name}'; the services are: {}", names.join(", "))
        }
    })
}

impl Entry {
    /// The transports as words.
    pub fn transport_names(&self) -> Vec<&'static str> {
        self.transports.iter().map(|transport| transport.name()).collect()
    }

    /// Its name, its default ports and what it does, in columns.
    fn summary(&self) -> String {
        let ports: Vec<_> =
            self.defaults.iter().map(|(transport, port)| format!("{} {port}", transport.name())).collect();
        columns(self.name, &ports.join(", "), self.about)
    }
}

/// A line of at most 80 characters, if the texts allow it.
fn columns(name: &str, middle: &str, last: &str) -> String {
    format!("{name:<10} {middle:<28} {last}\n")
}

/// The table as `serve --help` shows it.
pub fn describe() -> String {
    let mut text = String::from("Services and their default ports (details: tidewheel services):\n");
    for entry in TABLE {
        text.push_str("  ");
        text.push_str(&entry.summary());
    }
    text
}

/// The table as `tidewheel services` prints it.
pub fn list() -> String {
    let mut text = columns("SERVICE", "DEFAULT PORTS ON 127.0.0.1", "WHAT IT DOES");
    text.push_str(&columns("", "TRANSPORTS", "TRY IT"));
    for entry in TABLE {
        text.push_str(&entry.summary());
        text.push_str(&columns("", &entry.transport_names().join(" "), entry.trial));
    }
    text
}
