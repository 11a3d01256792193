//! The system calls: what the reactor asks of the simulated system, as [`Net`] and [`Wire`] say.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::{Reach, Running, SimNet, Source, While, failed, nanos};
use crate::datagram::{Inbound, Outbound};
use crate::limits::Limits;
use crate::net::sim::agenda::Happening;
use crate::net::sim::errno;
use crate::net::sim::peer::{PeerId, PlayedPeer};
use crate::net::sim::socket::Owner;
use crate::net::sim::trace::{Detail, Subject};
use crate::net::{
    ALARM, Address, Checks, Delivery, Flags, ListenOptions, Net, Peer, Readiness, Short, Totals, WAKER, Wake,
    Wire, source_token, write_one_by_one,
};
use crate::slots::ConnId;
use crate::timer::Instant;

/// So many connections are checked in each turn on average.
const CHECKED_CONNECTIONS: f64 = 16.0;

struct SimWaker(Arc<AtomicBool>);

impl Wake for SimWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimNet {
    /// Time passes, and the call may be interrupted.
    pub(super) fn call(&mut self) -> io::Result<()> {
        let most = nanos(self.faults.call_time_max) as usize;
        if most > 0 {
            let until_ns = self.now_ns + self.random.below(most) as u64;
            self.pass_until(until_ns);
        }
        if self.random.chance(self.faults.interrupted) { Err(failed(errno::EINTR)) } else { Ok(()) }
    }

    #[track_caller]
    fn socket_of(&self, id: ConnId) -> usize {
        match self.connections.get(id.slot()) {
            Some(&Some((owner, socket))) if owner == id => socket,
            _ => panic!("the reactor named connection {id}, which the system does not have"),
        }
    }

    #[track_caller]
    fn register(&mut self, id: ConnId, socket: usize, interest: Flags) {
        if id.slot() >= self.connections.len() {
            self.connections.resize(id.slot() + 1, None);
        }
        if let Some((old, _)) = self.connections[id.slot()].replace((id, socket)) {
            panic!("the reactor gave connection {id} the slot of {old}, which it has not closed");
        }
        self.descriptors += 1;
        self.sockets[socket].owner = Owner::Reactor(id);
        self.sockets[socket].interest = interest;
        self.list(socket);
    }

    fn write_some(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket_of(id);
        self.call()?;
        if let Some(error) = self.faults.write_error {
            self.note("write fails", id, Detail::Error(error));
            return Err(failed(error));
        }
        let mut room = match self.sockets[socket].writable() {
            Ok(room) => room,
            Err(error) => {
                self.sockets[socket].no_space |= error == errno::EAGAIN;
                self.note("write fails", id, Detail::Error(error));
                return Err(failed(error));
            }
        };
        let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        let stuck = self.random.chance(self.faults.would_block);
        if stuck || self.random.chance(self.faults.short_write) {
            // Short is less than what it would be, but something.
            let most = offered.min(room);
            room = if stuck { 0 } else { 1 + self.random.below(most.saturating_sub(1)) };
            self.sockets[socket].choked = true;
            self.enter(Happening::Unchoke { socket });
        }
        let count = offered.min(room);
        let end = &mut self.sockets[socket];
        end.no_space |= count < offered;
        let mut left = count;
        for piece in pieces {
            let taken = piece.len().min(left);
            end.send.extend(&piece[..taken]);
            left -= taken;
        }
        self.note("write", id, Detail::Bytes(count));
        if count == 0 {
            return Err(failed(errno::EAGAIN));
        }
        self.progress += 1;
        self.kick(socket);
        Ok(count)
    }
}

impl Wire for SimNet {
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let _system = While::begin(Running::System);
        self.write_some(id, &[IoSlice::new(bytes)])
    }

    fn now(&self) -> Instant {
        self.time()
    }

    fn wall(&self) -> SystemTime {
        self.wall_time()
    }
}

impl Net for SimNet {
    type Events = Vec<Readiness>;
    type Readiness<'a> = std::iter::Copied<std::slice::Iter<'a, Readiness>>;

    fn events(&self) -> Vec<Readiness> {
        Vec::new()
    }

