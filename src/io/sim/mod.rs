//! A simulated disk behind the file seam: what the production core sees of a kernel, a file system and a device whose
//! power may go at any moment. Compiled under `--cfg sealdisk_sim` alone.
//!
//! What it promises is what POSIX and Linux promise and no more, so that a core that survives it needs no luck:
//!
//! - content (`content.rs`): every 512-byte sector keeps its durable version and all later, un-synced ones. A power
//!   cut leaves any of them, each sector (or each 4,096-byte block) for itself. Punches, sizes and allocation are
//!   un-synced changes like writes. [`File::sync_data`](super::File::sync_data) makes durable what was written before
//!   it *began*;
//! - names (`names.rs`): created, renamed or removed names are durable after the directory's own sync. Before it, a
//!   power cut leaves any subset in which a kept change to a name brings all earlier changes of that name along. A sync
//!   of the file system is one of all its directories, and of no content;
//! - faults (`fault.rs`): short transfers, `EINTR`, `EIO` and `ENOSPC` at the Nth call or at random. A failed sync is
//!   reported once per open file: the sectors it lost count as clean, the cache goes on showing the new content until
//!   it is dropped, and the next sync succeeds. A failed sync of a directory is reported once, to who asked for it: the
//!   next succeeds, and makes nothing good of what was lost for who had the directory open then;
//! - the end (`state.rs`): [`SimDisk::power_cut`] makes one possible disk after a power cut, [`SimDisk::kill`] the one
//!   after the death of the process, where the page cache survives and is still volatile.
//!
//! Deterministic: every random choice comes from one seed, so do the keys and ids of the account, where a test runs it
//! in [`seeded`] (`seeded.rs`), every call is a scheduling point of `shuttle`, and an
//! observer runs at every call, which is where the harness cuts the power.

use std::cell::Cell;

mod content;
mod digest;
mod dir;
mod disk;
mod fault;
mod file;
mod mutant;
mod names;
mod rng;
mod seeded;
mod state;

pub use digest::{Digest, digested};
pub use disk::SimDisk;
pub use fault::{Call, Fault, Faults, Fired};
pub use mutant::{Mutant, mutant, plant};
pub use rng::SimRng;
pub(super) use seeded::fill;
pub use seeded::{seconds, seeded};
pub use state::{RawFile, Tear};

thread_local! {
    static DIRECT: Cell<u32> = const { Cell::new(0) };
}

/// Runs `work` outside the scheduler: no scheduling points, and locks that never wait. For one thread that works alone
/// on disks of its own, inside an execution of `shuttle` or outside.
pub fn direct<R>(work: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DIRECT.set(DIRECT.get() - 1);
        }
    }
    DIRECT.set(DIRECT.get() + 1);
    let _leave = Leave;
    work()
}

/// Whether this thread is inside [`direct`].
#[must_use]
pub fn is_direct() -> bool {
    DIRECT.get() > 0
}

/// A scheduling point: any other task may run here.
pub fn point() {
    if !is_direct() {
        shuttle::thread::yield_now();
    }
}
