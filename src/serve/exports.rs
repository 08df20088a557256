//! What is served: disks by name.

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
    pub disk: Arc<Disk>,
    pub read_only: bool,
}