    /// Without a `max_wait`, and with nothing that could ever happen, it returns no events.
    fn wait(&mut self, events: &mut Vec<Readiness>, max_wait: Option<Duration>) -> io::Result<()> {
        let _system = While::begin(Running::System);
        events.clear();
        self.work.begin_turn(events);
        self.disturb_clocks();
        self.failing_waits
            .fails()
            .inspect_err(|_| self.note("poll fails", Subject::Whole, Detail::Nothing))?;
        let mut until_ns = max_wait.map(|wait| self.now_ns.saturating_add(nanos(wait)));
        let was_still = self.is_still();
        if self.call().is_err() {
            self.note("poll interrupted", Subject::Whole, Detail::Nothing);
            until_ns = Some(0);
        }
        loop {
            self.happen();
            if self.woken.swap(false, Ordering::AcqRel) {
                events.push(Readiness { token: WAKER, flags: Flags::READ });
            }
            if self.alarm_ns.is_some_and(|at_ns| at_ns <= self.now_ns) {
                self.alarm_ns = None;
                events.push(Readiness { token: ALARM, flags: Flags::READ });
            }
            self.harvest(events);
            if !events.is_empty() {
                break;
            }
            let rings_ns = self.alarm_ns.filter(|&at_ns| until_ns.is_none_or(|until_ns| at_ns <= until_ns));
            match self.agenda.next_ns() {
                Some(at_ns)
                    if rings_ns.is_none_or(|rings_ns| at_ns <= rings_ns)
                        && until_ns.is_none_or(|until_ns| at_ns <= until_ns) =>
                {
                    self.now_ns = self.now_ns.max(at_ns);
                }
                // As after an interruption: whoever drives the simulation wants to see that the network has
                // become quiet before anything waits for a deadline.
                None if !was_still => break,
                _ if rings_ns.is_some() => self.now_ns = self.now_ns.max(rings_ns.unwrap_or(0)),
                _ => {
                    self.now_ns = self.now_ns.max(until_ns.unwrap_or(0));
                    break;
                }
            }
        }
        self.work.begin_turn(events);
        self.note_events(events);
        Ok(())
    }

    fn pause(&mut self, duration: Duration) {
        self.sleep(duration);
    }

