//! What is visible from outside, in one binary: files are named for the behaviour that they show.

#[cfg(feature = "cli")]
mod addresses;
mod chat;
#[cfg(feature = "clients")]
mod clients;
#[cfg(feature = "cli")]
mod command_line;
#[cfg(feature = "cli")]
mod configuration;
mod datagrams;
#[cfg(feature = "cli")]
mod docs;
mod examples;
mod faults;
mod fuzz;
mod harness;
mod http;
mod messages;
mod proxy;
mod simulation;
mod tidy;
#[cfg(feature = "cli")]
mod unix_sockets;
mod uppercase;
