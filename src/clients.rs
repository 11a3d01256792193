//! The clients of the command line: `tidewheel talk`, `chat`, `get`, `ftp`. They share the words of the command line
//! with the server, and nothing of its engine.
//!
//! Exit codes: 0 fine, 1 it failed, 2 the command line or an address was no good.

mod chat;
mod console;
mod conversation;
mod ftp;
mod get;
mod introduction;
mod link;
mod place;
mod shell;
mod talk;
mod terminal;
mod text;
mod transfer;
mod words;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::address::{self, Location, Transport};
use crate::cli::{EXIT_FAILED, EXIT_USAGE, show};

/// What the command line has besides the server.
#[derive(Subcommand)]
pub enum Command {
    Talk(talk::TalkOptions),
    Chat(chat::ChatOptions),
    Get(get::GetOptions),
    Ftp(ftp::FtpOptions),
    #[command(flatten)]
    Shell(shell::Command),
}

/// Why a client ends otherwise than in order: one line for people, and the exit code.
#[derive(Debug)]
pub struct Failure {
    exit_code: u8,
    line: String,
}

impl Failure {
    /// Of the command line or an address.
    pub fn usage(line: impl Into<String>) -> Failure {
        Failure { exit_code: EXIT_USAGE, line: line.into() }
    }

    /// Of the network, the peer or a file.
    pub fn failed(line: impl Into<String>) -> Failure {
        Failure { exit_code: EXIT_FAILED, line: line.into() }
    }

    /// What is told.
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// An ADDRESS, of which a bare HOST:PORT is on TCP.
fn location_on_tcp(text: &str) -> Result<Location, String> {
    address::location(text, Transport::Tcp)
}

/// Runs one client to its end.
pub fn run(command: Command) -> ExitCode {
    let ended = match command {
        Command::Talk(options) => talk::run(&options),
        Command::Chat(options) => chat::run(&options),
        Command::Get(options) => get::run(&options),
        Command::Ftp(options) => ftp::run(&options),
        Command::Shell(command) => shell::run(&command),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit_code, line }) => {
            // The stream may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "tidewheel: {}", show::printable(&line));
            ExitCode::from(exit_code)
        }
    }
}
