//! The commands of `docs/life.md`, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::fixture::{noise, text};
use crate::support::{Account, MIB, file_system_image, program, stdout_of, vhd_of};

/// The blocks of commands under a heading of the document.
fn recipe(heading: &str) -> Vec<String> {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/life.md")).expect("the document");
    let section = document.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no heading {heading}"));
    let blocks: Vec<_> = section.split("```sh\n").skip(1).collect();
    assert!(!blocks.is_empty(), "{heading}: no commands");
    blocks.iter().map(|block| block.split("```").next().expect("an end").to_owned()).collect()
}

/// A folder in which a recipe is followed: with an account in it where the program looks for one, and `sealdisk` in the
/// path.
struct Place {
    account: Account,
    other: Account,
}

impl Place {
    fn new() -> Self {
        let place = Self { account: Account::new(), other: Account::new() };
        std::os::unix::fs::symlink(place.account.dir(), place.account.scratch("sealdisk-account")).unwrap();
        let bin = place.account.scratch("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sealdisk"), bin.join("sealdisk")).unwrap();
        // "The other machine" is another account, and its files are the same.
        let there = format!(
            "#!/bin/sh\nshift\nexport SEALDISK_ACCOUNT={} HOME={}\nexec \"$@\"\n",
            text(&place.other.dir()),
            text(&place.other.scratch("")),
        );
        let ssh = bin.join("ssh");
        fs::write(&ssh, there).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
        place
    }

    fn folder(&self) -> std::path::PathBuf {
        self.account.scratch("")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.account.scratch(name)
    }

    /// Runs a block of commands; every one has to succeed.
    fn follow(&self, block: &str) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell: Command = program("bash");
        shell.args(["-e", "-u", "-o", "pipefail", "-c", block]).current_dir(self.folder());
        // The system's own Python first: it is the one that has libnbd's module.
        shell.env("PATH", format!("{}:/usr/bin:{path}", text(&self.path("bin")))).env("HOME", self.folder());
        shell.env("XDG_CONFIG_HOME", self.path("config")).env_remove("SEALDISK_ACCOUNT");
        stdout_of(&mut shell)
    }

    fn holds(&self, account: &Account, name: &str, raw: &Path) {
        let content = crate::fixture::content(account, name);
        let expected = fs::read(raw).unwrap();
        assert!(content.len() >= expected.len() && content[..expected.len()] == expected, "{name}");
    }
}

#[test]
fn bring_a_vhd_from_on_premises() {
    let place = Place::new();
    let raw = place.path("files.img");
    file_system_image(&raw, 24 * MIB);
    fs::rename(vhd_of(&raw, "dynamic"), place.path("server.vhd")).unwrap();
    fs::rename(vhd_of(&raw, "fixed"), place.path("fixed.vhd")).unwrap();
    let blocks = recipe("Bring a VHD");
    assert_eq!(blocks.len(), 3);
    for block in &blocks {
        place.follow(block);
    }
    for name in ["web/root.vhd", "web/second.vhd", "web/third.vhd"] {
        place.holds(&place.account, name, &raw);
        assert_eq!(place.account.usage(name).plain, 0);
    }
    assert!(place.account.files_with(b"GNU GENERAL PUBLIC LICENSE").is_empty());
}

/// A disk with noise in it, partly in plaintext.
fn with_disk(size: u64) -> Place {
    let place = Place::new();
    fs::write(place.path("disk1.img"), noise(1, size as usize)).unwrap();
    place.account.sealdisk(&["encryption", "off"]);
    place.account.sealdisk(&["import", text(&place.path("disk1.img")), "disk1"]);
    place.account.sealdisk(&["encryption", "on"]);
    place
}

#[test]
fn encrypt_what_was_plain() {
    let place = with_disk(4 * MIB);
    place.account.sealdisk(&["encryption", "off"]);
    assert!(place.account.usage("disk1").plain > 4 * MIB);
    for block in recipe("Encrypt what was plain") {
        place.follow(&block);
    }
    place.holds(&place.account, "disk1", &place.path("disk1.img"));
    let usage = place.account.usage("disk1");
    assert_eq!((usage.plain, usage.encrypted), (0, 4 * MIB + 512));
    assert!(place.account.files_with(&noise(1, 64)).is_empty());
}

