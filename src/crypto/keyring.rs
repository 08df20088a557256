//! Three levels of keys: KEK -> account key -> one data key per layer.
//!
//! A key is stored only wrapped (AES-KW, RFC 3394). What wraps it is never the upper key itself but a key derived from
//! it (HKDF-SHA256, RFC 5869, no salt) whose info names the purpose and every id the wrapped key belongs to. So a
//! wrapped key moved to another layer, disk or account does not unwrap, and no key serves two purposes:
//!
//! | purpose | derived from | info after `sealdisk/1 PURPOSE` and a zero byte |
//! |---|---|---|
//! | `kek-check` | KEK | account id |
//! | `account-key-wrap` | KEK | account id, account-key id |
//! | `settings-mac` | account key | account id, account-key id |
//! | `data-key-wrap` | account key | account id, account-key id, disk uuid, layer (u32, little-endian) |
//! | `disk-mac` | account key | account id, account-key id, disk uuid |
//!
//! Revocation is dropping: whoever holds an [`AccountKey`] or [`DiskKeys`] lets go of it, and the last clone to go
//! zeroizes the key. There is no revoked state in which a MAC could still be asked for.

use std::fmt;
use std::sync::Arc;

use aes_kw::{KeyInit as _, KwAes256};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::crypto::xts::XtsKey;
use crate::{Error, ErrorKind, Result};

/// An account key as stored: AES-KW of 32 bytes.
pub type WrappedAccountKey = [u8; 40];

/// A data-encryption key as stored: AES-KW of 64 bytes.
pub type WrappedDek = [u8; 72];

/// Tells a KEK that does not fit from a wrapped key that is damaged.
pub type KeyCheck = [u8; 16];

/// Bytes of a data-encryption key: the two halves of an AES-256-XTS key.
const DEK_LEN: usize = 64;

/// HKDF-SHA256 of `secret` for one purpose; `ids` are of fixed width for a given purpose, so the info is unambiguous.
fn derive(secret: &SecretKey, purpose: &str, ids: &[&[u8]], out: &mut [u8]) {
    let mut info: Vec<&[u8]> = vec![b"sealdisk/1 ", purpose.as_bytes(), &[0]];
    info.extend_from_slice(ids);
    Hkdf::<Sha256>::new(None, secret.expose())
        .expand_multi_info(&info, out)
        .expect("one block is asked for, HKDF-SHA256 gives 255");
}

fn derive_key(secret: &SecretKey, purpose: &str, ids: &[&[u8]]) -> Result<SecretKey> {
    SecretKey::fill_with(|out| {
        derive(secret, purpose, ids, out);
        Ok(())
    })
}

fn wrap(wrapping: &SecretKey, key: &[u8], out: &mut [u8]) {
    KwAes256::new(wrapping.expose().into()).wrap_key(key, out).expect("whole semiblocks and room for one more");
}

/// `None`: wrapped under another key, or damaged.
fn unwrap(wrapping: &SecretKey, wrapped: &[u8]) -> Result<Option<SecretBytes>> {
    let mut key = SecretBytes::zeroed(wrapped.len() - aes_kw::IV_LEN)?;
    let fits = KwAes256::new(wrapping.expose().into()).unwrap_key(wrapped, key.expose_mut()).is_ok();
    Ok(fits.then_some(key))
}

