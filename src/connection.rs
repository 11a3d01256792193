//! One stream connection: where it stands, what waits in it, and what follows from that.
//!
//! ```text
//!                                  close(), input limit,
//!              established         idle or read timeout        flushed
//!   Connecting ───────────► Open ───────────────────────► Closing ─────────► Lingering
//!       │                    │                               │                   │
//!       │ failed,            │ reset, abort(),               │ reset, abort(),   │ the peer's end,
//!       │ timeout,           │ another limit,                │ a limit, flushed  │ or 1 s without a byte,
//!       │ close()            │ both sides shut down          │ after peer's end  │ or 60 s in all
//!       │                    │                               │                   │
//!       └────────────────────┴─────────────► Dead ◄──────────┴───────────────────┘
//!                                             │
//!                                             │ at the end of a turn, at most 256
//!                                             ▼
//!                                           freed
//! ```
//!
//! The service's `closed` is called once, after Open or Connecting is left, before the output of that turn is flushed.

use std::time::Duration;

use crate::limits::Limits;
use crate::memory::block_bytes;
use crate::net::Flags;
use crate::output::Output;
use crate::timer::Instant;

/// Why a connection ended. Every connection ends for one of these reasons and is counted by it:
/// [`Metrics::closed_for`](crate::Metrics::closed_for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed, and all output was sent.
    PeerClosed,
    /// The service closed it: [`Context::close`](crate::Context::close).
    Service,
    /// The peer sent something that the service's protocol does not allow.
    BadInput,
    /// The peer kept sending more than the service allows.
    Flood,
    /// The service aborted it: [`Context::abort`](crate::Context::abort).
    Aborted,
    /// The peer reset it, or the network reported that the peer is gone.
    Reset,
    /// Reading or writing failed in another way.
    Failed,
    /// An outgoing connection was not established.
    ConnectFailed,
    /// An outgoing connection was not established within [`Limits::connect_timeout`].
    ConnectTimeout,
    /// No byte in either direction for [`Limits::idle_timeout`].
    IdleTimeout,
    /// A message took longer than [`Limits::read_deadline`].
    ReadDeadline,
    /// Output was pending for [`Limits::progress_timeout`], and the peer's system acknowledged none of it.
    ProgressTimeout,
    /// A message was longer than [`Limits::input_bytes_max`].
    InputLimit,
    /// Pending output stayed above [`Limits::output_soft_bytes`] for longer than [`Limits::output_soft_grace`].
    OutputSoftLimit,
    /// Pending output exceeded [`Limits::output_hard_bytes`].
    OutputHardLimit,
    /// It held the most memory when [`Limits::memory_bytes_max`] was exceeded.
    MemoryLimit,
    /// It was refused, or an outgoing one was not begun: [`Limits::connections_max`] are open.
    RefusedFull,
    /// It was refused: [`Limits::connections_per_ip_max`] are open from its address.
    RefusedPerIp,
    /// A call of its service panicked: [`Config::catch_panics`](crate::Config::catch_panics).
    ServicePanic,
    /// The reactor shut down gracefully, and its output was flushed.
    Drained,
    /// The deadline of the graceful shutdown passed before its output was flushed.
    DrainDeadline,
}

impl CloseReason {
    pub(crate) const COUNT: usize = CloseReason::ALL.len();

    /// All reasons, in the order of the counters.
    pub const ALL: &[CloseReason] = &[
        CloseReason::PeerClosed,
        CloseReason::Service,
        CloseReason::BadInput,
        CloseReason::Flood,
        CloseReason::Aborted,
        CloseReason::Reset,
        CloseReason::Failed,
        CloseReason::ConnectFailed,
        CloseReason::ConnectTimeout,
        CloseReason::IdleTimeout,
        CloseReason::ReadDeadline,
        CloseReason::ProgressTimeout,
        CloseReason::InputLimit,
        CloseReason::OutputSoftLimit,
        CloseReason::OutputHardLimit,
        CloseReason::MemoryLimit,
        CloseReason::RefusedFull,
        CloseReason::RefusedPerIp,
        CloseReason::ServicePanic,
        CloseReason::Drained,
        CloseReason::DrainDeadline,
    ];

