//! Sector bitmaps: which sectors of a block its file holds. One bit a sector, the most significant bit first.
//!
//! Most blocks of most disks are held whole. So what is kept of each block is one byte that says so; only the bitmaps
//! of mixed blocks are kept themselves, in a cache of bounded size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::SECTOR;
use crate::Result;
use crate::io::source::{Source, read};

/// The most bytes of bitmaps kept for one disk.
const CACHE_BYTES: u64 = 2 << 20;

const UNKNOWN: u8 = 0;
const ALL: u8 = 1;
const NONE: u8 = 2;
const MIXED: u8 = 3;

/// Which sectors of one block are held.
#[derive(Debug, Clone)]
pub(super) enum Sectors {
    All,
    None,
    Mixed(Arc<[u8]>),
}

impl Sectors {
    /// The run that begins at sector `from` of the block: whether it is held, and where it ends, at most `to`.
    #[must_use]
    pub(super) fn run(&self, from: usize, to: usize) -> (bool, usize) {
        match self {
            Sectors::All => (true, to),
            Sectors::None => (false, to),
            Sectors::Mixed(bits) => run(bits, from, to),
        }
    }
}

fn run(bits: &[u8], from: usize, to: usize) -> (bool, usize) {
    let held = bits[from / 8] & (0x80 >> (from % 8)) != 0;
    let mut at = from;
    while at < to {
        let start = at / 64 * 8;
        let mut word = [0; 8];
        word.copy_from_slice(&bits[start..start + 8]);
        let word = u64::from_be_bytes(word);
        let differ = (if held { !word } else { word }) << (at % 64);
        if differ != 0 {
            at += differ.leading_zeros() as usize;
            break;
        }
        at = at / 64 * 64 + 64;
    }
    (held, at.min(to))
}

/// A block and its bitmap.
type Slot = Mutex<Option<(usize, Arc<[u8]>)>>;

/// What is known of the bitmaps of one disk.
pub(super) struct Bitmaps {
    states: Vec<AtomicU8>,
    /// Slot `block % slots` may hold the bitmap of a mixed block.
    slots: Vec<Slot>,
    bitmap_size: usize,
}

impl Bitmaps {
    /// `bitmap_size`: bytes, a multiple of 512.
    pub(super) fn new(blocks: usize, bitmap_size: u64) -> Self {
        let slots = (CACHE_BYTES / bitmap_size).clamp(1, blocks.max(1) as u64);
        Self {
            states: std::iter::repeat_with(|| AtomicU8::new(UNKNOWN)).take(blocks).collect(),
            slots: std::iter::repeat_with(|| Mutex::new(None)).take(slots as usize).collect(),
            bitmap_size: bitmap_size as usize,
        }
    }

    /// The bitmap of `block`, which lies at byte `at` of `source` and of which the first `sectors` bits count. `None`:
    /// only if `wait` is false.
    pub(super) fn get(
        &self,
        source: &dyn Source,
        block: usize,
        at: u64,
        sectors: usize,
        wait: bool,
    ) -> Result<Option<Sectors>> {
        match self.states[block].load(Ordering::Relaxed) {
            ALL => return Ok(Some(Sectors::All)),
            NONE => return Ok(Some(Sectors::None)),
            _ => {}
        }
        let slot = &self.slots[block % self.slots.len()];
        if let Some((owner, bits)) = &*slot.lock()
            && *owner == block
        {
            return Ok(Some(Sectors::Mixed(bits.clone())));
        }
        let mut bits = vec![0; self.bitmap_size];
        if !read(source, wait, at, &mut bits)? {
            return Ok(None);
        }
        let state = match run(&bits, 0, sectors) {
            (true, end) if end == sectors => ALL,
            (false, end) if end == sectors => NONE,
            _ => MIXED,
        };
        self.states[block].store(state, Ordering::Relaxed);
        Ok(Some(match state {
            ALL => Sectors::All,
            NONE => Sectors::None,
            _ => {
                let bits: Arc<[u8]> = bits.into();
                *slot.lock() = Some((block, bits.clone()));
                Sectors::Mixed(bits)
            }
        }))
    }
}

impl std::fmt::Debug for Bitmaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bitmaps").field("blocks", &self.states.len()).finish_non_exhaustive()
    }
}

/// The bitmap of a block of which every sector is held, padding bits clear.
pub(super) fn full(block_size: u64) -> Vec<u8> {
    let sectors = (block_size / SECTOR) as usize;
    let mut bits = vec![0; (sectors / 8).next_multiple_of(SECTOR as usize)];
    bits[..sectors / 8].fill(0xFF);
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_those_of_single_bits(
            seed in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 64),
            from in 0usize..512, len in 1usize..512,
        ) {
            let to = (from + len).min(512);
            let bit = |n: usize| seed[n / 8] >> (7 - n % 8) & 1 == 1;
            let expected = (from..to).find(|&n| bit(n) != bit(from)).unwrap_or(to);
            prop_assert_eq!(run(&seed, from, to), (bit(from), expected));
        }
    }

    #[test]
    fn what_is_full_or_empty_is_read_once_and_mixed_bitmaps_evict() {
        let mut file = vec![0; 4096];
        file[..512].fill(0xFF);
        file[512..576].fill(0xF0);
        let bitmaps = Bitmaps::new(8, 1 << 20);
        assert_eq!(bitmaps.slots.len(), 2);
        let bitmaps = Bitmaps { bitmap_size: 512, ..bitmaps };
        assert!(matches!(bitmaps.get(&file, 0, 0, 4096, true).unwrap(), Some(Sectors::All)));
        assert!(matches!(bitmaps.get(&vec![], 0, 0, 4096, true).unwrap(), Some(Sectors::All)), "not read again");
        for block in [1, 3, 1] {
            let got = bitmaps.get(&file, block, 512, 4096, true).unwrap().unwrap();
            assert_eq!(got.run(0, 4096), (true, 4));
            assert_eq!(got.run(4, 4096), (false, 8));
        }
    }
}
