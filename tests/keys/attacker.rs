//! Somebody with the key-encryption key, the account key and the ids of everything, who tries every place in every file
//! for a wrapped key that opens.

use std::fs;
use std::path::{Path, PathBuf};

use aes_kw::KwAes256;

use crate::secrets::{self, AccountKeys};
use crate::support::Account;

const SECTOR: usize = 512;
/// Bytes of a wrapped data key.
const LONGEST: usize = 72;

/// What is known of an account from when it could still be opened.
pub(crate) struct Attacker {
    account_key_wrapping: KwAes256,
    /// A disk's name and layer, and what wraps the data key.
    data_key_wrapping: Vec<(String, KwAes256)>,
}

impl Attacker {
    /// Learns all there is to know about an account and these of its disks. Its KEK is in a file.
    pub(crate) fn new(account: &Account, disks: &[&str]) -> Self {
        let keys = AccountKeys::read(account, &secrets::kek_file(account));
        let mut data_key_wrapping = Vec::new();
        for disk in disks {
            for (uuid, layer) in secrets::layers(account, disk) {
                data_key_wrapping.push((format!("{disk}, layer {layer}"), keys.data_key_wrapping(uuid, layer)));
            }
        }
        Self { account_key_wrapping: keys.account_key_wrapping, data_key_wrapping }
    }

    /// Names of the keys that some place in some file below `dir` gives away, each once.
    pub(crate) fn finds(&self, dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for path in files_below(dir) {
            let content = fs::read(&path).expect("a file of the account");
            for run in hex_runs(&content) {
                for start in 0..2.min(run.len()) {
                    let even = &run[start..run.len() - (run.len() - start) % 2];
                    self.try_all(&hex::decode(even).expect("hex digits"), &mut found);
                }
            }
            self.try_all(&content, &mut found);
        }
        found.sort();
        found.dedup();
        found
    }

    /// At every byte but in holes, where a window that begins in one and does not end in it counts too.
    fn try_all(&self, bytes: &[u8], found: &mut Vec<String>) {
        let zeros = [0; SECTOR];
        let is_hole = |sector: usize| bytes.get(sector * SECTOR..(sector + 1) * SECTOR).is_some_and(|s| s == zeros);
        for sector in 0..bytes.len().div_ceil(SECTOR) {
            let end = bytes.len().min((sector + 1) * SECTOR);
            let start = match (is_hole(sector), is_hole(sector + 1) || end == bytes.len()) {
                (false, _) => sector * SECTOR,
                (true, false) => end - LONGEST,
                (true, true) => continue,
            };
            for at in start..end {
                self.try_one(&bytes[at..bytes.len().min(at + LONGEST)], found);
            }
        }
    }

    fn try_one(&self, window: &[u8], found: &mut Vec<String>) {
        if let Some(wrapped) = window.first_chunk::<40>()
            && self.account_key_wrapping.unwrap_key(wrapped, &mut [0; 32]).is_ok()
        {
            found.push("account key".to_owned());
        }
        if window.len() == LONGEST {
            let opens = |wrapping: &KwAes256| wrapping.unwrap_key(window, &mut [0; 64]).is_ok();
            let names = self.data_key_wrapping.iter().filter(|(_, wrapping)| opens(wrapping));
            found.extend(names.map(|(name, _)| name.clone()));
        }
    }
}

fn hex_runs(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| !byte.is_ascii_hexdigit()).filter(|run| run.len() >= 80)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry"));
    let below = |entry: fs::DirEntry| match entry.file_type().expect("its type") {
        kind if kind.is_dir() => files_below(&entry.path()),
        kind if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    };
    entries.flat_map(below).collect()
}