    /// The name in counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Service => "service",
            CloseReason::BadInput => "bad_input",
            CloseReason::Flood => "flood",
            CloseReason::Aborted => "aborted",
            CloseReason::Reset => "reset",
            CloseReason::Failed => "failed",
            CloseReason::ConnectFailed => "connect_failed",
            CloseReason::ConnectTimeout => "connect_timeout",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::ReadDeadline => "read_deadline",
            CloseReason::ProgressTimeout => "progress_timeout",
            CloseReason::InputLimit => "input_limit",
            CloseReason::OutputSoftLimit => "output_soft_limit",
            CloseReason::OutputHardLimit => "output_hard_limit",
            CloseReason::MemoryLimit => "memory_limit",
            CloseReason::RefusedFull => "refused_full",
            CloseReason::RefusedPerIp => "refused_per_ip",
            CloseReason::ServicePanic => "service_panic",
            CloseReason::Drained => "drained",
            CloseReason::DrainDeadline => "drain_deadline",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// An outgoing connection, not decided yet.
    Connecting,
    /// In the service's hands.
    Open,
    /// Flushing; input is left where it is.
    Closing,
    /// Flushed and shut down for writing; input is read and discarded until the peer closes too.
    Lingering,
    /// To be freed at the end of the turn.
    Dead,
}

/// What is out of the ordinary about a connection, as a set of marks: an open connection without any takes the fast
/// path through the turn.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks(u32);

impl Marks {
    /// On the list of connections to settle in this turn.
    pub const TOUCHED: Marks = Marks(1);
    /// Not in the phase Open.
    pub const NOT_OPEN: Marks = Marks(1 << 1);
    /// On the ready list.
    pub const QUEUED: Marks = Marks(1 << 2);
    /// It has a tail, or its input rests, or its service wants to hear of room: so it is out of the ordinary until
    /// it is settled again.
    pub const UNSETTLED: Marks = Marks(1 << 3);
    /// The service has paused its input.
    pub const PAUSED: Marks = Marks(1 << 4);
    /// Its input rests because its output is above the high-water mark.
    pub const BLOCKED: Marks = Marks(1 << 5);
    /// The peer has ended its side, and all of its input has been read.
    pub const ENDED: Marks = Marks(1 << 6);
    /// It was handed over, and its new service has yet to hear `open`.
    pub const MOVING: Marks = Marks(1 << 7);
    /// Readiness came that has not been acted on to the end.
    pub const READABLE: Marks = Marks(1 << 8);
    /// Read until the end or `WouldBlock`, because a short read will not mean drained.
    pub const READ_ON: Marks = Marks(1 << 9);
    /// There is kept input.
    pub const KEPT: Marks = Marks(1 << 10);
    /// The kept input is to be offered again before anything is read.
    pub const OFFER_AGAIN: Marks = Marks(1 << 11);
    /// The last write took less than it was offered: no further one is tried before the system says so.
    pub const WRITE_BLOCKED: Marks = Marks(1 << 12);
    /// Our side is to be ended when the output is flushed, while input goes on.
    pub const HALF_CLOSE: Marks = Marks(1 << 13);
    /// Our side has been ended.
    pub const WRITE_SHUT: Marks = Marks(1 << 14);
    /// The service asked to be told when its output has drained.
    pub const WANTS_WRITABLE: Marks = Marks(1 << 15);
    /// The service is to be told so now.
    pub const WRITABLE_DUE: Marks = Marks(1 << 16);
    /// It was refused because of a limit.
    pub const REFUSED: Marks = Marks(1 << 17);
    /// Somebody wants to see its bytes.
    pub const OBSERVED: Marks = Marks(1 << 19);
    /// Enough of its input was discarded: the rest is left where it is.
    pub const SATED: Marks = Marks(1 << 20);
    /// It is no client: see [`Reactor::watch`](crate::Reactor::watch).
    pub const WATCHED: Marks = Marks(1 << 21);
    /// It is to be closed with a reset.
    pub const RESET: Marks = Marks(1 << 18);

