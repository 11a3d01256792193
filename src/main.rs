//! The `tidewheel` program: the library's services on the command line.

// They panic where a standard stream fails.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod cli;
#[cfg(feature = "clients")]
mod clients;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
