//! Hidden disks: deleted, and kept because clones read from them.
//!
//! - A disk that clones read from is hidden by its settings, durably; nothing of it goes before that.
//! - From then on only the snapshots that its clones read from are kept: what was written after them, and what other
//!   snapshots held, can be read by nothing any more. It goes at once, when another clone goes, and, where either was
//!   cut off, when the account is opened next: in the background of a server, and before a verb ends.
//! - With its last clone it goes for good. A clone has gone when its deletion, or its detachment, is durable.
//! - Only what is under a MAC of the account says what nothing reads: where a disk cannot be authenticated, all of it
//!   stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::attachment::Use;
use super::entry::{Entry, EntryState};
use super::registry::{Keys, Registry, Shared};
use crate::crypto::keyring::KeyRing;
use crate::disk::{Access, Disk, Parent};
use crate::io::mutant;
use crate::{Error, ErrorKind, Result};

/// Ids of snapshots that clones read from, by disk.
type SnapshotsRead = BTreeMap<Uuid, BTreeSet<u32>>;

impl Registry {
    /// Deletes a disk that clones read from, from sight. [`ErrorKind::InUse`] while it is attached.
    pub(super) fn hide(&self, entry: &Arc<Entry>) -> Result<()> {
        let shared = &self.shared;
        let _open = shared.open_disk(entry, None, Use::Request)?.keep_open(Use::Request);
        drop(entry.lock_free(|_| true)?);
        mutant!(TrimmedInSight => shared.trim_or_warn(&[Arc::clone(entry)]));
        entry.with_alone(|_| true, |disk| disk.admin().change_settings(|settings| settings.hidden = true))?;
        shared.hidden.write().push(Arc::clone(entry));
        shared.disks.write().remove(&entry.name);
        shared.trim_or_warn(&[Arc::clone(entry)]);
        Ok(())
    }

    /// What was cut off before is done now: hidden disks that nothing reads go, the others are trimmed.
    pub(super) fn settle_hidden(&self) {
        self.shared.remove_unread();
        if matches!(&*self.shared.keys.read(), Keys::Locked(_)) || mutant!(TrimForgotten) {
            return;
        }
        let hidden = self.shared.hidden_entries();
        if !hidden.is_empty() {
            self.shared.trim_or_warn(&hidden);
        }
    }

    /// Tries again to drop of a hidden disk what no clone reads.
    pub(super) fn trim(&self, uuid: Uuid) -> Result<()> {
        let _changing = self.shared.change_disks()?;
        let entry = self.shared.hidden_entries().into_iter().find(|entry| entry.uuid == uuid);
        entry.map_or(Ok(()), |entry| self.shared.trim(&entry, &self.shared.snapshots_read()?))
    }

    /// Punches what is dead in hidden disks that are open, for who has no time to do it in the background.
    pub(super) fn scrub_hidden(&self) {
        for entry in self.shared.hidden_entries() {
            let state = entry.state.lock();
            let EntryState::Open(disk) = &*state else { continue };
            if !disk.read_only()
                && disk.admin().usage().is_ok_and(|usage| usage.pending_scrub != Some(0))
                && let Err(error) = disk.admin().scrub()
            {
                tracing::warn!(disk = %entry.uuid, %error, "what nothing reads any more of a deleted disk stays for now");
            }
        }
    }
}

impl Shared {
    pub(super) fn hidden_entries(&self) -> Vec<Arc<Entry>> {
        self.hidden.read().clone()
    }

    pub(super) fn is_hidden(&self, uuid: Uuid) -> bool {
        self.hidden.read().iter().any(|entry| entry.uuid == uuid)
    }

    /// Whether a clone may read from a disk: one of those that are known, or a disk of which nothing is known.
    pub(super) fn may_be_read_from(&self, entry: &Entry) -> bool {
        self.has_unknown || (!self.clones_of(entry.uuid).is_empty() && !mutant!(SourceNotKept))
    }

