//! What services are made with: the language of their texts, the texts that are given, what ends a message.

use std::time::Duration;

use clap::ValueEnum;
use tidewheel::framing::Rules;
use tidewheel::services::Language;
use tidewheel::services::chat::ChatLimits;

use super::limits::LimitOptions;
use super::units::Time;

/// How long an HTTP connection may be idle unless the idle timeout is given: peers keep them open between requests, and
/// forget them.
const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
#[command(next_help_heading = "Services")]
pub struct ServiceOptions {
    /// The language of the services' texts [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,

    /// Treat text without a newline as a message after this pause, until the connection sends its first newline;
    /// 0 = only newlines end messages
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    message_pause: Time,

    /// The text that banner sends [default: a welcome in the language]
    #[arg(long, value_name = "TEXT")]
    banner_text: Option<String>,

    /// The text that reply sends, on all its addresses [default: a text for each transport]
    #[arg(long, value_name = "TEXT")]
    reply_text: Option<String>,

    /// Messages that a chat connection may send in a burst; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 20)]
    chat_burst: u32,

    /// Messages per second after the burst; a connection that sends more is slowed, then closed; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 5)]
    chat_rate: u32,

    /// Do not announce joins and leaves in chat rooms with more members than this; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 500)]
    chat_announce_max: usize,
}

/// The options of services as they are made with them.
pub struct Settings {
    pub language: Language,
    pub rules: Rules,
    /// `None`: the one of all connections.
    pub http_idle_timeout: Option<Duration>,
    /// `None`: the one of the language.
    pub banner_text: Option<String>,
    /// `None`: the one of the language and the address.
    pub reply_text: Option<String>,
    pub chat_limits: ChatLimits,
}

impl ServiceOptions {
    /// What they come to, together with the limits.
    ///
    /// # Errors
    /// A line about options that contradict each other.
    pub fn settings(&self, limits: &LimitOptions) -> Result<Settings, String> {
        let (pause, deadline) = (self.message_pause, limits.read_deadline);
        if deadline.limit().is_some_and(|deadline| pause.0 >= deadline) {
            return Err(format!(
                "--message-pause {pause} must be shorter than --read-deadline {deadline}, which closes the connection"
            ));
        }
        let mut rules = Rules::default();
        rules.message_pause = self.message_pause.limit();
        rules.line_bytes_max = limits.max_line.0;
        let mut chat_limits = ChatLimits::default();
        chat_limits.burst = if self.chat_burst == 0 { u32::MAX } else { self.chat_burst };
        chat_limits.rate = self.chat_rate;
        chat_limits.announce_max =
            if self.chat_announce_max == 0 { usize::MAX } else { self.chat_announce_max };
        Ok(Settings {
            language: language(self.lang),
            rules,
            http_idle_timeout: limits.idle_timeout.is_none().then_some(HTTP_IDLE_TIMEOUT),
            banner_text: self.banner_text.clone(),
            reply_text: self.reply_text.clone(),
            chat_limits,
        })
    }
}

/// The language that was asked for, or the environment's.
pub fn language(asked: Option<Lang>) -> Language {
    asked.unwrap_or_else(|| Lang::from_environment(|name| std::env::var(name).ok())).language()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    En,
    Zh,
}

impl Lang {
    /// The language that the environment asks for: the first of the three variables that is set decides.
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Lang {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .filter_map(variable)
            .find(|locale| !locale.is_empty())
            .unwrap_or_default();
        // `zh`, `zh_CN.UTF-8`, `zh-Hans`, but not a language whose name begins alike.
        match locale.split(['_', '-', '.', '@']).next() {
            Some("zh") => Lang::Zh,
            _ => Lang::En,
        }
    }

    fn language(self) -> Language {
        match self {
            Lang::En => Language::English,
            Lang::Zh => Language::Chinese,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        services: ServiceOptions,
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn settings(options: &str) -> Settings {
        try_settings(options).unwrap_or_else(|error| panic!("{options}: {error}"))
    }

    fn try_settings(options: &str) -> Result<Settings, String> {
        let words = std::iter::once("tidewheel").chain(options.split_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        line.services.settings(&line.limits)
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let settings = settings("");
        assert_eq!(settings.rules, Rules::default());
        assert_eq!(settings.chat_limits, ChatLimits::default());
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = settings("--chat-burst 0 --chat-rate 0 --chat-announce-max 0").chat_limits;
        // The library has its own word for no rate.
        assert_eq!((limits.burst, limits.rate, limits.announce_max), (u32::MAX, 0, usize::MAX));
        assert_eq!(settings("--message-pause 0").rules.message_pause, None);
    }

    #[test]
    fn a_pause_that_the_read_deadline_forestalls_is_refused() {
        let error = try_settings("--message-pause 2s --read-deadline 2s").err().expect("neither is longer");
        assert!(error.contains("--message-pause 2s") && error.contains("--read-deadline 2s"), "{error}");
        assert!(try_settings("--message-pause 2s --read-deadline 0").is_ok());
    }

    #[test]
    fn http_connections_are_idle_for_a_minute_unless_another_time_is_given() {
        for (options, expected) in
            [("", Some(Duration::from_secs(60))), ("--idle-timeout 5m", None), ("--idle-timeout 0", None)]
        {
            assert_eq!(settings(options).http_idle_timeout, expected, "{options}");
        }
    }

    #[test]
    fn the_first_variable_that_is_set_decides_the_language() {
        let lang = |set: &[(&str, &str)]| {
            Lang::from_environment(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(lang(&[]), Lang::En);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8")]), Lang::Zh);
        assert_eq!(lang(&[("LC_ALL", "en_US"), ("LANG", "zh_CN")]), Lang::En);
        assert_eq!(lang(&[("LC_ALL", ""), ("LC_MESSAGES", "zh"), ("LANG", "C")]), Lang::Zh);
        assert_eq!(lang(&[("LANG", "zha_CN")]), Lang::En);
    }
}
