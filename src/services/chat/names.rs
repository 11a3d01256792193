//! Names of people and rooms: which are allowed, and which are the same.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The longest name, in code points of its normal form.
pub const NAME_CHARS_MAX: usize = 32;

/// No code point has a canonical decomposition of more parts than this: what is longer than the longest name even in
/// its shortest form need not be normalized to see that.
const DECOMPOSITION_MAX: usize = 4;

/// Nonspacing marks on one letter at most, as Unicode's security mechanisms (UTS #39) advise: more of them climb into
/// the lines above and below.
const MARKS_MAX: usize = 4;

/// A name that is allowed.
///
/// It consists of letters, decimal digits, `_` and `-` of any script, and of marks where they follow a letter. Letters
/// and marks that show nothing, such as the Hangul fillers and the variation selectors, are refused, and so are
/// joiners and all other format characters.
///
/// Two names are the same if their keys are: under full case folding, and under compatibility, so that nobody can pass
/// for `bob` as `BOB`, full-width `ｂｏｂ` or mathematical `𝐛𝐨𝐛`. Letters of different scripts that look alike (Latin
/// `a`, Cyrillic `а`) are different letters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    text: String,
    key: String,
}

/// Why a name is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It is empty, or longer than [`NAME_CHARS_MAX`].
    Length,
    /// It has a character that is not allowed, or not where it stands.
    Character,
}

impl Name {
    /// The name that somebody means by `raw`, in whatever normal form that is.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn parse(raw: &str) -> Result<Name, BadName> {
        if raw.is_empty() || raw.chars().nth(NAME_CHARS_MAX * DECOMPOSITION_MAX).is_some() {
            return Err(BadName::Length);
        }
        let text: String = raw.nfc().collect();
        if text.chars().count() > NAME_CHARS_MAX {
            return Err(BadName::Length);
        }
        // How many marks the letter before has, if there is a letter before.
        let mut marks = None;
        for character in text.chars() {
            marks = match (kind(character), marks) {
                (Kind::Letter, _) => Some(0),
                (Kind::Other, _) => None,
                (Kind::Spacing, Some(_)) => Some(0),
                (Kind::Nonspacing, Some(count)) if count < MARKS_MAX => Some(count + 1),
                (Kind::Spacing | Kind::Nonspacing | Kind::Refused, _) => return Err(BadName::Character),
            };
        }
        let key = key(&text);
        Ok(Name { text, key })
    }

    /// As people see it, in NFC.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is equal for names that are the same.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// What is left of a name when differences of case and of compatibility are gone, as in Unicode's definition of a
/// compatibility caseless match (D146).
fn key(text: &str) -> String {
    fold(fold(text.nfd()).nfkd()).nfkd().collect()
}

/// Case folding by way of the standard library, whose tables are the compiler's. Twice it is as full as Unicode's (only
/// then does `ẞ` become `ss`), and beyond that it takes the dotless `ı` for an `i`.
fn fold(text: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    text.flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// What a character can be in a name.
#[derive(Clone, Copy)]
enum Kind {
    Letter,
    /// A mark beside its letter.
    Spacing,
    /// A mark above, below or within its letter.
    Nonspacing,
    /// A digit, `_` or `-`: no mark may follow.
    Other,
    Refused,
}

fn kind(character: char) -> Kind {
    if matches!(character, '_' | '-') {
        return Kind::Other;
    }
    if is_invisible(character) {
        return Kind::Refused;
    }
    match character.general_category() {
        GeneralCategory::UppercaseLetter
        | GeneralCategory::LowercaseLetter
        | GeneralCategory::TitlecaseLetter
        | GeneralCategory::ModifierLetter
        | GeneralCategory::OtherLetter => Kind::Letter,
        GeneralCategory::SpacingMark => Kind::Spacing,
        GeneralCategory::NonspacingMark => Kind::Nonspacing,
        GeneralCategory::DecimalNumber => Kind::Other,
        _ => Kind::Refused,
    }
}

/// The letters and marks that Unicode calls default ignorable: they show nothing, so that two names with and without
/// them would look the same.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
    )
}

#[cfg(test)]
mod tests {
    use unicode_properties::GeneralCategoryGroup;

    use super::*;

    fn key_of(raw: &str) -> String {
        Name::parse(raw).unwrap_or_else(|bad| panic!("{raw}: {bad:?}")).key
    }

