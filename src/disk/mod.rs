//! The core: one page blob.

use std::sync::Arc;

use uuid::Uuid;

use crate::Result;
use crate::base::{BaseImage, BaseRecord};
use crate::crypto::keyring::DiskKeys;
use crate::io::Dir;

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
}

/// Sizes and limits of an open disk. The default is the product's; the simulator uses tiny ones.
#[derive(Clone)]
pub struct Options {
    /// Number of range-lock stripes.
    pub stripes: usize,
    /// Pages in a stripe.
    pub stripe_pages: u64,
    /// Bytes of a log file.
    pub log_bytes: u64,
    /// Extents not yet durable after which a writer commits them itself.
    pub pending_extents: usize,
    /// Seconds since the epoch, for records of when a layer was made.
    pub clock: fn() -> u64,
    /// Called, with no lock held, when [`Disk::maintain`] has something to do.
    pub wake: Arc<dyn Fn() + Send + Sync>,
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
}

/// An open disk: the block-device view of one page blob. Ranges are bytes; any alignment is served.
/// All methods may be called from many threads at once. The disk starts no thread.
#[derive(Debug)]
pub struct Disk {}

impl Disk {
    /// Makes a disk in the empty directory `dir`, durable and closed when this returns; the caller publishes the
    /// directory by renaming it. `encryption` decides how the footer page is stored.
    pub fn create(
        _dir: Arc<dyn Dir>,
        _spec: &Spec,
        _keys: DiskKeys,
        _encryption: bool,
        _options: &Options,
    ) -> Result<()> {
        todo!()
    }

    /// Opens a disk. `base` is what [`crate::base::reopen`] gave for its record. Without `keys` only what is not
    /// secret can be asked (settings, runs, usage; nothing is verified by MAC), and `access` must be read-only.
    pub fn open(
        _dir: Arc<dyn Dir>,
        _keys: Option<DiskKeys>,
        _base: Option<Arc<dyn BaseImage>>,
        _access: Access,
        _encryption: bool,
        _options: Options,
    ) -> Result<Self> {
        todo!()
    }

    /// Bytes, a multiple of 512, without the footer page.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// Bytes with the footer page.
    pub fn blob_size(&self) -> u64 {
        todo!()
    }
    pub fn read_only(&self) -> bool {
        todo!()
    }
    pub fn read(&self, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// `Ok(false)`: would wait; `buf` is in any state; call [`Disk::read`] on a thread that may.
    pub fn try_read(&self, _offset: u64, _buf: &mut [u8]) -> Result<bool> {
        todo!()
    }
    pub fn write(&self, _offset: u64, _data: &[u8], _durability: Durability) -> Result<()> {
        todo!()
    }
    /// A volatile write, or `Ok(false)` with nothing changed where it would wait.
    pub fn try_write(&self, _offset: u64, _data: &[u8]) -> Result<bool> {
        todo!()
    }
    /// Makes the range read as zeros; what was stored is given back. In time independent of `len`.
    pub fn zero(&self, _offset: u64, _len: u64, _durability: Durability) -> Result<()> {
        todo!()
    }
    /// Writes real zeros (NO_HOLE).
    pub fn write_zeros(&self, _offset: u64, _len: u64, _durability: Durability) -> Result<()> {
        todo!()
    }
    /// Group commit: every change answered before this call is on stable storage when it returns `Ok`.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }
    /// Reads ahead into the page cache.
    pub fn cache(&self, _offset: u64, _len: u64) -> Result<()> {
        todo!()
    }
    /// The runs of `[offset, offset + len)` of the blob, footer page included (rounded outward to pages), in order, at
    /// most `limit` of them. Neighbours differ.
    pub fn runs(&self, _offset: u64, _len: u64, _limit: usize) -> Result<Vec<Run>> {
        todo!()
    }
    /// Counts the whole blob, footer page included.
    pub fn usage(&self) -> Result<Usage> {
        todo!()
    }
    /// How new writes are stored from now on; the caller has made the account's setting durable. Waits for the
    /// changes in flight and touches nothing stored.
    pub fn set_encryption(&self, _on: bool) {
        todo!()
    }
    /// One step of background work: punching what is dead, writing a checkpoint, removing empty layers. `Ok(true)`:
    /// more is left. To be called from a thread of the registry after [`Options::wake`].
    pub fn maintain(&self) -> Result<bool> {
        todo!()
    }
    /// Flushes, then punches all that is dead and makes that durable.
    pub fn scrub(&self) -> Result<()> {
        todo!()
    }
    /// Flushes and leaves a clean mark. Later changes fail with [`crate::ErrorKind::Shutdown`].
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}
