//! The files of the log: the next one, made in advance; the first of an opening; going over from one to the next; and
//! what is kept for the next opening. Zero-filled, so that no later sync has to record that their blocks are written.

use std::io;
use std::sync::Arc;

use super::log::{self, Chain, Log};
use super::rounds::OPS_ROOM;
use super::{CheckpointGuard, Commit, Committer};
use crate::crypto::keyring::DiskKeys;
use crate::disk::core::Core;
use crate::disk::numbered::numbers;
use crate::disk::table::TableGuard;
use crate::disk::transfer::{is_full, read_file, read_full, write_full, write_new};
use crate::disk::upkeep::UpkeepGuard;
use crate::io::sync::MutexGuard;
use crate::io::sync::atomic::Ordering;
use crate::io::{File, Open, mutant};
use crate::{ErrorKind, Result};

/// Writes zeros over all of `file`, where it lies. Not durable.
fn fill_with_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; (1 << 20).min(to.saturating_sub(from)) as usize];
    let mut at = from;
    while at < to {
        let len = zeros.len().min((to - at) as usize);
        write_full(file, &zeros[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// The log of an opening, begun and not in use yet.
#[derive(Debug)]
pub(crate) struct SessionLog<'a> {
    commit: &'a Commit,
    committer: MutexGuard<'a, Committer>,
    log: Log,
}

impl SessionLog<'_> {
    pub(crate) fn epoch(&self) -> u64 {
        self.log.epoch
    }

    /// Takes it into use: from here on the disk is not clean.
    pub(crate) fn take_into_use(self) {
        let Self { commit, mut committer, log } = self;
        committer.log = Some(log);
        drop(committer);
        commit.is_clean.store(false, Ordering::SeqCst);
    }
}

impl Core {
    pub(crate) fn ready_next_log(&self, _upkeep: &UpkeepGuard<'_>) -> Result<()> {
        if !self.lacks_next_log(&self.commit.committer.lock()) {
            return Ok(());
        }
        // A round may want one meanwhile and make its own: so only with the turn.
        let turn = self.commit.lock_commit();
        let mut committer = self.commit.committer(&turn);
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

    /// Whether it is time to make the next log.
    pub(super) fn lacks_next_log(&self, committer: &Committer) -> bool {
        let is_used = |log: &Log| !log.fits_half(3 * self.commit.pending_limit(), 3 * OPS_ROOM);
        committer.next_log.is_none() && committer.log.as_ref().is_some_and(is_used)
    }

    /// Makes the file of the next log, as large as there is space for but not smaller than `least` bytes: what gathers
    /// while the log in use is as large must find room in it.
    pub(super) fn preallocate_log(&self, least: u64) -> Result<Arc<dyn File>> {
        if self.fair_share(least) < least {
            return Err(self.log_error("could not be preallocated", std::io::ErrorKind::StorageFull.into()));
        }
        self.preallocate_at_most(self.options.log_bytes, least)
    }

    fn preallocate_at_most(&self, most: u64, least: u64) -> Result<Arc<dyn File>> {
        let large = most.max(least);
        if self.fair_share(large) < large {
            return self.preallocate(least);
        }
        match self.preallocate(large) {
            Err(error) if error.kind() == ErrorKind::NoSpace && least < most => self.preallocate(least),
            made => made,
        }
    }

    /// Zero-filled, so that no later sync has to record that its blocks are written, and durable under its temporary
    /// name.
    fn preallocate(&self, bytes: u64) -> Result<Arc<dyn File>> {
        // Without this, trying would take the last space there is from others for a moment.
        if self.dir.free_bytes().is_ok_and(|free| free < bytes) {
            return Err(self.log_error("could not be preallocated", std::io::ErrorKind::StorageFull.into()));
        }
        let mut zeros = vec![0; bytes as usize];
        let old = |name: &String| name.starts_with("log.") && name != log::NEXT;
        if mutant!(LogRecycled)
            && let Some(old) = self.dir.list().ok().and_then(|names| names.into_iter().rfind(old))
            && let Ok(content) = read_file(&*self.dir, &old, u64::MAX)
        {
            let len = zeros.len().min(content.len());
            zeros[..len].copy_from_slice(&content[..len]);
        }
        write_new(&*self.dir, log::NEXT, &zeros)
            .and_then(|file| self.dir.sync().map(|()| file))
            // Half of one would take the space of what gives space back.
            .inspect_err(|_| drop(self.dir.remove(log::NEXT)))
            .map_err(|error| self.log_error("could not be preallocated", error))
    }

    /// Begins the log of this opening, which has none: durable under its name, and not in use before it is taken.
    pub(crate) fn begin_session_log(
        &self,
        table: &TableGuard<'_>,
        checkpoint: &CheckpointGuard<'_>,
        keys: &DiskKeys,
    ) -> Result<SessionLog<'_>> {
        let begin = || {
            let mut committer = self.commit.committer.lock();
            let chain = committer.chain;
            let file = self.first_log(&mut committer)?;
            self.begin_log(&mut committer, file, &chain, keys).map(|log| (log, committer))
        };
        let (log, committer) = match begin() {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.take_over_old_log(table, checkpoint)?;
                begin()?
            }
            begun => begun?,
        };
        Ok(SessionLog { commit: &self.commit, committer, log })
    }

    /// The file of the first log of this opening.
    fn first_log(&self, committer: &mut Committer) -> Result<Arc<dyn File>> {
        if let Some(file) = committer.next_log.take() {
            return Ok(file);
        }
        match self.take_kept_log().map_err(|error| self.log_error("that was kept cannot be read", error))? {
            Some(file) => Ok(file),
            None => self.preallocate_at_most(self.options.first_log(), self.least_log()),
        }
    }

    /// Turns the preallocated file into the log of the next epoch.
    fn begin_log(&self, committer: &mut Committer, file: Arc<dyn File>, chain: &Chain, keys: &DiskKeys) -> Result<Log> {
        let epoch = committer.next_epoch;
        let begun = file
            .size()
            .and_then(|size| Log::begin(file, size, epoch, self.uuid, chain, keys))
            .and_then(|log| self.dir.rename(log::NEXT, &log::file_name(epoch)).map(|()| log))
            .map_err(|error| self.log_error("cannot be begun", error))?;
        committer.next_epoch = epoch + 1;
        self.commit.pending_limit.store(self.options.extents_of(begun.size()), Ordering::SeqCst);
        if !mutant!(LogNameNotSynced) {
            self.dir.sync().map_err(|error| self.log_error("cannot be made durable", error))?;
        }
        Ok(begun)
    }

    /// Goes over to the next log, and answers what that one chains to. Its file stands durable under its name before
    /// the closing batch says that it must.
    pub(super) fn switch_log(&self, committer: &mut Committer, keys: &DiskKeys) -> Result<Chain> {
        let mut old =
            committer.log.take().ok_or_else(|| self.log_error("is not begun", std::io::Error::other("no log")))?;
        let epoch = committer.next_epoch;
        let chain = old.closing_chain(epoch, keys);
        let file = committer
            .next_log
            .take()
            .ok_or_else(|| self.log_error("has no next one", std::io::Error::other("no log")))?;
        let next = self.begin_log(committer, file, &chain, keys)?;
        old.append(&Log::closing(epoch), keys)
            .and_then(|()| old.file.sync_data())
            .map_err(|error| self.log_error("cannot be closed", error))?;
        committer.log = Some(next);
        Ok(chain)
    }

    /// The log that a clean close or an earlier opening kept, filled with zeros, and made as large as the first one of
    /// an opening where there is space. `None`: there is none, or it is too small for what is pending.
    fn take_kept_log(&self) -> io::Result<Option<Arc<dyn File>>> {
        let file = match self.dir.open(log::NEXT, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let size = file.size()?.min(self.options.log_bytes);
        if size < self.options.least_log() {
            return Ok(None);
        }
        match file.allocate(0, size) {
            Err(error) if is_full(&error) => return Ok(None),
            allocated => allocated?,
        }
        let mut content = vec![0; size as usize];
        read_full(&*file, &mut content, 0)?;
        // The end of an opening may have caught it on the way to its own name.
        if content.iter().any(|&byte| byte != 0) {
            fill_with_zeros(&*file, 0, size)?;
        }
        let least = self.least_log();
        let wanted = self.options.first_log().max(least);
        let may_grow = size < least || self.fair_share(wanted) == wanted;
        if size < wanted && may_grow && fill_with_zeros(&*file, size, wanted).is_err() {
            file.set_size(size)?;
        }
        file.sync_data()?;
        Ok((file.size()? >= least).then_some(file))
    }

    /// Bytes of the smallest log that has room for what is pending now.
    fn least_log(&self) -> u64 {
        self.options.least_log_for(self.stack.state().pending.count())
    }

    /// Gives the newest log, which nothing needs any more, the name of the next one, at most so many bytes long and
    /// filled with zeros. `None`: there is none that is large enough.
    pub(super) fn recycle_newest_log(&self, most: u64) -> io::Result<Option<Arc<dyn File>>> {
        let Some(newest) = newest_log(&self.dir.list()?) else { return Ok(None) };
        self.dir.rename(&log::file_name(newest), log::NEXT)?;
        let file = self.dir.open(log::NEXT, Open::ReadWrite)?;
        let size = file.size()?.min(most);
        if size < self.options.least_log() {
            self.dir.remove(log::NEXT)?;
            return Ok(None);
        }
        file.set_size(size)?;
        fill_with_zeros(&*file, 0, size)?;
        file.sync_data()?;
        self.dir.sync()?;
        Ok(Some(file))
    }

    /// What a clean close keeps for the next opening, once its checkpoint is in place and before it removes what that
    /// makes superfluous. What cannot be kept is made anew.
    pub(crate) fn keep_for_next_opening(&self, next_log: Option<Arc<dyn File>>) {
        let least = self.options.least_log();
        if mutant!(LogNotKept) {
            let _ = self.dir.remove(log::NEXT);
            return;
        }
        let kept = match next_log {
            Some(file) if file.size().is_ok_and(|size| size <= least) => Ok(()),
            Some(file) => file.set_size(least),
            // As it was kept by the close before.
            None if self.dir.open(log::NEXT, Open::Read).is_ok() => Ok(()),
            None => self.recycle_newest_log(least).map(drop),
        };
        if let Err(error) = kept {
            tracing::warn!(path = %self.dir.path().display(), %error, "no log is kept for the next opening");
        }
    }
}

pub(super) fn newest_log(names: &[String]) -> Option<u64> {
    numbers(names, "log.").pop()
}
