//! How a reactor on the real system works, beside its limits.

use std::time::Duration;

use crate::limits::Limits;

/// What a [`Reactor`](crate::Reactor) is made with: its limits, and how it works.
///
/// [`Limits`] alone are a `Config` too, with the defaults for all else.
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
    /// What may grow, and how far.
    pub limits: Limits,
    /// How long the reactor asks the system again and again for something to do before the thread sleeps. It lowers response
    /// times at the price of a core that is always busy, and gains nothing where the peers need that core. Default: 0.
    pub busy_poll: Duration,
    /// Whether the writes of a turn may be made through io_uring, many with one system call, where the kernel (Linux 5.17 or
    /// later) lets this program use it; see [`Reactor::uses_io_uring`](crate::Reactor::uses_io_uring). What is sent, and when,
    /// does not depend on it. Default: true.
    pub io_uring: bool,
    /// What a panic in a call of a service does. If true, the connection that the service was called for is closed with
    /// [`CloseReason::ServicePanic`](crate::CloseReason::ServicePanic), an observer gets
    /// [`Report::Panicked`](crate::Report::Panicked), and everybody else is served on: the service must be able to go on after
    /// a call that ended in the middle. If false, or in a program that is built with `panic = "abort"`, the panic ends the
    /// loop. Default: true.
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
