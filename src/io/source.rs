//! The bytes of one VHD file, wherever they lie.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// A file of fixed length, read-only. Offsets and lengths are in bytes of the file and need no alignment.
///
/// Obligations: the length never changes; a read outside it, or of a file that became shorter, is an error, never a
/// panic and never made-up bytes; all methods are safe to call from many threads at once.
pub trait Source: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn size(&self) -> u64;
    /// Fills `buf` from byte `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// Like [`Source::read_at`] but answers `false`, with `buf` in any state, where that would wait for a device.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;
}

/// Reads, waiting or not: `Ok(false)` only if `wait` is false.
pub(crate) fn read(source: &dyn Source, wait: bool, offset: u64, buf: &mut [u8]) -> Result<bool> {
    if wait { source.read_at(offset, buf).map(|()| true) } else { source.try_read_at(offset, buf) }
}

/// A file in memory.
impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset).ok().and_then(|start| self.get(start..)?.get(..buf.len()));
        let found = found.ok_or_else(|| Error::new(ErrorKind::Io, "read past the end").at_offset(offset))?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
}
