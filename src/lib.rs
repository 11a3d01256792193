//! tidewheel

#[cfg(not(target_os = "linux"))]
compile_error!("tidewheel runs on Linux: it is built on epoll and on Linux's batched datagram calls");
#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "tidewheel needs a 64-bit target: a connection's slot and generation together are the event token"
);

pub mod connection;
pub mod datagram;
mod drive;
pub mod error;
pub mod limits;
pub mod mailbox;
pub mod metrics;
pub mod net;
pub mod output;
pub mod reactor;
pub mod service;
#[cfg(feature = "services")]
pub mod services;
mod slots;
mod state;
pub mod timer;
pub mod topic;

pub use connection::CloseReason;
pub use error::Error;
pub use limits::Limits;
pub use net::{Address, Peer, sim};
pub use reactor::Reactor;
pub use service::{Arrival, Context, Options, Receive, Service, ServiceId};
pub use slots::{ConnId, ConnMap};
pub use state::{Observer, Report};
pub use timer::Instant;
