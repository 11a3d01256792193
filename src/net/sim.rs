//! A simulated system to test a service on: a network with faults, all of them derived from a seed.
//!
//! A [`Sim`] is a [`Reactor`] on a simulated system, together with the peers of a scenario. Reads and writes are short,
//! buffers are tiny, events are late, doubled or wrong, connections break, descriptors run out and clocks are set back, as
//! configured in [`Faults`]. The reactor, the limits and the services are the real ones. Everything follows from the seed: the
//! same seed gives the same [`Trace`], so a failure can be replayed exactly ([`check`]). Time is virtual, so an hour takes
//! milliseconds. After every turn the reactor checks its own state: counts, lists, timers and memory.
//!
//! [`UnitTest`] is for the methods of a service alone, without a network.
//!
//! ```
//! use tidewheel::sim::{self, Faults, Sim};
//! use tidewheel::{ConnId, Context, Service};
//!
//! struct Shout;
//!
//! impl Service for Shout {
//!     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
//!         cx.send_some(conn, &bytes.to_ascii_uppercase())
//!     }
//! }
//!
//! sim::check(0..50, |seed| {
//!     let mut sim = Sim::new(seed, Faults::hostile());
//!     let shout = sim.listen("127.0.0.1:7", Shout);
//!     let peer = sim.connect(shout);
//!     sim.send(peer, b"hello\n");
//!     sim.finish(peer);
//!     sim.run();
//!     assert_eq!(sim.received(peer), b"HELLO\n");
//!     assert_eq!(sim.reactor().connections(), 0);
//! });
//! ```

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

mod agenda;
mod errno;
mod faults;
mod peer;
mod random;
mod seeds;
mod socket;
mod system;
mod trace;
mod unit;

pub use faults::Faults;
pub use peer::{PeerId, PeerState};
pub use random::Random;
pub use seeds::check;
use system::Failing;
use system::While;
pub use system::{Reach, Running, SimNet, running};
pub use trace::Trace;
pub use unit::UnitTest;

use super::{Address, Checks, Peer};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::reactor::{ListenerId, Reactor};
use crate::service::{Options, Service, ServiceId};
use crate::timer::Instant;

/// How long, in virtual time, [`Sim::run`] goes on at most.
const RUN_MAX: Duration = Duration::from_secs(3600);

/// Turns without waiting, and without anything moving, after which the reactor is said to spin.
const IDLE_TURNS_MAX: u32 = 10_000;

/// A listener or datagram socket of a simulated reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its service, for [`Reactor::with`] and [`Reactor::mailbox`].
    pub service: ServiceId,
    /// Its id, for [`Reactor::unlisten`].
    pub id: ListenerId,
    source: u32,
}

type Check = Box<dyn FnMut(&Sim)>;

/// A reactor on a simulated system, and the peers that talk to it.
///
/// What peers are asked to do happens in the next run: [`Sim::run`], [`Sim::settle`] or [`Sim::run_for`]. When a scenario
/// panics, the seed and the last steps are printed to standard error.
pub struct Sim {
    reactor: Reactor<SimNet>,
    seed: u64,
    sources: u32,
    each_turn: Vec<Check>,
}

impl Sim {
    /// A reactor with the default limits on a simulated system.
    pub fn new(seed: u64, faults: Faults) -> Sim {
        Sim::with_limits(seed, faults, Limits::default())
    }

    /// A reactor with these limits on a simulated system. If [`Limits::connections_max`] is `None`, it is unlimited, so that
    /// [`Faults::descriptors_max`] can be reached.
    ///
    /// A panic in a service is a failed scenario, unless [`Sim::catch_panics`] is called.
    pub fn with_limits(seed: u64, faults: Faults, limits: Limits) -> Sim {
        let mut reactor = Reactor::with_net(SimNet::new(seed, faults), limits, usize::MAX);
        reactor.set_catch_panics(false);
        Sim { reactor, seed, sources: 0, each_turn: Vec::new() }
    }

    // ---- the reactor ----

    /// Adds a service and listens on an [`Address`] for it, such as `127.0.0.1:7`, `udp://127.0.0.1:7` or `unix:/path`.
    ///
    /// # Panics
    /// If the text is not an address, or the address is in use.
    pub fn listen(&mut self, address: &str, service: impl Service) -> Listener {
        self.listen_with(address, service, Options::new("simulated"))
    }

    /// Like [`Sim::listen`], with options.
    ///
    /// # Panics
    /// As [`Sim::listen`].
    pub fn listen_with(&mut self, address: &str, service: impl Service, options: Options) -> Listener {
        let service = self.reactor.add_service(service, options);
        self.listen_for(address, service)
    }

