//! What a run did to its disks, in one number: every call with its operation, file, offset and length, and the CRC32C
//! of the bytes of every write. Two runs of one seed have the same digest only if they made the same calls in the same
//! order.
//!
//! A digest belongs to the thread, as what a run draws does (see `seeded.rs`): it has the calls to every disk that the
//! work holds, to those that crashes left as well, and so its recoveries.

use std::cell::Cell;

/// FNV-1a of 64 bits (RFC 9923) over the calls so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

thread_local! {
    static UNDER_WAY: Cell<Option<Digest>> = const { Cell::new(None) };
}

impl Digest {
    /// Of no call.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Takes in what was done next.
    pub fn add(&mut self, what: &str) {
        // The end of each is a byte of its own, so that no two sequences look alike.
        for byte in what.bytes().chain([b'\n']) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Runs `work` and answers also the digest of all calls that it made on this thread. Not to be nested.
pub fn digested<R>(work: impl FnOnce() -> R) -> (R, Digest) {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            UNDER_WAY.set(None);
        }
    }
    let _stop = Stop;
    assert_eq!(UNDER_WAY.replace(Some(Digest::EMPTY)), None, "one digest at a time");
    let done = work();
    (done, UNDER_WAY.get().expect("begun here"))
}

/// Has `take` take something into the digest, if one is under way.
pub(super) fn note(take: impl FnOnce(&mut Digest)) {
    if let Some(mut digest) = UNDER_WAY.get() {
        take(&mut digest);
        UNDER_WAY.set(Some(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Open;
    use crate::io::sim::{SimDisk, direct};

    fn of_two_writes(first: &[u8], second: &[u8]) -> Digest {
        let write = || {
            let file = SimDisk::new(1).root().open("a", Open::New).unwrap();
            file.write_at(first, 0).unwrap();
            file.write_at(second, 0).unwrap();
        };
        digested(|| direct(write)).1
    }

    #[test]
    fn a_digest_tells_bytes_and_order() {
        assert_eq!(of_two_writes(b"one", b"two"), of_two_writes(b"one", b"two"));
        assert_ne!(of_two_writes(b"one", b"two"), of_two_writes(b"two", b"one"));
        assert_ne!(of_two_writes(b"one", b"two"), of_two_writes(b"one", b"twa"));
        assert_eq!(digested(|| ()).1, Digest::EMPTY);
    }
}
