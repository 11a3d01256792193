//! What a shell and `man` want to know of the commands.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use clap_complete::Shell;

use super::Failure;
use crate::cli;

#[derive(Subcommand)]
pub enum Command {
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS)]
    Completions { shell: Shell },
    /// Print the man page, or write the pages of all commands to a directory
    #[command(after_help = MAN)]
    Man {
        /// An existing directory for the pages of all commands; without it, tidewheel's page is printed
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

const COMPLETIONS: &str = "\
Examples:
  source <(tidewheel completions bash)
  tidewheel completions fish > ~/.config/fish/completions/tidewheel.fish

Exit codes: 0 success; 1 writing failed; 2 invalid command line";

const MAN: &str = "\
Examples:
  tidewheel man | man -l -
  tidewheel man ~/.local/share/man/man1 && man tidewheel-get

Exit codes: 0 success; 1 writing failed; 2 invalid command line";

/// Does what the command says.
///
/// # Errors
/// A line for people.
pub fn run(command: &Command) -> Result<(), Failure> {
    let mut told = Vec::new();
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut cli::command(), "tidewheel", &mut told);
        }
        Command::Man { folder: Some(folder) } => return write_pages(folder),
        Command::Man { folder: None } => {
            // Memory takes whatever is written to it.
            clap_mangen::Man::new(cli::command())
                .render(&mut told)
                .map_err(|error| Failure::failed(error.to_string()))?;
        }
    }
    io::stdout()
        .write_all(&told)
        .map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

fn write_pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(cli::command(), folder)
        .map_err(|error| Failure::failed(format!("cannot write man pages to {}: {error}", folder.display())))
}
