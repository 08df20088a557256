//! How long opening takes: after a kill, and of a large disk in the worst state. The figures are printed, and fail only
//! far beyond their goal: `cargo test --lib disk::reopen_tests -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::commit::checkpoint::{self, Checkpoint};
use super::*;
use crate::io::real::RealDir;

const SIZE: u64 = 64 << 30;
const PAGES: u64 = SIZE / PAGE as u64;
const GOAL: Duration = Duration::from_secs(1);
const TIMES: usize = 5;

/// On the file system that temporary files are on: this is about the device, too.
struct TestDisk {
    folder: TempDir,
    uuid: Uuid,
    keys: DiskKeys,
}

impl TestDisk {
    fn new() -> Self {
        let place =
            Self { folder: TempDir::new().unwrap(), uuid: Uuid::new_v4(), keys: DiskKeys::ephemeral().unwrap() };
        let spec = Spec::new(place.uuid, "vhds/large", SIZE);
        Disk::create(place.dir(), &spec, place.keys.clone(), true, &Options::default()).unwrap();
        place
    }

    fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(RealDir::open(self.folder.path()).unwrap())
    }

    fn open(&self, encryption: bool) -> (Disk, Duration) {
        let start = Instant::now();
        let keys = Some(self.keys.clone());
        let disk = Disk::open(self.dir(), keys, None, Access::ReadWrite, encryption, Options::default()).unwrap();
        (disk, start.elapsed())
    }

    /// Opens again and again, each time after `before`, and gives the median.
    fn median(&self, mut before: impl FnMut(Disk)) -> Duration {
        let mut times: Vec<Duration> = (0..TIMES)
            .map(|_| {
                before(self.open(true).0);
                let (disk, time) = self.open(true);
                disk.close().unwrap();
                time
            })
            .collect();
        times.sort();
        times[TIMES / 2]
    }
}

/// Scattered writes, `flushed` of them a round, and then as many again that nobody flushed; and the process dies.
fn write_and_die(disk: Disk, rounds: usize, flushed: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..=rounds {
        for _ in 0..flushed {
            disk.write(random.random_range(0..PAGES) * PAGE as u64, &[5; PAGE], Durability::Volatile).unwrap();
        }
        if round < rounds {
            disk.flush().unwrap();
        }
    }
}

fn report(what: &str, time: Duration) {
    println!("{what}: {:.3} s", time.as_secs_f64());
    assert!(time < 5 * GOAL, "{what}: {time:?}");
}

#[test]
#[ignore = "takes half a minute; prints a figure"]
fn after_a_kill_with_a_full_log() {
    let place = TestDisk::new();
    // A batch takes 4 KiB of a log of 4 MiB.
    let time = place.median(|disk| write_and_die(disk, 900, 16));
    report("reopening after a kill, 900 batches in the log and 16 noted writes", time);
}

/// Every second page stored, half of those encrypted and half in plaintext, and every fourth marked as zero.
#[test]
#[ignore = "takes half a minute; prints figures"]
fn of_64_gib_with_every_second_page_stored() {
    let place = TestDisk::new();
    let (disk, _) = place.open(false);
    disk.write(0, &[1; PAGE], Durability::Volatile).unwrap();
    disk.close().unwrap();
    drop(disk);
    let names = place.dir().list().unwrap();
    let name = names.iter().find(|name| name.starts_with("checkpoint.")).unwrap();
    let path = place.folder.path().join(name);
    let epoch = name["checkpoint.".len()..].parse().unwrap();
    let content = std::fs::read(&path).unwrap();
    let (mut state, _) = Checkpoint::decode(&content, epoch, place.uuid, Some(&place.keys), &path).unwrap();
    let [encrypted, plain] = &mut state.layers[..] else { panic!("two layers") };
    for page in (0..PAGES).step_by(4) {
        encrypted.held.insert(page + 1..page + 2);
        plain.held.insert(page + 3..page + 4);
        plain.zero.insert(page + 2..page + 3);
    }
    assert_eq!(checkpoint::file_name(epoch), *name);
    let (content, _) = state.encode(epoch, place.uuid, &place.keys);
    println!("checkpoint: {} bytes", content.len());
    std::fs::write(&path, content).unwrap();

    let (disk, _) = place.open(true);
    let usage = disk.admin().usage().unwrap();
    assert_eq!((usage.encrypted, usage.plain), (SIZE / 4 + 512, SIZE / 4 + 512));
    drop(disk);
    report("reopening 64 GiB, every second page stored, closed before", place.median(drop));
    report("the same after a kill", place.median(|disk| write_and_die(disk, 20, 16)));
}
