//! The lock of an account: `ACCOUNT/lock`, held by `flock`.
//!
//! Whoever changes an account (a server, or one verb) holds it exclusively; verbs that only read hold it shared. The
//! lock alone decides whether an account is in use: the kernel drops it when its holder dies, however that happens. The
//! file's content, the note of the exclusive holder, only tells others where to find it, and may be stale. A process id
//! means something on one host and in one pid namespace only, so both stand beside it. A holder that ends in order
//! blanks its note: so who finds one knows that the one before was killed, or failed, and left in the page cache what
//! looks durable and may not be.
//!
//! The file keeps its block: a note is overwritten in place, padded, and blanked with spaces, so that the next holder
//! can tell where it is on a file system without any space. Where the file has no block (an earlier version emptied it,
//! or it was restored without content) and none can be had, the file is made longer by a hole: that, too, is no blank
//! note, and verbs look for the control socket where it is by default.
//!
//! On a read-only mount nothing can change the account, and nothing can be noted: a server that lets no client write
//! holds it shared there, and verbs that read do so beside it, in their own processes.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::io::real::{RealDir, RealFile, not_regular};
use crate::io::transfer::{read_up_to, write_full};
use crate::io::{Dir, File, mutant};
use crate::{Error, ErrorKind, Result};

/// Name of the lock file in an account directory.
pub const FILE: &str = "lock";
/// Name of the control socket in an account directory, where a holder listens that does not say otherwise.
pub const CONTROL: &str = "control.sock";
/// Bytes of a note: a block of most file systems.
const NOTE: usize = 4096;
/// More than this was not written by us.
const CONTENT_BYTES: usize = 2 * NOTE;
const BLANK: u8 = b' ';

/// How an account is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Shared,
    Exclusive,
}

/// Who holds an account exclusively, as far as the lock file tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As the holder knows itself: it counts in its pid namespace.
    pub pid: u32,
    /// Absolute path of the control socket; `None`: not listening (yet).
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// The host name of the holder; `None`: an earlier version wrote the note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The number of the holder's pid namespace; `None` also where /proc is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
}

impl Holder {
    /// This process, which listens at `control`.
    #[must_use]
    pub fn this(control: Option<PathBuf>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { pid: std::process::id(), control, host: Some(host), pid_namespace: pid_namespace() }
    }
}

/// The holder as a message names it to this process: `process 7`, and the host or container of that where it is
/// another.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = Self::this(None);
        write!(f, "process {}", self.pid)?;
        match &self.host {
            Some(host) if self.host != here.host => write!(f, " of the host or container {host:?}"),
            Some(_) if self.pid_namespace.is_some() && self.pid_namespace != here.pid_namespace => {
                f.write_str(" of another pid namespace on this host")
            }
            _ => Ok(()),
        }
    }
}

/// The number in "pid:[4026531836]".
fn pid_namespace() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct AccountLock {
    file: Arc<dyn File>,
    path: PathBuf,
    hold: Hold,
    abandoned: bool,
}

