//! What people say in chat.

#![no_main]

#[path = "../checks/chat.rs"]
mod chat;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    chat::check(bytes);
});
