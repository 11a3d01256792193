//! What may go wrong in a simulation, and how often.

use std::time::Duration;

/// What goes wrong in a simulation, and how often. Probabilities are from 0 (never) to 1 (always).
///
/// Begin with a preset and change what a scenario is about:
///
/// ```
/// use tidewheel::sim::Faults;
/// let mut faults = Faults::hostile();
/// faults.reset = 0.01;
/// # let _ = faults;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// How much longer than [`Faults::DELAY_MIN`] a segment, a datagram or a connection attempt takes at most to
    /// arrive.
    pub delay_max: Duration,
    /// How long one system call takes at most. Above zero, bytes, resets and connections arrive in the middle of
    /// a turn.
    pub call_time_max: Duration,
    /// The largest segment, in bytes, in either direction. Each segment has a random size up to this.
    pub segment_bytes_max: usize,
    /// Bytes that the system holds for a connection until it reads them.
    pub receive_buffer_bytes: usize,
    /// Bytes that the system takes from a connection before a write would block.
    pub send_buffer_bytes: usize,
    /// Events that one poll reports at most.
    pub events_max: usize,
    /// Whether a poll reports its events in random order.
    pub shuffled: bool,
    /// Connections that wait to be accepted from one listener at most. Above it, an attempt is repeated a second later.
    pub backlog_max: usize,
    /// Descriptors that may be open at once: listeners, datagram sockets and connections.
    pub descriptors_max: usize,
    /// A read from a unix stream gives fewer bytes than there are. (On TCP the kernel never does that but at
    /// urgent data: there, small segments make reads short.)
    pub short_read: f64,
    /// A write takes fewer bytes than it has room for; there is room again a little later, which is reported.
    pub short_write: f64,
    /// A write takes nothing although it has room; there is room again a little later, which is reported.
    pub would_block: f64,
    /// A system call is interrupted by a signal before it did anything.
    pub interrupted: f64,
    /// An urgent byte is sent ahead of a segment: reads stop short there, and the byte is not part of the stream.
    pub urgent: f64,
    /// A poll reports something that has not happened, on an open connection.
    pub spurious_event: f64,
    /// A poll reports an event twice.
    pub doubled_event: f64,
    /// A poll reports an event of a closed connection, whose slot may be in use by another one.
    pub stale_event: f64,
    /// Accepting fails because the system has no descriptor or memory (ENFILE, ENOBUFS, ENOMEM); the connection keeps waiting.
    pub accept_exhausted: f64,
    /// Accepting fails and the connection is lost (ECONNABORTED).
    pub accept_aborted: f64,
    /// With each segment: the connection breaks for both ends.
    pub reset: f64,
    /// Changing the interest in a connection fails (ENOMEM). No preset sets it: epoll needs no memory there.
    pub rearm_failed: f64,
    /// A datagram is lost.
    pub datagram_lost: f64,
    /// A datagram arrives twice.
    pub datagram_doubled: f64,
    /// A datagram socket reports the error of an earlier datagram when it is read from, or has no memory when it
    /// is to send (ENOBUFS).
    pub datagram_error: f64,
    /// Sending a datagram would block; there is room again a little later, which is reported.
    pub datagram_would_block: f64,
    /// The writes of a turn are made in any order, as through io_uring.
    pub ring: f64,
    /// With each of those writes: it and the following ones report that there is no room, although there is.
    pub ring_failed: f64,
    /// With each poll: the wall clock is set forward or back by up to a day.
    pub wall_step: f64,
    /// With each poll: the machine or the program is suspended for up to [`Faults::stall_max`]. No preset sets it, because
    /// deadlines pass meanwhile.
    pub stall: f64,
    /// How long it is suspended at most.
    pub stall_max: Duration,
    /// Every read from a connection fails with this error number. No preset sets this or the following two; for listeners,
    /// datagram sockets and waits see [`Sim::fail_source`](super::Sim::fail_source) and
    /// [`Sim::fail_waits`](super::Sim::fail_waits).
    pub read_error: Option<i32>,
    /// Every write to a connection fails with this error number.
    pub write_error: Option<i32>,
    /// Every call that sends datagrams fails with this error number.
    pub transmit_error: Option<i32>,
}

impl Faults {
    /// The shortest time that anything takes to arrive.
    pub const DELAY_MIN: Duration = Duration::from_micros(10);

    /// A fast network and a system with plenty of everything: everything arrives whole and in order, 10 µs later.
    pub fn none() -> Faults {
        Faults {
            delay_max: Duration::ZERO,
            call_time_max: Duration::ZERO,
            segment_bytes_max: 64 << 10,
            receive_buffer_bytes: 128 << 10,
            send_buffer_bytes: 128 << 10,
            events_max: 1024,
            shuffled: false,
            backlog_max: 65_535,
            descriptors_max: 1 << 20,
            short_read: 0.0,
            short_write: 0.0,
            would_block: 0.0,
            interrupted: 0.0,
            urgent: 0.0,
            spurious_event: 0.0,
            doubled_event: 0.0,
            stale_event: 0.0,
            accept_exhausted: 0.0,
            accept_aborted: 0.0,
            reset: 0.0,
            rearm_failed: 0.0,
            datagram_lost: 0.0,
            datagram_doubled: 0.0,
            datagram_error: 0.0,
            datagram_would_block: 0.0,
            ring: 0.0,
            ring_failed: 0.0,
            wall_step: 0.0,
            stall: 0.0,
            stall_max: Duration::from_secs(5),
            read_error: None,
            write_error: None,
            transmit_error: None,
        }
    }

    /// Everything that a correct service survives without losing a byte: small segments at random times, tiny buffers, short
    /// writes, interruptions, urgent data, events that are doubled, wrong or late, and a wall clock that is set back.
    pub fn hostile() -> Faults {
        Faults {
            delay_max: Duration::from_millis(2),
            call_time_max: Duration::from_micros(200),
            segment_bytes_max: 700,
            receive_buffer_bytes: 2000,
            send_buffer_bytes: 1500,
            events_max: 16,
            shuffled: true,
            backlog_max: 64,
            short_read: 0.3,
            short_write: 0.2,
            would_block: 0.1,
            interrupted: 0.1,
            urgent: 0.05,
            spurious_event: 0.1,
            doubled_event: 0.1,
            stale_event: 0.5,
            accept_exhausted: 0.05,
            ring: 0.5,
            ring_failed: 0.02,
            wall_step: 0.01,
            ..Faults::none()
        }
    }

    /// [`Faults::hostile`], and connections break, and datagrams are lost, doubled or refused: what a peer has received is a
    /// prefix of what it should have received.
    pub fn lossy() -> Faults {
        Faults {
            accept_aborted: 0.05,
            reset: 0.02,
            datagram_lost: 0.1,
            datagram_doubled: 0.1,
            datagram_error: 0.1,
            datagram_would_block: 0.2,
            ..Faults::hostile()
        }
    }
}
