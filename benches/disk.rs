//! The core in process: look-ups, reads and writes, what a flush costs beside a plain fdatasync, and what must not
//! depend on the size of a disk.
//!
//! Run with `cargo bench --bench disk`. It works in a temporary folder (`TMPDIR`), about 2 GiB of it.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::real::RealDir;
use tempfile::TempDir;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const BLOCK: usize = 4096;

struct Place {
    folder: TempDir,
    keys: DiskKeys,
}

impl Place {
    fn new(size: u64, encryption: bool) -> Self {
        let place = Self { folder: TempDir::new().unwrap(), keys: DiskKeys::ephemeral().unwrap() };
        let spec = Spec::new(Uuid::new_v4(), "vhds/bench", size);
        Disk::create(place.dir(), &spec, place.keys.clone(), encryption, &Options::default()).unwrap();
        place
    }

    fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(RealDir::open(self.folder.path()).unwrap())
    }

    fn open(&self, encryption: bool) -> Disk {
        let keys = Some(self.keys.clone());
        Disk::open(self.dir(), keys, None, Access::ReadWrite, encryption, Options::default()).unwrap()
    }
}

fn filled(size: u64, encryption: bool) -> (Place, Disk) {
    let place = Place::new(size, encryption);
    let disk = place.open(encryption);
    let chunk = vec![0x5a; 1 << 20];
    for at in (0..size).step_by(chunk.len()) {
        disk.write(at, &chunk, Durability::Volatile).unwrap();
    }
    disk.flush().unwrap();
    (place, disk)
}