    /// Its topic has set it aside: what the topic brings waits in its arrears.
    pub const ASIDE: Marks = Marks(1 << 22);

    /// It was closed with input that its service had not taken.
    pub const UNANSWERED: Marks = Marks(1 << 24);

    /// It has ended, and its service has yet to receive `closed`: it is not freed before.
    pub const UNREPORTED: Marks = Marks(1 << 23);

    /// What makes no difference to output.
    pub const OF_INPUT: Marks =
        Marks(Marks::QUEUED.0 | Marks::READABLE.0 | Marks::READ_ON.0 | Marks::KEPT.0 | Marks::OFFER_AGAIN.0);

    /// What stands in the way of taking input.
    const RESTS: Marks =
        Marks(Marks::NOT_OPEN.0 | Marks::PAUSED.0 | Marks::BLOCKED.0 | Marks::ENDED.0 | Marks::MOVING.0);

    /// These marks and those.
    pub const fn and(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }

    /// Whether any of these marks is set.
    #[inline]
    pub fn any(self, of: Marks) -> bool {
        self.0 & of.0 != 0
    }

    /// Whether there are none.
    #[inline]
    pub fn none(self) -> bool {
        self.0 == 0
    }

    /// Whether there are none but these.
    #[inline]
    pub fn only(self, of: Marks) -> bool {
        self.0 & !of.0 == 0
    }

    #[inline]
    pub fn set(&mut self, marks: Marks) {
        self.0 |= marks.0;
    }

    #[inline]
    pub fn clear(&mut self, marks: Marks) {
        self.0 &= !marks.0;
    }

    pub fn put(&mut self, marks: Marks, condition: bool) {
        if condition { self.set(marks) } else { self.clear(marks) }
    }

    /// Clears a mark and says whether it was set.
    #[inline]
    pub fn take(&mut self, mark: Marks) -> bool {
        let was = self.any(mark);
        self.clear(mark);
        was
    }
}

/// For whoever looks for a fault: the marks by name.
impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 25] = [
            "touched",
            "not open",
            "queued",
            "unsettled",
            "paused",
            "blocked",
            "ended",
            "moving",
            "readable",
            "read on",
            "kept",
            "offer again",
            "write blocked",
            "half close",
            "write shut",
            "wants writable",
            "writable due",
            "refused",
            "reset",
            "observed",
            "sated",
            "watched",
            "aside",
            "unreported",
            "unanswered",
        ];
        let set = (0..).zip(NAMES).filter(|(bit, _)| self.0 & (1 << bit) != 0);
        f.debug_set().entries(set.map(|(_, name)| name)).finish()
    }
}

impl std::ops::BitOr for Marks {
    type Output = Marks;

