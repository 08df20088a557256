//! The bytes of one file: what the page cache shows, what is durable, and the changes between the two in order.

use std::sync::Arc;

use super::rng::SimRng;

/// The unit a device writes as one.
pub(super) const SECTOR: usize = 512;
/// Sectors in a block of the file system, the unit in which space is taken and freed.
pub(super) const BLOCK: usize = 8;

/// A sector as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot {
    /// No space is taken; reads as zeros.
    Hole,
    /// Space is taken; reads as zeros.
    Zero,
    Data(Arc<[u8; SECTOR]>),
}

impl Slot {
    fn new(bytes: &[u8; SECTOR]) -> Self {
        if *bytes == [0; SECTOR] { Self::Zero } else { Self::Data(Arc::new(*bytes)) }
    }

    fn read(&self, at: usize, buf: &mut [u8]) {
        match self {
            Self::Hole | Self::Zero => buf.fill(0),
            Self::Data(bytes) => buf.copy_from_slice(&bytes[at..at + buf.len()]),
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Sector(usize, Slot),
    Size(u64),
}

#[derive(Debug, Clone)]
struct Pending {
    seq: u64,
    change: Change,
}

impl Pending {
    /// What settles as one: a run of `unit` sectors, or the size.
    fn group(&self, unit: usize) -> usize {
        match self.change {
            Change::Sector(index, _) => 1 + index / unit,
            Change::Size(_) => 0,
        }
    }
}

/// Which un-synced changes a power cut keeps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep {
    Nothing,
    Everything,
    /// Those numbered up to here.
    UpTo(u64),
    /// Each sector or block for itself: with this chance in 1,000 all of its changes, else any number of the first.
    Any {
        whole: u32,
    },
}

#[derive(Debug, Clone, Default)]
struct Version {
    /// Missing at the end: holes.
    slots: Arc<Vec<Slot>>,
    size: u64,
}

impl Version {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Size(size) => self.size = *size,
            Change::Sector(index, slot) => {
                let slots = Arc::make_mut(&mut self.slots);
                if slots.len() <= *index {
                    if *slot == Slot::Hole {
                        return;
                    }
                    slots.resize(index + 1, Slot::Hole);
                }
                slots[*index] = slot.clone();
            }
        }
    }

    fn slot(&self, index: usize) -> &Slot {
        self.slots.get(index).unwrap_or(&Slot::Hole)
    }
}

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    cached: Version,
    durable: Version,
    pending: Vec<Pending>,
    /// A failed sync left sectors that look clean but are not what the device has.
    lost: bool,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.cached.size
    }

    /// Changes that are not durable.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let left = self.cached.size.saturating_sub(offset);
        let len = left.min(buf.len() as u64) as usize;
        each_sector(offset, len, |index, at, range| self.cached.slot(index).read(at, &mut buf[range]));
        len
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, seq: u64) {
        each_sector(offset, bytes.len(), |index, at, range| self.patch(index, at, Some(&bytes[range.clone()]), seq));
        self.grow(offset + bytes.len() as u64, seq);
    }

    /// Zeros where `bytes` is `None`: up to the end of the sector.
    fn patch(&mut self, index: usize, at: usize, bytes: Option<&[u8]>, seq: u64) {
        if let Some(whole) = bytes.and_then(|bytes| bytes.try_into().ok()) {
            return self.change(Change::Sector(index, Slot::new(whole)), seq);
        }
        let mut sector = [0; SECTOR];
        self.cached.slot(index).read(0, &mut sector);
        match bytes {
            Some(bytes) => sector[at..at + bytes.len()].copy_from_slice(bytes),
            None => sector[at..].fill(0),
        }
        self.change(Change::Sector(index, Slot::new(&sector)), seq);
    }

    fn change(&mut self, change: Change, seq: u64) {
        self.cached.apply(&change);
        self.pending.push(Pending { seq, change });
    }

    fn grow(&mut self, size: u64, seq: u64) {
        if size > self.cached.size {
            self.change(Change::Size(size), seq);
        }
    }

    pub(super) fn set_size(&mut self, size: u64, seq: u64) {
        let (index, at) = ((size / SECTOR as u64) as usize, (size % SECTOR as u64) as usize);
        let mut first = index;
        if at != 0 {
            first += 1;
            if *self.cached.slot(index) != Slot::Hole {
                self.patch(index, at, None, seq);
            }
        }
        for index in first..self.cached.slots.len().max(self.durable.slots.len()) {
            if !self.is_hole(index) {
                self.change(Change::Sector(index, Slot::Hole), seq);
            }
        }
        if size != self.cached.size {
            self.change(Change::Size(size), seq);
        }
    }

    /// Whether no space is taken for a sector. What only looks like a hole, because freeing it was lost, is none: the
    /// file system goes by its own tables.
    fn is_hole(&self, index: usize) -> bool {
        let freed = !self.lost || *self.durable.slot(index) == Slot::Hole;
        freed && *self.cached.slot(index) == Slot::Hole
    }

    /// Whole blocks become holes; the rest of the range is zeroed in its place, whatever the cache has of it.
    pub(super) fn punch(&mut self, offset: u64, len: u64, seq: u64) {
        let slots = self.cached.slots.len().max(self.durable.slots.len());
        let end = (offset + len).min((slots * SECTOR) as u64);
        let len = end.saturating_sub(offset) as usize;
        let block_bytes = (BLOCK * SECTOR) as u64;
        each_sector(offset, len, |index, at, range| {
            let slot = self.cached.slot(index).clone();
            let block = (index / BLOCK) as u64 * block_bytes;
            let whole_block = offset <= block && block + block_bytes <= offset + len.next_multiple_of(SECTOR) as u64;
            match slot {
                _ if self.is_hole(index) => {}
                _ if range.len() < SECTOR => {
                    let mut sector = [0; SECTOR];
                    slot.read(0, &mut sector);
                    sector[at..at + range.len()].fill(0);
                    self.change(Change::Sector(index, Slot::new(&sector)), seq);
                }
                _ if whole_block => self.change(Change::Sector(index, Slot::Hole), seq),
                Slot::Zero if !self.lost => {}
                _ => self.change(Change::Sector(index, Slot::Zero), seq),
            }
        });
    }

    pub(super) fn allocate(&mut self, offset: u64, len: u64, seq: u64) {
        each_sector(offset, len as usize, |index, _, _| {
            if *self.cached.slot(index) == Slot::Hole {
                self.change(Change::Sector(index, Slot::Zero), seq);
            }
        });
        self.grow(offset + len, seq);
    }

    /// As SEEK_DATA and SEEK_HOLE, by block.
    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        let block_bytes = (BLOCK * SECTOR) as u64;
        let blocks = self.cached.slots.len().div_ceil(BLOCK) as u64;
        let taken = |block: &u64| self.block_taken(*block as usize);
        let first = (offset / block_bytes..blocks).find(|block| taken(block))?;
        let end = (first..blocks).find(|block| !taken(block)).unwrap_or(blocks);
        let start = offset.max(first * block_bytes);
        let end = (end * block_bytes).min(self.cached.size);
        (start < end).then_some((start, end))
    }

    fn block_taken(&self, block: usize) -> bool {
        (block * BLOCK..(block + 1) * BLOCK).any(|index| *self.cached.slot(index) != Slot::Hole)
    }

    /// Blocks of the file system that the cached content takes.
    pub(super) fn blocks(&self) -> u64 {
        (0..self.cached.slots.len().div_ceil(BLOCK)).filter(|block| self.block_taken(*block)).count() as u64
    }

    /// Blocks that filling the range would take beyond those taken.
    pub(super) fn blocks_wanted(&self, offset: u64, len: u64) -> u64 {
        let block_bytes = (BLOCK * SECTOR) as u64;
        let blocks = offset / block_bytes..(offset + len).div_ceil(block_bytes);
        blocks.filter(|block| !self.block_taken(*block as usize)).count() as u64
    }

    /// Makes durable what is numbered up to `seq`.
    pub(super) fn sync(&mut self, seq: u64) {
        if self.pending.last().is_some_and(|last| last.seq <= seq) && !self.lost {
            self.pending.clear();
            self.durable = self.cached.clone();
            return;
        }
        let durable = &mut self.durable;
        self.pending.retain(|pending| {
            let now = pending.seq <= seq;
            if now {
                durable.apply(&pending.change);
            }
            !now
        });
    }

    /// A sync that fails: of what is numbered up to `seq` any part is durable, and all of it looks clean. Sizes go
    /// through the journal of the file system and are not lost.
    pub(super) fn lose(&mut self, seq: u64, rng: &mut SimRng) {
        let (now, later): (Vec<_>, Vec<_>) = self.pending.drain(..).partition(|pending| pending.seq <= seq);
        let keep = if rng.coin() { Keep::Nothing } else { Keep::Any { whole: 300 } };
        choose_version(&mut self.durable, &now, keep, 1, rng);
        for pending in &now {
            if matches!(pending.change, Change::Size(_)) {
                self.durable.apply(&pending.change);
            }
        }
        self.pending = later;
        self.lost = true;
    }

    /// What looks clean is read from the device from now on.
    pub(super) fn drop_cache(&mut self) {
        if !self.lost {
            return;
        }
        self.cached = self.durable.clone();
        for pending in &self.pending {
            self.cached.apply(&pending.change);
        }
        self.lost = false;
    }

    /// The content after a power cut; the version of `unit` sectors is chosen for all of them.
    pub(super) fn after_power_cut(&self, keep: Keep, unit: usize, rng: &mut SimRng) -> Self {
        let mut durable = self.durable.clone();
        choose_version(&mut durable, &self.pending, keep, unit, rng);
        Self { cached: durable.clone(), durable, pending: Vec::new(), lost: false }
    }

    /// The sectors that are not zeros, in the eyes of who reads the raw device or the page cache: where the two differ,
    /// one is visited twice.
    pub(super) fn visit_stored(&self, visit: &mut dyn FnMut(usize, &[u8; SECTOR])) {
        for (index, slot) in self.cached.slots.iter().enumerate() {
            let durable = self.durable.slot(index);
            if let Slot::Data(bytes) = slot {
                visit(index, bytes);
            }
            match (slot, durable) {
                (Slot::Data(cached), Slot::Data(durable)) if Arc::ptr_eq(cached, durable) => {}
                (_, Slot::Data(durable)) => visit(index, durable),
                _ => {}
            }
        }
        for index in self.cached.slots.len()..self.durable.slots.len() {
            if let Slot::Data(bytes) = self.durable.slot(index) {
                visit(index, bytes);
            }
        }
    }
}

