//! Addresses out of a JSON document: `newslist[].picUrl`.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// A way through a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// `.name`: the member of that name.
    Member(String),
    /// `[]`: each element.
    Each,
    /// `[2]`: that element, counted from 0.
    Element(usize),
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Field, String> {
        let bad = || {
            "expected names with dots between them, [] for each element and [0] for the first, as in newslist[].picUrl"
                .to_owned()
        };
        let mut steps = Vec::new();
        for (index, part) in text.split('.').enumerate() {
            let (name, mut brackets) = part.split_at(part.find('[').unwrap_or(part.len()));
            // Only the whole document may be meant by no name.
            match name {
                "" if index > 0 || brackets.is_empty() => return Err(bad()),
                "" => {}
                _ if name.contains(']') => return Err(bad()),
                _ => steps.push(Step::Member(name.to_owned())),
            }
            while !brackets.is_empty() {
                let (inside, rest) =
                    brackets.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(bad)?;
                steps.push(match inside {
                    "" => Step::Each,
                    _ if inside.bytes().all(|byte| byte.is_ascii_digit()) => {
                        Step::Element(inside.parse().map_err(|_| bad())?)
                    }
                    _ => return Err(bad()),
                });
                brackets = rest;
            }
        }
        Ok(Field(steps))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Member(name) => write!(f, "{}{name}", if index > 0 { "." } else { "" })?,
                Step::Each => f.write_str("[]")?,
                Step::Element(number) => write!(f, "[{number}]")?,
            }
        }
        Ok(())
    }
}

impl Field {
    /// The texts at the end of the way, each once, in the order of the document. Where the way ends early, or at
    /// something that is no text or an empty one, there is none.
    pub fn texts<'a>(&self, document: &'a Value) -> Vec<&'a str> {
        let mut values = vec![document];
        for step in &self.0 {
            values = values
                .into_iter()
                .flat_map(|value| match step {
                    Step::Member(name) => value.get(name).map_or(&[][..], std::slice::from_ref),
                    Step::Element(number) => value.get(number).map_or(&[][..], std::slice::from_ref),
                    Step::Each => value.as_array().map_or(&[][..], Vec::as_slice),
                })
                .collect();
        }
        let mut seen = HashSet::new();
        let texts = values.into_iter().filter_map(Value::as_str).filter(|text| !text.trim().is_empty());
        texts.filter(|text| seen.insert(*text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(text: &str) -> Field {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn texts_are_found_at_the_end_of_the_way() {
        let document = json!({
            "code": 200,
            "newslist": [
                { "picUrl": "http://h/1.jpg", "tags": [["a", "b"], ["c"]] },
                { "title": "without one" },
                { "picUrl": 5 },
                { "picUrl": " " },
                { "picUrl": "http://h/2.jpg" },
                { "picUrl": "http://h/1.jpg" },
            ],
        });
        for (way, texts) in [
            ("newslist[].picUrl", &["http://h/1.jpg", "http://h/2.jpg"][..]),
            ("newslist[4].picUrl", &["http://h/2.jpg"]),
            ("newslist[9].picUrl", &[]),
            ("newslist.picUrl", &[]),
            ("newslist[].tags[][]", &["a", "b", "c"]),
            ("newslist[].tags[0][1]", &["b"]),
            ("code", &[]),
            ("code[]", &[]),
        ] {
            assert_eq!(field(way).texts(&document), texts, "{way}");
        }
        assert_eq!(field("[]").texts(&json!(["a", "b"])), ["a", "b"]);
        assert_eq!(field("[1].x").texts(&json!([{}, { "x": "y" }])), ["y"]);
    }

    #[test]
    fn a_way_reads_as_it_is_written() {
        for text in ["newslist[].picUrl", "[]", "[0][].a.b", "a[12]"] {
            assert_eq!(field(text).to_string(), text);
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "a[", "a]", "a[x]", "a[-1]", "a[]b", "a[99999999999999999999]"]
        {
            assert!(bad.parse::<Field>().is_err(), "{bad:?}");
        }
    }
}
