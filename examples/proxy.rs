//! A proxy: input of one side is sent to the other, in both directions, until both sides have shut down.
//!
//!     cargo run --example proxy -- 127.0.0.1:8000 127.0.0.1:7007
//!     echo hello | nc -N 127.0.0.1 8000        # with the example echo on port 7007

use tidewheel::{
    Address, Arrival, CloseReason, ConnId, ConnMap, Context, Limits, Net, Options, Reactor, Service,
    ServiceId,
};

/// Connects to the backend for each connection that it accepts.
pub struct Proxy {
    backend: Address,
    /// This service, to which the connections to the backend belong too.
    me: Option<ServiceId>,
    /// The other connection of each pair.
    others: ConnMap<ConnId>,
}

impl Proxy {
    /// Adds a proxy to a reactor.
    pub fn add_to<N: Net>(reactor: &mut Reactor<N>, backend: Address) -> ServiceId {
        let proxy = Proxy { backend, me: None, others: ConnMap::new() };
        // A side that does not read may still send. A stream of bytes has no messages that could be incomplete.
        let me = reactor.add_service(proxy, Options::new("proxy").messages(false).output_pauses_input(false));
        reactor.with(me, |proxy: &mut Proxy, _| proxy.me = Some(me));
        me
    }
}

impl Service for Proxy {
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        if let (Arrival::Accepted(_), Some(me)) = (arrival, self.me) {
            let other = cx.connect(self.backend.clone(), me);
            self.others.insert(conn, other);
            self.others.insert(other, conn);
        }
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let Some(&other) = self.others.get(conn) else { return bytes.len() };
        let count = cx.send_some(other, bytes);
        if count < bytes.len() {
            // The rest is kept and offered again.
            cx.pause(conn);
            cx.notify_writable(other);
        }
        count
    }

    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        if let Some(&other) = self.others.get(conn) {
            cx.resume(other);
        }
    }

    fn eof(&mut self, conn: ConnId, _: &[u8], cx: &mut Context<'_>) {
        if let Some(&other) = self.others.get(conn) {
            cx.half_close(other);
        }
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        let Some(other) = self.others.remove(conn) else { return };
        self.others.remove(other);
        if reason == CloseReason::PeerClosed { cx.close(other) } else { cx.abort(other) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut addresses = std::env::args().skip(1).map(|text| text.parse::<Address>());
    let (Some(listen), Some(backend)) = (addresses.next().transpose()?, addresses.next().transpose()?) else {
        return Err("usage: proxy LISTEN BACKEND".into());
    };
    let mut reactor = Reactor::new(Limits::default())?;
    let proxy = Proxy::add_to(&mut reactor, backend);
    let (_, address) = reactor.listen(&listen, proxy)?;
    println!("listening on {address}");
    Ok(reactor.run()?)
}
