//! What is visible from outside, in one binary: files are named for the behaviour that they show.

mod chat;
#[cfg(feature = "clients")]
mod clients;
#[cfg(feature = "cli")]
mod command_line;
#[cfg(feature = "cli")]
mod configuration;
mod datagrams;
mod faults;
mod fuzz;
mod harness;
mod http;
mod messages;
mod simulation;
mod tidy;
mod uppercase;
