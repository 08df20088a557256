//! The snapshots of a disk.
//!
//! A snapshot sees the layers up to the newest one there was when it was created, with the size and base limit of then.
//! Drawing one is O(1): the stack loses its top, so the next change makes a new layer with a fresh key. Erasing one
//! lets the pages that only it saw die; they are punched in the background, and not before the erasure is durable.
//! Rolling back empties every layer above the snapshot, in one batch with the size and base limit of the snapshot. Of a
//! deleted disk that clones read from only the snapshots that they read from are kept, and the live disk becomes the
//! newest of them.

use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::commit::log::{NAME_LIMIT, Op, Snapshot};
use crate::disk::core::Core;
use crate::disk::stack::diff::Change;
use crate::disk::stack::resolve::View;
use crate::disk::stack::state::State;
use crate::io::{mutant, unless_mutant};
use crate::{Error, ErrorKind, Result};

/// Lines of one disk at the most: each is looked at by every change.
const SNAPSHOTS_LIMIT: usize = 4096;

/// Records of one batch when snapshots and layers are dropped: some 16 bytes each.
const OPS_OF_A_BATCH: usize = 64;

impl State {
    /// Layers above `snapshot` that hold something; only the live view, or a later snapshot, sees it.
    fn above(&self, snapshot: &Snapshot) -> impl Iterator<Item = u32> {
        let above = self.entries.iter().filter(|entry| entry.layer.id > snapshot.sees && !entry.holds_nothing());
        above.map(|entry| entry.layer.id)
    }

    /// Whether there is anything but what the snapshots `keep` see, of which `newest` is the newest.
    fn has_more_than(&self, keep: &[u32], newest: &Snapshot) -> bool {
        self.snapshots.iter().any(|snapshot| !keep.contains(&snapshot.id))
            || self.above(newest).next().is_some()
            || (self.size, self.base_limit) != (newest.size, newest.base_limit)
    }

    /// Drops at most `most` of those snapshots and layers.
    fn drop_more_than(&mut self, keep: &[u32], newest: &Snapshot, most: usize) {
        let is_kept =
            |snapshot: &Snapshot| keep.contains(&snapshot.id) && !(mutant!(OnlyNewestKept) && snapshot.id < newest.id);
        let gone: Vec<u32> = self
            .snapshots
            .iter()
            .filter(|snapshot| !is_kept(snapshot))
            .map(|snapshot| snapshot.id)
            .take(most)
            .collect();
        self.snapshots.retain(|snapshot| !gone.contains(&snapshot.id));
        let room = most - gone.len();
        self.pending.ops.extend(gone.into_iter().map(Op::SnapshotRemoved));
        let above: Vec<u32> = self.above(newest).take(room).collect();
        above.into_iter().for_each(|layer| self.empty_layer(layer));
        if (self.size, self.base_limit) != (newest.size, newest.base_limit) {
            (self.size, self.base_limit) = (newest.size, newest.base_limit);
            self.pending.ops.push(Op::Resize { size: newest.size, base_limit: newest.base_limit });
        }
        self.recompute_dead();
    }
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Snapshot> {
    state
        .snapshots
        .iter()
        .find(|snapshot| snapshot.name == name)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no snapshot '{name}'")))
}

impl Core {
    /// Creates a snapshot; durable when this returns. Waits for the changes in flight only.
    pub(crate) fn create_snapshot(&self, name: &str) -> Result<Snapshot> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains(['@', '\0']) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("'{name}' is no name of a snapshot"))
                .hint("1 to 255 bytes without '@'"));
        }
        self.check_writable()?;
        self.check_room()?;
        let snapshot = {
            let table = self.arm_and_hold()?;
            table.settings().check_layers(self.dir.path())?;
            let mut gate = self.stack.gate_exclusive(&table);
            gate.check_open()?;
            let mut state = self.stack.state_mut();
            if find(&state, name).is_ok() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("there is already a snapshot \"{name}\"")));
            }
            if state.snapshots.len() >= SNAPSHOTS_LIMIT {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("a disk has at most {SNAPSHOTS_LIMIT} snapshots"),
                ));
            }
            let snapshot = Snapshot {
                id: state.next_snapshot,
                name: name.to_owned(),
                created: (self.options.clock)(),
                sees: state.entries.last().map_or(0, |entry| entry.layer.id),
                size: state.size,
                base_limit: state.base_limit,
            };
            state.next_snapshot += 1;
            state.snapshots.push(snapshot.clone());
            state.pending.ops.push(Op::SnapshotAdded(snapshot.clone()));
            unless_mutant!(LineKeepsTop => gate.set_top(None));
            snapshot
        };
        self.flush()?;
        Ok(snapshot)
    }

    /// Deletes a snapshot; durable when this returns.
    pub(crate) fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        {
            let table = self.arm_and_hold()?;
            let gate = self.stack.gate_exclusive(&table);
            gate.check_open()?;
            let mut state = self.stack.state_mut();
            let id = find(&state, name)?.id;
            state.snapshots.retain(|snapshot| snapshot.id != id);
            state.pending.ops.push(Op::SnapshotRemoved(id));
            state.recompute_dead();
        }
        self.flush()?;
        // What it alone kept from being overwritten in place can be again, without a new layer.
        let table = self.table.lock();
        let mut gate = self.stack.gate_exclusive(&table);
        if gate.top().is_none() {
            let top = Self::usable_top(&self.stack.state(), table.settings().frozen_below, gate.encryption());
            gate.set_top(top);
        }
        Ok(())
    }

    /// Makes the live disk what the snapshot sees; durable when this returns. Snapshots created after it are gone.
    pub(crate) fn roll_back(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        {
            let mut table = self.arm_and_hold()?;
            // No layer there is now may take writes again: emptied ones are dead for ever.
            unless_mutant!(RolledBackToUnsealed => table.freeze_layers());
            self.store_settings(&mut table)?;
            let mut gate = self.stack.gate_exclusive(&table);
            gate.check_open()?;
            let mut state = self.stack.state_mut();
            let snapshot = find(&state, name)?.clone();
            let newer = |other: &Snapshot| other.id > snapshot.id;
            let gone: Vec<u32> = state.snapshots.iter().filter(|other| newer(other)).map(|other| other.id).collect();
            state.snapshots.retain(|other| !newer(other));
            state.pending.ops.extend(gone.into_iter().map(Op::SnapshotRemoved));
            for id in layers_above(&state, &snapshot) {
                state.empty_layer(id);
            }
            let base_limit = if mutant!(LineWithoutItsLimit) { state.base_limit } else { snapshot.base_limit };
            self.stack.set_size(&gate, &mut state, snapshot.size, base_limit);
            state.pending.ops.push(Op::Resize { size: snapshot.size, base_limit });
            gate.set_top(None);
        }
        self.flush()
    }

    /// Keeps only what the snapshots `keep` see. See [`crate::disk::DiskAdmin::keep_only`]. In batches that the log has
    /// room for: each leaves a disk of which every snapshot of `keep` sees the same as before.
    pub(crate) fn keep_only(&self, keep: &[u32]) -> Result<bool> {
        self.check_writable()?;
        let newest = {
            let state = self.stack.state();
            if let Some(missing) = keep.iter().find(|&&id| state.snapshot(id).is_none()) {
                return Err(Error::new(ErrorKind::NotFound, format!("there is no snapshot with id {missing}")));
            }
            let newest = keep.iter().max().and_then(|&id| state.snapshot(id)).cloned();
            newest.ok_or_else(|| Error::new(ErrorKind::NotFound, "no snapshot is to be kept"))?
        };
        let mut changed = false;
        while self.stack.state().has_more_than(keep, &newest) {
            changed = true;
            {
                let mut table = self.arm_and_hold()?;
                // As in a rollback: emptied layers take no writes again.
                if table.freeze_layers() {
                    self.store_settings(&mut table)?;
                }
                let mut gate = self.stack.gate_exclusive(&table);
                gate.check_open()?;
                let mut state = self.stack.state_mut();
                state.drop_more_than(keep, &newest, OPS_OF_A_BATCH);
                let (size, base_limit) = (state.size, state.base_limit);
                self.stack.set_size(&gate, &mut state, size, base_limit);
                gate.set_top(None);
            }
            self.flush()?;
        }
        Ok(changed)
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.stack.state().snapshots.clone()
    }

    /// What a snapshot sees, with the id by which readers check that it is still there.
    pub(crate) fn snapshot_view(&self, which: impl Fn(&Snapshot) -> bool) -> Result<View> {
        let state = self.stack.state();
        let snapshot = state
            .snapshots
            .iter()
            .find(|snapshot| which(snapshot))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such snapshot"))?;
        Ok(View::from(snapshot))
    }
}

