//! What services act upon: the connections, their output, topics, deadlines and counters.
//!
//! Every effect that a service asks for is one method here. An effect changes state and notes who must be looked
//! at (to flush, to tell `closed`, to free); the reactor does the looking, in its order, so that no effect ever
//! calls into a service.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::time::SystemTime;

use crate::connection::{CloseReason, Connection, Marks, Phase, Timeouts};
use crate::datagram::{DATAGRAM_BYTES_MAX, Datagram, Outbound, ReplyPolicy};
use crate::drain::Draining;
use crate::limits::Limits;
use crate::memory::{Memory, RELEASE_BYTES};
use crate::metrics::{DropCause, Metrics};
use crate::net::{Address, Flags, Peer, Wire, uninterrupted};
use crate::output::{Outbox, Shared};
use crate::prefix::Prefix;
use crate::progress::Progress;
use crate::service::ServiceId;
use crate::slots::{ConnId, ConnMap, Slots};
use crate::timer::{Instant, Timers};
use crate::topic::{TopicId, Topics};

/// Bytes that one read asks for.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// From this size on, in bytes, a send is tried at once instead of waiting for the flush phase, for which it would have to be copied.
/// A part of the turn's input, which need not be copied, is tried at once where it is as much as one read brings: up to there the writes
/// of a turn cost less together (60 KiB: 3 %, 16 KiB: 6 % of all CPU time).
const DIRECT_BYTES_MIN: usize = 4 << 10;

