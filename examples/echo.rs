//! Sends all input back, over streams and datagrams. SIGTERM or Ctrl-C shuts it down gracefully: input that was received is
//! answered first.
//!
//!     cargo run --example echo -- tcp://127.0.0.1:7007 udp://127.0.0.1:7007
//!     echo hello | nc -N 127.0.0.1 7007

use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tidewheel::{ConnId, Context, Datagram, Limits, Options, Reactor, Service};

/// How long the shutdown waits for peers that do not read their answers.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

struct Echo;

impl Service for Echo {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.send_some(conn, bytes)
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.reply(datagram, datagram.bytes);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        addresses.push("127.0.0.1:7007".to_owned());
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut reactor = Reactor::new(Limits::default())?;
    // A stream of bytes has no messages that could be incomplete.
    let echo = reactor.add_service(Echo, Options::new("echo").messages(false));
    for address in addresses {
        let (_, address) = reactor.listen(&address.parse()?, echo)?;
        println!("listening on {address}");
    }

    let remote = reactor.remote();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            remote.stop();
        }
    });
    reactor.run()?;
    let drained = reactor.drain(DRAIN_DEADLINE)?;
    println!("stopped: {} answered, {} reset", drained.answered, drained.reset);
    Ok(())
}
