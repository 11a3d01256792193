//! THE loop. One turn, in order:
//!
//! ```text
//!  1  wait       for readiness, as long as the next deadline allows; not at all while something is left to do
//!  2  accept     new connections, bounded per turn; rest when the system has no descriptor left
//!  3  read       every ready connection up to its budget, into one buffer that the service sees in place;
//!                datagrams in batches
//!  4  deadlines  that are due; messages from other threads
//!  5  effects    outgoing connections, hand-overs, `closed`: what services say here still leaves in this turn
//!  6  flush      every connection that has output, once; a short write arms writability
//!  7  free       slots and descriptors of closed connections, never in the middle of a batch
//! ```
//!
//! Everything that a turn decides (who is read, how much, who is flushed, who is closed) is decided in this file;
//! what it calls computes and reports. Readiness is edge-triggered: a connection whose reading stops before it is
//! drained stays on the ready list, and while that list is not empty a turn does not wait.

use std::any::Any;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::connection::{CloseReason, Connection, Due, Marks, Phase, Timeouts};
use crate::datagram::{BATCH_MAX, Datagram, Inbound, Outbound};
use crate::error::Error;
use crate::limits::Limits;
use crate::mailbox::{self, Inbox, Mailbox};
use crate::metrics::{DropCause, Metrics};
use crate::net::os::{self, Os};
use crate::net::{Address, Flags, Net, Peer, Readiness, WAKER, Wake};
use crate::service::{Arrival, Context, Options, Receive, Service, ServiceId};
use crate::slots::ConnId;
use crate::state::{Departures, Observer, Report, State, reason_of};
use crate::timer::Instant;

/// Bytes that one read asks for.
const READ_BYTES: usize = 64 << 10;

/// Descriptors that are not for connections: the event queue, the waker, standard streams, what the program opens.
const DESCRIPTOR_RESERVE: u64 = 64;

/// A single-threaded event loop: its sockets, its connections and the services that they belong to.
///
/// `N` is the system underneath: the real one, or a simulated one.
pub struct Reactor<N: Net = Os> {
    net: N,
    state: State,
    services: Vec<Registered>,
    sources: Vec<Source>,
    inboxes: Vec<(ServiceId, Box<dyn Inbox>)>,
    remote: Remote,
    events: Vec<Readiness>,
    /// Kept input of one connection and, behind it, what is read now.
    buffer: Box<[u8]>,
    /// Made with the first datagram socket.
    inbound: Option<Box<Inbound>>,
    /// The end of the last turn.
    turned_at: Instant,
    /// Another thread has woken us, or has left more than one turn takes.
    mail: bool,
}

struct Registered {
    service: Box<dyn Service>,
    options: Options,
}

/// A listener or a datagram socket.
struct Source {
    address: Address,
    service: ServiceId,
    open: bool,
    /// Readiness came that has not been acted on to the end.
    ready: bool,
    /// A listener that the system had no descriptor for rests until then.
    rests_until: Option<Instant>,
    /// The last accept found the system without a descriptor or memory, and that was reported.
    exhausted: bool,
    /// A datagram socket that had no room to send rests until it has.
    write_blocked: bool,
}

/// A listener or datagram socket of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u32);

/// Reaches a reactor from other threads. Clones reach the same reactor.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<RemoteShared>,
    wake: Arc<dyn Wake>,
}

#[derive(Default)]
struct RemoteShared {
    stop: AtomicBool,
    metrics_wanted: Mutex<Vec<Sender<Metrics>>>,
}

impl Remote {
    /// Makes the reactor's current or next wait return at once.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Makes [`Reactor::run`] return after the current turn.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    /// The reactor's counters, as of its next turn; `None` if it does not turn within `patience`, or is gone.
    pub fn metrics(&self, patience: Duration) -> Option<Metrics> {
        let (answer, answered) = mpsc::channel();
        self.shared.metrics_wanted.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.wake.wake();
        answered.recv_timeout(patience).ok()
    }
}

/// What [`Reactor::drain`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended in order.
    pub closed: usize,
    /// Connections that were broken off at the deadline.
    pub aborted: usize,
}

impl Reactor<Os> {
    /// A reactor on the real system.
    ///
    /// # Errors
    /// [`Error::Setup`] when the system has no descriptor or memory for an event queue.
    pub fn new(limits: Limits) -> Result<Reactor<Os>, Error> {
        let descriptors = os::descriptor_limit().map_err(Error::Setup)?;
        let spare = descriptors.saturating_sub(DESCRIPTOR_RESERVE + limits.refusals_max as u64).max(1);
        Ok(Reactor::with_net(Os::new().map_err(Error::Setup)?, limits, spare as usize))
    }
}

/// The event queue, for whoever waits for several things at once: when it is readable, or after
/// [`Reactor::next_timeout`], there is something to do for [`Reactor::turn`].
impl AsFd for Reactor<Os> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

