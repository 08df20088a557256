//! Log space where it runs out: a round and a checkpoint make some; on a full file system a log that is full, without a
//! next one, ends with a clean checkpoint and is begun anew in the same place. So does an opening with the newest log
//! of an earlier one.

use std::io;

use super::log_files::newest_log;
use super::{CheckpointGuard, Committer, Due};
use crate::disk::core::Core;
use crate::disk::table::TableGuard;
use crate::io::sync::atomic::Ordering;
use crate::{Error, ErrorKind, Result};

impl Core {
    /// Makes log space, or says that there is none. The caller holds no lock.
    pub(crate) fn make_room(&self) -> Result<()> {
        self.flush()?;
        if !self.commit.log_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        {
            let upkeep = self.upkeep.lock();
            // The old log goes with the checkpoint, which gives back the space that the next one needs.
            let ready = self.write_checkpoint(&upkeep).and_then(|()| self.ready_next_log(&upkeep));
            match ready {
                Err(error) if error.kind() == ErrorKind::NoSpace => {}
                ready => ready?,
            }
        }
        self.next_round()?;
        if self.commit.log_full.load(Ordering::SeqCst) {
            self.retire_full_log()?;
        }
        Ok(())
    }

    /// Before the first change of an opening, on a full file system: makes the log of an earlier opening the next one.
    /// Does nothing where there is no old log: the disk was closed, and a failed read hid that from the opening. No log
    /// has been begun.
    pub(super) fn take_over_old_log(&self, _: &TableGuard<'_>, checkpoint: &CheckpointGuard<'_>) -> Result<()> {
        let names = self.dir.list().map_err(|error| self.retiring_failed(error))?;
        if newest_log(&names).is_none() {
            return Ok(());
        }
        // A punch that is not durable would be known to nobody.
        let turn = loop {
            if self.any_layer_dirty() {
                self.flush()?;
            }
            let turn = self.commit.lock_commit();
            if !self.any_layer_dirty() {
                break turn;
            }
        };
        self.retire_logs(checkpoint, &mut self.commit.committer(&turn))
    }

    /// Where the log of this opening is full and there is no space for a next one: ends it by a clean checkpoint. The
    /// next change begins one anew, in the same place.
    fn retire_full_log(&self) -> Result<()> {
        let table = self.table.lock();
        let checkpoint = self.commit.lock_checkpoint();
        let turn = self.commit.lock_commit();
        // Nothing changes while this is held, so that what the last round makes durable is all there is.
        let mut gate = self.stack.gate_exclusive(&table);
        gate.check_open()?;
        let mut committer = self.commit.committer(&turn);
        if committer.log.is_none() {
            return Ok(());
        }
        committer.turn_over = false;
        self.commit_round(&mut committer).map_err(|error| match error.kind() {
            ErrorKind::Revoked => error,
            _ => self.commit.poison().set(error),
        })?;
        // There was space for a next one after all.
        if !self.commit.log_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        let retired = self.retire_logs(&checkpoint, &mut committer);
        gate.set_has_log(committer.log.is_some());
        retired
    }

    /// Puts a clean checkpoint in the place of all logs, and makes the newest of them the next one, filled with zeros
    /// where it lies, so that nobody else gets its space meanwhile. Everything is durable, and nothing is changed until
    /// this returns.
    fn retire_logs(&self, checkpoint: &CheckpointGuard<'_>, committer: &mut Committer) -> Result<()> {
        let (epoch, state) = (committer.next_epoch, self.stack.state_mut().checkpoint(true));
        let (chain, bytes) = self.put_checkpoint(checkpoint, &Due { epoch, state })?;
        (committer.chain, committer.log, committer.due) = (chain, None, None);
        self.commit.log_full.store(false, Ordering::SeqCst);
        self.commit.is_clean.store(true, Ordering::SeqCst);
        let recycled = self.recycle_newest_log(self.options.log_bytes);
        committer.next_log = recycled.map_err(|error| self.retiring_failed(error))?;
        self.remove_before(epoch).map_err(|error| self.retiring_failed(error))?;
        let _ = self.ensure_reserve(bytes);
        Ok(())
    }

    fn retiring_failed(&self, error: io::Error) -> Error {
        Error::io("an old log cannot be taken over", error).at_path(self.dir.path())
    }

    fn any_layer_dirty(&self) -> bool {
        self.stack.state().entries.iter().any(|entry| entry.layer.is_dirty() || entry.punched > 0)
    }
}
