//! What snapshots cost a reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::real::RealDir;
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 4096;
const SNAPSHOTS: usize = 200;
/// Reading with so many snapshots may take so many times as long as without.
const GOAL: f64 = 1.5;
/// A noisy machine does not fail the test; a walk through the stack does, which takes ten times as long.
const SLACK: f64 = 5.0;

/// Written all over, then with `snapshots`, and `writes` blocks written after each.
fn disk(snapshots: usize, writes: usize) -> (TempDir, Disk) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let dir = Arc::new(RealDir::open(folder.path()).expect("a directory"));
    let keys = DiskKeys::ephemeral().expect("keys");
    let spec = Spec::new(uuid::Uuid::from_u128(1), "vhds/disk", SIZE);
    Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).expect("made");
    let disk = Disk::open(dir, Some(keys), None, Access::ReadWrite, true, Options::default()).expect("opened");
    let mut random = StdRng::seed_from_u64(7);
    let block = vec![7; 1 << 20];
    for at in 0..SIZE >> 20 {
        disk.write(at << 20, &block, Durability::Volatile).expect("written");
    }
    for number in 0..snapshots {
        disk.admin().create_snapshot(&format!("s{number}")).expect("drawn");
        for _ in 0..writes {
            let at = random.random_range(0..SIZE / BLOCK as u64) * BLOCK as u64;
            disk.write(at, &block[..BLOCK], Durability::Volatile).expect("written");
        }
    }
    (folder, disk)
}

fn time_of_reads(disk: &Disk, random: &mut StdRng) -> Duration {
    let mut buf = [0; BLOCK];
    let start = Instant::now();
    for _ in 0..4000 {
        disk.read(random.random_range(0..SIZE / BLOCK as u64) * BLOCK as u64, &mut buf).expect("read");
    }
    start.elapsed() / 4000
}

#[test]
fn reads_are_hardly_slower_with_two_hundred_snapshots() {
    let (_kept, none) = disk(0, 0);
    let (_kept, plain) = disk(SNAPSHOTS, 0);
    let (_kept, spread) = disk(SNAPSHOTS, 20);
    let middle = spread.at_snapshot("s100").expect("a view");
    let mut random = StdRng::seed_from_u64(8);
    // In turn, so that what else the machine does meets all of them; the least of many is what it takes.
    let mut least = [Duration::MAX; 4];
    for _ in 0..15 {
        for (disk, least) in [&none, &plain, &spread, &middle].into_iter().zip(&mut least) {
            *least = (*least).min(time_of_reads(disk, &mut random));
        }
    }
    let names = ["none", "nothing written between", "20 blocks written after each", "the same, of a snapshot"];
    for (name, took) in names.into_iter().zip(least) {
        let times = took.as_secs_f64() / least[0].as_secs_f64();
        println!("4 KiB reads, {SNAPSHOTS} snapshots, {name}: {} ns, {times:.2}x", took.as_nanos());
        assert!(times < GOAL * SLACK, "{name}: {times:.2} times as long as without snapshots");
    }
}
