//! What a run did to its disk, in one number: every call with its operation, file, offset and length, and the CRC32C of
//! the bytes of every write. Two runs of one seed have the same digest only if they made the same calls in the same
//! order.

/// FNV-1a of 64 bits (RFC 9923) over the calls so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

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

    /// Takes in the bytes of a write.
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(&format!("{:08x}", crc32c::crc32c(bytes)));
    }
}
