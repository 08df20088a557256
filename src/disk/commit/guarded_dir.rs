//! A directory of an open disk: invariant 8 for names. Its syncs take turns, and one that fails poisons the disk before
//! the next may begin, so nobody receives the success that may follow. Without that, one thread's failed sync could
//! lose the rename of another, whose own sync then succeeds: a file system may tell of the loss once only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::poison::Poison;
use crate::Error;
use crate::io::sync::Mutex;
use crate::io::{Dir, File, FileSystemId, Open, mutant};

#[derive(Debug)]
pub(crate) struct GuardedDir {
    dir: Arc<dyn Dir>,
    poison: Arc<Poison>,
    syncing: Mutex<()>,
}

impl GuardedDir {
    pub(crate) fn new(dir: Arc<dyn Dir>, poison: &Arc<Poison>) -> Self {
        Self { dir, poison: Arc::clone(poison), syncing: Mutex::default() }
    }

    fn guarded<T>(&self, sync: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if mutant!(DirectoryNotGuarded) {
            return sync();
        }
        let _one_at_a_time = self.syncing.lock();
        self.poison.check().map_err(io::Error::other)?;
        sync().inspect_err(|error| {
            let error = io::Error::new(error.kind(), error.to_string());
            self.poison.set(Error::io("names cannot be made durable", error).at_path(self.dir.path()));
        })
    }
}

impl Dir for GuardedDir {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        self.dir.open(name, how)
    }

    /// Guarded by the same mark.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self::new(self.dir.subdir(name)?, &self.poison)))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.dir.create_dir(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        self.dir.exchange(one, other)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.guarded(|| self.dir.sync())
    }

    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>> {
        self.guarded(|| self.dir.sync_file_system())
    }

    fn file_system(&self) -> io::Result<FileSystemId> {
        self.dir.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.dir.free_bytes()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[cfg(all(test, sealdisk_sim))]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::io::sim::{Fault, Faults, SimDisk, direct};

    #[test]
    fn a_failed_sync_is_followed_by_no_success() {
        direct(|| {
            let (disk, poison) = (SimDisk::new(1), Arc::new(Poison::default()));
            let root = disk.root();
            let dir = GuardedDir::new(Arc::clone(&root), &poison);
            disk.set_faults(Faults { once: Some((0, Fault::Eio)), ..Faults::default() });
            assert!(dir.sync().is_err());
            assert!(root.sync().is_ok(), "the file system tells it once");
            let told = Error::io("refused", dir.sync().expect_err("the mark is set"));
            assert_eq!((told.kind(), poison.is_set()), (ErrorKind::Poisoned, true));
        });
    }
}
