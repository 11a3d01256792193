//! Counters of one reactor. They are plain numbers: the reactor is one thread, and other threads ask for a copy
//! ([`Remote::metrics`](crate::Remote::metrics)).

use hdrhistogram::Histogram;

use crate::connection::CloseReason;

/// Why a datagram, or the answer to one, was dropped. Source addresses can be forged, so answers are limited to protect third
/// parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropCause {
    /// The source port is one that this reactor listens on, or below 1024: the answer could start a loop between two servers.
    Loop,
    /// It was sent to a broadcast or multicast address.
    ToMany,
    /// The source prefix has used up its answers of this second: [`Limits::udp_replies_per_prefix`](crate::Limits::udp_replies_per_prefix).
    PrefixBudget,
    /// The source prefix is counted in a group ([`Limits::udp_prefixes_max`](crate::Limits::udp_prefixes_max)), which has used
    /// up its answers of this second.
    PrefixTable,
    /// The sender is a unix socket without a path.
    NoReturnAddress,
    /// The sender is a unix socket with a relative path, which would be another file in our working directory.
    RelativePath,
    /// The answer is longer than [`DATAGRAM_BYTES_MAX`](crate::DATAGRAM_BYTES_MAX).
    TooLarge,
    /// The system had no room for the answer or refused to send it.
    SendFailed,
    /// The datagram was longer than the receive buffer.
    Truncated,
}

impl DropCause {
    /// All causes, in the order of the counters.
    pub const ALL: &[DropCause] = &[
        DropCause::Loop,
        DropCause::ToMany,
        DropCause::PrefixBudget,
        DropCause::PrefixTable,
        DropCause::NoReturnAddress,
        DropCause::RelativePath,
        DropCause::TooLarge,
        DropCause::SendFailed,
        DropCause::Truncated,
    ];

    /// The name in counters.
    pub fn name(self) -> &'static str {
        match self {
            DropCause::Loop => "loop",
            DropCause::ToMany => "to_many",
            DropCause::PrefixBudget => "prefix_budget",
            DropCause::PrefixTable => "prefix_table",
            DropCause::NoReturnAddress => "no_return_address",
            DropCause::RelativePath => "relative_path",
            DropCause::TooLarge => "too_large",
            DropCause::SendFailed => "send_failed",
            DropCause::Truncated => "truncated",
        }
    }
}

