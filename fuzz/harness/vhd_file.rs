//! Any bytes as a VHD, or as one and its parent: opened, read, and compared with a reader that is as plain as can be
//! and shares nothing with the real one.
//!
//! Input: one byte of flags (1: checksums are made right first, so that mutations reach behind them; 2: recover; 4: two
//! files), with two files the length of the first as a big-endian u32, and the files.

use std::sync::Arc;

use sealdisk::io::source::Source;
use sealdisk::vhd::{Stored, open_sources};

/// Larger disks are opened, and read at their ends only.
const WHOLE: u64 = 256 << 10;

pub(crate) fn run(data: &[u8]) {
    let Some((&flags, mut rest)) = data.split_first() else { return };
    let mut files = Vec::new();
    if flags & 4 != 0 {
        let Some((len, files_bytes)) = rest.split_first_chunk::<4>() else { return };
        let len = (u32::from_be_bytes(*len) as usize).min(files_bytes.len());
        files.push(files_bytes[..len].to_vec());
        rest = &files_bytes[len..];
    }
    files.push(rest.to_vec());
    if flags & 1 != 0 {
        files.iter_mut().for_each(|file| seal(file));
    }
    let recover = flags & 2 != 0;
    let sources = files.iter().map(|file| Arc::new(file.clone()) as Arc<dyn Source>).collect();
    let Ok(chain) = open_sources(sources, recover) else { return };
    let size = chain.size();
    assert!(size > 0 && size.is_multiple_of(512));
    let plain: Vec<Plain<'_>> = files.iter().map(|file| Plain::new(file, recover)).collect();
    let (head, tail) = if size <= WHOLE { (size, size) } else { (WHOLE / 2, size - WHOLE / 2) };
    for (start, end) in [(0, head), (tail, size)] {
        let mut buf = vec![0xAA; (end - start) as usize];
        assert!(chain.read(start, &mut buf, true).expect("a file in memory"));
        let mut held = Vec::new();
        let note = &mut |stored, len: u64| {
            held.extend(std::iter::repeat_n(stored == Stored::Data, (len / 512) as usize));
            Ok(())
        };
        chain.runs(start, end - start, note).expect("a file in memory");
        assert_eq!(held.len() as u64, (end - start) / 512);
        for (n, sector) in buf.chunks_exact(512).enumerate() {
            let expected = shown(&plain, start / 512 + n as u64);
            assert!(sector == expected.unwrap_or(&[0; 512]), "sector {n} from {start}");
            assert_eq!(held[n], expected.is_some());
        }
    }
}

/// Sector `n` of a chain, if any of its files holds it.
fn shown<'a>(chain: &[Plain<'a>], n: u64) -> Option<&'a [u8]> {
    chain.iter().take_while(|file| n < file.size / 512).find_map(|file| file.sector(n))
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// Makes the checksums of a file right, wherever there is a footer or a header.
fn seal(file: &mut [u8]) {
    let last = file.len().saturating_sub(512);
    for at in [last, 0] {
        if file.get(at..at + 8) != Some(b"conectix") {
            continue;
        }
        let Some(footer) = file.get_mut(at..at + 512) else { continue };
        sum(footer, 64);
        let header = number(footer, 16, 8) as usize;
        if let Some(header) = header.checked_add(1024).and_then(|end| file.get_mut(header..end)) {
            sum(header, 36);
        }
    }
}

fn sum(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = !bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    bytes[field..field + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A file that is known to be a sound VHD.
struct Plain<'a> {
    file: &'a [u8],
    size: u64,
    /// Offset of the dynamic header, if there is one.
    header: Option<usize>,
}

impl<'a> Plain<'a> {
    fn new(file: &'a [u8], recover: bool) -> Self {
        let valid = |at: usize| {
            let mut footer = [0; 512];
            let rest = &file[at..];
            let len = rest.len().min(512);
            footer[..len].copy_from_slice(&rest[..len]);
            let mut sealed = footer;
            sum(&mut sealed, 64);
            (footer[..8] == *b"conectix" && sealed == footer).then_some(footer)
        };
        let end = file.len() - 512.min(file.len());
        let mut footer = valid(end).or_else(|| (file.len() % 512 == 511).then(|| valid(file.len() - 511)).flatten());
        let sound = footer.is_some_and(|f| {
            let kind = number(&f, 60, 4);
            let little_endian = &f[28..32] == b"tap\0" && number(&f, 32, 4) == 1 && kind != 2;
            let size = number(&f, 48, 8);
            let fits = kind == 2 || size <= 2040 << 30;
            number(&f, 12, 2) == 1
                && (2..=4).contains(&kind)
                && size > 0
                && size.is_multiple_of(512)
                && fits
                && !little_endian
        });
        if !sound && recover {
            footer = valid(0);
        }
        let footer = footer.expect("it was opened");
        let header = (number(&footer, 60, 4) != 2).then(|| number(&footer, 16, 8) as usize);
        Self { file, size: number(&footer, 48, 8), header }
    }

    fn sector(&self, n: u64) -> Option<&'a [u8]> {
        let Some(header) = self.header else { return Some(&self.file[n as usize * 512..][..512]) };
        let per_block = number(self.file, header + 32, 4) / 512;
        let table = number(self.file, header + 16, 8) as usize;
        let entry = number(self.file, table + (n / per_block) as usize * 4, 4);
        if entry == 0xFFFF_FFFF {
            return None;
        }
        let bitmap = entry as usize * 512;
        let within = (n % per_block) as usize;
        let bitmap_len = (per_block as usize / 8).div_ceil(512) * 512;
        let held = self.file[bitmap + within / 8] >> (7 - within % 8) & 1 == 1;
        held.then(|| &self.file[bitmap + bitmap_len + within * 512..][..512])
    }
}
