//! Publishing a change of presence, and noting it for the case that the process dies.

use std::ops::Range;

use super::extent_map::Mark;
use super::state::State;
use crate::disk::commit::log::Extent;
use crate::disk::core::Core;
use crate::disk::volatile::Note;
use crate::io::mutant;
use crate::io::sync::RwLockWriteGuard;
use crate::{Error, Result};

impl Core {
    /// Publishes a change of presence that is going to be answered before it is durable, and notes it, so that it
    /// outlives the process: it gets its place under the lock of the state, and is written without it. The caller
    /// reserved room, and holds the locks of the pages and the gate until this returns. Where it cannot be noted the
    /// disk is poisoned: later changes would be believed without it.
    pub(crate) fn publish(
        &self,
        mut state: RwLockWriteGuard<'_, State>,
        top: u32,
        pages: Range<u64>,
        mark: Mark,
    ) -> Result<()> {
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
        note.map_or(Ok(()), |note| note.and_then(Note::write))
            .map_err(|error| self.poison.set(Error::io("a change cannot be noted", error).at_path(self.dir.path())))
    }
}
