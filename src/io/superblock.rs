//! What tells a mounted file system from the same one as it was mounted before, under the same boot of the kernel.
//!
//! A device that is unplugged and comes back, or whose other end was restarted, is mounted anew with the same device
//! number and the same inodes, and without what was in the page cache. The id of the mount does not tell that apart
//! well: another mount namespace, which each start of a service or a container gets, has others, and before Linux 6.8
//! they are used again. But ext4, XFS and F2FS make a directory below `/sys/fs` for each file system that is mounted,
//! and the kernel numbers what is there one after the other.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

const WITH_A_FOLDER: [&str; 3] = ["ext4", "xfs", "f2fs"];

/// By device number. A process that holds a file system open keeps it mounted; a confined one can no longer look.
static KNOWN: Mutex<BTreeMap<u64, u32>> = Mutex::new(BTreeMap::new());

/// The number of the file system on `device` since it was mounted; 0: there is none, as for other file systems.
pub(super) fn instance_of(device: u64) -> u32 {
    *KNOWN.lock().entry(device).or_insert_with(|| look_up(device).unwrap_or(0))
}

/// Looks up the number of the file system that `path` lies in, for later: to be called before the process is confined.
pub(crate) fn remember(path: &Path) {
    if let Ok(metadata) = path.metadata() {
        instance_of(metadata.dev());
    }
}

fn look_up(device: u64) -> Option<u32> {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let link = std::fs::read_link(Path::new("/sys/dev/block").join(number)).ok()?;
    let name = link.file_name()?;
    let folder = |kind: &str| PathBuf::from("/sys/fs").join(kind).join(name);
    let metadata = WITH_A_FOLDER.iter().find_map(|kind| folder(kind).metadata().ok())?;
    // The lower half goes up with each that is made.
    Some(metadata.ino() as u32)
}
