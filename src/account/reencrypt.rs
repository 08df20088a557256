//! Bringing what was stored before under the current data key, in pieces: a verb asks for one after the other and shows
//! how far it is, or a thread of the server does. Either may end at any time; the next one goes on with what is left.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::attachment::Use;
use super::disk_ref::DiskRef;
use super::registry::{Registry, Shared};
use super::under_way::{End, Ticket};
use crate::disk::{Disk, Swept};
use crate::io::mutant;
use crate::{Error, ErrorKind, Result};

/// How long one piece may take.
const PIECE: Duration = Duration::from_millis(100);
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
    /// Bytes that the piece encrypted anew. What is empty in the base stays empty and is not among them.
    #[serde(default)]
    pub stored_bytes: u64,
    /// The disk no longer needs its base, and has let go of it.
    pub base_detached: bool,
    /// The same of a clone and the disk that it was a clone of.
    #[serde(default)]
    pub parent_detached: bool,
}

/// How a sweep is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// Pages read from the base image, or in a clone from another disk, too: the disk then no longer needs it.
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
    fn advance(&self, shared: &Shared, disk: &Disk, mut page: u64) -> Result<Reencrypted> {
        let started = Instant::now();
        let before_bytes = disk.admin().sweep_remaining(self.include_base);
        let mut stored_bytes = 0;
        // Nothing was found since page 0.
        let mut whole = page == 0;
        let next = loop {
            match disk.admin().sweep(page, self.include_base)? {
                Swept::Next { page: next, stored } => {
                    (page, whole, stored_bytes) = (next, false, stored_bytes + stored)
                }
                // Left behind: written in plaintext while this was paused, or sealed by a rotation.
                Swept::End if !whole && disk.admin().sweep_remaining(self.include_base) > 0 => {
                    (page, whole) = (0, true)
                }
                Swept::End => break None,
            }
            // The rate is one of what is stored; what only had to be looked at is bounded by time.
            if started.elapsed() >= PIECE || stored_bytes >= self.piece_bytes() {
                break Some(page);
            }
        };
        let (base_detached, parent_detached) = if next.is_none() { self.finish(shared, disk)? } else { (false, false) };
        let remaining_bytes = disk.admin().sweep_remaining(self.include_base);
        Ok(Reencrypted { next, before_bytes, remaining_bytes, stored_bytes, base_detached, parent_detached })
    }

    /// Emptied layers go, and a base or a parent that nothing reads. Answers whether either went.
    fn finish(&self, shared: &Shared, disk: &Disk) -> Result<(bool, bool)> {
        let had_base = disk.admin().settings().base.is_some();
        let base_detached = self.include_base && had_base && disk.admin().detach_base()?;
        let parent_detached = self.include_base && !had_base && shared.detach(disk)?;
        disk.admin().scrub()?;
        Ok((base_detached, parent_detached))
    }
}

impl Shared {
    /// Detaches a clone from the disk that it is a clone of, where it reads nothing of it any more, and then lets go of
    /// what was kept for it. `false`: it is no clone, or reads from it still.
    fn detach(&self, clone: &Disk) -> Result<bool> {
        if clone.admin().settings().parent.is_none() {
            return Ok(false);
        }
        let _changing = self.change_disks()?;
        let entry = self.all_entries().into_iter().find(|entry| entry.uuid == clone.uuid());
        let (Some(entry), Some(parent)) = (entry, clone.admin().settings().parent) else { return Ok(false) };
        if mutant!(ParentGoneBeforeDetached) {
            *entry.parent.lock() = None;
            self.let_parent_go(&parent);
        }
        if !clone.admin().detach_base()? {
            return Ok(false);
        }
        // Durable by now: only so may anything of the parent go.
        *entry.parent.lock() = None;
        self.let_parent_go(&parent);
        Ok(true)
    }
}

impl Registry {
    /// One piece of a sweep over a disk, from page `page` on.
    pub fn reencrypt(&self, disk: &DiskRef, page: u64, sweep: Sweep) -> Result<Reencrypted> {
        self.check_not_hidden(disk)?;
        sweep.advance(&self.shared, &*self.attach_ref(disk, Use::Reencryption)?, page)
    }

    /// Sweeps a disk on a thread, which ends with the sweep, with the disk, or when the account is closed. It tells the
    /// end of the act that `begun` stands for.
    pub fn reencrypt_detached(&self, name: &DiskRef, sweep: Sweep, begun: Option<Ticket>) -> Result<()> {
        self.check_not_hidden(name)?;
        let disk = self.attach_ref(name, Use::Reencryption)?;
        // What would fail at once is told at once.
        let first = sweep.advance(&self.shared, &disk, 0)?;
        let (kept, uuid) = (disk.keep_open(Use::Reencryption), disk.uuid());
        let (name, shared) = (name.clone(), Arc::downgrade(&self.shared));
        let work = move || {
            let end = run(&shared, uuid, sweep, first.next);
            drop(kept);
            match &end {
                // Told by the account as it is closed, or as the disk is deleted.
                Ok(Ran::Stopped) => return,
                Ok(Ran::ToTheEnd) => tracing::info!(disk = %name, "re-encrypted"),
                Err(error) => tracing::warn!(disk = %name, %error, "re-encryption ended early"),
            }
            if let Some(begun) = begun {
                begun.end(End::of(&end));
            }
        };
        let thread = std::thread::Builder::new()
            .name("reencrypt".into())
            .spawn(work)
            .map_err(|error| Error::io("no thread for re-encryption", error))?;
        self.shared.under_way.keep(thread);
        Ok(())
    }
}

impl Registry {
    /// Snapshots are never re-encrypted, and a hidden disk is nothing else.
    fn check_not_hidden(&self, disk: &DiskRef) -> Result<()> {
        let entry = self.shared.find_entry(disk)?;
        if !self.shared.is_hidden(entry.uuid) {
            return Ok(());
        }
        let clones = self.clones_of(entry.uuid);
        let clone = clones.first().map_or_else(|| "CLONE".to_owned(), |(name, _)| name.to_string());
        let what = format!("the disk @{} is deleted; what is left of it are snapshots that clones read", entry.uuid);
        Err(Error::new(ErrorKind::InvalidInput, what).hint(format!(
            "`sealdisk reencrypt {clone} --include-base` takes over what that clone reads; with its last clone it goes"
        )))
    }
}

/// How a sweep of a thread came to its end.
enum Ran {
    ToTheEnd,
    /// The account is being closed, or the disk is gone.
    Stopped,
}

/// Holds the disk only while it works on it, so that it can be deleted meanwhile.
fn run(shared: &Weak<Shared>, disk: Uuid, sweep: Sweep, mut next: Option<u64>) -> Result<Ran> {
    while let Some(page) = next {
        let started = Instant::now();
        let Some(shared) = shared.upgrade() else { return Ok(Ran::Stopped) };
        let held = if shared.is_hidden(disk) { None } else { shared.attach_open(disk, &Use::Reencryption) };
        let Some(held) = held else { return Ok(Ran::Stopped) };
        let done = match sweep.advance(&shared, &held, page) {
            Ok(piece) => {
                next = piece.next;
                piece.stored_bytes
            }
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Revoked) => {
                let under_way = Arc::clone(&shared.under_way);
                drop((shared, held));
                if under_way.pause(PAUSE) {
                    return Ok(Ran::Stopped);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let under_way = Arc::clone(&shared.under_way);
        drop((shared, held));
        if next.is_some() && under_way.pause(sweep.pace(done).saturating_sub(started.elapsed())) {
            return Ok(Ran::Stopped);
        }
    }
    Ok(Ran::ToTheEnd)
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
