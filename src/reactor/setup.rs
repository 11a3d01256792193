//! Making a reactor, giving it services and addresses, and ending it.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::remote::Remote;
use super::sharing::Sharing;
use super::sources::{ListenerId, Source};
use super::{Reactor, Registered};
use crate::connection::{CloseReason, Connection, Marks, Phase, Timeouts};
use crate::datagram::{Inbound, Outbound};
use crate::error::Error;
use crate::limits::Limits;
use crate::mailbox::{self, Mailbox};
use crate::metrics::Metrics;
use crate::net::os::{self, Os};
use crate::net::{Address, Flags, ListenOptions, Net};
use crate::output::{INPUT_ALIGN, TURN_BYTES};
use crate::service::{Context, Options, Receive, Service, ServiceId};
use crate::slots::ConnId;
use crate::state::{Departures, Observer, READ_BYTES, State};

/// Descriptors that are not for connections: the event queue, the waker, standard streams, what the program opens.
const DESCRIPTOR_RESERVE: u64 = 64;

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
        Ok(Reactor::with_net(
            Os::new(limits.busy_poll, limits.io_uring).map_err(Error::Setup)?,
            limits,
            spare as usize,
        ))
    }
}

impl Reactor<Os> {
    /// Whether the writes of a turn are made through io_uring: see [`Limits::io_uring`].
    pub fn uses_io_uring(&self) -> bool {
        self.net.uses_io_uring()
    }
}

/// The event queue, for whoever waits for several things at once: when it is readable, or after
/// [`Reactor::next_timeout`], there is something to do for [`Reactor::turn`].
impl AsFd for Reactor<Os> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

impl Reactor<Os> {
    /// Has a service read a stream socket that is no client: the pair of a signal handler, a child process. It is
    /// outside of all limits and counters, and a drain leaves it open.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn watch(&mut self, stream: impl Into<OwnedFd>, service: ServiceId) -> io::Result<ConnId> {
        let id = self.state.conns.next_id();
        self.net.adopt(stream.into(), id)?;
        let mut conn = Connection::new(Phase::Open, service.0, Flags::READ, self.state.now.get());
        conn.set_short_is_drained(false);
        conn.marks.set(Marks::WATCHED);
        self.state.watched += 1;
        Ok(self.state.conns.insert(conn))
    }
}

impl<N: Net> Reactor<N> {
    /// A reactor on any system. `connections_max` applies where the limits name none.
    pub fn with_net(net: N, limits: Limits, connections_max: usize) -> Reactor<N> {
        let remote = Remote::new(net.waker());
        let connections_max = limits.connections_max.unwrap_or(connections_max);
        // Whoever begins to read below TURN_BYTES has room for kept input and for two reads behind it.
        let buffer: Box<[u8]> =
            vec![0; TURN_BYTES + limits.input_bytes_max + 3 * READ_BYTES + INPUT_ALIGN].into();
        let mut state = State::new(limits, connections_max);
        state.outbox.set_input(&buffer);
        Reactor {
            net,
            buffer,
            state,
            services: Vec::new(),
            sources: Vec::new(),
            inboxes: Vec::new(),
            remote,
            inbound: None,
            sharing: Sharing::default(),
            last_served: 0,
            short: Vec::new(),
            events: None,
            left_over: false,
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
        self.state.keeps_time |= idle.is_some();
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
        // A peer that has vanished is found out by output that waits here, or by what the system holds for it.
        let delivery_timeout = self.state.limits.progress_timeout;
        let bound = self
            .net
            .listen(index, address, ListenOptions { reuse_port, delivery_timeout })
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

    /// Sees everything that happens; see [`Report`](crate::Report). Costs nothing when there is none.
    pub fn observe(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observe_bytes(true);
    }

    /// Like [`Reactor::observe`], but does not see what comes and goes: no [`Report::Input`](crate::Report::Input), [`Report::Output`](crate::Report::Output),
    /// [`Report::DatagramIn`](crate::Report::DatagramIn) and [`Report::DatagramOut`](crate::Report::DatagramOut). So it costs nothing per message.
    pub fn observe_events(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observe_bytes(false);
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
        self.state.conns.len() - self.state.watched
    }

    fn clients(&self) -> Vec<ConnId> {
        let clients = self.state.conns.iter().filter(|(_, conn)| !conn.marks.any(Marks::WATCHED));
        clients.map(|(id, _)| id).collect()
    }

    /// Ends everything in order: what has come already is still answered, listeners close, each connection is
    /// closed once its output is flushed, and what is left after `deadline` is broken off.
    ///
    /// # Errors
    /// [`Error::Poll`]: the system no longer tells readiness.
    pub fn drain(&mut self, deadline: Duration) -> Result<Drained, Error> {
        self.turn(Some(Duration::ZERO))?;
        let until = self.net.now() + deadline;
        for index in 0..self.sources.len() {
            if self.sources[index].address.is_stream() {
                self.unlisten(ListenerId(index as u32));
            }
        }
        let open: Vec<ConnId> = self.clients();
        for &id in &open {
            self.state.finish(id, CloseReason::Drained);
        }
        while self.connections() > 0 || self.next_timeout() == Some(Duration::ZERO) {
            let now = self.net.now();
            if now >= until {
                break;
            }
            self.turn(Some(until - now))?;
        }
        let left: Vec<ConnId> = self.clients();
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
