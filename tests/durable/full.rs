//! A file system that is full: clients are told, what is there stays, and giving space back works.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::real::RealDir;
use sealdisk::{Error, ErrorKind, PAGE, Result};
use tempfile::TempDir;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A file system of 16 MiB, in a mount namespace of nobody else's business: mounted here, and unmounted when it goes.
struct Small {
    folder: TempDir,
}

impl Small {
    /// `None`: this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

struct Home {
    path: PathBuf,
    keys: DiskKeys,
}

impl Home {
    fn open(&self) -> Result<Disk> {
        let dir: Arc<dyn Dir> = Arc::new(RealDir::open(&self.path).expect("the directory"));
        let options = Options { log_bytes: MIB, pending_extents: 1024, ..Options::default() };
        Disk::open(dir, Some(self.keys.clone()), None, Access::ReadWrite, true, options)
    }
}

/// Takes all the space there is, as whoever else uses the file system might.
fn fill(folder: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("filler")).expect("a file");
    for piece in [MIB as usize, BLOCK as usize] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
}

fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK as usize / 8)
}

fn read(disk: &Disk, number: u64) -> Vec<u8> {
    let mut buf = vec![0; BLOCK as usize];
    disk.read(number * BLOCK, &mut buf).expect("a read on a full file system");
    buf
}

/// As a server does in the background; so the space for the next log is taken ahead.
fn maintain(disk: &Disk) {
    while disk.admin().maintain().is_ok_and(|more| more) {}
}

#[test]
fn a_full_file_system_is_told_and_loses_nothing() {
    let Some(small) = Small::mount() else {
        eprintln!("left out: this user may not mount a small file system");
        return;
    };
    let home = Home { path: small.path().join("disk"), keys: DiskKeys::ephemeral().expect("keys") };
    std::fs::create_dir(&home.path).expect("a directory");
    let size = 64 * MIB;
    let spec = Spec::new(Uuid::from_u128(1), "c/b", size);
    let dir: Arc<dyn Dir> = Arc::new(RealDir::open(&home.path).expect("the directory"));
    Disk::create(dir, &spec, home.keys.clone(), true, &Options::default()).expect("a disk");

    let disk = home.open().expect("it opens");
    let mut stored = 0_u64;
    let full = loop {
        if stored.is_multiple_of(64) {
            maintain(&disk);
        }
        match disk.write(stored * BLOCK, &block(stored + 1), Durability::Volatile) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
    assert!(stored * BLOCK > 4 * MIB, "only {stored} blocks fit");
    disk.flush().expect("a flush on a full file system");
    // What is there can be written over, also durably.
    for number in 0..stored {
        disk.write(number * BLOCK, &block(number + 7), Durability::Volatile).expect("an overwrite in place");
    }
    disk.write(0, &block(7), Durability::Fua).expect("a durable overwrite in place");
    let refused = disk.write(stored * BLOCK, &block(1), Durability::Volatile).expect_err("no room");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(read(&disk, stored).iter().all(|byte| *byte == 0), "a refused write is not seen");
    drop(disk);

    // As after a kill, on the full file system.
    let disk = home.open().expect("it opens on a full file system");
    for number in 0..stored {
        assert_eq!(read(&disk, number), block(number + 7), "block {number}");
    }
    let half = stored / 2;
    disk.zero(half * BLOCK, (stored - half) * BLOCK, Durability::Volatile).expect("trim on a full file system");
    disk.admin().scrub().expect("giving space back");
    let more =
        (0..half / 2).filter(|number| disk.write((stored + number) * BLOCK, &block(1), Durability::Volatile).is_ok());
    assert!(more.count() > 0, "trim gave nothing back");
    disk.flush().expect("a flush");
    for number in 0..half {
        assert_eq!(read(&disk, number), block(number + 7), "block {number}");
    }
    assert!(read(&disk, half)[..PAGE].iter().all(|byte| *byte == 0));
    disk.close().expect("it closes");
}

#[test]
fn a_file_system_that_stays_full_over_many_kills_still_takes_trims() {
    const KILLS: u64 = 8;
    let Some(small) = Small::mount() else {
        eprintln!("left out: this user may not mount a small file system");
        return;
    };
    let home = Home { path: small.path().join("disk"), keys: DiskKeys::ephemeral().expect("keys") };
    std::fs::create_dir(&home.path).expect("a directory");
    let dir: Arc<dyn Dir> = Arc::new(RealDir::open(&home.path).expect("the directory"));
    let spec = Spec::new(Uuid::from_u128(1), "c/b", 64 * MIB);
    Disk::create(dir, &spec, home.keys.clone(), true, &Options::default()).expect("a disk");

    let disk = home.open().expect("it opens");
    let stored = 2 * KILLS + 1;
    for number in 0..stored {
        disk.write(number * BLOCK, &block(number + 7), Durability::Volatile).expect("a write");
    }
    disk.flush().expect("a flush");
    maintain(&disk);
    drop(disk);
    for kill in 0..KILLS {
        fill(small.path());
        let disk = home.open().unwrap_or_else(|error| panic!("opening after kill {kill}: {error}"));
        fill(small.path());
        let told = |what: &'static str| move |error: Error| panic!("{what} after kill {kill}: {error}");
        for number in 0..stored {
            // Without space there are no notes, and what was not flushed is lost or not.
            let found = read(&disk, number);
            let (trimmed, kept) = (found.iter().all(|byte| *byte == 0), found == block(number + 7));
            let expected = match number {
                _ if number >= 2 * kill => kept,
                _ if number % 2 == 0 => trimmed,
                _ => trimmed || kept,
            };
            assert!(expected, "block {number} after kill {kill}");
        }
        disk.zero(2 * kill * BLOCK, BLOCK, Durability::Volatile).unwrap_or_else(told("a trim"));
        disk.flush().unwrap_or_else(told("a flush"));
        maintain(&disk);
        disk.write((stored - 1) * BLOCK, &block(stored + 6), Durability::Fua)
            .unwrap_or_else(told("an overwrite in place"));
        fill(small.path());
        disk.zero((2 * kill + 1) * BLOCK, BLOCK, Durability::Volatile).unwrap_or_else(told("another trim"));
        drop(disk);
    }
    let disk = home.open().expect("it opens");
    disk.admin().scrub().expect("a scrub");
    std::fs::remove_file(small.path().join("filler")).expect("the filler");
    disk.write(0, &block(1), Durability::Fua).expect("a write where there is space");
    disk.close().expect("it closes");
}
