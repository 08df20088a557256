//! The one committer: group flush, the log, and what a flush promises.
//!
//! Whoever flushes first does the round for everybody who waits (no thread is needed). A round, in this order:
//!
//! 1. under the state lock, take what is pending and which layers are dirty, all at once (invariant 3: a record is
//!    handed to the kernel only after a sync of its layer that began after the page was written);
//! 2. sync the dirty layers;
//! 3. no change of presence: done, one sync. Else append one batch and sync the log: two;
//! 4. where the log is nearly full, close it with a batch that names the next one, already preallocated.
//!
//! Any failure poisons the disk (invariant 8): the round may have lost pages that look saved.

use std::sync::Arc;

use super::log::Log;
use super::pending::Pending;
use super::{Committer, Due, Rounds, Turn};
use crate::crypto::keyring::DiskKeys;
use crate::disk::Access;
use crate::disk::core::Core;
use crate::disk::stack::layer::Layer;
use crate::disk::stack::state::State;
use crate::io::mutant;
use crate::io::sync::atomic::Ordering;
use crate::io::sync::{MutexGuard, RwLockWriteGuard};
use crate::{Error, ErrorKind, Result};

/// Bytes of log that records other than extents may take in one round.
pub(crate) const OPS_ROOM: usize = 4096;

/// What a round took to make durable.
struct Taken {
    layers: Vec<Arc<Layer>>,
    pending: Arc<Pending>,
    /// The number of its batch.
    generation: u64,
    /// Pages punched, by layer, before the sync of this round.
    punched: Vec<(u32, u64)>,
}

impl Core {
    pub(crate) fn anything_dirty(&self) -> bool {
        self.stack.state().anything_dirty()
    }

