//! Requests and replies made from templates: anyone's protocol of requests that are each answered, and greeting.

use super::{Exchange, Fault, Progress, Wrong};
use crate::service::Service;
use crate::template::{Piece, Template};
use crate::text::Text;

pub struct Custom {
    text: Text,
    preamble: &'static [u8],
    send: Vec<Piece>,
    expect: Vec<Piece>,
    /// What a request's size counts beside the payload.
    frame: usize,
    /// Whether a reply ends with a line.
    ends_a_line: bool,
}

/// Where a connection is: the next request, and the reply that is due.
pub struct CustomConn {
    index: u64,
    asked: Turn,
    answered: Turn,
    /// The piece of the reply that is due, and how much of it has come.
    piece: usize,
    piece_at: usize,
    /// The reply's first byte.
    first: u8,
    /// The last byte of a line that came in parts.
    last: u8,
    /// The reply is wrong, and its end is being looked for.
    is_wrong: bool,
}

/// What differs from request to request.
#[derive(Clone, Copy)]
struct Turn {
    seq: u64,
    /// Where the payload begins in the text.
    position: u64,
}

impl Turn {
    fn advance(&mut self, payload_len: usize) {
        self.seq += 1;
        self.position += payload_len as u64;
    }
}

/// What has come of a piece.
struct Step {
    taken: usize,
    is_complete: bool,
    /// The first wrong byte's place, and the byte it should be.
    wrong: Option<(usize, u8)>,
}

impl Custom {
    /// The size of requests is that of their payload.
    pub fn new(send: &Template, expect: &Template) -> Custom {
        Custom::of(b"", send.pieces().to_vec(), expect.pieces().to_vec(), 0)
    }

    /// `Welcome!` first, then each line `TEXT` is answered `Hello, TEXT!`. The size of requests is that of their line.
    pub fn greeting() -> Custom {
        let literal = |bytes: &[u8]| Piece::Literal(bytes.to_vec());
        let send = vec![Piece::Payload, literal(b"\n")];
        let expect = vec![literal(b"Hello, "), Piece::Payload, literal(b"!\n")];
        Custom::of(b"Welcome!", send, expect, 1)
    }

    fn of(preamble: &'static [u8], send: Vec<Piece>, expect: Vec<Piece>, frame: usize) -> Custom {
        let ends_a_line = match expect.last() {
            Some(Piece::Literal(bytes)) => bytes.ends_with(b"\n"),
            last => matches!(last, Some(Piece::Line { .. })),
        };
        Custom { text: Text::random(Service::Custom), preamble, send, expect, frame, ends_a_line }
    }

    /// Compares what came with what is due of a piece.
    fn step(&self, conn: &mut CustomConn, piece: &Piece, payload_len: usize, bytes: &[u8]) -> Step {
        let Turn { seq, position } = conn.answered;
        let at = conn.piece_at;
        let mut digits = [0; DIGITS_MAX];
        match piece {
            Piece::Literal(literal) => compare(literal, at, bytes),
            Piece::Seq => compare(decimal(seq, &mut digits), at, bytes),
            Piece::Conn => compare(decimal(conn.index, &mut digits), at, bytes),
            Piece::Len => compare(decimal(payload_len as u64, &mut digits), at, bytes),
            Piece::Payload => {
                let taken = bytes.len().min(payload_len - at);
                let wrong = self.text.first_wrong(position + at as u64, &bytes[..taken]);
                Step { taken, is_complete: at + taken == payload_len, wrong }
            }
            Piece::Line { ending } => {
                let Some(newline) = bytes.iter().position(|&byte| byte == b'\n') else {
                    conn.last = bytes.last().copied().unwrap_or(conn.last);
                    return Step { taken: bytes.len(), is_complete: false, wrong: None };
                };
                let before = if newline > 0 { bytes[newline - 1] } else { conn.last };
                let lacks_return = ending.len() == 2 && before != b'\r';
                conn.last = 0;
                let wrong = lacks_return.then_some((newline, b'\r'));
                Step { taken: newline + 1, is_complete: true, wrong }
            }
        }
    }

