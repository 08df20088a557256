//! A base image with a watch on its files: a base that is changed while it is in use must not go on being read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::identity::{FileIdentity, ImageFile};
use super::{BaseImage, DeletedFile, VisitRun};
use crate::{Error, ErrorKind, Result};

/// Reads between two looks at the files.
const INTERVAL: u32 = 256;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct GuardedImage {
    image: Box<dyn BaseImage>,
    files: Vec<WatchedFile>,
    reads: AtomicU32,
    /// A file was touched since it was last known to be right.
    suspect: AtomicBool,
    /// Why nothing is read any more.
    changed: OnceLock<String>,
}

#[derive(Debug)]
struct WatchedFile {
    file: ImageFile,
    identity: FileIdentity,
    /// The stamp under which the content is known to be right.
    stamp: Mutex<String>,
}

impl GuardedImage {
    /// `files`: what `image` is read from, each with the stamp at which it was found right.
    pub(super) fn new(image: Box<dyn BaseImage>, files: Vec<(ImageFile, FileIdentity, String)>) -> Self {
        let watch = |(file, identity, stamp)| WatchedFile { file, identity, stamp: Mutex::new(stamp) };
        Self {
            image,
            files: files.into_iter().map(watch).collect(),
            reads: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
            changed: OnceLock::new(),
        }
    }

    /// Looks at the files now and then. `Ok(false)`, only if `wait` is false: a file must be read to tell.
    fn look(&self, wait: bool) -> Result<bool> {
        self.refuse_changed()?;
        let due = self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(INTERVAL);
        if !due && !self.suspect.load(Ordering::Relaxed) {
            return Ok(true);
        }
        self.look_now(wait)
    }

    fn refuse_changed(&self) -> Result<()> {
        if let Some(what) = self.changed.get() {
            return Err(Error::new(ErrorKind::BaseChanged, what.clone()));
        }
        Ok(())
    }

    fn look_now(&self, wait: bool) -> Result<bool> {
        for watched in &self.files {
            let mut known = watched.stamp.lock();
            let stamp = watched.file.file.stamp()?;
            if *known == stamp {
                continue;
            }
            if !wait {
                self.suspect.store(true, Ordering::Relaxed);
                return Ok(false);
            }
            if let Err(error) = watched.identity.check(&watched.file) {
                if error.kind() == ErrorKind::BaseChanged {
                    let _ = self.changed.set(error.to_string());
                }
                return Err(error);
            }
            // Deleting a file touches it, too; that is told by who asks for it.
            if watched.identity.fs_verity.is_none() && !watched.file.file.is_deleted()? {
                tracing::warn!(path = %watched.file.file.path().display(), "the base image was touched while in use; \
                    its length and all of its sampled content are as recorded");
            }
            *known = stamp;
        }
        self.suspect.store(false, Ordering::Relaxed);
        Ok(true)
    }
}

impl BaseImage for GuardedImage {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.look(true)?;
        self.image.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        Ok(self.look(false)? && self.image.try_read_at(offset, buf)?)
    }

    fn check(&self) -> Result<Option<DeletedFile>> {
        self.refuse_changed()?;
        self.look_now(true)?;
        for WatchedFile { file, .. } in &self.files {
            if file.file.is_deleted()? {
                return Ok(Some(DeletedFile { path: file.file.path().to_owned(), descriptor: file.file.descriptor() }));
            }
        }
        Ok(None)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        self.look(true)?;
        self.image.runs(offset, len, visit)
    }
}
