#![no_main]

#[path = "../harness/nbd_client.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::run(data));
