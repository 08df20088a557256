//! One open VHD file, without its parents: which ranges of the disk it holds, and where in the file.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::bat::Bat;
use super::bitmap::Bitmaps;
use super::meta::{Metadata, Notice};
use super::{DiskType, SECTOR};
use crate::io::source::Source;
use crate::{Error, Result};

/// See the module documentation.
#[derive(Debug)]
pub struct Image {
    source: Arc<dyn Source>,
    meta: Metadata,
    blocks: Option<Blocks>,
    notices: Vec<Notice>,
}

#[derive(Debug)]
struct Blocks {
    bat: Bat,
    bitmaps: Bitmaps,
    block_size: u64,
    bitmap_size: u64,
}

impl Image {
    /// `meta` is what [`Metadata::read`] gave for `source`; `budget` and `report` as for [`Bat::read`].
    pub(super) fn new(
        source: Arc<dyn Source>,
        meta: Metadata,
        budget: &mut u64,
        report: &mut dyn FnMut(Error) -> ControlFlow<Error>,
    ) -> Result<Self> {
        let mut notices = meta.notices().to_vec();
        let blocks = match meta.header() {
            None => None,
            Some(header) => {
                let (bat, gap) = Bat::read(&*source, &meta, header, budget, report)?;
                notices.extend(gap);
                let bitmaps = Bitmaps::new(bat.len(), header.bitmap_size());
                Some(Blocks { bat, bitmaps, block_size: header.block_size(), bitmap_size: header.bitmap_size() })
            }
        };
        Ok(Self { source, meta, blocks, notices })
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.meta.footer().size()
    }

    #[must_use]
    pub fn kind(&self) -> DiskType {
        self.meta.kind()
    }

    #[must_use]
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// Of dynamic and differencing disks.
    #[must_use]
    pub fn bat(&self) -> Option<&Bat> {
        self.blocks.as_ref().map(|blocks| &blocks.bat)
    }

    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// The ranges of the file, in bytes, that describe the disk without being its content.
    #[must_use]
    pub fn metadata_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let mut ranges: Vec<_> = self.meta.structures().into_iter().map(|(_, range)| range).collect();
        ranges.push(self.meta.end()..self.source.size());
        ranges
    }

    /// Visits the runs of `[offset, offset + len)` of the disk, in order: the byte of the file where the run lies, or
    /// `None` where this file does not hold it, and its length in bytes. Offsets and lengths are multiples of 512
    /// inside the disk. `visit` answers `false` to stop. `Ok(false)`: stopped, or, only if `wait` is false, would wait.
    pub(super) fn extents(
        &self,
        offset: u64,
        len: u64,
        wait: bool,
        visit: &mut dyn FnMut(Option<u64>, u64) -> Result<bool>,
    ) -> Result<bool> {
        let Some(blocks) = &self.blocks else { return visit(Some(offset), len) };
        let stop = offset + len;
        let mut at = offset;
        while at < stop {
            let index = (at / blocks.block_size) as usize;
            let Some(bitmap_at) = blocks.bat.block(index) else {
                let next = blocks.bat.next_used(index, stop.div_ceil(blocks.block_size) as usize);
                let end = (next as u64 * blocks.block_size).min(stop);
                if !visit(None, end - at)? {
                    return Ok(false);
                }
                at = end;
                continue;
            };
            let start = index as u64 * blocks.block_size;
            let end = (start + blocks.block_size).min(stop);
            // The last block may reach past the end of the disk: its bits there mean nothing.
            let sectors = (blocks.block_size.min(self.size() - start) / SECTOR) as usize;
            let Some(held) = blocks.bitmaps.get(&*self.source, index, bitmap_at, sectors, wait)? else {
                return Ok(false);
            };
            while at < end {
                let (from, to) = (((at - start) / SECTOR) as usize, ((end - start) / SECTOR) as usize);
                let (is_held, run_end) = held.run(from, to);
                let run = (run_end - from) as u64 * SECTOR;
                let place = is_held.then(|| bitmap_at + blocks.bitmap_size + (at - start));
                if !visit(place, run)? {
                    return Ok(false);
                }
                at += run;
            }
        }
        Ok(true)
    }

    /// Visits the runs of the file, in bytes, that lie in a block but whose sectors its bitmap calls unused.
    pub(super) fn clear_runs(&self, block: usize, visit: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let Some((blocks, at)) = self.blocks.as_ref().and_then(|blocks| Some((blocks, blocks.bat.block(block)?)))
        else {
            return Ok(());
        };
        let inside = blocks.block_size.min(self.size() - block as u64 * blocks.block_size);
        let sectors = (inside / SECTOR) as usize;
        let Some(held) = blocks.bitmaps.get(&*self.source, block, at, sectors, true)? else { return Ok(()) };
        let mut from = 0;
        while from < sectors {
            let (is_held, to) = held.run(from, sectors);
            if !is_held {
                visit(at + blocks.bitmap_size + from as u64 * SECTOR, (to - from) as u64 * SECTOR)?;
            }
            from = to;
        }
        Ok(())
    }
}
