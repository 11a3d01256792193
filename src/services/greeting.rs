//! Greeting: a welcome, and a greeting for each message, until `exit`.

use crate::framing::{Answer, Message, Next};
use crate::memory::REUSED_BYTES_MAX;
use crate::service::{Arrival, Context};
use crate::slots::ConnId;

/// What is said on connect.
const WELCOME: &[u8] = b"Welcome!";

/// The message that ends the conversation.
const EXIT: &[u8] = b"exit";

/// Sends `Welcome!` on connect, answers each message m with `Hello, m!`, with the ending of the message, and closes on `exit`.
///
/// It is served through [`Framed`](crate::framing::Framed).
#[derive(Debug, Default)]
pub struct Greeting {
    /// What is sent next, in memory that is used again.
    out: Vec<u8>,
}

impl Answer for Greeting {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.send(conn, WELCOME);
    }

    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        if message.text == EXIT {
            cx.close(conn);
            return Next::Nothing;
        }
        self.out.clear();
        for part in [b"Hello, ", message.text, b"!", message.ending.bytes()] {
            self.out.extend_from_slice(part);
        }
        cx.send(conn, &self.out);
        if self.out.capacity() > REUSED_BYTES_MAX {
            self.out = Vec::new();
        }
        Next::Message
    }
}
