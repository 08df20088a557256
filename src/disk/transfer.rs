//! Whole files of a disk, read and written over the seam.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::commit::log::BLOCK as LOG_BLOCK;
pub(crate) use crate::io::transfer::{read_full, try_read_full, write_full};
use crate::io::{Dir, File, Open, mutant, unless_mutant};

/// The unit in which file systems mostly take space.
const BLOCK: u64 = LOG_BLOCK as u64;

/// The whole content of a file of at most `limit` bytes.
pub(crate) fn read_file(dir: &dyn Dir, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let file = dir.open(name, Open::Read)?;
    let size = file.size()?;
    if size > limit {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("{size} bytes, more than {limit}")));
    }
    let mut content = vec![0; size as usize];
    read_full(&*file, &mut content, 0)?;
    Ok(content)
}

/// Whether it says that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Makes `content` the content of the spare file `name`, in place, so that it takes no more space than it has; without
/// one, a new file. Synced under its name's directory only when the caller syncs that. After an error it holds
/// anything.
pub(crate) fn write_spare(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<()> {
    let file = match dir.open(name, Open::ReadWrite) {
        Err(error) if error.kind() == ErrorKind::NotFound => return write_new(dir, name, content).map(drop),
        opened => opened?,
    };
    write_full(&*file, content, 0)?;
    if file.size()? != content.len() as u64 {
        file.set_size(content.len() as u64)?;
    }
    if mutant!(TemporaryNotSynced) {
        return Ok(());
    }
    file.sync_data()
}

/// Holds up to `wanted` bytes ready in the spare file `name`: all of them, or as many as there is space for, at least a
/// block. Not durable.
pub(crate) fn ensure_spare(dir: &dyn Dir, name: &str, wanted: u64) -> io::Result<()> {
    let file = match dir.open(name, Open::ReadWrite) {
        Err(error) if error.kind() == ErrorKind::NotFound => dir.open(name, Open::New)?,
        opened => opened?,
    };
    let size = file.size()?;
    let mut wanted = wanted;
    while size < wanted {
        match file.allocate(0, wanted) {
            Err(error) if is_full(&error) && wanted > BLOCK => wanted = (wanted / 2).next_multiple_of(BLOCK),
            allocated => return allocated,
        }
    }
    Ok(())
}

/// Makes `name` a file with `content`, synced under its name's directory only when the caller syncs that. A file of
/// that name left by an earlier end is replaced.
pub(crate) fn write_new(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<Arc<dyn File>> {
    let file = match dir.open(name, Open::New) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            dir.remove(name)?;
            dir.open(name, Open::New)?
        }
        other => other?,
    };
    write_full(&*file, content, 0)?;
    unless_mutant!(TemporaryNotSynced => file.sync_data()?);
    Ok(file)
}
