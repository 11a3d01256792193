//! The protocol of NATS' clients.

use super::{Heard, number, until};

/// The only subscription of each member.
const SUBSCRIPTION: &[u8] = b"1";

pub fn enter(nick: &str, room: &str, out: &mut Vec<u8>) {
    let options = r#""verbose":false,"pedantic":false,"echo":false,"lang":"rust","version":"1","protocol":1"#;
    // Commands are obeyed in their order, so the answer to the last one tells that all are.
    out.extend(format!("CONNECT {{{options},\"name\":\"{nick}\"}}\r\nSUB {room} 1\r\nPING\r\n").bytes());
}

pub fn say(line: &[u8], room: &str, out: &mut Vec<u8>) {
    out.extend(format!("PUB {room} {}\r\n", line.len()).bytes());
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

pub fn hear<'a>(bytes: &'a [u8], room: &str) -> Option<(Heard<'a>, usize)> {
    let (head, head_len) = until(bytes, b"\r\n")?;
    // Nearly everything that comes.
    if let Some(head) = head.strip_prefix(b"MSG ") {
        let Some((subject, len)) = subject_and_len(head) else { return Some((Heard::Nonsense, head_len)) };
        let rest = &bytes[head_len..];
        let end = rest.get(len..len + 2)?;
        let line = &rest[..len];
        let heard = match (end, subject == room.as_bytes()) {
            (b"\r\n", true) => Heard::Said(line),
            (b"\r\n", false) => Heard::Elsewhere(line),
            _ => Heard::Nonsense,
        };
        return Some((heard, head_len + len + 2));
    }
    let heard = match head {
        b"PING" => Heard::Ping,
        b"PONG" => Heard::Entered,
        b"+OK" => Heard::Remark,
        _ if head.starts_with(b"INFO ") => Heard::Remark,
        _ if head.starts_with(b"-ERR") => Heard::Complaint(head),
        _ => Heard::Nonsense,
    };
    Some((heard, head_len))
}

/// Of `SUBJECT SUBSCRIPTION LENGTH`. Nobody asks for replies here, so there is no subject for them between.
fn subject_and_len(head: &[u8]) -> Option<(&[u8], usize)> {
    let (subject, rest) = head.split_at(memchr::memchr(b' ', head)?);
    let len = rest[1..].strip_prefix(SUBSCRIPTION)?.strip_prefix(b" ")?;
    Some((subject, number(len)?))
}
