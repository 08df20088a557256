//! The folder of an account's disks: a folder for each, called by its uuid.
//!
//! A disk is made in `.new-UUID` and appears by a rename; it disappears by a rename to `.gone-UUID` and is removed
//! there. So at every moment, a crash included, a disk is there whole or not at all. For that:
//!
//! - a rename is durable before anybody hears of it, and before anything that it made superfluous is removed, or, as
//!   the wrapped data keys are, overwritten;
//! - what a killed process left may look durable and not be, so who opens the folder to change it first makes it so,
//!   the names of the disks in their settings too;
//! - after a sync that failed nobody knows what a crash would leave, so no disk is added, removed or renamed any more
//!   until the account is opened anew.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::entry::{Entry, EntryState};
use super::failure::Failure;
use super::lock::{AccountLock, Hold};
use super::name::BlobName;
use super::registry::DISKS;
use crate::disk::{self, DiskSettings};
use crate::io::{Dir, FileSystemId, mutant, unless_mutant};
use crate::{Error, ErrorKind, Result};

/// Prefix of the folder of a disk that is being made.
const NEW: &str = ".new-";
/// Prefix of the folder of a disk that is being removed.
const GONE: &str = ".gone-";

/// What lies in the folder.
#[derive(Default)]
pub(super) struct Index {
    pub(super) disks: BTreeMap<BlobName, Arc<Entry>>,
    pub(super) hidden: Vec<Arc<Entry>>,
    pub(super) damaged: Vec<(String, Failure)>,
    /// A disk cannot be read, so that nobody knows what it may be a clone of.
    pub(super) has_unknown: bool,
}

/// Folders of disks in which names may not be durable.
#[derive(Debug, Clone, Copy)]
enum Unsettled {
    Nothing,
    /// Those elsewhere: a disk may lie on a file system that is mounted in its place.
    NotOn(FileSystemId),
    Everything,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Folder {
    dir: Arc<dyn Dir>,
    in_doubt: AtomicBool,
}

impl Folder {
    pub(super) fn open(account: &dyn Dir) -> Result<Self> {
        let dir = account
            .subdir(DISKS)
            .map_err(|e| Error::io("cannot open the folder of the disks", e).at_path(account.path().join(DISKS)))?;
        Ok(Self { dir, in_doubt: AtomicBool::new(false) })
    }

    /// The folder of a disk, whatever its name.
    pub(super) fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        self.dir.subdir(name)
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error {
        let path = self.dir.path().to_owned();
        move |error| Error::io(what, error).at_path(&path)
    }

    /// Reads the names of all disks. Who holds the account alone settles what is there and removes what interrupted
    /// verbs left; folders of more than `few` disks are settled at once, where the file system can.
    pub(super) fn index(&self, lock: &AccountLock, few: usize) -> Result<Index> {
        let exclusive = lock.hold() == Hold::Exclusive;
        let all_found = self.dir.list().map_err(self.failed("cannot read the folder of the disks"))?;
        let unsettled = if exclusive { self.make_durable(lock, all_found.len() > few)? } else { Unsettled::Nothing };
        let mut index = Index::default();
        for found in all_found {
            if found.starts_with(NEW) || found.starts_with(GONE) {
                if exclusive && !mutant!(LeftoversStay) {
                    self.clear_away(&found);
                }
                continue;
            }
            match self.identify(&found, unsettled) {
                Ok((entry, true)) => index.hidden.push(Arc::new(entry)),
                Ok((entry, false)) if index.disks.contains_key(&entry.name) => {
                    let what = format!("two disks have the name \"{}\"", entry.name);
                    let error = Error::new(ErrorKind::Corrupt, what)
                        .at_path(self.dir.path().join(&found))
                        .hint("move this folder away, rename the other disk, and move it back");
                    index.has_unknown = true;
                    index.damaged.push((found, error.into()));
                }
                Ok((entry, false)) => {
                    index.disks.insert(entry.name.clone(), Arc::new(entry));
                }
                Err(error) => {
                    index.has_unknown |= uuid_of(&found).is_some() && !mutant!(UnknownIsNoClone);
                    index.damaged.push((found, error.into()));
                }
            }
        }
        Ok(index)
    }

    /// Makes the names of the disks durable, and what lies in the folders of `many` after a kill.
    fn make_durable(&self, lock: &AccountLock, many: bool) -> Result<Unsettled> {
        let failed = self.failed("the names of the disks cannot be made durable");
        let abandoned = lock.was_abandoned() && !mutant!(DiskNamesNotSettled);
        let unsettled = if abandoned { self.sync_all(many).map_err(&failed)? } else { Unsettled::Nothing };
        // The last: older kernels keep to themselves what went wrong with the journal in a sync of the file system, and
        // tell it here.
        unless_mutant!(FolderNotSettled => self.dir.sync().map_err(&failed)?);
        Ok(unsettled)
    }

    /// Syncs the file system of the account where there are `many` disks, and says what is left to be synced.
    fn sync_all(&self, many: bool) -> std::io::Result<Unsettled> {
        if !many {
            return Ok(Unsettled::Everything);
        }
        if mutant!(FileSystemNotSettled) {
            return Ok(Unsettled::NotOn(self.dir.file_system()?));
        }
        Ok(self.dir.sync_file_system()?.map_or(Unsettled::Everything, Unsettled::NotOn))
    }

