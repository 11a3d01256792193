//! Making a reactor, giving it services and addresses, and ending it.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::config::Config;
use super::failures::Failures;
use super::panics::At;
use super::remote::Remote;
use super::sharing::Sharing;
use super::sources::{ListenerId, Source};
use super::{EffectsLeft, Reactor, Registered};
use crate::connection::{Connection, Marks, Phase, Timeouts};
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
use crate::timer::Instant;

/// Descriptors that are not for connections: the event queue, the waker, standard streams, what the program opens.
const DESCRIPTOR_RESERVE: usize = 64;

impl Reactor<Os> {
    /// A reactor on the real system, from [`Limits`] or a whole [`Config`]. Where [`Limits::connections_max`] is `None`, it is
    /// what the limit of open descriptors allows, less a reserve: see
    /// [`raise_descriptor_limit`](crate::os::raise_descriptor_limit).
    ///
    /// # Errors
    /// [`Error::Setup`] when the system has no descriptor or memory for an event queue.
    pub fn new(config: impl Into<Config>) -> Result<Reactor<Os>, Error> {
        let Config { limits, busy_poll, io_uring, catch_panics } = config.into();
        let descriptors = os::descriptor_limit().map_err(Error::Setup)?;
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        // Where there are few, refusals and all else are left with a part of them.
        let limits = Limits { refusals_max: limits.refusals_max.min(descriptors / 8), ..limits };
        let reserve = (DESCRIPTOR_RESERVE + limits.refusals_max).min(descriptors / 2);
        let net = Os::new(busy_poll, io_uring).map_err(Error::Setup)?;
        let mut reactor = Reactor::with_net(net, limits, (descriptors - reserve).max(1));
        reactor.set_catch_panics(catch_panics);
        Ok(reactor)
    }
}

impl Reactor<Os> {
    /// Binds an address for a service without listening on it yet. A server with several addresses binds all of them before it
    /// listens on any, so that no connection is accepted if the start fails. Returns the address like [`Reactor::listen`]. A
    /// datagram socket receives from now on.
    ///
    /// # Errors
    /// [`Error::Listen`]; nothing is left bound.
    pub fn bind(&mut self, address: &Address, service: ServiceId) -> Result<(ListenerId, Address), Error> {
        self.open_source(address, service, false, Os::bind)
    }

    /// Listens on an address that was bound with [`Reactor::bind`]. With `share`, other reactors can join it with
    /// [`Reactor::listen_shared`] from then on, and it is certain that no other program uses the address.
    ///
    /// # Errors
    /// [`Error::Listen`]: another program has listened on it meanwhile. The listener is closed.
    pub fn start_listening(&mut self, listener: ListenerId, share: bool) -> Result<(), Error> {
        self.net.start_listening(listener.0, share).map_err(|source| {
            let address = self.sources[listener.0 as usize].address.clone();
            self.unlisten(listener);
            Error::Listen { address, source }
        })
    }

    /// Sets the mode of the files of unix sockets that are bound from now on, such as `0o660`; `None`, the default, leaves it to
    /// the umask. A file has its mode from the moment it exists, for which the umask of the process is changed briefly.
    pub fn set_unix_mode(&mut self, mode: Option<u32>) {
        self.net.set_unix_mode(mode);
    }

    /// Whether the writes of a turn are made through io_uring: see [`Config::io_uring`].
    pub fn uses_io_uring(&self) -> bool {
        self.net.uses_io_uring()
    }
}

/// The event queue, for a loop that waits for other things too: when it is readable, or after [`Reactor::next_timeout`],
/// [`Reactor::turn`] has something to do.
impl AsFd for Reactor<Os> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

