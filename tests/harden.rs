//! The hardened process, in a process of its own as it cannot be undone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::os::fd::AsRawFd;

use sealdisk::crypto::harden;
use sealdisk::crypto::kek::{Kek, KekSource, KeyFd};
use sealdisk::crypto::secret::SecretKey;

#[test]
fn no_core_file_no_onlooker_and_descriptors_still_readable() {
    harden::process().unwrap();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);

    // An undumpable process owns no /proc entry of its own any more; reading its descriptors through it must still
    // work.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 32]).unwrap();
    let fd = KeyFd::new(file.as_raw_fd().try_into().unwrap());
    let key = SecretKey::fill_with(|bytes| {
        bytes.fill(7);
        Ok(())
    });
    assert_eq!(fd.obtain().unwrap(), Kek::new(key.unwrap()));
}
