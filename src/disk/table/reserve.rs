//! Space held ready, so that a disk goes on where the file system is full: it opens, takes overwrites, trims and
//! flushes, and closes, whoever takes each block that comes free.
//!
//! Nothing of this needs a block that the disk does not have:
//! - [`RESERVE`] becomes the next checkpoint, in place, and the checkpoint before becomes the reserve;
//! - disk.toml and its spare change places (see [`super::settings`]);
//! - the first log of an opening is [`log::NEXT`], which a clean close keeps, small;
//! - a log that is full, without a next one, is retired: a clean checkpoint takes its place, and its file, filled with
//!   zeros where it lies, is the next log. So does an opening with the newest log of an earlier one.
//!
//! A disk is made with the least of all that, and each is made larger where there is space.

use std::io;
use std::sync::Arc;

use super::settings;
use crate::disk::commit::log;
use crate::disk::core::{Committer, Core, Due};
use crate::disk::numbered::numbers;
use crate::disk::transfer::{ensure_spare, is_full, read_full, write_full};
use crate::io::sync::atomic::Ordering;
use crate::io::{Dir, File, Open, mutant};
use crate::{Error, ErrorKind, Result};

pub(crate) const RESERVE: &str = "reserve";
/// Bytes of it at the least.
pub(crate) const RESERVED: u64 = 16 << 10;
/// Bytes that disk.toml may grow by before its spare is too small.
const SETTINGS_GROWTH: u64 = log::BLOCK as u64;

/// Makes what a disk in `dir` holds ready from the start, durably but for the names.
pub(crate) fn provide(dir: &dyn Dir, least_log: u64) -> io::Result<()> {
    for (name, bytes) in [(log::NEXT, least_log), (RESERVE, RESERVED)] {
        if name == RESERVE && mutant!(ReserveNotMade) {
            continue;
        }
        let file = dir.open(name, Open::New)?;
        file.allocate(0, bytes)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Makes the spare of disk.toml large enough for the next replacement.
pub(crate) fn ensure_settings_spare(dir: &dyn Dir) -> io::Result<()> {
    let size = dir.open(settings::FILE, Open::Read)?.size()?;
    ensure_spare(dir, settings::TEMPORARY, (size + SETTINGS_GROWTH).next_multiple_of(log::BLOCK as u64))
}

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

/// Of the free space, the share that a log or notes may take that could be smaller: what is left is for what clients
/// write.
const SHARE: u64 = 16;

impl Core {
    /// The largest of a kind of reserve, of up to `wanted` bytes, that leaves most of the free space to clients.
    pub(crate) fn fair_share(&self, wanted: u64) -> u64 {
        self.dir.free_bytes().map_or(wanted, |free| wanted.min(free / SHARE))
    }

    /// Makes the reserve, or makes it larger: as large as there is space for.
    pub(crate) fn ensure_reserve(&self, wanted: u64) -> io::Result<()> {
        if mutant!(ReserveNotMade) {
            return Ok(());
        }
        ensure_spare(&*self.dir, RESERVE, wanted)
    }

    /// Gives the reserve up, for what must be written now.
    pub(crate) fn release_reserve(&self) {
        let _ = self.dir.remove(RESERVE);
    }

    /// The log that a clean close or an earlier opening kept, filled with zeros, and made as large as the first one of
    /// an opening where there is space. `None`: there is none, or it is too small for what is pending.
    pub(crate) fn take_kept_log(&self) -> io::Result<Option<Arc<dyn File>>> {
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
    pub(crate) fn least_log(&self) -> u64 {
        self.options.least_log_for(self.state.read().pending.count())
    }

    /// Before the first change of an opening, on a full file system: makes the log of an earlier opening the next one.
    /// Does nothing where there is no old log: the disk was closed, and a failed read hid that from the opening. The
    /// caller holds `table` and `checkpointing`, and has not begun a log.
    pub(crate) fn take_over_old_log(&self) -> Result<()> {
        let names = self.dir.list().map_err(|error| self.retiring_failed(error))?;
        if newest_log(&names).is_none() {
            return Ok(());
        }
        // A punch that is not durable would be known to nobody.
        let _turn = loop {
            if self.any_layer_dirty() {
                self.flush()?;
            }
            let turn = self.lock_commit();
            if !self.any_layer_dirty() {
                break turn;
            }
        };
        self.retire_logs(&mut self.committer.lock())
    }

    /// Where the log of this opening is full and there is no space for a next one: ends it by a clean checkpoint. The
    /// next change begins one anew, in the same place.
    pub(crate) fn retire_full_log(&self) -> Result<()> {
        let _growth = self.table.lock();
        let _one_at_a_time = self.checkpointing.lock();
        let _turn = self.lock_commit();
        // Nothing changes while this is held, so that what the last round makes durable is all there is.
        let mut gate = self.gate.write();
        self.check_open(&gate)?;
        let mut committer = self.committer.lock();
        if committer.log.is_none() {
            return Ok(());
        }
        committer.turn_over = false;
        self.commit(&mut committer).map_err(|error| match error.kind() {
            ErrorKind::Revoked => error,
            _ => self.poison.set(error),
        })?;
        // There was space for a next one after all.
        if !self.log_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        let retired = self.retire_logs(&mut committer);
        gate.has_log = committer.log.is_some();
        retired
    }

    /// Puts a clean checkpoint in the place of all logs, and makes the newest of them the next one, filled with zeros
    /// where it lies, so that nobody else gets its space meanwhile. The caller has the turn, everything is durable, and
    /// nothing is changed until this returns.
    fn retire_logs(&self, committer: &mut Committer) -> Result<()> {
        let (epoch, state) = (committer.next_epoch, self.state.write().checkpoint(true));
        let (chain, bytes) = self.put_checkpoint(&Due { epoch, state })?;
        (committer.chain, committer.log, committer.due) = (chain, None, None);
        self.log_full.store(false, Ordering::SeqCst);
        self.opened_clean.store(true, Ordering::SeqCst);
        let recycled = self.recycle_newest_log(self.options.log_bytes);
        committer.next_log = recycled.map_err(|error| self.retiring_failed(error))?;
        self.remove_before(epoch).map_err(|error| self.retiring_failed(error))?;
        let _ = self.ensure_reserve(bytes);
        Ok(())
    }

    /// Gives the newest log, which nothing needs any more, the name of the next one, at most so many bytes long and
    /// filled with zeros. `None`: there is none that is large enough.
    pub(crate) fn recycle_newest_log(&self, most: u64) -> io::Result<Option<Arc<dyn File>>> {
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

    fn retiring_failed(&self, error: io::Error) -> Error {
        Error::io("an old log cannot be taken over", error).at_path(self.dir.path())
    }

    fn any_layer_dirty(&self) -> bool {
        self.state.read().entries.iter().any(|entry| entry.layer.is_dirty() || entry.punched > 0)
    }
}

fn newest_log(names: &[String]) -> Option<u64> {
    numbers(names, "log.").pop()
}
