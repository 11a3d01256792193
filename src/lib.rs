//! A single-threaded, non-blocking server engine on Linux's epoll. To use only the library, without the program:
//!
//! ```toml
//! [dependencies]
//! tidewheel = { version = "0.1", default-features = false } # or path = "../tidewheel" in place of the version
//! ```
//!
//! The path of one byte, from socket to socket:
//!
//! ```text
//!  socket ─► net::os: wait, read ─► reactor: one turn ─► Service::input(conn, bytes, cx) ─► consumed
//!                                                                  │
//!  socket ◄─ net::os: write ◄─ reactor: flush phase ◄─ output ◄────┴ cx.send · publish · close · set_deadline ...
//! ```
//!
//! A protocol is a [`Service`]. It receives bytes, the id of a connection and the time, and acts through its
//! [`Context`]. It holds no socket and reads no clock, so it can be tested with byte slices
//! ([`sim::UnitTest`]) and run on a [simulated network](sim). One [`Reactor`] is one thread: services need no locks, and
//! must not block.
//!
//! # A service
//!
//! It answers each line with the number of its words:
//!
//! ```
//! use tidewheel::{ConnId, Context, Limits, Options, Reactor, Service};
//!
//! struct Words;
//!
//! impl Service for Words {
//!     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
//!         let mut consumed = 0;
//!         for line in bytes.split_inclusive(|&byte| byte == b'\n') {
//!             if !line.ends_with(b"\n") || cx.room(conn) == 0 {
//!                 break; // the rest is offered again, with what follows it
//!             }
//!             let words = String::from_utf8_lossy(line).split_whitespace().count();
//!             cx.send(conn, format!("{words}\n").as_bytes());
//!             consumed += line.len();
//!         }
//!         consumed
//!     }
//! }
//!
//! let mut reactor = Reactor::new(Limits::default())?;
//! let words = reactor.add_service(Words, Options::new("words"));
//! let (_, address) = reactor.listen(&"127.0.0.1:0".parse()?, words)?;
//! println!("listening on {address}");
//! # let remote = reactor.remote();
//! # let peer = std::thread::spawn(move || {
//! #     use std::io::{Read, Write};
//! #     let tidewheel::Address::Tcp(address) = address else { unreachable!() };
//! #     let mut stream = std::net::TcpStream::connect(address).unwrap();
//! #     stream.write_all(b"one two\n\nthree").unwrap();
//! #     stream.write_all(b" four five\n").unwrap();
//! #     stream.shutdown(std::net::Shutdown::Write).unwrap();
//! #     let mut answers = String::new();
//! #     stream.read_to_string(&mut answers).unwrap();
//! #     remote.stop();
//! #     answers
//! # });
//! reactor.run()?;
//! # assert_eq!(peer.join().unwrap(), "2\n0\n3\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The same, simulated
//!
//! The simulated network splits, delays and interrupts reads and writes, as derived from a seed. A failing seed is printed
//! and can be replayed:
//!
//! ```
//! # use tidewheel::{ConnId, Context, Service};
//! # struct Words;
//! # impl Service for Words {
//! #     fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
//! #         let mut consumed = 0;
//! #         for line in bytes.split_inclusive(|&byte| byte == b'\n') {
//! #             if !line.ends_with(b"\n") || cx.room(conn) == 0 {
//! #                 break;
//! #             }
//! #             let words = String::from_utf8_lossy(line).split_whitespace().count();
//! #             cx.send(conn, format!("{words}\n").as_bytes());
//! #             consumed += line.len();
//! #         }
//! #         consumed
//! #     }
//! # }
//! use tidewheel::sim::{self, Faults, Sim};
//!
//! sim::check(0..20, |seed| {
//!     let mut sim = Sim::new(seed, Faults::hostile());
//!     let words = sim.listen("127.0.0.1:7", Words);
//!     let peer = sim.connect(words);
//!     sim.send(peer, b"one two\n\nthree four five\n");
//!     sim.finish(peer);
//!     assert!(sim.run(), "it comes to an end");
//!     assert_eq!(sim.received(peer), b"2\n0\n3\n");
//! });
//! ```
//!
//! # Signals, panics
//!
//! The library handles no signals. For a graceful shutdown on SIGTERM, wait for the signal in a thread and stop the reactor
//! through its [`Remote`]; [`Reactor::drain`] then answers what has been received:
//!
//! ```no_run
//! use std::time::Duration;
//! use signal_hook::{consts::SIGTERM, iterator::Signals};
//! # use tidewheel::{Limits, Reactor};
//!
//! let mut reactor = Reactor::new(Limits::default())?;
//! // Add services and listen.
//! let mut signals = Signals::new([SIGTERM])?;
//! let remote = reactor.remote();
//! std::thread::spawn(move || {
//!     if signals.forever().next().is_some() {
//!         remote.stop();
//!     }
//! });
//! reactor.run()?;
//! reactor.drain(Duration::from_secs(10))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A panic in a service closes the connection that it was called for; other connections are not affected:
//! [`Config::catch_panics`].
//!
//! # Where to look
//!
//! - [`Service`]: what a protocol implements; [`Context`]: how it acts
//! - [`Reactor`]: the loop; [`Reactor::run`], or [`Reactor::turn`] for your own loop
//! - [`framing`]: messages in a stream: lines, and text that ends with a pause
//! - [`Limits`]: all limits; [`Config`]: the configuration of a reactor
//! - [`Mailbox`]: typed messages from other threads
//! - [`sim`]: the simulated network
//! - [`Metrics`]: the counters; [`Report`]: events, for logs
#![cfg_attr(feature = "services", doc = "- [`services`]: those that are ready")]
//!
//! The folder `examples` of the repository has eight small programs to start from.
//!
//! # Features
//!
//! Without any feature, the crate is the engine and the simulation. `services` adds the built-in services, `cli` the
//! `tidewheel` program, `clients` its client commands. `services` and `cli` are on by default.

#[cfg(not(target_os = "linux"))]
compile_error!("tidewheel runs on Linux: it is built on epoll and on Linux's batched datagram calls");
#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "tidewheel needs a 64-bit target: a connection's slot and generation together are the event token"
);

mod arrears;
mod connection;
mod datagram;
mod drain;
mod drive;
mod error;
pub mod framing;
mod limits;
mod log;
mod mailbox;
mod memory;
mod metrics;
mod net;
mod output;
#[cfg(feature = "bench-parts")]
#[doc(hidden)]
pub mod parts;
mod prefix;
mod progress;
mod reactor;
mod service;
#[cfg(feature = "services")]
pub mod services;
mod shared;
mod slots;
mod state;
mod timer;
mod topic;

pub use connection::CloseReason;
pub use datagram::{DATAGRAM_BYTES_MAX, Datagram};
pub use drain::Drained;
pub use error::Error;
pub use limits::Limits;
pub use mailbox::{Mailbox, SendError};
pub use metrics::{DropCause, Metrics};
pub use net::{Address, Net, ParseAddressError, Peer, os, sim};
pub use reactor::{Config, ListenerId, Reactor, Remote};
pub use service::{Arrival, Context, Options, Receive, Service, ServiceId};
pub use shared::Shared;
pub use slots::{ConnId, ConnMap};
pub use state::{Observer, Report};
pub use timer::Instant;
pub use topic::TopicId;

/// The examples of the documents, compiled and run with the tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/guide.md")]
    struct Guide;

    #[doc = include_str!("../docs/simulation.md")]
    struct Simulation;
}