    /// The disk in a folder, and whether it is hidden.
    fn identify(&self, found: &str, unsettled: Unsettled) -> Result<(Entry, bool)> {
        let path = self.dir.path().join(found);
        let uuid = uuid_of(found)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "is no disk: its name is no uuid").at_path(&path))?;
        let dir = self.dir.subdir(found).map_err(|e| Error::io("cannot open the disk", e).at_path(&path))?;
        let settled = || match unsettled {
            Unsettled::Nothing => Ok(()),
            Unsettled::NotOn(file_system) if dir.file_system()? == file_system => Ok(()),
            Unsettled::NotOn(_) | Unsettled::Everything => dir.sync(),
        };
        settled().map_err(|e| Error::io("what was changed last cannot be made durable", e).at_path(&path))?;
        // The name is authenticated when the disk is opened; here it only finds the folder.
        let settings = DiskSettings::load(&*dir, None)?;
        let entry = Entry {
            parent: settings.parent.into(),
            unfinished: AtomicBool::new(settings.unfinished.is_some()),
            ..Entry::new(uuid, settings.name.parse()?, EntryState::Closed)
        };
        Ok((entry, settings.hidden))
    }

    /// Refuses where a change failed in such a way that a crash may leave it or not.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_in_doubt() && !mutant!(DoubtForgotten) {
            let what =
                "a change before failed half-way: no disk is made, renamed or deleted until the account is opened anew";
            return Err(Error::new(ErrorKind::Poisoned, what)
                .at_path(self.dir.path())
                .hint("look at the log for what failed, then restart the server"));
        }
        Ok(())
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::SeqCst)
    }

    /// From now on [`Folder::check`] refuses.
    pub(super) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::SeqCst);
    }

    fn sync(&self, what: &'static str) -> Result<()> {
        self.dir.sync().map_err(|error| {
            self.doubt();
            self.failed(what)(error)
        })
    }

    /// Makes the folder of disk `uuid` with what `fill` puts there, whole and durable or not at all.
    pub(super) fn make(&self, uuid: Uuid, fill: impl FnOnce(Arc<dyn Dir>) -> Result<()>) -> Result<()> {
        let failed = self.failed("the disk cannot be made");
        let (new, name) = (format!("{NEW}{uuid}"), uuid.to_string());
        let new = if mutant!(MadeInSight) { name.clone() } else { new };
        let made = self
            .dir
            .create_dir(&new)
            .and_then(|()| self.dir.subdir(&new))
            .map_err(&failed)
            .and_then(fill)
            .and_then(|()| if new == name { Ok(()) } else { self.dir.rename(&new, &name).map_err(&failed) });
        if made.is_err() {
            // What stays is removed when the account is opened next.
            self.clear_away(&new);
            return made;
        }
        if mutant!(DiskNameNotSynced) {
            return Ok(());
        }
        self.sync("the new disk cannot be made durable").inspect_err(|_| {
            // Out of sight, whole: whether this is what a crash leaves nobody knows.
            if let Err(error) = self.set_aside(uuid) {
                tracing::warn!(disk = %uuid, %error, "the disk that could not be made durable stays");
            }
        })
    }

    /// Makes a folder no disk any more, at once. [`Folder::remove_aside`] goes on.
    pub(super) fn set_aside(&self, uuid: Uuid) -> Result<()> {
        let gone = format!("{GONE}{uuid}");
        self.dir.rename(&uuid.to_string(), &gone).map_err(self.failed("the disk cannot be deleted"))
    }

    /// Makes that durable, and removes what was there. What of it cannot be removed goes when the account is opened
    /// next.
    pub(super) fn remove_aside(&self, uuid: Uuid) -> Result<()> {
        let gone = format!("{GONE}{uuid}");
        mutant!(RemovedBeforeItsName => self.clear_away(&gone));
        unless_mutant!(DeletionNotSynced => self.sync("the deletion cannot be made durable")?);
        self.clear_away(&gone);
        Ok(())
    }

    /// Removes a folder that is no disk any more, with all that is in it; its wrapped data keys are overwritten first.
    /// What cannot be overwritten stays, to be tried again when the account is opened next.
    fn clear_away(&self, name: &str) {
        if let Err(error) = remove_disk(&*self.dir, name) {
            let path = self.dir.path().join(name);
            tracing::warn!(path = %path.display(), %error, "what is left of a disk cannot be removed");
        }
    }
}

fn uuid_of(folder: &str) -> Option<Uuid> {
    Uuid::parse_str(folder).ok().filter(|uuid| uuid.to_string() == folder)
}

fn remove_disk(dir: &dyn Dir, name: &str) -> Result<()> {
    let removed = |error| Error::io("cannot be removed", error).at_path(dir.path().join(name));
    let inner = match dir.subdir(name) {
        Ok(inner) => inner,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Not a folder.
        Err(_) => return dir.remove(name).map_err(removed),
    };
    let erased = if mutant!(KeysLeftLying) { Ok(()) } else { disk::erase_keys(&*inner) };
    let names = inner.list().map_err(removed)?;
    let others = names.iter().filter(|name| erased.is_ok() || *name != disk::KEYS);
    others.into_iter().try_for_each(|name| remove_all(&*inner, name)).map_err(removed)?;
    erased?;
    dir.remove(name).map_err(removed)
}

fn remove_all(dir: &dyn Dir, name: &str) -> io::Result<()> {
    match dir.remove(name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            // It is a directory with something in it, or cannot be removed at all.
            let Ok(inner) = dir.subdir(name) else { return Err(error) };
            inner.list()?.iter().try_for_each(|name| remove_all(&*inner, name))?;
            dir.remove(name)
        }
    }
}
