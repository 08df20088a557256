//! The files of a disk, read by what `docs/format.md` says of them and nothing of the product but the key ring.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aes::Aes256;
use aes::cipher::{Array, KeyInit};
use sealdisk::account::settings::Settings;
use sealdisk::crypto::kek::{KekSource, KeyFile};
use sealdisk::io::real::RealDir;
use uuid::Uuid;
use xts_mode::{Xts128, get_tweak_default};

use crate::support::Account;

pub(crate) const PAGE: usize = 512;

/// Bytes from which the `keys` file has slots, of a slot, and where its fields lie.
const FIRST_SLOT: usize = 4096;
const SLOT: usize = 1024;
const SLOT_LAYER: std::ops::Range<usize> = 4..8;
const SLOT_WRAPPED: std::ops::Range<usize> = 24..96;

/// The layer files of a disk, and the data keys of those that are encrypted.
pub(crate) struct Layers {
    folder: PathBuf,
    keys: BTreeMap<u32, Xts128<Aes256>>,
}

impl Layers {
    /// Reads the folder of the disk with this uuid.
    pub(crate) fn open(account: &Account, uuid: &str) -> Self {
        let folder = account.dir().join("disks").join(uuid);
        let keys = data_keys(account, &folder, uuid.parse().expect("a uuid"));
        Self { folder: folder.join("layers"), keys }
    }

    /// The content of every layer file, by the number in its name, and whether the name says that it is encrypted.
    pub(crate) fn files(&self) -> BTreeMap<u32, (bool, Vec<u8>)> {
        let files = fs::read_dir(&self.folder).expect("the folder of layers").map(|entry| {
            let path = entry.expect("an entry").path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let encrypted = path.extension().is_some_and(|extension| extension == "xts");
            (number.expect("a layer's number"), (encrypted, fs::read(&path).expect("a layer file")))
        });
        files.collect()
    }

    /// Page `page` as it is under the key of `layer`, by an implementation of XTS that is not the product's.
    pub(crate) fn decrypt(&self, layer: u32, page: u64, bytes: &[u8]) -> Vec<u8> {
        let mut plain = bytes.to_vec();
        self.keys[&layer].decrypt_sector(&mut plain, get_tweak_default(page.into()));
        plain
    }
}

fn data_keys(account: &Account, folder: &Path, disk: Uuid) -> BTreeMap<u32, Xts128<Aes256>> {
    let dir = RealDir::open(account.dir()).expect("the account");
    let settings = Settings::load(&dir).expect("account.toml");
    let kek_file = account.scratch("config").join("sealdisk").join(format!("{}.key", settings.account()));
    let kek = KeyFile::new(&kek_file).and_then(|file| file.obtain()).expect("the key that init made");
    let disk_keys = settings.unlock(&kek).and_then(|ring| ring.disk_keys(disk)).expect("the keys of the account");
    let slots = fs::read(folder.join("keys")).expect("the keys file");
    let mut keys = BTreeMap::new();
    for slot in slots[FIRST_SLOT..].chunks(SLOT).filter(|slot| slot.iter().any(|&byte| byte != 0)) {
        let layer = u32::from_le_bytes(slot[SLOT_LAYER].try_into().expect("four bytes"));
        let wrapped = slot[SLOT_WRAPPED].try_into().expect("72 bytes");
        let key = disk_keys.reveal(layer, &wrapped).expect("a data key of this disk");
        let half = |bytes: &[u8]| Aes256::new(&Array::try_from(bytes).expect("32 bytes"));
        let (data, tweak) = key.expose().split_at(32);
        keys.insert(layer, Xts128::new(half(data), half(tweak)));
    }
    keys
}
