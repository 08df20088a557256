//! Disks come and go, and change: create, delete, rename, resize, rebase. That each is there whole or not at all, at
//! any crash, is the business of [`Folder`](super::folder::Folder).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use uuid::Uuid;

use super::attachment::{Attachment, Use};
use super::disk_ref::DiskRef;
use super::entry::{Entry, EntryState};
use super::name::BlobName;
use super::registry::Registry;
use crate::base::{BaseImage, BaseRecord, PassedImage};
use crate::disk::{Disk, Spec, check_size};
use crate::io::system;
use crate::{Error, ErrorKind, Result};

impl Registry {
    /// Makes a disk of `size` bytes (over a base: at least the base's size, which is the default) and opens it.
    pub fn create(&self, name: &BlobName, size: Option<u64>, base: Option<PassedImage>) -> Result<Attachment> {
        let size = disk_size(size, base.as_ref().map(|base| base.record.size))?;
        let _changing = self.shared.change_disks()?;
        self.check_free(name)?;
        let spec = Spec::new(system::uuid()?, name.to_string(), size);
        let Some(PassedImage { image, record, passed_fds }) = base else { return self.publish(name, &spec, None) };
        let made = self.publish(name, &Spec { base: Some(record), ..spec }, Some(image));
        if let Ok(entry) = self.shared.entry(name) {
            *entry.passed_fds.lock() = passed_fds;
        }
        made
    }

    /// Makes the disk of a specification and opens it, over `image` if it has a base. The caller holds `changing`.
    pub(super) fn publish(
        &self,
        name: &BlobName,
        spec: &Spec,
        image: Option<Arc<dyn BaseImage>>,
    ) -> Result<Attachment> {
        let keys = self.shared.require_keys()?.disk_keys(spec.uuid)?;
        let options = &self.shared.setup.options;
        self.shared.folder.make(spec.uuid, |dir| Disk::create(dir, spec, keys, self.encryption(), options))?;
        let entry = Entry {
            parent: spec.parent.clone().into(),
            unfinished: AtomicBool::new(spec.unfinished.is_some()),
            ..Entry::new(spec.uuid, name.clone(), EntryState::Closed)
        };
        let entry = Arc::new(entry);
        self.shared.disks.write().insert(name.clone(), Arc::clone(&entry));
        self.shared.open_disk(&entry, image, Use::Request)
    }

    /// Removes a disk for good; one that clones read from only from sight, until the last of them is gone: its UUID is
    /// `Some` then. Refused while a client has it, or a snapshot of it, attached.
    pub fn delete(&self, name: &BlobName) -> Result<Option<Uuid>> {
        let _changing = self.shared.change_disks()?;
        let entry = self.shared.entry(name)?;
        if self.shared.may_be_read_from(&entry) {
            self.hide(&entry)?;
            return Ok(Some(entry.uuid));
        }
        let parent = entry.parent.lock().clone();
        let was = entry.take_alone()?;
        if let Err(error) = self.shared.folder.set_aside(entry.uuid) {
            *entry.state.lock() = was;
            return Err(error);
        }
        self.shared.disks.write().remove(name);
        drop(was);
        self.shared.folder.remove_aside(entry.uuid)?;
        if let Some(parent) = parent {
            self.shared.let_parent_go(&parent);
        }
        Ok(None)
    }
}

impl Registry {
    /// Gives a disk another name. Clients that have it attached go on.
    pub fn rename(&self, name: &BlobName, to: &BlobName) -> Result<()> {
        let _changing = self.shared.change_disks()?;
        let disk = self.disk(name)?;
        let entry = self.shared.entry(name)?;
        if name != to {
            self.check_free(to)?;
        }
        let was_sound = !disk.admin().is_poisoned();
        disk.admin().rename(&to.to_string()).inspect_err(|_| {
            if was_sound && disk.admin().is_poisoned() {
                // It may have either name after a crash, so no other disk may get one of them.
                self.shared.folder.doubt();
            }
        })?;
        // Held until the disk is found by its new name: no change of the setting may miss it.
        let _account = self.shared.settings.read();
        // Whoever still has the old entry finds it gone, as after a deletion, and not before the new one is there.
        let mut state = entry.state.lock();
        let was = std::mem::replace(&mut *state, EntryState::Gone);
        let renamed = Entry {
            parent: disk.admin().settings().parent.into(),
            attachments: Arc::clone(&entry.attachments),
            ..Entry::new(entry.uuid, to.clone(), was)
        };
        *renamed.passed_fds.lock() = std::mem::take(&mut *entry.passed_fds.lock());
        let mut disks = self.shared.disks.write();
        disks.remove(name);
        disks.insert(to.clone(), Arc::new(renamed));
        Ok(())
    }

