//! One value on heap pages of its own that are locked, for secrets that are no plain bytes.
//!
//! The types of the `aes` crate hold their round keys themselves, and safe Rust places a value only on the stack or the
//! heap. So the value gets whole pages of the heap, by alignment and size, and those are locked while it lives: no
//! other value shares them, so that unlocking them unlocks nothing else. Unlike those of
//! [`SecretBytes`](super::secret::SecretBytes), they are kept out of core files only as all memory of the process is
//! ([`harden`](super::harden)).

use std::fmt;

use zeroize::ZeroizeOnDrop;

use super::memlock;
use crate::Result;

/// A `T` that is never swapped out, where the system lets memory be locked, and is zeroized in place.
pub(super) struct Locked<T: ZeroizeOnDrop>(Box<Pages<T>>);

/// As large as the largest pages of the architecture; the system's may be smaller.
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(align(65536)))]
struct Pages<T> {
    // Dropped in this order: zeroized, unlocked, and only then given back to the heap.
    value: Option<T>,
    lock: Option<region::LockGuard>,
}

impl<T: ZeroizeOnDrop> Locked<T> {
    /// Holds what `make` gives. The pages are locked before; on its way there the value is on the stack, which the
    /// caller wipes.
    pub(super) fn new(make: impl FnOnce() -> T) -> Result<Self> {
        let mut pages = Box::new(Pages { value: None, lock: None });
        match region::lock(&raw const pages.value, size_of_val(&pages.value)) {
            Ok(lock) => pages.lock = Some(lock),
            Err(error) => memlock::not_locked(&error)?,
        }
        pages.value = Some(make());
        Ok(Self(pages))
    }

    pub(super) fn get(&self) -> &T {
        self.0.value.as_ref().expect("filled when it was made")
    }
}

impl<T: ZeroizeOnDrop> fmt::Debug for Locked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroize;

    use super::*;
    use crate::crypto::secret::tests::Mapping;

    #[derive(ZeroizeOnDrop)]
    struct Secret([u8; 720]);

    #[test]
    fn every_value_has_locked_pages_of_its_own() {
        let values: Vec<_> = (1..=8).map(|byte| Locked::new(|| Secret([byte; 720])).unwrap()).collect();
        let mut pages: Vec<_> = values.iter().map(|value| value.get().0.as_ptr() as usize / 4096).collect();
        for (value, byte) in values.iter().zip(1..) {
            assert_eq!(value.get().0, [byte; 720]);
            assert!(Mapping::of(value.get().0.as_ptr()).is_locked());
        }
        pages.dedup();
        assert_eq!(pages.len(), values.len());

        // One that goes takes no other's lock along.
        let mut values = values;
        values.swap_remove(3);
        for value in &values {
            assert!(Mapping::of(value.get().0.as_ptr()).is_locked());
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let mut secret = [0xAB; 720];
        assert_eq!(format!("{:?}", Locked::new(|| Secret(secret)).unwrap()), "Locked(redacted)");
        secret.zeroize();
    }
}