/// An event, for logs and for showing traffic: [`Reactor::observe`](crate::Reactor::observe). Bytes are as they
/// were received: escape them before printing.
///
/// ```
/// use tidewheel::{Limits, Reactor, Report};
///
/// let mut reactor = Reactor::new(Limits::default())?;
/// reactor.observe_events(Box::new(|report| {
///     if let Report::Closed { conn, reason, .. } = report {
///         eprintln!("{conn} closed: {}", reason.name());
///     }
/// }));
/// # Ok::<(), tidewheel::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// A connection was accepted, or an outgoing one is established.
    #[non_exhaustive]
    Opened {
        /// The connection.
        conn: ConnId,
        /// The name of its service.
        service: &'a str,
        /// The peer.
        peer: &'a Peer,
    },
    /// A connection was refused because of a limit.
    #[non_exhaustive]
    Refused {
        /// The name of its service.
        service: &'a str,
        /// The peer.
        peer: &'a Peer,
        /// The limit.
        reason: CloseReason,
    },
    /// Bytes were received.
    #[non_exhaustive]
    Input {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A service sent bytes.
    #[non_exhaustive]
    Output {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A connection ended.
    #[non_exhaustive]
    Closed {
        /// The connection.
        conn: ConnId,
        /// The reason.
        reason: CloseReason,
    },
    /// A datagram was received.
    #[non_exhaustive]
    DatagramIn {
        /// The name of its service.
        service: &'a str,
        /// The sender.
        from: &'a Peer,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A service answered a datagram.
    #[non_exhaustive]
    DatagramOut {
        /// The receiver.
        to: &'a Peer,
        /// The bytes of the answer.
        bytes: &'a [u8],
    },
    /// A listener or datagram socket is paused and retried every [`Limits::failure_pause`], because the system has no free
    /// descriptor or memory, or because accepting or receiving has failed [`Limits::failures_max`] consecutive times. This is
    /// reported once, however many retries fail.
    #[non_exhaustive]
    ListenerPaused {
        /// Its address.
        address: &'a Address,
        /// The error of the system.
        error: &'a std::io::Error,
    },
    /// A listener or datagram socket is resumed.
    #[non_exhaustive]
    ListenerResumed {
        /// Its address.
        address: &'a Address,
    },
    /// A listener or datagram socket has failed for [`Limits::failure_timeout`] and is closed.
    #[non_exhaustive]
    ListenerClosed {
        /// Its address.
        address: &'a Address,
        /// The error of the system.
        error: &'a std::io::Error,
    },
    /// Waiting for readiness has failed [`Limits::failures_max`] consecutive times and is retried every [`Limits::failure_pause`].
    /// This is reported once.
    #[non_exhaustive]
    WaitPaused {
        /// The error of the system.
        error: &'a std::io::Error,
    },
    /// Waiting for readiness succeeds again.
    WaitResumed,
    /// A call of a service panicked. If it was for a connection, that connection is closed; other connections are not affected. See
    /// [`Config::catch_panics`](crate::Config::catch_panics).
    #[non_exhaustive]
    Panicked {
        /// The name of the service.
        service: &'a str,
        /// The connection that it was called for; `None` for a datagram or a message.
        conn: Option<ConnId>,
        /// The message of the panic.
        message: &'a str,
    },
}

/// Gets the reports: [`Reactor::observe`](crate::Reactor::observe).
pub type Observer = Box<dyn FnMut(&Report<'_>)>;

/// A datagram socket's share of the state.
pub(crate) struct Departures {
    pub out: Outbound,
    /// The memory that it takes while datagrams wait in it, as last counted, in bytes.
    pub counted: u32,
    /// On the list of sockets to flush.
    pub dirty: bool,
}

pub(crate) struct State {
    pub limits: Limits,
    /// By service.
    pub timeouts: Vec<Timeouts>,
    /// By service: see [`Options::output_pauses_input`](crate::Options::output_pauses_input).
    pub output_pauses_input: Vec<bool>,
    /// The monotonic time of this turn, if `time_known`; else of an earlier one.
    pub now: Cell<Instant>,
    pub time_known: Cell<bool>,
    /// The wall clock of this turn, once somebody has asked for it.
    pub wall: Cell<Option<SystemTime>>,
    pub conns: Slots<Connection>,
    pub outbox: Outbox,
    pub timers: Timers,
    pub topics: Topics,
    pub metrics: Metrics,
    pub observer: Option<Observer>,
    /// Whether the observer wants to hear of bytes, which are many more than everything else.
    pub observes_bytes: bool,
    /// Connections whose input is to be read or offered in the next pass.
    pub ready: VecDeque<ConnId>,
    /// Connections to settle in the flush phase.
    pub touched: Vec<ConnId>,
    /// One of the lists above or below may have an entry: the turn must go through them.
    pub attention: bool,
    /// A connection was touched, ended or handed over: whoever is in the middle of reading one must look again.
    pub look_again: bool,
    /// The service that is being called, and for which connection. Not noted where input is offered on the fast path: there it is
    /// the connection of the event that was taken last.
    pub calling: Option<(u16, Option<ConnId>)>,
    /// The time is read in each turn, because some service's connections have an idle timeout.
    pub keeps_time: bool,
    /// Connections whose service has yet to hear `closed`.
    pub ended: VecDeque<ConnId>,
    /// Connections to be freed at the end of the turn.
    pub freed: VecDeque<ConnId>,
    /// Outgoing connections to begin.
    pub connects: VecDeque<(ConnId, Address)>,
    /// Connections whose new service has yet to hear `open`.
    pub handed: VecDeque<ConnId>,
    /// By source index; empty for listeners.
    pub departures: Vec<Departures>,
    pub reply_policy: ReplyPolicy,
    pub progress: Progress,
    /// While it shuts down.
    pub draining: Option<Box<Draining>>,
    pub dirty_sockets: Vec<u32>,
    /// How many connections each address has, where that is limited; all of an IPv6 network count as one.
    pub per_ip: HashMap<Prefix, usize>,
    pub ips: ConnMap<Prefix>,
    /// Connections that count for `connections_max`.
    pub admitted: usize,
    /// Connections that are no clients.
    pub watched: usize,
    /// Refused connections that are still being told so.
    pub refusals: usize,
    /// The descriptors' share of `connections_max`.
    pub connections_max: usize,
    /// The memory that peers make us hold.
    pub memory: Memory,
    /// What takes the fast path is smaller: it fits one read, and does not reach the high-water mark.
    fast_path_bytes: usize,
}

impl State {
    pub fn new(limits: Limits, connections_max: usize) -> State {
        let reply_policy = ReplyPolicy::new(&limits);
        let progress = Progress::new(limits.progress_timeout);
        let memory = Memory::new(&limits);
        let fast_path_bytes = READ_BYTES.min(limits.output_high_water_bytes);
        State {
            limits,
            timeouts: Vec::new(),
            output_pauses_input: Vec::new(),
            now: Cell::default(),
            time_known: Cell::new(false),
            wall: Cell::new(None),
            conns: Slots::new(),
            outbox: Outbox::new(),
            timers: Timers::default(),
            topics: Topics::default(),
            metrics: Metrics::new(),
            observer: None,
            observes_bytes: false,
            ready: VecDeque::new(),
            touched: Vec::new(),
            attention: false,
            look_again: false,
            calling: None,
            keeps_time: false,
            ended: VecDeque::new(),
            freed: VecDeque::new(),
            connects: VecDeque::new(),
            handed: VecDeque::new(),
            departures: Vec::new(),
            reply_policy,
            progress,
            draining: None,
            dirty_sockets: Vec::new(),
            per_ip: HashMap::new(),
            ips: ConnMap::new(),
            admitted: 0,
            watched: 0,
            refusals: 0,
            connections_max,
            memory,
            fast_path_bytes,
        }
    }

    #[inline]
    pub fn report(&mut self, report: &Report<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(report);
        }
    }

    /// Reports bytes that came or went.
    #[inline]
    pub fn report_bytes(&mut self, report: &Report<'_>) {
        if self.observes_bytes {
            self.report(report);
        }
    }

    /// The fast path: a part of the turn's input, sent to an open connection that has nothing waiting.
    #[inline(always)]
    pub fn send(&mut self, id: ConnId, bytes: &[u8], wire: &mut dyn Wire) {
        if !self.send_input(id, bytes) {
            self.send_with_care(id, bytes, wire);
        }
    }

    #[inline(always)]
    fn send_input(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.marks.only(Marks::OF_INPUT)
            && !conn.output.is_queued(&self.outbox)
            && !bytes.is_empty()
            && bytes.len() < self.fast_path_bytes
            && self.outbox.logs.is_empty()
            && self.outbox.begin_with_input(id, &mut conn.output, bytes)
        {
            conn.active_at = self.now.get();
            self.metrics.messages_out += 1;
            return true;
        }
        false
    }

    /// Any other send.
    #[inline(never)]
    fn send_with_care(&mut self, id: ConnId, bytes: &[u8], wire: &mut dyn Wire) {
        self.catch_up(id);
        let Some(conn) = self.conns.get_mut(id) else {
            self.metrics.stale_effects += 1;
            return;
        };
        if bytes.is_empty() {
            return;
        }
        if conn.marks.any(Marks::HALF_CLOSE) {
            self.metrics.stale_effects += 1;
            return;
        }
        match conn.phase() {
            Phase::Open if bytes.len() >= DIRECT_BYTES_MIN && conn.output.is_empty(&self.outbox) => {
                let count = match uninterrupted(|| wire.write(id, bytes)) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(error) => return self.kill(id, reason_of(&error)),
                };
                self.metrics.bytes_out += count as u64;
                self.attention |= self.progress.has_output();
                if count < bytes.len() {
                    conn.output.push_unsent(&bytes[count..]);
                    conn.marks.set(Marks::WRITE_BLOCKED);
                }
            }
            Phase::Open => self.outbox.push(id, &mut conn.output, bytes),
            Phase::Connecting => conn.output.push_unsent(bytes),
            Phase::Closing | Phase::Lingering | Phase::Dead => {
                self.metrics.stale_effects += 1;
                return;
            }
        }
        conn.active_at = self.now.get();
        self.metrics.messages_out += 1;
        self.after_send(id);
        self.report_bytes(&Report::Output { conn: id, bytes });
    }

    /// Pauses the input of a connection whose output has become too much, and sees to what a tail entails.
    #[inline]
    pub fn after_send(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.output.pending(&self.outbox) >= self.limits.output_high_water_bytes {
            conn.marks.put(Marks::BLOCKED, self.output_pauses_input[conn.service as usize]);
            self.touch(id);
        } else if conn.output.tail_bytes() > 0 {
            self.touch(id);
        }
    }

    #[inline(always)]
    pub fn send_some(&mut self, id: ConnId, bytes: &[u8], wire: &mut dyn Wire) -> usize {
        if self.send_input(id, bytes) {
            return bytes.len();
        }
        let count = bytes.len().min(self.room(id));
        self.send_with_care(id, &bytes[..count], wire);
        count
    }

    pub fn send_shared(&mut self, id: ConnId, bytes: &Shared) {
        self.catch_up(id);
        let Some(conn) = self.conns.get_mut(id) else {
            self.metrics.stale_effects += 1;
            return;
        };
        if conn.phase() == Phase::Open && !conn.marks.any(Marks::HALF_CLOSE) {
            self.outbox.push_shared(id, &mut conn.output, bytes);
            conn.active_at = self.now.get();
            self.metrics.messages_out += 1;
            self.after_send(id);
            self.report_bytes(&Report::Output { conn: id, bytes });
        } else if !bytes.is_empty() {
            self.metrics.stale_effects += 1;
        }
    }

    pub fn room(&self, id: ConnId) -> usize {
        match self.conns.get(id) {
            Some(conn) if !conn.marks.any(Marks::NOT_OPEN | Marks::BLOCKED) => {
                self.limits.output_high_water_bytes.saturating_sub(conn.output.pending(&self.outbox))
            }
            _ => 0,
        }
    }

    /// Sets whether the observer wants to hear of bytes.
    pub fn observe_bytes(&mut self, observes: bool) {
        self.observes_bytes = observes;
        for (_, conn) in self.conns.iter_mut() {
            conn.marks.put(Marks::OBSERVED, observes);
        }
    }

    /// Takes a connection in.
    pub fn insert(&mut self, mut conn: Connection) -> ConnId {
        conn.marks.put(Marks::OBSERVED, self.observes_bytes);
        self.metrics.connections_open += 1;
        self.conns.insert(conn)
    }

    /// The monotonic time of this turn, read when it is first wanted: most turns do without.
    pub fn time(&self, wire: &(impl Wire + ?Sized)) -> Instant {
        if !self.time_known.replace(true) {
            self.now.set(wire.now());
        }
        self.now.get()
    }

    /// Notes that there is more to do in this turn than to read and to write.
    #[inline]
    fn attend(&mut self) {
        self.attention = true;
        self.look_again = true;
    }

    /// Notes that a connection is to be settled in the flush phase: its phase, its input or its limits have
    /// changed.
    pub fn touch(&mut self, id: ConnId) {
        self.attend();
        if let Some(conn) = self.conns.get_mut(id) {
            if !conn.marks.any(Marks::TOUCHED) {
                self.touched.push(id);
            }
            conn.marks.set(Marks::TOUCHED | Marks::UNSETTLED);
        }
    }

    /// Notes that a connection's input is to be read or offered in the next pass.
    pub fn queue(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.marks.any(Marks::QUEUED)
        {
            conn.marks.set(Marks::QUEUED);
            self.attention = true;
            self.ready.push_back(id);
        }
    }

    /// Makes sure that the connection is looked at when `at` has come.
    pub fn arm(&mut self, id: ConnId, at: Instant) {
        if at < self.timers.at(id) {
            self.timers.set(id, at);
        }
    }

    /// Sets the timer to the earliest deadline that the connection has.
    pub fn arm_next(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            let (at, _) = conn.next_deadline(&self.timeouts[conn.service as usize]);
            self.arm(id, at);
        }
    }

    /// Ends a connection after its output is flushed. The service hears `closed` in this turn.
    pub fn finish(&mut self, id: ConnId, reason: CloseReason) {
        self.catch_up(id);
        let Some(conn) = self.conns.get_mut(id) else {
            self.metrics.stale_effects += 1;
            return;
        };
        match conn.phase() {
            Phase::Open => {
                conn.set_phase(Phase::Closing);
                conn.reason = reason;
                // It is settled when `closed` is reported, so that many that end at once are spread over several turns.
                conn.marks.set(Marks::UNREPORTED);
                self.ended.push_back(id);
                self.attend();
            }
            Phase::Connecting => self.kill(id, reason),
            Phase::Closing | Phase::Lingering | Phase::Dead => {}
        }
    }

    /// Ends a connection at once, whatever it was doing. The service hears `closed` in this turn if it has not yet.
    pub fn kill(&mut self, id: ConnId, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(id) else {
            self.metrics.stale_effects += 1;
            return;
        };
        // What is unsent is gone here and now: whoever is closed for holding too much must not go on holding it.
        self.attention = true;
        self.look_again = true;
        if conn.marks.take(Marks::ASIDE)
            && let Some(follower) = conn.output.follower()
        {
            self.topics.attend(id, follower.alarm, follower.rank);
        }
        let unsent = self.outbox.discard(&mut conn.output);
        self.metrics.bytes_unsent += unsent as u64;
        conn.kept = None;
        self.memory.recount(&mut conn.counted, 0);
        self.memory.holders.set(id.slot(), id, 0);
        conn.marks.put(Marks::RESET, unsent > 0 || reason == CloseReason::Aborted);
        match conn.set_phase(Phase::Dead) {
            Phase::Open | Phase::Connecting => {
                conn.reason = reason;
                conn.marks.set(Marks::UNREPORTED);
                self.ended.push_back(id);
                return;
            }
            Phase::Closing => conn.reason = reason,
            // Everything was sent: whatever ends the lingering, the reason stays.
            Phase::Lingering => {}
            Phase::Dead => return,
        }
        if !conn.marks.any(Marks::UNREPORTED) {
            self.freed.push_back(id);
        }
    }

    pub fn close(&mut self, id: ConnId) {
        let peer_closed = self.conns.get(id).is_some_and(|conn| conn.marks.any(Marks::ENDED));
        self.finish(id, if peer_closed { CloseReason::PeerClosed } else { CloseReason::Service });
    }

    /// The connection that a service asks something of. If it has ended, or its end was asked for, that is counted: it does
    /// nothing.
    fn target(&mut self, id: ConnId) -> Option<&mut Connection> {
        let conn =
            self.conns.get_mut(id).filter(|conn| matches!(conn.phase(), Phase::Open | Phase::Connecting));
        self.metrics.stale_effects += u64::from(conn.is_none());
        conn
    }

    pub fn half_close(&mut self, id: ConnId) {
        self.catch_up(id);
        if let Some(conn) = self.target(id) {
            conn.marks.set(Marks::HALF_CLOSE);
            self.touch(id);
        }
    }

    pub fn pause(&mut self, id: ConnId) {
        if let Some(conn) = self.target(id) {
            conn.marks.set(Marks::PAUSED);
            self.touch(id);
        }
    }

    pub fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.target(id)
            && conn.marks.take(Marks::PAUSED)
        {
            self.queue(id);
            self.touch(id);
        }
    }

    pub fn offer_again(&mut self, id: ConnId) {
        if let Some(conn) = self.target(id) {
            conn.marks.set(Marks::OFFER_AGAIN);
            self.queue(id);
        }
    }

    pub fn set_deadline(&mut self, id: ConnId, at: Instant) {
        match self.target(id) {
            Some(conn) if conn.phase() == Phase::Open => {
                conn.deadline = at;
                self.arm(id, at);
            }
            // Its time to connect is limited already.
            Some(_) => self.metrics.stale_effects += u64::from(at != Instant::NEVER),
            None => {}
        }
    }

    pub fn notify_writable(&mut self, id: ConnId) {
        if let Some(conn) = self.target(id) {
            conn.marks.set(Marks::WANTS_WRITABLE);
            self.touch(id);
        }
    }

    /// Takes note of what was read from a connection, and whether that was all.
    #[inline]
    pub fn has_read(&mut self, id: ConnId, count: usize, drained: bool) {
        if let Some(draining) = &mut self.draining {
            draining.has_read(id, count, drained);
        }
    }

    pub fn connect(&mut self, address: Address, service: ServiceId) -> ConnId {
        if self.draining.as_ref().is_some_and(|draining| draining.ends) {
            return self.conns.spent_id();
        }
        let conn = Connection::new(Phase::Connecting, service.0, Flags::WRITE, self.now.get());
        let id = self.insert(conn);
        self.admitted += 1;
        self.metrics.connections_begun += 1;
        if self.admitted > self.connections_max {
            self.kill(id, CloseReason::RefusedFull);
        } else {
            self.attention = true;
            self.connects.push_back((id, address));
        }
        id
    }

    pub fn hand_over(&mut self, id: ConnId, service: ServiceId) {
        let Some(conn) = self.conns.get_mut(id) else {
            self.metrics.stale_effects += 1;
            return;
        };
        if conn.phase() == Phase::Open {
            conn.service = service.0;
            // What the old service has asked for the new one does not expect.
            conn.deadline = Instant::NEVER;
            if !self.output_pauses_input[service.0 as usize] {
                conn.marks.clear(Marks::BLOCKED);
            }
            conn.marks.clear(Marks::WANTS_WRITABLE | Marks::WRITABLE_DUE);
            if !conn.marks.any(Marks::MOVING) {
                conn.marks.set(Marks::MOVING);
                self.handed.push_back(id);
                self.attend();
            }
        }
    }

    pub fn subscribe(&mut self, topic: TopicId, id: ConnId) {
        self.attend_again(id);
        match self.conns.get(id) {
            Some(conn) if conn.phase() == Phase::Open => self.topics.subscribe(topic, id, &self.outbox.logs),
            _ => self.metrics.stale_effects += 1,
        }
    }

    pub fn unsubscribe(&mut self, topic: TopicId, id: ConnId) {
        self.catch_up(id);
        self.topics.unsubscribe(topic, id);
    }

    pub fn remove_topic(&mut self, topic: TopicId) {
        if !self.outbox.logs.is_empty() || self.topics.has_aside() {
            for index in 0..self.topics.len(topic) {
                self.catch_up(self.topics.members(topic)[index].conn);
            }
        }
        self.topics.remove(topic);
    }

    /// Adds a message to the topic's log, which its members get in the flush phase.
    pub fn publish(&mut self, topic: TopicId, bytes: &[u8], except: Option<ConnId>) {
        if let Some(except) = except
            && self.topics.has_aside()
            && self.attend_again(except)
        {
            // It hears the rest by itself, and is set aside again.
            self.touch(except);
        }
        let receivers = self.topics.publish(topic, bytes, except, &mut self.outbox.logs);
        if receivers == 0 {
            return;
        }
        self.outbox.published(bytes.len());
        self.metrics.messages_out += receivers as u64;
        if self.observes_bytes {
            for index in 0..self.topics.len(topic) {
                let conn = self.topics.members(topic)[index].conn;
                if Some(conn) != except {
                    self.report(&Report::Output { conn, bytes });
                }
            }
        }
    }

    /// Puts what topics have brought a connection so far in front of what it is sent, or of what happens to it, next.
    #[inline]
    fn catch_up(&mut self, id: ConnId) {
        if self.topics.has_aside() {
            self.attend_again(id);
        }
        if !self.outbox.logs.is_empty() {
            self.hear(id);
        }
    }

    /// Adds what its topics have brought in this turn so far to what a connection sends.
    #[inline(never)]
    pub fn hear(&mut self, id: ConnId) {
        let logs = self.outbox.logs.numbers();
        if logs.clone().count() < self.topics.count_of(id) {
            for log in logs {
                self.hear_topic(id, self.outbox.logs.topic(log));
            }
        } else {
            let mut next = self.topics.topic_after(id, None);
            while let Some(topic) = next {
                self.hear_topic(id, topic);
                next = self.topics.topic_after(id, Some(topic));
            }
        }
    }

    /// Adds what one topic has brought in this turn to what a connection sends.
    pub fn hear_topic(&mut self, id: ConnId, topic: TopicId) {
        let Some((log, rest)) = self.topics.take(topic, id, &self.outbox.logs) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase() != Phase::Open || conn.marks.any(Marks::HALF_CLOSE) {
            return;
        }
        let before = conn.output.tail_bytes();
        self.outbox.push_log(id, &mut conn.output, log, rest);
        if before > 0 {
            self.tail_has_grown(id, before);
        } else {
            self.after_send(id);
        }
    }

    /// Sees to what a longer tail entails. While the peer takes nothing that is nothing, unless a limit is passed: a
    /// receiver that has stopped costs little more than the bytes.
    fn tail_has_grown(&mut self, id: ConnId, before: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let pending = conn.output.tail_bytes();
        let passes = self.limits.output_marks().any(|limit| before <= limit && limit < pending);
        if passes || !conn.marks.any(Marks::WRITE_BLOCKED) {
            return self.after_send(id);
        }
        self.count(id);
    }

    /// Lets a topic go on without a member who takes nothing. What it brings counts for the member's limits as before.
    pub fn set_aside(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let pending = conn.output.tail_bytes();
        if pending == 0
            || conn.phase() != Phase::Open
            || !conn.marks.any(Marks::WRITE_BLOCKED)
            || conn.marks.any(Marks::HALF_CLOSE)
        {
            return;
        }
        if !conn.marks.any(Marks::ASIDE) {
            let Some(arrears) = self.topics.set_aside(id) else { return };
            conn.output.follow(arrears);
            conn.marks.set(Marks::ASIDE);
            self.memory.holders.set(id.slot(), id, 0);
            let held = conn.own_bytes() + conn.output.shared_bytes();
            if let Some(follower) = conn.output.follower() {
                follower.rank = follower.rank_with(held);
                self.topics.set_rank(id, follower.rank, Some(follower.rank));
            }
        }
        let Some(follower) = conn.output.follower() else { return };
        let passed_next = self.limits.output_marks().filter(|&limit| limit >= pending).min();
        let alarm = passed_next.map_or(u64::MAX, |limit| follower.end() + (limit - pending) as u64);
        self.topics.set_alarm(id, follower.alarm, alarm);
        follower.alarm = alarm;
    }

    /// Lets a member who was set aside take part again, with all that came meanwhile as its output.
    /// Returns whether it was set aside.
    pub fn attend_again(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let was_aside = conn.marks.take(Marks::ASIDE);
        if was_aside {
            if let Some(follower) = conn.output.follower() {
                self.topics.attend(id, follower.alarm, follower.rank);
            }
            self.outbox.leave_arrears(&mut conn.output);
            self.count(id);
        }
        was_aside
    }

    /// Keeps a log for the members who were set aside, and sees to those whose limits that passes.
    pub fn append_to_arrears(&mut self, log: u64) {
        let topic = self.outbox.logs.topic(log);
        let Some(arrears) = self.topics.arrears(topic) else { return };
        self.outbox.append_log(log, arrears);
        self.topics.note_arrears(topic);
        while let Some(id) = self.topics.next_alarm(topic) {
            self.after_send(id);
        }
        self.look_at_memory();
    }

    // ---- memory ----

    /// What peers make us hold, in bytes of memory: see [`crate::memory`].
    pub fn memory_bytes(&self) -> usize {
        self.memory.counted + self.outbox.held_bytes()
    }

    /// Brings the sum up to date with one connection, after it has kept or released something.
    #[inline]
    pub fn count(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let own = conn.own_bytes();
        if own == 0 && conn.counted == 0 {
            return;
        }
        self.memory.recount(&mut conn.counted, own);
        let held = own + conn.output.shared_bytes();
        match conn.output.follower() {
            Some(follower) => {
                let rank = follower.rank_with(held);
                let before = std::mem::replace(&mut follower.rank, rank);
                self.topics.set_rank(id, before, Some(rank));
            }
            None => self.memory.holders.set(id.slot(), id, held),
        }
        self.look_at_memory();
    }

    /// Sees to it that the sum is within its limit, and that memory which was released is given back.
    #[inline]
    pub fn look_at_memory(&mut self) {
        let held = self.memory_bytes();
        self.memory.peak = self.memory.peak.max(held);
        if held > self.memory.max {
            self.evict();
        }
        self.metrics.memory_bytes = self.memory_bytes() as u64;
        if held + RELEASE_BYTES <= self.memory.peak {
            self.attention = true;
        }
    }

    /// Closes those that hold the most until the rest is within the limit, or until one turn has closed enough of them. Then
    /// no more is read in this turn.
    #[cold]
    pub fn evict(&mut self) {
        self.attention = true;
        while self.memory_bytes() > self.memory.max {
            if self.memory.evictions_left == 0 {
                return self.outbox.fill();
            }
            let (alone, aside) = (self.memory.holders.largest(), self.topics.largest_aside());
            let Some((_, id)) = alone.into_iter().chain(aside).max_by_key(|&(size, _)| size) else { return };
            self.memory.evictions_left -= 1;
            self.memory.evictions += 1;
            self.kill(id, CloseReason::MemoryLimit);
        }
    }

    /// Checks everything that is counted against a count from the beginning.
    ///
    /// # Panics
    /// If they differ.
    #[cfg(debug_assertions)]
    pub fn check_memory(&mut self) {
        use std::collections::HashSet;
        let (mut counted, mut shared) = (0, 0);
        let (mut blocks, mut places) = (HashSet::new(), HashSet::new());
        let mut add = |block: &Shared| {
            if blocks.insert(block.as_ptr()) {
                shared += block.memory_bytes();
            }
        };
        let mut aside = 0;
        for (id, conn) in self.conns.iter_mut() {
            let (own, of_tail) = conn.output.recount(&mut add);
            assert_eq!(
                (own, of_tail),
                (conn.output.own_bytes(), conn.output.shared_bytes()),
                "output of {id}"
            );
            assert_eq!(conn.own_bytes(), conn.counted as usize, "{id}: what it holds, and what is counted");
            assert_eq!(conn.marks.any(Marks::ASIDE), conn.output.follower().is_some(), "{id} is aside");
            counted += conn.counted as usize;
            let held = conn.own_bytes() + of_tail;
            let ranked = self.memory.holders.size(id.slot());
            match conn.output.follower() {
                Some(follower) => {
                    aside += 1;
                    follower.visit(&mut places, &mut add);
                    assert_eq!((follower.rank, ranked), (follower.rank_with(held), 0), "the rank of {id}");
                }
                None => assert_eq!(ranked, held, "the rank of {id}"),
            }
        }
        counted += self.departures.iter().map(|departures| departures.counted as usize).sum::<usize>();
        assert_eq!(counted, self.memory.counted, "the memory of connections and sockets");
        assert_eq!(self.metrics.memory_bytes, self.memory_bytes() as u64, "the counter");
        assert_eq!(shared, self.outbox.held_bytes(), "the memory that is shared");
        assert_eq!(aside, self.topics.aside(), "members who were set aside");
    }

    pub fn reply(&mut self, datagram: &Datagram<'_>, bytes: &[u8], wire: &mut dyn Wire) {
        if let Some(cause) = datagram.unanswerable {
            return self.metrics.count_drop(cause);
        }
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return self.metrics.count_drop(DropCause::TooLarge);
        }
        let now = self.time(wire);
        if let Err(cause) = self.reply_policy.charge(datagram.from, now) {
            return self.metrics.count_drop(cause);
        }
        self.report_bytes(&Report::DatagramOut { to: datagram.from, bytes });
        self.metrics.messages_out += 1;
        let departures = &mut self.departures[datagram.socket as usize];
        departures.out.push(datagram.from.clone(), datagram.local, bytes);
        if !departures.dirty {
            departures.dirty = true;
            self.attention = true;
            self.dirty_sockets.push(datagram.socket);
        }
    }
}

/// The reason that a failed read or write stands for.
pub(crate) fn reason_of(error: &std::io::Error) -> CloseReason {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            CloseReason::Reset
        }
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            CloseReason::Reset
        }
        _ => CloseReason::Failed,
    }
}
