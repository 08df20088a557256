//! Blocks put in any order into a new dynamic disk, which is then read back.
//!
//! Input: sectors of the disk (u16) and block size (a power of two from 4 KiB, u8), then three bytes for each block:
//! its number (u16) and what it is filled with.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use sealdisk::io::real::RealFile;
use sealdisk::io::sink::Sink;
use sealdisk::vhd::open_sources;
use sealdisk::vhd::write::SparseWriter;

pub(crate) fn run(data: &[u8]) {
    let [high, low, shift, puts @ ..] = data else { return };
    let size = (u64::from(u16::from_be_bytes([*high, *low])) % 2048 + 1) * 512;
    let block = 4096_usize << (shift % 5);
    let file = File::from(rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).expect("memory"));
    let disk = RealFile::new(file.try_clone().expect("a descriptor"));
    let mut writer = SparseWriter::new(Sink::empty(&disk), size, block as u64, Default::default(), 1 << 30, None)
        .expect("a good size");
    let mut model = vec![0; size as usize];
    let mut seen = std::collections::HashSet::new();
    for put in puts.chunks_exact(3) {
        let index = u16::from_be_bytes([put[0], put[1]]) as usize % model.len().div_ceil(block);
        // A block is written once.
        if !seen.insert(index) {
            continue;
        }
        let end = ((index + 1) * block).min(model.len());
        let part = &mut model[index * block..end];
        part.fill(put[2]);
        writer.put(index, part).expect("memory");
    }
    writer.finish().expect("memory");
    let mut bytes = vec![0; file.metadata().expect("memory").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("memory");
    let chain = open_sources(vec![Arc::new(bytes)], false).expect("what was written is sound");
    assert!(chain.images()[0].notices().is_empty(), "{:?}", chain.images()[0].notices());
    let mut read = vec![0xAA; model.len()];
    chain.read(0, &mut read, true).expect("a file in memory");
    assert!(read == model);
}
