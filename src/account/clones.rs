//! Clones: disks that read what they do not hold from a pinned snapshot of another disk; and what follows for
//! deleting.
//!
//! A disk that clones read from is only deleted from sight: its settings say so, durably, and it goes for good when the
//! last of its clones has gone. Which clones there are is nowhere recorded but in their own settings.

use std::sync::Arc;

use uuid::Uuid;

use super::entry::{Entry, State};
use super::name::BlobName;
use super::registry::{Registry, Shared};
use super::snapshots::{check_free, with_alone};
use super::view_name::ViewName;
use crate::disk::{Disk, Parent, Spec};
use crate::io::mutant;
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
    /// Deletes the snapshots of a disk that is being opened, and that nobody has yet, which were drawn for clones that a
    /// crash kept from coming to be, or that are gone. What fails is tried again at the next opening.
    pub(super) fn drop_orphans(&self, disk: &Disk) {
        let clones = self.clones_of(disk.uuid());
        let is_gone = |clone: Uuid| {
            let folder = self.folder.subdir(&clone.to_string());
            folder.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        for line in disk.snapshots() {
            let pinned = clones.iter().any(|(_, parent)| parent.line == line.id);
            if !pinned
                && clone_in_name(&line.name).is_some_and(is_gone)
                && !mutant!(OrphanStays)
                && let Err(error) = disk.delete_snapshot(&line.name)
            {
                tracing::warn!(snapshot = %line.name, %error, "the snapshot of a clone that is not there stays behind");
            }
        }
    }
}

impl Registry {
    /// Makes a clone of a snapshot, or of the disk as it is now, at once and without copying.
    pub fn clone_disk(&self, source: &ViewName, name: &BlobName) -> Result<Arc<Disk>> {
        let _changing = self.shared.change_disks()?;
        self.check_free(name)?;
        let entry = self.shared.entry(&source.disk)?;
        let disk = self.disk(&source.disk)?;
        self.check_generations(&entry)?;
        let uuid = (self.shared.setup.new_uuid)();
        let (line, owned) = match &source.snapshot {
            Some(_) => (self.line_of(&disk, source)?, false),
            // Should the clone come to nothing after this, the snapshot goes when the disk is opened next.
            None => (disk.snapshot(&drawn_for(uuid))?.id, true),
        };
        let size = disk.at_line(line)?.size();
        let parent = Parent { disk: entry.uuid, line, size, owned };
        let spec = Spec { parent: Some(parent), ..Spec::new(uuid, name.to_string(), size) };
        self.publish(name, &spec, None).inspect_err(|_| {
            let comes_not = !self.shared.folder.is_in_doubt() && self.check_free(name).is_ok();
            if owned
                && comes_not
                && let Err(error) = disk.delete_snapshot(&drawn_for(uuid))
            {
                tracing::warn!(disk = %source.disk, %error, "the snapshot of a clone that was not made stays for now");
            }
        })
    }

