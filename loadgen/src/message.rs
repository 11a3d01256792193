//! What is printed for people beside the results, on standard error. Nobody may be reading it, its disk may be full: then
//! it is lost, and nothing else is. `eprintln!` would panic, and with it the result would be gone.

use std::fmt;
use std::io::{self, Write};

/// Prints a line on standard error, after the name of the program. A failure is ignored.
macro_rules! message {
    ($($words:tt)*) => {
        $crate::message::line(format_args!("loadgen: {}", format_args!($($words)*)))
    };
}

pub(crate) use message;

/// Prints a line as it is. It is one write: lines of several programs on one stream stay whole.
pub fn line(words: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{words}\n").as_bytes());
}
