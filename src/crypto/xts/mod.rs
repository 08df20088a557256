//! AES-256-XTS (IEEE 1619), one data unit per page.
//!
//! The data unit is the 512-byte page and its tweak is the page's number on the virtual disk, as a 128-bit
//! little-endian integer: the same bytes as dm-crypt's `aes-xts-plain64` with 512-byte sectors. The interface takes a
//! *run* of pages, because the speed is there: a run's tweaks are encrypted side by side, while a call per page would
//! wait for each of them.
//!
//! Invariants:
//! - every backend writes the same bytes; [`self_test`] checks that at program start;
//! - time and memory access depend on the length of the run and on the processor, never on key, page number or data;
//! - an expanded key lies in one allocation of locked memory that is zeroized on drop, so that moving an [`XtsKey`]
//!   leaves no copy.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod selftest;
#[cfg(sealdisk_sim)]
mod tag;

use std::fmt;

use subtle::ConstantTimeEq;

pub use self::selftest::self_test;
use super::locked::Locked;
use crate::{Error, ErrorKind, PAGE, Result};

/// Blocks of the cipher in a page.
const BLOCKS: usize = PAGE / 16;

/// An implementation of the cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Safe Rust on the `aes` crate, which uses the processor's AES instructions where it has them.
    Portable,
    /// x86-64 with AVX-512 (F, BW, VL), VAES and VPCLMULQDQ.
    Avx512,
}

impl Backend {
    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        if Self::Avx512.supported() { Self::Avx512 } else { Self::Portable }
    }

    /// All that this machine has.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx512].into_iter().filter(|backend| backend.supported())
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx512 => "avx512",
        }
    }

    fn supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::supported(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 => false,
        }
    }
}

/// The name of the backend that [`XtsKey::new`] takes, for `--version`.
#[must_use]
pub fn backend_name() -> &'static str {
    if cfg!(sealdisk_sim) { "simulated, no encryption" } else { Backend::detect().name() }
}

/// Bytes of stack that a call into the cipher may use. What is compiled without all optimisations spills more.
const SPILLED: usize = if cfg!(debug_assertions) { 64 << 10 } else { 3 << 10 };

/// Overwrites the stack below the caller, where the cipher that it has just called may have spilled round keys: whether
/// a compiler does is not for the source to say. Some nanoseconds.
#[inline(never)]
pub fn wipe_stack() {
    let mut spilled = [0u8; SPILLED];
    std::hint::black_box(&mut spilled);
}

/// An expanded 64-byte XTS key. Send and Sync; nothing in it changes after construction.
pub struct XtsKey(Schedule);

enum Schedule {
    Portable(Locked<portable::Schedule>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Schedule),
    #[cfg(sealdisk_sim)]
    Tag(tag::Schedule),
}

impl fmt::Debug for XtsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XtsKey(redacted)")
    }
}

impl XtsKey {
    /// Expands `key` (two independent 256-bit halves: data key, then tweak key) for the fastest backend.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the halves are equal, which XTS forbids (FIPS 140-3 IG C.I); compared in
    /// constant time.
    pub fn new(key: &[u8; 64]) -> Result<Self> {
        #[cfg(sealdisk_sim)]
        {
            check_halves(key)?;
            Ok(Self(Schedule::Tag(tag::Schedule::new(key))))
        }
        #[cfg(not(sealdisk_sim))]
        Self::with_backend(key, Backend::detect())
    }

    /// Expands `key` for `backend`, for tests, benchmarks and the self-test.
    ///
    /// # Errors
    /// As [`XtsKey::new`]; [`ErrorKind::Unsupported`] when this machine lacks the backend.
    pub fn with_backend(key: &[u8; 64], backend: Backend) -> Result<Self> {
        check_halves(key)?;
        let schedule = match backend {
            Backend::Portable => Some(Schedule::Portable(Locked::new(|| portable::Schedule::new(key))?)),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => avx512::Schedule::new(key)?.map(Schedule::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 => None,
        };
        let lacking =
            || Error::new(ErrorKind::Unsupported, format!("no XTS backend {} on this machine", backend.name()));
        schedule.map(Self).ok_or_else(lacking)
    }

    /// Encrypts whole pages of `src` into `dst` (equal lengths, multiples of 512 bytes); the first is page
    /// `first_page` of the disk.
    ///
    /// # Panics
    /// When the lengths break that contract, or the run passes page 2^64 - 1: both are faults of the caller.
    pub fn encrypt(&self, first_page: u64, src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len(), "source and destination of a run differ in length");
        assert_run(first_page, src.len());
        match &self.0 {
            Schedule::Portable(schedule) => schedule.get().encrypt(first_page, src, dst),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx512(schedule) => schedule.encrypt(first_page, src, dst),
            #[cfg(sealdisk_sim)]
            Schedule::Tag(schedule) => schedule.encrypt(first_page, src, dst),
        }
    }

