//! The live state of a disk: its layers bottom to top, what each holds, the snapshots across them, and what of it all
//! is not durable yet. No I/O here.
//!
//! Reading page n: the topmost layer that holds it, or holds it as zero; none: the base below `base_limit`, else
//! zeros. Between two neighbouring snapshots a page is in the presence of at most one layer: when the live view leaves
//! a page of a lower layer, it goes from that layer's presence to its dead set at once, whatever is durable, so that no
//! stale plaintext is missed.

use std::ops::Range;
use std::sync::Arc;

use super::extent_map::Mark;
use super::layer::Layer;
use super::page_set::{PageSet, Share};
use super::view_cache::{Holder, ViewCache};
use crate::disk::commit::checkpoint::{Checkpoint, PAGES_LIMIT, Presence};
use crate::disk::commit::log::{Batch, Op, Snapshot};
use crate::disk::commit::pending::Pending;
use crate::disk::volatile::VolatileJournal;
use crate::io::{mutant, unless_mutant};

/// A layer in the stack, and what it holds. `held` and `zero` are disjoint; `dead` is disjoint from `held`.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) layer: Arc<Layer>,
    held: PageSet,
    zero: PageSet,
    /// Bytes are left there, or may be, that nothing reads any more: a record says that the layer held them, or held
    /// them as zero, and what took their place.
    pub(crate) dead: PageSet,
    /// Bytes lie there that no record names. A crash leaves such, of writes that never became durable; so does a log
    /// that lost its end, of pages that were. Nothing tells the two apart, so nothing punches them unasked.
    pub(crate) unaccounted: PageSet,
    /// Every page that a record names, for as long as what is stored is still to be looked through.
    pub(crate) named: PageSet,
    /// Pages punched since the layer was last synced: still pending.
    pub(crate) punched: u64,
    /// The round after which the live view last left a page of it: until the next one is durable, it is needed.
    pub(crate) left_after: u64,
    /// A rollback emptied it for ever.
    pub(crate) emptied: bool,
}

impl Entry {
    pub(crate) fn new(layer: Arc<Layer>) -> Self {
        Self {
            layer,
            held: PageSet::new(),
            zero: PageSet::new(),
            dead: PageSet::new(),
            unaccounted: PageSet::new(),
            named: PageSet::new(),
            punched: 0,
            left_after: 0,
            emptied: false,
        }
    }

    pub(crate) fn held(&self) -> &PageSet {
        &self.held
    }

    pub(crate) fn zero(&self) -> &PageSet {
        &self.zero
    }

    /// What a checkpoint says of it.
    pub(crate) fn load(&mut self, presence: Presence) {
        (self.held, self.zero, self.dead) = (presence.held, presence.zero, presence.dead);
        self.named = self.held.clone();
        self.named.union_with(&self.zero);
    }

    /// Whether a record tells why bytes lie at `page`, which the layer does not hold.
    pub(crate) fn accounts_for(&self, page: u64) -> bool {
        let in_one = |set: &PageSet| set.contains_all(page..page + 1);
        // A rollback is a record about all of a layer.
        self.emptied || in_one(&self.dead) || in_one(&self.zero) || in_one(&self.named)
    }

    /// The live view leaves `pages` of this layer.
    fn leave(&mut self, pages: &Range<u64>) {
        if self.held.intersects(pages.clone()) {
            let left = self.held.clipped(pages.clone());
            self.dead.union_with(&left);
            self.held.remove(pages.clone());
        }
        self.zero.remove(pages.clone());
    }

    /// Everything that lies in it is dead, for good.
    fn empty(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.dead.union_with(&held);
        self.dead.union_with(&std::mem::take(&mut self.unaccounted));
        self.zero = PageSet::new();
        self.emptied = true;
    }

    pub(crate) fn holds_nothing(&self) -> bool {
        self.held.is_empty() && self.zero.is_empty()
    }
}

