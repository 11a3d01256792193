//! The `tidewheel` program: the library's services on the command line.

mod cli;
#[cfg(feature = "clients")]
mod clients;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
