//! Snapshots of the account's disks: taken while clients write, read through exports of their own, rolled back to.
//!
//! A snapshot that a clone reads from is pinned: it, and the disk it is of, stay until the clone is gone. Whoever draws
//! a clone, deletes a snapshot or rolls back holds `changing`, so that no clone appears between the look and the act.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::attachment::{Attachment, Held, Sees, Use};
use super::clones::clone_in_name;
use super::disk_ref::DiskRef;
use super::entry::Entry;
use super::name::BlobName;
use super::registry::{Registry, Shared};
use super::view_name::SnapshotName;
use crate::disk::{Disk, Parent, Snapshot};
use crate::{Error, ErrorKind, Result};

/// A snapshot as users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Size of the disk when it was taken.
    pub size_bytes: u64,
    /// The clones that read from it: while there are any it cannot be deleted.
    pub clones: Vec<String>,
}

/// What rolling a disk back drops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    pub name: String,
    pub snapshot: String,
    /// Snapshots drawn later.
    pub snapshots: Vec<String>,
    /// Bytes written or cleared since.
    pub changed_bytes: u64,
    /// Size of the disk now, and when the snapshot was drawn.
    pub size_bytes: u64,
    pub size_then_bytes: u64,
}

impl Registry {
    /// Takes a snapshot: what was acknowledged before is in it.
    pub fn take_snapshot(&self, name: &BlobName, snapshot: &SnapshotName) -> Result<SnapshotReport> {
        if clone_in_name(snapshot.as_str()).is_some() {
            let what = format!("snapshots called \"{snapshot}\" are drawn for clones alone");
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("choose another name"));
        }
        let disk = self.disk(name)?;
        let found = disk.admin().create_snapshot(snapshot.as_str())?;
        self.report_snapshot(&disk, &found)
    }

    /// Oldest first.
    pub fn snapshots(&self, name: &BlobName) -> Result<Vec<SnapshotReport>> {
        let disk = self.disk(name)?;
        let all_snapshots = disk.snapshots().into_iter().filter(Snapshot::is_listed);
        all_snapshots.map(|found| self.report_snapshot(&disk, &found)).collect()
    }

    fn report_snapshot(&self, disk: &Disk, found: &Snapshot) -> Result<SnapshotReport> {
        let clones = self.clones_of(disk.admin().settings().uuid).into_iter();
        Ok(SnapshotReport {
            name: found.name.clone(),
            created: found.created,
            size_bytes: disk.at_snapshot_id(found.id)?.size(),
            clones: clones
                .filter(|(_, parent)| parent.snapshot == found.id)
                .map(|(name, _)| name.to_string())
                .collect(),
        })
    }

    /// The disk, which may be hidden, or what a snapshot of it sees.
    pub fn view_of(&self, disk: &DiskRef, snapshot: Option<&SnapshotName>) -> Result<Attachment> {
        match snapshot {
            None => self.disk_of(disk),
            Some(snapshot) => self.attach_snapshot(disk, snapshot.as_str(), Use::Request),
        }
    }

    /// Deletes a snapshot. [`ErrorKind::InUse`] while a client has it attached or a clone pins it.
    pub fn delete_snapshot(&self, name: &BlobName, snapshot: &SnapshotName) -> Result<()> {
        let _changing = self.shared.change_disks()?;
        let entry = self.shared.entry(name)?;
        let disk = self.disk(name)?;
        let found = find(&disk, snapshot)?;
        self.check_unpinned(&disk, |id| id == found.id, "deleted")?;
        // Held over the deletion, so that nobody attaches it meanwhile.
        let _state = entry.lock_free(|held| held.sees == Sees::Snapshot(snapshot.to_string()))?;
        disk.admin().delete_snapshot(snapshot.as_str())
    }

    /// What [`Registry::roll_back`] would drop.
    pub fn rollback_report(&self, name: &BlobName, snapshot: &SnapshotName) -> Result<RollbackReport> {
        let disk = self.disk(name)?;
        let found = find(&disk, snapshot)?;
        // Nobody is to be asked about what cannot be done.
        self.check_unpinned(&disk, |id| id > found.id, "dropped")?;
        let changed = disk.admin().changed_since(found.id, None)?;
        Ok(RollbackReport {
            name: disk.admin().settings().name,
            snapshot: found.name.clone(),
            snapshots: later(&disk, &found),
            changed_bytes: changed.iter().map(|run| run.pages * crate::PAGE as u64).sum(),
            size_bytes: disk.size(),
            size_then_bytes: disk.at_snapshot_id(found.id)?.size(),
        })
    }

    /// Makes the disk what the snapshot sees. `drops` are the later snapshots that the user was told of: more are not
    /// dropped. [`ErrorKind::InUse`] while a client has the disk attached, whose caches would no longer fit it, or one
    /// of the later snapshots, and while a clone pins one of them.
    pub fn roll_back(&self, name: &BlobName, snapshot: &SnapshotName, drops: &[String]) -> Result<()> {
        let _changing = self.shared.change_disks()?;
        let entry = self.shared.entry(name)?;
        let disk = self.disk(name)?;
        let known = later(&disk, &find(&disk, snapshot)?);
        let _open = disk.keep_open(Use::Request);
        drop(disk);
        let goes = |held: &Held, later: &[String]| match &held.sees {
            Sees::Disk => true,
            Sees::Snapshot(snapshot) => later.contains(snapshot),
            Sees::Nothing => false,
        };
        entry.with_alone(
            |held| goes(held, &known),
            |disk| {
                let found = find(disk, snapshot)?;
                let later = later(disk, &found);
                if let Some(unexpected) = later.iter().find(|name| !drops.contains(name)) {
                    let what = format!("the snapshot \"{unexpected}\" was drawn meanwhile, and would be dropped too");
                    return Err(Error::new(ErrorKind::InUse, what).hint("look again at what is dropped"));
                }
                self.check_unpinned(disk, |id| id > found.id, "dropped")?;
                entry.check_free(|held| goes(held, &later))?;
                disk.admin().roll_back(snapshot.as_str())
            },
        )
    }

    /// See [`Shared::clones_of`].
    pub(super) fn clones_of(&self, uuid: Uuid) -> Vec<(BlobName, Parent)> {
        self.shared.clones_of(uuid)
    }

    /// Refuses while a clone reads from a snapshot of the disk that `which` says is to go.
    fn check_unpinned(&self, disk: &Disk, which: impl Fn(u32) -> bool, fate: &str) -> Result<()> {
        let all_snapshots = disk.snapshots();
        let refused = |found: u32, why: String| {
            let name = all_snapshots.iter().find(|other| other.id == found).map_or("?", |found| &found.name);
            Error::new(ErrorKind::InUse, format!("the snapshot \"{name}\" cannot be {fate}: {why}"))
        };
        let clones = self.clones_of(disk.admin().settings().uuid);
        if let Some((clone, parent)) = clones.iter().find(|(_, parent)| which(parent.snapshot)) {
            return Err(refused(parent.snapshot, format!("the disk \"{clone}\" is a clone of it")).hint(format!(
                "delete the clone first; `sealdisk clone {clone} NEW --full` makes a copy that needs nothing of it"
            )));
        }
        match all_snapshots.iter().find(|found| self.shared.has_unknown && which(found.id)) {
            Some(found) => Err(refused(found.id, "a disk that cannot be read may be a clone of it".to_owned())
                .hint("`sealdisk status` names that disk; repair its folder, or move it away")),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// The clones that read from disk `uuid`, and how.
    pub(super) fn clones_of(&self, uuid: Uuid) -> Vec<(BlobName, Parent)> {
        let entries = self.all_entries();
        let parent = |entry: Arc<Entry>| {
            let parent = entry.parent.lock().clone();
            Some((entry.name.clone(), parent.filter(|parent| parent.disk == uuid)?))
        };
        entries.into_iter().filter_map(parent).collect()
    }
}

pub(super) fn find(disk: &Disk, snapshot: &SnapshotName) -> Result<Snapshot> {
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no snapshot \"{snapshot}\""));
    disk.snapshots()
        .into_iter()
        .find(|found| found.name == snapshot.as_str())
        .ok_or_else(missing)
        .map_err(hint_snapshots)
}

pub(super) fn hint_snapshots(error: Error) -> Error {
    error.hint("`sealdisk snapshot list` shows them")
}

/// The user's snapshots that were drawn after `found`.
fn later(disk: &Disk, found: &Snapshot) -> Vec<String> {
    disk.snapshots()
        .into_iter()
        .filter(|other| other.id > found.id && other.is_listed())
        .map(|other| other.name)
        .collect()
}
