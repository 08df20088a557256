//! What is copied into: a disk that is written and read back, however it is reached.

use std::fmt;

use crate::Result;
use crate::base::Content;

/// A disk that takes a copy. Offsets and lengths are in bytes.
///
/// Obligations: a read, and [`Content::next_data`], see every change that was made before; after an error nothing is
/// promised of the changes since the last [`TargetDisk::flush`].
pub trait TargetDisk: Content + fmt::Debug {
    /// Writes `data` at byte `offset`. It need not be done on return: [`TargetDisk::await_writes`] waits for it.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes the range zero, and gives back what it took. As [`TargetDisk::write`] it need not be done on return.
    fn zero(&mut self, offset: u64, len: u64) -> Result<()>;

    /// Waits for all changes.
    fn await_writes(&mut self) -> Result<()>;

    /// Makes all changes durable.
    fn flush(&mut self) -> Result<()>;

    /// The disk has `size` bytes from now on.
    fn set_size(&mut self, size: u64);
}
