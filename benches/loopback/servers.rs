//! The servers that are compared, each in threads of its own on core 0.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, SockRef, Socket, Type};
use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::services::echo::Echo;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::Uppercase;
use tidewheel::{Address, Limits, Options, Reactor};

use crate::threads::{self, Room};

/// What a datagram socket asks for as its buffers; the kernel gives what it gives to everybody.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What a server does.
#[derive(Clone, Copy)]
pub enum Job {
    Echo,
    Uppercase,
    /// Over UDP.
    Time,
    Chat,
}

/// Who does it.
#[derive(Clone, Copy)]
pub enum Kind {
    Tidewheel,
    /// A thread for each connection.
    Threads,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Tidewheel, Kind::Threads];

    /// As benchmarks are named.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tidewheel => "tidewheel",
            Kind::Threads => "threads",
        }
    }

    /// Starts a server on a free port of loopback.
    pub fn start(self, job: Job) -> Server {
        let (started, start) = mpsc::channel();
        let thread = thread::spawn(move || {
            stay_on(0);
            match self {
                Kind::Tidewheel => run_tidewheel(job, &started),
                Kind::Threads => run_threads(job, &started),
            }
            .expect("loopback has a free port");
        });
        let (address, stop) = start.recv().expect("the server listens");
        Server { address, stop: Some(stop), thread: Some(thread) }
    }
}

/// Keeps the calling thread, and those that it will start, on one core, where there are two: 0 for the server, 1 for
/// its load.
pub fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // There may be one core only.
    let _ = sched_setaffinity(None, &set);
}

type Stop = Box<dyn FnOnce() + Send>;

/// A server that runs. It ends when this is dropped, which must be after its connections.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        // Another panic while the first one is told would hide it.
        assert!(ended.is_ok() || thread::panicking(), "a server does not panic");
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn run_tidewheel(job: Job, started: &Sender<(SocketAddr, Stop)>) -> io::Result<()> {
    let mut reactor = Reactor::new(Limits::default()).map_err(io::Error::other)?;
    let bytes = |name| Options::new(name).messages(false);
    let (service, address) = match job {
        Job::Echo => (reactor.add_service(Echo, bytes("echo")), Address::Tcp(any_port())),
        Job::Uppercase => {
            (reactor.add_service(Uppercase::default(), bytes("uppercase")), Address::Tcp(any_port()))
        }
        Job::Time => (reactor.add_service(Time::local(), bytes("time")), Address::Udp(any_port())),
        Job::Chat => {
            // Nobody is slowed, and nobody is told who comes and goes: these are no messages of the load.
            let mut limits = ChatLimits::default();
            (limits.rate, limits.announce_max) = (0, 0);
            let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
            (reactor.add_service(chat, Options::new("chat")), Address::Tcp(any_port()))
        }
    };
    let (_, address) = reactor.listen(&address, service).map_err(io::Error::other)?;
    let (Address::Tcp(address) | Address::Udp(address)) = address else {
        unreachable!("it was asked for an address of the internet")
    };
    let remote = reactor.remote();
    let stop: Stop = Box::new(move || remote.stop());
    started.send((address, stop)).expect("the benchmark waits for it");
    reactor.run().map_err(io::Error::other)
}

fn run_threads(job: Job, started: &Sender<(SocketAddr, Stop)>) -> io::Result<()> {
    let announce = |address, stop: Stop| started.send((address, stop)).expect("the benchmark waits for it");
    if let Job::Time = job {
        let socket = UdpSocket::bind(any_port())?;
        // As the engine asks for.
        SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        let (address, stopping) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let stopped = stopping.clone();
        announce(
            address,
            Box::new(move || {
                stopped.store(true, Ordering::Relaxed);
                // Wakes the thread out of its call.
                let waker = UdpSocket::bind(any_port()).and_then(|waker| waker.send_to(b"", address));
                waker.expect("loopback takes a datagram");
            }),
        );
        return threads::tell_time(&socket, &stopping);
    }
    let listener = Arc::new(listener()?);
    let listening = listener.clone();
    announce(
        listener.local_addr()?,
        Box::new(move || {
            // All who wait in accept are told that this is no listener any more.
            let ended = SockRef::from(&*listening).shutdown(std::net::Shutdown::Both);
            ended.expect("it is a listener until now");
        }),
    );
    let room = Room::default();
    match job {
        Job::Echo => threads::serve(&listener, |stream, memory| threads::echo(&stream, memory)),
        Job::Uppercase => threads::serve(&listener, |stream, memory| threads::uppercase(&stream, memory)),
        Job::Chat => threads::serve(&listener, |stream, memory| threads::chat(stream, memory, &room)),
        Job::Time => unreachable!("it has no connections"),
    }
    Ok(())
}

/// A listener as the engine has it: a thousand who connect at once find room, and what is accepted sends at once.
fn listener() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&any_port().into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