/// A file among those of the layers that the settings do not name, although bytes lie in it. An orderly removal leaves
/// none: the layer was empty before. So it is of a time that the settings do not know, such as when older ones were put
/// back.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) name: String,
    pub(crate) layer: u32,
    /// Pages stored.
    pub(crate) pages: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    /// Pages of the blob.
    pub(crate) size: u64,
    pub(crate) base_limit: u64,
    /// In order of id, which is the order of the stack.
    pub(crate) entries: Vec<Entry>,
    pub(crate) strays: Vec<Stray>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) next_snapshot: u32,
    pub(crate) pending: Pending,
    /// What the round under way is making durable.
    pub(crate) in_flight: Option<Arc<Pending>>,
    /// Where changes are noted for the case that the process dies; `None`: nowhere.
    pub(crate) recent: Option<VolatileJournal>,
    /// Batches taken, over all openings.
    pub(crate) generation: u64,
    /// Rounds that took what was pending, and how many of them are durable, counted from 1: recovery was the first.
    pub(crate) taken: u64,
    pub(crate) durable: u64,
    /// Whether the dead sets are complete; not so after an unclean end until all layers were looked through.
    pub(crate) dead_known: bool,
    /// What is kept of answers to reads: everything here that changes one tells it.
    pub(crate) views: ViewCache,
}

impl State {
    pub(crate) fn index_of(&self, layer: u32) -> Option<usize> {
        self.entries.binary_search_by_key(&layer, |entry| entry.layer.id).ok()
    }

    pub(crate) fn entry_mut(&mut self, layer: u32) -> Option<&mut Entry> {
        self.index_of(layer).map(|index| &mut self.entries[index])
    }

    pub(crate) fn snapshot(&self, id: u32) -> Option<&Snapshot> {
        // They are drawn in the order of their ids.
        self.snapshots.binary_search_by_key(&id, |snapshot| snapshot.id).ok().map(|index| &self.snapshots[index])
    }

    /// The highest layer id that any snapshot sees; layers above it are in nobody's view but the live one.
    pub(crate) fn highest_seen(&self) -> u32 {
        self.snapshots.iter().map(|snapshot| snapshot.sees).max().unwrap_or(0)
    }

    /// Whether `layer` holds all of `pages`.
    pub(crate) fn holds(&self, layer: u32, pages: &Range<u64>) -> bool {
        self.index_of(layer).is_some_and(|index| self.entries[index].held.contains_all(pages.clone()))
    }

    /// How much of `pages` the layer holds; all of none.
    pub(crate) fn holding(&self, layer: u32, pages: &Range<u64>) -> Share {
        match self.index_of(layer) {
            _ if pages.is_empty() => Share::All,
            Some(index) => self.entries[index].held.share(pages.clone()),
            None => Share::Nothing,
        }
    }

    /// The runs of `pages` that the layer holds.
    pub(crate) fn held_runs(&self, layer: u32, pages: &Range<u64>) -> Vec<Range<u64>> {
        self.index_of(layer).map_or_else(Vec::new, |index| self.entries[index].held.runs(pages.clone()).collect())
    }

    /// Publishes a change of presence in the top layer: presence, what died of it, and the delta, all at once.
    pub(crate) fn publish(&mut self, top: u32, pages: Range<u64>, mark: Mark) {
        let (seen, taken) = (self.highest_seen(), self.taken);
        for entry in self.entries.iter_mut().filter(|entry| entry.layer.id > seen) {
            if !entry.holds_nothing() {
                entry.left_after = taken;
            }
            if entry.layer.id != top {
                entry.leave(&pages);
            } else if mark == Mark::Held {
                entry.held.insert(pages.clone());
                entry.zero.remove(pages.clone());
                entry.dead.remove(pages.clone());
                entry.unaccounted.remove(pages.clone());
            } else {
                entry.leave(&pages);
                entry.zero.insert(pages.clone());
            }
        }
        self.views.publish(pages.clone(), if mark == Mark::Held { Holder::Held(top) } else { Holder::Zero(top) });
        self.pending.extents.entry(top).or_default().assign(pages, mark);
    }