    /// The snapshots that clones read from, by id, each once, of every disk. Settings are read anew, and checked:
    /// nothing is dropped on the word of a file that somebody else may have written.
    fn snapshots_read(&self) -> Result<SnapshotsRead> {
        if self.has_unknown {
            return Err(Error::new(ErrorKind::InUse, "a disk that cannot be read may be a clone of any other"));
        }
        let mut snapshots = SnapshotsRead::new();
        for entry in self.all_entries() {
            let parent = if mutant!(ParentGoneBeforeDetached) {
                entry.parent.lock().clone()
            } else {
                let (_, settings, keys) = self.disk_settings(&entry)?;
                if keys.is_none() {
                    return Err(Error::new(ErrorKind::WrongKey, "the account is locked"));
                }
                settings.parent
            };
            if let Some(parent) = parent {
                snapshots.entry(parent.disk).or_default().insert(parent.snapshot);
            }
        }
        Ok(snapshots)
    }

    /// Drops of a hidden disk what no clone reads. `Ok`: it has only that, and what waits to be punched.
    fn trim(&self, entry: &Entry, read: &SnapshotsRead) -> Result<()> {
        // One that no clone reads from goes as a whole.
        let Some(keep) = read.get(&entry.uuid) else { return Ok(()) };
        let keep: Vec<u32> = keep.iter().copied().collect();
        let failed = match self.open_disk(entry, None, Use::Request) {
            Ok(disk) => return disk.admin().keep_only(&keep).map(drop),
            Err(error) => error,
        };
        // What lies under it may be gone, and is not needed for this.
        let state = entry.state.lock();
        if !matches!(&*state, EntryState::Closed) {
            return Err(failed);
        }
        let disk = self.open_bare(entry, &self.require_keys()?)?;
        disk.admin().keep_only(&keep)?;
        disk.admin().scrub()?;
        disk.close()
    }

    /// Tries it with each of `hidden`.
    fn trim_or_warn(&self, hidden: &[Arc<Entry>]) {
        let read = self.snapshots_read();
        for entry in hidden {
            let trimmed = read.as_ref().map_err(ToString::to_string);
            if let Err(error) = trimmed.and_then(|read| self.trim(entry, read).map_err(|error| error.to_string())) {
                tracing::warn!(disk = %entry.uuid, was = %entry.name, error,
                    "a deleted disk keeps what nothing reads any more; tried again when the account is opened next");
            }
        }
    }

    /// Opens a closed disk without what lies under it. The caller holds its state, and closes it again.
    pub(super) fn open_bare(&self, entry: &Entry, ring: &KeyRing) -> Result<Disk> {
        let (dir, keys) = (self.dir_of(entry)?, ring.disk_keys(entry.uuid)?);
        Disk::open(dir, Some(keys), None, Access::ReadWrite, true, self.setup.options.clone())
    }

    /// After a clone has gone, durably: the snapshot that was drawn for it goes, or, of a hidden disk, all that no
    /// other clone reads, and a hidden disk without clones. What fails is tried again when the account is opened next.
    pub(super) fn let_parent_go(&self, parent: &Parent) {
        let entry = self.all_entries().into_iter().find(|entry| entry.uuid == parent.disk);
        let Some(entry) = entry else { return };
        let pinned = self.clones_of(parent.disk).iter().any(|(_, other)| other.snapshot == parent.snapshot);
        if self.is_hidden(entry.uuid) {
            if self.may_be_read_from(&entry) {
                self.trim_or_warn(std::slice::from_ref(&entry));
            }
        } else if parent.owned && !pinned {
            let dropped = self.open_disk(&entry, None, Use::Request).and_then(|disk| {
                let snapshot = disk.snapshots().into_iter().find(|snapshot| snapshot.id == parent.snapshot);
                snapshot.map_or(Ok(()), |snapshot| disk.admin().delete_snapshot(&snapshot.name))
            });
            if let Err(error) = dropped {
                tracing::warn!(disk = %entry.name, %error, "the snapshot of a clone that is gone stays behind");
            }
        }
        self.remove_unread();
    }

