//! The block allocation table: where in the file each block of a dynamic or differencing disk lies.

use std::ops::ControlFlow;

use super::header::Header;
use super::meta::{Metadata, Notice};
use super::source::Source;
use super::{Fault, SECTOR, Warning};
use crate::{Error, Result};

/// The most entries in all tables of a chain: what the worst of tables costs stays at a tenth of a second and 40 MiB.
/// 2040 GiB in blocks of 512 KiB, the smallest that any implementation is known to make, need just fewer.
pub const MAX_ENTRIES: u64 = 4 << 20;

/// Bytes of the table read at a time, so that a bad entry is found before the rest is read.
const CHUNK: usize = 64 << 10;
const UNUSED: u32 = u32::MAX;

/// The entries that the disk's size needs, each checked: a block lies in the file, on no structure and on no other.
#[derive(Debug)]
pub struct Bat {
    entries: Vec<u32>,
}

impl Bat {
    /// `budget`: entries that may still be held; is lowered. `report` hears of each bad entry and decides whether to
    /// go on; the table is only fit for use if it was never called. The notice is about bytes that belong to nothing.
    pub(super) fn read(
        source: &dyn Source,
        meta: &Metadata,
        header: &Header,
        budget: &mut u64,
        report: &mut dyn FnMut(Error) -> ControlFlow<Error>,
    ) -> Result<(Self, Option<Notice>)> {
        // `Metadata` has checked that the whole table lies in the file.
        let count = meta.footer().size().div_ceil(header.block_size());
        *budget = budget.checked_sub(count).ok_or_else(|| {
            let what = format!("the block allocation tables have more than {MAX_ENTRIES} entries in use");
            Fault::LimitExceeded.at(header.table_offset(), what)
        })?;
        let mut checker = Checker::new(meta, header);
        let mut entries = Vec::with_capacity(count as usize);
        let mut chunk = vec![0; CHUNK.min(count as usize * 4)];
        let mut fault = |error| match report(error) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        };
        while (entries.len() as u64) < count {
            let len = chunk.len().min((count as usize - entries.len()) * 4);
            source.read_at(header.table_offset() + entries.len() as u64 * 4, &mut chunk[..len])?;
            for bytes in chunk[..len].chunks_exact(4) {
                let entry = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                if entry != UNUSED
                    && let Err(error) = checker.entry(entries.len() as u64, entry)
                {
                    fault(error)?;
                }
                entries.push(entry);
            }
        }
        if !checker.ascending {
            overlaps(&entries, &checker, &mut fault)?;
        }
        Ok((Self { entries }, checker.gap()))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Byte of the file at which the bitmap of block `index` begins; `None`: the block is not in this file.
    #[must_use]
    pub fn block(&self, index: usize) -> Option<u64> {
        let entry = self.entries[index];
        (entry != UNUSED).then(|| u64::from(entry) * SECTOR)
    }

    /// The first block at or after `index` and before `stop` that is in this file, else `stop`.
    #[must_use]
    pub fn next_used(&self, index: usize, stop: usize) -> usize {
        self.entries[index..stop].iter().position(|&entry| entry != UNUSED).map_or(stop, |at| index + at)
    }

    /// Blocks in this file.
    #[must_use]
    pub fn used(&self) -> usize {
        self.entries.iter().filter(|&&entry| entry != UNUSED).count()
    }
}

/// Checks entries one by one.
struct Checker {
    table: u64,
    /// Bytes of a block with its bitmap.
    stride: u64,
    end: u64,
    structures: Vec<(&'static str, std::ops::Range<u64>)>,
    /// End of the last block seen.
    last: u64,
    /// Each block so far lies behind the one before, so none can overlap.
    ascending: bool,
    used: u64,
    /// The first byte that nothing lies behind.
    content_end: u64,
}

impl Checker {
    fn new(meta: &Metadata, header: &Header) -> Self {
        let structures = meta.structures();
        let content_end = structures.iter().map(|(_, range)| range.end.next_multiple_of(SECTOR)).max().unwrap_or(0);
        Self {
            table: header.table_offset(),
            stride: header.block_size() + header.bitmap_size(),
            end: meta.end(),
            structures,
            last: 0,
            ascending: true,
            used: 0,
            content_end,
        }
    }

    fn entry(&mut self, index: u64, entry: u32) -> Result<()> {
        let at = self.table + index * 4;
        let start = u64::from(entry) * SECTOR;
        let end = start + self.stride;
        if end > self.end {
            let what = format!("block {index} (sector {entry:#x}, up to byte {end}) reaches past {}", self.end);
            return Err(Fault::BlockOutOfFile.at(at, what));
        }
        if let Some((name, range)) = self.structures.iter().find(|(_, s)| start < s.end && s.start < end) {
            let what = format!("block {index} (sector {entry:#x}) lies on the {name} at {}", range.start);
            return Err(Fault::MetadataOverlap.at(at, what));
        }
        self.used += 1;
        // Without this, a small file with a large table of equal entries would cost more than its size is worth.
        if self.used * self.stride > self.end {
            let what = format!("block {index} is one more than the file has room for: blocks overlap");
            return Err(Fault::BlockOverlap.at(at, what));
        }
        self.ascending &= start >= self.last;
        self.last = end;
        self.content_end = self.content_end.max(end);
        Ok(())
    }

    fn gap(&self) -> Option<Notice> {
        let gap = self.end.checked_sub(self.content_end).filter(|&gap| gap > 0)?;
        let what = format!("{gap} bytes between the last block and the footer belong to nothing");
        Some(Notice::new(Warning::TrailingGap, self.content_end, what))
    }
}

/// Looks for blocks that share bytes, in O(n log n).
fn overlaps(entries: &[u32], checker: &Checker, fault: &mut dyn FnMut(Error) -> Result<()>) -> Result<()> {
    let mut order: Vec<u32> = entries.iter().copied().filter(|&entry| entry != UNUSED).collect();
    order.sort_unstable();
    for pair in order.windows(2) {
        if u64::from(pair[1] - pair[0]) * SECTOR >= checker.stride {
            continue;
        }
        // Found by value: where in the table it stands is only worth looking for now.
        let index = entries.iter().rposition(|&entry| entry == pair[1]).unwrap_or(0) as u64;
        let what = format!("block {index} (sector {:#x}) lies on the block at sector {:#x}", pair[1], pair[0]);
        fault(Fault::BlockOverlap.at(checker.table + index * 4, what))?;
    }
    Ok(())
}
