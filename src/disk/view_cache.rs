//! What the walk down a high stack has answered, kept for the next read: per view and chunk of pages, which layer holds
//! each page.
//!
//! It is right because it is never behind: it is filled under the shared lock of the state, and whoever changes what a
//! view sees tells it under the same exclusive lock. Only `state.rs` can change that. A change in the top layer is
//! carried over ([`ViewCache::publish`]: in the live view alone, because no line sees the top layer); anything else
//! that changes an answer forgets them all ([`ViewCache::clear`]). Base limits are not part of the answers, and the
//! number of a line is never used again.
//!
//! It is bounded: what was not asked for lately goes. What is kept lies in two generations: the younger one takes what
//! is new or asked for; at half of the bound it becomes the older one, whose place it takes.

use std::collections::HashMap;
use std::ops::Range;

// Nothing waits while it is held: no point of the simulated scheduler.
use parking_lot::Mutex as PlainMutex;
use smallvec::SmallVec;

use super::extent_map::Mark;

/// Pages of a chunk: 1 MiB.
pub(crate) const CHUNK: u64 = 2048;
/// Threads that read at different places meet at different locks.
const SHARDS: usize = 16;
/// Bytes that a kept chunk takes besides its runs, tables included.
const CHUNK_COST: usize = 128;
/// Bytes kept of one disk at the most.
const BOUND: usize = 4 << 20;

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

/// From `start`, in pages within the chunk, up to the start of the next one.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u16,
    mark: Option<Mark>,
    layer: u32,
}

impl Piece {
    fn new(start: u16, holder: Holder) -> Self {
        match holder {
            Holder::Nobody => Self { start, mark: None, layer: 0 },
            Holder::Held(layer) => Self { start, mark: Some(Mark::Held), layer },
            Holder::Zero(layer) => Self { start, mark: Some(Mark::Zero), layer },
        }
    }

    fn holder(&self) -> Holder {
        match self.mark {
            None => Holder::Nobody,
            Some(Mark::Held) => Holder::Held(self.layer),
            Some(Mark::Zero) => Holder::Zero(self.layer),
        }
    }
}

/// Covers the chunk: the first piece starts at 0. Neighbours differ.
#[derive(Debug, Default)]
struct Chunk(SmallVec<[Piece; 2]>);

impl Chunk {
    fn of(painted: &[Holder]) -> Self {
        let mut pieces = SmallVec::new();
        let mut last = None;
        for (&holder, page) in painted.iter().zip(0..) {
            if last != Some(holder) {
                pieces.push(Piece::new(page, holder));
                last = Some(holder);
            }
        }
        pieces.shrink_to_fit();
        Self(pieces)
    }

    fn cost(&self) -> usize {
        let spilled = if self.0.spilled() { self.0.capacity() * size_of::<Piece>() } else { 0 };
        CHUNK_COST + spilled
    }

    /// Visits what lies in `range`, pages within the chunk.
    fn visit(&self, range: Range<u16>, mut visit: impl FnMut(Range<u16>, Holder)) {
        let mut at = range.start;
        let first = self.0.partition_point(|piece| piece.start <= at).saturating_sub(1);
        for (index, piece) in self.0.iter().enumerate().skip(first) {
            let end = self.0.get(index + 1).map_or(CHUNK as u16, |next| next.start).min(range.end);
            visit(at..end, piece.holder());
            at = end;
            if at == range.end {
                return;
            }
        }
    }

    fn assign(&mut self, range: Range<u16>, holder: Holder) {
        let pieces = &mut self.0;
        let from = pieces.partition_point(|piece| piece.start < range.start);
        let to = pieces.partition_point(|piece| piece.start <= range.end);
        let new = (from == 0 || pieces[from - 1].holder() != holder).then(|| Piece::new(range.start, holder));
        // What covers the first page behind the range goes on there.
        let behind = (u64::from(range.end) < CHUNK).then(|| Piece { start: range.end, ..pieces[to - 1] });
        pieces.drain(from..to);
        pieces.insert_many(from, new.into_iter().chain(behind.filter(|behind| behind.holder() != holder)));
    }
}

/// The line whose view it is, `None` for the live one; and the number of the chunk.
type Key = (Option<u32>, u64);

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Key, Chunk>,
    old: HashMap<Key, Chunk>,
    /// Bytes of the young ones.
    cost: usize,
}

impl Shard {
    fn get(&mut self, key: Key) -> Option<&mut Chunk> {
        if let Some(chunk) = self.old.remove(&key) {
            self.put(key, chunk);
        }
        self.young.get_mut(&key)
    }

