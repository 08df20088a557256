//! 4 KiB random reads of a 64 GiB disk that is as fragmented as can be, beside the same reads of a fresh one, by the
//! time of the processor.
//!
//! Both lie over the same empty base image and hold the same gibibyte of data, in runs of 64 KiB all over the disk, so
//! that the page cache has as much to do for either. On the fresh disk it was written once, and that is all. On the
//! fragmented one the blocks of a run are in two or eight layers in turn, and between the runs every other block is
//! marked as zero: sixteen million runs. Reads go to blocks that are held, in an order of chance, so that each is one
//! read of the page cache.
//!
//! Run with `cargo bench --bench fragmented`. It works in a temporary folder (`TMPDIR`), about 4 GiB of it, and takes a
//! few minutes.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::time::{ClockId, clock_gettime};
use sealdisk::base;
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::real::RealDir;
use tempfile::TempDir;
use uuid::Uuid;

const SIZE: u64 = 64 << 30;
const BLOCK: u64 = 4096;
/// Blocks of data together.
const RUN: u64 = 16;
/// From the beginning of one run to that of the next.
const STRIDE: u64 = 1024;
const RUNS: u64 = SIZE / BLOCK / STRIDE;
const READS: usize = 200_000;
const ROUNDS: usize = 7;
/// Rounds before those that count: what reads find out about a disk is kept for the ones after them.
const WARM: usize = 5;

struct Place {
    _folder: TempDir,
    disk: Disk,
}

fn place(image: &Path) -> Place {
    let folder = TempDir::new().unwrap();
    let dir = || -> Arc<dyn Dir> { Arc::new(RealDir::open(folder.path()).unwrap()) };
    let keys = DiskKeys::ephemeral().unwrap();
    // Nothing is noted for a killed process: it only makes the preparation longer.
    let options = Options { boot: None, ..Options::default() };
    // Over a base whatever is trimmed has to be marked.
    let (base, record) = base::open(image, &base::OpenOptions::default()).unwrap();
    let spec = Spec { base: Some(record), ..Spec::new(Uuid::new_v4(), "vhds/bench", SIZE) };
    Disk::create(dir(), &spec, keys.clone(), true, &options).unwrap();
    let disk = Disk::open(dir(), Some(keys), Some(base), Access::ReadWrite, true, options).unwrap();
    Place { _folder: folder, disk }
}

/// Writes these blocks, each for itself.
fn write(disk: &Disk, blocks: impl Iterator<Item = u64>) {
    for block in blocks {
        disk.write(block * BLOCK, &[0x5a; BLOCK as usize], Durability::Volatile).unwrap();
    }
}

/// Where the held block of this number lies.
fn held(number: u64) -> u64 {
    number / RUN * STRIDE + number % RUN
}

fn fresh(image: &Path) -> Place {
    let place = place(image);
    write(&place.disk, (0..RUNS * RUN).map(held));
    place.disk.flush().unwrap();
    place
}

fn fragmented(image: &Path, layers: usize) -> Place {
    let place = place(image);
    let disk = &place.disk;
    for run in 0..RUNS {
        for block in (RUN..STRIDE).step_by(2) {
            disk.zero((run * STRIDE + block) * BLOCK, BLOCK, Durability::Volatile).unwrap();
        }
    }
    for layer in 0..layers {
        if layer > 0 {
            disk.admin().rotate_key().unwrap();
        }
        write(disk, (layer as u64..RUNS * RUN).step_by(layers).map(held));
    }
    disk.flush().unwrap();
    let runs = disk.runs(0, STRIDE * BLOCK, usize::MAX).unwrap().len() as u64;
    assert!(runs >= STRIDE - RUN, "{runs} runs in a stride");
    place
}

/// Nanoseconds of the processor for each of `READS` reads.
fn read(disk: &Disk, rng: &mut ChaCha8Rng) -> f64 {
    let mut buf = [0; BLOCK as usize];
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let started = now();
    for _ in 0..READS {
        disk.read(held(rng.random_range(0..RUNS * RUN)) * BLOCK, &mut buf).unwrap();
    }
    assert_eq!(buf, [0x5a; BLOCK as usize]);
    (now() - started) as f64 / READS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("base.raw");
    File::create_new(&image).unwrap().set_len(SIZE).unwrap();
    let places = [fresh(&image), fragmented(&image, 2), fragmented(&image, 8)];
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut times = [const { Vec::new() }; 3];
    for round in 0..WARM + ROUNDS {
        for (place, times) in places.iter().zip(&mut times) {
            let time = read(&place.disk, &mut rng);
            if round >= WARM {
                times.push(time);
            }
        }
    }
    let [fresh, two, eight] = times.map(median);
    println!("4 KiB random reads of 64 GiB, median of {ROUNDS} rounds in turn, processor time of each:");
    println!("fresh {fresh:.0} ns");
    for (layers, time) in [(2, two), (8, eight)] {
        println!("fragmented, {layers} layers: {time:.0} ns, ratio {:.2} (goal 1.10)", time / fresh);
    }
}