/// The counters of a reactor since it was created.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Connections open now, including those that are being closed.
    pub connections_open: u64,
    /// Connections accepted, without those that were refused.
    pub connections_accepted: u64,
    /// Outgoing connections started.
    pub connections_begun: u64,
    /// Connections refused because a limit was reached.
    pub connections_refused: u64,
    /// Accepts that failed because the system had no free descriptor or memory.
    pub accepts_exhausted: u64,
    /// Accepts that failed because the connection had been aborted, or the listener is broken.
    pub accepts_aborted: u64,
    /// Listeners and datagram sockets that were closed after failing for [`Limits::failure_timeout`](crate::Limits::failure_timeout).
    pub listeners_closed: u64,
    /// By [`CloseReason`].
    pub(crate) closed: [u64; CloseReason::COUNT],
    /// Bytes read from stream connections.
    pub bytes_in: u64,
    /// Bytes written to stream connections.
    pub bytes_out: u64,
    /// Messages that services have received, as they count them: [`Context::count_messages`](crate::Context::count_messages).
    pub messages_in: u64,
    /// Sends, publishes and datagram answers that services have requested.
    pub messages_out: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// By [`DropCause`].
    pub(crate) datagrams_dropped: [u64; DropCause::ALL.len()],
    /// Errors that datagram sockets reported, including those of earlier datagrams.
    pub datagram_errors: u64,
    /// Waits for readiness that failed.
    pub wait_errors: u64,
    /// Events for connections that had ended.
    pub stale_events: u64,
    /// Effects on connections that had ended.
    pub stale_effects: u64,
    /// Input that was discarded while a connection closed, in bytes.
    pub bytes_discarded: u64,
    /// Output that was dropped unsent when its connection was closed, in bytes.
    pub bytes_unsent: u64,
    /// Memory of pending output and unconsumed input now, in bytes:
    /// [`Limits::memory_bytes_max`](crate::Limits::memory_bytes_max).
    pub memory_bytes: u64,
    /// Messages from other threads that were delivered to services.
    pub mailbox_messages: u64,
    /// Calls of services that panicked.
    pub service_panics: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that were received.
    pub events: u64,
    /// The number of events in a turn, sampled every sixteenth turn.
    pub events_per_turn: Histogram<u64>,
    /// The busy time of a turn in nanoseconds, from the end of the wait to the end of the turn, sampled every sixteenth turn.
    pub busy_ns: Histogram<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics {
            connections_open: 0,
            connections_accepted: 0,
            connections_begun: 0,
            connections_refused: 0,
            accepts_exhausted: 0,
            accepts_aborted: 0,
            listeners_closed: 0,
            closed: [0; CloseReason::COUNT],
            bytes_in: 0,
            bytes_out: 0,
            messages_in: 0,
            messages_out: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            datagrams_dropped: [0; DropCause::ALL.len()],
            datagram_errors: 0,
            wait_errors: 0,
            stale_events: 0,
            stale_effects: 0,
            bytes_discarded: 0,
            bytes_unsent: 0,
            memory_bytes: 0,
            mailbox_messages: 0,
            service_panics: 0,
            turns: 0,
            events: 0,
            events_per_turn: Histogram::new_with_bounds(1, 1 << 20, 2).expect("these bounds are valid"),
            busy_ns: Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("these bounds are valid"),
        }
    }

    pub(crate) fn count_drop(&mut self, cause: DropCause) {
        self.datagrams_dropped[cause as usize] += 1;
    }

    /// The number of closed connections, including refused ones.
    pub fn connections_closed(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// The number of connections that were closed for this reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// The number of datagrams, or answers to them, that were dropped for this cause.
    pub fn dropped_for(&self, cause: DropCause) -> u64 {
        self.datagrams_dropped[cause as usize]
    }

    /// Adds the counts of another reactor.
    pub fn add(&mut self, other: &Metrics) {
        self.connections_open += other.connections_open;
        self.connections_accepted += other.connections_accepted;
        self.connections_begun += other.connections_begun;
        self.connections_refused += other.connections_refused;
        self.accepts_exhausted += other.accepts_exhausted;
        self.accepts_aborted += other.accepts_aborted;
        self.listeners_closed += other.listeners_closed;
        for (sum, more) in self.closed.iter_mut().zip(&other.closed) {
            *sum += more;
        }
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.messages_in += other.messages_in;
        self.messages_out += other.messages_out;
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
        for (sum, more) in self.datagrams_dropped.iter_mut().zip(&other.datagrams_dropped) {
            *sum += more;
        }
        self.datagram_errors += other.datagram_errors;
        self.wait_errors += other.wait_errors;
        self.stale_events += other.stale_events;
        self.stale_effects += other.stale_effects;
        self.bytes_discarded += other.bytes_discarded;
        self.bytes_unsent += other.bytes_unsent;
        self.memory_bytes += other.memory_bytes;
        self.mailbox_messages += other.mailbox_messages;
        self.service_panics += other.service_panics;
        self.turns += other.turns;
        self.events += other.events;
        self.events_per_turn += &other.events_per_turn;
        self.busy_ns += &other.busy_ns;
    }

    /// Every counter with its name, in a fixed order. Histograms are represented by their median, p99 and maximum.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = Vec::new();
        let mut put = |name: &str, value: u64| all.push((name.to_owned(), value));
        put("connections_open", self.connections_open);
        put("connections_accepted", self.connections_accepted);
        put("connections_begun", self.connections_begun);
        put("connections_refused", self.connections_refused);
        put("accepts_exhausted", self.accepts_exhausted);
        put("accepts_aborted", self.accepts_aborted);
        put("listeners_closed", self.listeners_closed);
        for &reason in CloseReason::ALL {
            put(&format!("closed_{}", reason.name()), self.closed_for(reason));
        }
        put("bytes_in", self.bytes_in);
        put("bytes_out", self.bytes_out);
        put("messages_in", self.messages_in);
        put("messages_out", self.messages_out);
        put("datagrams_in", self.datagrams_in);
        put("datagrams_out", self.datagrams_out);
        for &cause in DropCause::ALL {
            put(&format!("datagrams_dropped_{}", cause.name()), self.dropped_for(cause));
        }
        put("datagram_errors", self.datagram_errors);
        put("wait_errors", self.wait_errors);
        put("stale_events", self.stale_events);
        put("stale_effects", self.stale_effects);
        put("bytes_discarded", self.bytes_discarded);
        put("bytes_unsent", self.bytes_unsent);
        put("memory_bytes", self.memory_bytes);
        put("mailbox_messages", self.mailbox_messages);
        put("service_panics", self.service_panics);
        put("turns", self.turns);
        put("events", self.events);
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            put(&format!("events_per_turn_{name}"), self.events_per_turn.value_at_quantile(quantile));
        }
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            put(&format!("turn_busy_ns_{name}"), self.busy_ns.value_at_quantile(quantile));
        }
        all
    }
}
