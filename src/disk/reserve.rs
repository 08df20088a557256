//! Space held ready for a file system that is full: a small file that a checkpoint or the settings may take the place of,
//! and the log of an earlier opening, which an opening that finds no space for a new one takes over.
//!
//! Without these, every end that was not clean would cost one more log, and a file system that stays full would soon
//! refuse the trim that gives space back.

use std::io;
use std::sync::Arc;

use super::core::{Committer, Core, Due};
use super::log;
use super::transfer::write_full;
use crate::io::sync::atomic::Ordering;
use crate::io::{File, Open};
use crate::{Error, ErrorKind, Result};

pub(crate) const RESERVE: &str = "reserve";
/// Bytes of it at the least.
pub(crate) const RESERVED: u64 = 1 << 16;

impl Core {
    /// Makes the reserve, or makes it larger.
    pub(crate) fn ensure_reserve(&self, wanted: u64) -> io::Result<()> {
        let file = match self.dir.open(RESERVE, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.dir.open(RESERVE, Open::New)?,
            other => other?,
        };
        if file.size()? < wanted { file.allocate(0, wanted) } else { Ok(()) }
    }

    /// Gives the reserve up, for what must be written now.
    pub(crate) fn release_reserve(&self) {
        let _ = self.dir.remove(RESERVE);
    }

    /// Before the first change of an opening, on a full file system: makes the log of an earlier opening the next one. A
    /// checkpoint takes its place first, a clean one, because what was recovered is durable. Then it is filled with zeros
    /// where it lies, so that nobody else gets its space meanwhile. Does nothing where there is no old log: the disk was
    /// closed, and a failed read hid that from the opening. The caller holds `growth` and `checkpointing`, and has not
    /// begun a log.
    pub(crate) fn take_over_old_log(&self) -> Result<()> {
        let failed = |error| Error::io("an old log cannot be taken over", error).at_path(self.dir.path());
        let names = self.dir.list().map_err(failed)?;
        let number = |name: &String| name.strip_prefix("log.")?.parse::<u64>().ok().filter(|&number| number < u64::MAX);
        let Some(newest) = names.iter().filter_map(number).max() else { return Ok(()) };
        // A punch that is not durable would be known to nobody.
        let _turn = loop {
            if self.any_layer_dirty() {
                self.flush()?;
            }
            let turn = self.take_turn();
            if !self.any_layer_dirty() {
                break turn;
            }
        };
        let mut committer = self.committer.lock();
        let (epoch, state) = (committer.next_epoch, self.state.write().checkpoint(true));
        let (chain, bytes) = self.put_checkpoint(&Due { epoch, state })?;
        committer.chain = chain;
        self.opened_clean.store(true, Ordering::SeqCst);

        self.dir.rename(&log::file_name(newest), log::NEXT).map_err(failed)?;
        self.remove_before(epoch).map_err(failed)?;
        let file = self.dir.open(log::NEXT, Open::ReadWrite).map_err(failed)?;
        self.recycle(&mut committer, file, bytes).map_err(failed)
    }

    /// Zeros an old log under the name of the next one. Where there is no space for a reserve, it becomes smaller.
    fn recycle(&self, committer: &mut Committer, file: Arc<dyn File>, reserve: u64) -> io::Result<()> {
        let least = self.options.least_log_bytes();
        let mut size = file.size()?.min(self.options.log_bytes);
        if size < least {
            self.dir.remove(log::NEXT)?;
            return Ok(());
        }
        if self.ensure_reserve(reserve).is_err() {
            size = least;
        }
        file.set_size(size)?;
        let zeros = vec![0; (1 << 20).min(size) as usize];
        for at in (0..size).step_by(zeros.len()) {
            write_full(&*file, &zeros[..zeros.len().min((size - at) as usize)], at)?;
        }
        file.sync_data()?;
        self.dir.sync()?;
        let _ = self.ensure_reserve(reserve);
        committer.next_log = Some(file);
        Ok(())
    }

    fn any_layer_dirty(&self) -> bool {
        self.state.read().entries.iter().any(|entry| entry.layer.is_dirty() || entry.punched > 0)
    }

    /// Whether `error` may be mended by [`Core::take_over_old_log`].
    pub(crate) fn wants_old_log(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::NoSpace && !self.opened_clean.load(Ordering::SeqCst)
    }
}
