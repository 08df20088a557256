//! The cipher on AVX-512 with VAES and VPCLMULQDQ: four blocks a register, eight registers a page.
//!
//! One of the two files of the crate with `unsafe`. What it rests on: a [`Schedule`] exists only on a machine that has
//! every feature of [`supported`], and the public functions derive their pointers and lengths from slices.
//!
//! How it gets near the bound that the AES rounds set (14 a register, 112 a page, and 14 for four tweaks):
//! - four page numbers are encrypted in one register, a group of four pages ahead of their use;
//! - the tweaks of the next page are computed between the rounds of this one, on ports the rounds leave idle;
//! - all 32 tweaks of a page come from two registers by a byte shift and one carry-less multiplication each, so that
//!   there is no chain from block to block;
//! - the first whitening is part of the load (one three-way XOR with tweak and first round key), the last part of the
//!   last round key.
//!
//! Stores are ordinary ones: what was just encrypted or decrypted is about to be written or sent.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::*;

use crate::crypto::secret::SecretBytes;
use crate::{PAGE, Result};

/// Rounds of AES-256, and round keys less one.
const ROUNDS: usize = 14;
/// Registers of 64 bytes in a page.
const LINES: usize = PAGE / 64;
/// Page numbers encrypted at once: one a 128-bit lane.
const GROUP: usize = 4;

type RoundKeys = [[u8; 16]; ROUNDS + 1];
type Page = [__m512i; LINES];

/// Round keys of both directions and of the tweak, one set after the other. Only made where [`supported`] holds.
pub(super) struct Schedule(SecretBytes);

/// Sets of round keys in a [`Schedule`].
const SETS: usize = 3;

/// Whether this machine has all that the functions here use.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("aes")
}

impl Schedule {
    /// `None` where the machine lacks a feature. Expanded in place, so that no copy of a round key is left elsewhere.
    pub(super) fn new(key: &[u8; 64]) -> Result<Option<Self>> {
        if !supported() {
            return Ok(None);
        }
        let mut bytes = SecretBytes::zeroed(SETS * size_of::<RoundKeys>())?;
        let (blocks, _) = bytes.expose_mut().as_chunks_mut();
        let [encrypt, decrypt, tweak] = blocks.as_chunks_mut().0 else { unreachable!("memory for three sets") };
        let (halves, _) = key.as_chunks::<32>();
        // SAFETY: `supported` just said that the features are there.
        unsafe {
            expand(&halves[0], encrypt);
            expand(&halves[1], tweak);
            invert(encrypt, decrypt);
        }
        Ok(Some(Self(bytes)))
    }

    /// For encryption, decryption and tweaks.
    fn sets(&self) -> &[RoundKeys; SETS] {
        let (blocks, _) = self.0.expose().as_chunks();
        blocks.as_chunks().0.first_chunk().expect("memory for three sets")
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> *const u8 {
        self.0.expose().as_ptr()
    }

    pub(super) fn encrypt(&self, first_page: u64, src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len());
        let pages = src.len() / PAGE;
        let [encrypt, _, tweak] = self.sets();
        // SAFETY: a schedule exists, so the features are there; both slices hold at least `pages` pages.
        unsafe { run::<true>(encrypt, tweak, first_page, src.as_ptr(), dst.as_mut_ptr(), pages) }
    }

    pub(super) fn decrypt_in_place(&self, first_page: u64, data: &mut [u8]) {
        let pages = data.len() / PAGE;
        let data = data.as_mut_ptr();
        let [_, decrypt, tweak] = self.sets();
        // SAFETY: a schedule exists, so the features are there; the slice holds at least `pages` pages.
        unsafe { run::<false>(decrypt, tweak, first_page, data, data, pages) }
    }

    /// The rounds of data alone, on whole pages in place: what the tweaks add is measured against this.
    #[cfg(feature = "bench")]
    pub(super) fn rounds_alone(&self, data: &mut [u8]) {
        let (pages, _) = data.as_chunks_mut::<PAGE>();
        // SAFETY: a schedule exists, so the features are there.
        unsafe { rounds_alone(&self.sets()[0], pages) }
    }
}