fn hmac(key: &SecretKey, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The key-encryption key: the owner's. It never reaches a file of ours. Cheap to clone.
#[derive(Clone)]
pub struct Kek(Arc<SecretKey>);

impl Kek {
    #[must_use]
    pub fn new(key: SecretKey) -> Self {
        Self(Arc::new(key))
    }

    /// The key itself, to hand it to the process that serves the account.
    #[must_use]
    pub fn expose(&self) -> &[u8; SecretKey::LEN] {
        self.0.expose()
    }

    /// A value that may be stored in the open and says whether a KEK is the one of `account`.
    #[must_use]
    pub fn check_value(&self, account: Uuid) -> KeyCheck {
        let mut check = KeyCheck::default();
        derive(&self.0, "kek-check", &[account.as_bytes()], &mut check);
        check
    }

    /// Constant-time check of [`Kek::check_value`].
    #[must_use]
    pub fn fits(&self, account: Uuid, check: &KeyCheck) -> bool {
        self.check_value(account).ct_eq(check).into()
    }

    fn wrapping_key(&self, account: Uuid, id: Uuid) -> Result<SecretKey> {
        derive_key(&self.0, "account-key-wrap", &[account.as_bytes(), id.as_bytes()])
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(redacted)")
    }
}

/// The key between the owner's KEK and the data keys. Cheap to clone; the last clone to go zeroizes it.
#[derive(Clone)]
pub struct AccountKey(Arc<AccountKeyInner>);

struct AccountKeyInner {
    account: Uuid,
    id: Uuid,
    key: SecretKey,
}

impl AccountKey {
    fn new(account: Uuid, id: Uuid, key: SecretKey) -> Self {
        Self(Arc::new(AccountKeyInner { account, id, key }))
    }

    /// A fresh key for `account`.
    pub fn generate(account: Uuid) -> Result<Self> {
        Ok(Self::new(account, Uuid::new_v4(), SecretKey::random()?))
    }

    /// The key `id` of `account`; [`ErrorKind::Corrupt`] when `wrapped` is anything else under this KEK.
    pub fn unwrap(kek: &Kek, account: Uuid, id: Uuid, wrapped: &WrappedAccountKey) -> Result<Self> {
        let Some(key) = unwrap(&kek.wrapping_key(account, id)?, wrapped)? else {
            let what = format!("the wrapped account key {id} is damaged, or belongs to another account");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        Ok(Self::new(account, id, key.try_into()?))
    }

    pub fn wrap(&self, kek: &Kek) -> Result<WrappedAccountKey> {
        let mut wrapped = [0; 40];
        wrap(&kek.wrapping_key(self.0.account, self.0.id)?, self.0.key.expose(), &mut wrapped);
        Ok(wrapped)
    }

    #[must_use]
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Id of the account it belongs to.
    #[must_use]
    pub fn account(&self) -> Uuid {
        self.0.account
    }

    /// What the disk `disk` needs.
    pub fn disk_keys(&self, disk: Uuid) -> Result<DiskKeys> {
        Ok(DiskKeys(Arc::new(DiskKeysInner::new(self.clone(), disk)?)))
    }

    fn settings_mac_key(&self) -> Result<SecretKey> {
        derive_key(&self.0.key, "settings-mac", &[self.0.account.as_bytes(), self.0.id.as_bytes()])
    }

    /// HMAC-SHA256 over the concatenation of `parts`, under the account's own metadata key.
    pub fn mac(&self, parts: &[&[u8]]) -> Result<[u8; 32]> {
        Ok(hmac(&self.settings_mac_key()?, parts))
    }

    /// Constant-time check of [`AccountKey::mac`].
    pub fn verify_mac(&self, parts: &[&[u8]], mac: &[u8; 32]) -> Result<bool> {
        Ok(self.mac(parts)?.ct_eq(mac).into())
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({}, redacted)", self.0.id)
    }
}

/// What one disk needs of the account's keys. Cheap to clone; while a clone lives, the account key lives.
#[derive(Clone)]
pub struct DiskKeys(Arc<DiskKeysInner>);

struct DiskKeysInner {
    account_key: AccountKey,
    disk: Uuid,
    mac_key: SecretKey,
    /// Data keys made so far where they are fixed by a seed, so that a simulated run can be repeated.
    #[cfg(feature = "sim")]
    seeded: Option<std::sync::atomic::AtomicU64>,
}

impl DiskKeysInner {
    fn new(account_key: AccountKey, disk: Uuid) -> Result<Self> {
        let AccountKeyInner { account, id, key } = &*account_key.0;
        let mac_key = derive_key(key, "disk-mac", &[account.as_bytes(), id.as_bytes(), disk.as_bytes()])?;
        Ok(Self {
            account_key,
            disk,
            mac_key,
            #[cfg(feature = "sim")]
            seeded: None,
        })
    }
}

impl DiskKeys {
    /// Keys of no account, random: for temporary disks and tests. What they encrypt is lost with the last clone.
    pub fn ephemeral() -> Result<Self> {
        AccountKey::generate(Uuid::new_v4())?.disk_keys(Uuid::new_v4())
    }

    /// Keys fixed by `seed`; so are the data keys made with them, in order.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn for_simulation(seed: u64) -> Self {
        let id = Uuid::from_u64_pair(0x5345_414c, seed);
        let key = SecretKey::fill_with(|bytes| {
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            Ok(())
        })
        .expect("memory for a simulated key");
        let mut keys = DiskKeysInner::new(AccountKey::new(id, id, key), id).expect("memory for a simulated key");
        keys.seeded = Some(0.into());
        Self(Arc::new(keys))
    }

    /// Id of the account key that wraps this disk's data keys.
    #[must_use]
    pub fn account_key_id(&self) -> Uuid {
        self.0.account_key.id()
    }

    /// A fresh data key for layer `layer`, expanded, and its wrapped form, bound to account, disk, layer and purpose.
    pub fn generate(&self, layer: u32) -> Result<(XtsKey, WrappedDek)> {
        let key = SecretBytes::random(DEK_LEN)?;
        #[cfg(feature = "sim")]
        let key = self.seeded_or(layer, key);
        Ok((expand(&key)?, self.wrap(layer, &key)?))
    }

    /// The data key of `layer`; [`ErrorKind::Corrupt`] when it was wrapped for anything else.
    pub fn unwrap(&self, layer: u32, wrapped: &WrappedDek) -> Result<XtsKey> {
        expand(&self.reveal(layer, wrapped)?)
    }

    /// The 64 bytes of the data key of `layer` themselves, for an auditor or for wrapping them anew.
    pub fn reveal(&self, layer: u32, wrapped: &WrappedDek) -> Result<SecretBytes> {
        unwrap(&self.wrapping_key(layer)?, wrapped)?.ok_or_else(|| {
            let what = format!("the wrapped data key of layer {layer} is damaged, or belongs to another layer or disk");
            Error::new(ErrorKind::Corrupt, what)
        })
    }

    /// A data key that [`DiskKeys::reveal`] of the same disk gave, under this account key.
    pub fn wrap(&self, layer: u32, key: &SecretBytes) -> Result<WrappedDek> {
        if key.len() != DEK_LEN {
            let what = format!("a data key has {DEK_LEN} bytes, this has {}", key.len());
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let mut wrapped = [0; 72];
        wrap(&self.wrapping_key(layer)?, key.expose(), &mut wrapped);
        Ok(wrapped)
    }

    /// HMAC-SHA256 over the concatenation of `parts`, under this disk's metadata key. Framing is the caller's.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(&self.0.mac_key, parts)
    }

    /// Constant-time check of [`DiskKeys::mac`].
    #[must_use]
    pub fn verify_mac(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.mac(parts).ct_eq(mac).into()
    }

    fn wrapping_key(&self, layer: u32) -> Result<SecretKey> {
        let AccountKeyInner { account, id, key } = &*self.0.account_key.0;
        let layer = layer.to_le_bytes();
        derive_key(key, "data-key-wrap", &[account.as_bytes(), id.as_bytes(), self.0.disk.as_bytes(), &layer])
    }

    #[cfg(feature = "sim")]
    fn seeded_or(&self, layer: u32, mut key: SecretBytes) -> SecretBytes {
        if let Some(made) = &self.0.seeded {
            let made = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_le_bytes();
            derive(&self.0.account_key.0.key, "simulated-data-key", &[&layer.to_le_bytes(), &made], key.expose_mut());
        }
        key
    }
}

fn expand(key: &SecretBytes) -> Result<XtsKey> {
    XtsKey::new(key.expose().first_chunk().expect("a data key has 64 bytes"))
}

impl fmt::Debug for DiskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskKeys(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(byte: u8) -> SecretKey {
        SecretKey::fill_with(|bytes| {
            bytes.fill(byte);
            Ok(())
        })
        .unwrap()
    }

    fn dek_of(byte: u8) -> SecretBytes {
        SecretBytes::copy_of(&[byte; DEK_LEN]).unwrap()
    }

    /// RFC 3394, section 4.6: 256 bits of key data under a 256-bit KEK.
    #[test]
    fn key_wrap_matches_rfc_3394() {
        let kek: Vec<u8> = (0x00..=0x1F).collect();
        let kek = SecretKey::try_from(SecretBytes::copy_of(&kek).unwrap()).unwrap();
        let key = hex::decode("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F").unwrap();
        let expected =
            hex::decode("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21").unwrap();
        let mut wrapped = [0; 40];
        wrap(&kek, &key, &mut wrapped);
        assert_eq!(wrapped, expected[..]);
        assert_eq!(unwrap(&kek, &wrapped).unwrap().unwrap().expose(), key);
    }

    #[test]
    fn an_account_key_opens_under_its_kek_id_and_account_only() {
        let (kek, other) = (Kek::new(key_of(1)), Kek::new(key_of(2)));
        let account = Uuid::new_v4();
        let key = AccountKey::generate(account).unwrap();
        let wrapped = key.wrap(&kek).unwrap();
        let back = AccountKey::unwrap(&kek, account, key.id(), &wrapped).unwrap();
        assert_eq!(back.0.key, key.0.key);
        for (kek, account, id) in
            [(&other, account, key.id()), (&kek, Uuid::new_v4(), key.id()), (&kek, account, Uuid::new_v4())]
        {
            let error = AccountKey::unwrap(kek, account, id, &wrapped).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_check_value_tells_keks_and_accounts_apart() {
        let (kek, account) = (Kek::new(key_of(1)), Uuid::new_v4());
        let check = kek.check_value(account);
        assert!(kek.fits(account, &check));
        assert!(!kek.fits(Uuid::new_v4(), &check));
        assert!(!Kek::new(key_of(2)).fits(account, &check));
    }

    #[test]
    fn a_data_key_moved_elsewhere_does_not_unwrap() {
        let account = AccountKey::generate(Uuid::new_v4()).unwrap();
        let disk = Uuid::new_v4();
        let keys = account.disk_keys(disk).unwrap();
        let wrapped = keys.wrap(7, &dek_of(9)).unwrap();
        assert_eq!(keys.reveal(7, &wrapped).unwrap().expose(), [9; DEK_LEN]);

        let other_disk = account.disk_keys(Uuid::new_v4()).unwrap();
        let other_key = AccountKey::generate(account.account()).unwrap().disk_keys(disk).unwrap();
        let other_account = AccountKey::new(Uuid::new_v4(), account.id(), key_of(3)).disk_keys(disk).unwrap();
        for (keys, layer) in [(&keys, 8), (&other_disk, 7), (&other_key, 7), (&other_account, 7)] {
            assert_eq!(keys.reveal(layer, &wrapped).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_key_is_refused() {
        let keys = DiskKeys::ephemeral().unwrap();
        let wrapped = keys.wrap(1, &dek_of(5)).unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut damaged = wrapped;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.reveal(1, &damaged).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
        }
    }

    #[test]
    fn macs_of_different_disks_and_contents_differ() {
        let account = AccountKey::generate(Uuid::new_v4()).unwrap();
        let (a, b) = (account.disk_keys(Uuid::new_v4()).unwrap(), account.disk_keys(Uuid::new_v4()).unwrap());
        let mac = a.mac(&[b"some ", b"parts"]);
        assert_eq!(mac, a.mac(&[b"some parts"]));
        assert!(a.verify_mac(&[b"some parts"], &mac));
        assert!(!a.verify_mac(&[b"some part"], &mac));
        assert!(!b.verify_mac(&[b"some parts"], &mac));
    }

    #[test]
    fn debug_shows_no_key() {
        let account = AccountKey::new(Uuid::nil(), Uuid::nil(), key_of(0xAB));
        let keys = account.disk_keys(Uuid::nil()).unwrap();
        let shown = format!("{:?} {:?} {:?}", Kek::new(key_of(0xAB)), account, keys);
        for spelling in ["171", "ab, ab", "abab", "ABAB", "0xab"] {
            assert!(!shown.contains(spelling), "{shown}");
        }
    }

    #[cfg(feature = "sim")]
    #[test]
    fn simulated_keys_are_fixed_by_their_seed() {
        let data_key = |seed, layer| {
            let keys = DiskKeys::for_simulation(seed);
            keys.seeded_or(layer, SecretBytes::random(DEK_LEN).unwrap()).expose().to_vec()
        };
        assert_eq!(data_key(1, 2), data_key(1, 2));
        assert_ne!(data_key(1, 2), data_key(1, 3));
        assert_ne!(data_key(1, 2), data_key(2, 2));
    }
}
