//! The replies of an FTP server (RFC 959, 4.2): read from its control connection, and what they say.

use std::io::{self, BufRead, BufReader, Read};

use super::names::NameEncoding;
use crate::clients::text;

/// How long a line of a reply may be.
const LINE_BYTES_MAX: usize = 8192;

/// How many lines a reply may have.
const LINES_MAX: usize = 1000;

/// How much of a reply is repeated in an error.
const SHOWN_CHARS_MAX: usize = 300;

/// The code of a server that closes the connection, which may come at any time.
pub const CLOSING: u16 = 421;

/// Why there is no reply.
#[derive(Debug)]
pub enum NoReply {
    /// The system says that nothing can be read or written.
    Failed(io::Error),
    /// The connection has ended.
    Closed,
    /// It has ended in the middle of a reply.
    ClosedWithin,
    /// What came is something else; as it may be shown.
    NotFtp(String),
    LineTooLong,
    TooManyLines,
}

/// One reply, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, of which the first is 1 to 5.
    pub code: u16,
    /// Without their ends.
    lines: Vec<Vec<u8>>,
}

/// Reads replies one after another.
pub struct Replies<R> {
    input: BufReader<R>,
}

impl<R: Read> Replies<R> {
    pub fn new(input: R) -> Replies<R> {
        Replies { input: BufReader::new(input) }
    }

    pub fn get_ref(&self) -> &R {
        self.input.get_ref()
    }

    /// Waits for the next reply. One of several lines ends with the line that begins with its code and a space,
    /// whatever stands between.
    ///
    /// # Errors
    /// When it does not come, or is none.
    pub fn read(&mut self) -> Result<Reply, NoReply> {
        let first = self.line()?.ok_or(NoReply::Closed)?;
        let Some(code) = code(&first) else {
            return Err(NoReply::NotFtp(shown(&text::harmless(&first))));
        };
        let mut is_last = first.get(3) != Some(&b'-');
        let ending = [&first[..3], b" "].concat();
        let mut lines = vec![first];
        while !is_last {
            if lines.len() == LINES_MAX {
                return Err(NoReply::TooManyLines);
            }
            let line = self.line()?.ok_or(NoReply::ClosedWithin)?;
            is_last = line.starts_with(&ending);
            lines.push(line);
        }
        Ok(Reply { code, lines })
    }

    /// A line without its end, which is LF or CRLF; `None` if the connection has ended before it.
    fn line(&mut self) -> Result<Option<Vec<u8>>, NoReply> {
        let mut line = Vec::new();
        loop {
            let piece = match self.input.fill_buf() {
                Ok([]) if line.is_empty() => return Ok(None),
                Ok([]) => return Err(NoReply::ClosedWithin),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(NoReply::Failed(error)),
            };
            let end = piece.iter().position(|&byte| byte == b'\n');
            let len = end.unwrap_or(piece.len());
            line.extend_from_slice(&piece[..len]);
            self.input.consume(len + usize::from(end.is_some()));
            if line.len() > LINE_BYTES_MAX {
                return Err(NoReply::LineTooLong);
            }
            if end.is_some() {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
        }
    }
}

impl NoReply {
    /// In words.
    pub fn line(&self) -> String {
        match self {
            NoReply::Failed(error) => format!("the connection broke off: {error}"),
            NoReply::Closed => "the server closed the connection without a reply".to_owned(),
            NoReply::ClosedWithin => "the server closed the connection in the middle of a reply".to_owned(),
            NoReply::NotFtp(shown) => format!("what came is not FTP: {shown}"),
            NoReply::LineTooLong => {
                format!("the server's reply has a line longer than {LINE_BYTES_MAX} bytes")
            }
            NoReply::TooManyLines => format!("the server's reply has more than {LINES_MAX} lines"),
        }
    }
}

/// The code at the beginning of the first line of a reply.
fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let is_code = matches!(digits[0], b'1'..=b'5') && matches!(line.get(3), None | Some(b' ' | b'-'));
    let value = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    is_code.then_some(value)
}