/// The key expansion of FIPS 197 section 5.2.
#[target_feature(enable = "aes,ssse3")]
fn expand(key: &[u8; 32], keys: &mut RoundKeys) {
    let (halves, _) = key.as_chunks::<16>();
    keys[..2].copy_from_slice(halves);
    let mut round_constant = 1;
    for i in 2..=ROUNDS {
        let (older, newer) = (load_block(&keys[i - 2]), load_block(&keys[i - 1]));
        // AESENCLAST on four equal columns is SubWord and the addition of the constant: ShiftRows moves nothing.
        let word = if i % 2 == 0 {
            let rotated = _mm_shuffle_epi8(newer, _mm_set1_epi32(0x0c0f_0e0d));
            let word = _mm_aesenclast_si128(rotated, _mm_set1_epi32(round_constant));
            round_constant <<= 1;
            word
        } else {
            _mm_aesenclast_si128(_mm_shuffle_epi32::<0xff>(newer), _mm_setzero_si128())
        };
        // Each word is XORed with all before it.
        let pairs = _mm_xor_si128(older, _mm_slli_si128::<4>(older));
        let prefix = _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs));
        store_block(&mut keys[i], _mm_xor_si128(prefix, word));
    }
}

/// The round keys of the equivalent inverse cipher (FIPS 197 section 5.3.5).
#[target_feature(enable = "aes")]
fn invert(encrypt: &RoundKeys, decrypt: &mut RoundKeys) {
    for (i, (key, inverse)) in encrypt.iter().rev().zip(decrypt).enumerate() {
        let key = load_block(key);
        store_block(inverse, if i == 0 || i == ROUNDS { key } else { _mm_aesimc_si128(key) });
    }
}

/// A round of the eight registers of a page. In assembly to keep the rounds in their order: written with intrinsics,
/// LLVM sinks whole chains of rounds, and all of the arithmetic between them, behind the stores, where they wait for
/// each other. `$between`, what was computed since the round before, is only named, so that it is computed there.
macro_rules! round {
    ($op:literal, $key:expr, $x:ident $(, $between:ident)?) => {{
        let [x0, x1, x2, x3, x4, x5, x6, x7] = &mut $x;
        // SAFETY: changes only the registers it names.
        unsafe {
            asm!(
                concat!($op, " {x0}, {x0}, {key}"),
                concat!($op, " {x1}, {x1}, {key}"),
                concat!($op, " {x2}, {x2}, {key}"),
                concat!($op, " {x3}, {x3}, {key}"),
                concat!($op, " {x4}, {x4}, {key}"),
                concat!($op, " {x5}, {x5}, {key}"),
                concat!($op, " {x6}, {x6}, {key}"),
                concat!($op, " {x7}, {x7}, {key}"),
                $("/* {between} */", between = inout(zmm_reg) $between,)?
                key = in(zmm_reg) $key,
                x0 = inout(zmm_reg) *x0,
                x1 = inout(zmm_reg) *x1,
                x2 = inout(zmm_reg) *x2,
                x3 = inout(zmm_reg) *x3,
                x4 = inout(zmm_reg) *x4,
                x5 = inout(zmm_reg) *x5,
                x6 = inout(zmm_reg) *x6,
                x7 = inout(zmm_reg) *x7,
                options(nomem, nostack, preserves_flags),
            );
        }
    }};
}

