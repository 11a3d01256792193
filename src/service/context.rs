//! What a service may ask for while it is called.

use std::time::SystemTime;

use super::ServiceId;
use crate::connection::CloseReason;
use crate::datagram::Datagram;
use crate::limits::Limits;
use crate::net::{Address, Wire};
use crate::shared::Shared;
use crate::slots::ConnId;
use crate::state::State;
use crate::timer::Instant;
use crate::topic::TopicId;

/// The effects that a service can request while it is called.
///
/// The reactor passes one to each method of a [`Service`](crate::Service); [`Reactor::with`](crate::Reactor::with) gives one
/// between turns, and [`UnitTest`](crate::sim::UnitTest) gives one to unit tests, as in the examples below:
///
/// ```
/// use tidewheel::sim::UnitTest;
///
/// let mut test = UnitTest::new();
/// let conn = test.connection();
/// test.call(|cx| cx.send(conn, b"hello\n"));
/// assert_eq!(test.sent(conn), b"hello\n");
/// ```
///
/// Effects are applied after the call, most in the same turn. If the connection has ended or is ending, an effect does nothing
/// and is counted in [`Metrics::stale_effects`](crate::Metrics::stale_effects).
pub struct Context<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) wire: &'a mut dyn Wire,
}

impl Context<'_> {
    /// The monotonic time of this turn.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.set_deadline(conn, cx.now() + Duration::from_secs(5)));
    /// ```
    pub fn now(&self) -> Instant {
        self.state.time(self.wire)
    }

    /// The wall-clock time of this turn. It may be set back or forward; deadlines are set by [`Context::now`].
    ///
    /// ```
    /// # use std::time::UNIX_EPOCH;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     let seconds = cx.wall().duration_since(UNIX_EPOCH).unwrap().as_secs();
    ///     cx.send(conn, format!("{seconds}\n").as_bytes());
    /// });
    /// ```
    pub fn wall(&self) -> SystemTime {
        let wall = self.state.wall.get().unwrap_or_else(|| self.wire.wall());
        self.state.wall.set(Some(wall));
        wall
    }

    /// The limits of the reactor.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// let longest = test.call(|cx| cx.limits().input_bytes_max);
    /// assert_eq!(longest, 64 << 10);
    /// ```
    pub fn limits(&self) -> &Limits {
        &self.state.limits
    }

    /// Sends bytes to a connection, after everything that was sent to it before.
    ///
    /// It never refuses: ask [`Context::room`] before. A connection whose pending output exceeds its limits is closed with
    /// that limit as [`CloseReason`].
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     cx.send(conn, b"hello, ");
    ///     cx.send(conn, b"world\n");
    /// });
    /// assert_eq!(test.sent(conn), b"hello, world\n");
    /// ```
    ///
    /// # Panics
    /// With 4 GiB or more.
    #[inline(always)]
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.state.send(conn, bytes, self.wire);
    }

    /// Sends as many bytes from the front of `bytes` as there is [`Context::room`] for, and returns how many. An echo service
    /// is this alone: what does not fit stays unconsumed and is offered again.
    ///
    /// ```
    /// # use tidewheel::{ConnId, Context, Service};
    /// struct Echo;
    ///
    /// impl Service for Echo {
    ///     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
    ///         cx.send_some(conn, bytes)
    ///     }
    /// }
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// # assert_eq!(test.call(|cx| Echo.input(conn, &[b'x'; 100], cx)), 100);
    /// ```
    #[inline(always)]
    pub fn send_some(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        self.state.send_some(conn, bytes, self.wire)
    }

    /// Sends bytes that are stored once, however many connections they are sent to.
    ///
    /// ```
    /// # use tidewheel::Shared;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conns = [test.connection(), test.connection()];
    /// let page = Shared::from(vec![b'x'; 100_000]);
    /// test.call(|cx| conns.iter().for_each(|&conn| cx.send_shared(conn, &page)));
    /// assert_eq!(test.sent(conns[1]).len(), 100_000);
    /// ```
    pub fn send_shared(&mut self, conn: ConnId, bytes: &Shared) {
        self.state.send_shared(conn, bytes);
    }

    /// How many bytes of output a connection takes until it reaches its high-water mark
    /// ([`Limits::output_high_water_bytes`]). 0 when the connection has ended or is not established yet, and, where its output
    /// suspends its input ([`Options::output_pauses_input`](crate::Options::output_pauses_input)), from the high-water mark
    /// down to the low-water mark.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     while cx.room(conn) > 0 {
    ///         cx.send(conn, b"as much as it takes\n");
    ///     }
    /// });
    /// ```
    #[inline]
    pub fn room(&self, conn: ConnId) -> usize {
        self.state.room(conn)
    }

    /// Counts messages that the service has taken in, in [`Metrics::messages_in`](crate::Metrics::messages_in).
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// test.call(|cx| cx.count_messages(3));
    /// assert_eq!(test.sim().metrics().messages_in, 3);
    /// ```
    #[inline]
    pub fn count_messages(&mut self, count: u64) {
        self.state.metrics.messages_in += count;
    }

    /// Whether the reactor is shutting down ([`Reactor::drain`](crate::Reactor::drain)) and has read all that this connection
    /// had sent before. It is closed once that is answered: what is sent to it now may be the last.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     if cx.is_last(conn) {
    ///         cx.send(conn, b"the server stops, come back later\n");
    ///     }
    /// });
    /// # assert_eq!(test.sent(conn), b"");
    /// ```
    pub fn is_last(&self, conn: ConnId) -> bool {
        self.state.draining.as_ref().is_some_and(|draining| draining.has_read_all(conn))
    }

    /// Closes a connection once its output is flushed. Input that is still unread is read and discarded, so that no reset
    /// destroys the output on its way. [`Service::closed`](crate::Service::closed) follows in this turn, with
    /// [`CloseReason::Service`], or [`CloseReason::PeerClosed`] if the peer had ended its side.
    ///
    /// ```
    /// # use tidewheel::CloseReason;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     cx.send(conn, b"goodbye\n");
    ///     cx.close(conn);
    /// });
    /// assert_eq!(test.sent(conn), b"goodbye\n");
    /// assert_eq!(test.closed(conn), Some(CloseReason::Service));
    /// ```
    pub fn close(&mut self, conn: ConnId) {
        self.state.close(conn);
    }

    /// Closes a connection like [`Context::close`], for another reason, which is passed to
    /// [`Service::closed`](crate::Service::closed) and counted.
    ///
    /// ```
    /// # use tidewheel::CloseReason;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.close_for(conn, CloseReason::BadInput));
    /// assert_eq!(test.sim().metrics().closed_for(CloseReason::BadInput), 1);
    /// ```
    pub fn close_for(&mut self, conn: ConnId, reason: CloseReason) {
        self.state.finish(conn, reason);
    }

    /// Closes a connection at once: its pending output is discarded, and the peer sees a reset.
    ///
    /// ```
    /// # use tidewheel::CloseReason;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.abort(conn));
    /// assert_eq!(test.closed(conn), Some(CloseReason::Aborted));
    /// ```
    pub fn abort(&mut self, conn: ConnId) {
        self.state.kill(conn, CloseReason::Aborted);
    }

    /// Ends our side of a connection once its output is flushed; its input goes on. What is sent afterwards is dropped. When
    /// the peer has ended its side too, the connection is closed for [`CloseReason::PeerClosed`].
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| {
    ///     cx.send(conn, b"this is all\n");
    ///     cx.half_close(conn);
    /// });
    /// assert_eq!(test.sent(conn), b"this is all\n");
    /// ```
    pub fn half_close(&mut self, conn: ConnId) {
        self.state.half_close(conn);
    }

    /// Suspends reading from a connection until [`Context::resume`].
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.pause(conn));
    /// assert!(test.is_paused(conn));
    /// ```
    pub fn pause(&mut self, conn: ConnId) {
        self.state.pause(conn);
    }

    /// Reads from a connection again after [`Context::pause`]. Input that was left unconsumed is offered in the next turn.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.pause(conn));
    /// test.call(|cx| cx.resume(conn));
    /// assert!(!test.is_paused(conn));
    /// ```
    pub fn resume(&mut self, conn: ConnId) {
        self.state.resume(conn);
    }

    /// Offers the unconsumed input of a connection again in the next turn, even if nothing more is received.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tidewheel::sim::{Faults, Sim};
    /// # use tidewheel::{ConnId, Context, Service};
    /// /// Consumes its input a second after it came.
    /// #[derive(Default)]
    /// struct Late { due: bool }
    ///
    /// impl Service for Late {
    ///     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
    ///         if self.due {
    ///             return cx.send_some(conn, bytes);
    ///         }
    ///         cx.set_deadline(conn, cx.now() + Duration::from_secs(1));
    ///         0
    ///     }
    ///
    ///     fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
    ///         self.due = true;
    ///         cx.offer_again(conn);
    ///     }
    /// }
    /// # let mut sim = Sim::new(0, Faults::none());
    /// # let late = sim.listen("127.0.0.1:7", Late::default());
    /// # let peer = sim.connect(late);
    /// # sim.send(peer, b"hello");
    /// # sim.run_for(Duration::from_secs(2));
    /// # assert_eq!(sim.received(peer), b"hello");
    /// ```
    pub fn offer_again(&mut self, conn: ConnId) {
        self.state.offer_again(conn);
    }

    /// Calls [`Service::deadline`](crate::Service::deadline) for this connection at `at`, in place of the deadline it had. The
    /// call comes up to a millisecond late: that is the precision of the system's wait.
    ///
    /// A connection that is not established yet has no deadline ([`Context::connect`]): set it in
    /// [`Service::open`](crate::Service::open).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// let at = test.call(|cx| {
    ///     let at = cx.now() + Duration::from_secs(30);
    ///     cx.set_deadline(conn, at);
    ///     at
    /// });
    /// assert_eq!(test.deadline(conn), Some(at));
    /// ```
    pub fn set_deadline(&mut self, conn: ConnId, at: Instant) {
        self.state.set_deadline(conn, at);
    }

    /// Removes the connection's deadline.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// test.call(|cx| cx.set_deadline(conn, cx.now() + Duration::from_secs(30)));
    /// test.call(|cx| cx.clear_deadline(conn));
    /// assert_eq!(test.deadline(conn), None);
    /// ```
    pub fn clear_deadline(&mut self, conn: ConnId) {
        self.state.set_deadline(conn, Instant::NEVER);
    }

    /// Calls [`Service::writable`](crate::Service::writable) once, when the connection's output is below its low-water mark
    /// ([`Limits::output_low_water_bytes`]), in the next turn at the earliest.
    ///
    /// ```
    /// # use tidewheel::sim::{Faults, Sim};
    /// # use tidewheel::{Arrival, ConnId, Context, Service};
    /// /// Sends ten million bytes, a piece whenever there is room.
    /// struct Download { left: usize }
    ///
    /// impl Service for Download {
    ///     fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
    ///         self.writable(conn, cx);
    ///     }
    ///
    ///     fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
    ///         let piece = cx.room(conn).min(self.left);
    ///         cx.send(conn, &vec![b'x'; piece]);
    ///         self.left -= piece;
    ///         match self.left {
    ///             0 => cx.close(conn),
    ///             _ => cx.notify_writable(conn),
    ///         }
    ///     }
    /// }
    /// # let mut sim = Sim::new(0, Faults::none());
    /// # let download = sim.listen("127.0.0.1:7", Download { left: 10_000_000 });
    /// # let peer = sim.connect(download);
    /// # sim.run();
    /// # assert_eq!(sim.received(peer).len(), 10_000_000);
    /// ```
    pub fn notify_writable(&mut self, conn: ConnId) {
        self.state.notify_writable(conn);
    }

    /// Connects to the address of a TCP or unix stream socket, for `service`. [`Service::open`](crate::Service::open) is called
    /// when the connection is established, or [`Service::closed`](crate::Service::closed) with
    /// [`CloseReason::ConnectFailed`], [`CloseReason::ConnectTimeout`] or [`CloseReason::RefusedFull`]. The time for it is
    /// [`Limits::connect_timeout`](crate::Limits::connect_timeout). Output that is sent meanwhile is kept, a deadline is not: set
    /// it in `open`. A datagram address fails. During a graceful shutdown, once everything is answered, the returned id
    /// names no connection.
    ///
    /// ```
    /// # use tidewheel::sim::{Faults, Reach, Sim};
    /// # use tidewheel::{ConnId, Context, Options, Service, ServiceId};
    /// /// Asks a server and collects its answer.
    /// #[derive(Default)]
    /// struct Asks { answer: Vec<u8> }
    ///
    /// impl Asks {
    ///     fn ask(&mut self, me: ServiceId, cx: &mut Context<'_>) {
    ///         let conn = cx.connect("192.0.2.1:79".parse().unwrap(), me);
    ///         cx.send(conn, b"who is there?\n");
    ///     }
    /// }
    ///
    /// impl Service for Asks {
    ///     fn input(&mut self, _: ConnId, bytes: &[u8], _: &mut Context<'_>) -> usize {
    ///         self.answer.extend(bytes);
    ///         bytes.len()
    ///     }
    /// }
    ///
    /// # let mut sim = Sim::new(0, Faults::none());
    /// # sim.remote("192.0.2.1:79", Reach::Answers);
    /// # let reactor = sim.reactor();
    /// let asks = reactor.add_service(Asks::default(), Options::new("asks"));
    /// reactor.with(asks, |service: &mut Asks, cx| service.ask(asks, cx));
    /// # sim.settle();
    /// # let server = sim.callers("192.0.2.1:79")[0];
    /// # assert_eq!(sim.received(server), b"who is there?\n");
    /// ```
    pub fn connect(&mut self, address: Address, service: ServiceId) -> ConnId {
        self.state.connect(address, service)
    }

    /// Hands a connection over to another service of this reactor, with its unconsumed input. The old service is not called
    /// for it any more, not even [`Service::closed`](crate::Service::closed); its deadline is removed, its topics stay. Does
    /// nothing if the connection has ended in this turn already: then the old service gets `closed` as usual.
    ///
    /// ```
    /// # use tidewheel::sim::{Faults, Sim};
    /// # use tidewheel::{ConnId, Context, Options, Service, ServiceId};
    /// /// Hands a connection over to `inside` once it has sent the password.
    /// struct Gate { inside: ServiceId }
    ///
    /// impl Service for Gate {
    ///     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
    ///         if bytes.starts_with(b"sesame\n") {
    ///             cx.hand_over(conn, self.inside);
    ///             return b"sesame\n".len();
    ///         }
    ///         0
    ///     }
    /// }
    /// # let mut sim = Sim::new(0, Faults::none());
    /// # struct Echo;
    /// # impl Service for Echo {
    /// #     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
    /// #         cx.send_some(conn, bytes)
    /// #     }
    /// # }
    /// # let inside = sim.reactor().add_service(Echo, Options::new("echo"));
    /// # let gate = sim.listen("127.0.0.1:7", Gate { inside });
    /// # let peer = sim.connect(gate);
    /// # sim.send(peer, b"sesame\nhello");
    /// # sim.settle();
    /// # assert_eq!(sim.received(peer), b"hello");
    /// ```
    pub fn hand_over(&mut self, conn: ConnId, service: ServiceId) {
        self.state.hand_over(conn, service);
    }

    /// Creates a topic: a list of connections that receive the same messages.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let [ann, bob] = [test.connection(), test.connection()];
    /// test.call(|cx| {
    ///     let news = cx.create_topic();
    ///     cx.subscribe(news, ann);
    ///     cx.subscribe(news, bob);
    ///     cx.publish(news, b"it rains\n", None);
    /// });
    /// assert_eq!((test.sent(ann), test.sent(bob)), (&b"it rains\n"[..], &b"it rains\n"[..]));
    /// ```
    pub fn create_topic(&mut self) -> TopicId {
        self.state.topics.create()
    }

    /// Removes a topic. Its subscribers stay connected.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// # let topic = test.call(|cx| cx.create_topic());
    /// # test.call(|cx| cx.subscribe(topic, conn));
    /// test.call(|cx| cx.remove_topic(topic));
    /// assert_eq!(test.call(|cx| cx.subscribers(topic)), 0);
    /// ```
    pub fn remove_topic(&mut self, topic: TopicId) {
        self.state.remove_topic(topic);
    }

    /// Adds a connection to a topic; does nothing if it is in it already. A connection that ends leaves all its topics.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// # let topic = test.call(|cx| cx.create_topic());
    /// test.call(|cx| cx.subscribe(topic, conn));
    /// assert_eq!(test.call(|cx| cx.subscribers(topic)), 1);
    /// ```
    pub fn subscribe(&mut self, topic: TopicId, conn: ConnId) {
        self.state.subscribe(topic, conn);
    }

    /// Removes a connection from a topic.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let conn = test.connection();
    /// # let topic = test.call(|cx| cx.create_topic());
    /// # test.call(|cx| cx.subscribe(topic, conn));
    /// test.call(|cx| cx.unsubscribe(topic, conn));
    /// assert_eq!(test.call(|cx| cx.subscribers(topic)), 0);
    /// ```
    pub fn unsubscribe(&mut self, topic: TopicId, conn: ConnId) {
        self.state.unsubscribe(topic, conn);
    }

    /// The number of connections in a topic.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let topic = test.call(|cx| cx.create_topic());
    /// test.call(|cx| {
    ///     if cx.subscribers(topic) == 0 {
    ///         cx.remove_topic(topic);
    ///     }
    /// });
    /// ```
    pub fn subscribers(&self, topic: TopicId) -> usize {
        self.state.topics.len(topic)
    }

    /// Sends a message to every connection of a topic except one, usually the one that it came from.
    ///
    /// The message is stored once, and each connection gets everything that is published in a turn with one write. A connection
    /// receives the messages of a topic in their order, and before or after what is sent to it alone as they were published
    /// before or after that. Between two topics there is no order within a turn.
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// # let [ann, bob] = [test.connection(), test.connection()];
    /// # let room = test.call(|cx| cx.create_topic());
    /// # test.call(|cx| [ann, bob].map(|conn| cx.subscribe(room, conn)));
    /// test.call(|cx| cx.publish(room, b"ann: hello\n", Some(ann)));
    /// assert_eq!((test.sent(ann), test.sent(bob)), (&b""[..], &b"ann: hello\n"[..]));
    /// ```
    ///
    /// # Panics
    /// When 4 GiB are published in a topic in one turn.
    pub fn publish(&mut self, topic: TopicId, bytes: &[u8], except: Option<ConnId>) {
        self.state.publish(topic, bytes, except);
    }

    /// Answers a datagram. The answer is dropped, and counted by its [`DropCause`](crate::DropCause), if it could be abused or is
    /// longer than [`DATAGRAM_BYTES_MAX`](crate::DATAGRAM_BYTES_MAX).
    ///
    /// ```
    /// # let mut test = tidewheel::sim::UnitTest::new();
    /// test.datagram(b"ping", |datagram, cx| {
    ///     cx.reply(datagram, &datagram.bytes.to_ascii_uppercase());
    /// });
    /// assert_eq!(test.replies(), [b"PING"]);
    /// ```
    pub fn reply(&mut self, datagram: &Datagram<'_>, bytes: &[u8]) {
        self.state.reply(datagram, bytes, self.wire);
    }
}
