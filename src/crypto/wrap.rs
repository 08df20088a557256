//! The two primitives under the key hierarchy: keys derived from keys, and keys wrapped under keys.
//!
//! What wraps a key is never the upper key itself but a key derived from it (HKDF-SHA256, RFC 5869, no salt) whose info
//! names the purpose and every id the wrapped key belongs to: `sealdisk/1 PURPOSE`, a zero byte, the ids. The ids of a
//! purpose have fixed widths, so the info is unambiguous.

use aes_kw::{KeyInit as _, KwAes256};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::Result;
use crate::crypto::secret::{SecretBytes, SecretKey};

/// Bytes that wrapping adds.
pub(super) const OVERHEAD: usize = aes_kw::IV_LEN;

/// HKDF-SHA256 of `secret` for one purpose.
pub(super) fn derive(secret: &SecretKey, purpose: &str, ids: &[&[u8]], out: &mut [u8]) {
    let mut info: Vec<&[u8]> = vec![b"sealdisk/1 ", purpose.as_bytes(), &[0]];
    info.extend_from_slice(ids);
    Hkdf::<Sha256>::new(None, secret.expose())
        .expand_multi_info(&info, out)
        .expect("a few blocks are asked for, HKDF-SHA256 gives 255");
}

/// [`derive`] straight into secret memory.
pub(super) fn derive_key(secret: &SecretKey, purpose: &str, ids: &[&[u8]]) -> Result<SecretKey> {
    SecretKey::fill_with(|out| {
        derive(secret, purpose, ids, out);
        Ok(())
    })
}

/// AES-256-KW (RFC 3394) of `key`, a multiple of 8 bytes, into `out`, [`OVERHEAD`] longer.
pub(super) fn wrap(wrapping: &SecretKey, key: &[u8], out: &mut [u8]) {
    KwAes256::new(wrapping.expose().into()).wrap_key(key, out).expect("whole semiblocks and room for one more");
}

/// The key in `wrapped`; `None`: wrapped under another key, or damaged.
pub(super) fn unwrap(wrapping: &SecretKey, wrapped: &[u8]) -> Result<Option<SecretBytes>> {
    let mut key = SecretBytes::zeroed(wrapped.len() - OVERHEAD)?;
    let fits = KwAes256::new(wrapping.expose().into()).unwrap_key(wrapped, key.expose_mut()).is_ok();
    Ok(fits.then_some(key))
}

/// HMAC-SHA256 over the concatenation of `parts`.
pub(super) fn hmac(key: &SecretKey, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(from: u8) -> SecretKey {
        let bytes: Vec<u8> = (from..from + 32).collect();
        SecretKey::try_from(SecretBytes::copy_of(&bytes).unwrap()).unwrap()
    }

    /// RFC 3394, section 4.6: 256 bits of key data under a 256-bit KEK.
    #[test]
    fn key_wrap_matches_rfc_3394() {
        let key = hex::decode("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F").unwrap();
        let expected =
            hex::decode("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21").unwrap();
        let mut wrapped = [0; 40];
        wrap(&counting(0), &key, &mut wrapped);
        assert_eq!(wrapped, expected[..]);
        assert_eq!(unwrap(&counting(0), &wrapped).unwrap().unwrap().expose(), key);
        assert!(unwrap(&counting(1), &wrapped).unwrap().is_none());
    }

    /// Computed with HKDF of Python's `cryptography` over `sealdisk/1 test-purpose`, a zero byte, `onetwo`.
    #[test]
    fn derivation_matches_an_independent_implementation() {
        let expected = "eb1897ac8618b3cc1d548d72ac5bf5b7badfa1ab87c3f39e1b979ea3a942f1e5\
                        28d7ea3e1a2cbc737104c212df8c4979a023837a77dc84d45b12df0a981a0f0d";
        let mut derived = [0; 64];
        derive(&counting(0), "test-purpose", &[b"one", b"two"], &mut derived);
        assert_eq!(hex::encode(derived), expected);
    }

    #[test]
    fn a_mac_covers_the_parts_one_after_another() {
        assert_eq!(hmac(&counting(0), &[b"some ", b"", b"parts"]), hmac(&counting(0), &[b"some parts"]));
        assert_ne!(hmac(&counting(0), &[b"some parts"]), hmac(&counting(1), &[b"some parts"]));
    }
}