    /// Listens for a service that has been added already.
    ///
    /// # Panics
    /// As [`Sim::listen`].
    pub fn listen_for(&mut self, address: &str, service: ServiceId) -> Listener {
        let address = parse(address);
        let source = self.sources;
        match self.reactor.listen(&address, service) {
            Ok((id, _)) => {
                self.sources += 1;
                Listener { service, id, source }
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The counters of the reactor.
    pub fn metrics(&self) -> &Metrics {
        self.reactor.metrics()
    }

    /// The reactor: its services, its mailboxes, its observer.
    ///
    /// To listen, use [`Sim::listen`]: peers cannot connect to listeners that were created by other means.
    pub fn reactor(&mut self) -> &mut Reactor<SimNet> {
        &mut self.reactor
    }

    /// Bytes of memory that the reactor counts against its limits.
    pub fn accounted_bytes(&self) -> usize {
        self.reactor.accounted_bytes()
    }

    /// From here on a panic in a service closes the connection that it was called for, as with
    /// [`Config::catch_panics`](crate::Config::catch_panics). Otherwise it ends the scenario, so that assertions in services of
    /// tests count.
    pub fn catch_panics(&mut self) {
        self.reactor.set_catch_panics(true);
    }

    /// From here on `check` is called after every turn of a run: for what must hold at any time, such as that nobody is in two
    /// rooms. Further calls add to it.
    pub fn check_each_turn(&mut self, check: impl FnMut(&Sim) + 'static) {
        self.each_turn.push(Box::new(check));
    }

    /// Descriptors that are open: listeners, datagram sockets and connections.
    pub fn descriptors(&self) -> usize {
        self.net().descriptors()
    }

    /// What goes wrong from here on: its fields can be changed at any time.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.net_mut().faults
    }

    /// Lets the next `times` calls that accept from a listener, or receive from a datagram socket, fail with this error number
    /// ([`std::io::Error::from_raw_os_error`]). The first of them is made at once. Another call replaces this.
    pub fn fail_source(&mut self, listener: Listener, error: i32, times: u64) {
        self.net_mut().fail_source(listener.source, error, times);
    }

    /// Lets the next `times` waits for readiness fail with this error number. What is ready meanwhile is reported later.
    /// Another call replaces this.
    pub fn fail_waits(&mut self, error: i32, times: u64) {
        self.net_mut().failing_waits = Failing { error, times };
    }

    fn net(&self) -> &SimNet {
        self.reactor.net()
    }

    fn net_mut(&mut self) -> &mut SimNet {
        self.reactor.net_mut()
    }

    // ---- peers ----

    /// Creates a peer that connects to a stream listener, from an address of its own.
    ///
    /// # Panics
    /// If it is not a stream listener, or not open.
    pub fn connect(&mut self, listener: Listener) -> PeerId {
        self.net_mut().connect_peer(listener.source, None)
    }

    /// Creates a peer that connects to a TCP listener from this IP address.
    ///
    /// # Panics
    /// As [`Sim::connect`].
    pub fn connect_from(&mut self, listener: Listener, from: IpAddr) -> PeerId {
        self.net_mut().connect_peer(listener.source, Some(from))
    }

    /// Sets what happens at an address that services connect to. By default, connections are refused, except to the reactor's
    /// own listeners.
    ///
    /// # Panics
    /// If the text is not an address.
    pub fn remote(&mut self, address: &str, reach: Reach) {
        let address = parse(address);
        let remotes = &mut self.net_mut().remotes;
        match remotes.iter_mut().find(|remote| remote.address == address) {
            Some(remote) => remote.reach = reach,
            None => remotes.push(system::Remote { address, reach, callers: Vec::new() }),
        }
    }

    /// The peers at an address that services have connected to ([`Reach::Answers`]), in the order of the connections.
    ///
    /// # Panics
    /// If the text is not an address.
    pub fn callers(&self, address: &str) -> Vec<PeerId> {
        let address = parse(address);
        let found = self.net().remotes.iter().find(|remote| remote.address == address);
        found.map_or(Vec::new(), |remote| remote.callers.clone())
    }

    /// Lets a peer send bytes, after everything it has still to send.
    ///
    /// # Panics
    /// If the peer has ended its side, by itself or with [`Sim::finish`], or has no connection any more. Where that can happen,
    /// use [`Sim::try_send`].
    #[track_caller]
    pub fn send(&mut self, peer: PeerId, bytes: &[u8]) {
        self.assert_can_send(peer, "cannot send");
        self.net_mut().peers[peer.0].to_send.extend(bytes);
        self.net_mut().attend_soon(peer);
    }

    /// Like [`Sim::send`], but returns false where that would panic.
    pub fn try_send(&mut self, peer: PeerId, bytes: &[u8]) -> bool {
        let can = self.can_send(peer);
        if can {
            self.send(peer, bytes);
        }
        can
    }

    /// Whether a peer can still send: it has a connection, perhaps not established yet, and has not ended its side. As in a
    /// real network, bytes can be lost in a connection whose end the peer has not noticed yet.
    pub fn can_send(&self, peer: PeerId) -> bool {
        self.net().sends_no_more(peer).is_none()
    }

    /// Lets a peer send an urgent byte, which arrives at once, after what has arrived before: reads stop short there. The byte is
    /// not part of the stream, and one that arrives before the previous one was read has no effect. Returns false, and sends
    /// nothing, on a unix socket and before the connection is established.
    ///
    /// # Panics
    /// As [`Sim::send`].
    #[track_caller]
    pub fn send_urgent(&mut self, peer: PeerId) -> bool {
        self.assert_can_send(peer, "cannot send an urgent byte");
        self.net_mut().urge(peer)
    }

    /// Lets a peer end its side once everything is sent, and go on reading (a half-close). Without this it ends its side when the
    /// server has ended the other; see [`Sim::stay`]. Returns false if it has ended its side already or has no connection.
    pub fn finish(&mut self, peer: PeerId) -> bool {
        let can = self.can_send(peer);
        if can {
            self.net_mut().peers[peer.0].finishes = true;
            self.net_mut().attend_soon(peer);
        }
        can
    }

    /// Lets a peer keep its side open when the server ends the other.
    ///
    /// # Panics
    /// As [`Sim::send`].
    #[track_caller]
    pub fn stay(&mut self, peer: PeerId) {
        self.assert_can_send(peer, "cannot stay");
        self.net_mut().peers[peer.0].stays = true;
    }

    #[track_caller]
    fn assert_can_send(&self, peer: PeerId, what: &str) {
        if let Some(why) = self.net().sends_no_more(peer) {
            panic!("{peer:?} {what}: {why}");
        }
    }

    #[track_caller]
    fn assert_connected(&self, peer: PeerId, what: &str) {
        if let Some(why) = self.net().is_gone(peer) {
            panic!("{peer:?} {what}: {why}");
        }
    }

    /// Lets a peer close both sides, like a program that exits: later data is answered with a reset. Returns whether it had a
    /// connection to close.
    pub fn close(&mut self, peer: PeerId) -> bool {
        self.net_mut().close_peer(peer, false)
    }

    /// Lets a peer reset its connection: what it has not sent yet is lost. Returns whether it had a connection to reset.
    pub fn reset(&mut self, peer: PeerId) -> bool {
        self.net_mut().close_peer(peer, true)
    }

    /// Cuts a peer off from the network: nothing reaches it any more, and nothing is received from it.
    ///
    /// # Panics
    /// If it has no connection any more.
    #[track_caller]
    pub fn cut_off(&mut self, peer: PeerId) {
        self.assert_connected(peer, "cannot be cut off");
        self.net_mut().cut_off(peer);
    }

    /// Lets a peer stop reading: what is sent to it becomes pending output.
    pub fn stop_reading(&mut self, peer: PeerId) {
        self.net_mut().peers[peer.0].reads = false;
    }

    /// Lets a peer read again. It notices now if its connection has broken meanwhile.
    pub fn resume_reading(&mut self, peer: PeerId) {
        self.net_mut().peers[peer.0].reads = true;
        self.net_mut().attend_soon(peer);
    }

    /// Lets a peer read at most `bytes` at a time and then pause for `rest`.
    pub fn read_slowly(&mut self, peer: PeerId, bytes: usize, rest: Duration) {
        self.net_mut().peers[peer.0].pace = Some((bytes, rest));
    }

    /// Everything that a peer has read.
    pub fn received(&self, peer: PeerId) -> &[u8] {
        &self.net().peers[peer.0].received
    }

    /// The state of a peer's connection, as the peer sees it.
    pub fn state(&self, peer: PeerId) -> PeerState {
        self.net().peers[peer.0].state
    }

    // ---- datagrams ----

    /// Sends a datagram to a datagram socket from the address `from`: `10.0.0.1:5000`, or the absolute path of a unix socket, or
    /// an empty text for a unix socket without a path.
    ///
    /// # Panics
    /// If the text is not an address.
    pub fn send_datagram(&mut self, socket: Listener, from: &str, bytes: &[u8]) {
        self.net_mut().send_datagram(socket.source, parse_peer(from), false, bytes);
    }

    /// Sends a datagram that arrives by broadcast or multicast.
    ///
    /// # Panics
    /// If the text is not an address.
    pub fn broadcast(&mut self, socket: Listener, from: &str, bytes: &[u8]) {
        self.net_mut().send_datagram(socket.source, parse_peer(from), true, bytes);
    }

    /// The datagrams that were sent to an address, in order.
    ///
    /// # Panics
    /// If the text is not an address.
    pub fn replies(&self, to: &str) -> &[Vec<u8>] {
        self.net().replies.get(&parse_peer(to)).map_or(&[], Vec::as_slice)
    }

    // ---- time ----

    /// The virtual monotonic time.
    pub fn now(&self) -> Instant {
        self.net().time()
    }

    /// The virtual wall clock.
    pub fn wall(&self) -> SystemTime {
        self.net().wall_time()
    }

    /// Sets the wall clock forward, or back if `seconds` is negative. The monotonic clock goes on as before.
    pub fn step_wall(&mut self, seconds: i64) {
        self.net_mut().step_wall(seconds);
    }

    /// Lets time pass while the reactor does not turn, as when its machine or its program is suspended.
    pub fn sleep(&mut self, duration: Duration) {
        self.net_mut().sleep(duration);
    }

    /// Runs until nothing is left to happen, deadlines included, but at most for an hour of virtual time. Returns whether nothing
    /// is left.
    ///
    /// # Panics
    /// If the reactor turns again and again without waiting and without doing anything.
    pub fn run(&mut self) -> bool {
        let end = self.now() + RUN_MAX;
        self.run_while(end, |net, timeout| !net.is_quiet() || timeout.is_some())
    }

    /// Runs until nothing is under way. It does not wait for deadlines of the reactor, such as that of an idle connection.
    ///
    /// # Panics
    /// As [`Sim::run`].
    pub fn settle(&mut self) {
        let end = self.now() + RUN_MAX;
        self.run_while(end, |net, timeout| !net.is_quiet() || timeout == Some(Duration::ZERO));
    }

    /// Runs for this much virtual time.
    ///
    /// # Panics
    /// As [`Sim::run`].
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now() + duration;
        self.run_while(end, |_, _| true);
    }

    /// Turns until `end`, or until `goes_on` says no. Returns whether that was why.
    fn run_while(&mut self, end: Instant, goes_on: impl Fn(&SimNet, Option<Duration>) -> bool) -> bool {
        let mut idle_turns = 0;
        let mut turned = false;
        let ended = loop {
            let mut timeout = self.reactor.next_timeout();
            if let Some(rings_in) = self.net().rings_in() {
                timeout = Some(timeout.map_or(rings_in, |timeout| timeout.min(rings_in)));
            }
            if !goes_on(self.net(), timeout) {
                break true;
            }
            let now = self.now();
            if now >= end {
                break false;
            }
            turned = true;
            let progress = self.net().progress;
            self.turn(end - now);
            let still = self.net().progress == progress && timeout == Some(Duration::ZERO);
            idle_turns = if still { idle_turns + 1 } else { 0 };
            assert!(
                idle_turns < IDLE_TURNS_MAX,
                "the reactor spins: it does not wait, and in {idle_turns} turns nothing moved"
            );
        };
        if turned {
            self.reactor.assert_invariants(Checks::All);
        }
        ended
    }

    fn turn(&mut self, max_wait: Duration) {
        let running = While::begin(Running::Reactor);
        if let Err(error) = self.reactor.turn(Some(max_wait)) {
            panic!("{error}");
        }
        drop(running);
        let mut each_turn = std::mem::take(&mut self.each_turn);
        each_turn.iter_mut().for_each(|check| check(self));
        self.each_turn = each_turn;
    }

    // ---- what happened ----

    /// Keeps every step of the trace from here on, not only the last ones.
    pub fn keep_trace(&mut self) {
        self.net_mut().trace.keep_all();
    }

    /// What has happened: a hash to compare, and the steps to read.
    pub fn trace(&self) -> &Trace {
        &self.net().trace
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprint!("the last steps of the simulation with seed {seed}:\n{}", self.trace());
        }
    }
}

fn parse(text: &str) -> Address {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn parse_peer(text: &str) -> Peer {
    match text.parse() {
        Ok(address) => Peer::Inet(address),
        Err(_) if text.is_empty() => Peer::Unix(None),
        Err(_) if text.starts_with('/') => Peer::Unix(Some(PathBuf::from(text))),
        Err(_) => panic!(
            "{text:?} is not the address of a sender: write 10.0.0.1:5000, or a path that begins with /"
        ),
    }
}
