//! What rounds cost. Not among what the scheduler of the simulator watches: nothing depends on these numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Costs {
    rounds: AtomicU64,
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
}

impl Costs {
    pub(super) fn round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// Does a sync of a round and notes what it takes by `ticks`.
    pub(super) fn timed<T>(&self, ticks: fn() -> Duration, sync: impl FnOnce() -> T) -> T {
        let began = ticks();
        let done = sync();
        let took = ticks().saturating_sub(began);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        done
    }

    /// Rounds so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Syncs of files in those rounds, and the time they took.
    pub(crate) fn syncs(&self) -> (u64, Duration) {
        (self.syncs.load(Ordering::Relaxed), Duration::from_nanos(self.sync_nanos.load(Ordering::Relaxed)))
    }
}