impl AccountLock {
    /// Takes the lock of the account directory `dir` without waiting. `None`: somebody else holds it.
    pub fn try_take(dir: &RealDir, hold: Hold) -> Result<Option<Self>> {
        let path = dir.path().join(FILE);
        let file = open(dir, hold).map_err(|error| {
            let on_read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
            let error = Error::io("cannot open the lock of the account", error).at_path(&path);
            match hold {
                Hold::Exclusive if on_read_only => error.hint(
                    "on a read-only mount the account does not change: verbs that read work, and `serve --read-only`",
                ),
                Hold::Shared if on_read_only => error.hint("the file is missing there: an empty one would do"),
                _ => error,
            }
        })?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(file.as_fd(), operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::io("cannot lock the account", error.into()).at_path(&path)),
        }
        Self::over(Arc::new(file), path, hold, &Holder::this(None)).map(Some)
    }

    /// The lock whose note lies in `file`, for the process `holder`, which has made sure that it is free.
    pub fn over(file: Arc<dyn File>, path: PathBuf, hold: Hold, holder: &Holder) -> Result<Self> {
        let note = read_note(&*file).map_err(|e| Error::io("cannot read the lock file", e).at_path(&path))?;
        let lock = Self { file, path, hold, abandoned: !is_blank(&note) };
        if hold == Hold::Exclusive {
            lock.tell(holder)?;
        }
        Ok(lock)
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

    /// To be called once all that an exclusive holder changed is durable. Should it fail, the next one only has more to
    /// do.
    pub fn end_in_order(&self) {
        if self.hold == Hold::Exclusive {
            let _ = if mutant!(LockEmptied) { self.file.set_size(0) } else { self.write(&[]) };
        }
    }

    /// Tells others who holds the account and where it listens. Only for an exclusive holder. On a file system that has
    /// not even a block left, one that holds the account is all that can be told.
    pub fn tell(&self, holder: &Holder) -> Result<()> {
        assert_eq!(self.hold, Hold::Exclusive, "a shared holder must not write");
        let told = serde_json::to_vec(holder).map_err(io::Error::from).and_then(|text| {
            let written = self.write(&text);
            match written {
                Err(error) if is_full(&error) && !mutant!(LockEmptied) => {
                    tracing::warn!(
                        path = %self.path.display(),
                        "no space to note who holds the account: verbs look for its control socket in its directory"
                    );
                    self.file.set_size(NOTE as u64 + 1)
                }
                written => written,
            }
        });
        told.map_err(|e| Error::io("cannot write the lock file", e).at_path(&self.path))
    }

    /// Replaces the note, in place. A kill on the way leaves one that is not blank, or the one before.
    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut note = text.to_vec();
        note.resize(NOTE.max(text.len()), BLANK);
        write_full(&*self.file, &note, 0)?;
        if self.file.size()? == note.len() as u64 { Ok(()) } else { self.file.set_size(note.len() as u64) }
    }
}

