//! Templates of requests and replies, such as `SET k{conn} {payload}\r\n` and `+OK\r\n`.
//!
//! Escapes: `\r \n \t \0 \\` and `\xHH` for any byte. Placeholders: `{seq}`, `{conn}`, `{payload}`, `{len}`, and in a
//! reply `{line}`. `{{` and `}}` are braces.

use std::str::Chars;

/// A part of a request or a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(Vec<u8>),
    /// The request's number on its connection, from 0.
    Seq,
    /// The connection's index, from 0.
    Conn,
    /// Text of the request's size, another for each request.
    Payload,
    /// The payload's length in bytes, in decimal.
    Len,
    /// Anything up to and with the next line ending.
    Line {
        ending: &'static [u8],
    },
}

/// What is written between literal bytes stands for what the connection and the request make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

impl Template {
    /// Of a request.
    pub fn of_request(text: &str) -> Result<Template, String> {
        let template = Template::parse(text)?;
        if template.pieces.iter().any(|piece| matches!(piece, Piece::Line { .. })) {
            return Err("{line} is allowed only in --expect".into());
        }
        Ok(template)
    }

    /// Of a reply.
    pub fn of_reply(text: &str) -> Result<Template, String> {
        Template::parse(text)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One at least, and no two literals in a row.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether the size of requests matters to it.
    pub fn has_size(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Payload | Piece::Len))
    }

    fn parse(text: &str) -> Result<Template, String> {
        let (mut pieces, mut literal) = (Vec::new(), Vec::new());
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            match character {
                '\\' => literal.push(escaped(&mut rest)?),
                '{' | '}' if rest.as_str().starts_with(character) => {
                    rest.next();
                    literal.push(character as u8);
                }
                '{' => {
                    let (name, after) =
                        rest.as_str().split_once('}').ok_or("unterminated {; for a brace write {{")?;
                    rest = after.chars();
                    end_literal(&mut pieces, &mut literal)?;
                    pieces.push(placeholder(name)?);
                }
                '}' => return Err("} without {; for a brace write }}".into()),
                _ => literal.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        end_literal(&mut pieces, &mut literal)?;
        if pieces.is_empty() {
            return Err("is empty".into());
        }
        Ok(Template { text: text.to_owned(), pieces })
    }
}

fn placeholder(name: &str) -> Result<Piece, String> {
    match name {
        "seq" => Ok(Piece::Seq),
        "conn" => Ok(Piece::Conn),
        "payload" => Ok(Piece::Payload),
        "len" => Ok(Piece::Len),
        "line" => Ok(Piece::Line { ending: b"" }),
        _ => Err(format!(
            "unknown placeholder {{{name}}}; the placeholders are {{seq}}, {{conn}}, {{payload}}, {{len}} and, in --expect, \
             {{line}}; {{{{ is a brace"
        )),
    }
}

/// Ends what is literal before a placeholder or the end. A line's ending goes to the line.
fn end_literal(pieces: &mut Vec<Piece>, literal: &mut Vec<u8>) -> Result<(), String> {
    if let Some(Piece::Line { ending }) = pieces.last_mut() {
        *ending = [&b"\r\n"[..], b"\n"]
            .into_iter()
            .find(|ending| literal.starts_with(ending))
            .ok_or(r"{line} must be followed by \r\n or \n, where it ends")?;
        literal.drain(..ending.len());
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(std::mem::take(literal)));
    }
    Ok(())
}

/// The byte that stands behind a backslash.
fn escaped(rest: &mut Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('r') => Ok(b'\r'),
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let mut digit = || rest.next().and_then(|digit| digit.to_digit(16));
            let byte = digit().zip(digit()).map(|(high, low)| (high << 4 | low) as u8);
            byte.ok_or_else(|| r"\x needs two hexadecimal digits".into())
        }
        Some(other) => Err(format!(r"unknown escape \{other}; the escapes are \r \n \t \0 \\ and \xHH")),
        None => Err(r"a \ at the end; for a backslash write \\".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(bytes: &[u8]) -> Piece {
        Piece::Literal(bytes.to_vec())
    }

    #[test]
    fn escapes_and_braces_are_literal() {
        let template = Template::of_request(r#"\r\n\t\0\\\x00\xfF{{"é":1}}"#).unwrap();
        assert_eq!(template.pieces(), [literal(b"\r\n\t\0\\\x00\xff{\"\xc3\xa9\":1}")]);
    }

    #[test]
    fn placeholders_part_what_is_literal() {
        let template = Template::of_request(r"set k{conn} 0 0 {len}\r\n{payload}\r\n").unwrap();
        assert_eq!(
            template.pieces(),
            [
                literal(b"set k"),
                Piece::Conn,
                literal(b" 0 0 "),
                Piece::Len,
                literal(b"\r\n"),
                Piece::Payload,
                literal(b"\r\n")
            ]
        );
        let json = Template::of_request(r#"{{"id":{seq}}}"#).unwrap();
        assert_eq!(json.pieces(), [literal(b"{\"id\":"), Piece::Seq, literal(b"}")]);
    }

    #[test]
    fn a_line_has_its_ending() {
        let template = Template::of_reply(r"${line}\r\n{line}\n{line}\nEND\r\n").unwrap();
        let line = |ending| Piece::Line { ending };
        let expected = [literal(b"$"), line(b"\r\n"), line(b"\n"), line(b"\n"), literal(b"END\r\n")];
        assert_eq!(template.pieces(), expected);
    }

    #[test]
    fn what_is_no_template_says_why() {
        for (text, reason) in [
            ("", "empty"),
            ("{sequence}", "unknown placeholder {sequence}"),
            ("{}", "unknown placeholder {}"),
            ("{seq", "unterminated {"),
            ("seq}", "without {"),
            (r"\q", r"unknown escape \q"),
            (r"\x4", "hexadecimal"),
            (r"\xg0", "hexadecimal"),
            ("a\\", "at the end"),
            ("{line}", "where it ends"),
            ("{line}{seq}", "where it ends"),
            (r"{line}.\n", "where it ends"),
        ] {
            let error = Template::of_reply(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Template::of_request(r"{line}\n").unwrap_err().contains("only in --expect"));
    }
}
