//! What must hold of messages in a stream, whatever the bytes are and however they come.

use tidewheel::framing::{Ending, Framing, Rules, TooLong};

use super::cuts::{Cut, cut};

type Messages = Vec<(Vec<u8>, Ending)>;

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let Some(Cut { choice, whole, pieces }) = cut(bytes) else { return };
    let mut rules = Rules::default();
    rules.message_pause = None;
    rules.line_bytes_max = usize::from(choice % 64);

    let expected = lines(whole, &rules);
    assert_eq!(frame(&[whole], &rules, false), expected, "in one piece");
    assert_eq!(frame(&pieces, &rules, false), expected, "in pieces");
    let single: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(frame(&single, &rules, false), expected, "byte by byte");

    let (messages, rest) = frame(&pieces, &rules, true);
    let mut said: Vec<u8> =
        messages.iter().flat_map(|(text, ending)| [text, ending.bytes()].concat()).collect();
    match rest {
        Ok(rest) => {
            said.extend(rest);
            assert_eq!(said, whole, "pauses lose nothing");
        }
        Err(TooLong) => assert!(whole.starts_with(&said), "pauses change nothing"),
    }
    assert!(messages.iter().all(|(text, _)| text.len() <= rules.line_bytes_max), "pauses lift no limit");
    let first_line = messages.iter().position(|(_, ending)| *ending != Ending::None);
    let behind = &messages[first_line.unwrap_or(messages.len())..];
    assert!(
        behind.iter().all(|(_, ending)| *ending != Ending::None),
        "behind a newline no pause ends a message"
    );
}

/// The messages in these pieces, with a pause behind each if `pauses`; and what is left.
fn frame(pieces: &[&[u8]], rules: &Rules, pauses: bool) -> (Messages, Result<Vec<u8>, TooLong>) {
    let (mut framing, mut kept, mut messages) = (Framing::default(), Vec::new(), Messages::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        // Twice, because after a pause what was left is offered again.
        for _ in 0..2 {
            loop {
                match framing.next(&kept, rules) {
                    Ok(Some(message)) => {
                        messages.push((message.text.to_vec(), message.ending));
                        kept.drain(..message.stream_bytes());
                    }
                    Ok(None) => break,
                    Err(TooLong) => return (messages, Err(TooLong)),
                }
            }
            if pauses {
                framing.pause();
            }
        }
    }
    (messages, Ok(kept))
}

/// The same for a whole text, in the plainest way.
fn lines(whole: &[u8], rules: &Rules) -> (Messages, Result<Vec<u8>, TooLong>) {
    let mut messages = Messages::new();
    for line in whole.split_inclusive(|&byte| byte == b'\n') {
        let (text, ending) = if let Some(text) = line.strip_suffix(b"\r\n") {
            (text, Ending::CrLf)
        } else if let Some(text) = line.strip_suffix(b"\n") {
            (text, Ending::Lf)
        } else {
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            let fits = text.len() <= rules.line_bytes_max;
            return (messages, if fits { Ok(line.to_vec()) } else { Err(TooLong) });
        };
        if text.len() > rules.line_bytes_max {
            return (messages, Err(TooLong));
        }
        messages.push((text.to_vec(), ending));
    }
    (messages, Ok(Vec::new()))
}
