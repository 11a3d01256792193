//! The ready-made services.

pub mod banner;
pub mod chat;
mod clock;
pub mod daytime;
pub mod echo;
pub mod greeting;
pub mod http;
pub mod reply;
pub mod time;
pub mod uppercase;

/// The language of a service's texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}
