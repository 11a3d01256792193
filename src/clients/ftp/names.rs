//! Names on FTP servers: bytes there, text here.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use encoding_rs::{Encoding, UTF_8};

/// How names are encoded on a server. UTF-8 unless something else is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameEncoding(&'static Encoding);

impl Default for NameEncoding {
    fn default() -> NameEncoding {
        NameEncoding(UTF_8)
    }
}

impl FromStr for NameEncoding {
    type Err = String;

    /// Reads a label of the WHATWG encoding standard, in any case.
    fn from_str(label: &str) -> Result<NameEncoding, String> {
        let encoding = Encoding::for_label(label.as_bytes()).ok_or_else(|| {
            "unknown encoding: use a label of the WHATWG encoding standard, such as gbk, big5, shift_jis or latin1"
                .to_owned()
        })?;
        // UTF-16 has bytes in it that end a command.
        if encoding.output_encoding() == encoding {
            Ok(NameEncoding(encoding))
        } else {
            Err(format!("names on FTP servers cannot be in {}", encoding.name()))
        }
    }
}

impl fmt::Display for NameEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl NameEncoding {
    pub fn is_utf8(self) -> bool {
        self == NameEncoding::default()
    }

    /// A text as bytes for the server.
    ///
    /// # Errors
    /// Which character the encoding does not have.
    pub fn encode(self, text: &str) -> Result<Cow<'_, [u8]>, String> {
        let (bytes, _, has_others) = self.0.encode(text);
        if !has_others {
            return Ok(bytes);
        }
        let is_other = |character: &char| self.0.encode(character.encode_utf8(&mut [0; 4])).2;
        let other = text.chars().find(is_other).map(String::from).unwrap_or_default();
        Err(format!("'{other}' cannot be written in {self}"))
    }

    /// Bytes from the server as text; those that are none in this encoding percent-encoded, as a URL would have them.
    pub fn decode(self, bytes: &[u8]) -> String {
        if !self.is_utf8()
            && let Some(text) = self.0.decode_without_bom_handling_and_without_replacement(bytes)
        {
            return text.into_owned();
        }
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                // What looks like UTF-8 in a name of another encoding is not.
                if self.is_utf8() || character.is_ascii() {
                    text.push(character);
                } else {
                    percent_encode(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            percent_encode(&mut text, chunk.invalid());
        }
        text
    }

    /// The path of a URL with what is not ASCII percent-encoded in this encoding.
    ///
    /// # Errors
    /// Which character the encoding does not have.
    pub fn percent_encode(self, path: &str) -> Result<String, String> {
        let mut encoded = String::with_capacity(path.len());
        let mut rest = path;
        while !rest.is_empty() {
            let (ascii, others) =
                rest.split_at(rest.find(|character: char| !character.is_ascii()).unwrap_or(rest.len()));
            let (others, after) =
                others.split_at(others.find(|character: char| character.is_ascii()).unwrap_or(others.len()));
            encoded.push_str(ascii);
            percent_encode(&mut encoded, &self.encode(others)?);
            rest = after;
        }
        Ok(encoded)
    }
}

fn percent_encode(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "%{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(label: &str) -> NameEncoding {
        label.parse().unwrap_or_else(|error| panic!("{label}: {error}"))
    }

    #[test]
    fn names_go_there_and_back() {
        for (label, text, bytes) in [
            ("utf-8", "文 a", "文 a".as_bytes()),
            ("GBK", "文 a", b"\xce\xc4 a"),
            ("gb18030", "🙂", b"\x95\x30\x85\x32"),
            ("latin1", "é%41", b"\xe9%41"),
            ("koi8-r", "я", b"\xd1"),
            ("euc-kr", "한", b"\xc7\xd1"),
        ] {
            assert_eq!(encoding(label).encode(text).as_deref(), Ok(bytes), "{label}");
            assert_eq!(encoding(label).decode(bytes), text, "{label}");
        }
    }

    #[test]
    fn what_is_not_in_the_encoding_is_percent_encoded_or_refused() {
        assert_eq!(NameEncoding::default().decode(b"a\xce\xc4.\xe6\x96\x87"), "a%CE%C4.文");
        assert_eq!(NameEncoding::default().decode(b"\xef\xbb\xbfa"), "\u{feff}a");
        assert_eq!(encoding("gbk").decode(b"a\xce\xc4\xff"), "a%CE%C4%FF");
        assert_eq!(encoding("gbk").encode("a🙂").expect_err("none"), "'🙂' cannot be written in GBK");
        for label in ["klingon", "", "utf-16", "utf-16be", "replacement", "iso-2022-kr"] {
            assert!(label.parse::<NameEncoding>().is_err(), "{label}");
        }
    }

    #[test]
    fn paths_of_urls_are_encoded_where_they_are_not_ascii() {
        for (label, path, encoded) in [
            ("gbk", "/a/文件;type=i", "/a/%CE%C4%BC%FE;type=i"),
            ("gbk", "/%41/文", "/%41/%CE%C4"),
            ("shift_jis", "/表", "/%95%5C"),
            ("utf-8", "/é", "/%C3%A9"),
            ("gbk", "", ""),
        ] {
            assert_eq!(encoding(label).percent_encode(path).as_deref(), Ok(encoded));
        }
    }
}