/// Applies to `version` the changes that `keep` chooses.
fn choose_version(version: &mut Version, pending: &[Pending], keep: Keep, unit: usize, rng: &mut SimRng) {
    match keep {
        Keep::Nothing => {}
        Keep::Everything => pending.iter().for_each(|pending| version.apply(&pending.change)),
        Keep::UpTo(seq) => {
            pending.iter().filter(|pending| pending.seq <= seq).for_each(|pending| version.apply(&pending.change));
        }
        Keep::Any { whole } => {
            // Per group: how many of its changes there are, then how many of the first of them are kept.
            let mut groups: Vec<u64> = Vec::new();
            for pending in pending {
                let group = pending.group(unit);
                if groups.len() <= group {
                    groups.resize(group + 1, 0);
                }
                groups[group] += 1;
            }
            for count in groups.iter_mut().filter(|count| **count > 0) {
                *count = if rng.chance(whole) { *count } else { rng.below(*count + 1) };
            }
            for pending in pending {
                let left = &mut groups[pending.group(unit)];
                if *left > 0 {
                    *left -= 1;
                    version.apply(&pending.change);
                }
            }
        }
    }
}

/// Visits `(sector, byte in the sector, range of the transfer)`.
fn each_sector(offset: u64, len: usize, mut visit: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let position = offset + done as u64;
        let at = (position % SECTOR as u64) as usize;
        let count = (SECTOR - at).min(len - done);
        visit((position / SECTOR as u64) as usize, at, done..done + count);
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &Content) -> Vec<u8> {
        let mut buf = vec![0xee; content.size() as usize];
        assert_eq!(content.read(&mut buf, 0), buf.len());
        buf
    }

    #[test]
    fn a_power_cut_leaves_any_version_of_each_sector() {
        let mut content = Content::default();
        content.write(&[1; 1024], 0, 1);
        content.sync(1);
        content.write(&[2; 1024], 0, 2);
        content.write(&[3; 512], 0, 3);
        let mut seen = std::collections::BTreeSet::new();
        let mut rng = SimRng::new(1);
        for _ in 0..200 {
            let bytes = all(&content.after_power_cut(Keep::Any { whole: 0 }, 1, &mut rng));
            assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]), "a sector is never torn");
            seen.insert((bytes[0], bytes[512]));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]);
        let whole = all(&content.after_power_cut(Keep::Nothing, 1, &mut rng));
        assert!(whole.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn a_sync_covers_what_came_before_it_began() {
        let mut content = Content::default();
        content.write(&[1; 512], 0, 1);
        content.write(&[2; 512], 0, 2);
        content.sync(1);
        let mut rng = SimRng::new(1);
        assert_eq!(all(&content.after_power_cut(Keep::Nothing, 1, &mut rng))[0], 1);
        assert_eq!(all(&content)[0], 2);
    }

    #[test]
    fn a_failed_sync_shows_the_new_content_until_the_cache_is_dropped() {
        let mut content = Content::default();
        content.write(&[1; 512], 0, 1);
        content.sync(1);
        let lost = (0..64).find_map(|seed| {
            let mut content = content.clone();
            content.write(&[2; 512], 0, 2);
            content.lose(2, &mut SimRng::new(seed));
            assert_eq!((all(&content)[0], content.pending()), (2, 0));
            content.sync(9);
            content.drop_cache();
            (all(&content)[0] == 1).then_some(content)
        });
        assert!(lost.is_some());
    }

    #[test]
    fn what_a_failed_sync_did_not_punch_is_punched_again() {
        let lost = (0..64).find_map(|seed| {
            let mut content = Content::default();
            content.write(&[1; 2 * 4096], 0, 1);
            content.sync(1);
            content.punch(512, 4096 + 3584, 2);
            content.lose(2, &mut SimRng::new(seed));
            let device = content.durable.slots.iter().filter(|slot| matches!(slot, Slot::Data(_))).count();
            assert!(all(&content)[512..].iter().all(|byte| *byte == 0));
            (device == 16).then_some(content)
        });
        let mut content = lost.expect("all of it is lost, sometimes");
        content.punch(512, 4096 + 3584, 3);
        content.sync(3);
        content.drop_cache();
        assert!(all(&content)[512..].iter().all(|byte| *byte == 0));
        assert_eq!(content.blocks(), 1);
    }

    #[test]
    fn punching_frees_whole_blocks_and_zeroes_the_rest() {
        let mut content = Content::default();
        content.write(&[1; 3 * 4096], 0, 1);
        content.punch(512, 2 * 4096, 2);
        assert_eq!(content.blocks(), 2);
        let bytes = all(&content);
        assert!(bytes[512..512 + 2 * 4096].iter().all(|byte| *byte == 0));
        assert!(bytes[..512].iter().chain(&bytes[512 + 2 * 4096..]).all(|byte| *byte == 1));
        assert_eq!(content.next_data(0), Some((0, 4096)));
        assert_eq!(content.next_data(4096), Some((8192, 12288)));
        content.set_size(100, 3);
        assert_eq!((content.size(), content.blocks()), (100, 1));
        content.set_size(512, 4);
        assert!(all(&content)[100..].iter().all(|byte| *byte == 0));
    }
}
