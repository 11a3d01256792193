//! Answers each line with the number of its words.
//!
//!     cargo run --example words
//!     printf 'one two three\n' | nc -N 127.0.0.1 7000

use tidewheel::framing::{Answer, Framed, Message, Next, Rules};
use tidewheel::{ConnId, Context, Limits, Options, Reactor};

struct Words;

impl Answer for Words {
    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        let words = String::from_utf8_lossy(message.text).split_whitespace().count();
        cx.send(conn, format!("{words}\n").as_bytes());
        Next::Message
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".to_owned());
    let mut reactor = Reactor::new(Limits::default())?;
    let words = reactor.add_service(Framed::new(Words, Rules::default()), Options::new("words"));
    let (_, address) = reactor.listen(&address.parse()?, words)?;
    println!("listening on {address}");
    Ok(reactor.run()?)
}
