//! The cipher in safe Rust on the `aes` crate.
//!
//! That crate is fast only on many blocks a call (it works on up to 64 side by side), so pages are taken eight at a
//! time: their page numbers are encrypted in one call, their blocks in another. All arithmetic here is free of tables
//! and of branches on secrets; the `aes` crate is constant-time on every target (instructions, or bit-slicing).

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};
use zeroize::ZeroizeOnDrop;

use super::BLOCKS;
use crate::PAGE;

/// Pages a batch: 256 blocks, 4 KiB of tweaks on the stack.
const BATCH: usize = 8;

/// Round keys, to be kept in [`Locked`](crate::crypto::locked::Locked) memory. The `aes` crate zeroizes them; the
/// derive fails to compile should its feature for that be off.
#[derive(ZeroizeOnDrop)]
pub(super) struct Schedule {
    data: Aes256,
    tweak: Aes256Enc,
}

impl Schedule {
    pub(super) fn new(key: &[u8; 64]) -> Self {
        let (data, tweak) = key.split_at(32);
        let [data, tweak]: [&[u8; 32]; 2] =
            [data, tweak].map(|half| half.try_into().expect("half of 64 bytes is 32 bytes"));
        Self { data: Aes256::new(data.into()), tweak: Aes256Enc::new(tweak.into()) }
    }

    pub(super) fn encrypt(&self, first_page: u64, src: &[u8], dst: &mut [u8]) {
        let mut tweaks = [Block::default(); BATCH * BLOCKS];
        let batches = src.chunks(BATCH * PAGE).zip(dst.chunks_mut(BATCH * PAGE));
        for (page, (src, dst)) in (first_page..).step_by(BATCH).zip(batches) {
            let tweaks = self.tweaks(page, &mut tweaks[..src.len() / 16]);
            let (src, dst) = (Block::slice_as_chunks(src).0, Block::slice_as_chunks_mut(dst).0);
            for ((dst, src), tweak) in dst.iter_mut().zip(src).zip(tweaks) {
                *dst = xor(src, tweak);
            }
            self.data.encrypt_blocks(dst);
            for (dst, tweak) in dst.iter_mut().zip(tweaks) {
                *dst = xor(dst, tweak);
            }
        }
    }

    pub(super) fn decrypt_in_place(&self, first_page: u64, data: &mut [u8]) {
        let mut tweaks = [Block::default(); BATCH * BLOCKS];
        for (page, data) in (first_page..).step_by(BATCH).zip(data.chunks_mut(BATCH * PAGE)) {
            let tweaks = self.tweaks(page, &mut tweaks[..data.len() / 16]);
            let data = Block::slice_as_chunks_mut(data).0;
            for (data, tweak) in data.iter_mut().zip(tweaks) {
                *data = xor(data, tweak);
            }
            self.data.decrypt_blocks(data);
            for (data, tweak) in data.iter_mut().zip(tweaks) {
                *data = xor(data, tweak);
            }
        }
    }

    /// Fills `tweaks` for the whole pages from `first_page` on: the page number encrypted, then multiplied by x in
    /// GF(2^128) from block to block (IEEE 1619 section 5.2).
    fn tweaks<'a>(&self, first_page: u64, tweaks: &'a mut [Block]) -> &'a [Block] {
        let pages = tweaks.len() / BLOCKS;
        let mut numbers: [Block; BATCH] =
            std::array::from_fn(|i| u128::from(first_page.wrapping_add(i as u64)).to_le_bytes().into());
        self.tweak.encrypt_blocks(&mut numbers[..pages]);
        for (number, tweaks) in numbers.iter().zip(tweaks.chunks_exact_mut(BLOCKS)) {
            let mut tweak = u128::from_le_bytes(number.0);
            for block in tweaks {
                *block = tweak.to_le_bytes().into();
                // The bit shifted out, spread over a mask: x^128 = x^7 + x^2 + x + 1.
                let carry = ((tweak as i128) >> 127) as u128;
                tweak = (tweak << 1) ^ (carry & 0x87);
            }
        }
        tweaks
    }
}

fn xor(a: &Block, b: &Block) -> Block {
    (u128::from_le_bytes(a.0) ^ u128::from_le_bytes(b.0)).to_le_bytes().into()
}
