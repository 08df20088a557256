//! Closing a disk: everything durable, and a clean mark.

use super::Due;
use crate::Result;
use crate::disk::Access;
use crate::disk::core::Core;
use crate::disk::volatile::{self, VolatileJournal};
use crate::io::mutant;
use crate::io::sync::atomic::Ordering;

impl Core {
    /// Flushes and leaves a clean mark; later changes are refused.
    pub(crate) fn close(&self) -> Result<()> {
        self.stack.close();
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        let _upkeep = (!mutant!(ClosedWhilePunching)).then(|| self.upkeep.lock());
        if let Err(error) = self.note_wear(1) {
            tracing::warn!(path = %self.dir.path().display(), %error, "the use of the data keys is not noted");
        }
        let checkpoint = self.commit.lock_checkpoint();
        // A punch between the flush and the turn would be neither durable nor known to the checkpoint.
        let turn = loop {
            self.flush()?;
            let turn = self.commit.lock_commit();
            if !self.anything_dirty() || mutant!(ClosedWhilePunching) {
                break turn;
            }
        };
        if !self.stack.gate().has_log() && self.commit.is_clean() {
            return Ok(());
        }
        let (epoch, state) = (self.commit.next_epoch(), self.stack.state_mut().checkpoint(true));
        let (chain, reserve) = self.put_checkpoint(&checkpoint, &Due { epoch, state })?;
        let next_log = {
            let mut committer = self.commit.committer(&turn);
            (committer.log, committer.due, committer.chain) = (None, None, chain);
            committer.next_log.take()
        };
        self.stack.end_session(&turn);
        self.commit.is_clean.store(true, Ordering::SeqCst);
        self.keep_for_next_opening(next_log);
        self.tidy_after_checkpoint(epoch, reserve)?;
        self.stack.state_mut().recent = None;
        for epoch in volatile::epochs(&self.dir.list().unwrap_or_default()) {
            let _ = VolatileJournal::remove(&*self.dir, epoch);
        }
        Ok(())
    }
}
