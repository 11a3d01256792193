//! A reactor inside another loop, which also waits for standard input: what you type is sent to all connections, and the end
//! of the input ends the program.
//!
//!     cargo run --example own_loop
//!     nc 127.0.0.1 7003        # in other terminals

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidewheel::{Arrival, ConnId, Context, Limits, Options, Reactor, Service, TopicId};

#[derive(Default)]
struct Listeners {
    /// Created with the first connection.
    topic: Option<TopicId>,
}

impl Service for Listeners {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        cx.subscribe(topic, conn);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7003".to_owned());
    let mut reactor = Reactor::new(Limits::default())?;
    let service = reactor.add_service(Listeners::default(), Options::new("listeners"));
    let (_, address) = reactor.listen(&address.parse()?, service)?;
    println!("listening on {address}");

    let stdin = io::stdin();
    let mut typed = [0; 4096];
    loop {
        // The reactor says how long it can wait, and its descriptor is readable when something has happened.
        let timeout = reactor.next_timeout().map(Timespec::try_from).transpose()?;
        let mut ready = [PollFd::new(&reactor, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_typed = !ready[1].revents().is_empty();
        reactor.turn(Some(Duration::ZERO))?;
        if has_typed {
            let count = rustix::io::read(stdin.as_fd(), &mut typed)?;
            if count == 0 {
                break;
            }
            reactor.with(service, |listeners: &mut Listeners, cx| {
                if let Some(topic) = listeners.topic {
                    cx.publish(topic, &typed[..count], None);
                }
            });
        }
    }
    reactor.drain(Duration::from_secs(1))?;
    Ok(())
}
