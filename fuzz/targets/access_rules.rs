#![no_main]

#[path = "../harness/access_rules.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::run(data));
