//! The block allocation table: where in the file each block of a dynamic or differencing disk lies.

use std::ops::{ControlFlow, Range};

use memmap2::{Advice, MmapMut};
use zerocopy::FromBytes;

use super::header::Header;
use super::meta::{Metadata, Notice};
use super::{Fault, SECTOR, Warning};
use crate::io::source::Source;
use crate::{Error, Result};

/// The most entries in all tables of a chain, which bounds memory at 40 MiB. 2040 GiB in blocks of 512 KiB, the
/// smallest that any implementation is known to make, need just fewer.
pub const MAX_ENTRIES: u64 = 4 << 20;

/// The most block-sized places of a file that are told apart to find blocks on each other when they do not lie in it in
/// ascending order. 2040 GiB in blocks of 512 KiB, each with its bitmap on 4 KiB borders, need fewer.
const MAX_PLACES: u64 = 5 << 20;

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
        Ok((Self { entries }, checker.gap(meta.end())))
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

/// Checks entries one by one. Positions are in sectors but where they are said to be in bytes: a block begins on a
/// sector, so nothing is lost by rounding what it must not touch outwards.
struct Checker {
    /// Byte of the file at which the table begins.
    table: u64,
    /// Sectors of a block with its bitmap.
    stride: u64,
    /// Where blocks must end.
    end: u64,
    /// Blocks that there is room for.
    room: u64,
    /// In bytes.
    structures: Vec<(&'static str, Range<u64>)>,
    forbidden: Forbidden,
    /// End of the last block seen.
    last: u64,
    /// Each block so far lies behind the one before, so none can overlap.
    ascending: bool,
    used: u64,
    /// The first sector that nothing lies behind.
    content_end: u64,
}

impl Checker {
    fn new(meta: &Metadata, header: &Header) -> Self {
        let structures = meta.structures();
        let (stride, end) = ((header.block_size() + header.bitmap_size()) / SECTOR, meta.end() / SECTOR);
        Self {
            table: header.table_offset(),
            stride,
            end,
            room: end / stride,
            forbidden: Forbidden::new(&structures),
            content_end: structures.iter().map(|(_, range)| range.end.div_ceil(SECTOR)).max().unwrap_or(0),
            structures,
            last: 0,
            ascending: true,
            used: 0,
        }
    }

    #[inline]
    fn entry(&mut self, index: u64, entry: u32) -> Result<()> {
        let start = u64::from(entry);
        let end = start + self.stride;
        self.used += 1;
        if end > self.end || self.used > self.room || self.forbidden.touches(entry, end) {
            self.refuse(index, entry)?;
        }
        self.ascending &= start >= self.last;
        self.last = end;
        self.content_end = self.content_end.max(end);
        Ok(())
    }

    /// What is wrong with an entry, if anything is.
    #[cold]
    fn refuse(&mut self, index: u64, entry: u32) -> Result<()> {
        let at = self.table + index * 4;
        let (start, end) = (u64::from(entry) * SECTOR, (u64::from(entry) + self.stride) * SECTOR);
        let fault = if end > self.end * SECTOR {
            let what =
                format!("block {index} (sector {entry:#x}, up to byte {end}) reaches past {}", self.end * SECTOR);
            Fault::BlockOutOfFile.at(at, what)
        } else if let Some((name, range)) = self.structures.iter().find(|(_, s)| start < s.end && s.start < end) {
            let what = format!("block {index} (sector {entry:#x}) lies on the {name} at {}", range.start);
            Fault::MetadataOverlap.at(at, what)
        } else if self.used > self.room {
            // Without this, a small file with a large table of equal entries would cost more than its size is worth.
            let what = format!("block {index} is one more than the file has room for: blocks overlap");
            Fault::BlockOverlap.at(at, what)
        } else {
            return Ok(());
        };
        // What lies elsewhere takes no room.
        self.used -= 1;
        Err(fault)
    }

