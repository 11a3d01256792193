//! Load over datagrams, which may be lost, doubled, overtaken and spoiled, each of which is counted.
//!
//! ```text
//!     plan, sizes ──► load ──► dialogue: header, text ──► socket ──► the server
//!                      │                                                 │
//!                   flight: what is asked on each socket ◄── dialogue: verify ◄┘
//! ```
//!
//! Each reply that comes within the window is one of these:
//!
//! - right: the first reply to its request, every byte as it should be. It is *reordered* if a later request of its
//!   socket had been answered before.
//! - *corrupted*: a byte is wrong, there are too few or too many, or the time it tells is not this machine's. Where its
//!   request is in flight, this was the answer, and a wrong one.
//! - *late*: the first reply to a request that was given up as *lost*, because none had come within the timeout.
//! - *duplicated*: a further reply to a request that had one.

mod counts;
mod dialogue;
mod flight;
mod load;
mod local_time;
mod server_sockets;
mod socket;

pub use counts::Counts;
pub use dialogue::{Dialogue, request_bytes};
pub use load::DatagramLoad;
pub use server_sockets::{is_bound, server_drops};
pub use socket::connect_udp;
