//! Lines and pauses.

#![no_main]

#[path = "../checks/cuts.rs"]
mod cuts;
#[path = "../checks/framing.rs"]
mod framing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| framing::check(bytes));
