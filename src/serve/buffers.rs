//! Buffers of all connections: pooled, and bounded by one budget.
//!
//! Who wants a buffer asks its connection's [`Share`]. A refusal never blocks: the connection then works in the small
//! buffers that are [reserved](RESERVED) for it, or waits for a request of its own to finish. So no client can stall
//! another by holding memory.
//!
//! Buffers are anonymous mappings, so a page that was never used costs nothing and a buffer let go is really gone. They
//! are kept for reuse while any is in use, and all let go when none is.
//!
//! What lies in them is guest data. Once the keys are taken back none of it is to stay: [`Buffers::forget`] overwrites
//! those that nobody uses, those in use are overwritten when they come back, and connections, which see a new
//! [generation](Buffers::generation), give theirs back before they wait for their client again.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use memmap2::MmapMut;
use parking_lot::Mutex;
use zeroize::Zeroize;

use super::limits::Limits;

/// Bytes that a connection may use without asking the [budget](Limits::budget): its receive and its send buffer.
pub(crate) const RESERVED: usize = 64 << 10;
/// Sizes of buffers in bytes.
const CLASSES: [usize; 5] = [4 << 10, 16 << 10, SMALL, LARGE, SENDING];
/// A connection's receive or send buffer: two of them are what is reserved for it.
pub(crate) const SMALL: usize = RESERVED / 2;
/// The receive buffer under load, and the longest piece of a request that is handled at once.
pub(crate) const LARGE: usize = 256 << 10;
/// The send buffer under load: four pieces of reads with their headers. What is sent at once wakes the client once, and
/// it is still small enough to stay in the second-level cache from the disk to the socket.
pub(crate) const SENDING: usize = (512 << 10) + (4 << 10);
/// Bytes of free buffers kept for reuse.
const MAX_FREE: usize = 8 << 20;

/// The pool and the budget of a server.
#[derive(Debug)]
pub(crate) struct Buffers {
    pool: Mutex<Pool>,
    /// Bytes that connections may use together beyond what is reserved for each.
    shared: usize,
    /// Bytes that one connection may use of them.
    share: usize,
    used: AtomicUsize,
    /// Counts how often all was to be forgotten.
    generation: AtomicU64,
    /// Nothing is kept: every buffer that comes back is overwritten.
    forgets: AtomicBool,
}

#[derive(Debug, Default)]
struct Pool {
    free: [Vec<MmapMut>; CLASSES.len()],
    free_bytes: usize,
    leased: usize,
}

impl Buffers {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let reserved = limits.max_connections * RESERVED;
        Arc::new(Self {
            pool: Mutex::default(),
            shared: limits.budget - reserved,
            share: limits.budget / 4 - RESERVED,
            used: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            forgets: AtomicBool::new(false),
        })
    }

    /// Bytes used beyond what is reserved.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be used beyond what is reserved.
    pub(crate) fn limit(&self) -> usize {
        self.shared
    }

    /// Overwrites what clients have left in buffers, and has connections do so with theirs. `from_now_on`: until the
    /// next call no buffer is used again with what is in it.
    pub(crate) fn forget(&self, from_now_on: bool) {
        self.forgets.store(from_now_on, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut pool = self.pool.lock();
        let free = std::mem::take(&mut pool.free);
        pool.free_bytes = 0;
        drop(pool);
        free.into_iter().flatten().for_each(overwrite);
    }

    /// Another one than before: whoever holds a buffer with something in it that is not needed gives it back.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn lease(&self, class: usize) -> Option<MmapMut> {
        let mut pool = self.pool.lock();
        pool.leased += 1;
        if let Some(map) = pool.free[class].pop() {
            pool.free_bytes -= CLASSES[class];
            return Some(map);
        }
        drop(pool);
        let map = MmapMut::map_anon(CLASSES[class]).ok();
        if map.is_none() {
            self.pool.lock().leased -= 1;
        }
        map
    }

    /// Takes back a buffer that was leased in `generation`.
    fn put_back(&self, class: usize, map: MmapMut, generation: u64) {
        let is_kept = generation == self.generation() && !self.forgets.load(Ordering::Relaxed);
        let mut pool = self.pool.lock();
        pool.leased -= 1;
        if !is_kept {
            drop(pool);
            overwrite(map);
        } else if pool.leased == 0 {
            let idle = std::mem::take(&mut pool.free);
            pool.free_bytes = 0;
            drop(pool);
            drop((idle, map));
        } else if pool.free_bytes + CLASSES[class] <= MAX_FREE {
            pool.free_bytes += CLASSES[class];
            pool.free[class].push(map);
        } else {
            drop(pool);
            drop(map);
        }
    }
}

