//! Reading without waiting where there are no holes to be told of: one look at what is stored where serves both.
//!
//! A client that takes holes as such is to get them so, and mostly there are none. To look them up before every read
//! would be to look up twice what is read.

use super::access::is_whole;
use super::resolve::{PageSource, Segment, Segments, View};
use crate::base::{BaseImage, BaseRun};
use crate::disk::core::Core;
use crate::{PAGE, Result};

/// Which holes count as such.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hole {
    /// Bytes of the smallest.
    pub(crate) least: u64,
    /// What is read goes on behind what is looked at: a hole there, however small, may do so too.
    pub(crate) goes_on: bool,
}

/// How [`Core::try_read_data`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataRead {
    Done,
    /// It would wait for a device or a lock; the buffer is in any state.
    WouldWait,
    HasHole,
}

impl Core {
    /// [`Core::try_read`] of what holds no hole: where there is one, nothing is read.
    pub(crate) fn try_read_data(
        &self,
        view: Option<View>,
        offset: u64,
        buf: &mut [u8],
        hole: Hole,
    ) -> Result<DataRead> {
        self.check_admitted()?;
        let pages = Self::pages_of(offset, buf.len() as u64);
        let lock = if is_whole(offset, buf.len()) { self.stack.ranges.try_shared(pages.clone()) } else { None };
        let segments = self.segments_of(view, pages.clone())?;
        let from_base = segments.iter().any(|segment| matches!(segment.source, PageSource::Base));
        let found = match from_base {
            true => self.over_base(|base| has_hole(base, &segments, hole))?,
            false => has_hole(None, &segments, hole)?,
        };
        if found {
            return Ok(DataRead::HasHole);
        }
        let read = lock.is_some() && self.try_read_locked(pages.start, segments, buf)?;
        Ok(if read { DataRead::Done } else { DataRead::WouldWait })
    }
}

/// Whether there is a hole that counts. What the base says of itself is asked for where it is read.
fn has_hole(base: Option<&dyn BaseImage>, segments: &Segments, hole: Hole) -> Result<bool> {
    let (mut long, mut zeros) = (false, 0);
    let mut visit = |is_zero: bool, bytes: u64| {
        zeros = if is_zero { zeros + bytes } else { 0 };
        long |= zeros >= hole.least;
    };
    for Segment { pages, source, depth: _ } in segments {
        let bytes = (pages.end - pages.start) * PAGE as u64;
        match (source, base) {
            (PageSource::Zero(_), _) => visit(true, bytes),
            (PageSource::Base, Some(base)) => base.runs(pages.start * PAGE as u64, bytes, &mut |kind, bytes| {
                visit(kind == BaseRun::Zero, bytes);
                Ok(())
            })?,
            (PageSource::Layer(_) | PageSource::Base, _) => visit(false, bytes),
        }
    }
    Ok(long || (hole.goes_on && zeros > 0))
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::VisitRun;
    use crate::disk::tests::{TestDisk, read};
    use crate::disk::{Access, Disk, Durability, Options};

    const BLOCK: usize = 4096;

    /// Whether a hole is told of. Where none is, what was read is right; a file system that cannot read without waiting
    /// reads nothing.
    fn has_hole(disk: &Disk, block: usize, blocks: usize, least: usize, goes_on: bool) -> bool {
        let (at, mut buf) = ((block * BLOCK) as u64, vec![0xEE; blocks * BLOCK]);
        let hole = Hole { least: (least * BLOCK) as u64, goes_on };
        let tried = disk.try_read_data(at, &mut buf, hole).unwrap();
        assert!(tried != DataRead::Done || buf == read(disk, at, buf.len()), "{block} {blocks}");
        tried == DataRead::HasHole
    }

    /// Blocks 0 to 3 and 6 to 7 are stored, 4 and 5 are not.
    fn with_a_hole() -> (TestDisk, Disk) {
        let place = TestDisk::new(1 << 20, 0, true);
        let disk = place.open(true);
        disk.write(0, &[1; 4 * BLOCK], Durability::Volatile).unwrap();
        disk.write(6 * BLOCK as u64, &[2; 2 * BLOCK], Durability::Volatile).unwrap();
        (place, disk)
    }

    #[test]
    fn a_hole_is_told_of_where_it_counts() {
        let (_place, disk) = with_a_hole();
        assert!(!has_hole(&disk, 0, 4, 1, true));
        assert!(has_hole(&disk, 0, 8, 2, false));
        assert!(has_hole(&disk, 4, 2, 2, false));
        assert!(!has_hole(&disk, 0, 8, 3, true), "one that is too small is read as zeros");
    }

    #[test]
    fn a_small_hole_at_the_end_counts_where_the_reading_goes_on() {
        let (_place, disk) = with_a_hole();
        assert!(!has_hole(&disk, 2, 3, 2, false));
        assert!(has_hole(&disk, 2, 3, 2, true));
    }

    #[test]
    fn what_is_locked_would_wait_and_its_holes_are_told() {
        let (_place, disk) = with_a_hole();
        let locked = disk.core.stack.lock_exclusive(0..64);
        let hole = Hole { least: BLOCK as u64, goes_on: false };
        let mut four = [0; 4 * BLOCK];
        assert_eq!(disk.try_read_data(0, &mut four, hole).unwrap(), DataRead::WouldWait);
        assert!(has_hole(&disk, 0, 8, 2, true));
        drop(locked);
        let mut odd = [0; 5000];
        assert_eq!(disk.try_read_data(1, &mut odd, hole).unwrap(), DataRead::WouldWait, "whole pages only");
        disk.admin().suspend();
        assert!(disk.try_read_data(0, &mut odd[..BLOCK], hole).is_err(), "nothing is told of what is not served");
    }

    /// Nothing of its second half is allocated.
    #[derive(Debug)]
    struct HalfEmpty(u64);

    impl BaseImage for HalfEmpty {
        fn size(&self) -> u64 {
            self.0
        }
        fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
            buf.fill(3);
            Ok(())
        }
        fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
            self.read_at(offset, buf).map(|()| true)
        }
        fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
            let border = (self.0 / 2).clamp(offset, offset + len);
            visit(BaseRun::Data, border - offset)?;
            visit(BaseRun::Zero, offset + len - border)
        }
    }

    #[test]
    fn a_base_tells_of_its_holes() {
        let size = 1 << 20;
        let place = TestDisk::new(size, size, true);
        let base: Arc<dyn BaseImage> = Arc::new(HalfEmpty(size));
        let disk =
            Disk::open(place.dir(), Some(place.keys.clone()), Some(base), Access::ReadWrite, true, Options::default())
                .unwrap();
        let half = (size / 2) as usize / BLOCK;
        assert!(!has_hole(&disk, half - 2, 2, 1, true));
        assert!(has_hole(&disk, half - 2, 3, 1, false));
    }
}
