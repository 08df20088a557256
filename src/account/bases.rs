//! The image files that the disks of an account lie over, before and while it is served.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::entry::Entry;
use super::registry::{DISKS, Keys, Registry};
use crate::base::{self, BaseImage, BaseRecord};
use crate::disk::DiskSettings;
use crate::io::Dir;
use crate::{Error, Result};

/// Every file of every recorded base, parents of differencing VHDs too, each once. Only what is under a MAC of the
/// account counts: a record that somebody else put there names nothing. What cannot be read as a disk is passed over;
/// it does not open either.
pub(super) fn recorded(account: &dyn Dir, keys: &Keys) -> Result<Vec<PathBuf>> {
    let Keys::Unlocked(keys) = keys else { return Ok(Vec::new()) };
    let failed = |error| Error::io("cannot read the folder of the disks", error).at_path(account.path().join(DISKS));
    let folder = account.subdir(DISKS).map_err(failed)?;
    let mut files = Vec::new();
    for name in folder.list().map_err(failed)? {
        let Ok(uuid) = Uuid::parse_str(&name) else { continue };
        let Ok(dir) = folder.subdir(&name) else { continue };
        let keys = keys.disk_keys(uuid)?;
        if let Ok(DiskSettings { base: Some(base), .. }) = DiskSettings::load(&*dir, Some(&keys)) {
            files.extend(base.files.into_iter().map(|file| file.path));
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

impl Registry {
    /// See [`recorded`].
    pub fn recorded_images(&self) -> Result<Vec<PathBuf>> {
        recorded(&*self.shared.account, &self.shared.keys.read())
    }
}

impl Entry {
    /// Opens the base of a closed disk, from the files that were passed over where a verb has done so.
    pub(super) fn reopen_base(&self, record: &BaseRecord) -> Result<Arc<dyn BaseImage>> {
        let passed_fds = self.passed_fds.lock();
        if passed_fds.is_empty() { base::reopen(record) } else { base::reopen_files(record, base::share(&passed_fds)?) }
    }
}