/// Freed memory may be read until it is used again.
fn overwrite(mut map: MmapMut) {
    map.zeroize();
}

/// What one connection holds of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    buffers: Arc<Buffers>,
    held: AtomicUsize,
}

impl Share {
    pub(crate) fn new(buffers: &Arc<Buffers>) -> Arc<Self> {
        Arc::new(Self { buffers: Arc::clone(buffers), held: AtomicUsize::new(0) })
    }

    /// One of the connection's two reserved buffers, of [`SMALL`] bytes. `None`: the system has no memory.
    pub(crate) fn reserved(self: &Arc<Self>) -> Option<Lease> {
        self.lease(SMALL, 0)
    }

    /// A buffer of at least `len` bytes on the budget. `None`: the budget or the system has no memory left.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<Lease> {
        let bytes = *CLASSES.iter().find(|class| **class >= len)?;
        let within = |limit: usize| move |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let buffers = &self.buffers;
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within(buffers.share)).ok()?;
        if buffers.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within(buffers.shared)).is_err() {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let lease = self.lease(bytes, bytes);
        if lease.is_none() {
            self.give_back(bytes);
        }
        lease
    }

    fn lease(self: &Arc<Self>, len: usize, counted: usize) -> Option<Lease> {
        let class = CLASSES.iter().position(|class| *class >= len)?;
        let generation = self.buffers.generation();
        let map = self.buffers.lease(class)?;
        Some(Lease { map: Some(map), class, generation, counted, share: Arc::clone(self) })
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.buffers.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A buffer in use; it goes back to the pool, and its bytes to the budget, when dropped. Its content is undefined.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Taken out by drop only.
    map: Option<MmapMut>,
    class: usize,
    generation: u64,
    counted: usize,
    share: Arc<Share>,
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.share.buffers.put_back(self.class, map, self.generation);
        }
        self.share.give_back(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_a_quarter_and_all_hold_the_whole() {
        let limits = Limits { budget: 16 << 20, max_connections: 32, ..Limits::default() };
        let buffers = Buffers::new(&limits);
        let drain = |share: &Arc<Share>| std::iter::from_fn(|| share.take(LARGE)).collect::<Vec<_>>();
        let shares: Vec<_> = (0..5).map(|_| Share::new(&buffers)).collect();
        let mut leases: Vec<_> = shares.iter().map(drain).collect();
        let bytes = |leases: &Vec<Lease>| leases.len() * LARGE;
        assert_eq!(bytes(&leases[0]), (16 << 20) / 4 - LARGE);
        assert!(leases.iter().map(bytes).sum::<usize>() <= (16 << 20) - 32 * RESERVED);
        assert!(leases[4].len() < leases[0].len(), "the budget bounds all together");
        // What is reserved is there all the same, and what is let go can be taken again.
        let reserved = (shares[4].reserved().unwrap(), shares[4].reserved().unwrap());
        assert_eq!(reserved.0.len() + reserved.1.len(), RESERVED);
        leases[1].clear();
        assert!(shares[4].take(LARGE).is_some());
        drop((leases, reserved));
        assert_eq!(buffers.used(), 0);
        assert_eq!(buffers.pool.lock().free_bytes, 0, "nothing is kept when nothing is in use");
    }

    #[test]
    fn nothing_is_used_again_once_all_is_to_be_forgotten() {
        let buffers = Buffers::new(&Limits::default());
        let share = Share::new(&buffers);
        let held = share.reserved().unwrap();
        let fill = |mut lease: Lease| lease.fill(7);
        let lies_in = |share: &Arc<Share>| share.take(4096).unwrap().contains(&7);
        fill(share.take(4096).unwrap());
        assert!(lies_in(&share), "it is used again as it is");
        // One that lies there, and one that is in use.
        let before = share.take(4096).unwrap();
        let generation = buffers.generation();
        fill(share.take(4096).unwrap());
        buffers.forget(false);
        assert_ne!(buffers.generation(), generation);
        fill(before);
        assert!(!lies_in(&share));
        fill(share.take(4096).unwrap());
        assert!(lies_in(&share), "and from then on as before");
        buffers.forget(true);
        for _ in 0..2 {
            fill(share.take(4096).unwrap());
            assert!(!lies_in(&share));
        }
        buffers.forget(false);
        drop(held);
    }

    #[test]
    fn buffers_are_reused_while_one_is_in_use() {
        let buffers = Buffers::new(&Limits::default());
        let share = Share::new(&buffers);
        let _held = share.reserved().unwrap();
        let first = share.take(4096).unwrap().as_ptr();
        assert_eq!(share.take(4096).unwrap().as_ptr(), first);
        assert!(share.take(SENDING + 1).is_none());
    }
}
