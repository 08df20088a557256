//! The core: one page blob.

use crate::Result;

/// Whether a change must be on stable storage before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Volatile until the next flush.
    Volatile,
    /// Force unit access.
    Fua,
}

/// How the pages of a run are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageState {
    /// Read from the base image (`allocated` as the image's own format says).
    Base { allocated: bool },
    /// In plaintext in a layer.
    Plain,
    /// Under a layer's data key.
    Encrypted,
    /// Stored nowhere: reads as zeros.
    Zero,
}

/// A run of pages in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First page.
    pub start: u64,
    /// Length in pages.
    pub pages: u64,
    pub state: PageState,
    /// The layer that holds it (or holds it as zero), if any.
    pub layer: Option<u32>,
    /// Layers between the top and the one that answers: 1 is the top; 0 for what no layer holds.
    pub depth: u32,
}

/// An open disk: the block-device view of one page blob. Ranges are bytes; any alignment is served.
#[derive(Debug)]
pub struct Disk {}

impl Disk {
    /// Bytes, a multiple of 512, without the footer page.
    pub fn size(&self) -> u64 {
        todo!()
    }
    pub fn read_only(&self) -> bool {
        todo!()
    }
    pub fn read(&self, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// `Ok(false)`: would wait; nothing was done; call [`Disk::read`] on a thread that may.
    pub fn try_read(&self, _offset: u64, _buf: &mut [u8]) -> Result<bool> {
        todo!()
    }
    pub fn write(&self, _offset: u64, _data: &[u8], _durability: Durability) -> Result<()> {
        todo!()
    }
    /// A volatile write, or `Ok(false)` with nothing changed where it would wait.
    pub fn try_write(&self, _offset: u64, _data: &[u8]) -> Result<bool> {
        todo!()
    }
    /// Makes the range read as zeros; what was stored is given back. In time independent of `len`.
    pub fn zero(&self, _offset: u64, _len: u64, _durability: Durability) -> Result<()> {
        todo!()
    }
    /// Writes real zeros (NO_HOLE).
    pub fn write_zeros(&self, _offset: u64, _len: u64, _durability: Durability) -> Result<()> {
        todo!()
    }
    /// Group commit: every change answered before this call is on stable storage when it returns `Ok`.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }
    /// Reads ahead into the page cache.
    pub fn cache(&self, _offset: u64, _len: u64) -> Result<()> {
        todo!()
    }
    /// The runs of `[offset, offset + len)` (rounded outward to pages), in order, at most `limit` of them.
    pub fn runs(&self, _offset: u64, _len: u64, _limit: usize) -> Result<Vec<Run>> {
        todo!()
    }
}
