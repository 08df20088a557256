//! A file of the host, open for reading: what base images and VHD chains are read from, and, for a copy that reads it
//! once, a block device.
//!
//! Of a regular file inode, times and length tell whether it was touched. Of a device nothing does: its times do not
//! change with its content. So a device is never a base, and what reads one holds it exclusively where it can: then
//! nothing can mount it meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::io::source::Source;
use crate::io::verity;
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
    device: Option<Device>,
}

/// A block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Device {
    major: u32,
    minor: u32,
    /// Mounted, or held by another program: it may change while it is read.
    in_use: bool,
}

impl HostFile {
    /// Opens `path`, following symbolic links. Anything but a regular file is [`ErrorKind::InvalidInput`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_fd(open_to_read(path)?, path)
    }

    /// Opens `path`, following symbolic links: a regular file, or a block device that is to be read once.
    pub fn open_to_copy(path: &Path) -> Result<Self> {
        let fd = open_to_read(path)?;
        let stat = rustix::fs::fstat(&fd);
        let stat = stat.map_err(|errno| Error::io("cannot examine the image", errno.into()).at_path(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Self::from_fd(fd, path);
        }
        // Exclusively, by the same descriptor: the device at `path` may be another one by now.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let exclusive = rustix::fs::open(link, READ_FLAGS | OFlags::EXCL, Mode::empty());
        let in_use = matches!(exclusive, Err(Errno::BUSY));
        let fd = exclusive.unwrap_or(fd);
        let size = rustix::fs::seek(&fd, SeekFrom::End(0));
        let size = size.map_err(|errno| Error::io("cannot tell the size of the device", errno.into()).at_path(path))?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let device = Some(Device { major, minor, in_use });
        Ok(Self { file: fs::File::from(fd), path: path.to_owned(), size, device })
    }

    #[must_use]
    pub fn is_device(&self) -> bool {
        self.device.is_some()
    }

    /// A device that something else has mounted or holds: it may change while it is read.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.device.is_some_and(|device| device.in_use)
    }

    /// Takes a descriptor that somebody else opened. [`ErrorKind::InvalidInput`] for anything but a regular file that
    /// can be read in pieces of any size. `path` is for messages.
    pub(crate) fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self> {
        let failed = |errno: Errno| Error::io("cannot examine the image", errno.into()).at_path(path);
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(failed)?;
        if flags.intersects(OFlags::PATH | OFlags::DIRECT) || flags.intersection(OFlags::RWMODE) == OFlags::WRONLY {
            return Err(Error::new(ErrorKind::InvalidInput, "not opened for reading").at_path(path));
        }
        let file = fs::File::from(fd);
        let metadata = file.metadata().map_err(|e| Error::io("cannot examine the image", e).at_path(path))?;
        if !metadata.is_file() {
            return Err(no_file(&metadata).at_path(path));
        }
        Ok(Self { file, path: path.to_owned(), size: metadata.len(), device: None })
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

    /// A text that stays the same as long as nothing touches the file: inode, times of change, length. Of a device only
    /// what tells it from others.
    pub(crate) fn stamp(&self) -> Result<String> {
        if let Some(Device { major, minor, .. }) = self.device {
            return Ok(format!("device {major}:{minor} length {}", self.size));
        }
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

    /// Its fs-verity digest, such as `sha256:...`; `None`: an ordinary file, which may be changed.
    pub(crate) fn fs_verity(&self) -> Result<Option<String>> {
        let digest = verity::digest(&self.file);
        digest.map_err(|e| Error::io("cannot ask for the fs-verity digest", e).at_path(&self.path))
    }

    /// Whether no name leads to the file any more: it goes when it is closed.
    pub(crate) fn is_deleted(&self) -> Result<bool> {
        Ok(self.metadata()?.nlink() == 0)
    }

    /// The number of its descriptor, for people.
    pub(crate) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
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
        if self.is_device() {
            // The kernel knows no holes of devices.
            return Ok((offset < self.size).then_some((offset, self.size)));
        }
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

fn open_to_read(path: &Path) -> Result<OwnedFd> {
    let fd = rustix::fs::open(path, READ_FLAGS, Mode::empty());
    fd.map_err(|errno| Error::io("cannot open the image", errno.into()).at_path(path))
}

/// Why what is no regular file is refused.
fn no_file(metadata: &fs::Metadata) -> Error {
    let kind = metadata.file_type();
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
    if kind.is_block_device() {
        let error = invalid("a block device: nothing would tell whether its content was changed meanwhile");
        return error.hint("`sealdisk import DEVICE NAME` copies it");
    }
    if kind.is_fifo() {
        return invalid("a pipe, not a regular file").hint("`sealdisk import - NAME < PIPE` copies what comes");
    }
    if kind.is_dir() {
        return invalid("a folder, not a regular file").hint("name the image in it");
    }
    invalid("not a regular file").hint("name the file that holds the image")
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
