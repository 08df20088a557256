//! A reader never sees a page half old and half new: on some file systems a buffered read is not atomic against a
//! write, and the range locks make it so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::real::RealDir;
use uuid::Uuid;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4;

#[test]
fn no_read_is_torn() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let dir: Arc<dyn Dir> = Arc::new(RealDir::open(folder.path()).expect("the directory"));
    let keys = DiskKeys::ephemeral().expect("keys");
    let size = BLOCKS * BLOCK as u64;
    let spec = Spec::new(Uuid::from_u128(1), "c/b", size);
    let options = Options::default();
    Disk::create(Arc::clone(&dir), &spec, keys.clone(), true, &options).expect("a disk");
    let disk = Disk::open(dir, Some(keys), None, Access::ReadWrite, true, options).expect("it opens");
    let stop = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0_u8;
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let offset = u64::from(number) % BLOCKS * BLOCK as u64;
                disk.write(offset, &[number; BLOCK], Durability::Volatile).expect("a write");
            }
        });
        let begun = Instant::now();
        let (mut reads, mut buf) = (0_u64, [0; BLOCK]);
        while begun.elapsed() < Duration::from_secs(2) {
            disk.read(reads % BLOCKS * BLOCK as u64, &mut buf).expect("a read");
            assert!(buf.iter().all(|byte| *byte == buf[0]), "read {reads} is torn");
            reads += 1;
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer ends");
        reads
    });
    assert!(reads > 1000, "only {reads} reads");
}
