//! What the walk down a stack has answered, kept for the next read: per view and chunk of pages, which layer holds each
//! page.
//!
//! It is right because it is never behind: it is filled under the shared lock of the state, and whoever changes what a
//! view sees tells it under the same exclusive lock. Only `state.rs` can change that. A change in the top layer is
//! carried over ([`ViewCache::publish`]: in the live view alone, because no snapshot sees the top layer); anything else
//! that changes an answer forgets them all ([`ViewCache::clear`]). Base limits are not part of the answers, and the
//! number of a snapshot is never used again.
//!
//! It is small, so that it stays in a processor's caches where the sets of the layers do not: a chunk lists who answers
//! for anything in it, and has a code of a few bits for each of its units, which are as large as its borders allow. Of
//! a disk in blocks of 4 KiB that two layers hold in turn that is 1/16384 of what it covers.
//!
//! It is bounded: where a shard has no more room, it begins anew. So that reads all over a disk of which not everything
//! can be kept do not pay for that, not everything that is asked for is ([`ViewCache::is_worth_keeping`]).

use std::collections::HashMap;
use std::ops::Range;
// Nothing waits for it: no point of the simulated scheduler.
use std::sync::atomic::{AtomicU32, Ordering};

// Nothing waits while it is held: no point of the simulated scheduler.
use parking_lot::RwLock as PlainRwLock;

/// Pages of a chunk: 4 MiB.
pub(crate) const CHUNK: u64 = 8192;
/// Threads that read at different places meet at different locks.
const SHARDS: usize = 16;
/// Bytes that a kept chunk takes besides its words: its place in the map, the free ones around it, the allocation.
const CHUNK_COST: usize = 72;
/// Bytes kept of one disk at the most: with the sets of two layers, 32 MiB where 64 GiB are mixed page by page, that is
/// 40.
const BOUND: usize = 8 << 20;
/// Looking through this many layers takes as long as painting a chunk, about. What tests read is kept at once.
const PAINTING: u64 = if cfg!(any(test, sealdisk_sim)) { 1 } else { 32 };
/// Changes up to this many chunks are carried over one by one, so that trimming a whole disk does not visit them all.
const FEW: u64 = 64;

/// Who answers for a page in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// No layer.
    Nobody,
    /// The layer that holds it.
    Held(u32),
    /// The layer that holds it as zero.
    Zero(u32),
}

impl Holder {
    fn to_word(self) -> u64 {
        match self {
            Self::Nobody => 0,
            Self::Held(layer) => u64::from(layer) << 2 | 1,
            Self::Zero(layer) => u64::from(layer) << 2 | 2,
        }
    }

    fn from_word(word: u64) -> Self {
        let layer = (word >> 2) as u32;
        match word & 3 {
            0 => Self::Nobody,
            1 => Self::Held(layer),
            _ => Self::Zero(layer),
        }
    }
}

#[derive(Debug)]
struct Chunk {
    /// The holders, in order, then the codes of the units: the place of the holder among them. One allocation, for the
    /// caches' sake.
    words: Box<[u64]>,
    holders: u16,
    /// Binary logarithms of the pages of a unit and of the bits of a code.
    unit: u8,
    width: u8,
}

impl Chunk {
    /// What was painted of all pages of the chunk.
    fn of(painted: &[Holder]) -> Self {
        let mut runs: Vec<(usize, u64)> = Vec::new();
        let mut last = None;
        for (page, &holder) in painted.iter().enumerate() {
            if last != Some(holder) {
                runs.push((page, holder.to_word()));
                last = Some(holder);
            }
        }
        let mut words: Vec<u64> = runs.iter().map(|&(_, holder)| holder).collect();
        words.sort_unstable();
        words.dedup();
        // The first run starts at 0, which has as many zeros as a number can.
        let borders = runs.iter().fold(CHUNK as usize, |borders, &(page, _)| borders | page);
        let (holders, unit) = (words.len(), borders.trailing_zeros());
        let bits = usize::BITS - (holders - 1).leading_zeros();
        let width = bits.next_power_of_two().trailing_zeros();
        words.resize(holders + ((CHUNK as usize >> unit) << width).div_ceil(64), 0);
        let words = words.into_boxed_slice();
        let mut chunk = Self { words, holders: holders as u16, unit: unit as u8, width: width as u8 };
        for (index, &(start, holder)) in runs.iter().enumerate() {
            let end = runs.get(index + 1).map_or(CHUNK as usize, |&(next, _)| next);
            let code = chunk.words[..holders].partition_point(|&other| other < holder);
            (start >> unit..end >> unit).for_each(|unit| chunk.set(unit, code));
        }
        chunk
    }

