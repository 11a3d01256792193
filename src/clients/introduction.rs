//! The nickname that a chat is told first, and whether the server has taken it.
//!
//! Only tidewheel's own chat can be understood: it refuses a nickname in one line and asks again.
//!
//! ```text
//!  nickname: * the name ada is taken
//!  nickname:
//! ```

/// How it asks, in both languages.
const PROMPTS: [&[u8]; 2] = [b"nickname: ", "请输入昵称:".as_bytes()];

/// A refusal is shorter.
const HEARD_BYTES_MAX: usize = 4096;

/// What became of the nickname.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the server has said may be followed by a refusal.
    Pending,
    /// Or the server is one whose refusal would not be understood.
    Taken,
    /// With the line that tells why.
    Refused(String),
}

/// What the server has said since the connection was made.
#[derive(Debug, Default)]
pub struct Introduction {
    heard: Vec<u8>,
}

impl Introduction {
    /// Hears what the server says.
    pub fn hear(&mut self, bytes: &[u8]) -> Answer {
        self.heard.extend_from_slice(bytes);
        let Some(after_prompt) = PROMPTS.iter().find_map(|prompt| self.heard.strip_prefix(*prompt)) else {
            return if is_beginning(&self.heard) { Answer::Pending } else { Answer::Taken };
        };
        if self.heard.len() > HEARD_BYTES_MAX {
            return Answer::Taken;
        }
        let Some(end) = after_prompt.iter().position(|&byte| byte == b'\n') else { return Answer::Pending };
        let (line, rest) = (&after_prompt[..end], &after_prompt[end + 1..]);
        if PROMPTS.contains(&rest) {
            Answer::Refused(String::from_utf8_lossy(line).trim_start_matches("* ").to_owned())
        } else if is_beginning(rest) {
            Answer::Pending
        } else {
            Answer::Taken
        }
    }

    /// Whether a line has come, after which there will be either the prompt at once or nothing for a while.
    pub fn is_answered(&self) -> bool {
        self.heard.contains(&b'\n')
    }
}

/// Whether the prompt may become of it.
fn is_beginning(bytes: &[u8]) -> bool {
    PROMPTS.iter().any(|prompt| prompt.starts_with(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered to it, however it is cut.
    #[track_caller]
    fn heard(text: &str, expected: &Answer) {
        for cut in 0..=text.len() {
            let (one, other) = text.as_bytes().split_at(cut);
            let mut introduction = Introduction::default();
            let answer = match introduction.hear(one) {
                Answer::Pending => introduction.hear(other),
                early => early,
            };
            assert_eq!(answer, *expected, "{text:?} cut at {cut}");
        }
    }

    #[test]
    fn a_refusal_is_a_line_and_the_prompt_again() {
        let refused = |why: &str| Answer::Refused(why.to_owned());
        heard("nickname: * the name ada is taken\nnickname: ", &refused("the name ada is taken"));
        heard("请输入昵称:* 昵称 ada 已被使用\n请输入昵称:", &refused("昵称 ada 已被使用"));
    }

    #[test]
    fn anything_else_after_the_line_is_none() {
        heard("nickname: * welcome to lobby, ada: 1 person here\n", &Answer::Pending);
        heard("nickname: * welcome to lobby, ada: 2 people here\nbob: hi\n", &Answer::Taken);
    }

    #[test]
    fn other_servers_are_not_understood() {
        for text in ["> ", "Welcome!", "name? no\nname? ", "nick\n"] {
            heard(text, &Answer::Taken);
        }
        heard("nick", &Answer::Pending);
    }

    #[test]
    fn what_never_ends_is_no_refusal() {
        let mut introduction = Introduction::default();
        assert_eq!(introduction.hear(b"nickname: "), Answer::Pending);
        assert_eq!(introduction.hear(&[b'x'; HEARD_BYTES_MAX - 100]), Answer::Pending);
        assert_eq!(introduction.hear(&[b'x'; 100]), Answer::Taken);
    }
}
