//! What changed between two snapshots of a disk, or since one.

use serde::{Deserialize, Serialize};

use super::name::BlobName;
use super::registry::Registry;
use super::snapshots::find;
use super::view_name::SnapshotName;
use crate::Result;
use crate::disk::Change;

/// Runs in one answer: about 6 MiB of JSON.
const RUNS: usize = 65_536;

/// A run of pages that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRun {
    /// First page.
    pub start: u64,
    pub pages: u64,
    pub change: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Written, with whatever content.
    Written,
    /// Reads as zeros and is stored nowhere.
    Cleared,
}

impl From<&Change> for DiffRun {
    fn from(change: &Change) -> Self {
        let kind = if change.cleared { Kind::Cleared } else { Kind::Written };
        Self { start: change.start, pages: change.pages, change: kind }
    }
}

/// A part of `diff`: a disk may have more changes than one message holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffPart {
    /// Bytes of the disk at the earlier and at the later moment.
    pub from_bytes: u64,
    pub to_bytes: u64,
    pub runs: Vec<DiffRun>,
    /// The page to ask for next; `None`: that was all.
    pub next: Option<u64>,
}

impl Registry {
    /// The changes from page `start` on, since `from` and up to `to`, or up to now.
    pub fn diff(
        &self,
        name: &BlobName,
        from: &SnapshotName,
        to: Option<&SnapshotName>,
        start: u64,
    ) -> Result<DiffPart> {
        let disk = self.disk(name)?;
        let from = find(&disk, from)?.id;
        let to = to.map(|to| find(&disk, to)).transpose()?.map(|snapshot| snapshot.id);
        // Not all of them at once: there may be as many as pages.
        let mut changes = disk.admin().changed_from(start, RUNS + 1, from, to)?;
        let next = changes.get(RUNS).map(|change| change.start);
        changes.truncate(RUNS);
        let size =
            |snapshot: Option<u32>| snapshot.map_or_else(|| Ok(disk.size()), |id| Ok(disk.at_snapshot_id(id)?.size()));
        let runs = changes.iter().map(DiffRun::from).collect();
        Ok(DiffPart { from_bytes: size(Some(from))?, to_bytes: size(to)?, runs, next })
    }
}
