//! Snapshots: lines across the stack.
//!
//! A line sees the layers up to the newest one there was when it was drawn, with the size and base limit of then.
//! Drawing one is O(1): the stack loses its top, so the next change makes a new layer with a fresh key. Erasing one
//! lets the pages that only it saw die; they are punched in the background, and not before the erasure is durable.
//! Rolling back empties every layer above the line, in one batch with the size and base limit of the line. Of a deleted
//! disk that clones read from only the lines that they read from are kept, and the live disk becomes the newest of
//! them.

use std::sync::Arc;

use super::Disk;
use super::core::Core;
use super::diff::Change;
use super::log::{Line, NAME_LIMIT, Op};
use super::resolve::View;
use super::state::State;
use crate::io::mutant;
use crate::io::sync::atomic::Ordering;
use crate::{Error, ErrorKind, Result};

/// Lines of one disk at the most: each is looked at by every change.
const LINES_LIMIT: usize = 4096;

/// Records of one batch when lines and layers are dropped: some 16 bytes each.
const OPS_OF_A_BATCH: usize = 64;

impl State {
    /// Layers above `line` that hold something; only the live view, or a later line, sees it.
    fn above(&self, line: &Line) -> impl Iterator<Item = u32> {
        let above = self.entries.iter().filter(|entry| entry.layer.id > line.sees && !entry.holds_nothing());
        above.map(|entry| entry.layer.id)
    }

    /// Whether there is anything but what the lines `keep` see, of which `newest` is the newest.
    fn has_more_than(&self, keep: &[u32], newest: &Line) -> bool {
        self.lines.iter().any(|line| !keep.contains(&line.id))
            || self.above(newest).next().is_some()
            || (self.size, self.base_limit) != (newest.size, newest.base_limit)
    }

    /// Drops at most `most` of those lines and layers.
    fn drop_more_than(&mut self, keep: &[u32], newest: &Line, most: usize) {
        let is_kept = |line: &Line| keep.contains(&line.id) && !(mutant!(OnlyNewestKept) && line.id < newest.id);
        let gone: Vec<u32> = self.lines.iter().filter(|line| !is_kept(line)).map(|line| line.id).take(most).collect();
        self.lines.retain(|line| !gone.contains(&line.id));
        let room = most - gone.len();
        self.pending.ops.extend(gone.into_iter().map(Op::LineRemoved));
        let above: Vec<u32> = self.above(newest).take(room).collect();
        above.into_iter().for_each(|layer| self.empty_layer(layer));
        if (self.size, self.base_limit) != (newest.size, newest.base_limit) {
            (self.size, self.base_limit) = (newest.size, newest.base_limit);
            self.pending.ops.push(Op::Resize { size: newest.size, base_limit: newest.base_limit });
        }
        self.settle_dead();
    }
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Line> {
    state
        .lines
        .iter()
        .find(|line| line.name == name)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no snapshot '{name}'")))
}

impl Core {
    /// Draws a line; durable when this returns. Waits for the changes in flight only.
    pub(crate) fn draw_line(&self, name: &str) -> Result<Line> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains(['@', '\0']) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("'{name}' is no name of a snapshot"))
                .hint("1 to 255 bytes without '@'"));
        }
        self.check_writable()?;
        self.check_room()?;
        let line = {
            let _growth = self.arm_and_hold()?;
            let mut gate = self.gate.write();
            self.check_open(&gate)?;
            let mut state = self.state.write();
            if find(&state, name).is_ok() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("there is already a snapshot \"{name}\"")));
            }
            if state.lines.len() >= LINES_LIMIT {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("a disk has at most {LINES_LIMIT} snapshots"),
                ));
            }
            let line = Line {
                id: state.next_line,
                name: name.to_owned(),
                created: (self.options.clock)(),
                sees: state.entries.last().map_or(0, |entry| entry.layer.id),
                size: state.size,
                base_limit: state.base_limit,
            };
            state.next_line += 1;
            state.lines.push(line.clone());
            state.pending.ops.push(Op::LineAdded(line.clone()));
            if !mutant!(LineKeepsTop) {
                gate.top = None;
            }
            line
        };
        self.flush()?;
        Ok(line)
    }

    /// Erases a line; durable when this returns.
    pub(crate) fn erase_line(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        {
            let _growth = self.arm_and_hold()?;
            let gate = self.gate.write();
            self.check_open(&gate)?;
            let mut state = self.state.write();
            let id = find(&state, name)?.id;
            state.lines.retain(|line| line.id != id);
            state.pending.ops.push(Op::LineRemoved(id));
            state.settle_dead();
        }
        self.flush()?;
        // What it alone kept from being overwritten in place can be again, without a new layer.
        let growth = self.growth.lock();
        let mut gate = self.gate.write();
        if gate.top.is_none() {
            gate.top = Self::usable_top(&self.state.read(), growth.settings.sealed_below, gate.encryption);
        }
        Ok(())
    }

    /// Makes the live disk what the line sees; durable when this returns. Lines drawn after it are gone.
    pub(crate) fn roll_back(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        {
            let mut growth = self.arm_and_hold()?;
            // No layer there is now may take writes again: emptied ones are dead for ever.
            if !mutant!(RolledBackToUnsealed) {
                growth.settings.sealed_below = growth.settings.next_layer;
            }
            self.store_settings(&mut growth)?;
            let mut gate = self.gate.write();
            self.check_open(&gate)?;
            let mut state = self.state.write();
            let line = find(&state, name)?.clone();
            let newer = |other: &Line| other.id > line.id;
            let gone: Vec<u32> = state.lines.iter().filter(|other| newer(other)).map(|other| other.id).collect();
            state.lines.retain(|other| !newer(other));
            state.pending.ops.extend(gone.into_iter().map(Op::LineRemoved));
            let above: Vec<u32> =
                state.entries.iter().map(|entry| entry.layer.id).filter(|&id| id > line.sees).collect();
            let above = if mutant!(RollbackKeepsLayer) { above[..above.len().min(1)].to_vec() } else { above };
            for id in above {
                state.empty_layer(id);
            }
            let base_limit = if mutant!(LineWithoutItsLimit) { state.base_limit } else { line.base_limit };
            (state.size, state.base_limit) = (line.size, base_limit);
            state.pending.ops.push(Op::Resize { size: line.size, base_limit });
            self.pages.store(line.size, Ordering::SeqCst);
            gate.top = None;
        }
        self.flush()
    }

    /// Keeps only what the lines `keep` see. See [`Disk::keep_only`]. In batches that the log has room for: each leaves
    /// a disk of which every line of `keep` sees the same as before.
    pub(crate) fn keep_only(&self, keep: &[u32]) -> Result<bool> {
        self.check_writable()?;
        let newest = {
            let state = self.state.read();
            if let Some(missing) = keep.iter().find(|&&id| state.line(id).is_none()) {
                return Err(Error::new(ErrorKind::NotFound, format!("there is no snapshot with id {missing}")));
            }
            let newest = keep.iter().max().and_then(|&id| state.line(id)).cloned();
            newest.ok_or_else(|| Error::new(ErrorKind::NotFound, "no snapshot is to be kept"))?
        };
        let mut changed = false;
        while self.state.read().has_more_than(keep, &newest) {
            changed = true;
            {
                let mut growth = self.arm_and_hold()?;
                // As in a rollback: emptied layers take no writes again.
                if growth.settings.sealed_below < growth.settings.next_layer {
                    growth.settings.sealed_below = growth.settings.next_layer;
                    self.store_settings(&mut growth)?;
                }
                let mut gate = self.gate.write();
                self.check_open(&gate)?;
                let mut state = self.state.write();
                state.drop_more_than(keep, &newest, OPS_OF_A_BATCH);
                self.pages.store(state.size, Ordering::SeqCst);
                gate.top = None;
            }
            self.flush()?;
        }
        Ok(changed)
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.state.read().lines.clone()
    }

    /// What a line sees, with the id by which readers check that it is still there.
    pub(crate) fn line_view(&self, which: impl Fn(&Line) -> bool) -> Result<View> {
        let state = self.state.read();
        let line = state
            .lines
            .iter()
            .find(|line| which(line))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such snapshot"))?;
        Ok(View::from(line))
    }
}

