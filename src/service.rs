//! What a protocol implements, and what it may ask for.
//!
//! A service is given bytes, the identity of a connection and the time; it says what should happen through its
//! [`Context`]. It holds no socket, no clock and no other connection, so it can be tested with byte slices
//! ([`crate::sim::UnitTest`]), replayed exactly and simulated ([`crate::sim`]).
//!
//! What a service asks for takes effect in the same turn and never calls back into a service while one is
//! running. An effect that names a connection which is gone does nothing and is counted.

use std::any::Any;
use std::borrow::Cow;
use std::time::Duration;

pub use self::context::Context;

use crate::connection::CloseReason;
use crate::datagram::Datagram;
use crate::net::Peer;
use crate::slots::ConnId;

mod context;

/// How a connection came to a service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Arrival {
    /// A peer connected to one of the service's listeners.
    Accepted(Peer),
    /// A connection that the service asked for with [`Context::connect`] is established.
    Connected(Peer),
    /// Another service handed the connection over with [`Context::hand_over`]. Input that it left is offered next.
    HandedOver,
}

/// A protocol. One value serves all connections and datagrams of its addresses.
///
/// The reactor calls a method for each event, and the method requests effects through its [`Context`]. All
/// methods have a default, so a stream service can be `input` alone and a datagram service `datagram` alone. They must not
/// block: all connections of the reactor wait for them.
///
/// This one answers each line with its length:
///
/// ```
/// use tidewheel::sim::UnitTest;
/// use tidewheel::{ConnId, Context, Service};
///
/// struct Lengths;
///
/// impl Service for Lengths {
///     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
///         let mut consumed = 0;
///         for line in bytes.split_inclusive(|&byte| byte == b'\n') {
///             // An incomplete line is kept; and where the output has no room, the peer must read first.
///             if !line.ends_with(b"\n") || cx.room(conn) == 0 {
///                 break;
///             }
///             cx.send(conn, format!("{}\n", line.len() - 1).as_bytes());
///             consumed += line.len();
///         }
///         consumed
///     }
/// }
///
/// let mut test = UnitTest::new();
/// let conn = test.connection();
/// let consumed = test.call(|cx| Lengths.input(conn, b"one\n\nthr", cx));
/// assert_eq!(consumed, 5);
/// assert_eq!(test.sent(conn), b"3\n0\n");
/// ```
///
/// [`Framed`](crate::framing::Framed) turns a type that answers messages into a service.
pub trait Service: Any {
    /// A connection is open. Its first input comes in a later call.
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        let _ = (conn, arrival, cx);
    }

    /// Bytes were received from the peer. Returns how many of them, from the front, are consumed. The rest is kept and
    /// offered again, followed by what is received next.
    ///
    /// A service should stop when [`Context::room`] is 0: reading from the connection is then suspended, and the rest is
    /// offered again when the peer has read enough of the output. Input that is kept is limited by
    /// [`Limits::input_bytes_max`](crate::Limits::input_bytes_max), and, if it is an incomplete message
    /// ([`Options::messages`]), by [`Limits::read_deadline`](crate::Limits::read_deadline).
    ///
    /// The default discards the input.
    ///
    /// # Panics
    /// The reactor panics if more than `bytes.len()` is returned; see
    /// [`Config::catch_panics`](crate::Config::catch_panics).
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let _ = (conn, cx);
        bytes.len()
    }

    /// The peer has shut down writing. Called once all input was offered: while it is suspended because of pending
    /// output ([`Context::room`] is 0), after that. `rest` is what was left unconsumed; it is dropped after this call. Output
    /// can still be sent.
    ///
    /// The default closes the connection once its output is flushed.
    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        let _ = rest;
        cx.close(conn);
    }

    /// The deadline that was set with [`Context::set_deadline`] has passed. The connection has none until it is set again.
    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let _ = (conn, cx);
    }

    /// The output of this connection has fallen below its low-water mark, as asked for with
    /// [`Context::notify_writable`].
    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let _ = (conn, cx);
    }

    /// The connection has ended for this service, and `conn` will not be passed to it again. Output that was sent before a
    /// [`Context::close`] is still being flushed; what is sent to `conn` here is dropped.
    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        let _ = (conn, reason, cx);
    }

    /// A datagram was received. It may be empty.
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        let _ = (datagram, cx);
    }

    /// Whether the service still owes this connection an answer although it has consumed all of its input: because it waits
    /// for a message, a deadline or another connection. During a graceful shutdown
    /// ([`Reactor::drain`](crate::Reactor::drain)) such a connection stays open until this is false or the deadline passes.
    fn owes(&self, conn: ConnId) -> bool {
        let _ = conn;
        false
    }

    /// The message to a connection that is refused because of a limit, in the service's own protocol.
    fn refusal(&self, reason: CloseReason) -> Cow<'static, [u8]> {
        match reason {
            CloseReason::RefusedPerIp => {
                Cow::Borrowed(b"too many connections from your address, try again later\n")
            }
            _ => Cow::Borrowed(b"too many connections, try again later\n"),
        }
    }
}

/// A service that receives messages of type `M` from other threads, through a [`Mailbox`](crate::Mailbox).
pub trait Receive<M: Send + 'static>: Service {
    /// A message was received. A connection that it names may have ended meanwhile; effects on it then do nothing.
    fn message(&mut self, message: M, cx: &mut Context<'_>);
}

/// How the reactor treats the connections of a service.
///
/// ```
/// use std::time::Duration;
/// use tidewheel::Options;
///
/// let options = Options::new("proxy").messages(false).idle_timeout(Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) name: String,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) messages: bool,
    pub(crate) output_pauses_input: bool,
}

impl Options {
    /// The options of a service that reads messages. The name is for reports.
    pub fn new(name: impl Into<String>) -> Options {
        Options { name: name.into(), idle_timeout: None, messages: true, output_pauses_input: true }
    }

    /// Sets the idle timeout of this service's connections; `None` stands for
    /// [`Limits::idle_timeout`](crate::Limits::idle_timeout), which is the default.
    pub fn idle_timeout(mut self, idle_timeout: impl Into<Option<Duration>>) -> Options {
        self.idle_timeout = idle_timeout.into();
        self
    }

    /// Sets whether input that is left unconsumed is an incomplete message, to which
    /// [`Limits::read_deadline`](crate::Limits::read_deadline) applies. Default: true.
    pub fn messages(mut self, messages: bool) -> Options {
        self.messages = messages;
        self
    }

    /// Sets whether reading from a connection is suspended from the moment its pending output reaches
    /// [`Limits::output_high_water_bytes`](crate::Limits::output_high_water_bytes) until it is below
    /// [`Limits::output_low_water_bytes`](crate::Limits::output_low_water_bytes). Default: true, for services whose output
    /// answers their input. In a proxy, whose output comes from another connection, the two directions would block each
    /// other: set it to false, and suspend the connection that the output comes from ([`Context::pause`],
    /// [`Context::notify_writable`]).
    pub fn output_pauses_input(mut self, output_pauses_input: bool) -> Options {
        self.output_pauses_input = output_pauses_input;
        self
    }
}

/// Identifies a service of a reactor: [`Reactor::add_service`](crate::Reactor::add_service).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub(crate) u16);