    /// Removes hidden disks that no clone reads from any more. One may have been the last clone of another.
    pub(super) fn remove_unread(&self) {
        let unread = |entry: &Arc<Entry>| !self.may_be_read_from(entry);
        let mut left: Vec<Uuid> = Vec::new();
        loop {
            let mut hidden = self.hidden_entries().into_iter();
            let Some(entry) = hidden.find(|entry| !left.contains(&entry.uuid) && unread(entry)) else { return };
            if let Err(error) = self.remove_hidden(&entry) {
                tracing::warn!(disk = %entry.uuid, was = %entry.name, %error, "a deleted disk cannot be removed");
                left.push(entry.uuid);
            }
        }
    }

    fn remove_hidden(&self, entry: &Arc<Entry>) -> Result<()> {
        let unlocked = matches!(&*self.keys.read(), Keys::Unlocked(_));
        if unlocked && !mutant!(SourceNotKept) && self.snapshots_read()?.contains_key(&entry.uuid) {
            return Err(Error::new(ErrorKind::Corrupt, "a disk that does not say so is a clone of it"));
        }
        let was = entry.take_alone()?;
        if let Err(error) = self.folder.set_aside(entry.uuid) {
            *entry.state.lock() = was;
            return Err(error);
        }
        self.hidden.write().retain(|other| other.uuid != entry.uuid);
        drop(was);
        self.folder.remove_aside(entry.uuid)?;
        if let Some(parent) = entry.parent.lock().clone() {
            self.let_parent_go(&parent);
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use super::*;
    use crate::account::disk_ref::DiskRef;
    use crate::account::lock::{AccountLock, Hold};
    use crate::account::name::BlobName;
    use crate::account::registry::DISKS;
    use crate::account::settings::Settings;
    use crate::base::{self, PassedImage};
    use crate::crypto::kek::{Kek, SourceRecord};
    use crate::crypto::secret::SecretKey;
    use crate::disk::Durability;
    use crate::io::real::RealDir;
    use std::path::Path;

    fn open(folder: &Path) -> Registry {
        let kek = Kek::new(SecretKey::filled(1));
        let dir = RealDir::open(folder).expect("opened");
        let settings = Settings::load(&dir).expect("settings");
        let ring = settings.unlock(&kek).expect("keys");
        let lock = AccountLock::try_take(&dir, Hold::Exclusive).expect("a lock").expect("free");
        Registry::open(folder, lock, settings, Keys::Unlocked(ring)).expect("opened")
    }

    fn close(registry: Registry) {
        registry.close().expect("closed");
    }

    fn name(text: &str) -> BlobName {
        text.parse().expect("a name")
    }

    /// Whether a page filled with `byte` lies in a plain layer.
    fn has_page(disk: &Path, byte: u8) -> bool {
        let layers =
            std::fs::read_dir(disk.join("layers")).expect("layers").map(|entry| entry.expect("a layer").path());
        let plain = layers.filter(|path| path.extension().is_some_and(|kind| kind == "plain"));
        let content: Vec<u8> = plain.flat_map(|path| std::fs::read(path).expect("a layer")).collect();
        content.chunks(512).any(|page| page == [byte; 512])
    }

    /// Hidden by a program that kept everything, or by one that was killed at once, also where its base is gone by now.
    #[test]
    fn what_nothing_reads_of_a_disk_that_was_hidden_before_goes_when_the_account_is_opened_next() {
        for base_gone in [false, true] {
            let temporary = tempfile::tempdir().expect("dir");
            let (folder, image) = (temporary.path().join("account"), temporary.path().join("image"));
            std::fs::create_dir_all(folder.join(DISKS)).expect("folders");
            std::fs::write(&image, vec![7; 64 << 10]).expect("an image");
            let kek = Kek::new(SecretKey::filled(1));
            let dir = RealDir::open(&folder).expect("opened");
            Settings::create(&dir, Uuid::new_v4(), &kek, SourceRecord::Fd, false).expect("an account");
            let registry = open(&folder);
            let (image_file, record) = base::open(&image, &base::OpenOptions::default()).expect("an image");
            let handed = PassedImage { image: image_file, record, passed_fds: Vec::new() };
            let disk = registry.create(&name("source"), None, Some(handed)).expect("made");
            disk.write(0, &[1; 4096], Durability::Fua).expect("written");
            drop(registry.clone_disk(&"source".parse().expect("a disk"), &name("clone")).expect("made"));
            disk.write(8192, &[2; 4096], Durability::Fua).expect("written");
            disk.admin().create_snapshot("afterwards").expect("drawn");
            disk.admin().change_settings(|settings| settings.hidden = true).expect("hidden");
            let source = disk.uuid();
            let path = folder.join(DISKS).join(source.to_string());
            drop(disk);
            close(registry);
            assert!(has_page(&path, 2));

            if base_gone {
                std::fs::remove_file(&image).expect("removed");
            }
            open(&folder).close().expect("closed");
            assert!(has_page(&path, 1) && !has_page(&path, 2), "base gone: {base_gone}");
            std::fs::write(&image, vec![7; 64 << 10]).expect("an image");
            if base_gone {
                // Another file by now: the clone needs a rebase, and the hidden disk cannot be read without either.
                continue;
            }
            let registry = open(&folder);
            let mut buf = [0; 12288];
            registry.disk(&name("clone")).expect("opened").read(0, &mut buf).expect("read");
            assert_eq!((buf[0], buf[4096], buf[8192]), (1, 7, 7));
            assert_eq!(registry.disk_of(&DiskRef::Uuid(source)).expect("opened").snapshots().len(), 1);
            close(registry);
        }
    }

    /// Which clones there are is read from files that somebody may have changed.
    #[test]
    fn nothing_is_dropped_while_the_settings_of_a_disk_fail_their_mac() {
        let temporary = tempfile::tempdir().expect("dir");
        let folder = temporary.path().join("account");
        std::fs::create_dir_all(folder.join(DISKS)).expect("folders");
        let kek = Kek::new(SecretKey::filled(1));
        let dir = RealDir::open(&folder).expect("opened");
        Settings::create(&dir, Uuid::new_v4(), &kek, SourceRecord::Fd, false).expect("an account");
        let registry = open(&folder);
        let source = registry.create(&name("source"), Some(64 << 10), None).expect("made");
        source.write(0, &[1; 512], Durability::Fua).expect("written");
        let clone = registry.clone_disk(&"source".parse().expect("a disk"), &name("clone")).expect("made").uuid();
        let path = folder.join(DISKS).join(source.uuid().to_string());
        drop(source);
        registry.delete(&name("source")).expect("hidden");
        close(registry);

        // The clone without its parent, and a checksum that fits.
        let settings = folder.join(DISKS).join(clone.to_string()).join("disk.toml");
        let text = std::fs::read_to_string(&settings).expect("settings");
        let (body, seal) = text.rsplit_once("\n[seal]\n").expect("a seal");
        let forged = body.split("\n[parent]").next().expect("a body").to_owned() + "\n";
        let crc = |body: &str| crc32c::crc32c(body.as_bytes()).to_string();
        let seal = seal.replace(&crc(body), &crc(&forged));
        std::fs::write(&settings, format!("{forged}\n[seal]\n{seal}")).expect("forged");
        open(&folder).close().expect("closed");
        assert!(has_page(&path, 1), "the clone reads it");
        std::fs::write(&settings, text).expect("as it was");
        let registry = open(&folder);
        let mut buf = [0; 512];
        registry.disk(&name("clone")).expect("opened").read(0, &mut buf).expect("read");
        assert_eq!(buf, [1; 512]);
        close(registry);
    }
}
