//! Writing checkpoints, and removing what they make superfluous.

use super::Chain;
use super::checkpoint;
use super::{CheckpointGuard, Due};
use crate::disk::core::Core;
use crate::disk::table::reserve::{RESERVE, RESERVED};
use crate::disk::transfer::write_spare;
use crate::disk::upkeep::UpkeepGuard;
use crate::io::mutant;
use crate::{Error, Result};

impl Core {
    /// Writes the checkpoint that waits, then removes what it makes superfluous.
    pub(crate) fn write_checkpoint(&self, _upkeep: &UpkeepGuard<'_>) -> Result<()> {
        let checkpoint = self.commit.lock_checkpoint();
        let Some(due) = self.commit.committer.lock().due.take() else { return Ok(()) };
        let written = self.store_checkpoint(&checkpoint, &due);
        if written.is_err() && !self.commit.poison().is_set() {
            let mut committer = self.commit.committer.lock();
            committer.due.get_or_insert(due);
        }
        written.map(|_| ())
    }

    /// Stores a checkpoint, durable when it returns, and answers what a log after it chains to.
    fn store_checkpoint(&self, checkpoint: &CheckpointGuard<'_>, due: &Due) -> Result<Chain> {
        let (chain, reserve) = self.put_checkpoint(checkpoint, due)?;
        self.tidy_after_checkpoint(due.epoch, reserve)?;
        Ok(chain)
    }

    /// Removes what the checkpoint of `epoch` makes superfluous, and holds `reserve` bytes ready for the next one.
    pub(super) fn tidy_after_checkpoint(&self, epoch: u64, reserve: u64) -> Result<()> {
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
    pub(super) fn put_checkpoint(&self, _: &CheckpointGuard<'_>, due: &Due) -> Result<(Chain, u64)> {
        let failed = |error| Error::io("a checkpoint cannot be written", error).at_path(self.dir.path());
        let (content, chain) = due.state.encode(due.epoch, self.uuid, &self.keys()?);
        write_spare(&*self.dir, RESERVE, &content).map_err(failed)?;
        self.dir.rename(RESERVE, &checkpoint::file_name(due.epoch)).map_err(failed)?;
        // Not knowing which checkpoint stands after a crash forbids removing anything, now and later.
        if !mutant!(CheckpointNameNotSynced) {
            self.dir.sync().map_err(|error| self.commit.poison().set(failed(error)))?;
        }
        Ok((chain, (2 * content.len() as u64).next_multiple_of(RESERVED)))
    }

    /// Removes the logs and checkpoints that the one of `epoch` makes superfluous. One of these is the next reserve.
    pub(super) fn remove_before(&self, epoch: u64) -> std::io::Result<()> {
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
}
