//! The layers of a disk, and what each of them holds: reading and changing pages.

mod access;
pub(crate) mod data_read;
pub(crate) mod diff;
pub(crate) mod extent_map;
pub(crate) mod gate;
pub(crate) mod layer;
pub(crate) mod page_set;
mod publish;
pub(crate) mod range_lock;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod view_cache;

use std::ops::Range;
use std::sync::Arc;

use self::gate::{Gate, GateExclusive, GateShared};
use self::layer::Layer;
pub(crate) use self::publish::Change;
use self::range_lock::{Exclusive, RangeLock, Shared};
use self::state::State;
use super::Options;
use super::commit::CommitGuard;
use super::table::TableGuard;
use crate::io::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::io::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a disk holds, and the three locks over it: of pages, of where writes go, of presence. In this order.
#[derive(Debug)]
pub(crate) struct Stack {
    ranges: RangeLock,
    gate: RwLock<Gate>,
    state: RwLock<State>,
    /// Pages of the blob, as in `state`.
    pages: AtomicU64,
    /// A write found no space: room for requests in parts is taken before the first of them.
    tight: AtomicBool,
}

impl Stack {
    pub(crate) fn new(state: State, top: Option<Arc<Layer>>, encryption: bool, options: &Options) -> Self {
        Self {
            ranges: RangeLock::new(options.stripes, options.stripe_pages),
            gate: RwLock::new(Gate::new(top, encryption)),
            pages: AtomicU64::new(state.size),
            state: RwLock::new(state),
            tight: AtomicBool::new(false),
        }
    }

    /// Pages of the blob. They change while the gate is held exclusively.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::SeqCst)
    }

    /// No change of these pages is under way while it is held.
    pub(crate) fn lock_shared(&self, pages: Range<u64>) -> Shared<'_> {
        self.ranges.shared(pages)
    }

    /// Nobody else looks at these pages while it is held.
    pub(crate) fn lock_exclusive(&self, pages: Range<u64>) -> Exclusive<'_> {
        self.ranges.exclusive(pages)
    }

    pub(crate) fn gate(&self) -> GateShared<'_> {
        self.gate.read()
    }

    /// To change where writes go, or the size: waits for the changes in flight.
    pub(crate) fn gate_exclusive(&self, _table: &TableGuard<'_>) -> GateExclusive<'_> {
        self.gate.write()
    }

    /// No change is taken from here on. Waits for the changes in flight.
    pub(crate) fn close(&self) {
        self.gate.write().close();
    }

    /// The log of this opening ended in a clean checkpoint.
    pub(crate) fn end_session(&self, _turn: &CommitGuard<'_>) {
        self.gate.write().set_has_log(false);
    }

    /// Waits for every read and change in flight.
    pub(crate) fn await_requests(&self) {
        drop(self.ranges.exclusive(0..u64::MAX));
        drop(self.gate.write());
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The same, but `None` where it would wait.
    pub(crate) fn try_state(&self) -> Option<RwLockReadGuard<'_, State>> {
        self.state.try_read()
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Makes the blob `size` pages long, of which the first `base_limit` are seen in the base.
    pub(crate) fn set_size(&self, _gate: &GateExclusive<'_>, state: &mut State, size: u64, base_limit: u64) {
        (state.size, state.base_limit) = (size, base_limit);
        self.pages.store(size, Ordering::SeqCst);
    }
}
