//! The three levels of keys, by docs/security.md: HKDF-SHA256, AES-KW and AES-256-XTS of OpenSSL.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use openssl::aes::{AesKey, unwrap_key};
use openssl::md::Md;
use openssl::pkey::Id;
use openssl::pkey_ctx::PkeyCtx;
use openssl::symm::{Cipher, decrypt as decrypt_all};
use uuid::Uuid;

use super::PAGE;

pub(super) struct AccountKeys {
    account: Uuid,
    keys: BTreeMap<Uuid, [u8; 32]>,
}

fn derive(key: &[u8; 32], purpose: &str, ids: &[&[u8]]) -> [u8; 32] {
    let mut info = format!("sealdisk/1 {purpose}\0").into_bytes();
    ids.iter().for_each(|id| info.extend_from_slice(id));
    let mut out = [0; 32];
    let mut context = PkeyCtx::new_id(Id::HKDF).expect("HKDF");
    context.derive_init().expect("HKDF");
    context.set_hkdf_md(Md::sha256()).expect("SHA-256");
    context.set_hkdf_key(key).expect("a key");
    context.add_hkdf_info(&info).expect("an info");
    context.derive(Some(&mut out)).expect("a derived key");
    out
}

fn unwrap<const N: usize>(wrapping: &[u8; 32], wrapped: &[u8]) -> Option<[u8; N]> {
    let mut key = [0; N];
    let wrapping = AesKey::new_decrypt(wrapping).ok()?;
    unwrap_key(&wrapping, None, &mut key, wrapped).ok().filter(|&len| len == N).map(|_| key)
}

impl AccountKeys {
    pub(super) fn open(account_toml: &Path, kek: &[u8; 32]) -> Self {
        let text = fs::read_to_string(account_toml).expect("account.toml");
        let table: toml::Table = text.parse().expect("account.toml is TOML");
        let uuid = |value: &toml::Value| -> Uuid { value.as_str().and_then(|id| id.parse().ok()).expect("a uuid") };
        let account = uuid(&table["account"]);
        let wrapped = table["account_key"].as_array().expect("account keys").iter();
        let keys = wrapped.map(|key| {
            let id = uuid(&key["id"]);
            let bytes = hex::decode(key["wrapped"].as_str().expect("hex")).expect("hex");
            let wrapping = derive(kek, "account-key-wrap", &[account.as_bytes(), id.as_bytes()]);
            (id, unwrap(&wrapping, &bytes).expect("the key-encryption key of this account"))
        });
        Self { account, keys: keys.collect() }
    }

    /// By layer, from the first copy of a slot that unwraps.
    pub(super) fn data_keys(&self, file: &Path, disk: Uuid) -> BTreeMap<u32, [u8; 64]> {
        // Erased: the file is gone.
        let Ok(content) = fs::read(file) else { return BTreeMap::new() };
        let copies = content.get(4096..).unwrap_or_default().chunks_exact(512);
        let keys = copies.filter(|copy| copy.starts_with(b"SLOT")).filter_map(|copy| {
            let layer: [u8; 4] = copy[4..8].try_into().ok()?;
            let id = Uuid::from_slice(&copy[8..24]).ok()?;
            let ids = [self.account.as_bytes() as &[u8], id.as_bytes(), disk.as_bytes(), &layer];
            let wrapping = derive(self.keys.get(&id)?, "data-key-wrap", &ids);
            Some((u32::from_le_bytes(layer), unwrap(&wrapping, &copy[24..96])?))
        });
        keys.collect()
    }
}

/// One page, of which the number is the tweak.
pub(super) fn decrypt(key: &[u8; 64], page: u64, raw: &[u8; PAGE]) -> [u8; PAGE] {
    let tweak = u128::from(page).to_le_bytes();
    let clear = decrypt_all(Cipher::aes_256_xts(), key, Some(&tweak), raw).expect("a page is decrypted");
    clear.try_into().expect("a page")
}
