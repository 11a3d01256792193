//! Echo and uppercase: a walk through a text, and its copy in upper case.

use super::{Exchange, Fault, Progress, Wrong};
use crate::service::Service;
use crate::text::Text;

/// Requests that are slices of a text.
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
        let mut left = size as u64;
        while left > 0 {
            let piece = self.text.requests(conn.asked, left);
            out.extend_from_slice(piece);
            left -= piece.len() as u64;
            conn.asked = self.text.wrap(conn.asked + piece.len() as u64);
        }
    }

    fn requests(&mut self, conn: &mut WalkConn, size: usize, count: usize, out: &mut Vec<u8>) {
        self.request(conn, size * count, out);
    }

    fn request_bytes_max(&self, size: usize) -> usize {
        size
    }

    fn request_part(
        &mut self,
        conn: &mut WalkConn,
        size: usize,
        at: usize,
        room: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let part = room.min(size - at);
        self.request(conn, part, out);
        at + part == size
    }

    fn right_replies(&mut self, conn: &mut WalkConn, size: usize, count: usize, bytes: &[u8]) -> usize {
        let whole = (bytes.len() / size).min(count);
        if self.text.first_wrong(conn.answered, &bytes[..whole * size]).is_some() {
            return 0;
        }
        conn.answered = self.text.wrap(conn.answered + (whole * size) as u64);
        whole
    }

    fn verify(&mut self, conn: &mut WalkConn, size: usize, at: usize, bytes: &[u8]) -> Progress {
        let taken = bytes.len().min(size - at);
        let wrong = self.text.first_wrong(conn.answered, &bytes[..taken]);
        conn.answered = self.text.wrap(conn.answered + taken as u64);
        Progress {
            taken,
            is_complete: at + taken == size,
            wrong: wrong.map(|(at, due)| Wrong { at, fault: Fault::Byte { got: bytes[at], due } }),
        }
    }
}
