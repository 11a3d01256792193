//! The ready-made services.

pub mod echo;
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
