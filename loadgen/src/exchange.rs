//! What is asked and what must come back: one kind of exchange for each protocol.

mod custom;
mod http;
mod said;
mod walk;

use std::fmt;

pub use custom::Custom;
pub use http::{FirstBody, Http};
pub use said::Said;
pub use walk::Walk;

/// Requests and the verification of their replies, which come in the order of the requests.
pub trait Exchange {
    /// What one connection carries from request to request.
    type Conn;

    /// The beginning of a connection, by its index.
    fn open(&self, index: usize) -> Self::Conn;

    /// What the server says on connect, before any request.
    fn preamble(&self) -> &[u8] {
        b""
    }

    /// Appends the next request of a connection. A size is that of the request where the protocol leaves a choice.
    fn request(&mut self, conn: &mut Self::Conn, size: usize, out: &mut Vec<u8>);

    /// Appends so many requests of one size.
    fn requests(&mut self, conn: &mut Self::Conn, size: usize, count: usize, out: &mut Vec<u8>) {
        (0..count).for_each(|_| self.request(conn, size, out));
    }

    /// A request of this size has so many bytes at most.
    fn request_bytes_max(&self, size: usize) -> usize;

    /// Appends what follows of a request of which `at` bytes were appended before, and has room for so many (for one at
    /// least): a large one is never held whole. Returns whether it ends with them.
    fn request_part(
        &mut self,
        conn: &mut Self::Conn,
        size: usize,
        _at: usize,
        _room: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        self.request(conn, size, out);
        true
    }

    /// A short way for replies that came together: how many of the oldest requests, of which so many had this size, are
    /// answered by the first of the bytes, whole and rightly. None if that is not sure: then [`Exchange::verify`] looks
    /// at each.
    fn right_replies(&mut self, _conn: &mut Self::Conn, _size: usize, _count: usize, _bytes: &[u8]) -> usize {
        0
    }

    /// Looks at bytes that came (there is one at least), of which the first is that `at` of the reply to the oldest
    /// request, which had this size.
    fn verify(&mut self, conn: &mut Self::Conn, size: usize, at: usize, bytes: &[u8]) -> Progress;

    /// What it makes of a reply of which `at` bytes have come that the peer then ends the connection in order: the end of
    /// it, and whether it is right. `None` where that does not end a reply.
    fn end(&mut self, _conn: &mut Self::Conn, _at: usize) -> Option<Result<(), Fault>> {
        None
    }

    /// Whether the last reply has announced that the peer will end the connection. Nothing is written on it any more, and
    /// what is asked on the one that takes its place is no different for what was asked before.
    fn announced_end(&self, _conn: &Self::Conn) -> bool {
        false
    }
}

/// What came of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many of the bytes belong to it; one at least.
    pub taken: usize,
    /// Whether it ends with them.
    pub is_complete: bool,
    /// The first thing that is wrong with it.
    pub wrong: Option<Wrong>,
}

/// What is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its place among the bytes that were looked at.
    pub at: usize,
    pub fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte that should be another.
    Byte { got: u8, due: u8 },
    /// Anything else, in words.
    Reply(String),
    /// Nobody can tell where the reply ends: the connection is of no use any more.
    Astray(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Byte { got, due } => write!(f, "is {got:#04x}, not {due:#04x}"),
            Fault::Reply(words) | Fault::Astray(words) => write!(f, "is in {words}"),
        }
    }
}