    /// A rollback empties `layer`, for good.
    pub(crate) fn empty_layer(&mut self, layer: u32) {
        // What was pending for it means nothing any more.
        self.pending.extents.remove(&layer);
        self.pending.ops.push(Op::LayerEmptied(layer));
        let taken = self.taken;
        if let Some(entry) = self.entry_mut(layer) {
            entry.empty();
            entry.left_after = taken;
        }
        self.views.clear();
    }

    /// A write of `pages` to the top layer failed: what it left on pages the layer does not hold is dead.
    pub(crate) fn write_failed(&mut self, top: u32, pages: Range<u64>) {
        if let Some(entry) = self.entry_mut(top) {
            let mut left = PageSet::new();
            left.insert(pages);
            left.subtract(&entry.held);
            left.subtract(&entry.unaccounted);
            entry.dead.union_with(&left);
        }
    }

    /// Whether there is a change that no round has taken yet.
    pub(crate) fn anything_dirty(&self) -> bool {
        !self.pending.is_empty() || self.entries.iter().any(|entry| entry.layer.is_dirty())
    }

    /// Whether every record other than of pages is durable: snapshots, sizes, layers that a rollback emptied.
    pub(crate) fn ops_durable(&self) -> bool {
        self.pending.ops.is_empty() && self.in_flight.as_ref().is_none_or(|pending| pending.ops.is_empty())
    }

    /// Whether for all of `pages` what is live is what is durable.
    pub(crate) fn is_durable(&self, pages: &Range<u64>) -> bool {
        if mutant!(PendingNotLookedAt) {
            return true;
        }
        !self.pending.touches(pages) && !self.in_flight.as_ref().is_some_and(|pending| pending.touches(pages))
    }

