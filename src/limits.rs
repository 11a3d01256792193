//! Every limit of the engine: its name, its unit and its default.

use std::time::Duration;

/// All limits of a reactor. `None` means no limit.
///
/// The sizes count bytes of user-space memory; the socket buffers of the kernel are additional.
///
/// Start with the defaults and change single fields:
///
/// ```
/// use std::time::Duration;
/// use tidewheel::{Limits, Reactor};
///
/// let mut limits = Limits::default();
/// limits.connections_max = Some(1000);
/// limits.idle_timeout = Some(Duration::from_secs(300));
/// let reactor = Reactor::new(limits)?;
/// # let _ = reactor;
/// # Ok::<(), tidewheel::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once. Further connections get a message ([`Service::refusal`](crate::Service::refusal)) and are closed.
    /// Default: what the limit of open descriptors allows, less a reserve.
    pub connections_max: Option<usize>,
    /// Connections open at once from one IPv4 address or one IPv6 /64 network. Default: no limit.
    pub connections_per_ip_max: Option<usize>,
    /// How long a connection may be open without a byte in either direction. Default: no limit.
    pub idle_timeout: Option<Duration>,
    /// How long a message may take from its first to its last byte, for services that read messages
    /// ([`Options::messages`](crate::Options::messages)). Default: 10 s.
    pub read_deadline: Option<Duration>,
    /// How long the peer's system may take to acknowledge any byte of the output that is pending here or in the kernel's buffers.
    /// The connection is closed after this time, or up to a quarter of it later. Default: 30 s.
    pub progress_timeout: Option<Duration>,
    /// How long an outgoing connection may take to be established. Default: 10 s.
    pub connect_timeout: Option<Duration>,
    /// After we have shut down writing: how long a peer that sends nothing may take to close its side. Default: 1 s.
    pub linger_timeout: Duration,
    /// After we have shut down writing: for how long input of a peer that continues to send is read and discarded, so that the peer
    /// can read our last output, such as the reply that refuses an upload. For a refused connection this is `linger_timeout`.
    /// Default: 60 s.
    pub linger_time_max: Duration,
    /// Bytes that are read and discarded after we have shut down writing; further input is not read. Default: 256 MiB.
    pub linger_bytes_max: usize,
    /// Refused connections that are still being sent their message. Above it, a connection is closed without one. Default: 64.
    pub refusals_max: usize,
    /// Unconsumed input of one connection, in bytes; above it, the connection is closed. Default: 64 KiB.
    pub input_bytes_max: usize,
    /// Pending output of one connection, in bytes, from which on reading from it is suspended. Default: 64 KiB.
    pub output_high_water_bytes: usize,
    /// Pending output of one connection, in bytes, below which reading from it is resumed. Default: 16 KiB.
    pub output_low_water_bytes: usize,
    /// Pending output of one connection, in bytes, above which it is closed after `output_soft_grace`. Default: 256 KiB.
    pub output_soft_bytes: Option<usize>,
    /// How long a connection may stay above `output_soft_bytes`. Default: 10 s.
    pub output_soft_grace: Duration,
    /// Pending output of one connection, in bytes, above which it is closed immediately. Default: 1 MiB.
    pub output_hard_bytes: Option<usize>,
    /// Memory of the pending output and the unconsumed input of all connections, in bytes of capacity; data shared by several
    /// connections counts once. Above it, the connections that use the most are closed. Default: 256 MiB.
    pub memory_bytes_max: Option<usize>,
    /// Datagrams answered per second for each source prefix, an IPv4 /24 or an IPv6 /64; loopback is exempt. Default: 1000.
    pub udp_replies_per_prefix: Option<u32>,
    /// Source prefixes whose answers are counted individually (a multiple of 3). The others are counted in groups, one group for
    /// each three of these, and a group has the budget of one prefix. Default: 65,536.
    pub udp_prefixes_max: usize,
    /// Bytes read from one connection in one turn. Default: 64 KiB.
    pub read_bytes_per_turn: usize,
    /// The same while other connections exchange small messages, which wait for it. Default: 16 KiB.
    pub read_bytes_per_shared_turn: usize,
    /// Connections accepted from one listener in one turn. Default: 256.
    pub accepts_per_turn: usize,
    /// Datagrams received from one socket in one turn. Default: 64, one batch.
    pub datagrams_per_turn: usize,
    /// The same while connections exchange small messages, which wait for it. Default: 8.
    pub datagrams_per_shared_turn: usize,
    /// Messages from other threads delivered from one mailbox in one turn. Default: 256.
    pub messages_per_turn: usize,
    /// Connections whose deadline is handled in one turn; at least one. Default: 256.
    pub deadlines_per_turn: usize,
    /// Connections that are begun, handed over, closed because of `memory_bytes_max`, reported closed to their service, and freed in
    /// one turn: this many of each, at least one. Default: 256.
    pub effects_per_turn: usize,
    /// Consecutive failures of accepting, of receiving datagrams or of waiting for readiness, after which it is retried only every
    /// `failure_pause`. If descriptors or memory ran out, this applies from the first failure. Default: 64.
    pub failures_max: u32,
    /// The interval between these retries. Default: 50 ms.
    pub failure_pause: Duration,
    /// How long accepting or receiving may fail before the listener or datagram socket is closed (unlimited if descriptors or memory
    /// ran out), and how long waiting for readiness may fail before the reactor returns an error. Default: 60 s.
    pub failure_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: None,
            connections_per_ip_max: None,
            idle_timeout: None,
            read_deadline: Some(Duration::from_secs(10)),
            progress_timeout: Some(Duration::from_secs(30)),
            connect_timeout: Some(Duration::from_secs(10)),
            linger_timeout: Duration::from_secs(1),
            linger_time_max: Duration::from_secs(60),
            linger_bytes_max: 256 << 20,
            refusals_max: 64,
            input_bytes_max: 64 << 10,
            output_high_water_bytes: 64 << 10,
            output_low_water_bytes: 16 << 10,
            output_soft_bytes: Some(256 << 10),
            output_soft_grace: Duration::from_secs(10),
            output_hard_bytes: Some(1 << 20),
            memory_bytes_max: Some(256 << 20),
            udp_replies_per_prefix: Some(1000),
            udp_prefixes_max: 65_536,
            read_bytes_per_turn: 64 << 10,
            read_bytes_per_shared_turn: 16 << 10,
            accepts_per_turn: 256,
            datagrams_per_turn: 64,
            datagrams_per_shared_turn: 8,
            messages_per_turn: 256,
            deadlines_per_turn: 256,
            effects_per_turn: 256,
            failures_max: 64,
            failure_pause: Duration::from_millis(50),
            failure_timeout: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Something is to be done about a connection as soon as its output is more than one of these.
    pub(crate) fn output_marks(&self) -> impl Iterator<Item = usize> + use<> {
        let high_water = self.output_high_water_bytes.saturating_sub(1);
        [Some(high_water), self.output_soft_bytes, self.output_hard_bytes].into_iter().flatten()
    }
}
