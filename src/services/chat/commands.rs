//! What a message asks for.

use std::borrow::Cow;

use memchr::memchr;

use super::names::Name;

/// What somebody asks for with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Nothing: it is blank.
    Nothing,
    /// To say this to the room.
    Say(&'a str),
    /// To say this to one person alone. The text is not blank.
    Tell {
        /// As it was written: it may be no name at all.
        to: &'a str,
        text: &'a str,
    },
    /// To go to another room.
    Join(&'a str),
    /// To go back to the lobby.
    Leave,
    /// Which rooms there are.
    Rooms,
    /// Who is in a room; without one, in that of whoever asks.
    Who(Option<&'a str>),
    /// To have another name.
    Nick(&'a str),
    /// Which commands there are.
    Help,
    /// To go.
    Quit,
    /// A command without what it needs: how it is written.
    Incomplete(&'static str),
    /// No command has this name.
    Unknown(&'a str),
}

/// What a message asks for. `text` is as [`clean`] leaves it.
///
/// White space before a command, a name or its colon is no part of it: a private word must not become a public one by a
/// slip of the space bar. For the same reason the full-width forms of `/`, `@` and `:` mean the same.
pub fn parse(text: &str) -> Command<'_> {
    let line = text.trim();
    if line.is_empty() {
        Command::Nothing
    } else if let Some(line) = line.strip_prefix(['/', '／']) {
        parse_slash(line)
    } else if let Some(line) = line.strip_prefix(['@', '＠']) {
        tell(line.split_once(|it: char| it.is_whitespace() || is_colon(it)), "@NAME TEXT")
    } else if let Some((to, text)) = split_at_colon(line)
        && Name::parse(to.trim_end()).is_ok()
        && !text.starts_with("//")
    {
        tell(Some((to.trim_end(), text)), "NAME:TEXT")
    } else {
        Command::Say(text)
    }
}

/// A command that began with a slash, without it.
fn parse_slash<'a>(line: &'a str) -> Command<'a> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim_start();
    let needs = |command: fn(&'a str) -> Command<'a>, form| match rest {
        "" => Command::Incomplete(form),
        rest => command(rest),
    };
    match name.to_ascii_lowercase().as_str() {
        "say" => needs(Command::Say, "/say TEXT"),
        "msg" => tell(rest.split_once(char::is_whitespace), "/msg NAME TEXT"),
        "join" => needs(Command::Join, "/join ROOM"),
        "leave" => Command::Leave,
        "rooms" => Command::Rooms,
        "who" => Command::Who(Some(rest).filter(|rest| !rest.is_empty())),
        "nick" => needs(Command::Nick, "/nick NAME"),
        "help" => Command::Help,
        "quit" => Command::Quit,
        _ => Command::Unknown(name),
    }
}

fn tell<'a>(parts: Option<(&'a str, &'a str)>, form: &'static str) -> Command<'a> {
    match parts {
        Some((to, text)) if !to.is_empty() && !text.trim_start().is_empty() => {
            Command::Tell { to, text: text.trim_start() }
        }
        _ => Command::Incomplete(form),
    }
}

/// Most lines are ASCII, and looked through many bytes at a time.
fn split_at_colon(line: &str) -> Option<(&str, &str)> {
    if line.is_ascii() {
        let at = memchr(b':', line.as_bytes())?;
        Some((&line[..at], &line[at + 1..]))
    } else {
        line.split_once(is_colon)
    }
}

fn is_colon(character: char) -> bool {
    matches!(character, ':' | '：')
}

/// A message as text that is safe on a terminal: what is no UTF-8, control characters except the tab, line and paragraph
/// separators and what changes the direction of writing become U+FFFD.
///
/// Joiners stay, because scripts and emoji need them.
pub fn clean(bytes: &[u8]) -> Cow<'_, str> {
    // Printable ASCII, as most messages are, is found out without looking at each character by itself.
    let is_plain = bytes.iter().fold(true, |so_far, &byte| so_far & matches!(byte, b' '..=b'~' | b'\t'));
    if is_plain && let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let text = String::from_utf8_lossy(bytes);
    if text.contains(is_unsafe) { Cow::Owned(text.replace(is_unsafe, "\u{fffd}")) } else { text }
}

