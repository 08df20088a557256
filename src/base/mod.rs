//! What can lie under a disk's layers: read-only images, read by run.
//!
//! The seam is [`BaseImage`]. A base is never written. Its identity is recorded when the disk is made and checked when
//! the disk is opened, because a changed base would silently change every page that no layer holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;

/// A read-only image: bytes by page.
///
/// Obligations of an implementation: `size` never changes while it is open; the same range always reads the same
/// bytes; no method panics on any content of the underlying file; all are safe to call from many threads at once.
/// Guarantees to an implementation: offsets and lengths are multiples of 512 and lie inside `size`.
pub trait BaseImage: Send + Sync + fmt::Debug {
    /// Virtual size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `offset`. An error fails this request only.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Like [`BaseImage::read_at`] but answers `false`, with `buf` in any state, where that would wait for a device.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// Visits the runs of `[offset, offset + len)` in order, without gap or overlap; neighbours may be of equal kind.
    /// A run is [`BaseRun::Zero`] only when the *format* says that it reads as zeros, never from holes of the file.
    fn runs(&self, offset: u64, len: u64, visit: &mut dyn FnMut(BaseRun, u64)) -> Result<()>;
}

/// How a run of a base image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseRun {
    Data,
    /// Not allocated by the image's own format: reads as zeros.
    Zero,
}

/// The format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Raw,
    Vhd,
}

/// What a disk's settings record of its base: where it lies and what tells it from any other image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Absolute.
    pub path: PathBuf,
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    // The base wing adds the identity of every file of the chain here.
}

/// Opens `path` for the first time and takes its identity. `format` overrides detection. `roots` are further folders
/// in which parents of a differencing disk may lie.
pub fn open(_path: &Path, _format: Option<Format>, _roots: &[PathBuf]) -> Result<(Arc<dyn BaseImage>, BaseRecord)> {
    todo!()
}

/// Opens the image of a record again. [`crate::ErrorKind::BaseChanged`], saying what differs, when it is another one.
pub fn reopen(_record: &BaseRecord) -> Result<Arc<dyn BaseImage>> {
    todo!()
}
