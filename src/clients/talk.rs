//! `tidewheel talk`: a conversation with whoever listens, or with whoever comes.

use clap::Args;
use jiff::Zoned;

use super::console::Console;
use super::conversation::{Conversation, Manners, Outcome, next_peer};
use super::link::{self, Listening};
use super::text::{Ending, Eol};
use super::words::Notice;
use super::{Failure, location_on_tcp};
use crate::cli::address::Location;
use crate::cli::settings::{Lang, language};
use crate::cli::units::Time;

/// What ends a conversation at a console if nothing else is said.
const BYE: &str = "bye";

/// Connect to a server, or listen: send each line that is typed, and print what the peer sends
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = BEHAVIOUR)]
pub struct TalkOptions {
    /// The address: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix-dgram:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:8000", value_parser = location_on_tcp)]
    address: Location,

    /// Listen on the address, and talk to one peer after another; with datagrams, to the last sender
    #[arg(long)]
    listen: bool,

    /// The line ending to send [default: lf on streams, none in datagrams; the bytes of a pipe are sent to a stream
    /// unchanged]
    #[arg(long, value_enum)]
    eol: Option<Eol>,

    /// A word that ends the conversation when either side sends it [default: bye with --listen, else none]
    #[arg(long, value_name = "WORD")]
    until: Option<String>,

    /// How long connecting may take; 0 = no limit
    #[arg(long, value_name = "DURATION", default_value = "10s", conflicts_with = "listen")]
    timeout: Time,

    /// How long to wait for the peer after the end of input; 0 = no limit [default: 10s on streams, 1s for datagrams]
    #[arg(long, value_name = "DURATION")]
    wait: Option<Time>,

    /// The language of this program's own messages [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

const EXAMPLES: &str = "\
Examples:
  echo hello | tidewheel talk 127.0.0.1:6666      one request, one reply
  tidewheel talk udp://127.0.0.1:8081             each line is a datagram
  tidewheel talk --eol none --until bye           like the clients of the tutorials
  tidewheel talk --listen                         listen, and answer by hand";

// Paragraphs are one line each: clap wraps them to the terminal.
const BEHAVIOUR: &str = "\
Examples:
  echo hello | tidewheel talk 127.0.0.1:6666      one request, one reply
  tidewheel talk udp://127.0.0.1:8081             each line is a datagram
  tidewheel talk unix:/run/echo.sock
  tidewheel talk --eol none --until bye           like the clients of the tutorials
  tidewheel talk --listen                         listen, and answer by hand
  tidewheel talk --listen udp://127.0.0.1:8000    each reply begins with the time

On a terminal, lines can be edited, and the arrow keys recall earlier lines. Incoming text is printed above the line \
being typed, with control characters escaped. Ctrl-R searches for an earlier line by its beginning. Ctrl-D ends the \
input: a stream is half-closed, and remaining replies are printed. A second Ctrl-D, or Ctrl-C, leaves.

Without a terminal, standard input is sent, and what the peer sends is written to standard output: unchanged for \
streams, one line for each datagram. Messages of this program go to standard error.

--eol none sends no line endings, so on a stream nothing separates the lines. Each line therefore waits until the one \
before it was answered and the peer was then silent for 100ms, or for 1s if no answer comes.

--listen: either side may send first. Upper or lower case and the line ending of the word that ends a conversation do \
not matter; then the next peer is served. With datagrams, each line that is sent begins with the time, \
`[Sat Nov 21 04:05:06 2026]:`, except that word. At the end of input the program exits after the current conversation.

Exit codes:
  0  the conversation ended
  1  connecting failed, the connection was lost, or no reply came in time
  2  invalid command line or address";

/// Talks as the options say.
///
/// # Errors
/// When the connection cannot be made or breaks, or the address cannot be had.
pub fn run(options: &TalkOptions) -> Result<(), Failure> {
    if options.listen { listen(options) } else { connect(options) }
}

impl TalkOptions {
    fn manners(&self, is_datagrams: bool) -> Manners {
        let until = match (&self.until, self.listen) {
            (Some(word), _) => Some(&**word),
            (None, true) => Some(BYE),
            (None, false) => None,
        };
        Manners {
            eol: self.eol,
            until: until.map(Ending::new),
            prefix: (self.listen && is_datagrams).then_some(ctime as fn() -> String),
            wait: self.wait,
        }
    }

    /// Whether what comes through a pipe is lines and not bytes.
    fn by_lines(&self, manners: &Manners, is_datagrams: bool) -> bool {
        is_datagrams || manners.eol.is_some() || manners.until.is_some()
    }
}

/// The local time before a line, as C's ctime writes it.
fn ctime() -> String {
    Zoned::now().strftime("[%a %b %e %H:%M:%S %Y]:").to_string()
}

fn connect(options: &TalkOptions) -> Result<(), Failure> {
    let is_datagrams = options.address.transport.is_datagrams();
    let manners = options.manners(is_datagrams);
    let mut link = link::connect(&options.address, options.timeout)?;
    let mut console = Console::open(language(options.lang), options.by_lines(&manners, is_datagrams))?;
    let peer = options.address.to_string();
    if console.is_terminal() {
        console.say(&Notice::Connected(&peer));
    }
    let outcome = Conversation::new(&mut *link, &mut console, &manners).run();
    if console.is_terminal() && matches!(outcome, Ok(Outcome::Closed)) {
        console.say(&Notice::Closed(&peer));
    }
    console.close();
    outcome?.in_order()
}

fn listen(options: &TalkOptions) -> Result<(), Failure> {
    let is_datagrams = options.address.transport.is_datagrams();
    let manners = options.manners(is_datagrams);
    let (mut listening, address) = link::listen(&options.address)?;
    let mut console = Console::open(language(options.lang), options.by_lines(&manners, is_datagrams))?;
    console.say(&Notice::Listening(&address.to_string()));
    let mut is_later = false;
    let ended = match &mut listening {
        Listening::Datagrams(link) => loop {
            let conversation = Conversation::new(&mut **link, &mut console, &manners);
            match if is_later { conversation.later() } else { conversation }.run() {
                Ok(Outcome::Done | Outcome::Stopped) => break Ok(()),
                Ok(Outcome::Farewell | Outcome::Closed) => {}
                Ok(Outcome::Failed(failure)) => console.say(&Notice::Failed(failure.line())),
                Err(failure) => break Err(failure),
            }
            if let Some(peer) = link.peer() {
                console.say(&Notice::Gone(peer));
            }
            if console.input_is_over() {
                break Ok(());
            }
            link.forget_peer();
            is_later = true;
        },
        streams => one_after_another(streams, &mut console, &manners),
    };
    console.close();
    ended
}

/// Talks to one peer after another until the input ends.
fn one_after_another(listening: &Listening, console: &mut Console, manners: &Manners) -> Result<(), Failure> {
    let mut is_later = false;
    while let Some(mut link) = next_peer(listening, console, is_later)? {
        is_later = true;
        let peer = link.peer().unwrap_or_default().to_owned();
        console.say(&Notice::Here(&peer));
        let conversation = Conversation::new(&mut *link, console, manners);
        match conversation.run()? {
            Outcome::Done | Outcome::Stopped => break,
            Outcome::Closed | Outcome::Farewell => {}
            // One peer's misfortune is not the next one's.
            Outcome::Failed(failure) => console.say(&Notice::Failed(failure.line())),
        }
        console.say(&Notice::Gone(&peer));
        if console.input_is_over() {
            break;
        }
    }
    Ok(())
}