/// A random block of the disk.
fn block(rng: &mut ChaCha8Rng, size: u64) -> u64 {
    rng.random_range(0..size / BLOCK as u64) * BLOCK as u64
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("4k random");
    for (name, encryption) in [("encrypted", true), ("plain", false)] {
        let (_place, disk) = filled(GIB, encryption);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut buf = [0; BLOCK];
        group.bench_function(format!("read, {name}"), |b| {
            b.iter(|| assert!(disk.try_read(block(&mut rng, GIB), &mut buf).unwrap()));
        });
        group.bench_function(format!("overwrite, {name}"), |b| {
            b.iter(|| assert!(disk.try_write(block(&mut rng, GIB), &buf).unwrap()));
        });
    }

    // Every other page of the disk under another layer: no 4 KiB are of one kind.
    let (_place, disk) = filled(GIB, true);
    disk.admin().rotate_key().unwrap();
    for page in (0..GIB / 512).step_by(2) {
        disk.write(page * 512, &[1; 512], Durability::Volatile).unwrap();
    }
    disk.flush().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut buf = [0; BLOCK];
    group.bench_function("read, every other page in another layer", |b| {
        b.iter(|| disk.read(block(&mut rng, GIB), &mut buf).unwrap());
    });
    let mut at = 0;
    group.bench_function("look-up of 1 MiB, every other page", |b| {
        b.iter(|| {
            at = (at + (1 << 20)) % GIB;
            disk.runs(at, 1 << 20, usize::MAX).unwrap().len()
        });
    });
    group.finish();

    snapshots(c);

    let mut group = c.benchmark_group("first writes");
    group.bench_function("4k random into a fresh disk", |b| {
        b.iter_batched_ref(
            || {
                let place = Place::new(GIB, true);
                let disk = place.open(true);
                (place, disk, ChaCha8Rng::seed_from_u64(2))
            },
            |(_, disk, rng)| {
                for _ in 0..1000 {
                    disk.write(block(rng, GIB), &[7; BLOCK], Durability::Volatile).unwrap();
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// What 200 snapshots cost a reader, beside a disk without: nothing written between them, or 20 blocks after each.
fn snapshots(c: &mut Criterion) {
    const SIZE: u64 = 64 << 20;
    let mut group = c.benchmark_group("4k random read, 64 MiB");
    for (name, snapshots, writes) in
        [("no snapshots", 0, 0), ("200, nothing written between", 200, 0), ("200, 20 blocks after each", 200, 20)]
    {
        let (_place, disk) = filled(SIZE, true);
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for number in 0..snapshots {
            disk.admin().create_snapshot(&format!("s{number}")).unwrap();
            for _ in 0..writes {
                disk.write(block(&mut rng, SIZE), &[7; BLOCK], Durability::Volatile).unwrap();
            }
        }
        let middle = (snapshots > 0).then(|| disk.at_snapshot("s100").unwrap());
        let mut buf = [0; BLOCK];
        for (of, view) in [("disk", Some(&disk)), ("snapshot 100", middle.as_ref())] {
            let Some(view) = view else { continue };
            group.bench_function(format!("{name}, of the {of}"), |b| {
                b.iter(|| view.read(block(&mut rng, SIZE), &mut buf).unwrap());
            });
        }
    }
    group.finish();
}

fn flushes(c: &mut Criterion) {
    let mut group = c.benchmark_group("one 4k write made durable");
    group.sample_size(30);
    let folder = TempDir::new().unwrap();
    let file = File::create(folder.path().join("plain")).unwrap();
    for at in (0..64 << 20).step_by(1 << 20) {
        file.write_all_at(&vec![1; 1 << 20], at).unwrap();
    }
    file.sync_all().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    group.bench_function("plain file, fdatasync", |b| {
        b.iter(|| {
            file.write_all_at(&[2; BLOCK], block(&mut rng, 64 << 20)).unwrap();
            file.sync_data().unwrap();
        });
    });
    let (_place, disk) = filled(64 << 20, true);
    group.bench_function("disk, in place", |b| {
        b.iter(|| {
            disk.write(block(&mut rng, 64 << 20), &[2; BLOCK], Durability::Volatile).unwrap();
            disk.flush().unwrap();
        });
    });
    let sparse = File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(TIB).unwrap();
    group.bench_function("sparse file, a new block each, fdatasync", |b| {
        b.iter(|| {
            sparse.write_all_at(&[2; BLOCK], block(&mut rng, TIB)).unwrap();
            sparse.sync_data().unwrap();
        });
    });
    let place = Place::new(TIB, true);
    let disk = place.open(true);
    group.bench_function("disk, presence changed", |b| {
        b.iter(|| {
            disk.write(block(&mut rng, TIB), &[2; BLOCK], Durability::Volatile).unwrap();
            disk.flush().unwrap();
        });
    });
    group.finish();
}

fn whole_disk(c: &mut Criterion) {
    let mut group = c.benchmark_group("8 TiB");
    group.sample_size(20);
    let place = Place::new(8 * TIB, true);
    let disk = place.open(true);
    for page in 0..1000 {
        disk.write(page << 33, &[1; 512], Durability::Volatile).unwrap();
    }
    disk.close().unwrap();
    drop(disk);
    group.bench_function("open", |b| b.iter_with_large_drop(|| place.open(true)));
    let disk = place.open(true);
    let mut on = true;
    group.bench_function("toggle", |b| {
        b.iter(|| {
            on = !on;
            disk.admin().set_encryption(on);
        });
    });
    group.bench_function("write one page, trim everything", |b| {
        b.iter(|| {
            disk.write(4 * TIB, &[1; 512], Durability::Volatile).unwrap();
            disk.zero(0, 8 * TIB, Durability::Volatile).unwrap();
        });
    });
    let mut number = 0;
    group.bench_function("snapshot, durable, and its deletion", |b| {
        b.iter(|| {
            number += 1;
            disk.admin().create_snapshot(&format!("s{number}")).unwrap();
            disk.admin().delete_snapshot(&format!("s{number}")).unwrap();
        });
    });
    group.bench_function("create", |b| b.iter_with_large_drop(|| Place::new(8 * TIB, true)));
    group.finish();
}

criterion_group!(benches, blocks, flushes, whole_disk);
criterion_main!(benches);
