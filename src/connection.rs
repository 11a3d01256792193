//! One stream connection: where it stands, what waits in it, and what follows from that.
//!
//! ```text
//!              established               close()                flushed
//!  Connecting ────────────► Open ────────────────────► Closing ─────────► Lingering ──► freed
//!      │                     │                            │  the peer has     ▲ the peer's end, 64 KiB
//!      │ failed              │ reset, limit, abort()      │  closed already   │ or 1 s, whichever first
//!      └─────────────────────┴──────────► Dead ◄──────────┘                   │
//!                                           └─────────────────────────────────┴──► freed at the end of the turn
//! ```
//!
//! The service hears `closed` when Open or Connecting is left; what follows is the engine's affair alone.

use crate::limits::Limits;
use crate::net::Flags;
use crate::output::Output;
use crate::timer::Instant;

/// Why a connection ended. Every connection ends for one of these reasons and is counted under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed, and everything it had asked for was sent.
    PeerClosed,
    /// The service was finished with it.
    Service,
    /// The service broke it off.
    Aborted,
    /// The peer reset it, or the network said that the peer is gone.
    Reset,
    /// Reading or writing failed in another way.
    Failed,
    /// An outgoing connection was not established.
    ConnectFailed,
    /// An outgoing connection was not established in time.
    ConnectTimeout,
    /// No byte in either direction for `idle_timeout`.
    IdleTimeout,
    /// A message took longer than `read_deadline`.
    ReadDeadline,
    /// Output waited for `progress_timeout` and the peer took none of it.
    ProgressTimeout,
    /// A message was longer than `input_bytes_max`.
    InputLimit,
    /// Output stayed above `output_soft_bytes` for longer than `output_soft_grace`.
    OutputSoftLimit,
    /// Output passed `output_hard_bytes`.
    OutputHardLimit,
    /// This connection had the most output when `output_total_bytes` was passed.
    OutputTotalLimit,
    /// It was refused: `connections_max` are open.
    RefusedFull,
    /// It was refused: `connections_per_ip_max` are open from its address.
    RefusedPerIp,
    /// The reactor drained, and its output was flushed.
    Drained,
    /// The drain deadline came before its output was flushed.
    DrainDeadline,
}

impl CloseReason {
    /// How many reasons there are.
    pub const COUNT: usize = CloseReason::ALL.len();

    /// All reasons, in the order of the counters.
    pub const ALL: [CloseReason; 18] = [
        CloseReason::PeerClosed,
        CloseReason::Service,
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
        CloseReason::OutputTotalLimit,
        CloseReason::RefusedFull,
        CloseReason::RefusedPerIp,
        CloseReason::Drained,
        CloseReason::DrainDeadline,
    ];