    fn line_of(&self, disk: &Disk, view: &ViewName) -> Result<u32> {
        let name = view.snapshot.as_ref().map_or("", |name| name.as_str());
        let line = disk.snapshots().into_iter().find(|line| line.name == name);
        line.map(|line| line.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no snapshot \"{name}\""))
                .hint("`sealdisk snapshot list` shows them")
        })
    }

    /// `NAME@SNAPSHOT` that a disk is a clone of; the name of a deleted disk is shown as such.
    pub fn clone_of(&self, disk: &Disk) -> Option<String> {
        let parent = disk.settings().parent?;
        let entry = self.shared.all_entries().into_iter().find(|entry| entry.uuid == parent.disk)?;
        let hidden = self.shared.hidden.read().iter().any(|hidden| hidden.uuid == parent.disk);
        let deleted = if hidden { " (deleted)" } else { "" };
        let line = match &*entry.state.lock() {
            State::Open(disk) => disk.snapshots().into_iter().find(|line| line.id == parent.line),
            _ => None,
        };
        Some(format!("{}@{}{deleted}", entry.name, line?.name))
    }

    fn check_generations(&self, entry: &Entry) -> Result<()> {
        let entries = self.shared.all_entries();
        let mut next = parent_of(entry);
        for _ in 0..GENERATIONS {
            let Some(parent) = next else { return Ok(()) };
            next = entries.iter().find(|other| other.uuid == parent.disk).and_then(|other| parent_of(other));
        }
        let what =
            format!("the disk \"{}\" is a clone of generation {GENERATIONS}, the last that there can be", entry.name);
        Err(Error::new(ErrorKind::LimitExceeded, what)
            .hint(format!("`sealdisk clone {} NEW --full` makes a copy that begins anew", entry.name)))
    }

    /// Deletes a disk that clones read from, from sight. [`ErrorKind::InUse`] while it is attached.
    pub(super) fn hide(&self, entry: &Arc<Entry>) -> Result<()> {
        self.shared.open_disk(entry, self.wake(), None)?;
        check_free(&mut entry.attached.lock(), entry, |_| true)?;
        with_alone(entry, |disk| disk.change_settings(|settings| settings.hidden = true))?;
        self.shared.hidden.write().push(Arc::clone(entry));
        self.shared.disks.write().remove(&entry.name);
        Ok(())
    }

    /// After a clone has gone: the snapshot that was drawn for it goes, and then its disk if that was kept for it alone.
    /// What fails is tried again when the account is opened next.
    pub(super) fn let_parent_go(&self, parent: &Parent) {
        let entry = self.shared.all_entries().into_iter().find(|entry| entry.uuid == parent.disk);
        let Some(entry) = entry else { return };
        let pinned = self.clones_of(parent.disk).iter().any(|(_, other)| other.line == parent.line);
        if parent.owned && !pinned {
            let dropped = self.shared.open_disk(&entry, self.wake(), None).and_then(|disk| {
                let line = disk.snapshots().into_iter().find(|line| line.id == parent.line);
                line.map_or(Ok(()), |line| disk.delete_snapshot(&line.name))
            });
            if let Err(error) = dropped {
                tracing::warn!(disk = %entry.name, %error, "the snapshot of a clone that is gone stays behind");
            }
        }
        self.remove_unread();
    }

    /// Whether a clone may read from a disk: one of those that are known, or a disk of which nothing is known.
    pub(super) fn may_be_read_from(&self, entry: &Entry) -> bool {
        self.shared.has_unknown || (!self.clones_of(entry.uuid).is_empty() && !mutant!(SourceNotKept))
    }

    /// Removes hidden disks that no clone reads from any more. One may have been the last clone of another.
    pub(super) fn remove_unread(&self) {
        loop {
            let hidden = self.shared.hidden.read().clone();
            let Some(unread) = hidden.into_iter().find(|entry| !self.may_be_read_from(entry)) else { return };
            self.shared.hidden.write().retain(|entry| entry.uuid != unread.uuid);
            let parent = parent_of(&unread);
            *unread.state.lock() = State::Gone;
            let folder = &self.shared.folder;
            if let Err(error) = folder.set_aside(unread.uuid).and_then(|()| folder.remove_aside(unread.uuid)) {
                tracing::warn!(disk = %unread.name, %error, "a deleted disk cannot be removed");
                return;
            }
            if let Some(parent) = parent {
                self.let_parent_go(&parent);
            }
        }
    }

    /// Whether `name` may be given to a disk.
    pub(super) fn check_free(&self, name: &BlobName) -> Result<()> {
        if self.shared.disks.read().contains_key(name) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("there is already a disk \"{name}\"")));
        }
        Ok(())
    }
}

/// What the disk of an entry is a clone of.
pub(super) fn parent_of(entry: &Entry) -> Option<Parent> {
    match &*entry.state.lock() {
        State::Open(disk) => disk.settings().parent,
        State::Closed | State::Gone => entry.parent.clone(),
    }
}
