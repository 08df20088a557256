//! A new file that appears under its name only when it is whole.
//!
//! Until then it has no name at all, so that nothing half-made stays behind, not even after a kill or a power cut. File
//! systems without unnamed files get a hidden name beside the target, removed on the way out of an error.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::io::real::RealFile;
use crate::{Error, ErrorKind, Result};

/// See the module documentation.
#[derive(Debug)]
pub struct Output {
    file: RealFile,
    target: PathBuf,
    folder: File,
    /// The hidden name, where the file has one.
    hidden: Option<PathBuf>,
}

impl Output {
    /// Fails if there is a file of that name already.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |what: &str, errno: Errno| Error::io(what, errno.into()).at_path(target);
        if target.symlink_metadata().is_ok() {
            return Err(exists(target));
        }
        let folder_path = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let open_folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder_path, open_folder, Mode::empty());
        let folder = File::from(folder.map_err(|errno| fail("cannot open the folder", errno))?);
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, hidden) = match rustix::fs::openat(&folder, ".", flags | OFlags::TMPFILE, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
                let hidden = folder_path.join(format!(".{}.part", uuid::Uuid::new_v4()));
                let fd = rustix::fs::open(&hidden, flags | OFlags::CREATE | OFlags::EXCL, mode);
                (fd.map_err(|errno| fail("cannot create the file", errno))?, Some(hidden))
            }
            Err(errno) => return Err(fail("cannot create the file", errno)),
        };
        Ok(Self { file: RealFile::new(fd.into()), target: target.to_owned(), folder, hidden })
    }

    #[must_use]
    pub fn file(&self) -> &RealFile {
        &self.file
    }

    /// Gives the file its name, durably. The content must be on stable storage before; fails if the name was taken
    /// meanwhile.
    pub fn publish(mut self) -> Result<()> {
        let named = match self.hidden.take() {
            None => {
                let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file.as_fd()));
                rustix::fs::linkat(CWD, link, CWD, &self.target, AtFlags::SYMLINK_FOLLOW)
            }
            Some(hidden) => {
                let moved = rustix::fs::renameat_with(CWD, &hidden, CWD, &self.target, RenameFlags::NOREPLACE);
                if moved.is_err() {
                    self.hidden = Some(hidden);
                }
                moved
            }
        };
        match named {
            Err(Errno::EXIST) => return Err(exists(&self.target)),
            Err(errno) => return Err(Error::io("cannot name the file", errno.into()).at_path(&self.target)),
            Ok(()) => {}
        }
        let synced = rustix::fs::fsync(&self.folder);
        synced.map_err(|errno| Error::io("cannot sync the folder", errno.into()).at_path(&self.target))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // On the way out of another error, which is the one to report.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

fn exists(target: &Path) -> Error {
    let error = Error::new(ErrorKind::AlreadyExists, "there is a file of that name already").at_path(target);
    error.hint("remove it or choose another name: no file is overwritten")
}
