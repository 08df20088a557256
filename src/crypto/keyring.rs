//! Three levels of keys: KEK -> account key -> one data key per layer. A key is stored only wrapped, bound to where it
//! belongs (`wrap.rs` says how); a wrapped key moved to another layer, disk or account does not unwrap:
//!
//! | purpose | derived from | ids in the info |
//! |---|---|---|
//! | `kek-check` | KEK | account id |
//! | `kek-proof` | KEK | account id |
//! | `account-key-wrap` | KEK | account id, account-key id |
//! | `settings-mac` | account key | account id, account-key id |
//! | `data-key-wrap` | account key | account id, account-key id, disk uuid, layer (u32, little-endian) |
//! | `audit-log-mac` | account key | account id, account-key id |
//! | `disk-mac` | account key | account id, account-key id, disk uuid |
//!
//! While the account key is being replaced, the ring holds the retiring one as well: what is made is made under the
//! current key, what is read may be under either. So a disk can be moved from one to the other in any order and after
//! any crash, and the retiring key goes when no disk needs it.
//!
//! Revocation is dropping: whoever holds a [`KeyRing`] or [`DiskKeys`] lets go of it, and the last clone to go zeroizes
//! the keys. There is no revoked state in which a MAC could still be asked for.

use std::fmt;
use std::sync::{Arc, Weak};

use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::crypto::kek::{DerivedKeys, ProofKey};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::crypto::wrap;
use crate::crypto::xts::{self, XtsKey};
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// An account key as stored: AES-KW of 32 bytes.
pub type WrappedAccountKey = [u8; 40];

/// A data-encryption key as stored: AES-KW of 64 bytes.
pub type WrappedDek = [u8; 72];

/// Bytes of a data-encryption key: the two halves of an AES-256-XTS key.
const DEK_LEN: usize = 64;

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
        Self::generate_as(account, system::uuid()?)
    }

    /// A fresh key for `account`, whose id is `id`.
    pub fn generate_as(account: Uuid, id: Uuid) -> Result<Self> {
        Ok(Self::new(account, id, SecretKey::random()?))
    }

    /// The key `id` of the account of `keys`; [`ErrorKind::Corrupt`] when `wrapped` is anything else under them.
    pub fn unwrap(keys: &DerivedKeys, id: Uuid, wrapped: &WrappedAccountKey) -> Result<Self> {
        let Some(key) = wrap::unwrap(keys.wrapping_key(id)?, wrapped)? else {
            let what = format!("the wrapped account key {id} is damaged, or belongs to another account");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        Ok(Self::new(keys.account(), id, key.try_into()?))
    }

    /// [`ErrorKind::InUse`] when `keys` were not derived for this account key.
    pub fn wrap(&self, keys: &DerivedKeys) -> Result<WrappedAccountKey> {
        let mut wrapped = [0; 40];
        wrap::wrap(keys.wrapping_key(self.0.id)?, self.0.key.expose(), &mut wrapped);
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

    /// HMAC-SHA256 over the concatenation of `parts`, under the key of the account's own metadata.
    pub fn mac(&self, parts: &[&[u8]]) -> Result<[u8; 32]> {
        Ok(wrap::hmac(&self.derive("settings-mac", &[])?, parts))
    }

    /// Constant-time check of [`AccountKey::mac`].
    pub fn verify_mac(&self, parts: &[&[u8]], mac: &[u8; 32]) -> Result<bool> {
        Ok(self.mac(parts)?.ct_eq(mac).into())
    }

    /// The key of the MACs in audit logs. It tells nothing of this one.
    pub fn audit_key(&self) -> Result<AuditKey> {
        Ok(AuditKey { account_key: self.0.id, key: self.derive("audit-log-mac", &[])? })
    }

    fn derive(&self, purpose: &str, ids: &[&[u8]]) -> Result<SecretKey> {
        let ids: Vec<&[u8]> =
            [self.0.account.as_bytes() as &[u8], self.0.id.as_bytes()].into_iter().chain(ids.iter().copied()).collect();
        wrap::derive_key(&self.0.key, purpose, &ids)
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({}, redacted)", self.0.id)
    }
}

/// Makes the MACs of an audit log.
pub struct AuditKey {
    account_key: Uuid,
    key: SecretKey,
}

impl AuditKey {
    /// Id of the account key that it is derived from.
    #[must_use]
    pub fn account_key(&self) -> Uuid {
        self.account_key
    }

    /// HMAC-SHA256 over the chain of a line.
    #[must_use]
    pub fn mac(&self, chain: &[u8; 32]) -> [u8; 32] {
        wrap::hmac(&self.key, &[chain])
    }

    /// Constant-time check of [`AuditKey::mac`].
    #[must_use]
    pub fn verify(&self, chain: &[u8; 32], mac: &[u8; 32]) -> bool {
        self.mac(chain).ct_eq(mac).into()
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({}, redacted)", self.account_key)
    }
}

/// The account keys in force: the current one and, while it is being replaced, the retiring one; and what the KEK that
/// opens them is proven by. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeyRing {
    current: AccountKey,
    retiring: Option<AccountKey>,
    proof: Option<ProofKey>,
}

