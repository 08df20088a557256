//! A change under way, and publishing what it stored.

use std::ops::Range;
use std::sync::Arc;

use super::extent_map::Mark;
use super::gate::GateShared;
use super::layer::Layer;
use super::range_lock::Exclusive;
use super::state::State;
use crate::disk::commit::log::Extent;
use crate::disk::core::Core;
use crate::disk::volatile::Note;
use crate::io::mutant;
use crate::io::sync::RwLockWriteGuard;
use crate::{Error, Result};

/// A change of some pages under way: nobody else looks at these pages, and the top stays the top.
pub(crate) struct Change<'a> {
    // Given back in this order.
    _gate: Option<GateShared<'a>>,
    _pages: Exclusive<'a>,
    top: Arc<Layer>,
}

impl<'a> Change<'a> {
    /// `top`: the top layer as `gate` has it.
    pub(crate) fn new(pages: Exclusive<'a>, gate: GateShared<'a>, top: Arc<Layer>) -> Self {
        Self { _gate: (!mutant!(GateNotHeld)).then_some(gate), _pages: pages, top }
    }

    /// Where it stores.
    pub(crate) fn top(&self) -> &Arc<Layer> {
        &self.top
    }
}

impl Core {
    /// Publishes that the top layer holds `pages` now, or holds them as zero, and notes it, so that it outlives the
    /// process although it is answered before it is durable: it gets its place under the lock of the state, and is
    /// written without it. The caller reserved room. Where it cannot be noted the disk is poisoned: later changes would
    /// be believed without it.
    pub(crate) fn publish(
        &self,
        change: &Change<'_>,
        mut state: RwLockWriteGuard<'_, State>,
        pages: Range<u64>,
        mark: Mark,
    ) -> Result<()> {
        let top = change.top().id;
        let keys = match state.recent.as_ref().map(|_| self.keys()).transpose() {
            Ok(keys) => keys,
            Err(error) => {
                if mark == Mark::Held {
                    state.write_failed(top, pages);
                }
                return Err(error);
            }
        };
        let (tag, extent) = (state.generation, Extent { pages: pages.clone(), layer: top, mark });
        let note = state.recent.as_mut().zip(keys).map(|(recent, keys)| recent.append(&extent, tag, keys));
        state.publish(top, pages, mark);
        drop(state);
        if mutant!(AnsweredBeforeNoted) {
            return Ok(());
        }
        note.map_or(Ok(()), |note| note.and_then(Note::write)).map_err(|error| {
            self.commit.poison().set(Error::io("a change cannot be noted", error).at_path(self.dir.path()))
        })
    }
}
