//! A regular file of the host, open for reading: what base images and VHD chains are read from.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::vhd::source::Source;
use crate::{Error, ErrorKind, Result};

/// Flags that open for reading and never wait: a FIFO put in the place of an image must not hang the program.
pub(crate) const READ_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Never written; its length is taken when it is opened.
#[derive(Debug)]
pub struct HostFile {
    file: fs::File,
    path: PathBuf,
    size: u64,
}

impl HostFile {
    /// Opens `path`, following symbolic links. Anything but a regular file is [`ErrorKind::InvalidInput`].
    pub fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, READ_FLAGS, Mode::empty());
        let fd = fd.map_err(|errno| Error::io("cannot open the image", errno.into()).at_path(path))?;
        Self::from_fd(fd, path)
    }

    /// Takes a descriptor that somebody else opened. [`ErrorKind::InvalidInput`] for anything but a regular file that can
    /// be read in pieces of any size. `path` is for messages.
    pub(crate) fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self> {
        let failed = |errno: Errno| Error::io("cannot examine the image", errno.into()).at_path(path);
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(failed)?;
        if flags.intersects(OFlags::PATH | OFlags::DIRECT) || flags.intersection(OFlags::RWMODE) == OFlags::WRONLY {
            return Err(Error::new(ErrorKind::InvalidInput, "not opened for reading").at_path(path));
        }
        let file = fs::File::from(fd);
        let metadata = file.metadata().map_err(|e| Error::io("cannot examine the image", e).at_path(path))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a regular file").at_path(path));
        }
        Ok(Self { file, path: path.to_owned(), size: metadata.len() })
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode number.
    pub(crate) fn identity(&self) -> Result<(u64, u64)> {
        let metadata = self.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The time of the last change of content, in seconds since the Unix epoch.
    pub(crate) fn modified(&self) -> Result<i64> {
        Ok(self.metadata()?.mtime())
    }

    /// A text that stays the same as long as nothing touches the file: inode, times of change, length.
    pub(crate) fn stamp(&self) -> Result<String> {
        let m = self.metadata()?;
        let (mtime, ctime) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        Ok(format!(
            "inode {} modified {}.{:09} changed {}.{:09} length {}",
            m.ino(),
            mtime.0,
            mtime.1,
            ctime.0,
            ctime.1,
            m.len()
        ))
    }

    fn metadata(&self) -> Result<fs::Metadata> {
        self.file.metadata().map_err(|e| Error::io("cannot examine the image", e).at_path(&self.path))
    }

    /// Asks the kernel to have the range in its cache soon. A hint: failures do not matter.
    pub(crate) fn read_ahead(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
    }

    /// The next run of bytes at or after `offset` that may be other than a hole: `(start, end)`; `None`: only a hole is
    /// left.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let fail = |errno: Errno| Error::io("cannot look for holes", errno.into()).at_path(&self.path);
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(None),
            other => other.map_err(fail)?,
        };
        Ok(Some((start, rustix::fs::seek(&self.file, SeekFrom::Hole(start)).map_err(fail)?)))
    }

    fn fail(&self, source: io::Error, offset: u64) -> Error {
        Error::io("cannot read the image", source).at_path(&self.path).at_offset(offset)
    }

    fn ended(&self, offset: u64) -> Error {
        let what = format!("the file ends early: it had {} bytes when it was opened", self.size);
        Error::new(ErrorKind::Io, what).at_path(&self.path).at_offset(offset)
    }
}

impl Source for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match self.file.read_at(&mut buf[done..], at) {
                Ok(0) => return Err(self.ended(at)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fail(e, at)),
            }
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut [io::IoSliceMut::new(&mut buf[done..])];
            match rustix::io::preadv2(&self.file, rest, at, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(self.ended(at)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // The last two: a file system without RWF_NOWAIT. Every read is left to a thread that may wait.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(errno) => return Err(self.fail(errno.into(), at)),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, openat};

    #[test]
    fn only_what_can_be_read_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, [7; 1024]).unwrap();
        let open = |path: &Path, flags| openat(CWD, path, flags, Mode::empty()).unwrap();
        for flags in [OFlags::RDONLY, OFlags::RDWR] {
            let mut buf = [0; 3];
            HostFile::from_fd(open(&path, flags), &path).unwrap().read_at(1021, &mut buf).unwrap();
            assert_eq!(buf, [7; 3]);
        }
        let refused = [open(&path, OFlags::PATH), open(&path, OFlags::WRONLY), open(dir.path(), OFlags::RDONLY)];
        for fd in refused.into_iter().chain([io::pipe().unwrap().0.into(), io::pipe().unwrap().1.into()]) {
            assert_eq!(HostFile::from_fd(fd, &path).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
