//! What is asked and what must come back: one kind of exchange for each service.

use crate::service::Service;
use crate::text::Text;

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

    /// Looks at bytes that came (there is one at least), of which the first is that `at` of the reply to the oldest
    /// request, which had this size.
    fn verify(&mut self, conn: &mut Self::Conn, size: usize, at: usize, bytes: &[u8]) -> Progress;
}

/// What came of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many of the bytes belong to it; one at least.
    pub taken: usize,
    /// Whether it ends with them.
    pub is_complete: bool,
    /// The first wrong one.
    pub wrong: Option<Wrong>,
}

/// A byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its place among the bytes that were looked at.
    pub at: usize,
    pub got: u8,
    pub due: u8,
}

/// Echo and uppercase: a walk through a text, and its copy in upper case.
pub struct Walk {
    text: Text,
}

/// Positions in the text.
pub struct WalkConn {
    asked: u64,
    answered: u64,
}

impl Walk {
    pub fn new(text: Text) -> Walk {
        Walk { text }
    }

    /// The walk of a service.
    pub fn of(service: Service) -> Walk {
        Walk::new(Text::random(service))
    }
}

impl Exchange for Walk {
    type Conn = WalkConn;

    fn open(&self, index: usize) -> WalkConn {
        let start = self.text.start(index);
        WalkConn { asked: start, answered: start }
    }

    fn request(&mut self, conn: &mut WalkConn, size: usize, out: &mut Vec<u8>) {
        let end = conn.asked + size as u64;
        while conn.asked < end {
            let piece = self.text.requests(conn.asked, end - conn.asked);
            out.extend_from_slice(piece);
            conn.asked += piece.len() as u64;
        }
    }

    fn verify(&mut self, conn: &mut WalkConn, size: usize, at: usize, bytes: &[u8]) -> Progress {
        let taken = bytes.len().min(size - at);
        let wrong = self.text.first_wrong(conn.answered, &bytes[..taken]);
        conn.answered += taken as u64;
        Progress {
            taken,
            is_complete: at + taken == size,
            wrong: wrong.map(|(at, due)| Wrong { at, got: bytes[at], due }),
        }
    }
}
