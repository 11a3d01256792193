//! Connections that are opened for one exchange each: connect, ask, verify the reply, close.
//!
//! ```text
//!     plan ─► connect ─► connected ─► write ─► read ─► verify ─► close
//!                │           │                            │
//!              refused     reset, ended or too late     answered, or an error
//! ```
//!
//! In an open loop connects leave when the plan says so, however many are in progress; in a closed one so many are kept
//! in progress. Each is a request of the record: answered, wrong, or lost for a reason that is counted.

mod counts;
mod load;

pub use counts::Counts;
pub use load::{ChurnLoad, conns_max};

use serde::Serialize;

/// How a connection is closed after its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Close {
    /// In order. Whoever does it first has the port in TIME_WAIT, for a minute on Linux.
    #[default]
    Fin,
    /// With a reset: the port is free at once.
    Rst,
}