    fn cost(&self) -> usize {
        CHUNK_COST + self.words.len() * size_of::<u64>()
    }

    /// The word with the code of a unit, the code's first bit there, and a mask for it.
    fn place(&self, unit: usize) -> (usize, usize, u64) {
        let bit = unit << self.width;
        (usize::from(self.holders) + bit / 64, bit % 64, (1 << (1 << self.width)) - 1)
    }

    fn code(&self, unit: usize) -> usize {
        let (word, bit, mask) = self.place(unit);
        (self.words[word] >> bit & mask) as usize
    }

    fn set(&mut self, unit: usize, code: usize) {
        let (word, bit, mask) = self.place(unit);
        let word = &mut self.words[word];
        *word = *word & !(mask << bit) | (code as u64) << bit;
    }

    /// Visits what lies in `range`, pages within the chunk and not none. Neighbours differ.
    fn visit(&self, range: Range<u16>, mut visit: impl FnMut(Range<u16>, Holder)) {
        let mut at = range.start;
        let mut code = self.code(usize::from(at >> self.unit));
        for unit in at >> self.unit..(range.end - 1) >> self.unit {
            let next = self.code(usize::from(unit + 1));
            if next != code {
                let end = (unit + 1) << self.unit;
                visit(at..end, Holder::from_word(self.words[code]));
                (at, code) = (end, next);
            }
        }
        visit(at..range.end, Holder::from_word(self.words[code]));
    }

    fn assign(&mut self, range: Range<u16>, holder: Holder) {
        let listed = self.words[..usize::from(self.holders)].binary_search(&holder.to_word());
        if let Ok(code) = listed
            && (range.start | range.end).trailing_zeros() >= u32::from(self.unit)
        {
            let units = usize::from(range.start >> self.unit)..usize::from(range.end >> self.unit);
            units.for_each(|unit| self.set(unit, code));
            return;
        }
        let mut painted = vec![Holder::Nobody; CHUNK as usize];
        let span = |run: &Range<u16>| usize::from(run.start)..usize::from(run.end);
        self.visit(0..CHUNK as u16, |run, holder| painted[span(&run)].fill(holder));
        painted[span(&range)].fill(holder);
        *self = Self::of(&painted);
    }
}

/// The number of the chunk (29 bits of the largest disk), and the snapshot whose view it is, counted from 1, 0 for the
/// live one (33 bits). One word, because it is hashed for every read.
type Key = u64;

fn key(snapshot: Option<u32>, chunk: u64) -> Key {
    chunk << 33 | snapshot.map_or(0, |snapshot| u64::from(snapshot) + 1)
}

#[derive(Debug, Default)]
struct Shard {
    chunks: HashMap<Key, Chunk>,
    /// Bytes of them.
    cost: usize,
}

impl Shard {
    /// Keeps a chunk; what had to go for it is returned.
    #[must_use]
    fn put(&mut self, key: Key, chunk: Chunk) -> Self {
        let full = self.cost + chunk.cost() > BOUND / SHARDS;
        let before = if full { std::mem::take(self) } else { Self::default() };
        self.cost += chunk.cost();
        if let Some(before) = self.chunks.insert(key, chunk) {
            self.cost -= before.cost();
        }
        before
    }

    /// Carries over that `holder` holds these pages of one chunk in the live view.
    fn assign(&mut self, pages: &Range<u64>, holder: Holder) {
        let key = key(None, pages.start / CHUNK);
        let Some(mut chunk) = self.chunks.remove(&key) else { return };
        self.cost -= chunk.cost();
        if pages.end - pages.start < CHUNK {
            chunk.assign(within(pages), holder);
            let _ = self.put(key, chunk);
        }
    }

