//! Room in the log and in the notes, promised to changes before they store anything.

use super::Commit;
use crate::disk::core::Core;
use crate::disk::stack::state::State;
use crate::io::sync::atomic::Ordering;

impl Core {
    /// Reserves log space for one change of presence; given back when dropped, after the change is published. `None`: a
    /// round must make room first.
    pub(crate) fn reserve(&self) -> Option<Reserved<'_>> {
        /// A change in the middle of a run leaves one before it, one after it and itself.
        const WORST: usize = 3;
        self.reserve_extents(WORST)
    }

    /// Like [`Core::reserve`], for a number of extents.
    pub(crate) fn reserve_extents(&self, extents: usize) -> Option<Reserved<'_>> {
        if self.commit.log_full.load(Ordering::SeqCst) {
            return None;
        }
        let promised = self.commit.reserved.fetch_add(extents, Ordering::SeqCst) + extents;
        let reserved = Reserved(&self.commit, extents);
        let state = self.stack.state();
        let room = state.pending.count() + promised <= self.commit.pending_limit()
            && state.recent.as_ref().is_none_or(|recent| promised as u64 <= recent.left(state.generation));
        let early = self.half_full(&state);
        drop(state);
        if early && !self.commit.round_asked.swap(true, Ordering::SeqCst) {
            (self.options.wake)();
        }
        room.then_some(reserved)
    }

    /// Whether a round should come soon, so that changes of presence need not wait for one.
    pub(crate) fn half_full(&self, state: &State) -> bool {
        state.pending.count() > self.commit.pending_limit() / 2
            || state.recent.as_ref().is_some_and(|recent| recent.half_full(state.generation))
    }
}

/// Log space for a number of extents, given back when dropped.
pub(crate) struct Reserved<'a>(&'a Commit, usize);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.reserved.fetch_sub(self.1, Ordering::SeqCst);
    }
}