impl<N: Net> Reactor<N> {
    /// A reactor on any system. `connections_max` applies where the limits name none.
    pub fn with_net(net: N, limits: Limits, connections_max: usize) -> Reactor<N> {
        let remote = Remote { shared: Arc::default(), wake: net.waker() };
        let connections_max = limits.connections_max.unwrap_or(connections_max);
        Reactor {
            net,
            buffer: vec![0; limits.input_bytes_max + READ_BYTES].into(),
            state: State::new(limits, connections_max),
            services: Vec::new(),
            sources: Vec::new(),
            inboxes: Vec::new(),
            remote,
            events: Vec::new(),
            inbound: None,
            turned_at: Instant::default(),
            mail: false,
        }
    }

    /// Adds a service. It serves what it is given with [`Reactor::listen`], [`Context::connect`] and
    /// [`Context::hand_over`].
    ///
    /// # Panics
    /// With more than 65,535 services.
    pub fn add_service(&mut self, service: impl Service, options: Options) -> ServiceId {
        let id = ServiceId(u16::try_from(self.services.len()).expect("a reactor takes 65,535 services"));
        let idle = options.idle_timeout.or(self.state.limits.idle_timeout);
        self.state.timeouts.push(Timeouts::new(&self.state.limits, idle, options.messages));
        self.services.push(Registered { service: Box::new(service), options });
        id
    }

    /// Listens on an address for a service, and returns the address that it is bound to, which tells the port
    /// where 0 was asked for.
    ///
    /// # Errors
    /// [`Error::Listen`]; nothing is left bound.
    pub fn listen(&mut self, address: &Address, service: ServiceId) -> Result<(ListenerId, Address), Error> {
        self.open_source(address, service, false)
    }

    /// Like [`Reactor::listen`], but several reactors of one user may listen on the same address, and the kernel
    /// spreads connections and datagrams among them (SO_REUSEPORT).
    ///
    /// # Errors
    /// As [`Reactor::listen`].
    pub fn listen_shared(
        &mut self,
        address: &Address,
        service: ServiceId,
    ) -> Result<(ListenerId, Address), Error> {
        self.open_source(address, service, true)
    }

    fn open_source(
        &mut self,
        address: &Address,
        service: ServiceId,
        reuse_port: bool,
    ) -> Result<(ListenerId, Address), Error> {
        let index = self.sources.len() as u32;
        let bound = self
            .net
            .listen(index, address, reuse_port)
            .map_err(|source| Error::Listen { address: address.clone(), source })?;
        if !bound.is_stream() && self.inbound.is_none() {
            self.inbound = Some(Box::new(Inbound::new()));
        }
        self.sources.push(Source {
            address: bound.clone(),
            service,
            open: true,
            ready: false,
            rests_until: None,
            exhausted: false,
            write_blocked: false,
        });
        self.state.departures.push(Departures { out: Outbound::default(), dirty: false });
        self.state.reply_policy.add_address(&bound);
        Ok((ListenerId(index), bound))
    }

    /// Closes a listener or datagram socket; connections that it accepted go on.
    pub fn unlisten(&mut self, listener: ListenerId) {
        if let Some(source) = self.sources.get_mut(listener.0 as usize)
            && std::mem::replace(&mut source.open, false)
        {
            self.net.unlisten(listener.0);
        }
    }

