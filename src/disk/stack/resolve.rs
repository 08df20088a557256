//! Which layer answers for a page: the walk down the stack, exact for any range, and what is kept of its answers for
//! the short ranges of reads.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::layer::Layer;
use super::page_set::{PageSet, Share};
use super::state::{Entry, State};
use super::view_cache::{self, CHUNK, Holder};
use crate::disk::commit::log::Snapshot;
use crate::{Error, ErrorKind, Result};

/// Longer ranges are walked: their answers would only drive others out.
const LONGEST_KEPT: u64 = 16 * CHUNK;

/// Where a run of pages is read from.
#[derive(Debug, Clone)]
pub(crate) enum PageSource {
    Layer(Arc<Layer>),
    /// Zeros; the layer that says so, if any.
    Zero(Option<u32>),
    Base,
}

impl PageSource {
    fn same(&self, other: &PageSource) -> bool {
        match (self, other) {
            (PageSource::Layer(a), PageSource::Layer(b)) => a.id == b.id,
            (PageSource::Zero(a), PageSource::Zero(b)) => a == b,
            (PageSource::Base, PageSource::Base) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) pages: Range<u64>,
    pub(crate) source: PageSource,
    /// Layers between the top and the one that answers: 1 is the top; 0 for what no layer holds.
    pub(crate) depth: u32,
}

pub(crate) type Segments = SmallVec<[Segment; 4]>;

/// Which part of the stack is looked at: the live disk, or what a snapshot sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// The snapshot it is of; `None`: the live disk.
    pub(crate) snapshot: Option<u32>,
    /// The highest layer id seen.
    pub(crate) sees: u32,
    /// Pages of the blob.
    pub(crate) size: u64,
    /// Pages of the base that are seen.
    pub(crate) base_limit: u64,
}

impl From<&Snapshot> for View {
    fn from(snapshot: &Snapshot) -> Self {
        Self { snapshot: Some(snapshot.id), sees: snapshot.sees, size: snapshot.size, base_limit: snapshot.base_limit }
    }
}

/// How far the walk has come in one layer.
struct Cursor {
    /// Layers from the bottom up to this one.
    height: usize,
    /// What is left of the range to look through here.
    left: Range<u64>,
    held: Option<Range<u64>>,
    zero: Option<Range<u64>>,
    /// To be visited before going on: what lies below the gap in front of it comes first.
    found: Option<Segment>,
}

impl Cursor {
    /// At the next run of `left` that the layer answers for; `None`: there is none.
    fn next(&mut self, entry: &Entry, depth: u32) -> Option<Segment> {
        let take_held = match (&self.held, &self.zero) {
            (Some(held), Some(zero)) => held.start < zero.start,
            (held, _) => held.is_some(),
        };
        let (set, next): (&PageSet, _) =
            if take_held { (entry.held(), &mut self.held) } else { (entry.zero(), &mut self.zero) };
        let pages = next.take()?;
        *next = set.next_run(pages.end..self.left.end);
        let source = if take_held {
            PageSource::Layer(Arc::clone(&entry.layer))
        } else {
            PageSource::Zero(Some(entry.layer.id))
        };
        Some(Segment { pages, source, depth })
    }
}

impl State {
    pub(crate) fn live(&self) -> View {
        View { snapshot: None, sees: u32::MAX, size: self.size, base_limit: self.base_limit }
    }

    /// Pages that only a snapshot sees die with it: a view of it must not be read any more.
    pub(crate) fn check_view(&self, view: View) -> Result<()> {
        if view.snapshot.is_some_and(|id| self.snapshot(id).is_none()) {
            return Err(Error::new(ErrorKind::NotFound, "the snapshot was deleted"));
        }
        Ok(())
    }

    /// How many layers the view sees.
    fn seen(&self, view: View) -> usize {
        if view.snapshot.is_none() {
            return self.entries.len();
        }
        self.entries.partition_point(|entry| entry.layer.id <= view.sees)
    }

