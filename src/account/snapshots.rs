//! Snapshots of a disk: taken while clients write, read through exports of their own, rolled back to.

use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

use super::name::BlobName;
use super::registry::{Entry, Registry};
use crate::disk::{Disk, Line};
use crate::{Error, ErrorKind, PAGE, Result};

/// A snapshot, as `snapshot list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// With the footer page, when it was taken.
    pub blob_bytes: u64,
}

impl From<Line> for SnapshotReport {
    fn from(line: Line) -> Self {
        Self { name: line.name, created: line.created, blob_bytes: line.size * PAGE as u64 }
    }
}

/// A snapshot that a client has attached.
pub(super) type Attached = (String, Weak<Disk>);

impl Registry {
    /// Takes a snapshot: what was acknowledged before is in it.
    pub fn take_snapshot(&self, name: &BlobName, snapshot: &str) -> Result<SnapshotReport> {
        Ok(self.disk(name)?.snapshot(snapshot)?.into())
    }

    /// The snapshots of a disk, oldest first.
    pub fn snapshots(&self, name: &BlobName) -> Result<Vec<SnapshotReport>> {
        Ok(self.disk(name)?.snapshots().into_iter().map(SnapshotReport::from).collect())
    }

    /// Deletes a snapshot. Refused while a client has it attached.
    pub fn delete_snapshot(&self, name: &BlobName, snapshot: &str) -> Result<()> {
        let entry = self.shared.entry(name)?;
        let disk = self.disk(name)?;
        // Held over the deletion, so that nobody attaches it meanwhile.
        let mut attached = entry.attached.lock();
        check_free(&mut attached, &entry, |other| other == snapshot)?;
        disk.delete_snapshot(snapshot)
    }

    /// Makes a disk what a snapshot sees. Later snapshots go; refused while a client has one of them attached.
    pub fn roll_back(&self, name: &BlobName, snapshot: &str) -> Result<()> {
        let entry = self.shared.entry(name)?;
        let disk = self.disk(name)?;
        let mut attached = entry.attached.lock();
        let later = disk.snapshots().into_iter().map(|line| line.name).skip_while(|other| other != snapshot).skip(1);
        let later: Vec<_> = later.collect();
        check_free(&mut attached, &entry, |other| later.iter().any(|later| later == other))?;
        disk.roll_back(snapshot)
    }

    /// The disk as a snapshot sees it, for a client.
    pub fn attach_snapshot(&self, name: &BlobName, snapshot: &str) -> Result<Arc<Disk>> {
        let entry = self.shared.entry(name)?;
        let disk = self.disk(name)?;
        let mut attached = entry.attached.lock();
        let view = Arc::new(disk.at_snapshot(snapshot)?);
        attached.retain(|(_, view)| view.strong_count() > 0);
        attached.push((snapshot.to_owned(), Arc::downgrade(&view)));
        Ok(view)
    }
}

/// Refuses while a snapshot that `goes` is attached.
pub(super) fn check_free(attached: &mut Vec<Attached>, entry: &Entry, goes: impl Fn(&str) -> bool) -> Result<()> {
    attached.retain(|(_, view)| view.strong_count() > 0);
    match attached.iter().find(|(snapshot, _)| goes(snapshot)) {
        None => Ok(()),
        Some((snapshot, _)) => {
            let what = format!("the snapshot \"{}@{snapshot}\" is in use", entry.name);
            Err(Error::new(ErrorKind::InUse, what).hint("detach its clients first"))
        }
    }
}