/// No more of a stranger's text than helps.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl Reply {
    /// Something else follows before the command is done.
    pub fn is_preliminary(&self) -> bool {
        self.code < 200
    }

    /// It was done.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The 4xx replies are for now, the 5xx replies for good.
    pub fn may_pass(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// What stands behind the code on each line.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().enumerate().map(|(index, line)| {
            let has_code = index == 0
                || (line.starts_with(&self.lines[0][..3]) && matches!(line.get(3), Some(b' ' | b'-')));
            if has_code { line.get(4..).unwrap_or_default() } else { line }
        })
    }

    /// All lines as they came, in text.
    pub fn as_it_came(&self, names: NameEncoding) -> String {
        self.lines.iter().map(|line| names.decode(line)).collect::<Vec<_>>().join("\n")
    }

    /// The code and its text as one line that a terminal only shows.
    pub fn words(&self, names: NameEncoding) -> String {
        let texts = self.texts().map(|line| names.decode(line)).collect::<Vec<_>>().join(" ");
        let texts = texts.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        shown(text::harmless(format!("{} {texts}", self.code).as_bytes()).trim_end())
    }

    /// The name in quotes of a reply to PWD, in which two quotes stand for one (RFC 959, appendix II).
    pub fn quoted(&self) -> Option<Vec<u8>> {
        self.texts().find_map(|line| {
            let mut rest = line.iter().copied().skip_while(|&byte| byte != b'"').skip(1).peekable();
            let mut name = Vec::new();
            loop {
                match rest.next()? {
                    b'"' if rest.next_if_eq(&b'"').is_none() => return Some(name),
                    byte => name.push(byte),
                }
            }
        })
    }

    /// The size in a reply to SIZE (RFC 3659, 4).
    pub fn size(&self) -> Option<u64> {
        let text = str::from_utf8(self.texts().next()?).ok()?;
        text.trim().parse().ok().filter(|_| self.code == 213)
    }

    /// Whether a reply to FEAT lists a feature (RFC 2389, 3.2).
    pub fn lists(&self, feature: &str) -> bool {
        self.code == 211
            && self.texts().any(|line| {
                let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
                word.is_some_and(|word| word.eq_ignore_ascii_case(feature.as_bytes()))
            })
    }

    /// The port in a reply to PASV: six numbers with commas between them, wherever they stand, of which the last two
    /// are the port (RFC 959, 4.1.2; RFC 1123, 4.1.2.6).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn passive_port(&self) -> Result<u16, &'static str> {
        let numbers = self.texts().find_map(|line| (0..line.len()).find_map(|at| six_numbers(line, at)));
        let numbers = numbers.ok_or("it names no address")?;
        let mut bytes = [0; 6];
        for (byte, number) in bytes.iter_mut().zip(numbers) {
            *byte = u8::try_from(number).map_err(|_| "it has a number above 255")?;
        }
        match u16::from_be_bytes([bytes[4], bytes[5]]) {
            0 => Err("it names port 0"),
            port => Ok(port),
        }
    }

    /// The port in a reply to EPSV, `(|||6446|)`, where any character may stand for the bar (RFC 2428, 3). Some servers
    /// leave out the parentheses, and some put in an address, which is ignored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn extended_port(&self) -> Result<u16, &'static str> {
        let port = self.texts().find_map(|line| (0..line.len()).find_map(|at| port_in_bars(&line[at..])));
        port.filter(|port| *port > 0).ok_or("it names no port")
    }
}

/// Six numbers that begin at a place, not in the middle of one. A number too large for its type is as large as can be.
fn six_numbers(line: &[u8], at: usize) -> Option<[u32; 6]> {
    if at > 0 && line[at - 1].is_ascii_digit() {
        return None;
    }
    let mut rest = &line[at..];
    let mut numbers = [0; 6];
    for (index, number) in numbers.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b",")?.trim_ascii_start();
        }
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if len == 0 {
            return None;
        }
        let (digits, after) = rest.split_at(len);
        *number = digits
            .iter()
            .fold(0, |value: u32, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
        rest = after.trim_ascii_start();
    }
    Some(numbers)
}