    #[test]
    fn names_of_any_script_are_allowed() {
        for name in [
            "bob",
            "Bob_2-x",
            "-",
            "_",
            "7",
            "зоя",
            "小明",
            "ゆき",
            "서연",
            "नमस्ते",
            "ไพลิน",
            "مُحَمَّد",
            "Nguyễn",
            "Ἀχιλλεύς",
            "தமிழ்",
            "মৈত্রী",
            "ကျွန်ုပ်",
            "བསྟན",
            "٣",
            "ﾕｷ",
        ] {
            assert!(Name::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn every_code_point_alone_is_a_name_or_is_not() {
        let mut allowed = 0;
        for character in char::MIN..=char::MAX {
            let category = character.general_category();
            // Most of all, and all alike.
            if matches!(category, GeneralCategory::Unassigned | GeneralCategory::PrivateUse) {
                assert!(matches!(kind(character), Kind::Refused), "{character:?}");
                continue;
            }
            let alone = Name::parse(character.encode_utf8(&mut [0; 4]));
            let behind = Name::parse(&format!("a{character}"));
            let is_letter = matches!(character, '_' | '-')
                || category == GeneralCategory::DecimalNumber
                || character.general_category_group() == GeneralCategoryGroup::Letter;
            let is_mark = matches!(category, GeneralCategory::SpacingMark | GeneralCategory::NonspacingMark);
            // What NFC replaces is judged as what it is replaced by.
            if character.nfc().eq([character]) {
                let is_seen = !is_invisible(character);
                assert_eq!(alone.is_ok(), is_letter && is_seen, "{character:?} alone");
                assert_eq!(
                    behind.is_ok(),
                    (is_letter || is_mark) && is_seen,
                    "{character:?} behind a letter"
                );
            }
            let Ok(name) = alone else { continue };
            allowed += 1;
            assert!(!name.key.is_empty(), "{character:?} has no key");
            assert!(!name.text.chars().any(|it| it.is_control() || it.is_whitespace() || it == ':'));
            // The same name by each of its spellings.
            for spelling in [
                name.text.nfd().collect::<String>(),
                name.text.nfkc().collect(),
                name.text.to_lowercase(),
                name.text.to_uppercase(),
            ] {
                assert_eq!(key(&spelling), name.key, "{character:?} as {spelling:?}");
            }
        }
        assert!(allowed > 130_000, "{allowed}");
    }

    #[test]
    fn control_format_and_invisible_characters_are_refused_wherever_they_stand() {
        for character in char::MIN..=char::MAX {
            let is_refused = matches!(
                character.general_category(),
                GeneralCategory::Control
                    | GeneralCategory::Format
                    | GeneralCategory::SpaceSeparator
                    | GeneralCategory::LineSeparator
                    | GeneralCategory::ParagraphSeparator
            );
            if is_refused || is_invisible(character) {
                for raw in [format!("{character}bob"), format!("b{character}ob"), format!("bob{character}")] {
                    assert_eq!(Name::parse(&raw), Err(BadName::Character), "{raw:?}");
                }
            }
        }
    }

    #[test]
    fn spellings_of_one_name_are_the_same() {
        for (one, other) in [
            ("bob", "BOB"),
            ("straße", "STRASSE"),
            ("straße", "STRAẞE"),
            ("zoe\u{301}", "ZOÉ"),
            ("Σίσυφος", "σίσυφοσ"),
            ("K", "\u{212a}"),
            ("i", "ı"),
            ("bob", "ｂｏｂ"),
            ("bob", "𝐛𝐨𝐛"),
            ("fine", "ﬁne"),
            ("ユキ", "ﾕｷ"),
            ("7", "７"),
            ("\u{1f82}", "\u{3b1}\u{313}\u{300}\u{345}"),
            ("서연", "\u{1109}\u{1165}\u{110b}\u{1167}\u{11ab}"),
        ] {
            assert_eq!(key_of(one), key_of(other), "{one} and {other}");
        }
        for (one, other) in [("bob", "bob_"), ("bob", "b0b"), ("a", "а"), ("e", "é"), ("bob", "bo-b")] {
            assert_ne!(key_of(one), key_of(other), "{one} and {other}");
        }
        assert_eq!(Name::parse("zoe\u{301}").map(|name| name.text), Ok("zoé".to_owned()));
    }

    #[test]
    fn the_length_is_that_of_the_normal_form() {
        for (raw, expected) in [
            (String::new(), Err(BadName::Length)),
            ("a".repeat(32), Ok(32)),
            ("a".repeat(33), Err(BadName::Length)),
            ("漢".repeat(32), Ok(32)),
            ("漢".repeat(33), Err(BadName::Length)),
            ("e\u{301}".repeat(32), Ok(32)),
            ("e\u{301}".repeat(33), Err(BadName::Length)),
            ("\u{3b1}\u{313}\u{300}\u{345}".repeat(32), Ok(32)),
            ("x".repeat(1 << 20), Err(BadName::Length)),
        ] {
            let got = Name::parse(&raw).map(|name| name.text.chars().count());
            assert_eq!(got, expected, "{} bytes", raw.len());
        }
    }

    #[test]
    fn marks_need_a_letter_and_are_few() {
        for (raw, is_good) in [
            ("\u{301}a", false),
            ("7\u{301}", false),
            ("a-\u{301}", false),
            ("q\u{301}\u{302}\u{303}\u{304}", true),
            ("q\u{301}\u{302}\u{303}\u{304}\u{305}", false),
            ("q\u{301}\u{302}\u{303}\u{304}q\u{301}", true),
            ("q\u{20dd}", false),
        ] {
            assert_eq!(Name::parse(raw).is_ok(), is_good, "{raw:?}");
        }
    }
}
