//! A cheap stand-in for the cipher, for the crash simulator only: **it hides nothing**.
//!
//! The simulator runs millions of page writes and asks which key, if any, each stored block is under. It needs what
//! the core relies on, at a fraction of the cost: every 16-byte block is mixed by itself (so a write torn between
//! blocks reads back as it would under XTS), reversibly, under the key, the page number and its place in the page, with
//! every byte of the result depending on every byte of the block. Content read under another key, at another page or
//! though it was stored in plaintext comes out as noise. It exists only under `--cfg sealdisk_sim`, which no product
//! build has.

use super::BLOCKS;
use crate::PAGE;

/// Odd, so that it has an inverse modulo 2^128; both halves dense, so that the low bits reach the high ones.
const MIX: u128 = 0xd6e8_feb8_6659_fd93_9e37_79b9_7f4a_7c15;
const UNMIX: u128 = inverse(MIX);

/// Not zeroized: simulated keys are no secrets.
pub(super) struct Schedule(u128);

impl Schedule {
    pub(super) fn new(key: &[u8; 64]) -> Self {
        let (words, _) = key.as_chunks::<16>();
        Self(words.iter().fold(MIX, |hash, word| fold((hash ^ u128::from_le_bytes(*word)).wrapping_mul(MIX))))
    }

    pub(super) fn encrypt(&self, first_page: u64, src: &[u8], dst: &mut [u8]) {
        dst.copy_from_slice(src);
        self.each_block(first_page, dst, |block, mask| fold(fold((block ^ mask).wrapping_mul(MIX)).wrapping_mul(MIX)));
    }

    pub(super) fn decrypt_in_place(&self, first_page: u64, data: &mut [u8]) {
        self.each_block(first_page, data, |block, mask| {
            fold(fold(block).wrapping_mul(UNMIX)).wrapping_mul(UNMIX) ^ mask
        });
    }

    fn each_block(&self, first_page: u64, data: &mut [u8], change: impl Fn(u128, u128) -> u128) {
        for (page, data) in (first_page..).zip(data.chunks_exact_mut(PAGE)) {
            let (blocks, _) = data.as_chunks_mut::<16>();
            for (place, block) in blocks.iter_mut().enumerate() {
                let number = u128::from(page) * BLOCKS as u128 + place as u128;
                let mask = fold((self.0 ^ number).wrapping_mul(MIX)).wrapping_mul(MIX);
                *block = change(u128::from_le_bytes(*block), mask).to_le_bytes();
            }
        }
    }
}

/// Brings the well-mixed high half down; its own inverse.
fn fold(word: u128) -> u128 {
    word ^ (word >> 64)
}

/// Newton's iteration: an odd number is its own inverse modulo 8, and each step doubles the bits that are right.
const fn inverse(odd: u128) -> u128 {
    let mut inverse = odd;
    let mut right = 3;
    while right < 128 {
        inverse = inverse.wrapping_mul(2u128.wrapping_sub(odd.wrapping_mul(inverse)));
        right *= 2;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u8) -> Schedule {
        Schedule::new(&std::array::from_fn(|i| i as u8 ^ seed))
    }

    fn differing(a: &[u8], b: &[u8]) -> usize {
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn what_was_written_elsewhere_or_otherwise_reads_as_noise() {
        let plain: Vec<u8> = (0..4 * PAGE).map(|i| i as u8).collect();
        let mut stored = vec![0; plain.len()];
        schedule(1).encrypt(7, &plain, &mut stored);
        let read = |seed, page, stored: &[u8]| {
            let mut read = stored.to_vec();
            schedule(seed).decrypt_in_place(page, &mut read);
            read
        };
        assert_eq!(read(1, 7, &stored), plain);
        for noise in [read(2, 7, &stored), read(1, 8, &stored), read(1, 7, &plain), stored.clone()] {
            let differing = differing(&noise, &plain);
            assert!(differing > plain.len() * 9 / 10, "{differing} bytes of {} differ", plain.len());
        }
    }

    #[test]
    fn a_changed_byte_changes_its_block_and_no_other() {
        let mut stored = vec![0; PAGE];
        schedule(1).encrypt(0, &[0; PAGE], &mut stored);
        for changed in [32, 40, 47] {
            let mut torn = stored.clone();
            torn[changed] ^= 1;
            schedule(1).decrypt_in_place(0, &mut torn);
            assert_eq!(torn[..32], [0; 32]);
            assert!(differing(&torn[32..48], &[0; 16]) >= 12, "{:?}", &torn[32..48]);
            assert_eq!(torn[48..], [0; PAGE - 48]);
        }
    }
}
