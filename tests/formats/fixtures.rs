//! The golden account: what this version of the format looks like.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sealdisk::account::settings::{FILE, Settings};
use sealdisk::crypto::kek::SourceRecord;
use sealdisk::disk::{Access, Disk, Kind, PageState, Run};
use sealdisk::{ErrorKind, PAGE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::golden::{BOOT, CLONE, ENDED, Golden, MIXED, PLAIN, SEALED, folder, golden, kek, options};
use crate::look::{Seen, View, look};
use crate::memory_dir::MemoryDir;
use crate::plan::{self, Content, DISKS, lead};

/// What was recorded when the account was made, beside it as `expected.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    account_key: Uuid,
    pub(crate) disks: BTreeMap<String, Recorded>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    uuid: Uuid,
    /// Data keys by layer, in hexadecimal.
    keys: BTreeMap<u32, String>,
    #[serde(flatten)]
    pub(crate) seen: RecordedView,
    pub(crate) snapshots: BTreeMap<String, RecordedView>,
    /// Of a disk that was not closed, where only what was flushed is believed: the boot is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flushed: Option<RecordedView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedView {
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub(crate) sha256: String,
    /// First page, pages, state, layer.
    runs: Vec<(u64, u64, String, Option<u32>)>,
}

impl RecordedView {
    fn of(view: &View) -> Self {
        let run = |run: &Run| (run.start, run.pages, state_name(run.state).to_owned(), run.layer);
        Self { size: view.size, sha256: sha256(view.bytes()), runs: view.runs.iter().map(run).collect() }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn state_name(state: PageState) -> &'static str {
    match state {
        PageState::Base { .. } => "base",
        PageState::Plain => "plain",
        PageState::Encrypted => "encrypted",
        PageState::Zero => "zero",
        PageState::Inherited { .. } => "inherited",
    }
}

pub(crate) fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

/// As after a reboot: what was only noted is not believed.
fn open_after_a_reboot(golden: &Golden, disk: Uuid, dir: &MemoryDir) -> Disk {
    let options = sealdisk::disk::Options { boot: Some([1; 16]), ..options() };
    Disk::open(Arc::new(dir.clone()), Some(golden.keys(disk)), None, Access::ReadWrite, true, options).unwrap()
}

fn record(golden: &Golden, disk: Uuid) -> Recorded {
    let dir = golden.disk(disk);
    let opened = golden.open(disk, &dir, Access::ReadOnly).unwrap();
    let seen = look(&opened).unwrap();
    let encrypted = opened.admin().layers().into_iter().filter(|layer| layer.kind == Kind::Xts).map(|layer| layer.id);
    let keys = encrypted.map(|id| (id, hex::encode(opened.admin().reveal_key(id).unwrap().expose()))).collect();
    let snapshots = seen.snapshots.iter().map(|(name, view)| (name.clone(), RecordedView::of(view))).collect();
    let flushed = (disk == ENDED)
        .then(|| RecordedView::of(&look(&open_after_a_reboot(golden, disk, &golden.disk(disk))).unwrap().live));
    Recorded { uuid: disk, keys, seen: RecordedView::of(&seen.live), snapshots, flushed }
}

fn record_all(golden: &Golden) -> Expected {
    let disks = DISKS.map(|(uuid, name)| (name.to_owned(), record(golden, uuid)));
    Expected { account_key: golden.ring.current().id(), disks: disks.into() }
}

fn content_of(seen: &Seen) -> Content {
    let bytes = |view: &View| view.bytes().to_vec();
    let snapshots = seen.snapshots.iter().map(|(name, view)| (name.clone(), bytes(view))).collect();
    Content { live: bytes(&seen.live), snapshots }
}

/// Makes the golden account anew: see `fixtures/README.md` for when that is right.
#[test]
#[ignore = "makes fixtures: SEALDISK_WRITE_FIXTURES=1 cargo test --test formats make_the_golden_account -- --ignored"]
fn make_the_golden_account() {
    if std::env::var_os("SEALDISK_WRITE_FIXTURES").is_none() {
        return;
    }
    let hex: String = (1..=32).map(|byte: u8| format!("{byte:02x}")).collect();
    let account = MemoryDir::default();
    let source = SourceRecord::File { path: "/keys/golden".into() };
    let (_, ring) =
        Settings::create(&account, Uuid::from_u128(0x1), &kek(&hex), source, true).expect("an empty directory");
    let made = Golden { account, kek: kek(&hex), ring, base: plan::base() };
    sealdisk::io::Dir::create_dir(&made.account, "disks").unwrap();
    let disks = made.account.folder("disks");
    for (uuid, _) in DISKS {
        sealdisk::io::Dir::create_dir(&disks, &uuid.to_string()).unwrap();
        let dir = disks.folder(&uuid.to_string());
        let (content, _) = lead(uuid, &dir, &made.keys(uuid), &sample_of_base()).unwrap();
        let seen = look(&made.open(uuid, &dir.copy(), Access::ReadOnly).unwrap()).unwrap();
        assert!(content_of(&seen) == content, "{uuid} is not what was written");
    }
    let folder = folder();
    let _ = std::fs::remove_dir_all(&folder);
    for (name, bytes) in made.account.files() {
        let path = folder.join("account").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(folder.join("kek"), hex).unwrap();
    std::fs::write(folder.join("base.raw"), plan::base()).unwrap();
    let text = serde_json::to_string_pretty(&record_all(&made)).unwrap();
    std::fs::write(folder.join("expected.json"), text + "\n").unwrap();
}

/// The product's own digest of the base image.
fn sample_of_base() -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.raw");
    std::fs::write(&path, plan::base()).unwrap();
    let (_, record) = sealdisk::base::open(&path, &sealdisk::base::OpenOptions::default()).unwrap();
    record.files[0].sample.clone()
}

#[test]
fn the_golden_account_reads_as_it_was_written() {
    let golden = golden();
    assert_eq!(record_all(golden), expected());
    assert_eq!(golden.base, plan::base());
}

/// A disk is led through the same life again, with the same account key: every byte must come out as in the fixtures,
/// but for data keys, which are drawn anew. Where this fails, the format was changed: that takes another version, and
/// another golden account beside this one.
#[test]
fn the_writer_writes_the_same_bytes() {
    let golden = golden();
    for (uuid, name) in DISKS {
        let dir = MemoryDir::default();
        let (content, flushed) = lead(uuid, &dir, &golden.keys(uuid), &sample_of_base()).unwrap();
        let (mut new, mut old) = (dir.files(), golden.disk(uuid).files());
        // Space held ready holds anything.
        for files in [&mut new, &mut old] {
            files.retain(|file, _| !["disk.toml.new", "log.next", "reserve"].contains(&file.as_str()));
        }
        assert_eq!(new.keys().collect::<Vec<_>>(), old.keys().collect::<Vec<_>>(), "{name}");
        for (file, new) in &mut new {
            let old = old.get_mut(file).unwrap();
            if file == "keys" {
                blank_keys(new);
                blank_keys(old);
            } else if file.ends_with(".xts") {
                continue;
            }
            assert!(new == old, "{file} of {name} differs");
        }
        // What is encrypted must mean the same.
        let reopened = look(&golden.open(uuid, &dir.copy(), Access::ReadOnly).unwrap()).unwrap();
        let recorded = look(&golden.open(uuid, &golden.disk(uuid), Access::ReadOnly).unwrap()).unwrap();
        assert!(reopened == recorded, "{name}");
        assert!(content_of(&reopened) == content, "{name} is not what was written");
        if uuid == ENDED {
            let rebooted = look(&open_after_a_reboot(golden, uuid, &dir)).unwrap();
            assert!(content_of(&rebooted) == flushed, "{name} is not what was flushed");
        }
    }
}

/// Wrapped keys and their checksums.
fn blank_keys(file: &mut [u8]) {
    file[4096..].chunks_mut(512).for_each(|copy| copy[24..100].fill(0));
}

/// The recorded data keys, by an implementation of XTS that is not ours: what `docs/format.md` says of a layer is
/// enough to read it.
#[test]
fn layers_decrypt_with_the_recorded_keys_by_an_independent_implementation() {
    use aes::Aes256;
    use aes::cipher::KeyInit;
    let golden = golden();
    let recorded = &expected().disks["vhds/sealed"];
    let key = hex::decode(&recorded.keys[&1]).unwrap();
    let cipher = |half: &[u8]| Aes256::new_from_slice(half).unwrap();
    let xts = xts_mode::Xts128::new(cipher(&key[..32]), cipher(&key[32..]));
    let layer = golden.disk(SEALED).files()["layers/00000001.xts"].clone();
    for (number, version) in [(0, b'a'), (2, b'a'), (9, b'a')] {
        let mut bytes = layer[number as usize * PAGE..][..PAGE].to_vec();
        xts.decrypt_sector(&mut bytes, u128::from(number).to_le_bytes().into());
        assert_eq!(bytes, plan::page(number, version));
    }
}

/// A file of another version says so, and is told from a damaged one.
#[test]
fn another_version_is_refused_as_such() {
    let golden = golden();
    let open = |disk: Uuid, file: &str, bytes: Vec<u8>| {
        let dir = golden.disk(disk);
        assert_ne!(dir.files()[file], bytes);
        dir.put(file, bytes);
        golden.open(disk, &dir, Access::ReadOnly).map(|_| ()).unwrap_err()
    };
    let unsupported = |error: sealdisk::Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.path().is_some(), "{error}");
    };
    for disk in [PLAIN, SEALED, MIXED, CLONE, ENDED] {
        let files = golden.disk(disk).files();
        for (file, good) in &files {
            let mut bytes = good.clone();
            let keys = golden.keys(disk);
            match file.split_once('.').map_or(&file[..], |(first, _)| first) {
                "disk" => {
                    let text = String::from_utf8(bytes).unwrap();
                    bytes = text.replace("version = 0\n", "version = 1\nwhat_version_1_added = true\n").into_bytes();
                    crate::seal::settings(&mut bytes, &keys);
                }
                "keys" => {
                    bytes[8] = 1;
                    crate::seal::keys(&mut bytes);
                }
                "checkpoint" => {
                    bytes[8] = 1;
                    crate::seal::checkpoint(&mut bytes, &keys);
                }
                "log" if file != "log.next" => {
                    bytes[8] = 1;
                    crate::seal::log(&mut bytes, &keys);
                }
                // What is noted in a way that is not known is not believed, like that of another boot.
                _ => continue,
            }
            unsupported(open(disk, file, bytes));
        }
    }
    let account = golden.account.copy();
    let text = String::from_utf8(account.files()[FILE].clone()).unwrap();
    account.put(FILE, text.replace("version = 0", "version = 1\nwhat_version_1_added = true").into_bytes());
    assert_eq!(Settings::load(&account).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Small enough for everybody's clone.
#[test]
fn the_golden_account_is_small() {
    fn size(path: &Path) -> u64 {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() }).sum()
    }
    assert!(size(&folder()) < 1 << 20);
    let _ = BOOT;
}
