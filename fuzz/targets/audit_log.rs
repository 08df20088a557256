#![no_main]

#[allow(dead_code, reason = "targets share their harness")]
#[path = "../harness/stored.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::audit_log::run(data));
