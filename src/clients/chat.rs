//! `tidewheel chat`: a conversation in a room, whose other voices come in above the line that is typed.

use clap::Args;

use super::console::Console;
use super::conversation::{Conversation, Manners, Outcome};
use super::link;
use super::text::Eol;
use super::words::Notice;
use super::{Failure, location_on_tcp};
use crate::cli::address::Location;
use crate::cli::settings::{Lang, language};
use crate::cli::units::Time;

/// Take part in a chat: what others say comes in above the line that is typed
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = BEHAVIOUR)]
pub struct ChatOptions {
    /// Where the chat is: HOST:PORT, tcp://HOST:PORT or unix:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:25666", value_parser = location_of_chat)]
    address: Location,

    /// The nickname, which is the first thing that the server is told; without it the server asks
    #[arg(long, value_name = "NAME", value_parser = nickname)]
    nick: Option<String>,

    /// What ends each line that is sent
    #[arg(long, value_enum, default_value = "lf")]
    eol: Eol,

    /// How long connecting may take; 0: as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: Time,

    /// The language of what the program says itself [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

const EXAMPLES: &str = "\
Examples:
  tidewheel chat --nick ada                  the chat of `tidewheel serve`; /help lists its commands
  tidewheel chat --eol none 127.0.0.1:8000   a server that compares names without their line ending

Ctrl-D leaves once the server has said everything, Ctrl-C at once. See --help for pipes and exit codes.";

// Paragraphs are one line each: clap wraps them to the terminal.
const BEHAVIOUR: &str = "\
Examples:
  tidewheel chat --nick ada                  the chat of `tidewheel serve`; /help lists its commands
  tidewheel chat --eol none 127.0.0.1:8000   a server that compares names without their line ending
  echo 'it is built' | tidewheel chat --nick builder

On a terminal lines can be edited and called back with the arrow keys; what comes in is printed above, control \
characters escaped. Ctrl-D leaves once the server has said everything; a second one or Ctrl-C leaves at once.

In a pipe each line is one that is said, and standard output is what the server sends. A nickname that tidewheel's chat \
refuses ends the program before anything else is said. Other servers are not understood: one that refuses the nickname \
may take the next line for another.

Exit codes:
  0  the server closed, or the input ended and then the server had nothing more to say
  1  the connection could not be made or broke, the nickname was refused, or the server was silent for too long
  2  a bad command line or address";

fn location_of_chat(text: &str) -> Result<Location, String> {
    let location = location_on_tcp(text)?;
    if location.transport.is_datagrams() {
        return Err("a chat is on tcp or unix: use tcp://HOST:PORT or unix:PATH".to_owned());
    }
    Ok(location)
}

fn nickname(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("a nickname is a word on one line".to_owned());
    }
    Ok(text.to_owned())
}

/// Takes part until the server goes or the person here does.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub fn run(options: &ChatOptions) -> Result<(), Failure> {
    let manners = Manners { eol: Some(options.eol), until: None, prefix: None, wait: None };
    let mut link = link::connect(&options.address, options.timeout)?;
    let mut console = Console::open(language(options.lang), true)?;
    let server = options.address.to_string();
    if console.is_terminal() {
        console.say(&Notice::Connected(&server));
    }
    let mut conversation = Conversation::new(&mut *link, &mut console, &manners);
    if let Some(nick) = &options.nick {
        conversation.introduce(nick);
    }
    let outcome = conversation.run();
    if matches!(outcome, Ok(Outcome::Closed)) {
        console.say(&Notice::ServerGone(&server));
    }
    console.close();
    outcome?.in_order()
}