    /// Visits the runs of `pages` in order; stops when `visit` answers `false`. Neighbours may be of equal source.
    pub(crate) fn resolve(&self, view: View, pages: Range<u64>, visit: &mut dyn FnMut(Segment) -> bool) -> bool {
        let seen = self.seen(view);
        // One for each layer at the most, and no recursion: a stack may be thousands of layers high.
        let mut cursors: Vec<Cursor> = Vec::new();
        let enter =
            |mut height: usize, gap: Range<u64>, cursors: &mut Vec<Cursor>, visit: &mut dyn FnMut(Segment) -> bool| {
                if gap.is_empty() {
                    return true;
                }
                while height > 0 {
                    let entry = &self.entries[height - 1];
                    let (held, zero) = (entry.held().next_run(gap.clone()), entry.zero().next_run(gap.clone()));
                    if held.is_some() || zero.is_some() {
                        cursors.push(Cursor { height, left: gap, held, zero, found: None });
                        return true;
                    }
                    height -= 1;
                }
                below_all(view.base_limit, gap).all(visit)
            };
        if !enter(seen, pages, &mut cursors, visit) {
            return false;
        }
        while let Some(cursor) = cursors.last_mut() {
            if let Some(found) = cursor.found.take()
                && !visit(found)
            {
                return false;
            }
            let height = cursor.height;
            let next = cursor.next(&self.entries[height - 1], (seen - height + 1) as u32);
            let gap = match next {
                Some(segment) => {
                    let gap = cursor.left.start..segment.pages.start;
                    cursor.left.start = segment.pages.end;
                    cursor.found = Some(segment);
                    gap
                }
                None => {
                    let gap = cursor.left.clone();
                    cursors.pop();
                    gap
                }
            };
            if !enter(height - 1, gap, &mut cursors, visit) {
                return false;
            }
        }
        true
    }

    /// The runs of `pages`, neighbours of equal source merged, at most `limit` of them.
    pub(crate) fn segments(&self, view: View, pages: Range<u64>, limit: usize) -> Segments {
        let mut found = Segments::new();
        self.resolve(view, pages, &mut |segment| merge(&mut found, segment, limit));
        found
    }

    /// The same for a read: all the runs of `pages`. Quick also in a high or mixed stack, where the pages were looked
    /// at before.
    pub(crate) fn look_up(&self, view: View, pages: Range<u64>) -> Segments {
        let seen = self.seen(view);
        let mut found = Segments::new();
        if seen <= 1 || pages.end - pages.start > LONGEST_KEPT {
            self.walk(view, seen, pages, &mut found);
            return found;
        }
        for piece in view_cache::pieces(pages) {
            let push = |run, holder| self.answer(view, seen, run, holder, &mut found);
            if self.views.visit(view.snapshot, &piece, push) {
                continue;
            }
            self.walk(view, seen, piece.clone(), &mut found);
            if self.views.is_worth_keeping(seen) {
                let number = piece.start / CHUNK;
                self.views.keep(view.snapshot, number, &self.paint(seen, number * CHUNK..(number + 1) * CHUNK));
            }
        }
        found
    }

    /// Adds what a holder that was kept means for `pages`.
    fn answer(&self, view: View, seen: usize, pages: Range<u64>, holder: Holder, found: &mut Segments) {
        let (source, depth) = match holder {
            Holder::Nobody => {
                below_all(view.base_limit, pages).for_each(|segment| add(found, segment));
                return;
            }
            Holder::Held(layer) | Holder::Zero(layer) => {
                // A layer that answers for something is in the stack.
                let Some(index) = self.index_of(layer) else { return debug_assert!(false, "layer {layer}") };
                let held = matches!(holder, Holder::Held(_));
                let entry = &self.entries[index];
                let source =
                    if held { PageSource::Layer(Arc::clone(&entry.layer)) } else { PageSource::Zero(Some(layer)) };
                (source, (seen - index) as u32)
            }
        };
        add(found, Segment { pages, source, depth });
    }

    /// Adds the runs of `pages`, from the layers.
    fn walk(&self, view: View, seen: usize, pages: Range<u64>, found: &mut Segments) {
        if let Some(segment) = self.single(view, seen, &pages) {
            return add(found, segment);
        }
        self.resolve(view, pages, &mut |segment| {
            add(found, segment);
            true
        });
    }

    /// The answer of the walk where it is one for all of `pages`; `None`: not so. A layer that holds a page does not
    /// have it as zero: so the bitmaps, which for a fragmented disk are larger than a processor's caches, are asked no
    /// further than it takes.
    fn single(&self, view: View, seen: usize, pages: &Range<u64>) -> Option<Segment> {
        let segment = |source, depth| Some(Segment { pages: pages.clone(), source, depth });
        for (entry, depth) in self.entries[..seen].iter().rev().zip(1..) {
            match entry.held().share(pages.clone()) {
                Share::All => return segment(PageSource::Layer(Arc::clone(&entry.layer)), depth),
                Share::Some => return None,
                Share::Nothing => {}
            }
            match entry.zero().share(pages.clone()) {
                Share::All => return segment(PageSource::Zero(Some(entry.layer.id)), depth),
                Share::Some => return None,
                Share::Nothing => {}
            }
        }
        let mut below = below_all(view.base_limit, pages.clone());
        let first = below.next();
        if below.next().is_none() { first } else { None }
    }

