//! Sizes and limits of an open disk, and what it knows of the system.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::commit::{log, rounds};
use super::table::key_usage;
use crate::io::{superblock, system};
use crate::{Error, ErrorKind, Result};

/// Bytes of the first log of an opening, at the most: a disk that is hardly written takes no more.
const FIRST_LOG: u64 = 256 << 10;
/// Extents that may be pending with the smallest log.
const LEAST_EXTENTS: usize = 8;
/// Rounds, roughly, that go into a log which cannot hold as many extents as may be pending.
const ROUNDS_OF_SMALL: usize = 4;

/// Sizes and limits of an open disk. The default is the product's; the simulator uses tiny ones.
#[derive(Clone)]
pub struct Options {
    /// Number of range-lock stripes.
    pub stripes: usize,
    /// Pages in a stripe.
    pub stripe_pages: u64,
    /// Bytes of a log file at the most. The first of an opening is smaller, and one that is kept for the next opening.
    pub log_bytes: u64,
    /// Bytes of the log that a closed disk keeps.
    pub least_log_bytes: u64,
    /// Extents not yet durable after which a writer commits them itself; from half of them on, upkeep does.
    pub pending_extents: usize,
    /// Bytes of records of recent changes (see `volatile`).
    pub recent_bytes: u64,
    /// AES blocks under one data key that are not to be passed; from half of it on the log warns (see `key_usage`).
    pub key_blocks: u64,
    /// What tells this boot of the kernel from any other; `None`: a killed process loses what was not flushed.
    pub boot: Option<[u8; 16]>,
    /// Seconds since the epoch, for records of when a layer was made.
    pub clock: fn() -> u64,
    /// Time since some moment, to tell what syncs cost.
    pub ticks: fn() -> Duration,
    /// Called when [`crate::disk::DiskAdmin::maintain`] has something to do. It must not call the disk: locks may be
    /// held.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stripes: 256,
            stripe_pages: 2048,
            log_bytes: 4 << 20,
            least_log_bytes: 64 << 10,
            pending_extents: 32 << 10,
            recent_bytes: 4 << 20,
            key_blocks: key_usage::LIMIT,
            boot: boot_id(),
            clock: system::seconds,
            ticks,
            wake: Arc::new(|| {}),
        }
    }
}

fn ticks() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// The kernel's own name of this boot. The simulator's kernels have none unless the test gives them one.
fn boot_id() -> Option<[u8; 16]> {
    /// Read once: a confined process no longer can.
    static BOOT: OnceLock<Option<[u8; 16]>> = OnceLock::new();
    if cfg!(sealdisk_sim) {
        return None;
    }
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Uuid::parse_str(text.trim()).ok().map(Uuid::into_bytes)
    })
}

/// Reads what the disks of `account` need to know of the system outside it: to be called before the process is
/// confined.
pub fn remember_system(account: &Path) {
    boot_id();
    superblock::remember(account);
}

/// Bytes of the smallest log in which that many extents may gather before it is turned over.
fn log_bytes_for(extents: usize) -> u64 {
    (2 * log::BLOCK + 3 * (extents * log::EXTENT + rounds::OPS_ROOM + log::BLOCK)).next_multiple_of(log::BLOCK) as u64
}

impl Options {
    /// Bytes of the log that a closed disk keeps.
    pub(crate) fn least_log(&self) -> u64 {
        self.least_log_bytes.min(self.log_bytes)
    }

    /// Bytes of the first log of an opening where there is space.
    pub(crate) fn first_log(&self) -> u64 {
        FIRST_LOG.clamp(self.least_log(), self.log_bytes)
    }

    /// Extents that may be pending with a log of so many bytes.
    pub(crate) fn extents_of(&self, log_bytes: u64) -> usize {
        if log_bytes >= log_bytes_for(self.pending_extents) {
            return self.pending_extents;
        }
        let each = (log_bytes as usize).saturating_sub(2 * log::BLOCK) / 3;
        let most = each.saturating_sub(rounds::OPS_ROOM + log::BLOCK) / log::EXTENT;
        (most / ROUNDS_OF_SMALL).clamp(LEAST_EXTENTS, self.pending_extents)
    }

    /// Bytes of the smallest log in which so many pending extents find room.
    pub(crate) fn least_log_for(&self, pending: usize) -> u64 {
        let sizes = [self.least_log(), self.first_log()];
        sizes.into_iter().find(|&bytes| self.extents_of(bytes) >= pending).unwrap_or(self.log_bytes)
    }

    /// Too small a log could not hold what may gather before it is turned over.
    pub(crate) fn check(&self) -> Result<()> {
        let (least, smallest) = (log_bytes_for(self.pending_extents), log_bytes_for(LEAST_EXTENTS));
        let too_small = self.log_bytes < least || self.least_log_bytes < smallest;
        if self.pending_extents < LEAST_EXTENTS || too_small || self.stripes == 0 || self.stripe_pages == 0 {
            let what = format!("options out of range: a log of {} extents needs {least} bytes", self.pending_extents);
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("log_bytes", &self.log_bytes).finish_non_exhaustive()
    }
}
