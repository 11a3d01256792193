//! Reply: the same text for each message.

use crate::datagram::Datagram;
use crate::framing::{Answer, Message, Next};
use crate::service::Context;
use crate::slots::ConnId;

/// Answers each message with one text, with the ending of the message, and each datagram with another text.
///
/// It is served through [`Framed`](crate::framing::Framed).
#[derive(Debug)]
pub struct Reply {
    stream_text: Vec<u8>,
    datagram_text: Vec<u8>,
    /// What is sent next, in memory that is used again.
    out: Vec<u8>,
}

impl Reply {
    /// Answers with these texts.
    pub fn new(stream_text: impl Into<Vec<u8>>, datagram_text: impl Into<Vec<u8>>) -> Reply {
        Reply { stream_text: stream_text.into(), datagram_text: datagram_text.into(), out: Vec::new() }
    }
}

impl Answer for Reply {
    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        self.out.clear();
        self.out.extend_from_slice(&self.stream_text);
        self.out.extend_from_slice(message.ending.bytes());
        cx.send(conn, &self.out);
        Next::Message
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.reply(datagram, &self.datagram_text);
    }
}
