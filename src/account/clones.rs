//! Clones: disks that read what they do not hold from a pinned snapshot of another disk.
//!
//! Which clones there are is nowhere recorded but in their own settings. What becomes of a disk that is deleted while
//! clones read from it: `hidden`.

use std::sync::Arc;

use uuid::Uuid;

use super::attachment::Attachment;
use super::disk_ref::DiskRef;
use super::entry::{Entry, EntryState};
use super::name::BlobName;
use super::registry::{Registry, Shared};
use super::report::{CloneReport, InheritedReport};
use super::view_name::ViewName;
use crate::disk::{Disk, Inherited, Parent, Spec};
use crate::io::{mutant, system};
use crate::{Error, ErrorKind, Result};

/// Clones of clones of clones, the last of this generation: a read may have to go all the way down.
const GENERATIONS: usize = 31;

/// The name of the snapshot that is drawn for a clone of a disk as it is.
fn drawn_for(clone: Uuid) -> String {
    format!("clone-{}", clone.simple())
}

/// The clone that a snapshot of this name is drawn for. Nobody else may call one so.
pub(super) fn clone_in_name(snapshot: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(snapshot.strip_prefix("clone-")?).ok()?;
    (drawn_for(uuid) == snapshot).then_some(uuid)
}

impl Shared {
    /// Deletes the snapshots of a disk that is being opened, and that nobody has yet, which were drawn for clones that
    /// a crash kept from coming to be, that are gone, or that were detached. What fails is tried again at the next
    /// opening.
    pub(super) fn drop_orphans(&self, disk: &Disk) {
        let clones = self.clones_of(disk.uuid());
        let is_gone = |clone: Uuid| {
            let folder = self.folder.subdir(&clone.to_string());
            let detached = || self.all_entries().iter().any(|entry| entry.uuid == clone);
            folder.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) || detached()
        };
        for snapshot in disk.snapshots() {
            let pinned = clones.iter().any(|(_, parent)| parent.snapshot == snapshot.id);
            if !pinned
                && clone_in_name(&snapshot.name).is_some_and(is_gone)
                && !mutant!(OrphanStays)
                && let Err(error) = disk.admin().delete_snapshot(&snapshot.name)
            {
                tracing::warn!(snapshot = %snapshot.name, %error, "the snapshot of a clone that is not there stays behind");
            }
        }
    }
}

impl Shared {
    /// How a disk is to be named: by its UUID once it is deleted.
    pub(super) fn shown(&self, entry: &Entry) -> String {
        if self.is_hidden(entry.uuid) { DiskRef::Uuid(entry.uuid).to_string() } else { entry.name.to_string() }
    }

    /// The disks that one which cannot be opened is a clone of, a clone of a clone of, and so on.
    pub(super) fn below(&self, entry: &Entry) -> Vec<InheritedReport> {
        let entries = self.all_entries();
        let parent_of = |entry: &Entry| {
            let parent = entry.parent.lock().as_ref().map(|parent| parent.disk);
            entries.iter().find(|other| Some(other.uuid) == parent).cloned()
        };
        let below = std::iter::successors(parent_of(entry), |entry| parent_of(entry)).take(GENERATIONS);
        let report = |entry: Arc<Entry>| InheritedReport {
            name: entry.name.to_string(),
            uuid: entry.uuid,
            hidden: self.is_hidden(entry.uuid),
            plain_bytes: None,
            encrypted_bytes: None,
        };
        below.map(report).collect()
    }
}

impl Registry {
    /// Makes a clone of a snapshot, or of the disk as it is now, at once and without copying.
    pub fn clone_disk(&self, source: &ViewName, name: &BlobName) -> Result<Attachment> {
        let _changing = self.shared.change_disks()?;
        self.check_free(name)?;
        let entry = self.shared.entry(&source.disk)?;
        let disk = self.disk(&source.disk)?;
        self.check_generations(&entry)?;
        let uuid = system::uuid()?;
        let (snapshot, owned) = match &source.snapshot {
            Some(_) => (self.snapshot_of(&disk, source)?, false),
            // Should the clone come to nothing after this, the snapshot goes when the disk is opened next.
            None => (disk.admin().create_snapshot(&drawn_for(uuid))?.id, true),
        };
        let size = disk.at_snapshot_id(snapshot)?.size();
        let parent = Parent { disk: entry.uuid, snapshot, size, owned };
        let spec = Spec { parent: Some(parent), ..Spec::new(uuid, name.to_string(), size) };
        self.publish(name, &spec, None).inspect_err(|_| {
            let comes_not = !self.shared.folder.is_in_doubt() && self.check_free(name).is_ok();
            if owned
                && comes_not
                && let Err(error) = disk.admin().delete_snapshot(&drawn_for(uuid))
            {
                tracing::warn!(disk = %source.disk, %error, "the snapshot of a clone that was not made stays for now");
            }
        })
    }

