//! A system without a kernel: in each turn the same connections have the same input, and whatever is written is taken. What
//! a turn costs on it is what the engine and the service cost.

use std::hint::black_box;
use std::io::{self, ErrorKind, IoSlice};
use std::iter::Copied;
use std::net::SocketAddr;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidewheel::parts::{
    self, Delivery, Flags, Inbound, ListenOptions, Outbound, Readiness, Received, Wake, Wire, source_token,
};
use tidewheel::{Address, ConnId, Instant, Limits, Net, Options, Peer, Reactor, Service};

/// What comes.
#[derive(Clone)]
pub struct Input {
    /// In each turn, on each connection or in each datagram.
    pub bytes: Vec<u8>,
    /// Whether each connection says a name of its own before, as a line.
    pub names: bool,
}

/// The system.
pub struct Bare {
    input: Input,
    /// Connections that wait to be accepted.
    backlog: usize,
    /// Of those that were accepted, so many have input in each turn.
    speakers: usize,
    conns: Vec<ConnId>,
    /// How many of them have said their name.
    named: usize,
    /// Something has come of which an event must tell: datagrams, or connections.
    source: bool,
}

/// A reactor on it with one service and so many connections, of which the first `speakers` have input in each turn.
pub fn with_connections(
    service: impl Service,
    connections: usize,
    speakers: usize,
    input: Input,
) -> Reactor<Bare> {
    let bare = Bare { input, backlog: connections, speakers, conns: Vec::new(), named: 0, source: true };
    let mut reactor = reactor(bare, service, &Address::Tcp(any_address()));
    while reactor.metrics().connections_accepted < connections as u64 {
        turn(&mut reactor);
    }
    // The turn in which all say their names, where they do.
    turn(&mut reactor);
    reactor
}

/// A reactor on it with one service and a datagram socket that is never empty.
pub fn with_datagrams(service: impl Service, bytes: &[u8]) -> Reactor<Bare> {
    let input = Input { bytes: bytes.to_vec(), names: false };
    let bare = Bare { input, backlog: 0, speakers: 0, conns: Vec::new(), named: 0, source: true };
    reactor(bare, service, &Address::Udp(any_address()))
}

fn reactor(bare: Bare, service: impl Service, address: &Address) -> Reactor<Bare> {
    let mut reactor = parts::reactor(bare, Limits::default());
    let service = reactor.add_service(service, Options::new("bench").messages(false));
    reactor.listen(address, service).expect("this system refuses nothing");
    reactor
}

fn any_address() -> SocketAddr {
    ([127, 0, 0, 1], 7).into()
}

/// One turn, without waiting.
#[inline]
pub fn turn(reactor: &mut Reactor<Bare>) {
    reactor.turn(Some(Duration::ZERO)).expect("this system always tells readiness");
}

struct Unwoken;

impl Wake for Unwoken {
    fn wake(&self) {}
}

impl Wire for Bare {
    #[inline]
    fn write(&mut self, _: ConnId, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    #[inline]
    fn now(&self) -> Instant {
        Instant::default()
    }

    #[inline]
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

impl Net for Bare {
    type Events = Vec<Readiness>;
    type Readiness<'a> = Copied<slice::Iter<'a, Readiness>>;

    fn events(&self) -> Vec<Readiness> {
        Vec::new()
    }

    fn pause(&mut self, _: Duration) {}

    fn wait(&mut self, events: &mut Vec<Readiness>, _: Option<Duration>) -> io::Result<()> {
        events.clear();
        if self.source {
            events.push(Readiness { token: source_token(0), flags: Flags::READ });
            return Ok(());
        }
        let all_named = !self.input.names || self.named == self.conns.len();
        let ready = if all_named { &self.conns[..self.speakers] } else { &self.conns[..] };
        events.extend(ready.iter().map(|id| Readiness { token: id.token(), flags: Flags::READ }));
        Ok(())
    }

    fn readiness(events: &Vec<Readiness>) -> Copied<slice::Iter<'_, Readiness>> {
        events.iter().copied()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Unwoken)
    }

    fn listen(&mut self, _: u32, address: &Address, _: ListenOptions) -> io::Result<Address> {
        Ok(address.clone())
    }

    fn unlisten(&mut self, _: u32) {}

    fn accept(&mut self, _: u32, id: ConnId) -> io::Result<Peer> {
        if self.backlog == 0 {
            self.source = false;
            return Err(ErrorKind::WouldBlock.into());
        }
        self.backlog -= 1;
        self.conns.push(id);
        Ok(Peer::Inet(([127, 0, 0, 1], 40_000).into()))
    }

    fn connect(&mut self, _: &Address, _: ConnId) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn connected(&mut self, _: ConnId) -> io::Result<Option<Peer>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn rearm(&mut self, _: ConnId, _: Flags) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.names && self.named < self.conns.len() {
            self.named += 1;
            let name = format!("m{}\n", id.slot());
            buffer[..name.len()].copy_from_slice(name.as_bytes());
            return Ok(name.len());
        }
        let bytes = &self.input.bytes;
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, _: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(pieces).iter().map(|piece| piece.len()).sum())
    }

    fn set_alarm(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn delivery(&mut self, _: ConnId) -> io::Result<Delivery> {
        Ok(Delivery { waiting: 0, mark: 0 })
    }

    fn unread(&mut self, _: ConnId) -> io::Result<usize> {
        Ok(0)
    }

    fn take_error(&mut self, _: ConnId) -> Option<io::Error> {
        None
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId, _: bool) {}

    fn receive(&mut self, _: u32, batch: &mut Inbound) -> io::Result<usize> {
        let bytes = &self.input.bytes;
        let mut count = 0;
        for buffer in batch.buffers() {
            buffer[..bytes.len()].copy_from_slice(bytes);
            count += 1;
        }
        for port in 40_000..40_000 + count {
            let from = Peer::Inet(([127, 0, 0, 1], port).into());
            batch.push(Received { from, local: None, to_many: false, truncated: false, len: bytes.len() });
        }
        Ok(count.into())
    }

    fn transmit(&mut self, _: u32, batch: &Outbound, first: usize) -> io::Result<usize> {
        for index in first..batch.len() {
            black_box(batch.get(index));
        }
        Ok(batch.len() - first)
    }

    fn rearm_datagram(&mut self, _: u32, _: bool) -> io::Result<()> {
        Ok(())
    }
}
