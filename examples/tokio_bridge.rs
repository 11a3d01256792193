//! Looks up host names, one a line, with tokio: the service passes each question to an async task, which sends the answer
//! back through a mailbox. In this way a service can use code that must not block the reactor, such as database clients.
//!
//!     cargo run --example tokio_bridge
//!     echo localhost | nc -N 127.0.0.1 7004

use tidewheel::{ConnId, Context, Limits, Options, Reactor, Receive, Service};
use tokio::sync::mpsc::{Sender, channel};

/// Questions that wait for tokio, and answers that wait for the reactor.
const WAITING_MAX: usize = 1000;

struct Resolver {
    questions: Sender<(ConnId, String)>,
}

impl Service for Resolver {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return 0 };
        let name = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
        match self.questions.try_send((conn, name)) {
            // One question at a time, so that the answers come in order.
            Ok(()) => cx.pause(conn),
            Err(_) => {
                cx.send(conn, b"too many questions, try again later\n");
                cx.close(conn);
            }
        }
        end + 1
    }
}

/// An answer, which does nothing if the connection has ended meanwhile.
impl Receive<(ConnId, String)> for Resolver {
    fn message(&mut self, (conn, answer): (ConnId, String), cx: &mut Context<'_>) {
        cx.send(conn, answer.as_bytes());
        cx.resume(conn);
    }
}

async fn look_up(name: &str) -> String {
    match tokio::net::lookup_host((name, 0)).await.map(|mut all| all.next()) {
        Ok(Some(address)) => format!("{name}: {}\n", address.ip()),
        Ok(None) => format!("{name}: no address\n"),
        Err(error) => format!("{name}: {error}\n"),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7004".to_owned());
    let mut limits = Limits::default();
    // Each has one question at a time, so the mailbox has room for all answers.
    limits.connections_max = Some(WAITING_MAX);
    let mut reactor = Reactor::new(limits)?;
    let (questions, mut asked) = channel(WAITING_MAX);
    let resolver = reactor.add_service(Resolver { questions }, Options::new("resolver"));
    let mailbox = reactor.mailbox::<Resolver, _>(resolver, WAITING_MAX);
    let (_, address) = reactor.listen(&address.parse()?, resolver)?;
    println!("listening on {address}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            while let Some((conn, name)) = asked.recv().await {
                let mailbox = mailbox.clone();
                tokio::spawn(async move {
                    let answer = look_up(&name).await;
                    if let Err(error) = mailbox.send((conn, answer)) {
                        eprintln!("the answer for {name} is lost: {error}");
                    }
                });
            }
        })
    });
    Ok(reactor.run()?)
}
