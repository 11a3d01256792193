//! The ready-made services.

pub mod echo;