    fn bitor(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

/// Input that a service has left unconsumed.
// 8 bytes in every idle connection instead of 24.
pub(crate) type Kept = Box<Vec<u8>>;

/// One stream connection. Small, for idle ones are many: nothing here points to a buffer unless something waits.
pub(crate) struct Connection {
    pub output: Output,
    /// When a byte last moved in either direction.
    pub active_at: Instant,
    pub marks: Marks,
    /// Which service it belongs to.
    pub service: u16,
    phase: Phase,
    pub reason: CloseReason,
    /// Input that the service has left unconsumed.
    pub kept: Option<Kept>,
    /// When the first byte of the incomplete message came; `NEVER` without one.
    pub message_since: Instant,
    /// Open: what the service asked for. Connecting and Lingering: when the engine gives up.
    pub deadline: Instant,
    /// Bytes discarded while lingering.
    pub discarded: u32,
    /// The memory that it holds alone, as last counted, in bytes.
    pub counted: u32,
    /// What the system was last told that we want to hear.
    pub armed: Flags,
    /// A short read means drained.
    pub short_is_drained: bool,
}

impl Connection {
    pub fn new(phase: Phase, service: u16, armed: Flags, now: Instant) -> Connection {
        let mut conn = Connection {
            output: Output::default(),
            active_at: now,
            marks: Marks::default(),
            service,
            phase,
            reason: CloseReason::Service,
            kept: None,
            message_since: Instant::NEVER,
            deadline: Instant::NEVER,
            discarded: 0,
            counted: 0,
            armed,
            short_is_drained: true,
        };
        conn.set_phase(phase);
        conn
    }

    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn set_phase(&mut self, phase: Phase) -> Phase {
        self.marks.put(Marks::NOT_OPEN, phase != Phase::Open);
        std::mem::replace(&mut self.phase, phase)
    }

    /// The memory that it holds alone: pending output and unconsumed input, in bytes.
    pub fn own_bytes(&self) -> usize {
        let kept = |kept: &Kept| block_bytes(size_of::<Vec<u8>>()) + block_bytes(kept.capacity());
        self.output.own_bytes() + self.kept.as_ref().map_or(0, kept)
    }

    /// Sets whether a short read means drained.
    pub fn set_short_is_drained(&mut self, short_is_drained: bool) {
        self.short_is_drained = short_is_drained;
        self.marks.put(Marks::READ_ON, !short_is_drained);
    }

    /// Whether input may be read and offered to the service.
    pub fn takes_input(&self) -> bool {
        !self.marks.any(Marks::RESTS)
    }

    /// What we want to hear of this connection. It follows from the state and is never patched.
    pub fn interest(&self) -> Flags {
        let read = match self.phase {
            Phase::Open => self.takes_input(),
            Phase::Lingering => !self.marks.any(Marks::SATED),
            Phase::Connecting | Phase::Closing | Phase::Dead => false,
        };
        let write = self.phase == Phase::Connecting || self.output.tail_bytes() > 0;
        Flags::READ.when(read) | Flags::WRITE.when(write)
    }

    /// The earliest of the connection's deadlines and what it would end for.
    pub fn next_deadline(&self, timeouts: &Timeouts) -> (Instant, Due) {
        let after = |since: Instant, timeout: Option<Duration>| match timeout {
            Some(timeout) if since != Instant::NEVER => since + timeout,
            _ => Instant::NEVER,
        };
        match self.phase {
            Phase::Connecting => (self.deadline, Due::Close(CloseReason::ConnectTimeout)),
            Phase::Lingering => (self.deadline.min(self.active_at + timeouts.linger), Due::Lingered),
            Phase::Closing | Phase::Dead => (Instant::NEVER, Due::Lingered),
            // While its input rests a message is not the peer's to finish.
            Phase::Open => [
                (self.deadline, Due::Service),
                (after(self.active_at, timeouts.idle), Due::Close(CloseReason::IdleTimeout)),
                (
                    after(self.message_since, timeouts.read.filter(|_| self.takes_input())),
                    Due::Close(CloseReason::ReadDeadline),
                ),
                (
                    after(self.output.soft_since(), timeouts.soft_grace),
                    Due::Close(CloseReason::OutputSoftLimit),
                ),
            ]
            .into_iter()
            .min_by_key(|&(at, _)| at)
            .expect("the list is not empty"),
        }
    }
}

/// What a deadline that has come means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The service asked for it.
    Service,
    /// The peer has had its time to close too.
    Lingered,
    /// The connection is closed.
    Close(CloseReason),
}

impl Due {
    /// Whether input that has come already, but has not been read, would change it. What a service waits for is input more
    /// often than not: the end of a pause, the rest of a body.
    pub fn is_for_want_of_input(self) -> bool {
        matches!(self, Due::Service | Due::Close(CloseReason::IdleTimeout | CloseReason::ReadDeadline))
    }
}

/// The timeouts of one service's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub idle: Option<Duration>,
    pub read: Option<Duration>,
    pub soft_grace: Option<Duration>,
    pub linger: Duration,
}

impl Timeouts {
    pub fn new(limits: &Limits, idle: Option<Duration>, messages: bool) -> Timeouts {
        Timeouts {
            idle,
            read: if messages { limits.read_deadline } else { None },
            soft_grace: Some(limits.output_soft_grace),
            linger: limits.linger_timeout,
        }
    }
}
