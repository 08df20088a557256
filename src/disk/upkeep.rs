//! Background work, in steps that a thread of the registry calls: checkpoints, space for the next log, finding and
//! punching dead pages, removing layers that hold nothing. The disk itself starts no thread.
//!
//! Invariant 4: a page of a layer is punched only with the committer's turn (so between rounds) and its range lock held
//! exclusively, after checking then that the live view has left it and that nothing of it is pending or in flight: so
//! the durable state has left it too.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::commit::checkpoint;
use super::commit::log;
use super::core::{Core, Due, Progress};
use super::stack::layer::Layer;
use super::table::reserve::{RESERVE, RESERVED};
use super::table::settings::DiskSettings;
use super::transfer::write_spare;
use super::volatile::{self, VolatileJournal};
use crate::io::mutant;
use crate::io::sync::atomic::Ordering;
use crate::{Error, ErrorKind, PAGE, Result};

/// Runs punched in one step, while flushes wait.
const PUNCHES: usize = 64;
/// Dead runs looked at to find those: what is not settled yet in one round is in the next.
const LOOKED_AT: usize = 64 * PUNCHES;
/// Pages of one punch, and of one look for dead pages.
const STEP_PAGES: u64 = 16 << 10;

impl Core {
    /// One step. `Ok(true)`: more can be done now.
    pub(crate) fn upkeep(&self) -> Result<bool> {
        if self.check_writable().is_err() || self.gate.read().closed {
            return Ok(false);
        }
        let early = self.half_full(&self.state.read());
        if early {
            self.flush()?;
        }
        let mut progress = self.upkeep.lock();
        // What needs space must not keep back what gives it.
        let prepare = || {
            self.write_checkpoint()?;
            self.ready_next_log()?;
            self.note_wear(self.options.note_pages())
        };
        let prepared = prepare();
        let scanning = self.look_for_dead(&mut progress)?;
        let punching = self.punch_some()?;
        let removing = self.remove_empty()?;
        let more = scanning || punching || removing;
        match prepared {
            Err(error) if error.kind() == ErrorKind::NoSpace && more => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => prepare()?,
            prepared => prepared?,
        }
        Ok(more)
    }

    /// Writes the checkpoint that waits, then removes what it makes superfluous. The caller holds the upkeep lock: one
    /// writer of the temporary file.
    pub(crate) fn write_checkpoint(&self) -> Result<()> {
        let _one_at_a_time = self.checkpointing.lock();
        let Some(due) = self.committer.lock().due.take() else { return Ok(()) };
        let written = self.store_checkpoint(&due);
        if written.is_err() && !self.poison.is_set() {
            let mut committer = self.committer.lock();
            committer.due.get_or_insert(due);
        }
        written.map(|_| ())
    }

    /// Stores a checkpoint, durable when it returns, and answers what a log after it chains to.
    pub(crate) fn store_checkpoint(&self, due: &Due) -> Result<log::Chain> {
        let (chain, reserve) = self.put_checkpoint(due)?;
        self.tidy_after_checkpoint(due.epoch, reserve)?;
        Ok(chain)
    }

    /// Removes what the checkpoint of `epoch` makes superfluous, and holds `reserve` bytes ready for the next one.
    fn tidy_after_checkpoint(&self, epoch: u64, reserve: u64) -> Result<()> {
        self.remove_before(epoch).map_err(|error| {
            Error::io("what a checkpoint replaces cannot be removed", error).at_path(self.dir.path())
        })?;
        if let Err(error) = self.ensure_reserve(reserve) {
            tracing::warn!(path = %self.dir.path().display(), %error, "no space to reserve for the next checkpoint");
        }
        Ok(())
    }

    /// Puts a checkpoint in its place, durably. Answers what a log after it chains to, and the bytes that should be
    /// held ready for the next one.
    pub(crate) fn put_checkpoint(&self, due: &Due) -> Result<(log::Chain, u64)> {
        let failed = |error| Error::io("a checkpoint cannot be written", error).at_path(self.dir.path());
        let (content, chain) = due.state.encode(due.epoch, self.uuid, &self.keys()?);
        write_spare(&*self.dir, RESERVE, &content).map_err(failed)?;
        self.dir.rename(RESERVE, &checkpoint::file_name(due.epoch)).map_err(failed)?;
        // Not knowing which checkpoint stands after a crash forbids removing anything, now and later.
        if !mutant!(CheckpointNameNotSynced) {
            self.dir.sync().map_err(|error| self.poison.set(failed(error)))?;
        }
        Ok((chain, (2 * content.len() as u64).next_multiple_of(RESERVED)))
    }

    /// Removes the logs and checkpoints that the one of `epoch` makes superfluous. One of these is the next reserve.
    pub(crate) fn remove_before(&self, epoch: u64) -> std::io::Result<()> {
        let names = self.dir.list()?;
        let mut reserved = names.iter().any(|name| name == RESERVE) || mutant!(ReserveNotMade);
        let old = |number: &str| number.parse().is_ok_and(|number: u64| number < epoch);
        for name in names {
            if name.strip_prefix("checkpoint.").is_some_and(old) && !reserved {
                self.dir.rename(&name, RESERVE)?;
                reserved = true;
            } else if name.strip_prefix("log.").or_else(|| name.strip_prefix("checkpoint.")).is_some_and(old) {
                self.dir.remove(&name)?;
            }
        }
        Ok(())
    }