    fn put(&mut self, key: Key, chunk: Chunk) {
        if self.cost >= BOUND / SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
            self.cost = 0;
        }
        self.cost += chunk.cost();
        if let Some(before) = self.young.insert(key, chunk) {
            self.cost -= before.cost();
        }
    }

    /// Carries over that `holder` holds the pages of `range` in the live view.
    fn assign(&mut self, range: &Range<u64>, holder: Holder) {
        let key = (None, range.start / CHUNK);
        if range.end - range.start == CHUNK {
            if let Some(chunk) = self.young.remove(&key) {
                self.cost -= chunk.cost();
            }
            self.old.remove(&key);
        } else if let Some(chunk) = self.get(key) {
            let before = chunk.cost();
            chunk.assign(within(range), holder);
            let after = chunk.cost();
            self.cost = self.cost + after - before;
        }
    }

    /// Forgets the live view of `chunks`.
    fn forget(&mut self, chunks: &Range<u64>) {
        let stays = |&(line, number): &Key| line.is_some() || !chunks.contains(&number);
        self.old.retain(|key, _| stays(key));
        self.young.retain(|key, _| stays(key));
        self.cost = self.young.values().map(Chunk::cost).sum();
    }
}

/// The chunk by chunk pieces of `pages`.
fn pieces(pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
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
    shards: [PlainMutex<Shard>; SHARDS],
}

impl ViewCache {
    /// Visits in order who answers for `pages` in the view of `line`. `paint` tells it of every page of a chunk, where
    /// nothing is kept of that. The caller holds the state's lock.
    pub(crate) fn look_up(
        &self,
        line: Option<u32>,
        pages: Range<u64>,
        paint: impl Fn(Range<u64>, &mut [Holder]),
        visit: &mut dyn FnMut(Range<u64>, Holder),
    ) {
        for piece in pieces(pages) {
            let number = piece.start / CHUNK;
            let (start, key) = (number * CHUNK, (line, number));
            let visit =
                |run: Range<u16>, holder| visit(start + u64::from(run.start)..start + u64::from(run.end), holder);
            let shard = &self.shards[number as usize % SHARDS];
            if let Some(chunk) = shard.lock().get(key) {
                chunk.visit(within(&piece), visit);
                continue;
            }
            let mut painted = [Holder::Nobody; CHUNK as usize];
            paint(start..start + CHUNK, &mut painted);
            let chunk = Chunk::of(&painted);
            chunk.visit(within(&piece), visit);
            shard.lock().put(key, chunk);
        }
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder() -> impl Strategy<Value = Holder> {
        prop_oneof![Just(Holder::Nobody), (1u32..4).prop_map(Holder::Held), (1u32..4).prop_map(Holder::Zero)]
    }

    proptest! {
        #[test]
        fn a_chunk_agrees_with_an_array(ops in prop::collection::vec((0..CHUNK, 1..CHUNK, holder()), 1..60)) {
            let mut model = [Holder::Nobody; CHUNK as usize];
            let mut chunk = Chunk::of(&model);
            for (start, len, holder) in ops {
                let range = start as u16..(start + len).min(CHUNK) as u16;
                model[usize::from(range.start)..usize::from(range.end)].fill(holder);
                chunk.assign(range.clone(), holder);
                prop_assert_eq!(chunk.0.len(), Chunk::of(&model).0.len(), "neighbours differ");
                let mut at = range.start;
                chunk.visit(range.start..CHUNK as u16, |run, holder| {
                    assert_eq!(run.start, at);
                    assert!(model[usize::from(run.start)..usize::from(run.end)].iter().all(|&other| other == holder));
                    at = run.end;
                });
                prop_assert_eq!(u64::from(at), CHUNK);
            }
        }
    }

    /// Every other page of another layer: as much as a chunk can take.
    fn mixed(_: Range<u64>, painted: &mut [Holder]) {
        for (page, at) in painted.iter_mut().zip(0..) {
            *page = Holder::Held(at % 2);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_asked_for_stays() {
        let mut cache = ViewCache::default();
        for chunk in 0..4000 {
            for asked in [chunk, 7] {
                let mut seen = 0;
                let visit = &mut |run: Range<u64>, _| seen += run.end - run.start;
                cache.look_up(None, asked * CHUNK + 5..(asked + 1) * CHUNK, mixed, visit);
                assert_eq!(seen, CHUNK - 5);
            }
        }
        let shards = cache.shards.iter_mut().map(|shard| shard.get_mut());
        let bytes: usize =
            shards.flat_map(|shard| shard.young.values().chain(shard.old.values())).map(Chunk::cost).sum();
        assert!((BOUND / 2..BOUND + SHARDS * 20_000).contains(&bytes), "{bytes}");
        let painted = |_: Range<u64>, _: &mut [Holder]| panic!("it is kept");
        cache.look_up(None, 7 * CHUNK..7 * CHUNK + 1, painted, &mut |_, holder| assert_eq!(holder, Holder::Held(0)));
        cache.publish(0..u64::MAX, Holder::Zero(9));
        assert!(cache.shards.iter_mut().all(|shard| shard.get_mut().young.is_empty() && shard.get_mut().cost == 0));
    }
}
