//! Banner: one text on connect.

use crate::service::{Arrival, Context, Service};
use crate::services::Language;
use crate::slots::ConnId;

/// Sends a text and CRLF on connect, then closes. Input is discarded.
#[derive(Debug)]
pub struct Banner {
    text: Vec<u8>,
}

impl Banner {
    /// A banner with this text, without a line ending.
    pub fn new(text: impl Into<Vec<u8>>) -> Banner {
        let mut text = text.into();
        text.extend_from_slice(b"\r\n");
        Banner { text }
    }
}

impl Service for Banner {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.send(conn, &self.text);
        cx.close(conn);
    }
}

/// The default text.
pub fn default_text(language: Language) -> &'static str {
    match language {
        Language::English => "Welcome to tidewheel!",
        Language::Chinese => "欢迎访问菜鸟教程！",
    }
}
