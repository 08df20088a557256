//! Two hundred snapshots of one disk, drawn, rolled back to and deleted in random order, against a
//! model that keeps a copy of everything; and the space that comes back.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::real::RealDir;

const PAGE: usize = 512;
const PAGES: usize = 512;
const SNAPSHOTS: usize = 200;

fn read(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read(0, &mut bytes).expect("a read");
    bytes
}

/// Bytes that the layer files take up.
fn stored(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder.join("layers")).expect("the layers");
    entries.map(|entry| entry.expect("a layer").metadata().expect("its size").blocks() * 512).sum()
}

/// The product's options, in memory: the test is about what is stored, not how fast.
fn open(dir: &Arc<RealDir>, keys: &DiskKeys) -> Disk {
    Disk::open(dir.clone(), Some(keys.clone()), None, Access::ReadWrite, true, Options::default()).expect("opened")
}

#[test]
fn two_hundred_snapshots_come_and_go_as_the_model_says() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let dir = Arc::new(RealDir::open(folder.path()).expect("a directory"));
    let keys = DiskKeys::ephemeral().expect("keys");
    let spec = Spec::new(uuid::Uuid::from_u128(1), "vhds/disk", (PAGES * PAGE) as u64);
    Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).expect("made");
    let mut disk = open(&dir, &keys);
    let mut random = StdRng::seed_from_u64(20);
    let mut live = vec![0_u8; PAGES * PAGE];
    let mut lines: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let (mut drawn, mut rolled_back, mut deleted) = (0, 0, 0);
    while drawn < SNAPSHOTS || !lines.is_empty() {
        for _ in 0..random.random_range(1..4) {
            let start = random.random_range(0..PAGES);
            let pages = random.random_range(1..=32.min(PAGES - start));
            let range = start * PAGE..(start + pages) * PAGE;
            if random.random_bool(0.3) {
                disk.zero(range.start as u64, range.len() as u64, Durability::Volatile).expect("zeroed");
                live[range].fill(0);
            } else {
                random.fill(&mut live[range.clone()]);
                disk.write(range.start as u64, &live[range], Durability::Volatile).expect("written");
            }
        }
        // First mostly more of them, then fewer.
        let roll = random.random_range(0..100);
        let pick = lines.keys().nth(random.random_range(0..lines.len().max(1))).copied();
        if drawn < SNAPSHOTS && (roll < 70 || lines.is_empty()) {
            disk.admin().create_snapshot(&format!("s{drawn}")).expect("drawn");
            lines.insert(drawn, live.clone());
            drawn += 1;
        } else if let Some(number) = pick {
            // Rolling back drops what is newer: not so often that there are never many.
            if roll >= 98 {
                disk.admin().roll_back(&format!("s{number}")).expect("rolled back");
                live.clone_from(&lines[&number]);
                lines.retain(|&other, _| other <= number);
                rolled_back += 1;
            } else {
                disk.admin().delete_snapshot(&format!("s{number}")).expect("deleted");
                lines.remove(&number);
                deleted += 1;
            }
        }
        if roll % 16 == 0 {
            if random.random_bool(0.5) {
                disk.close().expect("closed");
            }
            drop(disk);
            // Not closed, its last writes are not durable, and a crash may drop them: the model is told what is there.
            disk = open(&dir, &keys);
            live = read(&disk);
        }
        assert_eq!(read(&disk), live);
        if let Some((number, content)) = lines.iter().nth(random.random_range(0..lines.len().max(1))) {
            assert_eq!(&read(&disk.at_snapshot(&format!("s{number}")).expect("a view")), content, "snapshot {number}");
        }
    }
    assert!(rolled_back > 2 && deleted > 50, "{rolled_back} rolled back, {deleted} deleted");
    disk.admin().scrub().expect("scrubbed");
    assert_eq!(disk.admin().usage().expect("usage").pending_scrub, Some(0));
    let held = disk.admin().layers().iter().map(|layer| layer.held).sum::<u64>();
    assert!(held <= (PAGES as u64 + 1) * PAGE as u64, "{held} bytes are held for a disk of {PAGES} pages");
    // What is not given back is at most the rest of a block of 4 KiB for each run that is held.
    let taken = stored(folder.path());
    assert!(taken <= 8 * (PAGES * PAGE) as u64, "{taken} bytes are taken by {held} that are held");
}