    /// How many of the bytes belong to the rest of a wrong reply, and whether it ends with them.
    ///
    /// An error is often shorter or longer than what was due (`-ERR` for `+PONG`). It ends with a line after which
    /// nothing has come, or something that begins as a right reply does, or as this one did.
    fn rest_of_wrong(&self, first: u8, bytes: &[u8]) -> (usize, bool) {
        let begin: &[u8] = match self.expect.first() {
            Some(Piece::Literal(literal)) => literal,
            _ => b"",
        };
        let mut taken = 0;
        while let Some(newline) = bytes[taken..].iter().position(|&byte| byte == b'\n') {
            taken += newline + 1;
            let after = &bytes[taken..];
            let is_as_due = after.iter().zip(begin).all(|(got, due)| got == due);
            if is_as_due || after.first() == Some(&first) {
                return (taken, true);
            }
        }
        (bytes.len(), false)
    }
}

impl Exchange for Custom {
    type Conn = CustomConn;

    fn open(&self, index: usize) -> CustomConn {
        let first = Turn { seq: 0, position: self.text.start(index) };
        CustomConn {
            index: index as u64,
            asked: first,
            answered: first,
            piece: 0,
            piece_at: 0,
            first: 0,
            last: 0,
            is_wrong: false,
        }
    }

    fn preamble(&self) -> &[u8] {
        self.preamble
    }

    fn request(&mut self, conn: &mut CustomConn, size: usize, out: &mut Vec<u8>) {
        let payload_len = size - self.frame;
        let Turn { seq, position } = conn.asked;
        let mut digits = [0; DIGITS_MAX];
        for piece in &self.send {
            match piece {
                Piece::Literal(literal) => out.extend_from_slice(literal),
                Piece::Seq => out.extend_from_slice(decimal(seq, &mut digits)),
                Piece::Conn => out.extend_from_slice(decimal(conn.index, &mut digits)),
                Piece::Len => out.extend_from_slice(decimal(payload_len as u64, &mut digits)),
                Piece::Payload => {
                    let end = out.len() + payload_len;
                    while out.len() < end {
                        let left = end - out.len();
                        let at = position + (payload_len - left) as u64;
                        out.extend_from_slice(self.text.requests(at, left as u64));
                    }
                }
                // A request has none: its template was refused.
                Piece::Line { .. } => {}
            }
        }
        conn.asked.advance(payload_len);
    }

    fn request_bytes_max(&self, size: usize) -> usize {
        let bytes_max = |piece: &Piece| match piece {
            Piece::Literal(literal) => literal.len(),
            Piece::Payload => size - self.frame,
            _ => DIGITS_MAX,
        };
        self.send.iter().map(bytes_max).fold(0, usize::saturating_add)
    }

    fn request_part(
        &mut self,
        conn: &mut CustomConn,
        size: usize,
        at: usize,
        room: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let payload_len = size - self.frame;
        let Turn { seq, position } = conn.asked;
        let mut digits = [0; DIGITS_MAX];
        let (mut at, end) = (at, out.len() + room);
        for piece in &self.send {
            let piece: &[u8] = match piece {
                Piece::Literal(literal) => literal,
                Piece::Seq => decimal(seq, &mut digits),
                Piece::Conn => decimal(conn.index, &mut digits),
                Piece::Len => decimal(payload_len as u64, &mut digits),
                Piece::Payload => {
                    let mut done = at.min(payload_len);
                    at -= done;
                    while done < payload_len && out.len() < end {
                        let left = (payload_len - done).min(end - out.len()) as u64;
                        let text = self.text.requests(position + done as u64, left);
                        out.extend_from_slice(text);
                        done += text.len();
                    }
                    if done < payload_len {
                        return false;
                    }
                    continue;
                }
                Piece::Line { .. } => b"",
            };
            let rest = &piece[at.min(piece.len())..];
            at -= piece.len() - rest.len();
            let fits = rest.len().min(end - out.len());
            out.extend_from_slice(&rest[..fits]);
            if fits < rest.len() {
                return false;
            }
        }
        conn.asked.advance(payload_len);
        true
    }

