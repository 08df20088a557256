//! What a disk says of its health to whoever watches it, without waiting for anybody.

use std::time::Duration;

use crate::disk::Usage;
use crate::disk::core::Core;

/// Numbers of a moment. Counts are since the disk was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskStats {
    /// Of the live view. What a clone reads from another disk counts as base.
    pub usage: Usage,
    /// Bytes of memory that say which pages each layer holds.
    pub presence_bytes: u64,
    pub layers: usize,
    /// Those of the user.
    pub snapshots: usize,
    /// Storing failed: the disk takes no changes until it is opened again.
    pub poisoned: bool,
    /// The keys were taken back.
    pub revoked: bool,
    /// Whether the data key of what is written now is due to be replaced: see `key_usage`.
    pub rotation_due: bool,
    /// Rounds of the committer, each of which answers every flush that waits.
    pub rounds: u64,
    /// Syncs of files in those rounds, and the time they took.
    pub syncs: u64,
    pub sync_time: Duration,
}

impl Core {
    /// `None`: the state is being changed; ask again.
    pub(crate) fn try_stats(&self) -> Option<DiskStats> {
        let rotation_due = self.stack.gate.try_read()?.top().is_some_and(|top| self.rotation_due(top));
        let state = self.stack.state.try_read()?;
        let (syncs, sync_time) = self.commit.costs().syncs();
        let presence = |entry: &super::state::Entry| {
            entry.held().memory_bytes() + entry.zero().memory_bytes() + entry.dead.memory_bytes()
        };
        Some(DiskStats {
            usage: Self::usage_of(&state),
            presence_bytes: state.entries.iter().map(presence).sum::<u64>() + state.views.memory_bytes(),
            layers: state.entries.len(),
            snapshots: state.snapshots.iter().filter(|snapshot| snapshot.is_listed()).count(),
            poisoned: self.commit.poison().is_set(),
            revoked: self.keys.is_revoked(),
            rotation_due,
            rounds: self.commit.costs().rounds(),
            syncs,
            sync_time,
        })
    }
}