    /// Applies a durable batch while recovering. Extents of layers that `known` denies belong to removed ones.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Result<(), &'static str> {
        self.views.clear();
        for extent in &batch.extents {
            if extent.pages.end > PAGES_LIMIT {
                return Err("extent past the end of the blob");
            }
            let Some(entry) = self.entry_mut(extent.layer).filter(|entry| !entry.emptied) else { continue };
            // A clean checkpoint's dead pages may have been written again since.
            unless_mutant!(DeadThoughWrittenAgain => entry.dead.remove(extent.pages.clone()));
            let (to, from) = match extent.mark {
                Mark::Held => (&mut entry.held, &mut entry.zero),
                Mark::Zero => (&mut entry.zero, &mut entry.held),
            };
            to.insert(extent.pages.clone());
            from.remove(extent.pages.clone());
            entry.named.insert(extent.pages.clone());
        }
        for op in &batch.ops {
            match op {
                Op::SnapshotAdded(snapshot) if !snapshot.is_possible() => return Err("impossible snapshot"),
                Op::SnapshotAdded(snapshot) => {
                    self.next_snapshot = self.next_snapshot.max(snapshot.id.saturating_add(1));
                    self.snapshots.push(snapshot.clone());
                }
                Op::SnapshotRemoved(id) => self.snapshots.retain(|snapshot| snapshot.id != *id),
                Op::Resize { size, base_limit } if *size == 0 || *size > PAGES_LIMIT || base_limit > size => {
                    return Err("impossible size");
                }
                Op::Resize { size, base_limit } => (self.size, self.base_limit) = (*size, *base_limit),
                // It stays in the stack until upkeep removes it: what is left in its file is to be scrubbed like any
                // other.
                Op::LayerEmptied(layer) => {
                    if let Some(entry) = self.entry_mut(*layer) {
                        entry.empty();
                    }
                }
                Op::NextLog { .. } => {}
            }
        }
        Ok(())
    }

    /// Moves every page that a higher layer covers, with no snapshot between, to its layer's dead set. No view saw it
    /// there.
    pub(crate) fn recompute_dead(&mut self) {
        let mut borders: Vec<u32> = self.snapshots.iter().map(|snapshot| snapshot.sees).collect();
        borders.sort_unstable();
        let mut covered = PageSet::new();
        let mut above: Option<u32> = None;
        for entry in self.entries.iter_mut().rev() {
            let id = entry.layer.id;
            if !mutant!(LinesNotLookedAt)
                && above.is_some_and(|above| borders.iter().any(|&sees| id <= sees && sees < above))
            {
                covered = PageSet::new();
            }
            above = Some(id);
            let mut mine = entry.held.clone();
            mine.union_with(&entry.zero);
            let mut left = entry.held.clone();
            left.intersect_with(&covered);
            entry.dead.union_with(&left);
            entry.held.subtract(&covered);
            entry.zero.subtract(&covered);
            entry.left_after = self.taken;
            covered.union_with(&mine);
        }
    }

    /// A layer that holds nothing, durably so, with nothing left behind, and that is not `top`. As long as not
    /// everything left behind is known, none: where its file then cannot be removed, nobody would count what lies
    /// there.
    pub(crate) fn removable(&self, top: Option<u32>) -> Option<u32> {
        if !self.dead_known {
            return None;
        }
        let spent = |entry: &&Entry| {
            entry.holds_nothing()
                && entry.dead.is_empty()
                && entry.unaccounted.is_empty()
                && entry.punched == 0
                && (entry.left_after < self.durable || mutant!(LayerRemovedEarly))
                && Some(entry.layer.id) != top
        };
        self.entries.iter().find(spent).map(|entry| entry.layer.id)
    }

    /// What a checkpoint of this state holds; `chain` is to be filled in. It is the durable state where nothing is
    /// pending, and at a round's border once that round is durable.
    pub(crate) fn checkpoint(&mut self, clean: bool) -> Checkpoint {
        let layers = self.entries.iter_mut().map(|entry| {
            entry.held.compact();
            entry.zero.compact();
            Presence {
                layer: entry.layer.id,
                held: entry.held.clone(),
                zero: entry.zero.clone(),
                // After an unclean end they are looked for anew; this says that they may be punched then.
                dead: if mutant!(DeadNotKept) && !clean { PageSet::new() } else { entry.dead.clone() },
            }
        });
        let layers = layers.collect();
        Checkpoint {
            clean,
            // What is in no record is found by looking, again.
            dead_known: clean && self.dead_known && self.entries.iter().all(|entry| entry.unaccounted.is_empty()),
            size: self.size,
            base_limit: self.base_limit,
            next_snapshot: self.next_snapshot,
            generation: self.generation,
            chain: Default::default(),
            snapshots: self.snapshots.clone(),
            layers,
        }
    }

    /// All that is stored was looked through.
    pub(crate) fn dead_found(&mut self) {
        self.dead_known = true;
        self.entries.iter_mut().for_each(|entry| entry.named = PageSet::new());
    }

    /// Pages stored that no record names, as far as they were found: all of them where the dead are known.
    pub(crate) fn unaccounted(&self) -> u64 {
        let in_layers: u64 = self.entries.iter().map(|entry| entry.unaccounted.len()).sum();
        in_layers + self.strays.iter().map(|stray| stray.pages).sum::<u64>()
    }

    /// From now on what no record names is dead: the owner says so.
    pub(crate) fn give_up_unaccounted(&mut self) {
        for entry in &mut self.entries {
            let unaccounted = std::mem::take(&mut entry.unaccounted);
            entry.dead.union_with(&unaccounted);
        }
    }

    /// Pages not reachable any more but not yet durably punched; `None` while that is not known.
    pub(crate) fn pending_scrub(&self) -> Option<u64> {
        let pending = self.entries.iter().map(|entry| entry.dead.len() + entry.punched).sum();
        self.dead_known.then_some(pending)
    }
}
