//! What the clients store: cells of 256 bytes, two to a page, each filled with one value that says what wrote it.
//!
//! A block of 16 bytes is the value and its complement, so that stored plaintext is known by looking at it, and noise
//! is never taken for content. Value 0 is zeros.

pub(crate) const CELL: usize = 256;
pub(crate) const CELLS_A_PAGE: usize = 2;

pub(crate) fn fill(cell: &mut [u8], value: u64) {
    if value == 0 {
        cell.fill(0);
        return;
    }
    for block in cell.chunks_exact_mut(16) {
        block[..8].copy_from_slice(&value.to_le_bytes());
        block[8..].copy_from_slice(&(!value).to_le_bytes());
    }
}

/// The value that fills the cell; `None`: noise.
pub(crate) fn parse(cell: &[u8]) -> Option<u64> {
    let mut blocks = cell.chunks_exact(16).map(parse_block);
    let first = blocks.next()??;
    blocks.all(|block| block == Some(first)).then_some(first)
}

fn parse_block(block: &[u8]) -> Option<u64> {
    let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
    let (value, check) = (word(0), word(8));
    (check == !value || (value == 0 && check == 0)).then_some(value)
}

/// Whether some of these stored bytes are a client's plaintext.
pub(crate) fn shows_plaintext(stored: &[u8]) -> bool {
    stored.chunks_exact(16).any(|block| parse_block(block).is_some_and(|value| value != 0))
}

#[test]
fn cells_are_told_from_noise() {
    let mut cell = [0; CELL];
    for value in [0, 1, u64::MAX - 1, 1 << 63] {
        fill(&mut cell, value);
        assert_eq!(parse(&cell), Some(value));
    }
    cell[100] ^= 1;
    assert_eq!(parse(&cell), None);
    assert!(shows_plaintext(&cell));
    assert!(!shows_plaintext(&[7; 512]) && !shows_plaintext(&[0; 512]));
}