    /// Decrypts whole pages (a multiple of 512 bytes); the first is page `first_page` of the disk.
    ///
    /// # Panics
    /// As [`XtsKey::encrypt`].
    pub fn decrypt_in_place(&self, first_page: u64, data: &mut [u8]) {
        assert_run(first_page, data.len());
        match &self.0 {
            Schedule::Portable(schedule) => schedule.get().decrypt_in_place(first_page, data),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx512(schedule) => schedule.decrypt_in_place(first_page, data),
            #[cfg(sealdisk_sim)]
            Schedule::Tag(schedule) => schedule.decrypt_in_place(first_page, data),
        }
    }

    /// The AES rounds of whole pages without any mode around them (ECB), as the AVX-512 kernel does them: a bound for
    /// `benches/xts.rs`. `false` for other backends.
    #[cfg(feature = "bench")]
    #[doc(hidden)]
    pub fn rounds_alone(&self, data: &mut [u8]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Schedule::Avx512(schedule) = &self.0 {
            schedule.rounds_alone(data);
            return true;
        }
        let _ = data;
        false
    }
}

fn check_halves(key: &[u8; 64]) -> Result<()> {
    let (data, tweak) = key.split_at(32);
    if bool::from(data.ct_eq(tweak)) {
        return Err(Error::new(ErrorKind::InvalidInput, "the two halves of an XTS key are equal"));
    }
    Ok(())
}

fn assert_run(first_page: u64, len: usize) {
    assert!(len.is_multiple_of(PAGE), "a run of {len} bytes is no whole number of pages");
    assert!(first_page.checked_add((len / PAGE) as u64).is_some(), "a run passes the last page number");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::tests::Mapping;

    fn key() -> [u8; 64] {
        std::array::from_fn(|i| i as u8)
    }

    #[test]
    fn equal_halves_are_refused() {
        let mut key = key();
        key.copy_within(..32, 32);
        assert_eq!(XtsKey::new(&key).unwrap_err().kind(), ErrorKind::InvalidInput);
        for backend in Backend::available() {
            assert_eq!(XtsKey::with_backend(&key, backend).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        key[63] ^= 1;
        XtsKey::new(&key).unwrap();
    }

    #[test]
    fn round_keys_lie_in_locked_memory() {
        for backend in Backend::available() {
            let key = XtsKey::with_backend(&key(), backend).unwrap();
            let round_keys = match &key.0 {
                Schedule::Portable(schedule) => std::ptr::from_ref(schedule.get()).cast::<u8>(),
                #[cfg(all(target_arch = "x86_64", not(sealdisk_sim)))]
                Schedule::Avx512(schedule) => schedule.address(),
                #[cfg(sealdisk_sim)]
                _ => continue,
            };
            assert!(Mapping::of(round_keys).is_locked(), "{}", backend.name());
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", XtsKey::new(&key()).unwrap()), "XtsKey(redacted)");
    }

    #[test]
    #[should_panic(expected = "no whole number of pages")]
    fn a_part_of_a_page_is_refused() {
        XtsKey::new(&key()).unwrap().decrypt_in_place(0, &mut [0; 513]);
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn unequal_lengths_are_refused() {
        XtsKey::new(&key()).unwrap().encrypt(0, &[0; 512], &mut [0; 1024]);
    }

    #[test]
    #[should_panic(expected = "passes the last page number")]
    fn page_numbers_do_not_wrap() {
        XtsKey::new(&key()).unwrap().decrypt_in_place(u64::MAX, &mut [0; 1024]);
    }
}