    /// The answers of the walk for every page of `chunk`, by going over it with one layer after the other from the
    /// bottom: so it costs a look into each layer, however mixed the chunk is.
    fn paint(&self, seen: usize, chunk: Range<u64>) -> Vec<Holder> {
        let mut painted = vec![Holder::Nobody; CHUNK as usize];
        for entry in &self.entries[..seen] {
            let id = entry.layer.id;
            for (set, holder) in [(entry.held(), Holder::Held(id)), (entry.zero(), Holder::Zero(id))] {
                for run in set.runs(chunk.clone()) {
                    painted[(run.start - chunk.start) as usize..(run.end - chunk.start) as usize].fill(holder);
                }
            }
        }
        painted
    }

    /// The first page of `pages` that does not read as zeros because nothing is stored for it.
    pub(crate) fn first_stored(&self, pages: Range<u64>) -> Option<u64> {
        let mut first = None;
        self.resolve(self.live(), pages, &mut |segment| match segment.source {
            PageSource::Zero(_) => true,
            _ => {
                first = Some(segment.pages.start);
                false
            }
        });
        first
    }
}

/// What no layer holds: the base as far as it is seen, then zeros.
fn below_all(base_limit: u64, pages: Range<u64>) -> impl Iterator<Item = Segment> {
    let border = base_limit.clamp(pages.start, pages.end);
    let base = Segment { pages: pages.start..border, source: PageSource::Base, depth: 0 };
    let zero = Segment { pages: border..pages.end, source: PageSource::Zero(None), depth: 0 };
    [base, zero].into_iter().filter(|segment| !segment.pages.is_empty())
}

fn add(found: &mut Segments, segment: Segment) {
    merge(found, segment, usize::MAX);
}

