//! Shared and exclusive locks over page ranges.
//!
//! The blob is cut into runs of `stripe_pages` pages that share a fixed number of locks in turn. Reads lock shared,
//! changes exclusive, taken in stripe-index order and each once, so that two holders never wait for each other in a
//! circle. Needed because a buffered read is not atomic against a concurrent write on every file system, and because a
//! reader must not meet a punch.

use std::ops::Range;

use smallvec::SmallVec;

use crate::io::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) type Shared<'a> = SmallVec<[RwLockReadGuard<'a, ()>; 2]>;
pub(crate) type Exclusive<'a> = SmallVec<[RwLockWriteGuard<'a, ()>; 2]>;

#[derive(Debug)]
pub(crate) struct RangeLock {
    stripes: Box<[RwLock<()>]>,
    stripe_pages: u64,
}

impl RangeLock {
    pub(crate) fn new(stripes: usize, stripe_pages: u64) -> Self {
        assert!(stripes > 0 && stripe_pages > 0, "range lock without stripes");
        Self { stripes: (0..stripes).map(|_| RwLock::new(())).collect(), stripe_pages }
    }

    /// The locks of a range, in index order. An empty range has none.
    fn of(&self, pages: Range<u64>) -> impl Iterator<Item = &RwLock<()>> {
        let count = self.stripes.len() as u64;
        let first = pages.start / self.stripe_pages;
        let spanned = if pages.is_empty() { 0 } else { (pages.end - 1) / self.stripe_pages - first + 1 };
        let start = first % count;
        // `spanned` locks from `start` on, wrapping: those that wrap come first in index order.
        let (wrapped, end) = if spanned >= count {
            (count, 0)
        } else {
            ((start + spanned).saturating_sub(count), (start + spanned).min(count))
        };
        self.stripes[..wrapped as usize].iter().chain(self.stripes.get(start as usize..end as usize).unwrap_or(&[]))
    }

    pub(crate) fn shared(&self, pages: Range<u64>) -> Shared<'_> {
        self.of(pages).map(RwLock::read).collect()
    }

    pub(crate) fn exclusive(&self, pages: Range<u64>) -> Exclusive<'_> {
        self.of(pages).map(RwLock::write).collect()
    }

    pub(crate) fn try_shared(&self, pages: Range<u64>) -> Option<Shared<'_>> {
        self.of(pages).map(RwLock::try_read).collect()
    }

    pub(crate) fn try_exclusive(&self, pages: Range<u64>) -> Option<Exclusive<'_>> {
        self.of(pages).map(RwLock::try_write).collect()
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use super::*;

    #[test]
    fn each_stripe_once_and_in_order() {
        let lock = RangeLock::new(4, 8);
        let index = |lock: &RangeLock, range: Range<u64>| -> Vec<usize> {
            lock.of(range).map(|stripe| lock.stripes.iter().position(|s| std::ptr::eq(s, stripe)).unwrap()).collect()
        };
        assert_eq!(index(&lock, 0..1), [0]);
        assert_eq!(index(&lock, 7..9), [0, 1]);
        assert_eq!(index(&lock, 24..40), [0, 3]);
        assert_eq!(index(&lock, 16..41), [0, 1, 2, 3]);
        assert_eq!(index(&lock, 0..1 << 34), [0, 1, 2, 3]);
        assert_eq!(index(&lock, 9..9), [0; 0]);
    }

    #[test]
    fn overlap_excludes_and_distance_does_not() {
        let lock = RangeLock::new(4, 8);
        let held = lock.exclusive(0..8);
        assert!(lock.try_shared(7..8).is_none());
        assert!(lock.try_shared(8..16).is_some());
        drop(held);
        let reading = lock.shared(0..8);
        assert!(lock.try_shared(0..8).is_some());
        assert!(lock.try_exclusive(0..8).is_none());
        drop(reading);
        assert!(lock.try_exclusive(0..8).is_some());
    }
}
