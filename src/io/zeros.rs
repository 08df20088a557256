//! Runs of zeros.

/// Whether all bytes are zero.
#[inline]
#[must_use]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Many bytes at once, without a branch for each: the compiler then uses wide registers.
    let (chunks, rest) = bytes.as_chunks::<64>();
    rest.iter().all(|byte| *byte == 0) && chunks.iter().all(|chunk| chunk.iter().fold(0, |bits, byte| bits | byte) == 0)
}
