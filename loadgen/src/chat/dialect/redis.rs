//! Redis' publish and subscribe, in RESP2.

use super::{Heard, number, until};

pub fn enter(room: &str, talks: bool, out: &mut Vec<u8>) {
    if talks {
        command(&[b"PING"], out);
    } else {
        command(&[b"SUBSCRIBE", room.as_bytes()], out);
    }
}

pub fn say(line: &[u8], room: &str, out: &mut Vec<u8>) {
    command(&[b"PUBLISH", room.as_bytes(), line], out);
}

fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

pub fn hear<'a>(bytes: &'a [u8], room: &str) -> Option<(Heard<'a>, usize)> {
    // Nearly everything that comes.
    if let Some(rest) = bytes.strip_prefix(b"*3\r\n") {
        let (heard, left) = match array(rest, room) {
            Ok(heard) => heard,
            Err(Lack::Bytes) => return None,
            Err(Lack::Sense) => (Heard::Nonsense, &b""[..]),
        };
        return Some((heard, bytes.len() - left.len()));
    }
    let (line, len) = until(bytes, b"\r\n")?;
    let heard = match line.split_first() {
        Some((b'+', b"PONG")) => Heard::Entered,
        Some((b'+', _)) => Heard::Remark,
        Some((b':', count)) => number(count).map_or(Heard::Nonsense, |count| Heard::Receipt(count as u64)),
        Some((b'-', _)) => Heard::Complaint(line),
        _ => Heard::Nonsense,
    };
    Some((heard, len))
}

/// What is missing.
enum Lack {
    Bytes,
    Sense,
}

/// Of an array of three what follows its head, and what is left behind it.
fn array<'a>(bytes: &'a [u8], room: &str) -> Result<(Heard<'a>, &'a [u8]), Lack> {
    let (kind, rest) = string(bytes)?;
    let (channel, rest) = string(rest)?;
    let is_here = channel == room.as_bytes();
    match kind {
        b"message" => {
            let (line, rest) = string(rest)?;
            Ok((if is_here { Heard::Said(line) } else { Heard::Elsewhere(line) }, rest))
        }
        b"subscribe" if is_here => {
            let (count, len) = until(rest, b"\r\n").ok_or(Lack::Bytes)?;
            Ok((if count == b":1" { Heard::Entered } else { Heard::Nonsense }, &rest[len..]))
        }
        _ => Err(Lack::Sense),
    }
}

/// A string with its length before it, and what follows it.
fn string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Lack> {
    let (head, head_len) = until(bytes, b"\r\n").ok_or(Lack::Bytes)?;
    let len = head.strip_prefix(b"$").and_then(number).ok_or(Lack::Sense)?;
    let rest = &bytes[head_len..];
    let end = rest.get(len..len + 2).ok_or(Lack::Bytes)?;
    if end != b"\r\n" {
        return Err(Lack::Sense);
    }
    Ok((&rest[..len], &rest[len + 2..]))
}
