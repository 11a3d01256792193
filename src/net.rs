//! The interface to the system: everything the reactor asks of it, as one trait.
//!
//! There are two systems: [`os::Os`], the real one, and [`sim::SimNet`](crate::sim), a seeded one in which reads
//! and writes are short, peers reset at any moment, descriptors run out and time is an argument. The reactor, the
//! services and the limits above the interface are the same.
//!
//! The system owns the sockets. The reactor names a connection by its [`ConnId`], a listener or datagram socket
//! by its index; a call about a connection that the system does not have is a defect of the reactor.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::datagram::{Inbound, Outbound};
use crate::limits::Limits;
use crate::slots::ConnId;
use crate::timer::Instant;

mod address;
pub mod os;
pub mod sim;

pub use self::address::{Address, ParseAddressError, Peer};

/// What the reactor wants to hear of a connection, or has just heard: a set of flags.
///
/// Interest uses `READ` and `WRITE` alone; urgent data is always of interest, and what is wrong with a connection
/// is always told.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// Nothing.
    pub const NONE: Flags = Flags(0);
    /// There may be bytes to read, or a connection to accept.
    pub const READ: Flags = Flags(1);
    /// There may be room to write, or an outgoing connection is decided.
    pub const WRITE: Flags = Flags(2);
    /// The peer has shut down its side: read on to the end.
    pub const READ_CLOSED: Flags = Flags(4);
    /// Urgent data is about, which splits reads: a short read does not mean drained.
    pub const URGENT: Flags = Flags(8);
    /// The connection has failed; the next read or write says how.
    pub const ERROR: Flags = Flags(16);

    /// Whether any of the flags in `other` is set here.
    #[inline]
    pub fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// `other` if `condition` holds, else nothing.
    #[inline]
    pub fn when(self, condition: bool) -> Flags {
        if condition { self } else { Flags::NONE }
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// The names of the flags that are set, as `read|write`; `none` if there are none.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Flags::READ, "read"),
            (Flags::WRITE, "write"),
            (Flags::READ_CLOSED, "read-closed"),
            (Flags::URGENT, "urgent"),
            (Flags::ERROR, "error"),
        ];
        let mut separator = "";
        for (_, name) in names.into_iter().filter(|(flag, _)| self.intersects(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

/// A hint from the system: this token may be ready for these things. It may be stale or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// [`ConnId::token`] of a connection, or [`source_token`] of a listener or datagram socket, or [`WAKER`].
    pub token: u64,
    /// For what.
    pub flags: Flags,
}

/// A call that is interrupted so often in a row is not interrupted but broken.
const INTERRUPTIONS_MAX: usize = 64;

/// Makes a call again when a signal interrupts it: nothing would tell that it is to be repeated.
#[inline]
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut left = INTERRUPTIONS_MAX;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && left > 0 => left -= 1,
            result => return result,
        }
    }
}

/// The token of a listener or datagram socket: its index, with the generation that no connection has.
pub fn source_token(index: u32) -> u64 {
    u64::from(index)
}

/// The token under which a wake-up from another thread is reported.
pub const WAKER: u64 = u32::MAX as u64;

/// The token under which the time that [`Net::set_alarm`] was asked for is reported.
pub const ALARM: u64 = u32::MAX as u64 - 1;

/// How far a connection's output has come once the system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes that the peer's system has not acknowledged; of a unix stream, those that its peer has not read.
    pub waiting: usize,
    /// A number that is another one whenever some of them have been.
    pub mark: u64,
}

/// Wakes a reactor out of its wait, from any thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next wait return at once.
    fn wake(&self);
}

/// The part of the system that a service reaches while it runs: the clocks, and writing at once what is large.
pub trait Wire {
    /// Writes to a connection without blocking and returns how many bytes were taken.
    ///
    /// # Errors
    /// `WouldBlock` when no byte could be taken; else the connection has failed.
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize>;

    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock. It may step.
    fn wall(&self) -> SystemTime;
}

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Others may listen on the same address (SO_REUSEPORT).
    pub reuse_port: bool,
}

/// A write that did not go out whole: its place in a list, and how much was taken or what went wrong.
pub type Short = (usize, io::Result<usize>);

/// [`Net::write_each`] with a write for each.
#[inline(always)]
pub(crate) fn write_one_by_one<'a>(
    wire: &mut (impl Wire + ?Sized),
    list: impl Iterator<Item = (usize, ConnId, &'a [u8])>,
    short: &mut Vec<Short>,
) -> usize {
    let mut whole = 0;
    for (place, id, bytes) in list {
        match uninterrupted(|| wire.write(id, bytes)) {
            Ok(count) if count == bytes.len() => whole += count,
            written => short.push((place, written)),
        }
    }
    whole
}

/// What a reactor checks of itself at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checks {
    /// Nothing.
    None,
    /// What costs the same however many connections there are.
    Cheap,
    /// Everything.
    All,
}

/// What a reactor has done in all its turns, and through how many mailboxes; [`Net::checks`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Deadlines that have been taken up.
    pub deadlines: u64,
    /// Messages that have been delivered.
    pub messages: u64,
    /// Connections that have been closed because of [`Limits::memory_bytes_max`].
    pub evictions: u64,
    /// Mailboxes that there are now.
    pub mailboxes: usize,
}

