//! Metadata changed or exchanged behind the program's back is refused, in one line, and nothing is changed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};

pub(crate) fn folder(account: &Account, name: &str) -> PathBuf {
    let uuid = account.json(&["show", name])["uuid"].as_str().expect("a uuid").to_owned();
    account.dir().join("disks").join(uuid)
}

pub(crate) fn newest(folder: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    entries.filter(named).max().unwrap_or_else(|| panic!("no {prefix} in {}", folder.display()))
}

/// Opening for writing fails with `says`; the file is as it was made, and put back everything is well.
fn is_refused(account: &Account, file: &Path, content: &[u8], says: &[&str]) {
    let good = fs::read(file).expect("a file");
    fs::write(file, content).expect("tampered");
    let refused = stderr_of_failure(account.command().args(["scrub", "a", "--wait"]));
    let first = refused.lines().next().unwrap_or_default().to_owned();
    assert!(
        first.starts_with("error: ") && says.iter().any(|says| first.contains(says)),
        "{}: {refused}",
        file.display()
    );
    assert_eq!(fs::read(file).expect("a file"), content, "nothing was changed");
    fs::write(file, good).expect("put back");
    account.sealdisk(&["scrub", "a", "--wait"]);
}

#[test]
fn what_belongs_to_another_disk_is_refused() {
    let account = Account::new();
    for name in ["a", "b"] {
        account.create(name, MIB);
    }
    let (a, b) = (folder(&account, "a"), folder(&account, "b"));
    let stolen = |name: &str| fs::read(b.join(name)).expect("a file of the other disk");
    is_refused(&account, &a.join("keys"), &stolen("keys"), &["belongs to another disk"]);
    let checkpoint = newest(&a, "checkpoint.");
    let other = fs::read(newest(&b, "checkpoint.")).expect("a checkpoint");
    is_refused(&account, &checkpoint, &other, &["fails its MAC"]);

    // Only the wrapped key, under a good checksum, in both copies.
    let mut keys = fs::read(a.join("keys")).expect("keys");
    for at in [4096, 4096 + 512] {
        keys[at + 24..at + 96].copy_from_slice(&stolen("keys")[4096 + 24..4096 + 96]);
        let crc = crc32c::crc32c(&keys[at..at + 96]);
        keys[at + 96..at + 100].copy_from_slice(&crc.to_le_bytes());
    }
    is_refused(&account, &a.join("keys"), &keys, &["belongs to another layer or disk"]);
}

/// Each is under a good MAC, of another disk.
#[test]
fn settings_of_two_disks_exchanged_are_refused() {
    let account = Account::new();
    for name in ["a", "b"] {
        account.create(name, MIB);
    }
    let paths = ["a", "b"].map(|name| folder(&account, name).join("disk.toml"));
    let [a, b] = paths.each_ref().map(|path| fs::read(path).expect("disk.toml"));
    for (path, content) in paths.iter().zip([&b, &a]) {
        fs::write(path, content).expect("exchanged");
    }
    for name in ["a", "b"] {
        let refused = stderr_of_failure(account.command().args(["scrub", name, "--wait"]));
        assert!(refused.starts_with("error: ") && refused.contains("disk.toml: fails its MAC"), "{refused}");
    }
    assert_eq!(paths.each_ref().map(|path| fs::read(path).expect("disk.toml")), [b.clone(), a.clone()], "untouched");
    for (path, content) in paths.iter().zip([&a, &b]) {
        fs::write(path, content).expect("put back");
    }
    for name in ["a", "b"] {
        account.sealdisk(&["scrub", name, "--wait"]);
    }
}

/// Of one disk, each under a good checksum: with only the names of the layers exchanged nothing would tell, but for
/// that the layer is in what wraps the key.
#[test]
fn wrapped_keys_of_two_layers_exchanged_are_refused() {
    let account = Account::new();
    account.create("a", MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "a").expect("attached");
    client.write(0, &[1; 4096]).expect("under the first key");
    account.sealdisk(&["key", "rotate-data", "a"]);
    client.write(8192, &[2; 4096]).expect("under the second key");
    client.flush().expect("flushed");
    assert!(server.terminate().success());

    let path = folder(&account, "a").join("keys");
    let good = fs::read(&path).expect("keys");
    let layer_of = |at: usize| u32::from_le_bytes(*good[at + 4..].first_chunk().expect("a layer"));
    let slots: Vec<usize> = (4096..good.len()).step_by(1024).filter(|&at| good[at..].starts_with(b"SLOT")).collect();
    assert_eq!(slots.iter().map(|&at| layer_of(at)).collect::<Vec<_>>(), [1, 2]);
    let mut keys = good.clone();
    for (to, from) in [(slots[0], slots[1]), (slots[1], slots[0])] {
        for at in [to, to + 512] {
            keys[at + 24..at + 96].copy_from_slice(&good[from + 24..from + 96]);
            let crc = crc32c::crc32c(&keys[at..at + 96]);
            keys[at + 96..at + 100].copy_from_slice(&crc.to_le_bytes());
        }
    }
    is_refused(&account, &path, &keys, &["belongs to another layer or disk"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "a").expect("attached");
    assert_eq!(client.read(0, 4096).expect("put back"), [1; 4096]);
    assert_eq!(client.read(8192, 4096).expect("put back"), [2; 4096]);
}

#[test]
fn what_was_changed_is_refused_even_under_a_good_checksum() {
    let account = Account::new();
    account.create("a", MIB);
    let a = folder(&account, "a");

    let path = account.dir().join("account.toml");
    let settings = fs::read_to_string(&path).expect("account.toml");
    let off = settings.replace("encryption = \"on\"", "encryption = \"off\"");
    is_refused(&account, &path, off.as_bytes(), &["does not match its MAC"]);

    let path = a.join("disk.toml");
    let (body, seal) = fs::read_to_string(&path)
        .map(|text| text.split_once("\n[seal]\n").map(|(body, seal)| (body.to_owned(), seal.to_owned())))
        .expect("disk.toml")
        .expect("its seal");
    let body = body.replace("footer = true", "footer = false");
    let rest = seal.split_once('\n').expect("the checksum first").1;
    let changed = format!("{body}\n[seal]\ncrc32c = {}\n{rest}", crc32c::crc32c(body.as_bytes()));
    is_refused(&account, &path, changed.as_bytes(), &["fails its MAC"]);

    let path = newest(&a, "checkpoint.");
    let mut checkpoint = fs::read(&path).expect("a checkpoint");
    let end = checkpoint.len() - 4;
    checkpoint[end - 40] ^= 1;
    let crc = crc32c::crc32c(&checkpoint[..end]);
    checkpoint[end..].copy_from_slice(&crc.to_le_bytes());
    is_refused(&account, &path, &checkpoint, &["fails its MAC"]);
}

/// An older file put back, where that can be seen: the log says that it follows another checkpoint.
#[test]
fn an_older_wrapped_key_or_account_key_is_refused() {
    let account = Account::new();
    account.create("a", MIB);
    let a = folder(&account, "a");
    let (keys, settings) = (fs::read(a.join("keys")).expect("keys"), fs::read(a.join("disk.toml")).expect("disk.toml"));
    account.sealdisk(&["key", "rotate-kek", "--account-key"]);
    is_refused(&account, &a.join("keys"), &keys, &["no wrapped key for this layer"]);
    is_refused(&account, &a.join("disk.toml"), &settings, &["fails its MAC"]);
}