impl KeyRing {
    /// Keys that no KEK is known of.
    #[must_use]
    pub fn new(current: AccountKey, retiring: Option<AccountKey>) -> Self {
        Self { current, retiring, proof: None }
    }

    /// The same, opened by the KEK that `proof` proves.
    #[must_use]
    pub fn opened_by(self, proof: ProofKey) -> Self {
        Self { proof: Some(proof), ..self }
    }

    /// Whether `check` holds for the proof of the KEK.
    #[must_use]
    pub fn is_proven(&self, check: impl FnOnce(&ProofKey) -> bool) -> bool {
        self.proof.as_ref().is_some_and(check)
    }

    /// The same without the retiring key.
    #[must_use]
    pub fn without_retiring(&self) -> Self {
        Self { retiring: None, ..self.clone() }
    }

    /// The key under which everything new is made.
    #[must_use]
    pub fn current(&self) -> &AccountKey {
        &self.current
    }

    /// Says later whether every clone is gone, and so the keys are zeroized.
    #[must_use]
    pub fn watch(&self) -> KeyWatch {
        KeyWatch(std::iter::once(&self.current).chain(&self.retiring).map(|key| Arc::downgrade(&key.0)).collect())
    }

    /// The key that is being replaced.
    #[must_use]
    pub fn retiring(&self) -> Option<&AccountKey> {
        self.retiring.as_ref()
    }

    /// The keys of audit logs, the current one first.
    pub fn audit_keys(&self) -> Result<Vec<AuditKey>> {
        std::iter::once(&self.current).chain(&self.retiring).map(AccountKey::audit_key).collect()
    }

    /// What the disk `disk` needs.
    pub fn disk_keys(&self, disk: Uuid) -> Result<DiskKeys> {
        Ok(DiskKeys(Arc::new(DiskKeysInner::new(self, disk)?)))
    }
}

/// See [`KeyRing::watch`].
#[derive(Debug)]
pub struct KeyWatch(Vec<Weak<AccountKeyInner>>);

impl KeyWatch {
    #[must_use]
    pub fn all_gone(&self) -> bool {
        self.0.iter().all(|key| key.strong_count() == 0)
    }
}

/// What one disk needs of the account's keys. Cheap to clone; while a clone lives, the account key lives.
#[derive(Clone)]
pub struct DiskKeys(Arc<DiskKeysInner>);

struct DiskKeysInner {
    disk: Uuid,
    current: DiskKey,
    retiring: Option<DiskKey>,
}

/// One account key, for one disk.
struct DiskKey {
    account_key: AccountKey,
    mac_key: SecretKey,
}

