//! A context for unit tests: the methods of a service are called with bytes, and what it asked for is inspected.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::{Faults, Listener, PeerId, Sim};
use crate::connection::{CloseReason, Marks};
use crate::datagram::Datagram;
use crate::net::Peer;
use crate::service::{Arrival, Context, Service};
use crate::slots::ConnId;
use crate::timer::Instant;

/// Who sends the datagrams of a unit test.
const SENDER: &str = "10.0.0.1:5000";

/// Open connections and a [`Context`] for unit tests: call the methods of a service with bytes, and look at what it asked for.
///
/// The service is a plain value of the test. Nothing is cut, delayed or lost, and no deadline comes; to run a whole service
/// against a hostile network, use a [`Sim`].
///
/// ```
/// use tidewheel::sim::UnitTest;
/// use tidewheel::{CloseReason, ConnId, Context, Service};
///
/// struct Lines;
///
/// impl Service for Lines {
///     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
///         let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return 0 };
///         match &bytes[..end] {
///             b"quit" => cx.close(conn),
///             line => cx.send(conn, line),
///         }
///         end + 1
///     }
/// }
///
/// let mut test = UnitTest::new();
/// let conn = test.connection();
/// assert_eq!(test.call(|cx| Lines.input(conn, b"hel", cx)), 0);
/// assert_eq!(test.call(|cx| Lines.input(conn, b"hello\nqu", cx)), 6);
/// assert_eq!(test.sent(conn), b"hello");
/// assert_eq!(test.call(|cx| Lines.input(conn, b"quit\n", cx)), 5);
/// assert_eq!(test.closed(conn), Some(CloseReason::Service));
/// ```
pub struct UnitTest {
    sim: Sim,
    streams: Listener,
    datagrams: Listener,
    peers: HashMap<ConnId, PeerId>,
    seen: Rc<RefCell<Seen>>,
}

/// What the service that owns the connections has been told.
#[derive(Default)]
struct Seen {
    opened: Option<ConnId>,
    closed: HashMap<ConnId, CloseReason>,
}

/// Owns the connections, in place of the service that is tested.
struct Owner(Rc<RefCell<Seen>>);

impl Service for Owner {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        self.0.borrow_mut().opened = Some(conn);
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, _: &mut Context<'_>) {
        self.0.borrow_mut().closed.insert(conn, reason);
    }
}

impl Default for UnitTest {
    fn default() -> UnitTest {
        UnitTest::new()
    }
}

impl UnitTest {
    /// Without any connection, with the default [`Limits`](crate::Limits).
    pub fn new() -> UnitTest {
        let mut sim = Sim::new(0, Faults::none());
        let seen = Rc::<RefCell<Seen>>::default();
        let streams = sim.listen("tcp://127.0.0.1:7", Owner(seen.clone()));
        let datagrams = sim.listen_for("udp://127.0.0.1:7", streams.service);
        UnitTest { sim, streams, datagrams, peers: HashMap::new(), seen }
    }

    /// Another open connection. Its peer reads everything and sends nothing.
    pub fn connection(&mut self) -> ConnId {
        let peer = self.sim.connect(self.streams);
        self.sim.settle();
        let conn = self.seen.borrow_mut().opened.take();
        let conn = conn.expect("this network refuses nobody");
        self.peers.insert(conn, peer);
        conn
    }

    /// Gives a context to `call`, and lets what is asked for in it take effect.
    pub fn call<R>(&mut self, call: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let result = self.sim.reactor().with(self.streams.service, |_: &mut Owner, cx| call(cx));
        self.sim.settle();
        result
    }

    /// Like [`UnitTest::call`], with a datagram that has these bytes.
    pub fn datagram<R>(
        &mut self,
        bytes: &[u8],
        call: impl FnOnce(&Datagram<'_>, &mut Context<'_>) -> R,
    ) -> R {
        let from = Peer::Inet(SENDER.parse().expect("it is an address"));
        let socket = self.datagrams.source;
        let datagram = Datagram { from: &from, bytes, unanswerable: None, socket, local: None };
        self.call(|cx| call(&datagram, cx))
    }

    /// Everything that was sent to a connection, by itself or through a topic.
    ///
    /// # Panics
    /// If the connection is not one of [`UnitTest::connection`].
    pub fn sent(&self, conn: ConnId) -> &[u8] {
        self.sim.received(self.peers[&conn])
    }

    /// Why a connection was closed; `None` while it is open. Your service's `closed` is not called: call it yourself.
    pub fn closed(&self, conn: ConnId) -> Option<CloseReason> {
        self.seen.borrow().closed.get(&conn).copied()
    }

    /// When the deadline of a connection comes, if it has one.
    pub fn deadline(&self, conn: ConnId) -> Option<Instant> {
        let conn = self.sim.reactor.state().conns.get(conn)?;
        (conn.deadline != Instant::NEVER).then_some(conn.deadline)
    }

    /// Whether reading from a connection is suspended with [`Context::pause`].
    pub fn is_paused(&self, conn: ConnId) -> bool {
        self.sim.reactor.state().conns.get(conn).is_some_and(|conn| conn.marks.any(Marks::PAUSED))
    }

    /// The answers to all datagrams, in order.
    pub fn replies(&self) -> &[Vec<u8>] {
        self.sim.replies(SENDER)
    }

    /// The simulation underneath, for all else: its counters, its time, the reactor.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }
}
