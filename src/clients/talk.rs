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

/// Talk to a server, or wait for somebody: what is typed is sent, what comes back is printed as it comes
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = BEHAVIOUR)]
pub struct TalkOptions {
    /// Where somebody listens: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:PATH or unix-dgram:PATH
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:8000", value_parser = location_on_tcp)]
    address: Location,

    /// Listen there, and talk to one peer after another; on datagrams, to whoever wrote last
    #[arg(long)]
    listen: bool,

    /// What ends each line that is sent [default: lf on streams, none in datagrams; a pipe's bytes go to a stream as they
    /// are]
    #[arg(long, value_enum)]
    eol: Option<Eol>,

    /// The word that ends the conversation, whichever side says it [default: bye with --listen, else none]
    #[arg(long, value_name = "WORD")]
    until: Option<String>,

    /// How long connecting may take; 0: as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "10s", conflicts_with = "listen")]
    timeout: Time,

    /// How long the peer may be silent after the end of input; 0: for ever [default: 10s on streams, 1s for datagrams]
    #[arg(long, value_name = "DURATION")]
    wait: Option<Time>,

    /// The language of what the program says itself [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

const EXAMPLES: &str = "\
Examples:
  echo hello | tidewheel talk 127.0.0.1:6666      one question, one answer
  tidewheel talk udp://127.0.0.1:8081             each line is a datagram
  tidewheel talk --eol none --until bye           as the tutorials' clients do it
  tidewheel talk --listen                         the other end, at a console";

// Paragraphs are one line each: clap wraps them to the terminal.
const BEHAVIOUR: &str = "\
Examples:
  echo hello | tidewheel talk 127.0.0.1:6666      one question, one answer
  tidewheel talk udp://127.0.0.1:8081             each line is a datagram
  tidewheel talk unix:/run/echo.sock
  tidewheel talk --eol none --until bye           as the tutorials' clients do it
  tidewheel talk --listen                         the other end, at a console
  tidewheel talk --listen udp://127.0.0.1:8000    its answers begin with the time

On a terminal lines can be edited and called back with the arrow keys; what comes in is printed above, control \
characters escaped. Ctrl-R finds the line that begins with what was typed. Ctrl-D ends the input, which half-closes a \
stream, and what still arrives is printed; a second one or Ctrl-C leaves.

Elsewhere standard input is sent and standard output is what the peer sends, byte for byte on streams, a line each for \
datagrams. Everything else is said on standard error.

--eol none leaves no borders between the lines on a stream: each waits until the one before it was answered and then \
100ms were silent, or 1s if no answer comes.

--listen: either side may speak first. The word that ends a conversation counts in any case and with any line ending; \
then the next peer is served. In datagrams `[Sat Nov 21 04:05:06 2026]:` stands before each line that is sent, but not \
before that word. The program ends with the input, once the conversation is over.

Exit codes:
  0  the conversation is over
  1  the connection could not be made or broke, or the peer was silent for too long
  2  a bad command line or address";

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
