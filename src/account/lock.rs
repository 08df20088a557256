//! The lock of an account: `ACCOUNT/lock`, held by `flock`.
//!
//! Whoever changes an account (a server, or one verb) holds it exclusively; verbs that only read hold it shared. The
//! lock alone decides whether an account is in use: the kernel drops it when its holder dies, however that happens. The
//! file's content, written by the exclusive holder, only tells others where to find it, and may be stale. A holder that
//! ends in order leaves none: so who finds some knows that the one before was killed, or failed, and left in the page cache
//! what looks durable and may not be.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Name of the lock file in an account directory.
pub const FILE: &str = "lock";
/// More than this was not written by us.
const CONTENT_BYTES: u64 = 8192;

/// How an account is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Shared,
    Exclusive,
}

/// Who holds an account exclusively, as far as the lock file tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// Absolute path of the control socket; `None`: not listening (yet).
    #[serde(default)]
    pub control: Option<PathBuf>,
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct AccountLock {
    file: File,
    path: PathBuf,
    hold: Hold,
    abandoned: bool,
}

impl AccountLock {
    /// Takes the lock of the account directory `dir` without waiting. `None`: somebody else holds it.
    pub fn try_take(dir: &Path, hold: Hold) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let file = open(&path, hold).map_err(|e| Error::io("cannot open the lock of the account", e).at_path(&path))?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::io("cannot lock the account", error.into()).at_path(&path)),
        }
        let content = file.metadata().map(|metadata| metadata.len());
        let abandoned = content.map_err(|e| Error::io("cannot read the lock file", e).at_path(&path))? > 0;
        let lock = Self { file, path, hold, abandoned };
        if hold == Hold::Exclusive {
            lock.tell(&Holder { pid: std::process::id(), control: None })?;
        }
        Ok(Some(lock))
    }

    #[must_use]
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// Whether the last to hold it exclusively did not [end in order](AccountLock::end_in_order).
    #[must_use]
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }

    /// To be called once all that an exclusive holder changed is durable. Should it fail, the next one only has more to do.
    pub fn end_in_order(&self) {
        if self.hold == Hold::Exclusive {
            let _ = self.file.set_len(0);
        }
    }

    /// Tells others who holds the account and where it listens. Only for an exclusive holder.
    pub fn tell(&self, holder: &Holder) -> Result<()> {
        assert_eq!(self.hold, Hold::Exclusive, "a shared holder must not write");
        let write = || {
            let text = serde_json::to_vec(holder)?;
            let mut file = &self.file;
            // Never empty on the way: a kill now must not look like an end in order.
            file.rewind()?;
            file.write_all(&text)?;
            file.set_len(text.len() as u64)
        };
        write().map_err(|e: io::Error| Error::io("cannot write the lock file", e).at_path(&self.path))
    }
}

fn open(path: &Path, hold: Hold) -> io::Result<File> {
    let base = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let create = base | OFlags::RDWR | OFlags::CREATE;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match hold {
        Hold::Exclusive => rustix::fs::open(path, create, mode)?,
        // An account on a read-only file system can be read; one restored without its empty lock file gets a new one.
        Hold::Shared => match rustix::fs::open(path, base | OFlags::RDONLY, mode) {
            Err(Errno::NOENT) => rustix::fs::open(path, create, mode)?,
            other => other?,
        },
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Who holds the account in `dir` exclusively; `None`: nobody that has told.
#[must_use]
pub fn holder(dir: &Path) -> Option<Holder> {
    let mut text = Vec::new();
    open(&dir.join(FILE), Hold::Shared).ok()?.take(CONTENT_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The error for an account that stayed locked.
#[must_use]
pub fn in_use(dir: &Path) -> Error {
    let by = holder(dir).map_or_else(String::new, |holder| format!(" by process {}", holder.pid));
    Error::new(ErrorKind::InUse, format!("the account is in use{by}"))
        .at_path(dir)
        .hint("wait until it has ended, or stop it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(dir: &Path, hold: Hold) -> Option<AccountLock> {
        AccountLock::try_take(dir, hold).expect("no error")
    }

    #[test]
    fn exclusive_excludes_all_and_shared_excludes_exclusive() {
        let dir = tempfile::tempdir().expect("dir");
        let first = take(dir.path(), Hold::Shared).expect("free");
        let second = take(dir.path(), Hold::Shared).expect("shared");
        assert!(take(dir.path(), Hold::Exclusive).is_none());
        drop((first, second));
        let only = take(dir.path(), Hold::Exclusive).expect("free again");
        assert!(take(dir.path(), Hold::Exclusive).is_none());
        assert!(take(dir.path(), Hold::Shared).is_none());
        drop(only);
        assert!(take(dir.path(), Hold::Shared).is_some());
    }

    #[test]
    fn the_holder_can_be_found_and_is_no_proof() {
        let dir = tempfile::tempdir().expect("dir");
        let lock = take(dir.path(), Hold::Exclusive).expect("free");
        let control = Some(PathBuf::from("/run/control.sock"));
        lock.tell(&Holder { pid: 7, control: control.clone() }).expect("told");
        lock.tell(&Holder { pid: 8, control: None }).expect("told again, shorter");
        assert_eq!(holder(dir.path()), Some(Holder { pid: 8, control: None }));
        assert_eq!(in_use(dir.path()).kind(), ErrorKind::InUse);
        drop(lock);
        // What a dead server left does not keep anybody out, and the next holder replaces it.
        assert!(holder(dir.path()).is_some());
        let _next = take(dir.path(), Hold::Exclusive).expect("free");
        assert_eq!(holder(dir.path()).map(|h| h.pid), Some(std::process::id()));
    }

    #[test]
    fn who_did_not_end_in_order_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let killed = take(dir.path(), Hold::Exclusive).expect("free");
        assert!(!killed.was_abandoned());
        drop(killed);
        let reader = take(dir.path(), Hold::Shared).expect("free");
        reader.end_in_order();
        drop(reader);
        let next = take(dir.path(), Hold::Exclusive).expect("free");
        assert!(next.was_abandoned());
        next.end_in_order();
        drop(next);
        assert!(!take(dir.path(), Hold::Exclusive).expect("free").was_abandoned());
    }

    #[test]
    fn a_lock_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join(FILE)).expect("dir");
        AccountLock::try_take(dir.path(), Hold::Shared).expect_err("a directory");
        AccountLock::try_take(dir.path(), Hold::Exclusive).expect_err("a directory");
        std::fs::remove_dir(dir.path().join(FILE)).expect("dir");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(FILE)).expect("link");
        AccountLock::try_take(dir.path(), Hold::Exclusive).expect_err("a symbolic link");
    }
}
