//! Requests of HTTP.

#![no_main]

#[path = "../checks/cuts.rs"]
mod cuts;
#[path = "../checks/http.rs"]
mod http;
#[path = "../checks/responses.rs"]
#[allow(dead_code, reason = "the tests on sockets use the rest")]
mod responses;
#[path = "../checks/uri.rs"]
mod uri;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    http::check(bytes);
});
