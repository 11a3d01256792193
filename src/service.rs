//! What a protocol implements, and what it may ask for.
//!
//! A service is given bytes, the identity of a connection and the time; it says what should happen through its
//! [`Context`]. It holds no socket, no clock and no other connection, so it can be tested with byte slices,
//! replayed exactly and simulated ([`crate::sim`]).
//!
//! What a service asks for takes effect in the same turn and never calls back into a service while one is
//! running. An effect that names a connection which is gone does nothing and is counted.

use std::any::Any;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::connection::CloseReason;
use crate::datagram::Datagram;
use crate::limits::Limits;
use crate::net::{Address, Peer, Wire};
use crate::output::Shared;
use crate::slots::ConnId;
use crate::state::State;
use crate::timer::Instant;
use crate::topic::TopicId;

/// How a connection came to a service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Arrival {
    /// A peer connected to one of the service's listeners.
    Accepted(Peer),
    /// A connection that the service asked for with [`Context::connect`] is established.
    Connected(Peer),
    /// Another service handed the connection over. Input that it left is offered next.
    HandedOver,
}

/// A protocol. One value serves all connections and datagrams of the addresses it is given.
///
/// All methods have a default, so that a stream service can be `input` alone and a datagram service `datagram`
/// alone. They must not block: all connections of the reactor wait for them.
pub trait Service: Any {
    /// A connection is there. Its first input comes later.
    fn open(&mut self, conn: ConnId, arrival: Arrival, cx: &mut Context<'_>) {
        let _ = (conn, arrival, cx);
    }

    /// Bytes came from the peer. Returns how many of them, from the front, are consumed; the rest is kept and
    /// offered again, with what follows it, when more has come.
    ///
    /// Should stop when [`Context::room`] is 0: the rest is then offered again when the peer has taken enough of
    /// the output, and meanwhile no more is read from it.
    ///
    /// The default discards the input.
    ///
    /// # Panics
    /// The reactor panics if more than `bytes.len()` is returned.
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let _ = (conn, cx);
        bytes.len()
    }

    /// The peer has ended its side; `rest` is what was left unconsumed and is dropped after this call. Output can
    /// still be sent.
    ///
    /// The default closes the connection, after flushing what was sent.
    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        let _ = rest;
        cx.close(conn);
    }

    /// The deadline set with [`Context::set_deadline`] has come. It is set no longer.
    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let _ = (conn, cx);
    }

    /// The output of this connection has fallen below its low-water mark, as asked for with
    /// [`Context::notify_writable`].
    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        let _ = (conn, cx);
    }

    /// The connection is over for this service; its id will never be heard of again. Output sent before a
    /// [`Context::close`] is still on its way.
    fn closed(&mut self, conn: ConnId, reason: CloseReason, cx: &mut Context<'_>) {
        let _ = (conn, reason, cx);
    }

    /// A datagram came. It may be empty.
    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        let _ = (datagram, cx);
    }

    /// Whether this connection has asked for something that is not answered yet, with all of its input taken: the service waits for
    /// more of it, or for somebody else. While the reactor shuts down ([`Reactor::drain`](crate::Reactor::drain)) it is not closed before.
    fn owes(&self, conn: ConnId) -> bool {
        let _ = conn;
        false
    }

    /// What a connection is told that is refused because of a limit, in the service's own protocol.
    fn refusal(&self, reason: CloseReason) -> Cow<'static, [u8]> {
        match reason {
            CloseReason::RefusedPerIp => {
                Cow::Borrowed(b"too many connections from your address, try again later\n")
            }
            _ => Cow::Borrowed(b"too many connections, try again later\n"),
        }
    }
}

/// A service that other threads send messages of type `M` to, through a [`Mailbox`](crate::mailbox::Mailbox).
pub trait Receive<M: Send + 'static>: Service {
    /// A message came. A [`ConnId`] that it names may be gone by now; then effects on it do nothing.
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
    /// answers their input. In a proxy, whose output comes from another connection, the two directions would stop each
    /// other: set it to false, and suspend the connection that the output comes from ([`Context::pause`],
    /// [`Context::notify_writable`]).
    pub fn output_pauses_input(mut self, output_pauses_input: bool) -> Options {
        self.output_pauses_input = output_pauses_input;
        self
    }
}

/// Names a service of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub(crate) u16);

/// What a service may ask for while it is called.
pub struct Context<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) wire: &'a mut dyn Wire,
}