/// Encrypts or decrypts `pages` whole pages from `src` to `dst`.
///
/// # Safety
/// `src` must be valid for reads and `dst` for writes of `pages * 512` bytes; they may be equal, but must not overlap
/// otherwise.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes")]
unsafe fn run<const ENCRYPT: bool>(
    keys: &RoundKeys,
    tweak_keys: &RoundKeys,
    first_page: u64,
    src: *const u8,
    dst: *mut u8,
    pages: usize,
) {
    if pages == 0 {
        return;
    }
    // Lane n: page number first_page + n, 128-bit little-endian.
    let first = _mm512_maskz_set1_epi64(0b0101_0101, first_page.cast_signed());
    let mut numbers = _mm512_add_epi64(first, _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0));
    let step = _mm512_maskz_set1_epi64(0b0101_0101, GROUP as i64);
    let mut group = encrypt_numbers(tweak_keys, numbers);
    let mut ahead = group;
    let mut tweaks = tweaks(lane0(group));
    for n in 0..pages {
        // SAFETY: page n is in the run.
        let at = unsafe { (src.add(n * PAGE), dst.add(n * PAGE)) };
        group = if n % GROUP == GROUP - 1 { ahead } else { _mm512_alignr_epi64::<2>(group, group) };
        let next = lane0(group);
        // SAFETY: as above.
        tweaks = unsafe {
            if n % GROUP == 0 && pages - n > GROUP {
                numbers = _mm512_add_epi64(numbers, step);
                ahead = numbers;
                page::<ENCRYPT, true>(keys, tweak_keys, at, tweaks, next, &mut ahead)
            } else {
                page::<ENCRYPT, false>(keys, tweak_keys, at, tweaks, next, &mut ahead)
            }
        };
    }
}

/// One page, from the tweaks `tweaks` of its blocks. Computes meanwhile the tweaks of the next page from `next`, its
/// encrypted number in every lane, and returns them; and encrypts the page numbers in `numbers` if NUMBERS is set.
///
/// # Safety
/// The first pointer must be valid for reading a page, the second for writing one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes")]
unsafe fn page<const ENCRYPT: bool, const NUMBERS: bool>(
    keys: &RoundKeys,
    tweak_keys: &RoundKeys,
    (src, dst): (*const u8, *mut u8),
    tweaks: Page,
    next: __m512i,
    numbers: &mut __m512i,
) -> Page {
    let whitening = broadcast(&keys[0]);
    let mut x: Page = std::array::from_fn(|i| {
        // SAFETY: eight times 64 bytes are a page; the load needs no alignment.
        let line = unsafe { _mm512_loadu_si512(src.add(i * 64).cast()) };
        xor3(line, tweaks[i], whitening)
    });
    let mut state = *numbers;
    if NUMBERS {
        state = _mm512_xor_si512(state, broadcast(&tweak_keys[0]));
    }
    macro_rules! round_of {
        ($n:literal $(, $between:ident)?) => {
            let key = broadcast(&keys[$n]);
            if ENCRYPT {
                round!("vaesenc", key, x $(, $between)?);
            } else {
                round!("vaesdec", key, x $(, $between)?);
            }
            if NUMBERS {
                state = _mm512_aesenc_epi128(state, broadcast(&tweak_keys[$n]));
            }
        };
    }
    round_of!(1);
    let mut low = times_x_to::<0>(next);
    round_of!(2, low);
    let mut high = times_x_to::<4>(next);
    round_of!(3, high);
    let mut low1 = times_x_to_8::<1, 15>(low);
    round_of!(4, low1);
    let mut high1 = times_x_to_8::<1, 15>(high);
    round_of!(5, high1);
    let mut low2 = times_x_to_8::<2, 14>(low);
    round_of!(6, low2);
    let mut high2 = times_x_to_8::<2, 14>(high);
    round_of!(7, high2);
    let mut low3 = times_x_to_8::<3, 13>(low);
    round_of!(8, low3);
    let mut high3 = times_x_to_8::<3, 13>(high);
    round_of!(9, high3);
    round_of!(10);
    round_of!(11);
    round_of!(12);
    round_of!(13);
    if NUMBERS {
        *numbers = _mm512_aesenclast_epi128(state, broadcast(&tweak_keys[ROUNDS]));
    }
    let last = broadcast(&keys[ROUNDS]);
    for (i, x) in x.into_iter().enumerate() {
        let last = _mm512_xor_si512(tweaks[i], last);
        let line = if ENCRYPT { _mm512_aesenclast_epi128(x, last) } else { _mm512_aesdeclast_epi128(x, last) };
        // SAFETY: eight times 64 bytes are a page; the store needs no alignment.
        unsafe { _mm512_storeu_si512(dst.add(i * 64).cast(), line) };
    }
    [low, high, low1, high1, low2, high2, low3, high3]
}