fn merge(found: &mut Segments, segment: Segment, limit: usize) -> bool {
    let room = found.len() < limit;
    match found.last_mut() {
        Some(last) if last.source.same(&segment.source) => last.pages.end = segment.pages.end,
        _ if room => found.push(segment),
        _ => return false,
    }
    true
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::commit::pending::Pending;
    use crate::disk::stack::extent_map::Mark;
    use crate::disk::table::settings::Kind;
    use crate::io::real::RealDir;
    use crate::io::{Dir, Open};

    const PAGES: u64 = 2 * CHUNK + 100;

    #[derive(Debug, Clone)]
    enum Step {
        Publish(Range<u64>, Mark),
        NewLayer,
        Draw,
        Erase(prop::sample::Index),
        RollBack(prop::sample::Index),
        BaseLimit(u64),
        Read(prop::sample::Index, Range<u64>),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        let border = (1..3u64, 0u64..40, 0u64..80)
            .prop_map(|(chunk, before, len)| chunk * CHUNK - before..(chunk * CHUNK - before + len).min(PAGES));
        let any = (0..PAGES, 0..PAGES).prop_map(|(a, b)| a.min(b)..a.max(b));
        let chunk = (0..2u64).prop_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK);
        prop_oneof![4 => border, 1 => any, 1 => chunk]
    }

    fn step() -> impl Strategy<Value = Step> {
        let mark = prop_oneof![2 => Just(Mark::Held), 1 => Just(Mark::Zero)];
        prop_oneof![
            8 => (range(), mark).prop_map(|(range, mark)| Step::Publish(range, mark)),
            2 => Just(Step::NewLayer),
            3 => Just(Step::Draw),
            1 => any::<prop::sample::Index>().prop_map(Step::Erase),
            1 => any::<prop::sample::Index>().prop_map(Step::RollBack),
            1 => (0..PAGES).prop_map(Step::BaseLimit),
            8 => (any::<prop::sample::Index>(), range()).prop_map(|(view, range)| Step::Read(view, range)),
        ]
    }

    fn empty_state() -> State {
        State {
            size: PAGES,
            base_limit: PAGES / 2,
            entries: Vec::new(),
            snapshots: Vec::new(),
            next_snapshot: 1,
            pending: Pending::default(),
            in_flight: None,
            recent: None,
            generation: 0,
            taken: 1,
            durable: 1,
            dead_known: true,
            strays: Vec::new(),
            views: Default::default(),
        }
    }

    /// Of a page: the layer, and whether it holds it or has it as zero; whether it is the base's; the depth.
    type Answer = (Option<(u32, bool)>, bool, u32);

    /// What the definition says of each page: the topmost layer that is seen and holds it, in whatever way.
    fn by_definition(state: &State, view: View, pages: Range<u64>) -> Vec<Answer> {
        let seen: Vec<&Entry> = state.entries.iter().filter(|entry| entry.layer.id <= view.sees).collect();
        let of = |page: u64| {
            let one = page..page + 1;
            let found = seen.iter().rev().zip(1..).find_map(|(entry, depth)| {
                let held = entry.held().intersects(one.clone());
                (held || entry.zero().intersects(one.clone())).then_some((entry.layer.id, held, depth))
            });
            match found {
                Some((layer, held, depth)) => (Some((layer, held)), false, depth),
                None => (None, page < view.base_limit, 0),
            }
        };
        pages.map(of).collect()
    }

    fn spelled_out(segments: &[Segment]) -> Vec<Answer> {
        let of = |segment: &Segment| {
            let what = match &segment.source {
                PageSource::Layer(layer) => (Some((layer.id, true)), false, segment.depth),
                PageSource::Zero(layer) => (layer.map(|layer| (layer, false)), false, segment.depth),
                PageSource::Base => (None, true, segment.depth),
            };
            std::iter::repeat_n(what, (segment.pages.end - segment.pages.start) as usize)
        };
        segments.iter().flat_map(of).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn walk_and_look_up_agree_with_the_definition(steps in prop::collection::vec(step(), 1..80)) {
            let folder = tempfile::tempdir()?;
            let file = RealDir::open(folder.path())?.open("layer", Open::New)?;
            let mut state = empty_state();
            let mut next_layer = 1;
            for step in steps {
                match step {
                    Step::Publish(pages, mark) => {
                        let top = state.entries.last().map_or(0, |entry| entry.layer.id);
                        if top > state.highest_seen() && !pages.is_empty() {
                            state.publish(top, pages, mark);
                        }
                    }
                    Step::NewLayer => {
                        state.entries.retain(|entry| !entry.holds_nothing());
                        let layer = Layer::new(next_layer, Kind::Plain, 0, file.clone(), String::new(), None);
                        state.entries.push(Entry::new(Arc::new(layer)));
                        next_layer += 1;
                    }
                    Step::Draw => {
                        let sees = state.entries.last().map_or(0, |entry| entry.layer.id);
                        let (id, size, base_limit) = (state.next_snapshot, state.size, state.base_limit);
                        state.snapshots.push(Snapshot { id, name: String::new(), created: 0, sees, size, base_limit });
                        state.next_snapshot += 1;
                    }
                    Step::Erase(index) if !state.snapshots.is_empty() => {
                        let index = index.index(state.snapshots.len());
                        state.snapshots.remove(index);
                        state.recompute_dead();
                    }
                    Step::RollBack(index) if !state.snapshots.is_empty() => {
                        let index = index.index(state.snapshots.len());
                        state.snapshots.truncate(index + 1);
                        let snapshot = state.snapshots[index].clone();
                        let above = state.entries.iter().map(|entry| entry.layer.id).filter(|&id| id > snapshot.sees);
                        above.collect::<Vec<_>>().into_iter().for_each(|layer| state.empty_layer(layer));
                        state.base_limit = snapshot.base_limit;
                    }
                    Step::BaseLimit(limit) => state.base_limit = limit,
                    Step::Read(which, pages) if !pages.is_empty() => {
                        let which = which.index(state.snapshots.len() + 1);
                        let view = state.snapshots.get(which).map_or_else(|| state.live(), View::from);
                        let expected = by_definition(&state, view, pages.clone());
                        let found = state.look_up(view, pages.clone());
                        prop_assert!(spelled_out(&found) == expected, "{view:?} {pages:?}: {found:?}");
                        let walked = state.segments(view, pages.clone(), usize::MAX);
                        prop_assert!(spelled_out(&walked) == expected, "{view:?} {pages:?}: {walked:?}");
                        prop_assert_eq!(found.len(), walked.len(), "neighbours are merged in both");
                    }
                    Step::Read(..) | Step::Erase(_) | Step::RollBack(_) => {}
                }
            }
        }
    }
}
