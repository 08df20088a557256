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

use super::settings;
use crate::disk::commit::log;
use crate::disk::core::Core;
use crate::disk::transfer::ensure_spare;
use crate::io::{Dir, Open, mutant};

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
}
