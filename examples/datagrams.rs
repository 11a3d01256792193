//! A small key-value store over UDP: each datagram is a question, and each is answered.
//!
//!     cargo run --example datagrams
//!     echo set tea green | nc -u -w 1 127.0.0.1 7002       # ok
//!     echo get tea | nc -u -w 1 127.0.0.1 7002             # green

use std::collections::HashMap;

use tidewheel::{Context, Datagram, Limits, Options, Reactor, Service};

/// Strangers can send keys without end, so the store has a limit.
const KEYS_MAX: usize = 10_000;

#[derive(Default)]
struct Store {
    values: HashMap<String, String>,
}

impl Store {
    fn answer(&mut self, question: &str) -> &str {
        let mut words = question.trim_end().splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("get"), Some(key), None) => self.values.get(key).map_or("unknown key", String::as_str),
            (Some("set"), Some(key), Some(value)) => {
                if self.values.len() >= KEYS_MAX && !self.values.contains_key(key) {
                    return "the store is full";
                }
                self.values.insert(key.to_owned(), value.to_owned());
                "ok"
            }
            _ => "write: get KEY, or set KEY VALUE",
        }
    }
}

impl Service for Store {
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        let question = String::from_utf8_lossy(datagram.bytes);
        let answer = self.answer(&question);
        cx.reply(datagram, format!("{answer}\n").as_bytes());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("udp://127.0.0.1:7002".to_owned());
    let mut reactor = Reactor::new(Limits::default())?;
    let store = reactor.add_service(Store::default(), Options::new("store"));
    let (_, address) = reactor.listen(&address.parse()?, store)?;
    println!("listening on {address}");
    Ok(reactor.run()?)
}