impl Context<'_> {
    /// The monotonic time of this turn.
    pub fn now(&self) -> Instant {
        self.state.time(self.wire)
    }

    /// The wall-clock time. It may step; deadlines go by [`Context::now`].
    pub fn wall(&self) -> SystemTime {
        let wall = self.state.wall.get().unwrap_or_else(|| self.wire.wall());
        self.state.wall.set(Some(wall));
        wall
    }

    /// The limits of the reactor.
    pub fn limits(&self) -> &Limits {
        &self.state.limits
    }

    /// Sends bytes to a connection, behind everything sent before.
    ///
    /// Nothing is refused here: see [`Context::room`]. A connection whose output passes its limits is closed with
    /// the limit as [`CloseReason`].
    ///
    /// # Panics
    /// With 4 GiB or more.
    #[inline(always)]
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.state.send(conn, bytes, self.wire);
    }

    /// Sends as much from the front of `bytes` as there is [`Context::room`] for, and returns how much that was.
    #[inline(always)]
    pub fn send_some(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        self.state.send_some(conn, bytes, self.wire)
    }

    /// Sends bytes that are stored once and referred to by every connection that they are sent to.
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Shared) {
        self.state.send_shared(conn, bytes);
    }

    /// How many bytes of output a connection takes until it is at its high-water mark. 0 when the connection is gone or not
    /// established yet, and, where its output pauses its input, from the high-water mark down to the low-water mark.
    #[inline]
    pub fn room(&self, conn: ConnId) -> usize {
        self.state.room(conn)
    }

    /// Counts messages that the service took in, for the metrics.
    #[inline]
    pub fn count_messages(&mut self, count: u64) {
        self.state.metrics.messages_in += count;
    }

    /// Whether the reactor shuts down ([`Reactor::drain`](crate::Reactor::drain)) and has read all that this connection sent before. It is
    /// closed once that is answered: what its service sends now may be the last.
    pub fn is_last(&self, conn: ConnId) -> bool {
        self.state.draining.as_ref().is_some_and(|draining| draining.has_read_all(conn))
    }

    /// Closes a connection once its output is flushed. Input that is still unread is discarded, so that the
    /// output is not destroyed by a reset on its way. `closed` follows in this turn with [`CloseReason::Service`],
    /// or [`CloseReason::PeerClosed`] if the peer had ended its side.
    pub fn close(&mut self, conn: ConnId) {
        self.state.close(conn);
    }

    /// Closes a connection like [`Context::close`], for another reason, which `closed` hears and under which it is
    /// counted.
    pub fn close_for(&mut self, conn: ConnId, reason: CloseReason) {
        self.state.finish(conn, reason);
    }

    /// Breaks a connection off: its output is discarded and the peer sees a reset.
    pub fn abort(&mut self, conn: ConnId) {
        self.state.kill(conn, CloseReason::Aborted);
    }

    /// Ends our side once the output is flushed; input goes on. What is sent afterwards is dropped. When the peer has ended
    /// its side too, the connection is closed by itself, for [`CloseReason::PeerClosed`].
    pub fn half_close(&mut self, conn: ConnId) {
        self.state.half_close(conn);
    }

    /// Stops reading from a connection until [`Context::resume`].
    pub fn pause(&mut self, conn: ConnId) {
        self.state.pause(conn);
    }

    /// Reads from a connection again; input left unconsumed is offered in the next turn.
    pub fn resume(&mut self, conn: ConnId) {
        self.state.resume(conn);
    }

    /// Offers the input left unconsumed again in the next turn, also when nothing has come behind it.
    pub fn offer_again(&mut self, conn: ConnId) {
        self.state.offer_again(conn);
    }

    /// Calls [`Service::deadline`] for this connection at `at`, in place of the deadline it had. It moves with the
    /// precision of the system's wait: up to a millisecond late.
    pub fn set_deadline(&mut self, conn: ConnId, at: Instant) {
        self.state.set_deadline(conn, at);
    }

    /// Takes the connection's deadline back.
    pub fn clear_deadline(&mut self, conn: ConnId) {
        self.state.set_deadline(conn, Instant::NEVER);
    }

    /// Calls [`Service::writable`] once the connection's output is below its low-water mark, in the next turn at
    /// the earliest.
    pub fn notify_writable(&mut self, conn: ConnId) {
        self.state.notify_writable(conn);
    }

    /// Connects out. `service` hears `open` when the connection is established, or `closed` with
    /// [`CloseReason::ConnectFailed`], [`CloseReason::ConnectTimeout`] or [`CloseReason::RefusedFull`]. What is sent
    /// meanwhile waits.
    ///
    /// The address is that of a TCP or unix stream socket; any other fails.
    pub fn connect(&mut self, address: Address, service: ServiceId) -> ConnId {
        self.state.connect(address, service)
    }

    /// Hands a connection over to another service of this reactor, with the input that is left unconsumed. The
    /// old service hears nothing more of it, not even `closed`; its deadline is taken back, its topics stay. Does
    /// nothing if the connection has ended in this turn already: then the old service hears `closed` as ever.
    pub fn hand_over(&mut self, conn: ConnId, service: ServiceId) {
        self.state.hand_over(conn, service);
    }

    /// Makes a topic: a list of connections that a message is sent to as one.
    pub fn create_topic(&mut self) -> TopicId {
        self.state.topics.create()
    }

    /// Removes a topic. Its subscribers stay connected.
    pub fn remove_topic(&mut self, topic: TopicId) {
        self.state.remove_topic(topic);
    }

    /// Adds a connection to a topic; does nothing if it is there already. A connection that ends leaves all its
    /// topics.
    pub fn subscribe(&mut self, topic: TopicId, conn: ConnId) {
        self.state.subscribe(topic, conn);
    }

    /// Takes a connection out of a topic.
    pub fn unsubscribe(&mut self, topic: TopicId, conn: ConnId) {
        self.state.unsubscribe(topic, conn);
    }

    /// How many connections a topic has.
    pub fn subscribers(&self, topic: TopicId) -> usize {
        self.state.topics.len(topic)
    }

    /// Sends a message to every connection of a topic, except one: usually the one it came from.
    ///
    /// It is stored once, and each connection gets all that a turn brings in one write. A connection hears the messages of a
    /// topic in their order, and before or behind what is sent to it alone as they were published before or after that; of
    /// two topics, what one of them brings in a turn may come before all that the other brings.
    ///
    /// # Panics
    /// When one turn publishes 4 GiB in a topic.
    pub fn publish(&mut self, topic: TopicId, bytes: &[u8], except: Option<ConnId>) {
        self.state.publish(topic, bytes, except);
    }

    /// Answers a datagram. The answer is dropped, and counted by its cause, where answering could be abused (see
    /// [`DropCause`](crate::metrics::DropCause)) or where it fits no datagram.
    pub fn reply(&mut self, datagram: &Datagram<'_>, bytes: &[u8]) {
        self.state.reply(datagram, bytes, self.wire);
    }
}
