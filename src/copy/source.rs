//! What is copied into a disk, piece by piece and in order.

use super::PIECE;
use crate::Result;
use crate::base::Content;

/// A source that is read once, from front to back.
pub trait Pieces: Send {
    /// Bytes, where that is known before the end.
    fn size(&self) -> Option<u64>;

    /// The next piece at or after byte `at` that may be other than zeros, in the first bytes of `buf`, which has
    /// [`PIECE`] bytes: where it begins, and its length. `None`: zeros at most are left, up to the size that is known
    /// then. `at` is 0, or where the last piece ended, or later in a source of known size.
    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Option<(u64, usize)>>;
}

/// Content that can be read at any place. Pieces begin at multiples of their size.
#[derive(Debug)]
pub struct Seekable<C>(pub C);

impl<C: Content> Pieces for Seekable<C> {
    fn size(&self) -> Option<u64> {
        Some(self.0.size())
    }

    fn next(&mut self, at: u64, buf: &mut [u8]) -> Result<Option<(u64, usize)>> {
        let size = self.0.size();
        if at >= size {
            return Ok(None);
        }
        let Some(data) = self.0.next_data(at)? else { return Ok(None) };
        let piece = PIECE as u64;
        let from = (data / piece * piece).max(at);
        let len = (size - from).min(piece - from % piece) as usize;
        self.0.read_at(from, &mut buf[..len])?;
        Ok(Some((from, len)))
    }
}