    fn readiness(events: &Vec<Readiness>) -> Self::Readiness<'_> {
        events.iter().copied()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker(self.woken.clone()))
    }

    fn set_alarm(&mut self, after: Duration) -> io::Result<()> {
        self.alarm_ns = Some(self.now_ns.saturating_add(nanos(after)));
        Ok(())
    }

    fn listen(&mut self, source: u32, address: &Address, options: ListenOptions) -> io::Result<Address> {
        let _system = While::begin(Running::System);
        if self.is_out_of_descriptors() {
            return Err(failed(errno::EMFILE));
        }
        let mut bound = address.clone();
        if let Address::Tcp(at) | Address::Udp(at) = &mut bound
            && at.port() == 0
        {
            at.set_port(self.port());
        }
        if !options.reuse_port && self.bound_to(&bound).is_some() {
            return Err(failed(errno::EADDRINUSE));
        }
        if source as usize >= self.sources.len() {
            self.sources.resize_with(source as usize + 1, || None);
        }
        let address = bound.clone();
        self.sources[source as usize] = Some(if address.is_stream() {
            Source::Listener { address, backlog: VecDeque::new(), listed: false }
        } else {
            Source::Datagram {
                address,
                held: VecDeque::new(),
                blocked: false,
                wants_write: false,
                listed: false,
            }
        });
        self.descriptors += 1;
        self.note("listen", Subject::Source(source), Detail::Nothing);
        Ok(bound)
    }

    fn unlisten(&mut self, source: u32) {
        let _system = While::begin(Running::System);
        let closed = self.sources[source as usize].take();
        assert!(closed.is_some(), "the reactor closed source {source} twice");
        self.descriptors -= 1;
        self.note("unlisten", Subject::Source(source), Detail::Nothing);
        if let Some(Source::Listener { backlog, .. }) = closed {
            for socket in backlog {
                self.close_socket(socket, true);
            }
        }
        if self.random.chance(self.faults.stale_event) {
            self.enter(Happening::Tell(Readiness { token: source_token(source), flags: Flags::READ }));
        }
    }

    fn accept(&mut self, source: u32, id: ConnId) -> io::Result<Peer> {
        let _system = While::begin(Running::System);
        self.call()?;
        // Linux looks for a descriptor first, whether or not somebody waits.
        if self.is_out_of_descriptors() {
            self.note("accept: EMFILE", Subject::Source(source), Detail::Nothing);
            return Err(failed(errno::EMFILE));
        }
        self.source_fails(source)?;
        let Some(Some(Source::Listener { backlog, .. })) = self.sources.get_mut(source as usize) else {
            panic!("the reactor accepted from source {source}, which is not a listener that is open");
        };
        if backlog.is_empty() {
            return Err(failed(errno::EAGAIN));
        }
        if self.random.chance(self.faults.accept_exhausted) {
            let errors = [errno::ENFILE, errno::ENOBUFS, errno::ENOMEM];
            let error = errors[self.random.below(errors.len())];
            self.note("accept fails", Subject::Source(source), Detail::Error(error));
            return Err(failed(error));
        }
        let socket = backlog.pop_front().expect("it was looked at above");
        self.progress += 1;
        self.work.accepted(source);
        // A unix stream cannot break before it is accepted.
        if self.sockets[socket].tcp && self.random.chance(self.faults.accept_aborted) {
            self.note("accept: aborted", Subject::Source(source), Detail::Nothing);
            self.close_socket(socket, true);
            return Err(failed(errno::ECONNABORTED));
        }
        self.register(id, socket, Flags::READ);
        self.note("accept", id, Detail::Source(source));
        Ok(self.sockets[socket].far.clone())
    }

    fn connect(&mut self, address: &Address, id: ConnId) -> io::Result<()> {
        let _system = While::begin(Running::System);
        let (near, far, tcp) = match address {
            Address::Tcp(at) => {
                let own = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()));
                (Peer::Inet(own), Peer::Inet(*at), true)
            }
            Address::Unix(path) => (Peer::Unix(None), Peer::Unix(Some(path.clone())), false),
            Address::Udp(_) | Address::UnixDatagram(_) => return Err(failed(errno::EINVAL)),
        };
        if self.is_out_of_descriptors() {
            return Err(failed(errno::EMFILE));
        }
        let own_listener = self.bound_to(address);
        let remote = self.remotes.iter().position(|remote| remote.address == *address);
        let reach = match remote {
            _ if own_listener.is_some() => Reach::Answers,
            Some(index) => self.remotes[index].reach,
            None => Reach::Refuses,
        };
        if reach == Reach::Unreachable {
            return Err(failed(errno::ENETUNREACH));
        }
        if reach == Reach::Refuses && !tcp {
            return Err(failed(errno::ECONNREFUSED));
        }
        let answering = match own_listener {
            Some(_) => Owner::Backlog,
            None if reach == Reach::Answers => Owner::Peer(PeerId(self.peers.len())),
            None => Owner::Nobody,
        };
        let socket = self.pair([Owner::Nobody, answering], tcp, [near, far]);
        if let Owner::Peer(peer) = answering {
            self.peers.push(PlayedPeer::new(socket + 1));
            if let Some(index) = remote {
                self.remotes[index].callers.push(peer);
            }
        }
        self.register(id, socket, Flags::WRITE);
        self.work.connected();
        self.note("connect", id, Detail::Nothing);
        match (own_listener, reach) {
            (Some(source), _) => self.enter(Happening::Attempt { socket, source }),
            (None, Reach::Answers) => self.enter(Happening::Decide { socket, established: true }),
            (None, Reach::Refuses) => self.enter(Happening::Decide { socket, established: false }),
            (None, Reach::Silent | Reach::Unreachable) => {}
        }
        Ok(())
    }

    fn connected(&mut self, id: ConnId) -> io::Result<Option<Peer>> {
        let socket = self.socket_of(id);
        let end = &mut self.sockets[socket];
        if let Some(error) = end.error.take() {
            return Err(failed(error));
        }
        Ok(end.established.then(|| end.far.clone()))
    }

    fn rearm(&mut self, id: ConnId, interest: Flags) -> io::Result<()> {
        let _system = While::begin(Running::System);
        let socket = self.socket_of(id);
        if self.random.chance(self.faults.rearm_failed) {
            return Err(failed(errno::ENOMEM));
        }
        self.sockets[socket].interest = interest;
        self.note("rearm", id, Detail::Flags(interest));
        self.list(socket);
        Ok(())
    }

    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let _system = While::begin(Running::System);
        let socket = self.socket_of(id);
        self.call()?;
        if let Some(error) = self.faults.read_error {
            self.note("read fails", id, Detail::Error(error));
            return Err(failed(error));
        }
        let end = &mut self.sockets[socket];
        let mut count = match end.readable(buffer.len()) {
            Ok(count) => count,
            Err(error) => {
                self.note("read fails", id, Detail::Error(error));
                return Err(failed(error));
            }
        };
        if !end.tcp && count > 1 && self.random.chance(self.faults.short_read) {
            count = 1 + self.random.below(count - 1);
        }
        self.sockets[socket].take(&mut buffer[..count]);
        self.progress += 1;
        self.work.read(id, count, self.sockets[socket].write_shut);
        self.note("read", id, Detail::Bytes(count));
        self.kick(self.sockets[socket].mate);
        Ok(count)
    }

    /// With a ring in any order, as far as the ring goes.
    fn write_each<'a>(
        &mut self,
        list: impl Iterator<Item = (usize, ConnId, &'a [u8])>,
        short: &mut Vec<Short>,
    ) -> usize {
        if !self.random.chance(self.faults.ring) {
            return write_one_by_one(self, list, short);
        }
        let _system = While::begin(Running::System);
        let mut entries: Vec<_> = list.collect();
        let (mut written, mut given_up) = (0, false);
        while !entries.is_empty() {
            let (place, id, bytes) = entries.swap_remove(self.random.below(entries.len()));
            given_up = given_up || self.random.chance(self.faults.ring_failed);
            if given_up {
                self.note("ring takes nothing", id, Detail::Bytes(bytes.len()));
                short.push((place, Err(failed(errno::EAGAIN))));
                continue;
            }
            match self.write_some(id, &[IoSlice::new(bytes)]) {
                Ok(count) if count == bytes.len() => written += count,
                // There may be room: that is told again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    short.push((place, Err(failed(errno::EAGAIN))));
                }
                result => short.push((place, result)),
            }
        }
        written
    }

    fn write_vectored(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let _system = While::begin(Running::System);
        self.write_some(id, pieces)
    }

    fn delivery(&mut self, id: ConnId) -> io::Result<Delivery> {
        let end = &self.sockets[self.socket_of(id)];
        let far = &self.sockets[end.mate];
        let arrived = far.taken + far.receive.len() as u64;
        // A unix stream holds everything until it is read.
        let unread = if end.tcp { 0 } else { far.receive.len() };
        Ok(Delivery { waiting: end.send.len() + unread, mark: if end.tcp { arrived } else { far.taken } })
    }

    fn unread(&mut self, id: ConnId) -> io::Result<usize> {
        let end = &self.sockets[self.socket_of(id)];
        Ok(end.receive.len())
    }

    fn take_error(&mut self, id: ConnId) -> Option<io::Error> {
        let _system = While::begin(Running::System);
        let socket = self.socket_of(id);
        self.sockets[socket].error.take().map(failed)
    }

    fn shutdown_write(&mut self, id: ConnId) {
        let _system = While::begin(Running::System);
        let socket = self.socket_of(id);
        self.sockets[socket].write_shut = true;
        self.note("shutdown", id, Detail::Nothing);
        self.kick(socket);
    }

    fn close(&mut self, id: ConnId, reset: bool) {
        let _system = While::begin(Running::System);
        // An outgoing connection that failed at once, or was given up before it began, has nothing to close.
        let Some(&Some((owner, socket))) = self.connections.get(id.slot()) else { return };
        assert_eq!(owner, id, "the reactor closed a connection that the system does not have");
        self.connections[id.slot()] = None;
        self.descriptors -= 1;
        self.progress += 1;
        self.work.closed();
        self.note("close", id, Detail::Reset(reset));
        self.close_socket(socket, reset);
        if self.random.chance(self.faults.stale_event) {
            let all = [Flags::READ, Flags::WRITE, Flags::READ | Flags::READ_CLOSED, Flags::ERROR];
            let flags = all[self.random.below(all.len())];
            self.enter(Happening::Tell(Readiness { token: id.token(), flags }));
        }
    }

    fn receive(&mut self, source: u32, batch: &mut Inbound) -> io::Result<usize> {
        let _system = While::begin(Running::System);
        self.receive_batch(source, batch)
    }

    fn transmit(&mut self, source: u32, batch: &Outbound, first: usize) -> io::Result<usize> {
        let _system = While::begin(Running::System);
        self.transmit_batch(source, batch, first)
    }

    fn rearm_datagram(&mut self, source: u32, write: bool) -> io::Result<()> {
        let _system = While::begin(Running::System);
        if let Some(Some(Source::Datagram { wants_write, .. })) = self.sources.get_mut(source as usize) {
            *wants_write = write;
        }
        self.list_source(source);
        Ok(())
    }

    /// Everything is checked the more often the fewer connections there are, for it takes as long as there are many.
    fn checks(&mut self, limits: &Limits, totals: Totals) -> Checks {
        let _system = While::begin(Running::System);
        self.work.assert_within(limits, totals);
        let everything = self.sampler.chance(CHECKED_CONNECTIONS / (1 + self.connections.len()) as f64);
        if everything { Checks::All } else { Checks::Cheap }
    }
}