    /// Every change answered before this call is on stable storage when it returns `Ok`.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_admitted()?;
        self.flush_unchecked()
    }

    /// The last flush of a disk whose keys are being taken back is not refused.
    pub(crate) fn flush_unchecked(&self) -> Result<()> {
        // What it found noted by a killed process counts as pending; to make that durable is for who may write.
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        let rounds = self.commit.rounds.lock();
        let target = if self.anything_dirty() { rounds.begun + 1 } else { rounds.under_way() };
        self.await_round(rounds, target)
    }

    /// [`Core::flush`] where there is nothing to wait for: neither a change that is not durable, nor a round.
    /// `Ok(false)` where there is, or where only waiting for a lock would tell.
    pub(crate) fn try_flush(&self) -> Result<bool> {
        self.check_admitted()?;
        if self.access == Access::ReadOnly {
            return Ok(true);
        }
        {
            // In this order, as in `flush`: what a round takes from the state counts as under way before.
            let Some(rounds) = self.commit.rounds.try_lock() else { return Ok(false) };
            let Some(state) = self.stack.try_state() else { return Ok(false) };
            if state.anything_dirty() || rounds.under_way() > 0 {
                return Ok(false);
            }
        }
        self.commit.poison().check()?;
        match self.keys.try_are_here() {
            Some(false) => Err(self.keyless()),
            Some(true) => Ok(true),
            None => Ok(false),
        }
    }

    /// Waits for a round that begins from now on, even with nothing to make durable.
    pub(crate) fn next_round(&self) -> Result<()> {
        let rounds = self.commit.rounds.lock();
        let target = rounds.begun + 1;
        self.await_round(rounds, target)
    }

    /// Waits for a round that begins from now on and goes over to the next log, full or not.
    pub(crate) fn go_over_to_next_log(&self) -> Result<()> {
        self.commit.committer.lock().turn_over = true;
        self.next_round()?;
        if std::mem::take(&mut self.commit.committer.lock().turn_over) {
            return Err(Error::new(ErrorKind::NoSpace, "no space for the log").at_path(self.dir.path()));
        }
        Ok(())
    }

    fn await_round<'a>(&'a self, mut rounds: MutexGuard<'a, Rounds>, target: u64) -> Result<()> {
        while rounds.ended < target {
            if rounds.busy {
                rounds = self.commit.turn.wait(rounds);
                continue;
            }
            rounds.busy = true;
            rounds.begun += 1;
            drop(rounds);
            let (done, wake) = self.round(&Turn(()));
            rounds = self.commit.rounds.lock();
            rounds.busy = false;
            rounds.ended = rounds.begun;
            if done {
                rounds.done = rounds.begun;
            }
            self.commit.turn.notify_all();
            if wake {
                drop(rounds);
                (self.options.wake)();
                rounds = self.commit.rounds.lock();
            }
        }
        let done = rounds.done >= target;
        drop(rounds);
        self.commit.poison().check()?;
        self.keys()?;
        // They are here again, but were not when it counted.
        if !done {
            return Err(self.keyless());
        }
        Ok(())
    }

    /// One round. Answers whether it made durable what there was, and whether upkeep has
    /// something to do.
    fn round(&self, turn: &Turn) -> (bool, bool) {
        if self.commit.poison().is_set() {
            return (false, false);
        }
        let mut committer = self.commit.committer(turn);
        match self.commit_round(&mut committer) {
            Ok(()) => {
                self.commit.costs.round();
                let short = self.lacks_next_log(&committer);
                let due = committer.due.is_some();
                drop(committer);
                let state = self.stack.state();
                let wake = due
                    || short
                    || self.wear_due(&state, self.options.note_pages())
                    || !state.dead_known
                    || state.entries.iter().any(|entry| !entry.dead.is_empty());
                (true, wake)
            }
            // Nothing was taken: it stays pending until the keys come back.
            Err(error) if error.kind() == ErrorKind::Revoked => (false, false),
            Err(error) => {
                self.commit.poison().set(error);
                (false, false)
            }
        }
    }

    /// One round's work.
    pub(super) fn commit_round(&self, committer: &mut Committer) -> Result<()> {
        let keys = self.keys()?;
        let limit = self.commit.pending_limit();
        // Two batches must fit besides the closing one: that of this round, and that of what gathers meanwhile.
        let crowded = |log: &Log| !log.fits(3 * limit, 3 * OPS_ROOM) || self.commit.log_full.load(Ordering::SeqCst);
        let nearly_full = committer.log.as_ref().is_some_and(crowded);
        let turn_over = nearly_full || committer.turn_over;
        if turn_over
            && committer.next_log.is_none()
            && let Some(log) = &committer.log
        {
            // Upkeep did not come round to it. Without space this round still fits, but no further change does.
            committer.next_log = self.preallocate_log(log.size()).ok();
        }
        let switch = turn_over && committer.log.is_some() && committer.next_log.is_some();

        let stale = mutant!(CheckpointBeforeItsBorder).then(|| self.stack.state_mut().checkpoint(false));
        let (taken, border) = {
            let mut state = self.lock_to_take();
            let border = switch.then(|| stale.unwrap_or_else(|| state.checkpoint(false)));
            (self.take(&mut state), border)
        };
        // Data before the log: what a record of the log speaks of is durable by then.
        self.sync_layers(&taken.layers)?;
        if !taken.pending.is_empty() {
            self.log_batch(committer, &taken, &keys)?;
        }
        {
            let mut state = self.stack.state_mut();
            state.in_flight = None;
            state.durable = state.taken;
            for (layer, pages) in taken.punched {
                if let Some(entry) = state.entry_mut(layer) {
                    entry.punched -= pages;
                }
            }
        }
        if let Some(mut border) = border {
            border.generation = taken.generation;
            border.chain = self.switch_log(committer, &keys)?;
            let epoch = committer.log.as_ref().map_or(0, |log| log.epoch);
            committer.due = Some(Due { epoch, state: border });
            committer.turn_over = false;
        }
        let limit = self.commit.pending_limit();
        let full = committer.log.as_ref().is_some_and(|log| !log.fits(2 * limit, 2 * OPS_ROOM));
        self.commit.log_full.store(full, Ordering::SeqCst);
        Ok(())
    }

    fn sync_layers(&self, layers: &[Arc<Layer>]) -> Result<()> {
        for layer in layers {
            if mutant!(DataNotSynced) || (mutant!(OneLayerSynced) && layer.id != layers[0].id) {
                continue;
            }
            self.commit.costs.timed(self.options.ticks, || layer.sync(self.commit.poison()))?;
        }
        Ok(())
    }

    fn log_batch(&self, committer: &mut Committer, taken: &Taken, keys: &DiskKeys) -> Result<()> {
        let log = committer.log.as_mut();
        let log = log.ok_or_else(|| self.log_error("is not begun", std::io::Error::other("no log")))?;
        let sync = |log: &Log| self.commit.costs.timed(self.options.ticks, || log.file.sync_data());
        let written = log.append(&taken.pending.batch(taken.generation), keys);
        let written = written.and_then(|()| if mutant!(LogNotSynced) { Ok(()) } else { sync(log) });
        written.map_err(|error| self.log_error("cannot be written", error))
    }

    /// The lock of the state, once what is noted of the batch before is written: the notes of the next one go there.
    fn lock_to_take(&self) -> RwLockWriteGuard<'_, State> {
        loop {
            let state = self.stack.state_mut();
            let late = state.recent.as_ref().and_then(|recent| recent.late(state.generation));
            let Some(late) = late.filter(|_| !mutant!(LateNotesNotAwaited)) else { return state };
            drop(state);
            late.wait();
        }
    }

    fn take(&self, state: &mut State) -> Taken {
        let layers: Vec<_> = state
            .entries
            .iter()
            .filter(|entry| entry.layer.take_dirty())
            .map(|entry| Arc::clone(&entry.layer))
            .collect();
        let punched = state.entries.iter().filter(|entry| entry.punched > 0).map(|e| (e.layer.id, e.punched)).collect();
        let pending = Arc::new(std::mem::take(&mut state.pending));
        self.commit.round_asked.store(false, Ordering::SeqCst);
        state.taken += 1;
        state.generation += u64::from(!pending.is_empty());
        state.in_flight = (!mutant!(BatchInFlightForgotten)).then(|| Arc::clone(&pending));
        Taken { layers, pending, punched, generation: state.generation }
    }

    pub(super) fn log_error(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format!("the log {what}"), error).at_path(self.dir.path())
    }
}