/// The system under a [`Reactor`](crate::Reactor): [`Os`](crate::os::Os), the real one, or [`SimNet`](crate::sim::SimNet), a
/// simulated one. Functions that take a reactor of either kind are generic over it:
///
/// ```
/// use tidewheel::{Net, Options, Reactor, Service, ServiceId};
///
/// struct Discard;
///
/// impl Service for Discard {}
///
/// fn add_discard<N: Net>(reactor: &mut Reactor<N>) -> ServiceId {
///     reactor.add_service(Discard, Options::new("discard"))
/// }
/// ```
///
/// The methods are for the reactor alone and may change in any version. The trait cannot be implemented elsewhere.
///
/// Readiness is edge-triggered: it is reported once, and again after something new has happened or after
/// [`Net::rearm`]. No call blocks, except [`Net::wait`] for as long as it may.
pub trait Net: Wire + 'static {
    /// What a wait returns.
    type Events;

    /// What events say, one after the other.
    type Readiness<'a>: Iterator<Item = Readiness>;

    /// Memory for the events of a wait.
    fn events(&self) -> Self::Events;

    /// Replaces `events` by what is ready, waiting up to `max_wait` (`None`: for ever) until there is something.
    /// An interrupted wait gives no events and no error.
    ///
    /// # Errors
    /// What the system says. The next wait may work.
    fn wait(&mut self, events: &mut Self::Events, max_wait: Option<Duration>) -> io::Result<()>;

    /// Does nothing for so long: when [`Net::wait`] fails.
    fn pause(&mut self, duration: Duration);

    /// What these events say, in order.
    fn readiness(events: &Self::Events) -> Self::Readiness<'_>;

    /// What other threads wake this system with.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Reports an event under `ALARM` after this time, once; a later call replaces an earlier one.
    ///
    /// # Errors
    /// When the system has no memory for it.
    fn set_alarm(&mut self, after: Duration) -> io::Result<()>;

    /// Opens a listener or a datagram socket under `source` and returns the address it is bound to, which tells
    /// the port where 0 was asked for.
    ///
    /// # Errors
    /// What the system says; nothing is left open or bound.
    fn listen(&mut self, source: u32, address: &Address, options: ListenOptions) -> io::Result<Address>;

    /// Closes a listener or datagram socket; a unix socket's path is removed.
    fn unlisten(&mut self, source: u32);

    /// Accepts one connection under `id`, registered for `READ`.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else nothing was kept, and the error says whether to go on.
    fn accept(&mut self, source: u32, id: ConnId) -> io::Result<Peer>;

    /// Begins to connect under `id`, registered for `WRITE`. How it ends is reported by readiness and then
    /// [`Net::connected`].
    ///
    /// # Errors
    /// The attempt failed at once; nothing was kept.
    fn connect(&mut self, address: &Address, id: ConnId) -> io::Result<()>;

    /// Whether an outgoing connection is established: `Ok(None)` while it is not decided.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self, id: ConnId) -> io::Result<Option<Peer>>;

    /// Changes what is to be reported of a connection. What is ready already is reported again.
    ///
    /// # Errors
    /// When the system has no memory for it.
    fn rearm(&mut self, id: ConnId, interest: Flags) -> io::Result<()>;

    /// Reads from a connection; 0 is the end of the stream. A read shorter than its buffer means that nothing is
    /// left on a TCP connection, unless urgent data is about; on unix streams passed descriptors split reads.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection has failed.
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes several pieces as one; see `Wire::write`.
    ///
    /// # Errors
    /// As `Wire::write`.
    fn write_vectored(&mut self, id: ConnId, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes to many connections, to each as `Wire::write` does and in any order, and returns how many bytes those took that
    /// took all. The others are added to `short`, with their place in the list. No connection is in it twice.
    fn write_each<'a>(
        &mut self,
        list: impl Iterator<Item = (usize, ConnId, &'a [u8])>,
        short: &mut Vec<Short>,
    ) -> usize {
        write_one_by_one(self, list, short)
    }

    /// How far the output of a connection has come.
    ///
    /// # Errors
    /// When the connection has failed.
    fn delivery(&mut self, id: ConnId) -> io::Result<Delivery>;

    /// How many bytes the system holds that have not been read.
    ///
    /// # Errors
    /// When the connection has failed.
    fn unread(&mut self, id: ConnId) -> io::Result<usize>;

    /// The error that is pending on a connection, taken from it.
    fn take_error(&mut self, id: ConnId) -> Option<io::Error>;

    /// Ends the writing side: the peer reads to the end of the stream.
    fn shutdown_write(&mut self, id: ConnId);

    /// Closes a connection; with `reset`, what is still unsent is discarded and the peer is told so.
    fn close(&mut self, id: ConnId, reset: bool);

    /// Receives as many datagrams as `batch` has buffers for and returns how many there were.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; an error that an earlier datagram caused.
    fn receive(&mut self, source: u32, batch: &mut Inbound) -> io::Result<usize>;

    /// Sends datagrams in order, from the one with index `first`, and returns how many the system took.
    ///
    /// # Errors
    /// What the system said about the datagram `first`.
    fn transmit(&mut self, source: u32, batch: &Outbound, first: usize) -> io::Result<usize>;

    /// Changes whether a datagram socket tells when it has room to send.
    ///
    /// # Errors
    /// When the system has no memory for it.
    fn rearm_datagram(&mut self, source: u32, write: bool) -> io::Result<()>;

    /// Gives memory that is free back to the machine. Costs time in proportion to what is free; does nothing where nobody
    /// else could use it.
    fn release_memory(&mut self) {}

    /// How thoroughly the reactor is to check itself at the end of this turn. The real system does not ask for it, and
    /// then it costs nothing; a simulated one also looks whether what was asked of it in this turn is within the limits.
    #[inline(always)]
    fn checks(&mut self, limits: &Limits, totals: Totals) -> Checks {
        let _ = (limits, totals);
        Checks::None
    }
}
