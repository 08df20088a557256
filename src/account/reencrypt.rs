//! Bringing what was stored before under the current data key, in pieces: a verb asks for one after the other and shows
//! how far it is, or a thread of the server does. Either may end at any time; the next one goes on with what is left.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::name::BlobName;
use super::registry::Registry;
use crate::disk::{Disk, Swept};
use crate::{Error, ErrorKind, Result};

/// How long one piece may take.
const PIECE: Duration = Duration::from_millis(100);
/// What one step of the core stores at the most, in bytes.
const STEP_BYTES: u64 = 512 << 10;
/// How often a thread looks whether encryption is on again, or the keys restored.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a sweep stands after a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reencrypted {
    /// The page to go on with; `None`: everything is under the current key.
    pub next: Option<u64>,
    /// Bytes stored in another way before the piece, base pages only where they are asked for.
    pub before_bytes: u64,
    /// The same after it.
    pub remaining_bytes: u64,
    /// The disk no longer needs its base, and has let go of it.
    pub base_detached: bool,
}

/// How a sweep is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// Pages read from the base image too: the disk then no longer needs it.
    pub include_base: bool,
    /// Bytes a second at most.
    pub rate: Option<u64>,
}

impl Sweep {
    /// Bytes of a piece.
    fn piece_bytes(&self) -> u64 {
        let per_piece = |rate: u64| (u128::from(rate) * PIECE.as_millis() / 1000) as u64;
        self.rate.map_or(u64::MAX, per_piece).max(1)
    }

    /// How long a piece of `bytes` has to take for the rate.
    #[must_use]
    pub fn pace(&self, bytes: u64) -> Duration {
        let seconds =
            |rate: u64| Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64).unwrap_or(Duration::MAX);
        self.rate.map_or(Duration::ZERO, seconds).min(Duration::from_secs(60))
    }

    /// One piece, from page `page` on. [`ErrorKind::InUse`] while encryption is off.
    fn advance(&self, disk: &Disk, mut page: u64) -> Result<Reencrypted> {
        let started = Instant::now();
        let before_bytes = disk.sweep_remaining(self.include_base);
        let mut stored = 0;
        // Nothing was found since page 0.
        let mut whole = page == 0;
        loop {
            match disk.sweep(page, self.include_base)? {
                Swept::Next(next) => (page, whole) = (next, false),
                // Left behind: written in plaintext while this was paused, or sealed by a rotation.
                Swept::End if !whole && disk.sweep_remaining(self.include_base) > 0 => (page, whole) = (0, true),
                Swept::End => return self.finish(disk, before_bytes),
            }
            stored += STEP_BYTES;
            if started.elapsed() >= PIECE || stored >= self.piece_bytes() {
                let remaining_bytes = disk.sweep_remaining(self.include_base);
                return Ok(Reencrypted { next: Some(page), before_bytes, remaining_bytes, base_detached: false });
            }
        }
    }

    /// Emptied layers go, and a base that nothing reads.
    fn finish(&self, disk: &Disk, before_bytes: u64) -> Result<Reencrypted> {
        let had_base = disk.settings().base.is_some();
        let base_detached = self.include_base && had_base && disk.detach_base()?;
        disk.scrub()?;
        let remaining_bytes = disk.sweep_remaining(self.include_base);
        Ok(Reencrypted { next: None, before_bytes, remaining_bytes, base_detached })
    }
}

impl Registry {
    /// One piece of a sweep over a disk, from page `page` on.
    pub fn reencrypt(&self, name: &BlobName, page: u64, sweep: Sweep) -> Result<Reencrypted> {
        sweep.advance(&*self.disk(name)?, page)
    }

    /// Sweeps a disk on a thread, which ends with the sweep or with the disk.
    pub fn reencrypt_detached(&self, name: &BlobName, sweep: Sweep) -> Result<()> {
        let disk = self.disk(name)?;
        // What would fail at once is told at once.
        let first = sweep.advance(&disk, 0)?;
        let (name, disk) = (name.clone(), Arc::downgrade(&disk));
        let work = move || match run(&disk, sweep, first.next) {
            Ok(()) => tracing::info!(disk = %name, "re-encrypted"),
            Err(error) => tracing::warn!(disk = %name, %error, "re-encryption ended early"),
        };
        std::thread::Builder::new()
            .name("reencrypt".into())
            .spawn(work)
            .map_err(|error| Error::io("no thread for re-encryption", error))?;
        Ok(())
    }
}

/// Holds the disk only while it works on it, so that it can be deleted meanwhile.
fn run(disk: &Weak<Disk>, sweep: Sweep, mut next: Option<u64>) -> Result<()> {
    while let Some(page) = next {
        let started = Instant::now();
        let Some(held) = disk.upgrade() else { return Ok(()) };
        let done = match sweep.advance(&held, page) {
            Ok(piece) => {
                next = piece.next;
                piece.before_bytes.saturating_sub(piece.remaining_bytes)
            }
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Revoked) => {
                drop(held);
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        drop(held);
        std::thread::sleep(sweep.pace(done).saturating_sub(started.elapsed()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_bounds_pieces_and_sets_their_pace() {
        let free = Sweep { include_base: false, rate: None };
        assert_eq!((free.piece_bytes(), free.pace(1 << 30)), (u64::MAX, Duration::ZERO));
        let slow = Sweep { include_base: false, rate: Some(1 << 20) };
        assert_eq!((slow.piece_bytes(), slow.pace(1 << 19)), ((1 << 20) / 10, Duration::from_millis(500)));
        let none = Sweep { include_base: false, rate: Some(0) };
        assert_eq!((none.piece_bytes(), none.pace(u64::MAX)), (1, Duration::from_secs(60)));
    }
}
