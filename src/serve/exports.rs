//! What is served: disks by name.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Identity;
use crate::Result;
use crate::disk::Disk;

/// An export as LIST and INFO show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    pub name: String,
    pub description: String,
}

/// What is served: disks by export name. Exports may come and go while serving.
pub trait Exports: Send + Sync {
    /// The first `most` exports after the one named `after`, or of all; fewer at the end. Of those that come and go
    /// meanwhile some may be left out.
    /// `client` hears only of what it may have.
    fn list(&self, client: &Identity, after: Option<&str>, most: usize) -> Vec<ExportInfo>;
    /// The disk of an export. The empty name is the default export: the only one, if there is just one. What `client`
    /// may not have is not there.
    fn open(&self, client: &Identity, name: &str) -> Result<Export>;
}

/// An export as a client attaches it.
#[derive(Debug, Clone)]
pub struct Export {
    /// The full name, also when the client asked for the default.
    pub name: String,
    pub description: String,
    pub disk: ServedDisk,
    pub read_only: bool,
}

/// A disk, and what keeps it for the client that is served.
#[derive(Clone)]
pub struct ServedDisk {
    // In this order: when `held` goes, no handle on the disk is left with the client.
    disk: Arc<Disk>,
    held: Option<Arc<dyn Any + Send + Sync>>,
}

impl ServedDisk {
    /// `held` is dropped after the last clone of this has let go of the disk.
    pub fn held(disk: Arc<Disk>, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self { disk, held: Some(held) }
    }
}

/// A disk that nothing asks about who holds it.
impl From<Arc<Disk>> for ServedDisk {
    fn from(disk: Arc<Disk>) -> Self {
        Self { disk, held: None }
    }
}

impl Deref for ServedDisk {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl fmt::Debug for ServedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedDisk").field("disk", &self.disk).field("held", &self.held.is_some()).finish()
    }
}
