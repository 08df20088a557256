#![no_main]

#[path = "../harness/nbd_transmission.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::run(data));