    fn snapshot_of(&self, disk: &Disk, view: &ViewName) -> Result<u32> {
        let name = view.snapshot.as_ref().map_or("", |name| name.as_str());
        let snapshot = disk.snapshots().into_iter().find(|snapshot| snapshot.name == name);
        snapshot.map(|snapshot| snapshot.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no snapshot \"{name}\""))
                .hint("`sealdisk snapshot list` shows them")
        })
    }

    /// `NAME@SNAPSHOT` that a disk is a clone of; the name of a deleted disk is shown as such.
    pub fn clone_of(&self, disk: &Disk) -> Option<String> {
        let parent = disk.admin().settings().parent?;
        let entry = self.shared.all_entries().into_iter().find(|entry| entry.uuid == parent.disk)?;
        let deleted = if self.shared.is_hidden(parent.disk) { " (deleted)" } else { "" };
        let snapshot = match &*entry.state.lock() {
            EntryState::Open(disk) => disk.snapshots().into_iter().find(|snapshot| snapshot.id == parent.snapshot),
            _ => None,
        };
        Some(format!("{}@{}{deleted}", entry.name, snapshot?.name))
    }

    /// The clones of a disk, hidden ones too, and what they read of it.
    pub(super) fn clone_reports(&self, uuid: Uuid) -> Vec<CloneReport> {
        let entries = self.shared.all_entries();
        let snapshots = entries.iter().find(|entry| entry.uuid == uuid).map(|entry| match &*entry.state.lock() {
            EntryState::Open(disk) => disk.snapshots(),
            EntryState::Closed | EntryState::Gone => Vec::new(),
        });
        let report = |entry: &Arc<Entry>| {
            let parent = entry.parent.lock().clone().filter(|parent| parent.disk == uuid)?;
            let snapshot = snapshots.iter().flatten().find(|snapshot| snapshot.id == parent.snapshot);
            Some(CloneReport {
                name: entry.name.to_string(),
                uuid: entry.uuid,
                snapshot: snapshot.map(|snapshot| snapshot.name.clone()),
                hidden: self.shared.is_hidden(entry.uuid),
            })
        };
        entries.iter().filter_map(report).collect()
    }

    /// What a clone reads from other disks, under their names.
    pub(super) fn inherited_reports(&self, disk: &Disk) -> Result<Vec<InheritedReport>> {
        let entries = self.shared.all_entries();
        let report = |Inherited { disk, stored }: Inherited| InheritedReport {
            name: entries.iter().find(|entry| entry.uuid == disk).map_or_else(String::new, |e| e.name.to_string()),
            uuid: disk,
            hidden: self.shared.is_hidden(disk),
            plain_bytes: Some(stored.plain),
            encrypted_bytes: Some(stored.encrypted),
        };
        Ok(disk.admin().inherited()?.into_iter().map(report).collect())
    }

    fn check_generations(&self, entry: &Entry) -> Result<()> {
        let entries = self.shared.all_entries();
        let mut next = entry.parent.lock().clone();
        for _ in 0..GENERATIONS {
            let Some(parent) = next else { return Ok(()) };
            next = entries.iter().find(|other| other.uuid == parent.disk).and_then(|other| other.parent.lock().clone());
        }
        let what =
            format!("the disk \"{}\" is a clone of generation {GENERATIONS}, the last that there can be", entry.name);
        Err(Error::new(ErrorKind::LimitExceeded, what)
            .hint(format!("`sealdisk clone {} NEW --full` makes a copy that begins anew", entry.name)))
    }

    /// Whether `name` may be given to a disk.
    pub(super) fn check_free(&self, name: &BlobName) -> Result<()> {
        if self.shared.disks.read().contains_key(name) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("there is already a disk \"{name}\"")));
        }
        Ok(())
    }
}
