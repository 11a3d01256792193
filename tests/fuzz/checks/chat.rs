//! What people in chat see of one another, whatever somebody sends.

use tidewheel::Options;
use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::sim::{Faults, Sim};

/// What asks for a nickname.
const PROMPT: &str = "nickname: ";

/// Sends these bytes to chat, once as the first thing that is said and once behind a nickname, while somebody else is
/// there.
///
/// # Panics
/// If anybody then sees what chat never shows.
pub fn check(bytes: &[u8]) {
    let mut sim = Sim::new(0, Faults::none());
    let mut limits = ChatLimits::default();
    limits.rate = 0;
    let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
    let listener = sim.listen_with("127.0.0.1:25666", chat, Options::new("chat"));
    let watcher = sim.connect(listener);
    sim.send(watcher, b"watcher\n");
    sim.settle();
    let senders = [&b""[..], b"sender\n"].map(|nick| {
        let sender = sim.connect(listener);
        sim.send(sender, nick);
        sim.send(sender, bytes);
        sim.finish(sender);
        sender
    });
    sim.settle();
    sim.send(watcher, b"/who\n/quit\n");
    sim.finish(watcher);
    assert!(sim.run(), "it comes to an end");
    for peer in [watcher, senders[0], senders[1]] {
        assert_orderly(sim.received(peer));
    }
    let heard = String::from_utf8_lossy(sim.received(watcher));
    assert!(heard.ends_with("\n* goodbye\n"), "nobody else could end that connection: {heard:?}");
    assert_eq!(sim.reactor().connections(), 0);
}

/// What somebody has read in chat is text without characters that steer a terminal, in lines that show who says them.
///
/// # Panics
/// If not.
pub fn assert_orderly(heard: &[u8]) {
    let text = std::str::from_utf8(heard).expect("chat is UTF-8");
    for character in text.chars() {
        let is_safe = match character {
            '\n' | '\t' => true,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => false,
            _ => !character.is_control(),
        };
        assert!(is_safe, "{character:?} in {text:?}");
    }
    for mut line in text.lines() {
        while let Some(rest) = line.strip_prefix(PROMPT) {
            line = rest;
        }
        // Only a prompt ends without a newline.
        let by_a_person = || {
            let (nick, _) = line.split_once(": ").unwrap_or_default();
            let nick = nick.strip_suffix(" -> you").unwrap_or(nick);
            !nick.is_empty() && nick.chars().all(is_of_name)
        };
        assert!(line.is_empty() || line.starts_with("* ") || by_a_person(), "{line:?} in {text:?}");
    }
    assert!(text.is_empty() || text.ends_with('\n') || text.ends_with(PROMPT), "half a line: {text:?}");
}

/// Whether a character may be in a name; combining marks, which only some scripts have, are not looked at closely.
fn is_of_name(character: char) -> bool {
    !(character.is_whitespace() || character.is_control() || character.is_ascii_punctuation())
        || matches!(character, '_' | '-')
}