    fn gap(&self, end: u64) -> Option<Notice> {
        let content_end = self.content_end * SECTOR;
        let gap = end.checked_sub(content_end).filter(|&gap| gap > 0)?;
        let what = format!("{gap} bytes between the last block and the footer belong to nothing");
        Some(Notice::new(Warning::TrailingGap, content_end, what))
    }
}

/// Where structures lie, in a form that is compared without a branch: tables have millions of entries.
struct Forbidden {
    starts: [u32; Self::PLACES],
    ends: [u32; Self::PLACES],
    /// Where the last of them ends: most files have their blocks behind it.
    end: u32,
}

impl Forbidden {
    /// Footer copy, header, table, eight locators; more makes whole registers.
    const PLACES: usize = 12;

    fn new(structures: &[(&'static str, Range<u64>)]) -> Self {
        debug_assert!(structures.len() <= Self::PLACES);
        let mut forbidden = Self { starts: [u32::MAX; Self::PLACES], ends: [0; Self::PLACES], end: 0 };
        for (n, (_, range)) in structures.iter().take(Self::PLACES).enumerate() {
            forbidden.starts[n] = clamp(range.start / SECTOR);
            forbidden.ends[n] = clamp(range.end.div_ceil(SECTOR));
            forbidden.end = forbidden.end.max(forbidden.ends[n]);
        }
        forbidden
    }

    /// Whether a block from sector `start` to `end` may touch a structure; never wrongly `false`.
    #[inline]
    fn touches(&self, start: u32, end: u64) -> bool {
        // Past 2 TiB, where sectors need more bits, another look is needed.
        let clamped = clamp(end);
        let mut any = clamped == u32::MAX;
        if start >= self.end {
            return any;
        }
        for (from, to) in self.starts.iter().zip(&self.ends) {
            any |= (start < *to) & (*from < clamped);
        }
        any
    }
}

fn clamp(sector: u64) -> u32 {
    u32::try_from(sector).unwrap_or(u32::MAX)
}

/// Looks for blocks that share bytes, in O(places of the file), without sorting. A place is the largest power of two of
/// sectors that is no longer than a block: two blocks that begin in one place overlap, and a block can only overlap
/// those that begin up to two places before or behind its own.
fn overlaps(entries: &[u32], checker: &Checker, fault: &mut dyn FnMut(Error) -> Result<()>) -> Result<()> {
    const REACH: usize = 2;
    let shift = checker.stride.ilog2();
    let places = checker.end >> shift;
    if places > MAX_PLACES {
        let what = format!("blocks in no order, and the file has room for more than {MAX_PLACES} of them");
        return Err(Fault::LimitExceeded.at(checker.table, what));
    }
    // Where the block that begins in a place begins; 0, where the footer copy lies, for none. Looked at all over: huge
    // pages, where there are any, halve the time.
    let count = places as usize + 1 + 2 * REACH;
    let mut map =
        MmapMut::map_anon(count * size_of::<u32>()).map_err(|error| Error::io("no memory to check blocks", error))?;
    let _ = map.advise(Advice::HugePage);
    let (begins, _) =
        <[u32]>::mut_from_prefix_with_elems(&mut map, count).expect("a mapping is aligned, and this long");
    for (index, &entry) in entries.iter().enumerate().filter(|&(_, &entry)| entry != UNUSED) {
        let place = (entry >> shift) as usize;
        // What reaches past the file was refused before.
        let Some(near) = begins.get_mut(place..=place + 2 * REACH) else { continue };
        let touches = |&&other: &&u32| other != 0 && u64::from(other.abs_diff(entry)) < checker.stride;
        if let Some(other) = near.iter().find(touches) {
            let what = format!("block {index} (sector {entry:#x}) lies on the block at sector {other:#x}");
            fault(Fault::BlockOverlap.at(checker.table + index as u64 * 4, what))?;
        }
        near[REACH] = entry;
    }
    Ok(())
}