#[test]
fn delete_what_clones_read_from() {
    let place = with_disk(MIB);
    place.account.sealdisk(&["snapshot", "create", "disk1", "golden"]);
    let blocks = recipe("Delete what clones read from");
    let said = place.follow(&blocks[0]);
    assert!(said.contains("read by web2 (golden)") && said.contains("deleted, was disk1"), "{said}");
    let said = place.follow(&blocks[1]);
    assert!(said.contains("it is no longer a clone") && !said.contains("read by"), "{said}");
    place.holds(&place.account, "web2", &place.path("disk1.img"));
    assert!(place.account.files_with(&noise(1, 64)).is_empty());
    assert_eq!(blocks.len(), 2);
}

#[test]
fn move_a_disk_to_another_machine() {
    let place = with_disk(20 * MIB);
    let blocks = recipe("Move a disk");
    place.follow(&blocks[0]);
    place.holds(&place.other, "disk1", &place.path("disk1.img"));
    assert_eq!(place.other.usage("disk1").plain, 0);
    fs::create_dir(place.path("drive")).unwrap();
    let key = place.path("carried.key");
    fs::write(&key, [5; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let status = place.follow(&blocks[1]);
    assert!(status.contains("\"disk1\""), "{status}");
    assert_eq!(blocks.len(), 2);
}

#[test]
fn hand_a_fixed_vhd_to_azure() {
    let place = with_disk(3 * MIB + 512);
    let server = place.account.serve();
    for block in recipe("Hand a fixed VHD") {
        place.follow(&block);
    }
    assert!(server.terminate().success());
    let file = fs::read(place.path("upload.vhd")).unwrap();
    assert_eq!(file.len() as u64, 20 * MIB + 512);
    assert!(file.starts_with(&fs::read(place.path("disk1.img")).unwrap()));
}

#[test]
fn back_up_incrementally() {
    let place = with_disk(4 * MIB);
    let socket = place.account.dir().join("nbd.sock");
    let server = place.account.serve();
    // Where the server of an account listens when nothing else is asked of it.
    std::os::unix::fs::symlink(server.socket(), &socket).unwrap();
    let blocks = recipe("Back up incrementally");
    place.follow(&blocks[0]);
    assert!(fs::read(place.path("backup.img")).unwrap() == fs::read(place.path("disk1.img")).unwrap());
    let uri = format!("nbd+unix:///disk1?socket={}", text(&socket));
    let changes = ["-c", "write -P 7 1M 64k", "-c", "write -P 8 4193792 512", "-c", "discard 2M 1M", "-c", "flush"];
    stdout_of(program("qemu-io").args(["-f", "raw", "-d", "unmap"]).args(changes).arg(&uri));
    place.follow(&blocks[1]);
    let now = crate::fixture::content(&place.account, "disk1");
    assert!(fs::read(place.path("backup-tuesday.img")).unwrap() == now);
    assert!(fs::read(place.path("backup.img")).unwrap() != now, "monday's is kept");
    let snapshots = place.account.json(&["snapshot", "list", "disk1"]);
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1), "{snapshots}");
    place.follow(&blocks[2]);
    assert!(crate::fixture::content(&place.account, "restored") == now);
    assert_eq!(blocks.len(), 3);
    assert!(server.terminate().success());
}

#[test]
fn no_block_of_the_document_is_left_out() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/life.md")).expect("the document");
    let known = [
        "Bring a VHD",
        "Delete what clones",
        "Encrypt what was plain",
        "Move a disk",
        "Hand a fixed VHD",
        "Back up incrementally",
    ];
    let run: usize = known.iter().map(|heading| recipe(heading).len()).sum();
    assert_eq!(document.matches("```").count(), 2 * run, "a block that no test runs");
}