fn is_unsafe(character: char) -> bool {
    match character {
        '\t' => false,
        // Marks, embeddings, overrides and isolates; with them go their deprecated neighbours U+206A to U+206F.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_what_only_looks_like_it_is_said() {
        use Command::*;
        let bob = |text| Tell { to: "bob", text };
        let cases = [
            ("", Nothing),
            (" \t ", Nothing),
            ("\u{3000}", Nothing),
            ("hello", Say("hello")),
            ("  hello  ", Say("  hello  ")),
            ("a b: c", Say("a b: c")),
            (":)", Say(":)")),
            (": bob", Say(": bob")),
            ("::", Say("::")),
            ("http://x", Say("http://x")),
            ("http：//x", Say("http：//x")),
            ("see http://x", Say("see http://x")),
            ("bob@example.org", Say("bob@example.org")),
            ("b.b: hi", Say("b.b: hi")),
            ("hello bob", Say("hello bob")),
            ("1/2", Say("1/2")),
            ("* bob has left", Say("* bob has left")),
            // By a colon.
            ("bob:hello", bob("hello")),
            ("bob: hello", bob("hello")),
            ("bob：hello", bob("hello")),
            ("bob： hello", bob("hello")),
            (" bob : hello ", bob("hello")),
            ("bob: a: b", bob("a: b")),
            ("bob: http://x", bob("http://x")),
            ("bob: //x", bob("//x")),
            ("bob:/quit", bob("/quit")),
            ("bob:：)", bob("：)")),
            ("bob：:)", bob(":)")),
            ("note: this", Tell { to: "note", text: "this" }),
            ("12:30", Tell { to: "12", text: "30" }),
            ("小明：你好", Tell { to: "小明", text: "你好" }),
            ("bob:", Incomplete("NAME:TEXT")),
            ("bob: ", Incomplete("NAME:TEXT")),
            // By an at sign.
            ("@bob hello", bob("hello")),
            ("@bob   hello there", bob("hello there")),
            (" @bob hello", bob("hello")),
            ("@bob: hello", bob("hello")),
            ("@bob:hello", bob("hello")),
            ("@bob\thello", bob("hello")),
            ("＠bob\u{3000}hello", bob("hello")),
            ("@b.b hello", Tell { to: "b.b", text: "hello" }),
            ("@bob", Incomplete("@NAME TEXT")),
            ("@bob ", Incomplete("@NAME TEXT")),
            ("@", Incomplete("@NAME TEXT")),
            ("@ bob hello", Incomplete("@NAME TEXT")),
            // Commands.
            ("/msg bob hello", bob("hello")),
            ("/MSG  bob  hello", bob("hello")),
            ("／msg bob hello", bob("hello")),
            ("/msg bob", Incomplete("/msg NAME TEXT")),
            ("/msg", Incomplete("/msg NAME TEXT")),
            ("/say bob: hello", Say("bob: hello")),
            ("/say /quit", Say("/quit")),
            ("/say", Incomplete("/say TEXT")),
            ("/join rust", Join("rust")),
            (" /join  rust ", Join("rust")),
            ("/join two words", Join("two words")),
            ("/join", Incomplete("/join ROOM")),
            ("/leave", Leave),
            ("/rooms", Rooms),
            ("/who", Who(None)),
            ("/who rust", Who(Some("rust"))),
            ("/nick ada", Nick("ada")),
            ("/nick", Incomplete("/nick NAME")),
            ("/help", Help),
            ("/help me", Help),
            ("/quit", Quit),
            ("/Quit", Quit),
            ("/", Unknown("")),
            ("//", Unknown("/")),
            ("/ quit", Unknown("")),
            ("/quit:", Unknown("quit:")),
            ("/etc/passwd", Unknown("etc/passwd")),
        ];
        for (text, command) in cases {
            assert_eq!(parse(text), command, "{text:?}");
        }
    }

    #[test]
    fn no_code_point_that_steers_a_terminal_passes() {
        for character in char::MIN..=char::MAX {
            let line = format!("a{character}b");
            let cleaned = clean(line.as_bytes());
            let is_bidi =
                matches!(character as u32, 0x61c | 0x200e | 0x200f | 0x202a..=0x202e | 0x2066..=0x2069);
            if character != '\t' && (character.is_control() || is_bidi) {
                assert_eq!(cleaned, "a\u{fffd}b", "{character:?}");
            }
            assert!(cleaned.chars().all(|it| it == '\t' || !is_unsafe(it)));
        }
        for kept in ["\t", "\u{200d}", "\u{200c}", "👩\u{200d}💻", "مرحبا", "\u{fffd}", "\u{a0}", "\u{feff}"]
        {
            assert_eq!(clean(kept.as_bytes()), kept);
        }
    }

    #[test]
    fn what_is_no_utf_8_is_replaced() {
        let cases: [(&[u8], &str); 5] = [
            (b"a\xffb", "a\u{fffd}b"),
            (b"\xc3", "\u{fffd}"),
            (b"\xe2\x80", "\u{fffd}"),
            // An overlong slash and half of a surrogate pair.
            (b"\xc0\xaf", "\u{fffd}\u{fffd}"),
            (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        ];
        for (bytes, text) in cases {
            assert_eq!(clean(bytes), text);
        }
    }
}
