//! Closing a disk: everything durable, and a clean mark.

use crate::Result;
use crate::disk::Access;
use crate::disk::core::{Core, Due};
use crate::disk::volatile::{self, VolatileJournal};
use crate::io::mutant;
use crate::io::sync::atomic::Ordering;

impl Core {
    /// Flushes and leaves a clean mark; later changes are refused.
    pub(crate) fn close(&self) -> Result<()> {
        self.gate.write().closed = true;
        if self.access == Access::ReadOnly {
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