impl Disk {
    /// Draws a snapshot; durable when this returns. What is answered before is in it.
    pub fn snapshot(&self, name: &str) -> Result<Line> {
        self.check_live()?;
        self.core.draw_line(name)
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Line> {
        self.core.lines()
    }

    /// The user's snapshots that are older than what this is, oldest first: what it can be compared with.
    pub fn older_snapshots(&self) -> Vec<Line> {
        let mut lines = self.core.lines();
        lines.retain(Line::is_listed);
        if let Some(View { line: Some(own), .. }) = self.view {
            lines.retain(|line| line.id < own);
        }
        lines
    }

    /// The disk as the snapshot sees it, read-only. Reading fails once the snapshot is deleted.
    pub fn at_snapshot(&self, name: &str) -> Result<Disk> {
        let missing = |_| Error::new(ErrorKind::NotFound, format!("there is no snapshot '{name}'"));
        let view = self.core.line_view(|line| line.name == name).map_err(missing)?;
        Ok(Disk { core: Arc::clone(&self.core), view: Some(view) })
    }

    /// [`Disk::at_snapshot`] by [`Line::id`].
    pub fn at_line(&self, id: u32) -> Result<Disk> {
        Ok(Disk { core: Arc::clone(&self.core), view: Some(self.core.line_view(|line| line.id == id)?) })
    }

    /// What changed since the snapshot `from` ([`Line::id`]) up to the later one `to`, or up to now.
    pub fn changed_since(&self, from: u32, to: Option<u32>) -> Result<Vec<Change>> {
        self.changed_from(0, usize::MAX, from, to)
    }

    /// The same from page `page` on, at most `limit` runs.
    pub fn changed_from(&self, page: u64, limit: usize, from: u32, to: Option<u32>) -> Result<Vec<Change>> {
        let to = to.map(|id| self.core.line_view(|line| line.id == id)).transpose()?;
        self.core.changes(from, to, page..u64::MAX, limit)
    }

    /// What changed of `[offset, offset + len)` (rounded outward to pages) since the snapshot `from` up to what this
    /// is: the live disk, or a later snapshot. In order, at most `limit` runs.
    pub fn changes(&self, from: u32, offset: u64, len: u64, limit: usize) -> Result<Vec<Change>> {
        self.check(offset, len, self.size())?;
        self.core.changes(from, self.view, Core::pages_of(offset, len), limit)
    }

    /// Deletes a snapshot; its space comes back in the background.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_live()?;
        self.core.erase_line(name)
    }

    /// Makes the disk what the snapshot sees, size included. Later snapshots and all later changes are gone.
    pub fn roll_back(&self, name: &str) -> Result<()> {
        self.check_live()?;
        self.core.roll_back(name)
    }
}
