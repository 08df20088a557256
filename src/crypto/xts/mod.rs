//! AES-256-XTS (IEEE 1619), one data unit per page.

use crate::Result;

/// An expanded 64-byte XTS key.
pub struct XtsKey {}

impl std::fmt::Debug for XtsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsKey(redacted)")
    }
}

impl XtsKey {
    /// Expands `key`: two independent 256-bit halves. Equal halves are refused.
    pub fn new(_key: &[u8; 64]) -> Result<Self> {
        todo!()
    }

    /// Encrypts whole pages of `src` into `dst` (equal lengths, multiples of 512); the first is page `first_page`.
    pub fn encrypt(&self, _first_page: u64, _src: &[u8], _dst: &mut [u8]) {
        todo!()
    }

    pub fn decrypt_in_place(&self, _first_page: u64, _data: &mut [u8]) {
        todo!()
    }
}