    fn verify(&mut self, conn: &mut CustomConn, size: usize, at: usize, bytes: &[u8]) -> Progress {
        // What has no placeholder, and came in one piece, costs no more than an echo.
        if at == 0
            && let [Piece::Literal(due)] = &self.expect[..]
            && bytes.starts_with(due)
        {
            return Progress { taken: due.len(), is_complete: true, wrong: None };
        }
        if at == 0 {
            conn.first = bytes[0];
        }
        let payload_len = size - self.frame;
        let (mut taken, mut wrong) = (0, None);
        while !conn.is_wrong
            && taken < bytes.len()
            && let Some(piece) = self.expect.get(conn.piece)
        {
            let step = self.step(conn, piece, payload_len, &bytes[taken..]);
            let is_last = step.is_complete && conn.piece + 1 == self.expect.len();
            if let Some((at, due)) = step.wrong {
                let at = taken + at;
                let fault = Fault::Byte { got: bytes[at], due };
                wrong.get_or_insert(Wrong { at, fault });
                // Without lines, or in its last byte, a wrong reply is taken to be as long as a right one.
                if self.ends_a_line && !(is_last && at + 1 == taken + step.taken) {
                    conn.is_wrong = true;
                    taken = at;
                    break;
                }
            }
            taken += step.taken;
            conn.piece_at += step.taken;
            if step.is_complete {
                conn.piece += 1;
                conn.piece_at = 0;
            }
        }
        let mut is_complete = conn.piece == self.expect.len();
        if conn.is_wrong {
            let (rest, ends) = self.rest_of_wrong(conn.first, &bytes[taken..]);
            taken += rest;
            is_complete = ends;
        }
        if is_complete {
            conn.answered.advance(payload_len);
            (conn.piece, conn.piece_at, conn.last, conn.is_wrong) = (0, 0, 0, false);
        }
        Progress { taken, is_complete, wrong }
    }
}

/// What came, beside what is due from `at` on.
fn compare(due: &[u8], at: usize, bytes: &[u8]) -> Step {
    let due_now = &due[at..];
    let taken = bytes.len().min(due_now.len());
    let wrong = if bytes[..taken] == due_now[..taken] {
        None
    } else {
        let at = bytes.iter().zip(due_now).position(|(got, due)| got != due);
        at.map(|at| (at, due_now[at]))
    };
    Step { taken, is_complete: at + taken == due.len(), wrong }
}

/// Of the largest number.
const DIGITS_MAX: usize = 20;