impl Reactor<Os> {
    /// Lets a service read a stream socket that is not a client, such as the socket pair of a signal handler or a child
    /// process. It is not subject to limits, is not counted, and stays open during a graceful shutdown.
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
    /// A reactor on any system. `connections_max` applies where [`Limits::connections_max`] is `None`.
    pub(crate) fn with_net(net: N, limits: Limits, connections_max: usize) -> Reactor<N> {
        let remote = Remote::new(net.waker());
        let connections_max = limits.connections_max.unwrap_or(connections_max);
        // Whoever begins to read below TURN_BYTES has room for kept input, as far as it is copied there, and for two reads behind it.
        let buffer: Box<[u8]> = vec![0; TURN_BYTES + 4 * READ_BYTES + INPUT_ALIGN].into();
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
            unshown: None,
            sharing: Sharing::default(),
            last_served: 0,
            due: VecDeque::new(),
            short: Vec::new(),
            batch: None,
            in_left_over: false,
            left_over: false,
            wait_failures: Failures::default(),
            release_at: Instant::default(),
            mail: false,
            at: At::Deadlines,
            effects: EffectsLeft::default(),
            catch_panics: true,
        }
    }

    /// Adds a service. It serves the connections and datagrams of [`Reactor::listen`], [`Context::connect`] and
    /// [`Context::hand_over`].
    ///
    /// # Panics
    /// With more than 65,535 services.
    pub fn add_service(&mut self, service: impl Service, options: Options) -> ServiceId {
        let id =
            ServiceId(u16::try_from(self.services.len()).expect("a reactor has at most 65,535 services"));
        let idle = options.idle_timeout.or(self.state.limits.idle_timeout);
        self.state.keeps_time |= idle.is_some();
        self.state.output_pauses_input.push(options.output_pauses_input);
        self.state.timeouts.push(Timeouts::new(&self.state.limits, idle, options.messages));
        self.services.push(Registered { service: Box::new(service), options });
        id
    }

    /// Listens on an address for a service. Returns the address that it is bound to, with the port that the system has chosen
    /// if `address` has port 0.
    ///
    /// # Errors
    /// [`Error::Listen`]; nothing is left bound.
    pub fn listen(&mut self, address: &Address, service: ServiceId) -> Result<(ListenerId, Address), Error> {
        self.open_source(address, service, false, N::listen)
    }

    /// Like [`Reactor::listen`], but several reactors can listen on the same address, and the kernel distributes connections
    /// and datagrams among them (SO_REUSEPORT). They may belong to other programs of the same user, which is not an error: to
    /// rule that out, let the first reactor [`bind`](Reactor::bind) and [start to listen](Reactor::start_listening).
    ///
    /// # Errors
    /// As [`Reactor::listen`].
    pub fn listen_shared(
        &mut self,
        address: &Address,
        service: ServiceId,
    ) -> Result<(ListenerId, Address), Error> {
        self.open_source(address, service, true, N::listen)
    }

    fn open_source(
        &mut self,
        address: &Address,
        service: ServiceId,
        reuse_port: bool,
        open: impl FnOnce(&mut N, u32, &Address, ListenOptions) -> io::Result<Address>,
    ) -> Result<(ListenerId, Address), Error> {
        let index = self.sources.len() as u32;
        let bound = open(&mut self.net, index, address, ListenOptions { reuse_port })
            .map_err(|source| Error::Listen { address: address.clone(), source })?;
        if !bound.is_stream() && self.inbound.is_none() {
            self.inbound = Some(Box::new(Inbound::new()));
        }
        self.sources.push(Source {
            address: bound.clone(),
            service,
            open: true,
            ready: false,
            failures: Failures::default(),
            write_blocked: false,
        });
        self.state.departures.push(Departures { out: Outbound::default(), counted: 0, dirty: false });
        self.state.reply_policy.add_address(&bound);
        Ok((ListenerId(index), bound))
    }

    /// Closes a listener or datagram socket. Connections that it has accepted stay open; pending outgoing datagrams are
    /// dropped.
    pub fn unlisten(&mut self, listener: ListenerId) {
        if let Some(source) = self.sources.get_mut(listener.0 as usize)
            && std::mem::replace(&mut source.open, false)
        {
            self.state.reply_policy.remove_address(&source.address);
            self.state.departures[listener.0 as usize].out.clear();
            self.net.unlisten(listener.0);
        }
    }

    /// Creates a mailbox through which other threads send messages of type `M` to a service. It holds up to `capacity`
    /// messages.
    ///
    /// # Panics
    /// If `service` is not of type `S`.
    pub fn mailbox<S: Receive<M>, M: Send + 'static>(
        &mut self,
        service: ServiceId,
        capacity: usize,
    ) -> Mailbox<M> {
        let entry: &dyn Any = &*self.services[service.0 as usize].service;
        assert!(entry.is::<S>(), "the service of the mailbox is not of the type S");
        let (mailbox, inbox) = mailbox::mailbox::<S, M>(capacity, self.net.waker());
        self.inboxes.push((service, inbox));
        mailbox
    }

    /// Calls a service between turns: to start outgoing connections, for example, or to read its state. Effects are applied in
    /// the next turn, which does not wait. The closure's argument needs its type: `|service: &mut Echo, cx| ...`.
    ///
    /// # Panics
    /// If `service` is not of type `S`.
    pub fn with<S: Service, R>(
        &mut self,
        service: ServiceId,
        call: impl FnOnce(&mut S, &mut Context<'_>) -> R,
    ) -> R {
        let entry: &mut dyn Any = &mut *self.services[service.0 as usize].service;
        let service = entry.downcast_mut().expect("the service is of another type than S");
        call(service, &mut Context { state: &mut self.state, wire: &mut self.net })
    }

    /// Sets the observer, which gets a [`Report`](crate::Report) of everything that happens.
    pub fn observe(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observe_bytes(true);
    }

    /// Like [`Reactor::observe`], but without the traffic: the observer does not get [`Report::Input`](crate::Report::Input),
    /// [`Report::Output`](crate::Report::Output), [`Report::DatagramIn`](crate::Report::DatagramIn) and
    /// [`Report::DatagramOut`](crate::Report::DatagramOut), so it costs nothing per message.
    pub fn observe_events(&mut self, observer: Observer) {
        self.state.observer = Some(observer);
        self.state.observe_bytes(false);
    }

    /// A handle to this reactor for other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.state.metrics
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn net(&self) -> &N {
        &self.net
    }

    pub(crate) fn net_mut(&mut self) -> &mut N {
        &mut self.net
    }

    /// How many connections are open, including those that are being closed.
    pub fn connections(&self) -> usize {
        self.state.conns.len() - self.state.watched
    }
}
