//! The secrets of an account, taken from its files with its key-encryption key as docs/security.md says: by the
//! libraries alone, without the code under test.

use std::fs;

use aes_kw::{KeyInit, KwAes256};
use uuid::Uuid;

use crate::support::{Account, SCHEDULE, expand};

/// What opens an account, and what is made of it.
pub(crate) struct AccountKeys {
    account: Uuid,
    id: Uuid,
    pub(crate) account_key: [u8; 32],
    pub(crate) account_key_wrapping: KwAes256,
}

fn derive(key: &[u8], purpose: &str, ids: &[&[u8]]) -> [u8; 32] {
    let label = format!("sealdisk/1 {purpose}\0");
    let info: Vec<&[u8]> = [label.as_bytes()].into_iter().chain(ids.iter().copied()).collect();
    let mut derived = [0; 32];
    hkdf::Hkdf::<sha2::Sha256>::new(None, key).expand_multi_info(&info, &mut derived).expect("32 bytes");
    derived
}

fn settings(account: &Account) -> toml::Table {
    let text = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    text.parse().expect("TOML")
}

fn uuid(value: &toml::Value) -> Uuid {
    value.as_str().expect("a string").parse().expect("a uuid")
}

fn bytes(value: &toml::Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hex")
}

/// The KEK, where account.toml names a file.
pub(crate) fn kek_file(account: &Account) -> Vec<u8> {
    fs::read(settings(account)["kek"]["source"]["path"].as_str().expect("a path")).expect("the KEK")
}

/// The KEK that `passphrase` makes.
pub(crate) fn kek_of_passphrase(account: &Account, passphrase: &str) -> Vec<u8> {
    let settings = settings(account);
    let source = &settings["kek"]["source"];
    let cost = |name: &str| u32::try_from(source[name].as_integer().expect("a number")).expect("a cost");
    let params = argon2::Params::new(cost("memory_kib"), cost("passes"), cost("lanes"), Some(32)).expect("costs");
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut kek = vec![0; 32];
    argon2.hash_password_into(passphrase.as_bytes(), &bytes(&source["salt"]), &mut kek).expect("stretched");
    kek
}

/// The encrypted layers of a disk: its uuid and their numbers.
pub(crate) fn layers(account: &Account, disk: &str) -> Vec<(Uuid, u32)> {
    let shown = account.json(&["show", disk]);
    let uuid = shown["uuid"].as_str().expect("a uuid").parse().expect("a uuid");
    let layers = shown["layers"].as_array().expect("layers").iter().filter(|layer| !layer["key"].is_null());
    layers.map(|layer| (uuid, u32::try_from(layer["id"].as_u64().expect("an id")).expect("a layer"))).collect()
}

impl AccountKeys {
    pub(crate) fn read(account: &Account, kek: &[u8]) -> Self {
        Self::try_read(account, kek).expect("the account key")
    }

    /// `None`: this KEK opens nothing.
    pub(crate) fn try_read(account: &Account, kek: &[u8]) -> Option<Self> {
        let settings = settings(account);
        let entry = &settings["account_key"][0];
        let (account, id) = (uuid(&settings["account"]), uuid(&entry["id"]));
        let wrapping = derive(kek, "account-key-wrap", &[account.as_bytes(), id.as_bytes()]);
        let account_key_wrapping = KwAes256::new(&wrapping.into());
        let mut account_key = [0; 32];
        account_key_wrapping.unwrap_key(&bytes(&entry["wrapped"]), &mut account_key).ok()?;
        Some(Self { account, id, account_key, account_key_wrapping })
    }

    pub(crate) fn data_key_wrapping(&self, disk: Uuid, layer: u32) -> KwAes256 {
        let ids = [self.account.as_bytes() as &[u8], self.id.as_bytes(), disk.as_bytes(), &layer.to_le_bytes()];
        KwAes256::new(&derive(&self.account_key, "data-key-wrap", &ids).into())
    }

    /// The key of the MAC over the metadata of a disk.
    pub(crate) fn disk_mac_key(&self, disk: Uuid) -> [u8; 32] {
        let ids = [self.account.as_bytes() as &[u8], self.id.as_bytes(), disk.as_bytes()];
        derive(&self.account_key, "disk-mac", &ids)
    }

    /// Names of the account key and the data keys of a disk, with every round key, and their bytes.
    pub(crate) fn all(&self, account: &Account, disk: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = vec![("account key".to_owned(), self.account_key.to_vec())];
        for (uuid, layer) in layers(account, disk) {
            let wrapping = self.data_key_wrapping(uuid, layer);
            let slots = fs::read(account.dir().join("disks").join(uuid.to_string()).join("keys")).expect("keys");
            let mut key = [0; 64];
            let opens = |slot: &[u8]| wrapping.unwrap_key(slot, &mut key).is_ok();
            assert!(slots[4096..].chunks(512).map(|slot| &slot[24..96]).any(opens), "the data key of layer {layer}");
            for (name, half) in [("data key", &key[..32]), ("tweak key", &key[32..])] {
                let mut schedule = [0; SCHEDULE];
                expand(half, &mut schedule);
                for (round, bytes) in schedule.chunks(16).enumerate() {
                    all.push((format!("round key {round} of the {name} of layer {layer}"), bytes.to_vec()));
                }
            }
        }
        all
    }
}