#[cfg(feature = "bench")]
#[target_feature(enable = "avx512f,vaes")]
fn rounds_alone(keys: &RoundKeys, pages: &mut [[u8; PAGE]]) {
    let (first, last) = (broadcast(&keys[0]), broadcast(&keys[ROUNDS]));
    for page in pages {
        let (lines, _) = page.as_chunks_mut::<64>();
        let mut x: Page = std::array::from_fn(|i| {
            // SAFETY: a line is 64 bytes; the load needs no alignment.
            _mm512_xor_si512(unsafe { _mm512_loadu_si512(lines[i].as_ptr().cast()) }, first)
        });
        for key in &keys[1..ROUNDS] {
            round!("vaesenc", broadcast(key), x);
        }
        for (line, x) in lines.iter_mut().zip(x) {
            // SAFETY: a line is 64 bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_aesenclast_epi128(x, last)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,vaes,aes")]
fn encrypt_numbers(keys: &RoundKeys, numbers: __m512i) -> __m512i {
    let mut state = _mm512_xor_si512(numbers, broadcast(&keys[0]));
    for key in &keys[1..ROUNDS] {
        state = _mm512_aesenc_epi128(state, broadcast(key));
    }
    _mm512_aesenclast_epi128(state, broadcast(&keys[ROUNDS]))
}

/// A round key in every lane. In assembly so that it is loaded here: LLVM would load the keys ahead of the loop and, as
/// they are too many for the registers, leave them on the stack.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(key: &[u8; 16]) -> __m512i {
    let lanes: __m512i;
    // SAFETY: reads 16 bytes behind a reference to as many, at any alignment; changes only the register it names.
    unsafe {
        asm!(
            "vbroadcasti32x4 {lanes}, xmmword ptr [{key}]",
            lanes = lateout(zmm_reg) lanes,
            key = in(reg) key.as_ptr(),
            options(readonly, nostack, preserves_flags),
        );
    }
    lanes
}

/// Lane 0 in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn lane0(group: __m512i) -> __m512i {
    _mm512_shuffle_i32x4::<0>(group, group)
}

/// The tweaks of a page's blocks from its encrypted number in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn tweaks(number: __m512i) -> Page {
    let (low, high) = (times_x_to::<0>(number), times_x_to::<4>(number));
    [
        low,
        high,
        times_x_to_8::<1, 15>(low),
        times_x_to_8::<1, 15>(high),
        times_x_to_8::<2, 14>(low),
        times_x_to_8::<2, 14>(high),
        times_x_to_8::<3, 13>(low),
        times_x_to_8::<3, 13>(high),
    ]
}

/// Lane n multiplied by x^(N+n) in GF(2^128).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_x_to<const N: i64>(value: __m512i) -> __m512i {
    let factor = _mm512_set_epi64(0, 8 << N, 0, 4 << N, 0, 2 << N, 0, 1 << N);
    let (low, high) =
        (_mm512_clmulepi64_epi128::<0x00>(value, factor), _mm512_clmulepi64_epi128::<0x01>(value, factor));
    // What leaves the upper half comes back as x^128 = x^7 + x^2 + x + 1. Multiplications, as shifts share the AES
    // port.
    let reduced = _mm512_clmulepi64_epi128::<0x01>(high, _mm512_set1_epi64(0x87));
    xor3(low, _mm512_bslli_epi128::<8>(high), reduced)
}

/// Every lane multiplied by x^(8N) in GF(2^128); REST is 16 - N.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
fn times_x_to_8<const N: i32, const REST: i32>(value: __m512i) -> __m512i {
    const { assert!(N + REST == 16 && N < 8) };
    let reduced = _mm512_clmulepi64_epi128::<0x00>(_mm512_bsrli_epi128::<REST>(value), _mm512_set1_epi64(0x87));
    _mm512_xor_si512(_mm512_bslli_epi128::<N>(value), reduced)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0b1001_0110>(a, b, c)
}

#[inline]
fn load_block(block: &[u8; 16]) -> __m128i {
    // SAFETY: SSE2 is part of x86-64; the reference is valid for 16 bytes and the load needs no alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
fn store_block(block: &mut [u8; 16], value: __m128i) {
    // SAFETY: SSE2 is part of x86-64; the reference is valid for 16 bytes and the store needs no alignment.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}
