//! The symbolic links on the way to an account: whose word leads there.
//!
//! A link of another user could lead root, who names a place of that user's, to an account of root's own, and have root
//! delete there what it means to delete elsewhere. So a link counts that belongs to root or the caller, who may name
//! the account anyway, or to the owner of the account that it leads to.
//!
//! The path is walked link by link, through open directories, and has to end in the directory that is open: what is put
//! in the place of a link meanwhile leads elsewhere, and is refused.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

/// Links that are followed: as the kernel does.
const LINKS: usize = 40;

/// [`ErrorKind::InvalidInput`] where a link on `path`, which leads to the open directory of `account`, is of a user who
/// has no word in it.
pub(super) fn check(path: &Path, account: &Stat) -> Result<()> {
    let failed = |error: Errno| Error::io("cannot examine the way to the account", error.into()).at_path(path);
    let caller = rustix::process::geteuid().as_raw();
    let refused = |what: String| {
        let hint = "if that is the account you mean, name its directory itself";
        Err(Error::new(ErrorKind::InvalidInput, what).at_path(path).hint(hint))
    };
    let open = |at: BorrowedFd<'_>, name: &OsStr| {
        rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let mut at = open(CWD, OsStr::new(".")).map_err(failed)?;
    let mut left = components(path);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let next = open(at.as_fd(), &name).map_err(failed)?;
        let stat = rustix::fs::fstat(&next).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            at = next;
            continue;
        }
        if ![0, caller, account.st_uid].contains(&stat.st_uid) {
            let shown = name.to_string_lossy().into_owned();
            return refused(format!(
                "a symbolic link on the way to the account (\"{shown}\") belongs to uid {}",
                stat.st_uid
            ));
        }
        links += 1;
        if links > LINKS {
            return Err(failed(Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(&next, "", Vec::new()).map_err(failed)?;
        let target = OsString::from_vec(target.into_bytes());
        for name in components(Path::new(&target)).into_iter().rev() {
            left.push_front(name);
        }
    }
    let end = rustix::fs::fstat(&at).map_err(failed)?;
    if (end.st_dev, end.st_ino) != (account.st_dev, account.st_ino) {
        return refused("the path leads to another directory than a moment ago".to_owned());
    }
    Ok(())
}

/// The names to look up one after the other; an absolute path begins with `/`.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().to_owned()).collect()
}