    /// A mailbox through which other threads send messages of type `M` to a service; it holds `capacity` of them.
    ///
    /// # Panics
    /// If `service` is not of type `S`.
    pub fn mailbox<S: Receive<M>, M: Send + 'static>(
        &mut self,
        service: ServiceId,
        capacity: usize,
    ) -> Mailbox<M> {
        let entry: &dyn Any = &*self.services[service.0 as usize].service;
        assert!(entry.is::<S>(), "the mailbox's service has another type than the one it is asked for");
        let (mailbox, inbox) = mailbox::mailbox::<S, M>(capacity, self.net.waker());
        self.inboxes.push((service, inbox));
        mailbox
    }

    /// Calls a service between turns: to begin with outgoing connections, or to look at what it knows. What it
    /// asks for takes effect in the next turn, which does not wait.
    ///
    /// # Panics
    /// If `service` is not of type `S`.
    pub fn with<S: Service, R>(
        &mut self,
        service: ServiceId,
        call: impl FnOnce(&mut S, &mut Context<'_>) -> R,
    ) -> R {
        let entry: &mut dyn Any = &mut *self.services[service.0 as usize].service;
        let service =
            entry.downcast_mut().expect("the service has another type than the one it is asked for");
        call(service, &mut Context { state: &mut self.state, wire: &mut self.net })
    }

    /// Sees everything that happens; see [`Report`]. Costs nothing when there is none.
    pub fn observe(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observes_bytes = true;
    }

    /// Like [`Reactor::observe`], but does not see what comes and goes: no [`Report::Input`], [`Report::Output`],
    /// [`Report::DatagramIn`] and [`Report::DatagramOut`]. So it costs nothing per message.
    pub fn observe_events(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observes_bytes = false;
    }

    /// What reaches this reactor from other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.state.metrics
    }

    /// The system underneath.
    pub fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    /// The connections that are open, those that linger included.
    pub fn connections(&self) -> usize {
        self.state.conns.len()
    }

    /// Turns until [`Remote::stop`] is called.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn run(&mut self) -> Result<(), Error> {
        while !self.remote.shared.stop.load(Ordering::Acquire) {
            self.turn_from(self.turned_at, None)?;
        }
        Ok(())
    }

    /// Turns once, waiting up to `max_wait` (`None`: as long as it takes) for something to do.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> Result<(), Error> {
        let now = self.net.now();
        self.turn_from(now, max_wait)
    }

    /// How long [`Reactor::turn`] would wait if nothing came: `None` for ever, zero when there is something to do.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        let now = self.net.now();
        self.wait(now)
    }

    fn turn_from(&mut self, now: Instant, max_wait: Option<Duration>) -> Result<(), Error> {
        let wait = match (self.wait(now), max_wait) {
            (Some(wait), Some(max)) => Some(wait.min(max)),
            (wait, max) => wait.or(max),
        };
        self.net.poll(&mut self.events, wait).map_err(Error::Poll)?;
        let begun = self.net.now();
        self.state.now = begun;
        self.state.wall = None;
        self.take_left_over();
        self.take_events();
        self.fire_deadlines();
        if self.mail {
            self.deliver_messages();
        }
        self.apply_effects();
        self.flush();
        self.free();
        self.turned_at = self.net.now();
        self.state.metrics.count_turn(self.events.len(), self.turned_at - begun);
        Ok(())
    }

    /// How long to wait, by what is left to do and by the next deadline.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let state = &self.state;
        let idle = state.ready.is_empty()
            && state.dirty.is_empty()
            && state.ended.is_empty()
            && state.freed.is_empty()
            && state.connects.is_empty()
            && state.dirty_sockets.is_empty()
            && !self.mail;
        if !idle {
            return Some(Duration::ZERO);
        }
        let mut next = state.timers.next();
        for source in &self.sources {
            if source.open && source.ready && !source.write_blocked {
                let at = source.rests_until.unwrap_or(now);
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next.map(|at| at.since(now))
    }

    // ---- 2 and 3: what earlier turns left, then what is new ----

    /// What earlier turns left comes first, in its order, so that nobody who waits is passed over for ever.
    fn take_left_over(&mut self) {
        for index in 0..self.sources.len() {
            if self.sources[index].ready {
                self.serve_source(index);
            }
        }
        for _ in 0..self.state.ready.len() {
            if self.state.is_full() {
                break;
            }
            let Some(id) = self.state.ready.pop_front() else { break };
            let Some(conn) = self.state.conns.get_mut(id) else { continue };
            conn.marks.clear(Marks::QUEUED);
            match conn.phase() {
                Phase::Open => self.resume(id),
                Phase::Lingering => self.discard(id),
                Phase::Connecting | Phase::Closing | Phase::Dead => {}
            }
        }
    }

    fn take_events(&mut self) {
        for index in 0..self.events.len() {
            let Readiness { token, flags } = self.events[index];
            let Some(id) = ConnId::from_token(token) else {
                self.source_event(token, flags);
                continue;
            };
            let Some(conn) = self.state.conns.get(id) else {
                self.state.metrics.stale_events += 1;
                continue;
            };
            if flags == Flags::READ && conn.marks.only(Marks::DIRTY) && !self.state.is_full() {
                self.read_plain(id);
            } else {
                self.unusual_event(id, flags);
            }
        }
    }

    fn source_event(&mut self, token: u64, flags: Flags) {
        if token == WAKER {
            self.mail = true;
            return;
        }
        let Some(source) = self.sources.get_mut(token as usize).filter(|source| source.open) else {
            self.state.metrics.stale_events += 1;
            return;
        };
        source.ready = true;
        if flags.intersects(Flags::WRITE) && source.write_blocked {
            source.write_blocked = false;
            self.state.dirty_sockets.push(token as u32);
            // From now on each datagram that leaves would be told. If this fails, that is all that happens.
            let _ = self.net.rearm_datagram(token as u32, false);
        }
        self.serve_source(token as usize);
    }

    fn serve_source(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if !source.open || source.write_blocked {
            return;
        }
        if let Some(until) = source.rests_until {
            if self.state.now < until {
                return;
            }
            source.rests_until = None;
        }
        if source.address.is_stream() { self.accept(index) } else { self.receive(index) }
    }

    /// Anything but plain input on an open connection.
    #[cold]
    fn unusual_event(&mut self, id: ConnId, flags: Flags) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if flags.intersects(Flags::READ_CLOSED | Flags::URGENT | Flags::ERROR) {
            conn.marks.set(Marks::READ_ON);
        }
        match conn.phase() {
            Phase::Connecting => return self.decide_connect(id),
            Phase::Lingering => return self.discard(id),
            Phase::Dead => return,
            Phase::Open | Phase::Closing => {}
        }
        if flags.intersects(Flags::WRITE) && conn.marks.take(Marks::WRITE_BLOCKED) {
            self.state.touch(id);
        }
        if !flags.intersects(Flags::READ | Flags::READ_CLOSED | Flags::URGENT | Flags::ERROR) {
            return;
        }
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.marks.set(Marks::READABLE);
        if conn.takes_input() {
            if conn.marks.any(Marks::QUEUED) {
                // Its turn comes with those that are left over.
            } else if self.state.is_full() {
                self.state.queue(id);
            } else {
                self.read(id, First::Read);
            }
        } else if flags.intersects(Flags::ERROR)
            && let Some(error) = self.net.take_error(id)
        {
            // Nobody reads it now, so nobody else would notice.
            self.state.kill(id, reason_of(&error));
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..self.state.limits.accepts_per_turn {
            let id = self.state.conns.next_id();
            match self.net.accept(index as u32, id) {
                Ok(peer) => {
                    self.note_accepting(index);
                    self.admit(index, id, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.note_accepting(index);
                        self.sources[index].ready = false;
                        return;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ if os::is_exhausted(&error) => {
                        // Edge-triggered readiness would never tell again, and trying at once would spin.
                        self.state.metrics.accepts_exhausted += 1;
                        let source = &mut self.sources[index];
                        source.rests_until = Some(self.state.now + self.state.limits.accept_pause);
                        if !std::mem::replace(&mut source.exhausted, true) {
                            let address = &source.address;
                            self.state.report(&Report::ListenerPaused { address, error: &error });
                        }
                        return;
                    }
                    _ => self.state.metrics.accepts_aborted += 1,
                },
            }
        }
    }

    /// Accepting works: says so if it did not before.
    fn note_accepting(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if std::mem::replace(&mut source.exhausted, false) {
            self.state.report(&Report::ListenerResumed { address: &source.address });
        }
    }

    /// Takes an accepted connection in, or refuses it.
    fn admit(&mut self, index: usize, id: ConnId, peer: Peer) {
        let service = self.sources[index].service;
        let state = &mut self.state;
        let entry = &mut self.services[service.0 as usize];
        let counted_ip = peer.ip().filter(|_| state.limits.connections_per_ip_max.is_some());
        let of_ip = counted_ip.map_or(0, |ip| state.per_ip.get(&ip).copied().unwrap_or(0));
        let refused = if state.admitted >= state.connections_max {
            Some(CloseReason::RefusedFull)
        } else if state.limits.connections_per_ip_max.is_some_and(|max| of_ip >= max) {
            Some(CloseReason::RefusedPerIp)
        } else {
            None
        };
        let mut conn = Connection::new(Phase::Open, service.0, Flags::READ, state.now);
        conn.set_short_is_drained(self.net.short_read_means_drained(id));
        if let Some(reason) = refused {
            state.metrics.connections_refused += 1;
            state.report(&Report::Refused { service: &entry.options.name, peer: &peer, reason });
            if state.refusals >= state.limits.refusals_max {
                state.metrics.closed[reason as usize] += 1;
                self.net.close(id, false);
                return;
            }
            state.refusals += 1;
            conn.marks.set(Marks::REFUSED);
            conn.set_phase(Phase::Closing);
            conn.reason = reason;
            conn.output.push(&mut state.arena, &entry.service.refusal(reason));
            state.conns.insert(conn);
            state.touch(id);
            return;
        }
        if let Some(ip) = counted_ip {
            state.per_ip.insert(ip, of_ip + 1);
            state.ips.insert(id, ip);
        }
        state.admitted += 1;
        state.metrics.connections_accepted += 1;
        state.conns.insert(conn);
        state.report(&Report::Opened { conn: id, service: &entry.options.name, peer: &peer });
        state.arm_next(id);
        entry.service.open(id, Arrival::Accepted(peer), &mut Context { state, wire: &mut self.net });
    }

    /// An outgoing connection may be established or have failed.
    fn decide_connect(&mut self, id: ConnId) {
        match self.net.connected(id) {
            Ok(None) => {}
            Ok(Some(peer)) => {
                let state = &mut self.state;
                let Some(conn) = state.conns.get_mut(id) else { return };
                conn.set_phase(Phase::Open);
                conn.deadline = Instant::NEVER;
                conn.active_at = state.now;
                conn.set_short_is_drained(self.net.short_read_means_drained(id));
                let entry = &mut self.services[conn.service as usize];
                state.report(&Report::Opened { conn: id, service: &entry.options.name, peer: &peer });
                state.arm_next(id);
                state.touch(id);
                entry.service.open(id, Arrival::Connected(peer), &mut Context { state, wire: &mut self.net });
            }
            Err(_) => self.state.kill(id, CloseReason::ConnectFailed),
        }
    }

    /// Takes up a connection whose input stopped before it was drained: first what the service left, then what the
    /// system holds.
    fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if conn.marks.take(Marks::WRITABLE_DUE) {
            let service = &mut self.services[conn.service as usize].service;
            service.writable(id, &mut Context { state: &mut self.state, wire: &mut self.net });
        }
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        if conn.takes_input() {
            if conn.marks.take(Marks::OFFER_AGAIN) && conn.kept.is_some() {
                self.read(id, First::Offer);
            } else if conn.marks.any(Marks::READABLE) {
                self.read(id, First::Read);
            }
        }
    }

    /// The short way of input: one read that drains an ordinary connection, shown to the service in place.
    /// Whatever turns out to be different is left to [`Reactor::read`].
    #[inline]
    fn read_plain(&mut self, id: ConnId) {
        let Reactor { net, state, services, buffer, .. } = self;
        let read = net.read(id, &mut buffer[..READ_BYTES]);
        let Some(conn) = state.conns.get_mut(id) else { return };
        if let Ok(count) = read
            && count > 0
            && count < READ_BYTES
            && !state.observes_bytes
        {
            conn.active_at = state.now;
            state.metrics.bytes_in += count as u64;
            let service = &mut *services[conn.service as usize].service;
            let consumed = service.input(id, &buffer[..count], &mut Context { state, wire: net });
            if consumed != count || state.conns.get(id).is_none_or(|conn| !conn.marks.only(Marks::DIRTY)) {
                self.read(id, First::Offered { end: count, consumed });
            }
        } else {
            self.read(id, First::Got(read));
        }
    }

    /// Reads a connection until it is drained, its budget is spent, the turn is full or its input rests, and shows
    /// the service what came. `first` says what has been done already.
    #[cold]
    fn read(&mut self, id: ConnId, mut first: First) {
        let Reactor { net, state, services, buffer, .. } = self;
        let Some(conn) = state.conns.get_mut(id) else { return };
        let spare = conn.kept.take();
        conn.marks.clear(Marks::KEPT);
        let mut kept = 0;
        if let Some(left) = &spare {
            kept = left.len();
            buffer[..kept].copy_from_slice(left);
        }
        let mut budget = state.limits.read_bytes_per_turn;
        loop {
            let Some(conn) = state.conns.get_mut(id) else { return };
            let service = &mut *services[conn.service as usize].service;
            let drains = |count| count < READ_BYTES && !conn.marks.any(Marks::READ_ON);
            let (end, drained, consumed) = match std::mem::replace(&mut first, First::Read) {
                First::Offered { end, consumed } => (end, drains(end), Some(consumed)),
                First::Offer => (kept, false, None),
                step => {
                    let read = match step {
                        First::Got(read) => read,
                        _ => net.read(id, &mut buffer[kept..kept + READ_BYTES]),
                    };
                    match read {
                        Ok(0) => {
                            conn.marks.set(Marks::ENDED);
                            conn.marks.clear(Marks::READABLE);
                            conn.message_since = Instant::NEVER;
                            state.touch(id);
                            service.eof(id, &buffer[..kept], &mut Context { state, wire: net });
                            return;
                        }
                        Ok(count) => {
                            let drained = drains(count);
                            conn.active_at = state.now;
                            state.metrics.bytes_in += count as u64;
                            budget = budget.saturating_sub(count);
                            let bytes = &buffer[kept..kept + count];
                            state.report_bytes(&Report::Input { conn: id, bytes });
                            (kept + count, drained, None)
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            conn.marks.clear(Marks::READABLE);
                            conn.marks.put(Marks::READ_ON, !conn.short_is_drained);
                            break;
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return state.kill(id, reason_of(&error)),
                    }
                }
            };
            let consumed = match consumed {
                Some(consumed) => consumed,
                None => service.input(id, &buffer[..end], &mut Context { state, wire: net }),
            };
            assert!(consumed <= end, "a service consumed {consumed} of {end} bytes of input");

            let Some(conn) = state.conns.get_mut(id) else { return };
            kept = end - consumed;
            if kept == 0 {
                conn.message_since = Instant::NEVER;
            } else {
                buffer.copy_within(consumed..end, 0);
                if consumed > 0 || conn.message_since == Instant::NEVER {
                    conn.message_since = state.now;
                }
            }
            if conn.output.pending() >= state.limits.output_high_water_bytes {
                conn.marks.set(Marks::BLOCKED);
                state.touch(id);
            }
            let Some(conn) = state.conns.get_mut(id) else { return };
            conn.marks.put(Marks::READABLE, !drained);
            if !conn.takes_input() {
                conn.marks.set(Marks::OFFER_AGAIN);
                break;
            }
            if kept > state.limits.input_bytes_max {
                return state.finish(id, CloseReason::InputLimit);
            }
            if drained {
                break;
            }
            if budget == 0 || state.is_full() {
                state.queue(id);
                break;
            }
        }
        if kept > 0 {
            keep(state, id, spare, &buffer[..kept]);
        }
    }

    /// Reads and drops what a peer still sends after our side has ended, until its side ends too.
    fn discard(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.state.conns.get_mut(id) else { return };
            match self.net.read(id, &mut self.buffer) {
                Ok(count)
                    if count > 0 && conn.discarded as usize + count <= self.state.limits.linger_bytes_max =>
                {
                    conn.discarded += count as u32;
                    self.state.metrics.bytes_discarded += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The end, too much, or a failure: in each case the peer has had its chance.
                _ => return self.state.kill(id, CloseReason::Service),
            }
        }
    }

    /// Receives datagrams in batches and shows them to the service.
    fn receive(&mut self, index: usize) {
        if !self.state.departures[index].out.is_empty() {
            // Answers of an earlier turn have not left yet: more of them would pile up where there is no room to send.
            return;
        }
        let Some(inbound) = self.inbound.as_deref_mut() else { return };
        let source = &mut self.sources[index];
        let entry = &mut self.services[source.service.0 as usize];
        let state = &mut self.state;
        let mut budget = state.limits.datagrams_per_turn;
        while budget > 0 {
            let count = match self.net.receive(index as u32, inbound) {
                Ok(count) => count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        source.ready = false;
                        return;
                    }
                    _ => {
                        // An earlier datagram's failure, told late. The next call goes on behind it.
                        state.metrics.datagram_errors += 1;
                        budget -= 1;
                        continue;
                    }
                },
            };
            state.metrics.datagrams_in += count as u64;
            for position in 0..count {
                let (received, bytes) = inbound.get(position);
                if received.truncated {
                    state.metrics.count_drop(DropCause::Truncated);
                    continue;
                }
                let report = Report::DatagramIn { service: &entry.options.name, from: &received.from, bytes };
                state.report_bytes(&report);
                let datagram = Datagram {
                    from: &received.from,
                    bytes,
                    unanswerable: state.reply_policy.check(received, |ip| self.net.is_local(ip)),
                    socket: index as u32,
                    local: received.local,
                };
                entry.service.datagram(&datagram, &mut Context { state, wire: &mut self.net });
            }
            if count < BATCH_MAX {
                source.ready = false;
                return;
            }
            budget = budget.saturating_sub(count);
        }
    }

    // ---- 4: deadlines and messages ----

    fn fire_deadlines(&mut self) {
        while let Some(id) = self.state.timers.pop_due(self.state.now) {
            let state = &mut self.state;
            let Some(conn) = state.conns.get_mut(id) else { continue };
            let (at, due) = conn.next_deadline(&state.timeouts[conn.service as usize]);
            if at > state.now {
                // It has moved on since the timer was set.
                state.arm(id, at);
                continue;
            }
            match due {
                Due::Service => {
                    conn.deadline = Instant::NEVER;
                    let service = &mut self.services[conn.service as usize].service;
                    service.deadline(id, &mut Context { state, wire: &mut self.net });
                }
                Due::Lingered => state.kill(id, CloseReason::Service),
                Due::Close(reason @ (CloseReason::IdleTimeout | CloseReason::ReadDeadline)) => {
                    state.finish(id, reason);
                }
                Due::Close(reason) => state.kill(id, reason),
            }
            self.state.arm_next(id);
        }
    }

    #[cold]
    fn deliver_messages(&mut self) {
        self.mail = false;
        let wanted = std::mem::take(
            &mut *self.remote.shared.metrics_wanted.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for answer in wanted {
            // Whoever asked may have given up.
            let _ = answer.send(self.state.metrics.clone());
        }
        for (service, inbox) in &mut self.inboxes {
            let service = &mut *self.services[service.0 as usize].service;
            let max = self.state.limits.messages_per_turn;
            let mut cx = Context { state: &mut self.state, wire: &mut self.net };
            let (count, more) = inbox.deliver(max, service, &mut cx);
            self.state.metrics.mailbox_messages += count as u64;
            self.mail |= more;
        }
    }

    // ---- 5: effects ----

    fn apply_effects(&mut self) {
        if !self.state.handed.is_empty() {
            self.open_handed_over();
        }
        if !self.state.connects.is_empty() {
            self.begin_connects();
        }
        while let Some(id) = self.state.ended.pop_front() {
            self.tell_closed(id);
        }
    }

    #[cold]
    fn open_handed_over(&mut self) {
        for id in std::mem::take(&mut self.state.handed) {
            let Some(conn) = self.state.conns.get_mut(id) else { continue };
            conn.marks.clear(Marks::MOVING);
            conn.marks.set(Marks::OFFER_AGAIN);
            conn.message_since = Instant::NEVER;
            if conn.phase() != Phase::Open {
                continue;
            }
            let service = &mut self.services[conn.service as usize].service;
            service.open(
                id,
                Arrival::HandedOver,
                &mut Context { state: &mut self.state, wire: &mut self.net },
            );
            // What the old service left is the new one's first input.
            self.state.queue(id);
            self.state.touch(id);
            self.state.arm_next(id);
        }
    }

    #[cold]
    fn begin_connects(&mut self) {
        for (id, address) in std::mem::take(&mut self.state.connects) {
            let dead = self.state.conns.get(id).is_none_or(|conn| conn.phase() != Phase::Connecting);
            if !dead && self.net.connect(&address, id).is_err() {
                self.state.kill(id, CloseReason::ConnectFailed);
            }
        }
    }

    #[cold]
    fn tell_closed(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get_mut(id) else { return };
        conn.kept = None;
        let reason = conn.reason;
        if conn.phase() == Phase::Dead {
            self.state.freed.push(id);
        }
        let service = &mut self.services[conn.service as usize].service;
        self.state.topics.forget(id);
        service.closed(id, reason, &mut Context { state: &mut self.state, wire: &mut self.net });
    }

    // ---- 6: flush ----

    fn flush(&mut self) {
        for index in 0..self.state.dirty.len() {
            self.flush_one(self.state.dirty[index]);
        }
        self.state.dirty.clear();
        for index in std::mem::take(&mut self.state.dirty_sockets) {
            self.transmit(index);
        }
        self.state.arena.clear();
        self.state.spilled = 0;
        if self.state.limits.output_total_bytes.is_some_and(|max| self.state.tail_bytes > max) {
            self.evict_largest();
        }
    }

    /// Writes what one connection has, once, and takes up what follows from it. The short way: an open connection
    /// whose peer takes all of it.
    #[inline]
    fn flush_one(&mut self, id: ConnId) {
        let Reactor { net, state, .. } = self;
        let Some(conn) = state.conns.get_mut(id) else { return };
        if conn.marks.only(Marks::DIRTY | Marks::OF_INPUT)
            && let Some(range) = conn.output.range(&state.arena)
        {
            let written = net.write(id, range);
            if matches!(written, Ok(count) if count == range.len()) {
                state.metrics.bytes_out += range.len() as u64;
                conn.active_at = state.now;
                conn.output.written();
                conn.marks.clear(Marks::DIRTY);
            } else {
                self.flushed_in_part(id, written);
            }
        } else {
            self.flush_with_care(id);
        }
    }

    #[cold]
    fn flush_with_care(&mut self, id: ConnId) {
        let Reactor { net, state, .. } = self;
        let Some(conn) = state.conns.get_mut(id) else { return };
        if !matches!(conn.phase(), Phase::Open | Phase::Closing) || conn.output.is_empty() {
            return self.settle(id, false);
        }
        let written = if conn.marks.any(Marks::WRITE_BLOCKED) {
            Ok(0)
        } else if let Some(range) = conn.output.range(&state.arena) {
            net.write(id, range)
        } else {
            conn.output.write_tail(&state.arena, |pieces| net.write_vectored(id, pieces))
        };
        self.flushed_in_part(id, written);
    }

    /// A write took some of what it was offered, or none, or failed: the rest waits until the system says that
    /// there is room.
    #[cold]
    fn flushed_in_part(&mut self, id: ConnId, written: io::Result<usize>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get_mut(id) else { return };
        let count = match written {
            Ok(count) => count,
            Err(error) if would_block(&error) => 0,
            Err(error) => return state.kill(id, reason_of(&error)),
        };
        conn.output.cut(&state.arena, count);
        conn.marks.put(Marks::WRITE_BLOCKED, !conn.output.is_empty());
        if count > 0 {
            state.metrics.bytes_out += count as u64;
            conn.active_at = state.now;
        }
        self.settle(id, count > 0);
    }

    /// Brings a connection in line with what its output and phase have become: limits, deadlines, what comes after
    /// the flush, and what we want to hear from the system.
    fn settle(&mut self, id: ConnId, progress: bool) {
        let Reactor { net, state, .. } = self;
        let Some(conn) = state.conns.get_mut(id) else { return };
        conn.marks.clear(Marks::DIRTY | Marks::UNSETTLED);
        let limits = &state.limits;
        let pending = conn.output.pending();
        state.tail_bytes = state.tail_bytes + pending - conn.counted_tail as usize;
        conn.counted_tail = pending as u32;
        if matches!(conn.phase(), Phase::Connecting | Phase::Dead) {
            return;
        }
        let over = |limit: Option<usize>| limit.is_some_and(|limit| pending > limit);
        if over(limits.output_hard_bytes) && conn.phase() == Phase::Open {
            return state.kill(id, CloseReason::OutputHardLimit);
        }
        conn.output.note(state.now, progress, over(limits.output_soft_bytes));

        let below_low_water = pending <= limits.output_low_water_bytes;
        let mut again = false;
        if below_low_water && conn.marks.take(Marks::BLOCKED) {
            again = conn.marks.any(Marks::OFFER_AGAIN | Marks::READABLE);
        }
        if below_low_water && conn.phase() == Phase::Open && conn.marks.take(Marks::WANTS_WRITABLE) {
            conn.marks.set(Marks::WRITABLE_DUE);
            again = true;
        }
        if pending == 0 {
            let closing = conn.phase() == Phase::Closing;
            if closing && conn.marks.any(Marks::ENDED) {
                // The peer has closed already: nothing that is unread could turn our end into a reset.
                let reason = conn.reason;
                return state.kill(id, reason);
            }
            if (closing || conn.marks.any(Marks::HALF_CLOSE)) && !conn.marks.any(Marks::WRITE_SHUT) {
                conn.marks.set(Marks::WRITE_SHUT);
                net.shutdown_write(id);
            }
            if closing {
                conn.set_phase(Phase::Lingering);
                conn.deadline = state.now + limits.linger_timeout;
                again = true;
            }
        }
        conn.marks.put(Marks::UNSETTLED, pending > 0 || conn.marks.any(Marks::BLOCKED | Marks::WANTS_WRITABLE));
        let interest = conn.interest();
        if conn.armed != interest {
            conn.armed = interest;
            if net.rearm(id, interest).is_err() {
                return state.kill(id, CloseReason::Failed);
            }
        }
        if again {
            state.queue(id);
        }
        state.arm_next(id);
    }

    /// Closes the connections with the most output until the rest is within `output_total_bytes`.
    #[cold]
    fn evict_largest(&mut self) {
        let state = &mut self.state;
        let max = state.limits.output_total_bytes.unwrap_or(usize::MAX);
        let mut holders: Vec<_> = state
            .conns
            .iter()
            .filter(|(_, conn)| conn.counted_tail > 0)
            .map(|(id, conn)| (conn.counted_tail, id))
            .collect();
        holders.sort_unstable_by_key(|&(bytes, _)| std::cmp::Reverse(bytes));
        for (_, id) in holders {
            if state.tail_bytes <= max {
                break;
            }
            state.kill(id, CloseReason::OutputTotalLimit);
        }
    }

    /// Sends the datagrams of one socket.
    fn transmit(&mut self, index: u32) {
        let source = &mut self.sources[index as usize];
        let departures = &mut self.state.departures[index as usize];
        departures.dirty = false;
        let mut sent = 0;
        while sent < departures.out.len() && !source.write_blocked {
            match self.net.transmit(index, &departures.out, sent) {
                Ok(count) => {
                    self.state.metrics.datagrams_out += count as u64;
                    sent += count;
                }
                Err(error) if would_block(&error) && self.net.rearm_datagram(index, true).is_ok() => {
                    source.write_blocked = true;
                }
                Err(_) => {
                    self.state.metrics.count_drop(DropCause::SendFailed);
                    sent += 1;
                }
            }
        }
        departures.out.advance(sent);
    }

    // ---- 7: free ----

    fn free(&mut self) {
        for index in 0..self.state.freed.len() {
            let state = &mut self.state;
            let id = state.freed[index];
            let Some(conn) = state.conns.remove(id) else { continue };
            state.timers.cancel(id);
            self.net.close(id, conn.marks.any(Marks::RESET));
            if conn.marks.any(Marks::REFUSED) {
                state.refusals -= 1;
            } else {
                state.admitted -= 1;
            }
            if let Some(ip) = state.ips.remove(id)
                && let Entry::Occupied(mut count) = state.per_ip.entry(ip)
            {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            state.metrics.closed[conn.reason as usize] += 1;
            state.report(&Report::Closed { conn: id, reason: conn.reason });
        }
        self.state.freed.clear();
        self.state.metrics.connections_open = self.state.conns.len() as u64;
    }

    // ---- the end ----

    /// Ends everything in order: what has come already is still answered, listeners close, each connection is
    /// closed once its output is flushed, and what is left after `deadline` is broken off.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn drain(&mut self, deadline: Duration) -> Result<Drained, Error> {
        self.turn(Some(Duration::ZERO))?;
        let until = self.turned_at + deadline;
        for index in 0..self.sources.len() {
            if self.sources[index].address.is_stream() {
                self.unlisten(ListenerId(index as u32));
            }
        }
        let open: Vec<ConnId> = self.state.conns.iter().map(|(id, _)| id).collect();
        for &id in &open {
            self.state.finish(id, CloseReason::Drained);
        }
        while (self.connections() > 0 || self.wait(self.turned_at) == Some(Duration::ZERO))
            && self.turned_at < until
        {
            let left = until - self.turned_at;
            self.turn(Some(left))?;
        }
        let left: Vec<ConnId> = self.state.conns.iter().map(|(id, _)| id).collect();
        let aborted = left
            .into_iter()
            .filter(|&id| {
                let flushed = self.state.conns.get(id).is_some_and(|conn| conn.phase() == Phase::Lingering);
                self.state.kill(id, CloseReason::DrainDeadline);
                !flushed
            })
            .count();
        self.apply_effects();
        self.free();
        for index in 0..self.sources.len() {
            self.unlisten(ListenerId(index as u32));
        }
        Ok(Drained { closed: open.len() - aborted, aborted })
    }
}

/// What [`Reactor::read`] begins with.
enum First {
    /// Read.
    Read,
    /// Offer the kept input before anything is read.
    Offer,
    /// Go on with what a read gave.
    Got(io::Result<usize>),
    /// Go on after the service was offered `end` bytes, without any kept, and consumed some.
    Offered { end: usize, consumed: usize },
}

/// Whether a write is to be tried again when the system says so; an interrupted one took nothing either.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Keeps the input that a service has left, in the memory that held it before if there is any.
#[cold]
fn keep(state: &mut State, id: ConnId, spare: Option<Box<Vec<u8>>>, bytes: &[u8]) {
    if let Some(conn) = state.conns.get_mut(id) {
        let mut kept = spare.unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        conn.kept = Some(kept);
        conn.marks.set(Marks::KEPT);
        state.arm_next(id);
    }
}
