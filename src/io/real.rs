//! The file seam over real files: system calls by `rustix`, names relative to an open directory.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Dir, File, FileSystemId, Open, superblock};
use crate::{Error, ErrorKind};

/// Those of which syncfs(2) makes all names durable: ext2 to ext4, XFS, Btrfs, F2FS, ZFS, tmpfs. Of others it may be a
/// no-op, as where another machine or a process holds the files (NFS, 9p, FUSE).
const SYNCED_AS_A_WHOLE: [u32; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x2FC1_2FC1, 0x0102_1994];

/// A directory, held by its descriptor.
#[derive(Debug)]
pub struct RealDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl RealDir {
    /// Opens an existing directory.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path })
    }
}

impl AsFd for RealDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For what lies in an account where a file should be.
pub(crate) fn not_regular() -> io::Error {
    let error = Error::new(ErrorKind::Io, "not a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, error.hint("put the file back, if need be from a backup"))
}

impl Dir for RealDir {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let flags = match how {
            Open::Read => OFlags::RDONLY,
            Open::ReadWrite => OFlags::RDWR,
            Open::New => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        // Opening a device may already do something: only what is a file is opened at all.
        if !matches!(how, Open::New) {
            let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(not_regular());
            }
        }
        // NONBLOCK: opening a FIFO put in our place must not hang; it has no effect on regular files.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let file = fs::File::from(fd);
        if !file.metadata()?.is_file() {
            return Err(not_regular());
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Arc::new(RealDir { fd, path: self.path.join(name) }))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, one, &self.fd, other, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            exchanged => Ok(exchanged?),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(rustix::fs::unlinkat(&self.fd, name, flags)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>> {
        let kind = rustix::fs::fstatfs(&self.fd)?.f_type;
        if !SYNCED_AS_A_WHOLE.iter().any(|known| i128::from(*known) == i128::from(kind)) {
            return Ok(None);
        }
        rustix::fs::syncfs(&self.fd)?;
        self.file_system().map(Some)
    }

    fn file_system(&self) -> io::Result<FileSystemId> {
        Ok(rustix::fs::fstat(&self.fd)?.st_dev)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// An open file of the system.
#[derive(Debug)]
pub struct RealFile(fs::File);

impl RealFile {
    #[must_use]
    pub fn new(file: fs::File) -> Self {
        Self(file)
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match rustix::io::preadv2(&self.0, &mut [io::IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            // A file system without RWF_NOWAIT: every read is left to a thread that may wait.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other?),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0, flags, offset, len)?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, len)?)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(None),
            other => other?,
        };
        Ok(Some((start, rustix::fs::seek(&self.0, SeekFrom::Hole(start))?)))
    }

    fn read_ahead(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, offset, std::num::NonZeroU64::new(len), Advice::WillNeed)?)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn mounted_as(&self) -> io::Result<u32> {
        self.identity().map(|(device, _)| superblock::instance_of(device))
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}
