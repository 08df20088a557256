//! A directory in memory behind the file seam of the core: complete disks are copied, damaged and opened in
//! microseconds, and a file has the same identity wherever and whenever it is made.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealdisk::io::{Dir, File, FileSystemId, Open};

/// Bytes of the largest file: what a hostile file claims is refused as a file system would.
const LARGEST: u64 = 64 << 20;

#[derive(Debug)]
struct Content {
    bytes: Mutex<Vec<u8>>,
    inode: u64,
}

#[derive(Debug, Default)]
struct Entries {
    files: BTreeMap<String, Arc<Content>>,
    folders: BTreeMap<String, MemoryDir>,
}

/// Clones are the same directory; [`MemoryDir::copy`] makes another one.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDir {
    path: PathBuf,
    entries: Arc<Mutex<Entries>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn content(name: &str, bytes: Vec<u8>) -> Arc<Content> {
    let inode = name.bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
    Arc::new(Content { bytes: Mutex::new(bytes), inode })
}

impl MemoryDir {
    /// Reads a folder and what lies below it.
    pub(crate) fn load(folder: &Path) -> io::Result<Self> {
        let dir = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut entries = lock(&dir.entries);
            if entry.file_type()?.is_dir() {
                entries.folders.insert(name, Self::load(&entry.path())?);
            } else {
                let bytes = std::fs::read(entry.path())?;
                entries.files.insert(name.clone(), content(&name, bytes));
            }
        }
        Ok(dir)
    }

    pub(crate) fn copy(&self) -> Self {
        let ours = lock(&self.entries);
        let files = ours.files.iter().map(|(name, file)| (name.clone(), content(name, lock(&file.bytes).clone())));
        let folders = ours.folders.iter().map(|(name, folder)| (name.clone(), folder.copy()));
        let entries = Entries { files: files.collect(), folders: folders.collect() };
        Self { path: self.path.clone(), entries: Arc::new(Mutex::new(entries)) }
    }

    /// The directory at `path` below this one, itself and no copy.
    pub(crate) fn folder(&self, path: &str) -> Self {
        path.split('/').fold(self.clone(), |dir, name| lock(&dir.entries).folders[name].clone())
    }

    /// The files with their content, those of folders as `folder/name`, in order.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = lock(&self.entries);
        let mut files: BTreeMap<_, _> =
            entries.files.iter().map(|(name, file)| (name.clone(), lock(&file.bytes).clone())).collect();
        for (folder, dir) in &entries.folders {
            files.extend(dir.files().into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes)));
        }
        files
    }

    /// Makes `bytes` the content of a file named as by [`MemoryDir::files`], whose folder is there.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        match name.split_once('/') {
            Some((folder, rest)) => lock(&self.entries).folders[folder].put(rest, bytes),
            None => drop(lock(&self.entries).files.insert(name.to_owned(), content(name, bytes))),
        }
    }

    pub(crate) fn take_away(&self, name: &str) {
        match name.split_once('/') {
            Some((folder, rest)) => lock(&self.entries).folders[folder].take_away(rest),
            None => drop(lock(&self.entries).files.remove(name)),
        }
    }
}

impl Dir for MemoryDir {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let mut entries = lock(&self.entries);
        match (entries.files.get(name), how) {
            (Some(_), Open::New) => Err(ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Arc::clone(file) as Arc<dyn File>),
            (None, Open::New) => {
                let file = content(name, Vec::new());
                entries.files.insert(name.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (None, _) => Err(ErrorKind::NotFound.into()),
        }
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let folder = lock(&self.entries).folders.get(name).cloned();
        folder.map(|folder| Arc::new(folder) as Arc<dyn Dir>).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let folder = Self { path: self.path.join(name), entries: Arc::default() };
        match lock(&self.entries).folders.insert(name.to_owned(), folder) {
            None => Ok(()),
            Some(_) => Err(ErrorKind::AlreadyExists.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut entries = lock(&self.entries);
        let file = entries.files.remove(from).ok_or(ErrorKind::NotFound)?;
        entries.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        let mut entries = lock(&self.entries);
        let file = |name: &str| entries.files.get(name).cloned().ok_or(ErrorKind::NotFound);
        let (first, second) = (file(one)?, file(other)?);
        entries.files.insert(one.to_owned(), second);
        entries.files.insert(other.to_owned(), first);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.entries).files.remove(name).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = lock(&self.entries);
        let mut names: Vec<String> = entries.files.keys().chain(entries.folders.keys()).cloned().collect();
        names.sort();
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>> {
        Ok(None)
    }

    fn file_system(&self) -> io::Result<FileSystemId> {
        Ok(0)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl File for Content {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = lock(&self.bytes);
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let end = offset.checked_add(buf.len() as u64).ok_or(ErrorKind::InvalidInput)?;
        if self.size()? < end {
            self.set_size(end)?;
        }
        lock(&self.bytes)[offset as usize..end as usize].copy_from_slice(buf);
        Ok(buf.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.bytes).len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        if size > LARGEST {
            return Err(ErrorKind::FileTooLarge.into());
        }
        lock(&self.bytes).resize(size as usize, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = lock(&self.bytes);
        let size = bytes.len() as u64;
        let end = offset.saturating_add(len).min(size);
        bytes[offset.min(end) as usize..end as usize].fill(0);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(ErrorKind::InvalidInput)?;
        if self.size()? < end { self.set_size(end) } else { Ok(()) }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.size()?;
        Ok((offset < size).then_some((offset, size)))
    }

    fn read_ahead(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((1, self.inode))
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}
