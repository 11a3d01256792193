//! How a reactor on the real system works, beside its limits.

use std::time::Duration;

use crate::limits::Limits;

/// The configuration of a [`Reactor`](crate::Reactor): its limits, and how it works.
///
/// [`Limits`] can be converted to a `Config` with defaults for all other fields.
///
/// ```
/// use tidewheel::{Config, Reactor};
///
/// let mut config = Config::default();
/// config.limits.connections_max = Some(1000);
/// config.catch_panics = false;
/// let reactor = Reactor::new(config)?;
/// # let _ = reactor;
/// # Ok::<(), tidewheel::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The limits.
    pub limits: Limits,
    /// How long the reactor polls for events before the thread sleeps. This lowers response times, but keeps a core busy; it
    /// gains nothing if the peers run on the same core. Default: 0.
    pub busy_poll: Duration,
    /// Whether the writes of a turn may be made through io_uring, many with one system call, if the kernel (Linux 5.17 or
    /// later) permits it; see [`Reactor::uses_io_uring`](crate::Reactor::uses_io_uring). It does not change the output.
    /// Default: true.
    pub io_uring: bool,
    /// What a panic in a call of a service does. If true, the connection that the service was called for is closed with
    /// [`CloseReason::ServicePanic`](crate::CloseReason::ServicePanic), an observer gets
    /// [`Report::Panicked`](crate::Report::Panicked), and other connections are served as before: the service must stay usable
    /// after a call that ended early. If false, or in a program that is built with `panic = "abort"`, the panic ends the loop.
    /// Default: true.
    pub catch_panics: bool,
}

impl Default for Config {
    fn default() -> Config {
        Limits::default().into()
    }
}

impl From<Limits> for Config {
    fn from(limits: Limits) -> Config {
        Config { limits, busy_poll: Duration::ZERO, io_uring: true, catch_panics: true }
    }
}