    fn ready_next_log(&self) -> Result<()> {
        if !self.lacks_next_log(&self.committer.lock()) {
            return Ok(());
        }
        // A round may want one meanwhile and make its own: so only with the turn.
        let _turn = self.lock_commit();
        let mut committer = self.committer.lock();
        if committer.next_log.is_none()
            && let Some(log) = &committer.log
        {
            committer.next_log = match self.preallocate_log(log.size()) {
                // Then the log in use is retired when it is full.
                Err(error) if error.kind() == ErrorKind::NoSpace => None,
                made => Some(made?),
            };
        }
        Ok(())
    }

    /// Makes log space, or says that there is none. The caller holds no lock.
    pub(crate) fn make_room(&self) -> Result<()> {
        self.flush()?;
        if !self.log_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        {
            let _upkeep = self.upkeep.lock();
            // The old log goes with the checkpoint, which gives back the space that the next one needs.
            let ready = self.write_checkpoint().and_then(|()| self.ready_next_log());
            match ready {
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                ready => ready?,
            }
        }
        self.next_round()?;
        if self.log_full.load(Ordering::SeqCst) {
            self.retire_full_log()?;
        }
        Ok(())
    }

    /// After an unclean end: looks at stored pages that their layer does not hold for bytes left behind. Those that a
    /// record accounts for are dead; the others stay until the owner gives them up.
    fn look_for_dead(&self, progress: &mut Progress) -> Result<bool> {
        if self.state.read().dead_known {
            return Ok(false);
        }
        let (id, page) = progress.scan;
        let next = self.state.read().entries.iter().find(|entry| entry.layer.id >= id).map(|e| Arc::clone(&e.layer));
        let Some(layer) = next else {
            let mut state = self.state.write();
            state.dead_found();
            let unaccounted = state.unaccounted() * PAGE as u64;
            drop(state);
            if unaccounted > 0 {
                let path = self.dir.path();
                tracing::warn!(path = %path.display(), unaccounted, "bytes are stored that no record of the disk names");
            }
            return Ok(false);
        };
        let from = if layer.id == id { page } else { 0 };
        let Some(run) = layer.next_data(from)? else {
            // A hole that was seen may be one that a killed process made and that is not durable.
            let _state = self.state.write();
            layer.mark_dirty();
            progress.scan = (layer.id + 1, 0);
            return Ok(true);
        };
        let run = run.start..run.end.min(run.start + STEP_PAGES).min(layer.pages()?);
        // Where the look goes on once this piece was looked at: after a failed read it is looked at again.
        let next = (layer.id, run.end.max(run.start + 1));
        if run.is_empty() {
            progress.scan = next;
            return Ok(true);
        }
        let _lock = self.ranges.shared(run.clone());
        let mut unheld: Vec<Range<u64>> = Vec::new();
        {
            let state = self.state.read();
            let Some(index) = state.index_of(layer.id) else {
                progress.scan = (layer.id + 1, 0);
                return Ok(true);
            };
            let mut at = run.start;
            for held in state.entries[index].held().runs(run.clone()) {
                unheld.push(at..held.start);
                at = held.end;
            }
            unheld.push(at..run.end);
        }
        for gap in unheld.into_iter().filter(|gap| !gap.is_empty()) {
            let mut stored = Zeroizing::new(vec![0; (gap.end - gap.start) as usize * PAGE]);
            layer.read_stored(gap.start, &mut stored)?;
            let left = stored.chunks(PAGE).zip(gap.start..).filter(|(bytes, _)| bytes.iter().any(|&byte| byte != 0));
            let mut state = self.state.write();
            let Some(entry) = state.entry_mut(layer.id) else { break };
            for (_, page) in left {
                let dead = entry.accounts_for(page) || mutant!(UnaccountedPunched);
                let found = if dead { &mut entry.dead } else { &mut entry.unaccounted };
                found.insert(page..page + 1);
            }
        }
        progress.scan = next;
        Ok(true)
    }

    /// Dead runs that may be punched, as far as can be said without their locks.
    fn punchable(&self) -> Vec<(Arc<Layer>, Range<u64>)> {
        let state = self.state.read();
        let runs = state.entries.iter().flat_map(|entry| entry.dead.runs(0..u64::MAX).map(move |run| (entry, run)));
        let pieces = runs.flat_map(|(entry, run)| {
            let starts = run.clone().step_by(STEP_PAGES as usize);
            starts.map(move |at| (Arc::clone(&entry.layer), at..run.end.min(at + STEP_PAGES)))
        });
        pieces.take(LOOKED_AT).filter(|(_, piece)| state.is_durable(piece)).take(PUNCHES).collect()
    }

