//! Reading bases: the same content front to back from a fixed and from a dynamic VHD, and opening large and hostile
//! ones.
//!
//! Files lie in the temporary directory and are read from the page cache, filled in the same way for each, so that what
//! differs is our work: how large the pieces are in which a file came into the cache alone makes a factor of two.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::base::{self, BaseImage, OpenOptions};
use sealdisk::copy::convert::{ConvertOptions, Target, convert};
use sealdisk::vhd::create::{New, create};

const SIZE: u64 = 256 << 20;

fn read_all(image: &dyn BaseImage, buf: &mut [u8]) {
    for at in (0..image.size()).step_by(buf.len()) {
        image.read_at(at, buf).expect("a readable image");
    }
    black_box(buf);
}

/// Has the file in the page cache as a plain reader brings it there.
fn refill_page_cache(path: &Path) {
    let mut file = fs::File::open(path).expect("the file");
    file.sync_all().expect("a sync");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    std::io::copy(&mut file, &mut std::io::sink()).expect("a readable file");
}

fn sequential(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let raw = dir.path().join("in.raw");
    let content: Vec<u8> =
        (0..SIZE / 8).flat_map(|n| (n | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    fs::write(&raw, content).expect("space");
    let mut group = c.benchmark_group("sequential");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(20);
    for (name, target) in [("fixed", Target::Fixed), ("dynamic", Target::Dynamic { block_size: 2 << 20 })] {
        let path = dir.path().join(format!("{name}.vhd"));
        let options = ConvertOptions { input: OpenOptions::default(), target, azure: false };
        convert(&raw, &path, &options, &mut |_, _, _| {}).expect("a copy");
        refill_page_cache(&path);
        let (image, _) = base::open(&path, &OpenOptions::default()).expect("an image");
        for piece in [64 << 10, 1 << 20] {
            let mut buf = vec![0; piece];
            group.bench_function(format!("{name}/{} KiB", piece >> 10), |b| b.iter(|| read_all(&*image, &mut buf)));
        }
    }
}

fn opening(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(format!("{name}.vhd"));
    create(&path("fixed"), &New::Fixed { size: 30 << 30 }).expect("a disk");
    create(&path("dynamic"), &New::Dynamic { size: 2040 << 30, block_size: 2 << 20 }).expect("a disk");
    // The largest table that is read at all, 16 MiB, every entry the same block right behind it.
    create(&path("hostile"), &New::Dynamic { size: 16 << 30, block_size: 4 << 10 }).expect("a disk");
    let hostile = fs::File::options().read(true).write(true).open(path("hostile")).expect("the disk");
    let (mut footer, end) = ([0; 512], 1536 + (16 << 20));
    hostile.read_exact_at(&mut footer, 0).expect("the footer copy");
    hostile.write_all_at(&footer, end + 4608).expect("space");
    hostile.write_all_at(&u32::to_be_bytes((end / 512) as u32).repeat(4 << 20), 1536).expect("space");
    let open = |path: &Path| black_box(base::open(path, &OpenOptions::default()).is_ok());
    for name in ["fixed", "dynamic", "hostile"] {
        c.bench_function(&format!("open/{name}"), |b| b.iter(|| open(&path(name))));
    }
}

criterion_group!(benches, sequential, opening);
criterion_main!(benches);
