//! Three levels of keys: KEK -> account key -> one data key per layer.

use uuid::Uuid;

use crate::Result;
use crate::crypto::xts::XtsKey;

/// A data-encryption key as stored: AES-KW of 64 bytes.
pub type WrappedDek = [u8; 72];

/// What one disk needs of the account's keys. Debug is redacted.
pub struct DiskKeys {}

impl DiskKeys {
    /// Id of the account key that wraps this disk's data keys.
    pub fn account_key_id(&self) -> Uuid {
        todo!()
    }
    /// A fresh data key for layer `layer`, expanded, and its wrapped form, bound to account, disk, layer and purpose.
    pub fn generate(&self, _layer: u32) -> Result<(XtsKey, WrappedDek)> {
        todo!()
    }
    /// The data key of `layer`; [`crate::ErrorKind::Corrupt`] when it was wrapped for anything else.
    pub fn unwrap(&self, _layer: u32, _wrapped: &WrappedDek) -> Result<XtsKey> {
        todo!()
    }
    /// HMAC-SHA256 over the concatenation of `parts`, under this disk's metadata key.
    pub fn mac(&self, _parts: &[&[u8]]) -> [u8; 32] {
        todo!()
    }
    /// Constant-time check of [`DiskKeys::mac`].
    pub fn verify_mac(&self, _parts: &[&[u8]], _mac: &[u8; 32]) -> bool {
        todo!()
    }
}

impl std::fmt::Debug for DiskKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskKeys(redacted)")
    }
}
