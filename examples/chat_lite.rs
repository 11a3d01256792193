//! A chat room: each line is sent to all other members.
//!
//!     cargo run --example chat_lite
//!     nc 127.0.0.1 7001        # in two terminals

use tidewheel::framing::{Answer, Framed, Message, Next, Rules};
use tidewheel::{Arrival, CloseReason, ConnId, ConnMap, Context, Limits, Options, Reactor, TopicId};

#[derive(Default)]
struct Room {
    /// Created with the first connection.
    topic: Option<TopicId>,
    /// The number of each guest.
    guests: ConnMap<u64>,
    last_number: u64,
}

impl Room {
    /// Sends a line to everybody but `except`.
    fn publish(&self, line: &str, except: ConnId, cx: &mut Context<'_>) {
        if let Some(topic) = self.topic {
            cx.publish(topic, line.as_bytes(), Some(except));
        }
    }
}

impl Answer for Room {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        self.last_number += 1;
        let number = self.last_number;
        self.guests.insert(conn, number);
        let others = cx.subscribers(topic);
        cx.subscribe(topic, conn);
        cx.send(conn, format!("You are guest {number}. Others here: {others}\n").as_bytes());
        self.publish(&format!("* guest {number} joined\n"), conn, cx);
    }

    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        if let Some(number) = self.guests.get(conn) {
            // Control characters can change a terminal, so they are not forwarded.
            let text = String::from_utf8_lossy(message.text).replace(char::is_control, "");
            self.publish(&format!("guest {number}: {text}\n"), conn, cx);
        }
        Next::Message
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        if let Some(number) = self.guests.remove(conn) {
            self.publish(&format!("* guest {number} left\n"), conn, cx);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7001".to_owned());
    let mut reactor = Reactor::new(Limits::default())?;
    let room = reactor.add_service(Framed::new(Room::default(), Rules::default()), Options::new("chat"));
    let (_, address) = reactor.listen(&address.parse()?, room)?;
    println!("listening on {address}");
    Ok(reactor.run()?)
}