impl DiskKey {
    fn new(account_key: &AccountKey, disk: Uuid) -> Result<Self> {
        let mac_key = account_key.derive("disk-mac", &[disk.as_bytes()])?;
        Ok(Self { account_key: account_key.clone(), mac_key })
    }

    fn wrapping_key(&self, disk: Uuid, layer: u32) -> Result<SecretKey> {
        self.account_key.derive("data-key-wrap", &[disk.as_bytes(), &layer.to_le_bytes()])
    }
}

impl DiskKeysInner {
    fn new(ring: &KeyRing, disk: Uuid) -> Result<Self> {
        Ok(Self {
            disk,
            current: DiskKey::new(&ring.current, disk)?,
            retiring: ring.retiring.as_ref().map(|key| DiskKey::new(key, disk)).transpose()?,
        })
    }

    /// Current first: it is the one that fits, but for the short time of a replacement.
    fn all(&self) -> impl Iterator<Item = &DiskKey> {
        std::iter::once(&self.current).chain(&self.retiring)
    }
}

impl DiskKeys {
    /// Keys of no account, random: for temporary disks and tests. What they encrypt is lost with the last clone.
    pub fn ephemeral() -> Result<Self> {
        KeyRing::new(AccountKey::generate(system::uuid()?)?, None).disk_keys(system::uuid()?)
    }

    /// Id of the account key under which this disk's new data keys are wrapped and its MACs are made.
    #[must_use]
    pub fn account_key_id(&self) -> Uuid {
        self.0.current.account_key.id()
    }

    /// These keys without the retiring account key, for a disk that needs it no more.
    pub fn without_retiring(&self) -> Result<Self> {
        KeyRing::new(self.0.current.account_key.clone(), None).disk_keys(self.0.disk)
    }

    /// Whether the account key `id` is one of these.
    #[must_use]
    pub fn knows(&self, id: Uuid) -> bool {
        self.0.all().any(|key| key.account_key.id() == id)
    }

    /// A fresh data key for layer `layer`, expanded, and its wrapped form, bound to account, disk, layer and purpose.
    pub fn generate(&self, layer: u32) -> Result<(XtsKey, WrappedDek)> {
        let key = SecretBytes::random(DEK_LEN)?;
        Ok((expand(&key)?, self.wrap(layer, &key)?))
    }

    /// The data key of `layer`; [`ErrorKind::Corrupt`] when it was wrapped for anything else.
    pub fn unwrap(&self, layer: u32, wrapped: &WrappedDek) -> Result<XtsKey> {
        expand(&self.reveal(layer, wrapped)?)
    }

    /// The 64 bytes of the data key of `layer` themselves, for an auditor.
    pub fn reveal(&self, layer: u32, wrapped: &WrappedDek) -> Result<SecretBytes> {
        for key in self.0.all() {
            if let Some(dek) = wrap::unwrap(&key.wrapping_key(self.0.disk, layer)?, wrapped)? {
                return Ok(dek);
            }
        }
        let what = format!("the wrapped data key of layer {layer} is damaged, or belongs to another layer or disk");
        Err(Error::new(ErrorKind::Corrupt, what))
    }

    /// The same data key wrapped under the current account key, whichever it was wrapped under.
    pub fn rewrap(&self, layer: u32, wrapped: &WrappedDek) -> Result<WrappedDek> {
        self.wrap(layer, &self.reveal(layer, wrapped)?)
    }

    /// HMAC-SHA256 over the concatenation of `parts`, under this disk's metadata key. Framing is the caller's.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        wrap::hmac(&self.0.current.mac_key, parts)
    }

    /// Constant-time check of [`DiskKeys::mac`], by whichever account key it was made.
    #[must_use]
    pub fn verify_mac(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.0.all().any(|key| wrap::hmac(&key.mac_key, parts).ct_eq(mac).into())
    }

    fn wrap(&self, layer: u32, key: &SecretBytes) -> Result<WrappedDek> {
        let mut wrapped = [0; 72];
        wrap::wrap(&self.0.current.wrapping_key(self.0.disk, layer)?, key.expose(), &mut wrapped);
        Ok(wrapped)
    }
}

