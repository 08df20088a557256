//! What is copied: bytes that are read once from front to back, with what is known to be zero left out.

use super::UntrackedImage;
use crate::Result;

/// A disk's content, wherever it lies.
pub trait Content: Send {
    /// Bytes.
    fn size(&self) -> u64;
    /// The first byte at or after `offset` that may be other than zero; `None`: there is none.
    fn next_data(&mut self, offset: u64) -> Result<Option<u64>>;
    /// Fills `buf` from byte `offset`; the range lies inside the size.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

impl Content for &UntrackedImage {
    fn size(&self) -> u64 {
        UntrackedImage::size(self)
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<u64>> {
        UntrackedImage::next_data(self, offset)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        UntrackedImage::read_at(self, offset, buf)
    }
}