    /// The name in counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Service => "service",
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
            CloseReason::OutputTotalLimit => "output_total_limit",
            CloseReason::RefusedFull => "refused_full",
            CloseReason::RefusedPerIp => "refused_per_ip",
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

/// One stream connection. Small, for idle ones are many: nothing here points to a buffer unless something waits.
#[derive(Debug)]
pub(crate) struct Connection {
    pub output: Output,
    /// Input that the service has left unconsumed.
    pub kept: Option<Box<Vec<u8>>>,
    /// When a byte last moved in either direction.
    pub active_at: Instant,
    /// When the first byte of the incomplete message came; `NEVER` without one.
    pub message_since: Instant,
    /// When the peer last took a byte of the output that waits; `NEVER` when none waits.
    pub stalled_since: Instant,
    /// When output rose above its soft limit; `NEVER` when it is below.
    pub soft_since: Instant,
    /// Open: what the service asked for. Connecting and Lingering: when the engine gives up.
    pub deadline: Instant,
    /// Where the connection's entry in the timers stands; `NEVER` when it has none.
    pub timer_at: Instant,
    /// Bytes discarded while lingering.
    pub discarded: u32,
    /// Which service it belongs to.
    pub service: u16,
    pub phase: Phase,
    pub reason: CloseReason,
    /// What the system was last told that we want to hear.
    pub armed: Flags,
    /// On the ready list.
    pub queued: bool,
    /// On the list of connections to flush.
    pub dirty: bool,
    /// More than plain output may follow from its state: the flush phase must settle it.
    pub unsettled: bool,
    /// What it left unconsumed is to be offered again before anything is read.
    pub offer_again: bool,
    /// Its service is to be told that there is room for output.
    pub writable_due: bool,
    /// It is to be closed with a reset.
    pub reset: bool,
    /// The service has paused its input.
    pub paused: bool,
    /// Its input rests because its output is above the high-water mark.
    pub blocked: bool,
    /// Readiness came that has not been acted on.
    pub readable: bool,
    /// Read until the end or `WouldBlock`, because a short read will not mean drained.
    pub read_on: bool,
    /// A short read means drained.
    pub short_is_drained: bool,
    /// The peer has ended its side, and all of its input has been read.
    pub ended: bool,
    /// Our side is to be ended when the output is flushed, while input goes on.
    pub half_close: bool,
    /// Our side has been ended.
    pub write_shut: bool,
    /// The last write took less than it was offered: no further one is tried before the system says so.
    pub write_blocked: bool,
    /// It was handed over, and its new service has yet to hear `open`.
    pub moving: bool,
    /// It was refused because of a limit.
    pub refused: bool,
    /// Its share of the bytes in all tails, as last counted.
    pub counted_tail: u32,
    /// The service asked to be told when its output has drained.
    pub wants_writable: bool,
}

impl Connection {
    pub fn new(phase: Phase, service: u16, armed: Flags, now: Instant) -> Connection {
        Connection {
            output: Output::default(),
            kept: None,
            active_at: now,
            message_since: Instant::NEVER,
            stalled_since: Instant::NEVER,
            soft_since: Instant::NEVER,
            deadline: Instant::NEVER,
            timer_at: Instant::NEVER,
            discarded: 0,
            service,
            phase,
            reason: CloseReason::Service,
            armed,
            queued: false,
            dirty: false,
            unsettled: false,
            offer_again: false,
            writable_due: false,
            reset: false,
            paused: false,
            blocked: false,
            readable: false,
            read_on: false,
            short_is_drained: false,
            ended: false,
            half_close: false,
            write_shut: false,
            write_blocked: false,
            moving: false,
            refused: false,
            counted_tail: 0,
            wants_writable: false,
        }
    }

    /// Whether input may be read and offered to the service.
    #[inline]
    pub fn takes_input(&self) -> bool {
        self.phase == Phase::Open && !self.paused && !self.blocked && !self.ended && !self.moving
    }

    /// What we want to hear of this connection. It follows from the state and is never patched.
    #[inline]
    pub fn interest(&self) -> Flags {
        let read = match self.phase {
            Phase::Open => self.takes_input(),
            Phase::Lingering => true,
            Phase::Connecting | Phase::Closing | Phase::Dead => false,
        };
        let write = self.phase == Phase::Connecting || self.output.pending() > 0;
        Flags::READ.when(read) | Flags::WRITE.when(write)
    }

    /// The earliest of the connection's deadlines and what it would end for; `Service` stands for the deadline
    /// that the service asked for.
    pub fn next_deadline(&self, timeouts: &Timeouts) -> (Instant, Due) {
        let after = |since: Instant, timeout: u64| {
            if since == Instant::NEVER {
                Instant::NEVER
            } else {
                since + std::time::Duration::from_nanos(timeout)
            }
        };
        let engine = (self.deadline, Due::Engine);
        let progress =
            (after(self.stalled_since, timeouts.progress), Due::Close(CloseReason::ProgressTimeout));
        match self.phase {
            Phase::Connecting => (self.deadline, Due::Close(CloseReason::ConnectTimeout)),
            Phase::Closing => progress,
            Phase::Lingering => engine,
            Phase::Dead => (Instant::NEVER, Due::Engine),
            Phase::Open => [
                (self.deadline, Due::Service),
                (after(self.active_at, timeouts.idle), Due::Close(CloseReason::IdleTimeout)),
                (after(self.message_since, timeouts.read), Due::Close(CloseReason::ReadDeadline)),
                progress,
                (after(self.soft_since, timeouts.soft_grace), Due::Close(CloseReason::OutputSoftLimit)),
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
    /// The end of lingering.
    Engine,
    /// The connection is closed.
    Close(CloseReason),
}

/// The timeouts of one service's connections in nanoseconds, `u64::MAX` for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub idle: u64,
    pub read: u64,
    pub progress: u64,
    pub soft_grace: u64,
}

impl Timeouts {
    pub fn new(limits: &Limits, idle: Option<std::time::Duration>, messages: bool) -> Timeouts {
        let nanos = |timeout: Option<std::time::Duration>| {
            timeout.map_or(u64::MAX, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
        };
        Timeouts {
            idle: nanos(idle),
            read: nanos(if messages { limits.read_deadline } else { None }),
            progress: nanos(limits.progress_timeout),
            soft_grace: nanos(Some(limits.output_soft_grace)),
        }
    }
}