fn expand(key: &SecretBytes) -> Result<XtsKey> {
    let expanded = XtsKey::new(key.expose().first_chunk().expect("a data key has 64 bytes"));
    xts::wipe_stack();
    expanded
}

impl fmt::Debug for DiskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskKeys(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kek::Kek;

    fn dek() -> SecretBytes {
        let bytes: Vec<u8> = (0..64).collect();
        SecretBytes::copy_of(&bytes).unwrap()
    }

    /// An account key with fixed bytes and ids.
    fn fixed(account: u8, id: u8, key: u8) -> AccountKey {
        AccountKey::new(Uuid::from_bytes([account; 16]), Uuid::from_bytes([id; 16]), SecretKey::filled(key))
    }

    fn derived(kek: u8, account: Uuid, id: Uuid) -> DerivedKeys {
        Kek::new(SecretKey::filled(kek)).derive_for(account, [id]).unwrap()
    }

    fn disk_keys(key: &AccountKey, disk: u8) -> DiskKeys {
        KeyRing::new(key.clone(), None).disk_keys(Uuid::from_bytes([disk; 16])).unwrap()
    }

    /// HKDF-SHA256, AES-KW and HMAC by Python's `cryptography` and `hmac`: what is on disk stays readable.
    #[test]
    fn stored_forms_match_an_independent_implementation() {
        let key = fixed(0x11, 0x22, 0x44);
        assert_eq!(
            hex::encode(key.wrap(&derived(0x55, key.account(), key.id())).unwrap()),
            "f8f2e38d8102fc55389c0aca114fd5ab829d5454f891e0f58373d316d7667ce4ca5fb4861ad16b6f"
        );
        assert_eq!(
            hex::encode(key.mac(&[b"some ", b"parts"]).unwrap()),
            "ab942286ae804f4933b3cbf3812367e10242caf110e7ffdd793aad329f05deef"
        );
        let keys = disk_keys(&key, 0x33);
        assert_eq!(
            hex::encode(keys.wrap(7, &dek()).unwrap()),
            "8faa81c796cf9df0b760279521f58cf20a4613ad0330bebcc304f0e34ffd7860d94369441bf4cb2a\
             6f6020f059a323cefc66e0fecae4a3f08b53b8a2f4daebbd4c10a0954f8bac3f"
        );
        assert_eq!(
            hex::encode(keys.mac(&[b"some ", b"parts"])),
            "baffdc62d2a331b07b86d87c6711442cb58fdf508ee6bd7922fede57fe5acc57"
        );
    }

    #[test]
    fn an_account_key_opens_under_its_kek_id_and_account_only() {
        let key = AccountKey::generate(Uuid::new_v4()).unwrap();
        let wrapped = key.wrap(&derived(1, key.account(), key.id())).unwrap();
        let back = AccountKey::unwrap(&derived(1, key.account(), key.id()), key.id(), &wrapped).unwrap();
        assert_eq!(back.0.key, key.0.key);
        for (kek, account, id) in
            [(2, key.account(), key.id()), (1, Uuid::new_v4(), key.id()), (1, key.account(), Uuid::new_v4())]
        {
            let error = AccountKey::unwrap(&derived(kek, account, id), id, &wrapped).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_data_key_moved_elsewhere_does_not_unwrap() {
        let key = fixed(1, 2, 3);
        let keys = disk_keys(&key, 4);
        let wrapped = keys.wrap(7, &dek()).unwrap();
        assert_eq!(keys.reveal(7, &wrapped).unwrap().expose(), dek().expose());
        let elsewhere = [
            (disk_keys(&key, 4), 8),
            (disk_keys(&key, 5), 7),
            (disk_keys(&fixed(9, 2, 3), 4), 7),
            (disk_keys(&fixed(1, 9, 3), 4), 7),
            (disk_keys(&fixed(1, 2, 9), 4), 7),
        ];
        for (keys, layer) in elsewhere {
            assert_eq!(keys.reveal(layer, &wrapped).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_key_is_refused() {
        let keys = DiskKeys::ephemeral().unwrap();
        let wrapped = keys.wrap(1, &dek()).unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut damaged = wrapped;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.reveal(1, &damaged).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
        }
    }

    #[test]
    fn macs_of_different_disks_and_contents_differ() {
        let key = AccountKey::generate(Uuid::new_v4()).unwrap();
        let (a, b) = (disk_keys(&key, 1), disk_keys(&key, 2));
        let mac = a.mac(&[b"some ", b"parts"]);
        assert!(a.verify_mac(&[b"some parts"], &mac));
        assert!(!a.verify_mac(&[b"some part"], &mac));
        assert!(!b.verify_mac(&[b"some parts"], &mac));
    }

    /// Both keys read, only the current one makes; when the retiring one is gone, what it made is refused.
    #[test]
    fn old_and_new_account_keys_coexist_until_the_old_one_goes() {
        let (old, new, disk) = (fixed(1, 2, 3), fixed(1, 4, 5), Uuid::from_bytes([6; 16]));
        let before = KeyRing::new(old.clone(), None).disk_keys(disk).unwrap();
        let during = KeyRing::new(new.clone(), Some(old)).disk_keys(disk).unwrap();
        let after = KeyRing::new(new.clone(), None).disk_keys(disk).unwrap();

        let (wrapped, mac) = (before.wrap(1, &dek()).unwrap(), before.mac(&[b"x"]));
        assert_eq!(during.account_key_id(), new.id());
        assert_eq!(during.reveal(1, &wrapped).unwrap().expose(), dek().expose());
        assert!(during.verify_mac(&[b"x"], &mac));

        let (rewrapped, remade) = (during.rewrap(1, &wrapped).unwrap(), during.mac(&[b"x"]));
        assert_eq!(after.reveal(1, &rewrapped).unwrap().expose(), dek().expose());
        assert!(after.verify_mac(&[b"x"], &remade));
        assert!(!after.verify_mac(&[b"x"], &mac));
        assert_eq!(after.reveal(1, &wrapped).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(before.reveal(1, &rewrapped).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_watch_tells_when_the_last_clone_is_gone() {
        let ring = KeyRing::new(fixed(1, 2, 3), Some(fixed(1, 4, 5)));
        let (watch, keys) = (ring.watch(), ring.disk_keys(Uuid::nil()).unwrap());
        let again = keys.clone();
        for held in [Box::new(ring) as Box<dyn std::any::Any>, Box::new(keys)] {
            drop(held);
            assert!(!watch.all_gone());
        }
        drop(again);
        assert!(watch.all_gone());
    }

    #[test]
    fn a_generated_data_key_encrypts_as_its_wrapped_form_does() {
        let keys = DiskKeys::ephemeral().unwrap();
        let (made, wrapped) = keys.generate(3).unwrap();
        let back = keys.unwrap(3, &wrapped).unwrap();
        let (page, mut sealed) = ([7; crate::PAGE], [0; crate::PAGE]);
        made.encrypt(11, &page, &mut sealed);
        assert_ne!(page, sealed);
        back.decrypt_in_place(11, &mut sealed);
        assert_eq!(page, sealed);
    }

    #[test]
    fn debug_shows_no_key() {
        let key = fixed(0, 0, 0xAB);
        let ring = KeyRing::new(key.clone(), Some(key.clone()));
        let shown = format!("{key:?} {ring:?} {:?}", disk_keys(&key, 0));
        for spelling in ["171", "ab, ab", "abab", "ABAB", "0xab"] {
            assert!(!shown.contains(spelling), "{shown}");
        }
    }
}