/// Whether the account in `dir` lies on a file system or mount that is read-only for this process. A lock file that is
/// missing is made where it is not.
#[must_use]
pub fn is_on_read_only(dir: &RealDir) -> bool {
    open(dir, Hold::Exclusive).is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open(dir: &RealDir, hold: Hold) -> io::Result<RealFile> {
    let base = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let create = base | OFlags::RDWR | OFlags::CREATE;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match hold {
        Hold::Exclusive => rustix::fs::openat(dir, FILE, create, mode)?,
        // An account on a read-only file system can be read; one restored without its empty lock file gets a new one.
        Hold::Shared => match rustix::fs::openat(dir, FILE, base | OFlags::RDONLY, mode) {
            Err(Errno::NOENT) => rustix::fs::openat(dir, FILE, create, mode)?,
            other => other?,
        },
    };
    let file = fs::File::from(fd);
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    Ok(RealFile::new(file))
}

/// What the lock file says, as far as it was written by us.
fn read_note(file: &dyn File) -> io::Result<Vec<u8>> {
    let mut note = vec![0; CONTENT_BYTES];
    let read = read_up_to(file, &mut note, 0)?;
    note.truncate(read);
    Ok(note)
}

/// Whether a note says that its writer ended in order; an earlier version left nothing at all then.
fn is_blank(note: &[u8]) -> bool {
    note.iter().all(|&byte| byte == BLANK)
}

/// Who holds the account in `dir` exclusively; `None`: nobody that has told.
#[must_use]
pub fn holder(dir: &RealDir) -> Option<Holder> {
    let note = read_note(&open(dir, Hold::Shared).ok()?).ok()?;
    serde_json::from_slice(&note).ok()
}

/// The error for an account that stayed locked.
#[must_use]
pub fn in_use(dir: &RealDir) -> Error {
    let by = holder(dir).map_or_else(String::new, |holder| format!(" by {holder}"));
    Error::new(ErrorKind::InUse, format!("the account is in use{by}"))
        .at_path(dir.path())
        .hint("wait until it has ended, or stop it")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place(dir: &Path) -> RealDir {
        RealDir::open(dir).expect("a directory")
    }

    fn take(dir: &Path, hold: Hold) -> Option<AccountLock> {
        AccountLock::try_take(&place(dir), hold).expect("no error")
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
        lock.tell(&Holder { pid: 7, ..Holder::this(control) }).expect("told");
        lock.tell(&Holder { pid: 8, ..Holder::this(None) }).expect("told again, shorter");
        assert_eq!(holder(&place(dir.path())), Some(Holder { pid: 8, ..Holder::this(None) }));
        assert_eq!(in_use(&place(dir.path())).kind(), ErrorKind::InUse);
        drop(lock);
        // What a dead server left does not keep anybody out, and the next holder replaces it.
        assert!(holder(&place(dir.path())).is_some());
        let _next = take(dir.path(), Hold::Exclusive).expect("free");
        assert_eq!(holder(&place(dir.path())).map(|h| h.pid), Some(std::process::id()));
    }

    #[test]
    fn a_process_of_another_host_or_pid_namespace_is_named_with_it() {
        let here = Holder { pid: 7, ..Holder::this(None) };
        assert!(here.host.is_some() && here.pid_namespace.is_some());
        assert_eq!(here.to_string(), "process 7");
        let elsewhere = Holder { host: Some("web\u{1b}[2J".into()), ..here.clone() };
        assert_eq!(elsewhere.to_string(), r#"process 7 of the host or container "web\u{1b}[2J""#);
        let inside = Holder { pid_namespace: Some(1), ..here };
        assert_eq!(inside.to_string(), "process 7 of another pid namespace on this host");
        let older: Holder = serde_json::from_str(r#"{"pid":7,"control":null}"#).expect("what an earlier version wrote");
        assert_eq!(older.to_string(), "process 7");
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
    fn the_file_keeps_its_block_and_an_empty_one_of_old_is_in_order() {
        let dir = tempfile::tempdir().expect("dir");
        let size = || std::fs::metadata(dir.path().join(FILE)).expect("a file").len();
        std::fs::write(dir.path().join(FILE), "").expect("as of old");
        let lock = take(dir.path(), Hold::Exclusive).expect("free");
        assert!(!lock.was_abandoned());
        assert_eq!(size(), NOTE as u64);
        lock.end_in_order();
        assert_eq!(size(), NOTE as u64);
        assert_eq!(holder(&place(dir.path())), None);
        drop(lock);
        std::fs::write(dir.path().join(FILE), "{\"pid\":7}").expect("as of old");
        assert!(take(dir.path(), Hold::Exclusive).expect("free").was_abandoned());
    }

    #[test]
    fn a_hole_for_a_note_is_an_end_out_of_order() {
        let dir = tempfile::tempdir().expect("dir");
        let file = std::fs::File::create(dir.path().join(FILE)).expect("a file");
        file.set_len(NOTE as u64 + 1).expect("a hole");
        assert_eq!(holder(&place(dir.path())), None);
        let lock = take(dir.path(), Hold::Exclusive).expect("free");
        assert!(lock.was_abandoned());
        assert_eq!(holder(&place(dir.path())).map(|holder| holder.pid), Some(std::process::id()));
        assert_eq!(file.metadata().expect("a file").len(), NOTE as u64);
    }

    #[test]
    fn a_lock_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join(FILE)).expect("dir");
        AccountLock::try_take(&place(dir.path()), Hold::Shared).expect_err("a directory");
        AccountLock::try_take(&place(dir.path()), Hold::Exclusive).expect_err("a directory");
        std::fs::remove_dir(dir.path().join(FILE)).expect("dir");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(FILE)).expect("link");
        AccountLock::try_take(&place(dir.path()), Hold::Exclusive).expect_err("a symbolic link");
    }
}
