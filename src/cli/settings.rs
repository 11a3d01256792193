//! What services are made with: the language of their texts, the texts that are given, what ends a message.

use clap::ValueEnum;
use tidewheel::framing::Rules;
use tidewheel::services::Language;

use super::units::{Size, Time};

#[derive(clap::Args)]
#[command(next_help_heading = "Services")]
pub struct ServiceOptions {
    /// The language of the services' texts [default: from LC_ALL, LC_MESSAGES, LANG]
    #[arg(long, value_enum)]
    lang: Option<Lang>,

    /// How long bytes stay without a newline until they are a message, on a connection that has sent no newline yet;
    /// 0: only newlines end messages
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    message_pause: Time,

    /// What banner sends [default: a welcome in the language]
    #[arg(long, value_name = "TEXT")]
    banner_text: Option<String>,

    /// What reply answers everywhere [default: a text for each transport]
    #[arg(long, value_name = "TEXT")]
    reply_text: Option<String>,
}

/// The options of services as they are made with them.
pub struct Settings {
    pub language: Language,
    pub rules: Rules,
    /// `None`: the one of the language.
    pub banner_text: Option<String>,
    /// `None`: the one of the language and the address.
    pub reply_text: Option<String>,
}

impl ServiceOptions {
    /// What they come to, with lines of at most `line_max`.
    pub fn settings(&self, line_max: Size) -> Settings {
        let lang = self.lang.unwrap_or_else(|| Lang::from_environment(|name| std::env::var(name).ok()));
        Settings {
            language: lang.language(),
            rules: Rules { message_pause: self.message_pause.limit(), line_bytes_max: line_max.0 },
            banner_text: self.banner_text.clone(),
            reply_text: self.reply_text.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lang {
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
    use super::*;

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