    fn punch_some(&self) -> Result<bool> {
        if self.punchable().is_empty() {
            return Ok(false);
        }
        let _turn = self.lock_commit();
        for (layer, piece) in self.punchable() {
            let _lock = self.ranges.exclusive(piece.clone());
            let dead: Vec<Range<u64>> = {
                let state = self.state.read();
                match state.index_of(layer.id) {
                    _ if mutant!(PunchNotLookedAtAgain) => vec![piece],
                    Some(index) if state.is_durable(&piece) => state.entries[index].dead.runs(piece).collect(),
                    _ => continue,
                }
            };
            for run in dead {
                debug_assert!(!self.state.read().holds(layer.id, &run), "a page that is held is dead");
                layer.punch(run.clone())?;
                let mut state = self.state.write();
                if !mutant!(PunchLeavesClean) {
                    layer.mark_dirty();
                }
                if let Some(entry) = state.entry_mut(layer.id) {
                    entry.dead.remove(run.clone());
                    entry.punched += run.end - run.start;
                }
            }
        }
        Ok(!self.punchable().is_empty())
    }

    /// Removes a layer that holds nothing and never will again. The table entry goes durably before the key, the key
    /// before the file.
    fn remove_empty(&self) -> Result<bool> {
        let removable = || {
            let top = self.gate.read().top.as_ref().map(|top| top.id);
            self.state.read().removable(top)
        };
        if removable().is_none() {
            return Ok(false);
        }
        // Only what holds this lock changes the top, and only the top comes to hold anything.
        let mut table = self.table.lock();
        let Some(id) = removable() else { return Ok(false) };
        let Some(index) = table.settings.layers.iter().position(|layer| layer.id == id) else { return Ok(false) };
        let record = table.settings.layers.remove(index);
        if let Err(error) = self.store_settings(&mut table) {
            table.settings.layers.insert(index, record);
            return Err(error);
        }
        self.state.write().entries.retain(|entry| entry.layer.id != id);
        table.slots.erase(id)?;
        let name = DiskSettings::layer_file(id, record.kind);
        self.layers_dir.remove(&name).and_then(|()| self.layers_dir.sync()).map_err(|error| {
            Error::io("an empty layer cannot be removed", error).at_path(self.layers_dir.path().join(name))
        })?;
        Ok(true)
    }

    /// Flushes, punches what is dead by then, and makes that durable. With `unaccounted` also what no record names, and
    /// files of layers that it is stored in.
    pub(crate) fn scrub(&self, unaccounted: bool) -> Result<()> {
        self.check_writable()?;
        self.flush()?;
        while self.upkeep()? {}
        if unaccounted {
            // Behind the look for them: what it finds later is another's.
            self.state.write().give_up_unaccounted();
            self.remove_strays()?;
            while self.upkeep()? {}
        }
        self.flush()?;
        // Layers that became empty go only after that flush.
        while self.upkeep()? {}
        Ok(())
    }

    /// Destroys what the settings do not name: the key goes durably before the file.
    fn remove_strays(&self) -> Result<()> {
        let mut table = self.table.lock();
        let names: Vec<_> = self.state.read().strays.iter().map(|stray| (stray.layer, stray.name.clone())).collect();
        for (layer, name) in names {
            table.slots.erase(layer)?;
            self.layers_dir.remove(&name).and_then(|()| self.layers_dir.sync()).map_err(|error| {
                let path = self.layers_dir.path().join(&name);
                Error::io("a file that no record names cannot be removed", error).at_path(path)
            })?;
            self.state.write().strays.retain(|stray| stray.name != name);
        }
        Ok(())
    }

    /// Flushes and leaves a clean mark; later changes are refused.
    pub(crate) fn close(&self) -> Result<()> {
        self.gate.write().closed = true;
        if self.access == super::Access::ReadOnly {
            return Ok(());
        }
        let _upkeep = (!mutant!(ClosedWhilePunching)).then(|| self.upkeep.lock());
        if let Err(error) = self.note_wear(1) {
            tracing::warn!(path = %self.dir.path().display(), %error, "the use of the data keys is not noted");
        }
        let _one_at_a_time = self.checkpointing.lock();
        // A punch between the flush and the turn would be neither durable nor known to the checkpoint.
        let _turn = loop {
            self.flush()?;
            let turn = self.lock_commit();
            if !self.anything_dirty() || mutant!(ClosedWhilePunching) {
                break turn;
            }
        };
        let has_log = self.gate.read().has_log;
        if !has_log && self.opened_clean.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (epoch, state) = (self.committer.lock().next_epoch, self.state.write().checkpoint(true));
        let (chain, reserve) = self.put_checkpoint(&Due { epoch, state })?;
        let next_log = {
            let mut committer = self.committer.lock();
            (committer.log, committer.due, committer.chain) = (None, None, chain);
            committer.next_log.take()
        };
        self.gate.write().has_log = false;
        self.opened_clean.store(true, Ordering::SeqCst);
        self.keep_for_next_opening(next_log);
        self.tidy_after_checkpoint(epoch, reserve)?;
        self.state.write().recent = None;
        for epoch in volatile::epochs(&self.dir.list().unwrap_or_default()) {
            let _ = VolatileJournal::remove(&*self.dir, epoch);
        }
        Ok(())
    }
}