    /// Forgets the live view of `chunks`.
    fn forget(&mut self, chunks: &Range<u64>) {
        let cost = &mut self.cost;
        self.chunks.retain(|other, chunk| {
            let chunk_of = other >> 33;
            let stays = *other != key(None, chunk_of) || !chunks.contains(&chunk_of);
            if !stays {
                *cost -= chunk.cost();
            }
            stays
        });
    }
}

/// The chunk by chunk pieces of `pages`.
pub(crate) fn pieces(pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = pages.start;
    std::iter::from_fn(move || {
        let piece = at..pages.end.min((at / CHUNK + 1) * CHUNK);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Pages of one chunk, counted from its start.
fn within(piece: &Range<u64>) -> Range<u16> {
    let start = (piece.start % CHUNK) as u16;
    start..start + (piece.end - piece.start) as u16
}

/// See the module documentation. Ranges are in pages.
#[derive(Debug, Default)]
pub(crate) struct ViewCache {
    shards: [PlainRwLock<Shard>; SHARDS],
    misses: AtomicU32,
}

impl ViewCache {
    fn shard(&self, chunk: u64) -> &PlainRwLock<Shard> {
        &self.shards[chunk as usize % SHARDS]
    }

    /// Visits in order who answers for `piece`, which lies in one chunk, in the view of `snapshot`. `false`: nothing is
    /// kept of that. The caller holds the state's lock.
    pub(crate) fn visit(
        &self,
        snapshot: Option<u32>,
        piece: &Range<u64>,
        mut visit: impl FnMut(Range<u64>, Holder),
    ) -> bool {
        let number = piece.start / CHUNK;
        let shard = self.shard(number).read();
        let Some(chunk) = shard.chunks.get(&key(snapshot, number)) else { return false };
        let start = number * CHUNK;
        chunk.visit(within(piece), |run, holder| {
            visit(start + u64::from(run.start)..start + u64::from(run.end), holder)
        });
        true
    }

    /// Whether the chunk of a page that `visit` knew nothing of should be painted, or the stack of `seen` layers just
    /// be walked: so often that the walks until then took about as long as that.
    pub(crate) fn is_worth_keeping(&self, seen: usize) -> bool {
        // Multiples of the golden ratio: as even as can be, and in step with no pattern of reads.
        let chance = self.misses.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B1);
        u64::from(chance) < ((seen as u64) << 32) / PAINTING
    }

    /// Keeps the answers for a chunk, a holder for each page. The caller has held the state's lock since it looked.
    pub(crate) fn keep(&self, snapshot: Option<u32>, chunk: u64, painted: &[Holder]) {
        let kept = Chunk::of(painted);
        let before = self.shard(chunk).write().put(key(snapshot, chunk), kept);
        // With nothing locked but the state.
        drop(before);
    }

    /// From now on `holder`, the top layer, answers for `pages` in the live view.
    pub(crate) fn publish(&mut self, pages: Range<u64>, holder: Holder) {
        if pages.end - pages.start > FEW * CHUNK {
            let chunks = pages.start / CHUNK..pages.end.div_ceil(CHUNK);
            self.shards.iter_mut().for_each(|shard| shard.get_mut().forget(&chunks));
            return;
        }
        for piece in pieces(pages) {
            self.shards[(piece.start / CHUNK) as usize % SHARDS].get_mut().assign(&piece, holder);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.shards.iter_mut().for_each(|shard| *shard.get_mut() = Shard::default());
    }

    /// Bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().cost as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder() -> impl Strategy<Value = Holder> {
        prop_oneof![
            1 => Just(Holder::Nobody),
            4 => (1u32..4).prop_map(Holder::Held),
            2 => (1u32..4).prop_map(Holder::Zero),
            1 => (u32::MAX - 20..=u32::MAX).prop_map(Holder::Held),
        ]
    }

    /// Multiples of some power of two, so that units stay large for a while.
    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..=12u32, any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(unit, start, len)| {
            let units = CHUNK as usize >> unit;
            let start = start.index(units);
            let end = start + 1 + len.index(units - start);
            (start as u64) << unit..(end as u64) << unit
        })
    }

    proptest! {
        #[test]
        fn a_chunk_agrees_with_an_array(ops in prop::collection::vec((range(), holder(), range()), 1..60)) {
            let mut model = [Holder::Nobody; CHUNK as usize];
            let mut chunk = Chunk::of(&model);
            for (pages, holder, probe) in ops {
                model[pages.start as usize..pages.end as usize].fill(holder);
                chunk.assign(pages.start as u16..pages.end as u16, holder);
                for chunk in [&chunk, &Chunk::of(&model)] {
                    let (mut at, mut last) = (probe.start as u16, None);
                    chunk.visit(probe.start as u16..probe.end as u16, |run, holder| {
                        assert_eq!(run.start, at);
                        assert!(last.replace(holder) != Some(holder), "neighbours differ");
                        assert!(model[usize::from(run.start)..usize::from(run.end)].iter().all(|&other| other == holder));
                        at = run.end;
                    });
                    prop_assert_eq!(u64::from(at), probe.end);
                }
            }
        }
    }

    /// Of every number of holders for which codes are of another width, each page in turn.
    #[test]
    fn a_chunk_takes_as_many_holders_as_it_has_pages() {
        for holders in [1, 2, 3, 4, 5, 16, 17, 256, 257, CHUNK as u32] {
            let painted: Vec<_> = (0..CHUNK as u32).map(|page| Holder::Zero(page % holders)).collect();
            let chunk = Chunk::of(&painted);
            let mut found = Vec::new();
            chunk.visit(0..CHUNK as u16, |run, holder| found.resize(usize::from(run.end), holder));
            assert!(found == painted, "{holders}");
        }
    }

    #[test]
    fn a_disk_of_64_gib_in_blocks_of_two_layers_is_kept_whole() {
        let painted: Vec<_> =
            (0..CHUNK as u32).map(|page| [Holder::Held, Holder::Zero][page as usize / 64 % 2](page / 8 % 2)).collect();
        let cost = Chunk::of(&painted).cost();
        assert!(cost * ((64 << 30) / 512 / CHUNK as usize) < BOUND, "{cost} bytes for a chunk");
    }

    /// Single pages in so many layers that a code takes two bytes.
    fn mixed() -> Vec<Holder> {
        (0..CHUNK as u32).map(|page| Holder::Held(page % 300)).collect()
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut cache = ViewCache::default();
        let bytes = |cache: &ViewCache| {
            let shards = cache.shards.iter().map(|shard| shard.read());
            let sum = shards.map(|shard| shard.chunks.values().map(Chunk::cost).sum::<usize>()).sum::<usize>();
            assert_eq!(sum as u64, cache.memory_bytes());
            sum
        };
        let sees = |cache: &ViewCache, snapshot, chunk| {
            cache.visit(snapshot, &(chunk * CHUNK + 5..chunk * CHUNK + 6), |_, _| {})
        };
        let painted = mixed();
        for chunk in 0..1266 {
            let snapshot = [None, Some(0), Some(u32::MAX)][chunk as usize % 3];
            cache.keep(snapshot, chunk, &painted);
            assert!(sees(&cache, snapshot, chunk));
            assert!(
                ![None, Some(0), Some(u32::MAX)].iter().any(|&other| other != snapshot && sees(&cache, other, chunk))
            );
            if chunk % 100 == 0 {
                assert!(bytes(&cache) <= BOUND);
            }
        }
        let full = bytes(&cache);
        assert!(full > BOUND / 2, "{full}");
        for page in (0..4 * CHUNK).step_by(8) {
            cache.publish((1262 * CHUNK) + page..(1262 * CHUNK) + page + 3, Holder::Zero(9));
        }
        bytes(&cache);
        cache.publish(733 * CHUNK..1200 * CHUNK, Holder::Zero(9));
        assert!((733..1200).all(|chunk| !sees(&cache, None, chunk)));
        assert!((1100..1800).any(|chunk| sees(&cache, Some(0), chunk)), "a snapshot sees what it saw");
        assert!(bytes(&cache) < full);
        cache.publish(0..u64::MAX, Holder::Zero(9));
        cache.clear();
        assert_eq!(bytes(&cache), 0);
    }
}