fn decimal(mut number: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(send: &str, expect: &str) -> Custom {
        Custom::new(&Template::of_request(send).unwrap(), &Template::of_reply(expect).unwrap())
    }

    /// Replies that came, cut at every multiple of `cut`: for each, whether it was right.
    fn verified(exchange: &mut Custom, size: usize, replies: &[u8], cut: usize) -> Vec<bool> {
        let mut conn = exchange.open(3);
        let (mut verdicts, mut at, mut is_right) = (Vec::new(), 0, true);
        for mut piece in replies.chunks(cut) {
            while !piece.is_empty() {
                let progress = exchange.verify(&mut conn, size, at, piece);
                assert!(progress.taken > 0);
                piece = &piece[progress.taken..];
                at += progress.taken;
                is_right &= progress.wrong.is_none();
                if progress.is_complete {
                    verdicts.push(std::mem::replace(&mut is_right, true));
                    at = 0;
                }
            }
        }
        verdicts
    }

    #[test]
    fn each_request_says_which_it_is() {
        let mut exchange = custom(r"{conn}/{seq} {len}\r\n", r"{seq}");
        let mut conn = exchange.open(12);
        let mut out = Vec::new();
        (0..11).for_each(|_| exchange.request(&mut conn, 70_000, &mut out));
        assert!(out.starts_with(b"12/0 70000\r\n12/1 70000\r\n") && out.ends_with(b"12/10 70000\r\n"));
    }

    #[test]
    fn a_request_in_parts_is_the_request() {
        for send in ["PING", "{payload}", r"{conn} {seq}:{payload}\r\n{len}{payload}!", "{seq}"] {
            for (size, room) in [(1, 1), (9, 4), (70_000, 1000), (200_000, 65_536)] {
                let (mut whole, mut parts) = (custom(send, "x"), custom(send, "x"));
                let (mut whole_conn, mut parts_conn) = (whole.open(3), parts.open(3));
                for _ in 0..3 {
                    let (mut expected, mut made) = (Vec::new(), Vec::new());
                    whole.request(&mut whole_conn, size, &mut expected);
                    let mut is_whole = false;
                    while !is_whole {
                        let (at, mut part) = (made.len(), Vec::new());
                        is_whole = parts.request_part(&mut parts_conn, size, at, room, &mut part);
                        assert!(part.len() <= room, "{send} {size}");
                        made.extend(part);
                    }
                    assert_eq!(made, expected, "{send} {size}");
                    assert!(expected.len() <= whole.request_bytes_max(size));
                }
            }
        }
    }

    #[test]
    fn replies_verify_in_whatever_pieces_they_come() {
        for (send, expect) in [
            ("PING", "PONG"),
            (r"{payload}\n", r"{seq}:{conn}:{len}:{payload}\r\n"),
            ("{payload}", "{payload}{payload}"),
        ] {
            for size in [1, 9, 66_000] {
                let mut exchange = custom(send, expect);
                // What is sent is made of the same pieces as what is expected.
                let mut server = custom(expect, expect);
                let mut conn = server.open(3);
                let mut replies = Vec::new();
                (0..12).for_each(|_| server.request(&mut conn, size, &mut replies));
                for cut in [1, 2, 3, 7, 1000, replies.len()] {
                    assert_eq!(
                        verified(&mut exchange, size, &replies, cut),
                        [true; 12],
                        "{expect} {size} {cut}"
                    );
                }
                for at in [0, 1, replies.len() / 2, replies.len() - 1] {
                    let mut wrong = replies.clone();
                    wrong[at] ^= 0x80;
                    for cut in [64, replies.len()] {
                        let verdicts = verified(&mut exchange, size, &wrong, cut);
                        assert_eq!(verdicts.len(), 12, "{expect} {size} {at} {cut}");
                        assert_eq!(verdicts.iter().filter(|is_right| !**is_right).count(), 1);
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_may_be_anything_but_ends_as_it_should() {
        let mut exchange = custom(r"GET k\r\n", r"${line}\r\n{line}\r\n");
        for cut in 1..12 {
            assert_eq!(verified(&mut exchange, 1, b"$3\r\nabc\r\n$0\r\n\r\n", cut), [true, true]);
        }
        assert_eq!(verified(&mut exchange, 1, b"$3\r\nabc\n$0\r\n\r\n", 100), [false, true]);
        let mut exchange = custom("x", r"{line}\n");
        assert_eq!(verified(&mut exchange, 1, b"one\r\n\ntwo\n", 100), [true; 3]);
    }

    #[test]
    fn one_error_of_another_length_is_one_wrong_reply() {
        let mut exchange = custom(r"PING\r\n", r"+PONG\r\n");
        let replies = b"+PONG\r\n-ERR unknown command\r\n+PONG\r\n-\r\n-ERR\r\n+PONG\r\n";
        assert_eq!(verified(&mut exchange, 1, replies, 100), [true, false, true, false, false, true]);
        let mut exchange = custom(r"get k\r\n", r"VALUE k 0 3\r\nabc\r\nEND\r\n");
        let right = &b"VALUE k 0 3\r\nabc\r\nEND\r\n"[..];
        for wrong in [
            &b"END\r\n"[..],
            b"SERVER_ERROR x\r\n",
            b"VALUE k 0 3\r\nabd\r\nEND\r\n",
            b"VALuE k 0 3\r\nabc\r\nEND\r\n",
        ] {
            let replies = [right, wrong, right].concat();
            assert_eq!(
                verified(&mut exchange, 1, &replies, 100),
                [true, false, true],
                "{}",
                wrong.escape_ascii()
            );
        }
    }

    #[test]
    fn greeting_repeats_the_line_and_no_line_is_the_one_that_closes() {
        let mut exchange = Custom::greeting();
        let mut conn = exchange.open(0);
        let mut replies = Vec::new();
        for _ in 0..100_000 {
            let mut request = Vec::new();
            exchange.request(&mut conn, 5, &mut request);
            assert!(request.len() == 5 && request[4] == b'\n' && &request[..4] != b"exit");
            replies.extend([b"Hello, ", &request[..4], b"!\n"].concat());
        }
        let mut conn = exchange.open(0);
        let progress = exchange.verify(&mut conn, 5, 0, &replies);
        assert_eq!(progress, Progress { taken: 13, is_complete: true, wrong: None });
    }
}