    /// Makes a disk `size` bytes long. What a shrink cuts off is gone for good, so it has to be `shrink`.
    pub fn resize(&self, name: &BlobName, size: u64, shrink: bool) -> Result<()> {
        let disk = self.disk(name)?;
        if size < disk.size() && !shrink {
            let what = format!("{size} bytes are less than the {} that the disk has", disk.size());
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("--yes cuts off what is behind them, for good"));
        }
        disk.admin().resize(size)
    }

    /// What is recorded of a disk's base, also where that base is gone.
    pub fn base(&self, disk: &DiskRef) -> Result<Option<BaseRecord>> {
        let entry = self.shared.find_entry(disk)?;
        Ok(self.shared.disk_settings(&entry)?.1.base)
    }

    /// Takes `base` for the base image of a disk: the same content, at another place or with more known about it; with
    /// `in_place` at the same place.
    pub fn rebase(&self, name: &BlobName, base: PassedImage, in_place: bool) -> Result<()> {
        let PassedImage { image, record, passed_fds } = base;
        let Some(recorded) = self.base(&name.into())? else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("the disk \"{name}\" lies over no image")));
        };
        recorded.check_same(&record)?;
        if in_place && !recorded.paths().eq(record.paths()) {
            return Err(Error::new(ErrorKind::InvalidInput, "is not where the base image is").at_path(&record.path));
        }
        // A disk that could not be opened without its base can be now.
        let disk = self.open_over(name, Some(Arc::clone(&image)))?;
        let entry = self.shared.entry(name)?;
        *entry.passed_fds.lock() = passed_fds;
        disk.admin().set_base(record, image)?;
        entry.health.base(name, disk.admin().check_base());
        Ok(())
    }
}

/// The size of a new disk, in bytes.
fn disk_size(asked: Option<u64>, base: Option<u64>) -> Result<u64> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidInput, what);
    let size = match (asked, base) {
        (Some(size), Some(base)) if size < base => {
            return Err(invalid(format!("a disk of {size} bytes is smaller than its base, which has {base}"))
                .hint("leave --size out to take the size of the base"));
        }
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => return Err(invalid("a disk without a base needs a size".to_owned()).hint("--size 10G")),
    };
    check_size(size).map(|()| size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::lock::{AccountLock, Hold};
    use crate::account::registry::{DISKS, Keys};
    use crate::account::settings::Settings;
    use crate::base;
    use crate::crypto::kek::{Kek, SourceRecord};
    use crate::crypto::secret::SecretKey;
    use crate::io::real::RealDir;

    #[test]
    fn a_disk_is_at_least_its_base_and_whole_pages() {
        assert_eq!(disk_size(Some(1024), None).expect("size"), 1024);
        assert_eq!(disk_size(None, Some(1536)).expect("size"), 1536);
        assert_eq!(disk_size(Some(2048), Some(1536)).expect("size"), 2048);
        for (asked, base) in [(None, None), (Some(0), None), (Some(513), None), (Some(512), Some(1024))] {
            let error = disk_size(asked, base).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.hint_text().is_some());
        }
    }

    /// What a verb passed over is opened again after the disk was closed, though no path leads to it.
    #[test]
    fn a_base_out_of_reach_is_kept() {
        let temporary = tempfile::tempdir().expect("dir");
        let (folder, image) = (temporary.path().join("account"), temporary.path().join("image"));
        std::fs::create_dir_all(folder.join(DISKS)).expect("folders");
        std::fs::write(&image, vec![7; 64 << 10]).expect("an image");
        let dir = RealDir::open(&folder).expect("opened");
        let kek = Kek::new(SecretKey::filled(1));
        let (settings, ring) =
            Settings::create(&dir, Uuid::new_v4(), &kek, SourceRecord::Fd, true).expect("an account");
        let lock = AccountLock::try_take(&dir, Hold::Exclusive).expect("a lock").expect("free");
        let registry = Registry::open(&folder, lock, settings, Keys::Unlocked(ring)).expect("opened");

        let (_, record) = base::open(&image, &base::OpenOptions::default()).expect("an image");
        let hand = || PassedImage::take(record.clone(), base::open_files(&record).expect("opened")).expect("taken");
        let name = |text: &str| text.parse::<BlobName>().expect("a name");
        assert!(hand().passed_fds.is_empty(), "it can be opened by its path");
        let files = base::open_files(&record).expect("opened");
        std::fs::remove_file(&image).expect("removed");
        let passed_fds = PassedImage::take(record, files).expect("taken");
        assert_eq!(passed_fds.passed_fds.len(), 1);
        drop(registry.create(&name("disk"), None, Some(passed_fds)).expect("made"));
        registry.rename(&name("disk"), &name("renamed")).expect("renamed");

        registry.disk(&name("renamed")).expect("open").close().expect("closed");
        *registry.shared.entry(&name("renamed")).expect("there").state.lock() = EntryState::Closed;
        let mut buf = [0; 512];
        registry.disk(&name("renamed")).expect("opened again").read(1024, &mut buf).expect("read");
        assert_eq!(buf, [7; 512]);
        registry.close().expect("closed");
    }
}
