//! The file seam under the core, and beside it [`sync`] and [`system`].
//!
//! Everything the core keeps lies in one [`Dir`] and is reached through [`File`]. The product uses [`real`]; the crash
//! tests put a simulated disk behind the same two traits. Nothing here retries or hides a short transfer: the callers
//! in `disk/` do, in one place, so that the simulator can test that they do.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub mod host_file;
pub mod output;
pub mod peer;
pub mod real;
pub mod replace;
#[cfg(sealdisk_sim)]
pub mod sim;
pub mod sink;
pub mod source;
pub(crate) mod superblock;
pub mod sync;
pub mod system;
pub mod transfer;
pub(crate) mod verity;
pub(crate) mod zeros;

/// Whether a fault is planted here for the crash tests (see [`sim::Mutant`]); `false` in a product build. With `=>`:
/// what the fault does besides.
macro_rules! mutant {
    ($name:ident => $fault:expr) => {
        if $crate::io::mutant!($name) {
            $fault;
        }
    };
    ($name:ident) => {{
        #[cfg(sealdisk_sim)]
        let planted = $crate::io::sim::mutant($crate::io::sim::Mutant::$name);
        #[cfg(not(sealdisk_sim))]
        let planted = $crate::io::no_mutant(stringify!($name));
        planted
    }};
}
pub(crate) use mutant;

/// What is right, and what the planted fault leaves out.
macro_rules! unless_mutant {
    ($name:ident => $right:expr) => {
        if !$crate::io::mutant!($name) {
            $right;
        }
    };
}
pub(crate) use unless_mutant;

/// What `mutant!` is in a product build.
#[cfg(not(sealdisk_sim))]
#[inline(always)]
pub(crate) const fn no_mutant(_name: &str) -> bool {
    false
}

/// An open regular file. All methods may be called from many threads at once.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes from byte `offset`; fewer is no error, 0 is the end of the file. May fail with
    /// `Interrupted`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Like [`File::read_at`], but `WouldBlock` where it would wait for a device.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes at byte `offset`; fewer is no error. May fail with `Interrupted`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Content, and the metadata needed to read it back, on stable storage (fdatasync). The kernel reports a failed
    /// write-back once per open file: after an error nothing may be assumed of what was written before.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Frees the range, which then reads as zeros; the length of the file stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Reserves space for the range; extends the file over it.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The next run of bytes at or after `offset` that may be other than a hole: `(start, end)`; `None`: only a hole is
    /// left.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>>;
    /// Asks the kernel to read the range into its cache.
    fn read_ahead(&self, offset: u64, len: u64) -> io::Result<()>;
    /// What tells the file from any other of this machine: device and inode.
    fn identity(&self) -> io::Result<(u64, u64)>;
    /// What tells its file system from the same one mounted before; 0: nothing does.
    fn mounted_as(&self) -> io::Result<u32> {
        Ok(0)
    }
    /// Drops clean cached content, so that what is read next comes from the device.
    fn drop_cache(&self) -> io::Result<()>;
}

/// How [`Dir::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    Read,
    ReadWrite,
    /// Creates; `AlreadyExists` when there is one (O_EXCL).
    New,
}

/// What tells a mounted file system from any other of this machine: its device number.
pub type FileSystemId = u64;

/// A directory held open: it stays usable when it is renamed.
pub trait Dir: Send + Sync + fmt::Debug {
    /// Opens a regular file; never follows a symbolic link.
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn File>>;
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;
    fn create_dir(&self, name: &str) -> io::Result<()>;
    /// Atomically; replaces a file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Atomically gives each of two files the name of the other. `Unsupported`: the file system cannot.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes names created, renamed and removed so far durable.
    fn sync(&self) -> io::Result<()>;
    /// The same at once for every directory of its file system, which is answered. `None`: the file system does not
    /// promise that, and nothing was done.
    fn sync_file_system(&self) -> io::Result<Option<FileSystemId>>;
    /// The file system that it lies in.
    fn file_system(&self) -> io::Result<FileSystemId>;
    /// Bytes free to this process in the file system.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Where it was opened, for messages.
    fn path(&self) -> &Path;
}
