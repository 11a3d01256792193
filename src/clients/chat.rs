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

/// Join a chat room; incoming messages are printed above the line being typed
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = BEHAVIOUR)]
pub struct ChatOptions {
    /// The address of the chat server: HOST:PORT, tcp://HOST:PORT or unix:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:25666", value_parser = location_of_chat)]
    address: Location,

    /// The nickname to send on connecting; without it, answer the server's prompt
    #[arg(long, value_name = "NAME", value_parser = nickname)]
    nick: Option<String>,

    /// The line ending to send
    #[arg(long, value_enum, default_value = "lf")]
    eol: Eol,

    /// How long connecting may take; 0 = no limit
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: Time,

    /// The language of this program's own messages [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

const EXAMPLES: &str = "\
Examples:
  tidewheel chat --nick ada                  the chat of `tidewheel serve`; /help lists its commands
  tidewheel chat --eol none 127.0.0.1:8000   a server that expects names without a line ending

Ctrl-D leaves after the server's last output, Ctrl-C immediately. See --help for pipes and exit codes.";

// Paragraphs are one line each: clap wraps them to the terminal.
const BEHAVIOUR: &str = "\
Examples:
  tidewheel chat --nick ada                  the chat of `tidewheel serve`; /help lists its commands
  tidewheel chat --eol none 127.0.0.1:8000   a server that expects names without a line ending
  echo 'it is built' | tidewheel chat --nick builder

On a terminal, lines can be edited, and the arrow keys recall earlier lines. Incoming messages are printed above the \
line being typed, with control characters escaped. Ctrl-D leaves after the server's last output; a second Ctrl-D, or \
Ctrl-C, leaves immediately.

With a pipe as standard input, each line is sent as a message, and the server's output is copied to standard output. If \
tidewheel's chat refuses the nickname, the program exits before it sends any message. Refusals by other servers are not \
recognized: such a server may take the next line as a nickname.

Exit codes:
  0  the server closed the connection, or the input ended and the server then sent nothing more
  1  connecting failed, the connection was lost, the nickname was refused, or no reply came in time
  2  invalid command line or address";

fn location_of_chat(text: &str) -> Result<Location, String> {
    let location = location_on_tcp(text)?;
    if location.transport.is_datagrams() {
        return Err("chat needs tcp or a unix stream socket: use tcp://HOST:PORT or unix:PATH".to_owned());
    }
    Ok(location)
}

fn nickname(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("a nickname must not be empty or contain control characters".to_owned());
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
