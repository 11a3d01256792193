//! A tidewheel to measure where no other server is at hand. It is this program run again, in a process of its own; no
//! other file knows the engine.
//!
//! ```text
//!     loadgen ── runs itself ──► the server, whose standard input is a socket to loadgen
//!        │ ◄── SERVICE=ADDRESS … ─┤
//!        ┊                        ┊
//!        └── end of the stream ──►┘ and it ends, however loadgen did
//! ```

use std::env;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::services::echo::Echo;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::{Address, ConnId, Context, Limits, Options, Reactor, Remote, Service};

use crate::message::message;
use crate::os;
use crate::server::Server;

/// The argument that makes this program the server.
const ARGUMENT: &str = "be-the-embedded-server";

/// The argument that makes this program an echo server at a port of the loopback interface, which counts to a number for each
/// request.
pub const SLOWED: &str = "be-the-slowed-server";

/// What the server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that runs, and ends with this.
pub struct Embedded {
    pub server: Server,
    /// Each as SERVICE=ADDRESS.
    pub targets: Vec<String>,
    /// The server goes on as long as it is open.
    _ours: UnixStream,
}

impl Embedded {
    /// Starts it on free ports of the loopback interface, on the processors that the calling thread has.
    pub fn start() -> Result<Embedded> {
        let (ours, theirs) = UnixStream::pair().context("a pair of sockets")?;
        // What was started, even if it has been replaced on the disk since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("loadgen").arg(ARGUMENT);
        command.stdin(OwnedFd::from(theirs)).stdout(io::stderr()).process_group(0);
        os::end_with_parent(&mut command);
        let child = command.spawn().context("starting this program again, as the server")?;
        // It keeps their socket open, and what is awaited below might never end.
        drop(command);
        let mut server = Server::of_child("the embedded tidewheel".into(), child);

        ours.set_read_timeout(Some(START_TIMEOUT))?;
        let mut targets = Vec::new();
        for line in BufReader::new(&ours).lines() {
            match line.context("waiting for the embedded tidewheel")? {
                line if line.is_empty() => return Ok(Embedded { server, targets, _ours: ours }),
                target => targets.push(target),
            }
        }
        server.check(START_TIMEOUT).context("it did not come up")?;
        bail!("the embedded tidewheel did not say where it listens");
    }
}

/// Whether this process is to be a server.
pub fn is_asked_for() -> bool {
    env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT || argument == SLOWED)
}

/// Is the server, until whoever started it is gone.
pub fn serve() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let served = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SLOWED, port, counts] => serve_slowly(port, counts),
        _ => serve_whoever_started_it(),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            message!("the embedded tidewheel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_whoever_started_it() -> Result<()> {
    let mut reactor = Reactor::new(Limits::default())?;
    // No message ends in a stream of bytes, so no deadline applies to one.
    let bytes = |name| Options::new(name).messages(false);
    // Whoever measures it says much.
    let mut chat_limits = ChatLimits::default();
    chat_limits.rate = 0;
    let chat = Framed::new(Chat::new(Language::English, chat_limits), Rules::default());
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let services = [
        ("echo", reactor.add_service(Echo, bytes("echo")), Address::Tcp(any_port)),
        ("uppercase", reactor.add_service(Uppercase::default(), bytes("uppercase")), Address::Tcp(any_port)),
        ("time", reactor.add_service(Time::local(), Options::new("time")), Address::Udp(any_port)),
        ("chat", reactor.add_service(chat, Options::new("chat")), Address::Tcp(any_port)),
    ];
    let mut told = String::new();
    for (name, service, address) in services {
        let (_, address) = reactor.listen(&address, service)?;
        told += &format!("{name}={address}\n");
    }
    told.push('\n');

    let mut starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    starter.write_all(told.as_bytes()).context("telling whoever started it")?;
    let watch = Starter(reactor.remote());
    let watch = reactor.add_service(watch, bytes("starter"));
    reactor.watch(starter, watch).context("watching whoever started it")?;
    Ok(reactor.run()?)
}

fn serve_slowly(port: &str, counts: &str) -> Result<()> {
    let port: u16 = port.parse().context("the port")?;
    let counts: u64 = counts.parse().context("how far to count")?;
    let mut reactor = Reactor::new(Limits::default())?;
    let echo = reactor.add_service(Slowed { echo: Echo, counts }, Options::new("echo").messages(false));
    reactor.listen(&Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), echo)?;
    Ok(reactor.run()?)
}

/// An echo that takes longer.
struct Slowed {
    echo: Echo,
    counts: u64,
}

impl Service for Slowed {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        black_box(count_to(self.counts));
        self.echo.input(conn, bytes, cx)
    }
}

/// Takes time that is in proportion to the number.
#[inline(never)]
pub fn count_to(number: u64) -> u64 {
    let mut count = 0;
    while count < number {
        count = black_box(count + 1);
    }
    count
}

/// Whoever started the server, of whom nothing but the end is heard.
struct Starter(Remote);

impl Service for Starter {
    fn eof(&mut self, _: ConnId, _: &[u8], _: &mut Context<'_>) {
        self.0.stop();
    }
}
