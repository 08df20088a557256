//! What a disk can say of itself: the state of every run of pages, bytes by state, its layers.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;

use super::page_set::PageSet;
use super::resolve::{PageSource, View};
use super::state::State;
use crate::base::{BaseImage, BaseRun};
use crate::disk::core::Core;
use crate::disk::table::settings::{DiskSettings, Kind};
use crate::disk::{Access, PageState, Run, Usage};
use crate::{PAGE, Result};

/// Pages of a base that are asked about first.
const FIRST_STEP: u64 = 1 << 12;

/// A layer and what the live view reads from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUsage {
    pub id: u32,
    pub kind: Kind,
    /// Seconds since the epoch.
    pub created: u64,
    /// The account key that wraps its data key.
    pub account_key: Option<Uuid>,
    /// Bytes of the live disk that lie in it.
    pub live: u64,
    /// Bytes that it holds, what only snapshots see included.
    pub held: u64,
    /// Bytes left behind, not yet punched.
    pub dead: u64,
    /// AES blocks encrypted under its data key, give or take 8 GiB for every time the disk was opened.
    pub sealed_blocks: u64,
    /// So many that a new data key is due, which it has not got yet.
    pub rotation_due: bool,
}

/// Pages of a disk under one data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage {
    /// The disk whose key it is: in a clone it may be another one.
    pub disk: Uuid,
    /// The layer whose key it is.
    pub layer: u32,
    /// Pages that are read with it, footer page included; what only snapshots see is not counted.
    pub pages: u64,
    /// What is written now comes under it.
    pub current: bool,
    /// AES blocks encrypted under it, as in [`LayerUsage::sealed_blocks`]; `None`: another disk counts them.
    pub sealed_blocks: Option<u64>,
    /// As [`LayerUsage::rotation_due`].
    pub rotation_due: bool,
}

/// Bytes that layers hold, by how they are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    pub plain: u64,
    pub encrypted: u64,
}

/// What a clone reads from the layers of another disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    pub disk: Uuid,
    pub stored: Stored,
}

/// Runs that were found, and how many are wanted. One more ends the last of these.
struct Gathered {
    runs: Vec<Run>,
    limit: usize,
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.runs.len() > self.limit
    }

    fn push(&mut self, pages: Range<u64>, state: PageState, layer: Option<u32>, depth: u32) {
        let (start, pages, full) = (pages.start, pages.end - pages.start, self.is_full());
        match self.runs.last_mut() {
            Some(last) if (last.state, last.layer, last.depth) == (state, layer, depth) => last.pages += pages,
            _ if full => {}
            _ => self.runs.push(Run { start, pages, state, layer, depth }),
        }
    }

    /// What the base says of `pages`: a little of it first and then twice as much each time, so that whoever wants few
    /// runs of a fragmented one neither waits for all of them nor takes memory for them.
    fn push_base(&mut self, base: &dyn BaseImage, pages: Range<u64>, depth: u32) -> Result<()> {
        let (mut at, mut step) = (pages.start, FIRST_STEP);
        while at < pages.end && !self.is_full() {
            let end = pages.end.min(at.saturating_add(step));
            let mut next = at;
            base.runs(at * PAGE as u64, (end - at) * PAGE as u64, &mut |kind, len| {
                let run = next..next + len / PAGE as u64;
                next = run.end;
                let state = match kind {
                    BaseRun::Zero if base.exposes_layers() => PageState::Zero,
                    BaseRun::Data => PageState::Base { allocated: true },
                    BaseRun::Zero => PageState::Base { allocated: false },
                    BaseRun::Held { disk, layer, encrypted } => PageState::Inherited { disk, layer, encrypted },
                };
                self.push(run, state, None, depth);
                Ok(())
            })?;
            (at, step) = (end, step.saturating_mul(2));
        }
        Ok(())
    }
}

impl Core {
    /// Calls `look` with the base that is open. Where the disk is detached from it meanwhile, and it goes, once more
    /// without: nothing is read from it any more.
    pub(crate) fn over_base<T>(&self, look: impl Fn(Option<&dyn BaseImage>) -> Result<T>) -> Result<T> {
        let base = self.base().ok();
        match look(base.as_deref()) {
            Err(_) if base.is_some() && self.base().is_err() => look(None),
            done => done,
        }
    }

    pub(crate) fn runs(&self, view: Option<View>, pages: Range<u64>, limit: usize) -> Result<Vec<Run>> {
        self.over_base(|base| self.runs_over(base, view, pages.clone(), limit))
    }

