//! The core: one page blob, as a stack of layers over an optional base image.
//!
//! A layer is a sparse file of pages stored in one way. Everything that changes how new writes are stored puts a new
//! layer on top; the layers below are never written again, only punched where they are covered. So live bytes are only
//! ever overwritten by bytes under the same key, and no crash can leave a page between two representations.
//!
//! | room | what it holds |
//! |---|---|
//! | `core` | an open disk: its four owners, and the order of their locks |
//! | `stack` | layers, presence, snapshots: reading and changing pages, which layer answers for one, runs and usage |
//! | `commit` | the committer: flush, FUA, the log and its turn-over, checkpoints; what a failed sync forbids |
//! | `table` | disk.toml and the data keys: beginning to write, a new layer, the switch; space held ready |
//! | `volatile` | what a killed process had answered |
//! | `upkeep` | punching, checkpoints, removing layers, in steps |
//! | `admin` | snapshots; growing and shrinking; re-encrypting; what is really stored, against what is said to be |
//! | `create`, `open` | making; opening and recovering |
//! | `numbered`, `transfer` | names that end in a number; whole transfers over the file seam |
//!
//! The core spawns nothing, reads no clock, and knows no NBD. The invariants, numbered 1 to 9, stand where they are
//! kept; `docs/durability.md` has them together, with the argument why they hold.

mod admin;
mod commit;
mod core;
mod create;
mod numbered;
mod open;
mod options;
mod stack;
mod table;
mod transfer;
mod upkeep;
mod volatile;

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod key_tests;
#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod life_tests;
#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod reopen_tests;
#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod report_tests;
#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests;

use std::sync::Arc;

use uuid::Uuid;

pub use self::admin::{Audited, DiskAdmin, Swept};
pub use self::commit::log::Snapshot;
use self::core::Core;
pub(crate) use self::create::check_size;
pub use self::options::{Options, remember_system};
pub(crate) use self::stack::data_read::{DataRead, Hole};
pub use self::stack::diff::Change;
pub use self::stack::report::{Inherited, KeyUsage, LayerUsage, Stored};
use self::stack::resolve::View;
pub use self::stack::stats::DiskStats;
use self::table::key_slots;
pub use self::table::settings::{DiskSettings, Kind, LayerRecord, Parent, Unfinished};
use crate::base::{BaseImage, BaseRecord};
use crate::crypto::keyring::DiskKeys;
use crate::io::Dir;
use crate::{Error, ErrorKind, PAGE, Result};
pub use table::layer_table::check_room;

/// Whether a change must be on stable storage before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Volatile until the next flush.
    Volatile,
    /// Force unit access.
    Fua,
}

/// How the pages of a run are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageState {
    /// Read from the base image (`allocated` as the image's own format says).
    Base { allocated: bool },
    /// In plaintext in a layer.
    Plain,
    /// Under a layer's data key.
    Encrypted,
    /// Stored nowhere: reads as zeros.
    Zero,
    /// In a layer of another disk, which this one is a clone of.
    Inherited { disk: Uuid, layer: u32, encrypted: bool },
}

/// A run of pages in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First page.
    pub start: u64,
    /// Length in pages.
    pub pages: u64,
    pub state: PageState,
    /// The layer that holds it (or holds it as zero), if any.
    pub layer: Option<u32>,
    /// Layers between the top and the one that answers: 1 is the top; 0 for what no layer holds.
    pub depth: u32,
}

/// What a new disk is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    pub uuid: Uuid,
    /// `CONTAINER/BLOB`.
    pub name: String,
    /// Bytes of the disk, a multiple of 512, without the footer page that is added.
    pub size: u64,
    pub base: Option<BaseRecord>,
    /// Of a clone; then there is no `base`.
    pub parent: Option<Parent>,
    /// A copy is about to be made into it.
    pub unfinished: Option<Unfinished>,
}

impl Spec {
    /// An empty disk of `size` bytes.
    #[must_use]
    pub fn new(uuid: Uuid, name: impl Into<String>, size: u64) -> Self {
        Self { uuid, name: name.into(), size, base: None, parent: None, unfinished: None }
    }
}