/// The port at the beginning of `|||6446|` or `|1|192.0.2.1|6446|`.
fn port_in_bars(text: &[u8]) -> Option<u16> {
    let (&bar, rest) = text.split_first()?;
    if !bar.is_ascii_punctuation() {
        return None;
    }
    let mut parts = rest.splitn(4, |&byte| byte == bar);
    let (family, address, port) = (parts.next()?, parts.next()?, parts.next()?);
    let is_address = |byte: &u8| byte.is_ascii_hexdigit() || b".:".contains(byte);
    // What follows the last bar is there, if only as nothing.
    parts.next()?;
    if !family.iter().all(u8::is_ascii_digit)
        || !address.iter().all(is_address)
        || !port.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    str::from_utf8(port).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(text: &[u8]) -> Replies<&[u8]> {
        Replies::new(text)
    }

    fn reply(text: &str) -> Reply {
        replies(format!("{text}\r\n").as_bytes()).read().unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn a_reply_of_several_lines_is_as_rfc_959_has_it() {
        // The example of RFC 959, 4.2, and lines that only look like the last one.
        let text =
            b"123-First line\r\nSecond line\r\n  234 A line beginning with numbers\r\n123 The last line\r\n\
            220 Next\r\n550-No\r\n200 folders\r\n550\r\n550-\r\n5500 \r\n 550 \r\n550 refused\r\n221\r\n";
        let mut replies = replies(text);
        let first = replies.read().expect("a reply");
        assert_eq!((first.code, first.lines.len()), (123, 4));
        let texts: Vec<_> = first.texts().collect();
        assert_eq!(
            texts,
            [&b"First line"[..], b"Second line", b"  234 A line beginning with numbers", b"The last line"]
        );
        assert_eq!(replies.read().expect("a reply").code, 220);
        let refusal = replies.read().expect("a reply");
        assert_eq!(refusal.words(NameEncoding::default()), "550 No 200 folders 550 5500 550 refused");
        assert_eq!(replies.read().expect("a reply").words(NameEncoding::default()), "221");
        assert!(matches!(replies.read(), Err(NoReply::Closed)));
    }

    #[test]
    fn what_is_no_reply_or_too_much_of_one() {
        for text in ["220", "220-a\r\n", "220-a\r\n220", "220-a\r\n221 b\r\n"] {
            assert!(matches!(replies(text.as_bytes()).read(), Err(NoReply::ClosedWithin)), "{text}");
        }
        for text in ["\r\n", "22\r\n", "2200 x\r\n", "022 x\r\n", "600 x\r\n", "x\r\n", " 220 x\r\n"] {
            assert!(matches!(replies(text.as_bytes()).read(), Err(NoReply::NotFtp(_))), "{text}");
        }
        let line = format!("220 {}\r\n", "x".repeat(LINE_BYTES_MAX - 5));
        assert!(replies(line.as_bytes()).read().is_ok());
        let line = format!("220 {}\r\n", "x".repeat(LINE_BYTES_MAX));
        assert!(matches!(replies(line.as_bytes()).read(), Err(NoReply::LineTooLong)));
        let most = format!("220-\r\n{}220 x\r\n", "\r\n".repeat(LINES_MAX - 2));
        assert_eq!(replies(most.as_bytes()).read().expect("a reply").lines.len(), LINES_MAX);
        let more = format!("220-\r\n{}220 x\r\n", "\r\n".repeat(LINES_MAX - 1));
        assert!(matches!(replies(more.as_bytes()).read(), Err(NoReply::TooManyLines)));
    }

    #[test]
    fn ports_of_passive_mode_stand_anywhere() {
        for (text, port) in [
            ("227 Entering Passive Mode. 192,0,2,1,19,136", Ok(5000)),
            ("227 Entering Passive Mode (192,0,2,1,19,136).", Ok(5000)),
            ("227 =192,0,2,1,0,21", Ok(21)),
            ("227 1,2,3 and 4,5,6,7,8,9", Ok(2057)),
            ("227-Mode\r\n227 (1,2,3,4,5, 6 )", Ok(1286)),
            ("227 (1,2,3,4,255,255)", Ok(65535)),
            ("227 (1,2,3,4,256,0)", Err("it has a number above 255")),
            ("227 (1,2,3,4,0,4294967297)", Err("it has a number above 255")),
            ("227 (1,2,3,4,0,0)", Err("it names port 0")),
            ("227 (1,2,3,4,5)", Err("it names no address")),
            ("227 (1,2,3,4,5,)", Err("it names no address")),
            ("227", Err("it names no address")),
        ] {
            assert_eq!(reply(text).passive_port(), port, "{text}");
        }
        // The example of RFC 2428, 3, and what servers make of it.
        for (text, port) in [
            ("229 Entering Extended Passive Mode (|||6446|)", Ok(6446)),
            ("229 (!!!65535!)", Ok(65535)),
            ("229 Mode |||6446| (good luck)", Ok(6446)),
            ("229 (|1|192.0.2.1|6446|)", Ok(6446)),
            ("229 (|2|2001:db8::1|6446|)", Ok(6446)),
            ("229 (|||65536|)", Err("it names no port")),
            ("229 (|||0|)", Err("it names no port")),
            ("229 (||||)", Err("it names no port")),
            ("229 (|||-1|)", Err("it names no port")),
            ("229 (|||6446)", Err("it names no port")),
            ("229 111644613", Err("it names no port")),
        ] {
            assert_eq!(reply(text).extended_port(), port, "{text}");
        }
    }

    #[test]
    fn what_replies_have_between_their_words() {
        for (text, name) in [
            (r#"257 "/tmp/ab""s" is current"#, Some(r#"/tmp/ab"s"#)),
            (r#"257 "/usr/dm/foo""bar" directory created"#, Some(r#"/usr/dm/foo"bar"#)),
            (r#"257 """""""#, Some(r#""""#)),
            (r#"257 """#, Some("")),
            (r#"257 "/open"#, None),
            ("257 /none", None),
        ] {
            assert_eq!(reply(text).quoted(), name.map(|name| name.as_bytes().to_vec()), "{text}");
        }
        for (text, size) in
            [("213 1024", Some(1024)), ("213 -1", None), ("213 99999999999999999999", None), ("550 5", None)]
        {
            assert_eq!(reply(text).size(), size, "{text}");
        }
        // The shape of RFC 2389, 3.2.
        let features = reply("211-Extensions supported:\r\n MLST size*;create;\r\n SIZE\r\n Utf8\r\n211 END");
        assert!(features.lists("SIZE") && features.lists("UTF8") && !features.lists("MDTM"));
        assert!(!reply("211 no features: UTF8").lists("UTF8") && !reply("500 UTF8").lists("UTF8"));
        let long = reply(&format!("550 {}", "x".repeat(5000))).words(NameEncoding::default());
        assert!(long.len() < 400 && long.ends_with("..."), "{long}");
        assert_eq!(
            reply("550 a\x1b[31m\tb\u{202e}").words(NameEncoding::default()),
            r"550 a\u{1b}[31m b\u{202e}"
        );
    }
}
