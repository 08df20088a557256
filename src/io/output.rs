//! A new file that appears under its name only when it is whole.
//!
//! Until then it has no name at all, so that nothing half-made stays behind, not even after a kill or a power cut. File
//! systems without unnamed files get a hidden name beside the target, removed on the way out of an error. A file that
//! is to be gone on with later has a name of its own until it is whole, and keeps it: [`PART`] behind that of the
//! target.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::io::real::RealFile;
use crate::io::{File as _, system};
use crate::{Error, ErrorKind, Result};

/// The content of a disk is its owner's alone, from the first byte on and whatever the user's mask allows.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// What the name of an unfinished file has behind that of the target.
pub const PART: &str = ".sealdisk-part";

/// See the module documentation.
#[derive(Debug)]
pub struct Output {
    file: RealFile,
    target: PathBuf,
    folder: File,
    /// The name until it has its own, where the file has one.
    hidden: Option<PathBuf>,
    /// The file stays under that name when it does not get its own.
    kept: bool,
}

impl Output {
    /// Fails if there is a file of that name already.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |what: &str, errno: Errno| Error::io(what, errno.into()).at_path(target);
        let (folder, folder_path) = folder_of(target)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, hidden) = match rustix::fs::openat(&folder, ".", flags | OFlags::TMPFILE, MODE) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
                let hidden = folder_path.join(format!(".{}.part", system::uuid()?));
                let fd = rustix::fs::open(&hidden, flags | OFlags::CREATE | OFlags::EXCL, MODE);
                (fd.map_err(|errno| fail("cannot create the file", errno))?, Some(hidden))
            }
            Err(errno) => return Err(fail("cannot create the file", errno)),
        };
        Ok(Self { file: RealFile::new(fd.into()), target: target.to_owned(), folder, hidden, kept: false })
    }

    /// Goes on with the file that an interrupted attempt left, or begins one that can be gone on with.
    /// [`ErrorKind::InUse`] while another process is at it.
    pub fn resume(target: &Path) -> Result<Self> {
        let (folder, _) = folder_of(target)?;
        let mut part = target.as_os_str().to_owned();
        part.push(PART);
        let part = PathBuf::from(part);
        let fail = |what: &str, errno: Errno| Error::io(what, errno.into()).at_path(&part);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::open(&part, flags, MODE);
        let file = File::from(fd.map_err(|errno| fail("cannot create the file", errno))?);
        let metadata = file.metadata().map_err(|error| Error::io("cannot look at the file", error).at_path(&part))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is something else of that name").at_path(&part));
        }
        // Whoever owns it could read what is written there, and may have put it there for that.
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            let error =
                Error::new(ErrorKind::AlreadyExists, "the unfinished file belongs to another user").at_path(&part);
            return Err(error.hint("remove it, or choose another folder"));
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new(ErrorKind::InUse, "another process is writing this file").at_path(&part));
            }
            locked => locked.map_err(|errno| fail("cannot lock the file", errno))?,
        }
        // What was begun under other rules, or by another program.
        rustix::fs::fchmod(&file, MODE).map_err(|errno| fail("cannot make the file private", errno))?;
        let same = |ours: &fs::Metadata, there: &fs::Metadata| (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        let named = file.metadata().ok().zip(part.symlink_metadata().ok());
        if !named.is_some_and(|(ours, there)| same(&ours, &there)) {
            return Err(Error::new(ErrorKind::InUse, "another process has just finished this file").at_path(&part));
        }
        Ok(Self { file: RealFile::new(file), target: target.to_owned(), folder, hidden: Some(part), kept: true })
    }

    /// Where what is there of the file stays after a failure, to be gone on with. `None`: nothing stays.
    #[must_use]
    pub fn part(&self) -> Option<&Path> {
        self.hidden.as_deref().filter(|_| self.kept && !self.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.file.size().is_ok_and(|size| size == 0)
    }

    /// The folder of the target.
    #[must_use]
    pub fn folder(&self) -> &Path {
        folder_path(&self.target)
    }

    /// The file has a name already, which changes when it is published.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.hidden.is_some()
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
        if let Some(hidden) = self.hidden.as_ref().filter(|_| !self.kept || self.is_empty()) {
            // On the way out of another error, which is the one to report.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

/// The folder of a new file, open, and its path; fails if the file is there.
fn folder_of(target: &Path) -> Result<(File, &Path)> {
    if target.symlink_metadata().is_ok() {
        return Err(exists(target));
    }
    let path = folder_path(target);
    let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = folder.map_err(|errno| Error::io("cannot open the folder", errno.into()).at_path(target))?;
    Ok((File::from(folder), path))
}

fn folder_path(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn exists(target: &Path) -> Error {
    let error = Error::new(ErrorKind::AlreadyExists, "there is a file of that name already").at_path(target);
    error.hint("remove it or choose another name: no file is overwritten")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    /// Only root can give a file away.
    #[test]
    fn a_file_of_another_user_is_not_gone_on_with() {
        let folder = tempfile::TempDir::new().unwrap();
        let target = folder.path().join("disk.raw");
        let part = folder.path().join("disk.raw.sealdisk-part");
        fs::write(&part, "mine").unwrap();
        drop(Output::resume(&target).unwrap());
        if rustix::process::geteuid().is_root() {
            chown(&part, Some(1), None).unwrap();
            assert_eq!(Output::resume(&target).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&part).unwrap(), b"mine");
        }
    }
}