/// How a disk is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    /// Changes nothing in the account, not even after a crash.
    ReadOnly,
}

/// Bytes of a disk by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub base: u64,
    pub plain: u64,
    pub encrypted: u64,
    pub zero: u64,
    /// Bytes no longer reachable but not yet punched; `None`: not known yet after an unclean end.
    pub pending_scrub: Option<u64>,
    /// Bytes stored that no record names, which [`DiskAdmin::scrub`] leaves alone: all of them where `pending_scrub` is
    /// known.
    pub unaccounted: u64,
}

/// Destroys the wrapped data keys of the closed disk in `dir`: overwritten where they lie, synced, read back, unlinked.
/// What is encrypted there cannot be read again, with whatever key. Asked for again after a crash it finishes.
pub fn erase_keys(dir: &dyn Dir) -> Result<()> {
    key_slots::KeySlots::destroy(dir)
}

/// The file of a disk's wrapped data keys.
pub(crate) const KEYS: &str = key_slots::FILE;

/// Whether the disk in `dir` has wrapped data keys; where that cannot be looked at, it may.
pub fn has_keys(dir: &dyn Dir) -> bool {
    let opened = dir.open(key_slots::FILE, crate::io::Open::Read);
    !opened.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// An open disk: the block-device view of one page blob. Ranges are bytes; any alignment is served.
/// All methods may be called from many threads at once. The disk starts no thread. What is no input or output is asked
/// of its [`DiskAdmin`].
#[derive(Debug)]
pub struct Disk {
    core: Arc<Core>,
    /// What is seen: the live disk, or a snapshot, read-only.
    view: Option<View>,
}

impl Disk {
    /// Makes a disk in the empty directory `dir`, durable and closed when this returns; the caller publishes the
    /// directory by renaming it. `encryption` decides how the footer page is stored.
    pub fn create(dir: Arc<dyn Dir>, spec: &Spec, keys: DiskKeys, encryption: bool, options: &Options) -> Result<()> {
        create::create(&*dir, spec, &keys, encryption, options)
    }

    /// Opens a disk. `base` is what [`crate::base::reopen`] gave for its record. Without `keys` only what is not
    /// secret can be asked (settings, runs, usage; nothing is verified by MAC), and `access` must be read-only.
    pub fn open(
        dir: Arc<dyn Dir>,
        keys: Option<DiskKeys>,
        base: Option<Arc<dyn BaseImage>>,
        access: Access,
        encryption: bool,
        options: Options,
    ) -> Result<Self> {
        open::open(dir, keys, base, access, encryption, options).map(|core| Self { core: Arc::new(core), view: None })
    }

    /// Bytes, a multiple of 512, without the footer page.
    pub fn size(&self) -> u64 {
        match self.view {
            None => self.core.size(),
            Some(view) => (view.size - u64::from(self.core.footer)) * PAGE as u64,
        }
    }

    /// Bytes with the footer page.
    pub fn blob_size(&self) -> u64 {
        self.size() + if self.core.footer { PAGE as u64 } else { 0 }
    }

    pub fn read_only(&self) -> bool {
        self.core.access == Access::ReadOnly || self.view.is_some()
    }

    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }

    fn check(&self, offset: u64, len: u64, size: u64) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let what = format!("{len} bytes reach past the end of the disk ({size} bytes)");
            return Err(Error::new(ErrorKind::OutOfRange, what).at_offset(offset));
        }
        Ok(())
    }

    fn check_live(&self) -> Result<()> {
        if self.view.is_some() {
            return Err(Error::new(ErrorKind::ReadOnly, "a snapshot takes no changes"));
        }
        Ok(())
    }

    /// Fills `buf` from byte `offset`.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(offset, buf.len() as u64, self.size())?;
        self.core.read(self.view, offset, buf)
    }

    /// `Ok(false)`: would wait; `buf` is in any state; call [`Disk::read`] on a thread that may.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.check(offset, buf.len() as u64, self.size())?;
        self.core.try_read(self.view, offset, buf)
    }

    /// [`Disk::try_read`] of what holds no hole, by one look at what is stored where.
    pub(crate) fn try_read_data(&self, offset: u64, buf: &mut [u8], hole: Hole) -> Result<DataRead> {
        self.check(offset, buf.len() as u64, self.size())?;
        self.core.try_read_data(self.view, offset, buf, hole)
    }

    /// Stores `data` at byte `offset`, encrypted or in plaintext as the setting says.
    pub fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.check_live()?;
        self.check(offset, data.len() as u64, self.size())?;
        self.core.write(offset, data, durability)
    }

    /// A volatile write, or `Ok(false)` with nothing changed where it would wait.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Result<bool> {
        self.check_live()?;
        self.check(offset, data.len() as u64, self.size())?;
        self.core.try_write(offset, data)
    }

    /// Makes the range read as zeros; what was stored is given back. In time independent of `len`.
    pub fn zero(&self, offset: u64, len: u64, durability: Durability) -> Result<()> {
        self.check_live()?;
        self.check(offset, len, self.size())?;
        let (start, end) = (offset, offset + len);
        let whole = start.next_multiple_of(PAGE as u64)..end / PAGE as u64 * PAGE as u64;
        if whole.start >= whole.end {
            return self.write_zeros(offset, len, durability);
        }
        for part in [start..whole.start, whole.end..end].into_iter().filter(|part| !part.is_empty()) {
            self.allocate(part.start, part.end - part.start)?;
        }
        self.write_zeros(start, whole.start - start, durability)?;
        self.write_zeros(whole.end, end - whole.end, durability)?;
        self.core.zero(whole.start / PAGE as u64..whole.end / PAGE as u64, durability)
    }

    /// Writes real zeros (NO_HOLE).
    pub fn write_zeros(&self, offset: u64, len: u64, durability: Durability) -> Result<()> {
        static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
        self.check_live()?;
        self.check(offset, len, self.size())?;
        if len > ZEROS.len() as u64 {
            self.allocate(offset, len)?;
        }
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(ZEROS.len() as u64);
            // Only the last piece waits: with a range that needs a round one covers all.
            let last = at + piece == offset + len;
            self.core.write(at, &ZEROS[..piece as usize], Durability::Volatile)?;
            at += piece;
            if last && durability == Durability::Fua {
                return self.core.flush();
            }
        }
        Ok(())
    }

    /// Takes the space that changes of the range will need: for a request that is carried out in parts, which with
    /// [`ErrorKind::NoSpace`] is to be refused before the first.
    pub fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.check_live()?;
        self.check(offset, len, self.size())?;
        if len == 0 { Ok(()) } else { self.core.allocate(&Core::pages_of(offset, len)) }
    }

    /// Group commit: every change answered before this call is on stable storage when it returns `Ok`.
    pub fn flush(&self) -> Result<()> {
        self.core.flush()
    }

    /// The same where there is nothing to wait for; `Ok(false)`: it would wait, call [`Disk::flush`] on a thread that
    /// may.
    pub fn try_flush(&self) -> Result<bool> {
        self.core.try_flush()
    }

    /// Reads ahead into the page cache.
    pub fn cache(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len, self.size())?;
        self.core.read_ahead(self.view, Core::pages_of(offset, len))
    }

    /// [`ErrorKind::Revoked`] while nothing may be served: for whoever is going to answer a read without reading.
    pub(crate) fn check_served(&self) -> Result<()> {
        self.core.check_admitted()
    }

    /// The runs of `[offset, offset + len)` of the blob, footer page included (rounded outward to pages), in order, at
    /// most `limit` of them. Neighbours differ.
    pub fn runs(&self, offset: u64, len: u64, limit: usize) -> Result<Vec<Run>> {
        self.check(offset, len, self.blob_size())?;
        self.core.runs(self.view, Core::pages_of(offset, len), limit)
    }

    /// What else it can be asked and told: its settings, its snapshots, its keys, upkeep, reports.
    pub fn admin(&self) -> DiskAdmin<'_> {
        DiskAdmin(self)
    }

    /// Flushes and leaves a clean mark. Later changes fail with [`crate::ErrorKind::Shutdown`].
    pub fn close(&self) -> Result<()> {
        self.core.close()
    }
}