impl Disk {
    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.core.snapshots()
    }

    /// The user's snapshots that are older than what this is, oldest first: what it can be compared with.
    pub fn older_snapshots(&self) -> Vec<Snapshot> {
        let mut snapshots = self.core.snapshots();
        snapshots.retain(Snapshot::is_listed);
        if let Some(View { snapshot: Some(own), .. }) = self.view {
            snapshots.retain(|snapshot| snapshot.id < own);
        }
        snapshots
    }

    /// The disk as the snapshot sees it, read-only. Reading fails once the snapshot is deleted.
    pub fn at_snapshot(&self, name: &str) -> Result<Disk> {
        let missing = |_| Error::new(ErrorKind::NotFound, format!("there is no snapshot '{name}'"));
        let view = self.core.snapshot_view(|snapshot| snapshot.name == name).map_err(missing)?;
        Ok(Disk { core: Arc::clone(&self.core), view: Some(view) })
    }

    /// [`Disk::at_snapshot`] by [`Snapshot::id`].
    pub fn at_snapshot_id(&self, id: u32) -> Result<Disk> {
        Ok(Disk { core: Arc::clone(&self.core), view: Some(self.core.snapshot_view(|snapshot| snapshot.id == id)?) })
    }

    /// What changed of `[offset, offset + len)` (rounded outward to pages) since the snapshot `from` up to what this
    /// is: the live disk, or a later snapshot. In order, at most `limit` runs.
    pub fn changes(&self, from: u32, offset: u64, len: u64, limit: usize) -> Result<Vec<Change>> {
        self.check(offset, len, self.size())?;
        self.core.changes(from, self.view, Core::pages_of(offset, len), limit)
    }
}

/// The layers that a rollback to `snapshot` empties.
fn layers_above(state: &State, snapshot: &Snapshot) -> Vec<u32> {
    let ids = state.entries.iter().map(|entry| entry.layer.id);
    let most = if mutant!(RollbackKeepsLayer) { 1 } else { usize::MAX };
    ids.filter(|&id| id > snapshot.sees).take(most).collect()
}
