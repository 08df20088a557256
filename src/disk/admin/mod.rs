//! The verbs of a disk: its snapshots, its size, its keys, and looking at what is really stored.

mod audit;
mod resize;
mod snapshots;
mod sweep;
mod verify;

use std::sync::Arc;

pub use self::audit::Audited;
pub use self::sweep::Swept;
use super::commit::log::Snapshot;
use super::stack::diff::Change;
use super::stack::report::{Inherited, KeyUsage, LayerUsage, Stored};
use super::stack::stats::DiskStats;
use super::table::settings::DiskSettings;
use super::{Disk, Usage};
use crate::Result;
use crate::base::{BaseImage, BaseRecord, DeletedFile};
use crate::crypto::keyring::DiskKeys;
use crate::crypto::secret::SecretBytes;

/// All that an open disk can be asked and told besides reading and writing: for who keeps disks, not for who serves
/// one. Of a snapshot it is the disk of that; what changes something fails with [`crate::ErrorKind::ReadOnly`] there.
#[derive(Debug, Clone, Copy)]
pub struct DiskAdmin<'a>(pub(super) &'a Disk);

impl DiskAdmin<'_> {
    /// A copy of the disk's settings as they are now.
    pub fn settings(&self) -> DiskSettings {
        self.0.core.settings()
    }

    /// Gives the disk another name; that it is unique is the caller's business.
    pub fn rename(&self, name: &str) -> Result<()> {
        self.0.check_live()?;
        self.0.core.rename(name)
    }

    /// Records another place, or more about the identity, of the same base image, and reads from `image` from now on.
    pub fn set_base(&self, base: BaseRecord, image: Arc<dyn BaseImage>) -> Result<()> {
        self.0.check_live()?;
        self.0.core.set_base(base, image)
    }

    /// Changes `parent`, `hidden` or `unfinished` of the settings, as one replacement of their file.
    pub fn change_settings(&self, change: impl FnOnce(&mut DiskSettings)) -> Result<()> {
        self.0.check_live()?;
        self.0.core.change_settings(change)
    }

    /// Lets go of a base, or of the disk that this one is a clone of, where neither the disk nor a snapshot reads it
    /// any more. Durable when this returns. `false`: something does.
    pub fn detach_base(&self) -> Result<bool> {
        self.0.check_live()?;
        self.0.core.detach_base()
    }

    /// Looks at the files of its base, as [`crate::base::BaseImage::check`].
    pub fn check_base(&self) -> Result<Option<DeletedFile>> {
        self.0.core.base().map_or(Ok(None), |base| base.check())
    }

    /// Makes the disk `size` bytes long, a multiple of 512. What a shrink cuts off is gone for good.
    pub fn resize(&self, size: u64) -> Result<()> {
        self.0.check_live()?;
        self.0.core.resize(size)
    }

    /// [`crate::ErrorKind::NoSpace`] while the file system is too full for what wants a new layer, and
    /// [`crate::ErrorKind::LimitExceeded`] where the disk may have no further one: to be asked before the switch is
    /// turned.
    pub fn check_room(&self) -> Result<()> {
        self.0.core.check_room()?;
        self.settings().check_layers(self.0.core.dir.path())
    }

    /// How new writes are stored from now on; the caller has made the account's setting durable. Waits for the
    /// changes in flight and touches nothing stored.
    pub fn set_encryption(&self, on: bool) {
        self.0.core.set_encryption(on);
    }

    /// From now on new writes are stored under a fresh data key.
    pub fn rotate_key(&self) -> Result<()> {
        self.0.check_live()?;
        self.0.core.rotate_key()
    }

    /// Goes over to the current account key of `keys`, which also know the one in force until now. Once this returns
    /// `Ok` nothing of the disk needs that one any more; else, and after a crash, it is to be called again.
    pub fn rekey(&self, keys: DiskKeys) -> Result<()> {
        self.0.core.rekey(keys)
    }

    /// The 64 bytes of the data key of an encrypted layer, for an auditor. [`crate::ErrorKind::NotFound`]: no such
    /// layer.
    pub fn reveal_key(&self, layer: u32) -> Result<SecretBytes> {
        self.0.core.reveal_key(layer)
    }

    /// Admits nothing any more, reads neither: from here on everything fails with [`crate::ErrorKind::Revoked`]. Waits
    /// for what is in flight. To be followed by [`DiskAdmin::final_flush`] within the time that is allowed, then
    /// [`DiskAdmin::forget_keys`].
    pub fn suspend(&self) {
        self.0.core.suspend();
    }

    /// The last flush of a barred disk.
    pub fn final_flush(&self) -> Result<()> {
        self.0.core.flush_unchecked()
    }

    /// Lets go of every key; the last to hold one zeroizes it. What was not flushed stays pending.
    pub fn forget_keys(&self) {
        self.0.core.forget_keys();
    }

    /// Takes the keys again and serves. [`crate::ErrorKind::Corrupt`]: they do not unwrap this disk's data keys.
    pub fn resume(&self, keys: DiskKeys) -> Result<()> {
        self.0.core.resume(keys)
    }

    /// One step of bringing what was stored before under the current key, from page `page` on; with `include_base` the
    /// pages read from the base too. [`crate::ErrorKind::InUse`] while encryption is off.
    pub fn sweep(&self, page: u64, include_base: bool) -> Result<Swept> {
        self.0.check_live()?;
        self.0.core.sweep(page, include_base)
    }

    /// Bytes that [`DiskAdmin::sweep`] has still to store.
    pub fn sweep_remaining(&self, include_base: bool) -> u64 {
        self.0.core.sweep_remaining(include_base)
    }

    /// One step of background work: punching what is dead, writing a checkpoint, removing empty layers. `Ok(true)`:
    /// more is left. To be called from a thread of the registry after [`super::Options::wake`].
    pub fn maintain(&self) -> Result<bool> {
        self.0.core.upkeep()
    }

    /// Flushes, then punches all that is dead and makes that durable. Under concurrent changes more may have died by
    /// then: [`DiskAdmin::usage`] says. What no record names stays ([`Usage::unaccounted`]): it is what a crash left of
    /// writes that never were durable, or data of which the records were lost, and nothing tells one from the other.
    pub fn scrub(&self) -> Result<()> {
        self.0.core.scrub(false)
    }

    /// As [`DiskAdmin::scrub`], and punches what no record names, for good.
    pub fn scrub_unaccounted(&self) -> Result<()> {
        self.0.core.scrub(true)
    }

    /// Whether a sync failed, so that no change is taken any more.
    pub fn is_poisoned(&self) -> bool {
        self.0.core.commit.poison().is_set()
    }

    /// Opened after an unclean end: pages that were found in logs and notes.
    pub fn recovered(&self) -> Option<u64> {
        self.0.core.recovered
    }

    /// Numbers for whoever watches the server. `None`: it would wait; ask again.
    pub fn try_stats(&self) -> Option<DiskStats> {
        self.0.core.try_stats()
    }

    /// Counts the whole blob, footer page included.
    pub fn usage(&self) -> Result<Usage> {
        Ok(self.usage_and_keys()?.0)
    }

    /// The same with the pages under each data key, own ones first; together they are `encrypted`.
    pub fn usage_and_keys(&self) -> Result<(Usage, Vec<KeyUsage>)> {
        self.0.core.usage_through()
    }

    /// Bytes that the layers hold, whether the live disk, a snapshot or a clone reads them.
    pub fn stored(&self) -> Stored {
        self.0.core.stored()
    }

    /// In a clone: what it, or a snapshot of it, reads from the layers of other disks.
    pub fn inherited(&self) -> Result<Vec<Inherited>> {
        self.0.core.inherited()
    }

    /// The layers, bottom to top.
    pub fn layers(&self) -> Vec<LayerUsage> {
        self.0.core.layers()
    }

    /// Reads settings, keys, checkpoint and logs again, checks every checksum and MAC, and compares the state they give
    /// with the live one. [`crate::ErrorKind::Corrupt`] says what differs. Changes nothing.
    pub fn verify(&self) -> Result<()> {
        self.0.core.verify()
    }

    /// Looks at what layer `layer` really stores, a piece from page `page` on.
    pub fn audit(&self, layer: u32, page: u64) -> Result<Audited> {
        self.0.core.audit(layer, page)
    }

    /// Creates a snapshot; durable when this returns. What is answered before is in it.
    pub fn create_snapshot(&self, name: &str) -> Result<Snapshot> {
        self.0.check_live()?;
        self.0.core.create_snapshot(name)
    }

    /// Deletes a snapshot; its space comes back in the background.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.0.check_live()?;
        self.0.core.delete_snapshot(name)
    }

    /// Makes the disk what the snapshot sees, size included. Later snapshots and all later changes are gone.
    pub fn roll_back(&self, name: &str) -> Result<()> {
        self.0.check_live()?;
        self.0.core.roll_back(name)
    }

    /// What changed since the snapshot `from` ([`Snapshot::id`]) up to the later one `to`, or up to now.
    pub fn changed_since(&self, from: u32, to: Option<u32>) -> Result<Vec<Change>> {
        self.changed_from(0, usize::MAX, from, to)
    }

    /// The same from page `page` on, at most `limit` runs.
    pub fn changed_from(&self, page: u64, limit: usize, from: u32, to: Option<u32>) -> Result<Vec<Change>> {
        let to = to.map(|id| self.0.core.snapshot_view(|snapshot| snapshot.id == id)).transpose()?;
        self.0.core.changes(from, to, page..u64::MAX, limit)
    }

    /// Keeps only what the snapshots `keep` ([`Snapshot::id`]) see: every other snapshot goes, and the live disk
    /// becomes what the newest of them sees. Durable when this returns; cut off by a crash it is to be called again.
    /// `false`: there was nothing to do. [`crate::ErrorKind::NotFound`]: the disk has not all of them, and nothing is
    /// changed.
    pub fn keep_only(&self, keep: &[u32]) -> Result<bool> {
        self.0.check_live()?;
        self.0.core.keep_only(keep)
    }
}
