//! The ready-made services.

pub mod echo;
pub mod time;
pub mod uppercase;