    fn runs_over(
        &self,
        base: Option<&dyn BaseImage>,
        view: Option<View>,
        pages: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Run>> {
        let segments = {
            let state = self.stack.state();
            let view = view.unwrap_or_else(|| state.live());
            state.check_view(view)?;
            state.segments(view, pages, limit)
        };
        let mut gathered = Gathered { runs: Vec::new(), limit };
        for segment in segments {
            let (pages, depth) = (segment.pages, segment.depth);
            match segment.source {
                PageSource::Zero(layer) => gathered.push(pages, PageState::Zero, layer, depth),
                PageSource::Layer(layer) => {
                    let state = if layer.kind == Kind::Xts { PageState::Encrypted } else { PageState::Plain };
                    gathered.push(pages, state, Some(layer.id), depth);
                }
                PageSource::Base => match base {
                    None => gathered.push(pages, PageState::Base { allocated: true }, None, depth),
                    Some(base) => gathered.push_base(base, pages, depth)?,
                },
            }
            if gathered.is_full() {
                break;
            }
        }
        gathered.runs.truncate(limit);
        Ok(gathered.runs)
    }

    /// Like [`Core::usage`], but what a clone reads from another disk is counted as it is stored there. The pages of
    /// the keys, own ones first and from bottom to top, together are `encrypted`.
    pub(crate) fn usage_through(&self) -> Result<(Usage, Vec<KeyUsage>)> {
        self.over_base(|base| self.usage_over(base))
    }

    fn usage_over(&self, base: Option<&dyn BaseImage>) -> Result<(Usage, Vec<KeyUsage>)> {
        let DiskSettings { uuid: own, frozen_below, .. } = self.settings();
        let top = {
            let gate = self.stack.gate();
            // Where nothing can be written: what would be, if it could.
            let would_be = || Self::usable_top(&self.stack.state(), frozen_below, gate.encryption());
            let top = if self.access == Access::ReadOnly { would_be() } else { gate.top().cloned() };
            top.map(|top| top.id)
        };
        let base = base.filter(|base| base.exposes_layers());
        let (mut usage, mut keys, uncovered) = {
            let state = self.stack.state();
            let (usage, live) = counts(&state);
            let key = |(entry, pages): (&super::state::Entry, u64)| {
                let (layer, current) = (entry.layer.id, top == Some(entry.layer.id));
                (entry.layer.kind == Kind::Xts && (pages > 0 || current)).then_some(KeyUsage {
                    disk: own,
                    layer,
                    pages,
                    current,
                    sealed_blocks: Some(crate::disk::table::key_usage::blocks(entry.layer.encrypted_pages())),
                    rotation_due: layer >= frozen_below && self.rotation_due(&entry.layer),
                })
            };
            let keys: Vec<_> = state.entries.iter().zip(live).filter_map(key).collect();
            let uncovered = base.map(|base| (base, uncovered(&state)));
            (usage, keys, uncovered)
        };
        let Some((base, uncovered)) = uncovered else { return Ok((usage, keys)) };
        let mut inherited: BTreeMap<(Uuid, u32), u64> = BTreeMap::new();
        for run in uncovered.runs(0..u64::MAX) {
            base.runs(run.start * PAGE as u64, (run.end - run.start) * PAGE as u64, &mut |kind, len| {
                let counted = match kind {
                    BaseRun::Data => return Ok(()),
                    BaseRun::Zero => &mut usage.zero,
                    BaseRun::Held { disk, layer, encrypted: true } => {
                        *inherited.entry((disk, layer)).or_default() += len / PAGE as u64;
                        &mut usage.encrypted
                    }
                    BaseRun::Held { encrypted: false, .. } => &mut usage.plain,
                };
                *counted += len;
                usage.base -= len;
                Ok(())
            })?;
        }
        let inherited = inherited.into_iter();
        keys.extend(inherited.map(|((disk, layer), pages)| KeyUsage {
            disk,
            layer,
            pages,
            current: false,
            sealed_blocks: None,
            rotation_due: false,
        }));
        Ok((usage, keys))
    }

    /// What the layers hold, whichever view reads it.
    pub(crate) fn stored(&self) -> Stored {
        let state = self.stack.state();
        let held = |kind: Kind| {
            let of_kind = state.entries.iter().filter(|entry| entry.layer.kind == kind);
            of_kind.map(|entry| entry.held().len()).sum::<u64>() * PAGE as u64
        };
        Stored { plain: held(Kind::Plain), encrypted: held(Kind::Xts) }
    }

    /// What the live disk or a snapshot of it reads from layers of other disks, by disk.
    pub(crate) fn inherited(&self) -> Result<Vec<Inherited>> {
        self.over_base(|base| self.inherited_from(base.filter(|base| base.exposes_layers())))
    }

    fn inherited_from(&self, base: Option<&dyn BaseImage>) -> Result<Vec<Inherited>> {
        let Some(base) = base else { return Ok(Vec::new()) };
        let mut below = PageSet::new();
        {
            let state = self.stack.state();
            for view in std::iter::once(state.live()).chain(state.snapshots.iter().map(View::from)) {
                let mut uncovered = PageSet::new();
                uncovered.insert(0..view.base_limit);
                for entry in state.entries.iter().filter(|entry| entry.layer.id <= view.sees) {
                    uncovered.subtract(entry.held());
                    uncovered.subtract(entry.zero());
                }
                below.union_with(&uncovered);
            }
        }
        let mut found: BTreeMap<Uuid, Stored> = BTreeMap::new();
        for run in below.runs(0..u64::MAX) {
            base.runs(run.start * PAGE as u64, (run.end - run.start) * PAGE as u64, &mut |kind, len| {
                let BaseRun::Held { disk, encrypted, .. } = kind else { return Ok(()) };
                let stored = found.entry(disk).or_default();
                *(if encrypted { &mut stored.encrypted } else { &mut stored.plain }) += len;
                Ok(())
            })?;
        }
        Ok(found.into_iter().map(|(disk, stored)| Inherited { disk, stored }).collect())
    }

    pub(crate) fn usage(&self) -> Usage {
        Self::usage_of(&self.stack.state())
    }

    pub(crate) fn usage_of(state: &State) -> Usage {
        counts(state).0
    }

    pub(crate) fn layers(&self) -> Vec<LayerUsage> {
        let frozen_below = self.table.lock().settings().frozen_below;
        let account_key = self.keys.get().map(|keys| keys.account_key_id());
        let state = self.stack.state();
        let (_, live) = live_pages(&state);
        let bytes = |pages: u64| pages * PAGE as u64;
        let one = |(entry, live): (&super::state::Entry, u64)| LayerUsage {
            id: entry.layer.id,
            kind: entry.layer.kind,
            created: entry.layer.created,
            account_key: account_key.filter(|_| entry.layer.kind == Kind::Xts),
            live: bytes(live),
            held: bytes(entry.held().len()),
            dead: bytes(entry.dead.len() + entry.punched),
            sealed_blocks: crate::disk::table::key_usage::blocks(entry.layer.encrypted_pages()),
            rotation_due: entry.layer.id >= frozen_below && self.rotation_due(&entry.layer),
        };
        state.entries.iter().zip(live).map(one).collect()
    }

    pub(crate) fn settings(&self) -> DiskSettings {
        self.table.lock().settings().clone()
    }
}

/// The bytes by state, and per layer, bottom to top, the pages that it holds in the live view. Without snapshots no
/// page is in two layers, so that counting suffices; else sets have to be made.
fn counts(state: &State) -> (Usage, Vec<u64>) {
    let mut usage = Usage {
        pending_scrub: state.pending_scrub().map(|pages| pages * PAGE as u64),
        unaccounted: state.unaccounted() * PAGE as u64,
        ..Usage::default()
    };
    let (covered, live) = match state.snapshots.is_empty() {
        true => counted(state),
        false => {
            let (covered, live) = live_pages(state);
            (covered.count(0..state.base_limit), live)
        }
    };
    for (entry, pages) in state.entries.iter().zip(&live) {
        match entry.layer.kind {
            Kind::Plain => usage.plain += pages * PAGE as u64,
            Kind::Xts => usage.encrypted += pages * PAGE as u64,
        }
    }
    usage.base = (state.base_limit - covered) * PAGE as u64;
    usage.zero = state.size * PAGE as u64 - usage.base - usage.plain - usage.encrypted;
    (usage, live)
}

/// The pages that are read from below the layers.
fn uncovered(state: &State) -> PageSet {
    let mut uncovered = PageSet::new();
    uncovered.insert(0..state.base_limit);
    uncovered.subtract(&live_pages(state).0);
    uncovered
}

/// Where no page is in two layers: pages below the border of the base that some layer answers for, and per layer the
/// pages that it holds in the live view.
fn counted(state: &State) -> (u64, Vec<u64>) {
    let base = 0..state.base_limit;
    let covered =
        state.entries.iter().map(|entry| entry.held().count(base.clone()) + entry.zero().count(base.clone())).sum();
    let live: Vec<_> = state.entries.iter().map(|entry| entry.held().count(0..state.size)).collect();
    debug_assert!({
        let (all, each) = live_pages(state);
        all.count(base) == covered && each == live
    });
    (covered, live)
}

/// All pages that some layer answers for, and per layer, bottom to top, the pages that it holds in the live view.
fn live_pages(state: &State) -> (PageSet, Vec<u64>) {
    let mut covered = PageSet::new();
    let mut live = Vec::new();
    for entry in state.entries.iter().rev() {
        let mut own = entry.held().clone();
        own.subtract(&covered);
        live.push(own.clipped(0..state.size).len());
        covered.union_with(entry.held());
        covered.union_with(entry.zero());
    }
    live.reverse();
    (covered, live)
}
