//! Whose an account is, and with whose rights it is reached.
//!
//! 1. An account directory that is the caller's, or root's, is reached as the caller, with the caller's rights. One of
//!    another user is refused, and so is one in which others than its owner may write: what lies there is not the
//!    caller's word. A link on the way there counts only if it is the caller's, root's or the owner's.
//! 2. Root becomes the owner: what it makes there is the owner's, and it reads no more than the owner may. That holds
//!    for the one access ([`Owner::act`]) and the threads that begin in it; what the caller itself named (a key file,
//!    an image, the file of an export) is opened outside of it, with the caller's rights.
//! 3. All of that is asked of the open directory, through which everything in it is reached then; so what somebody puts
//!    at its path meanwhile is another directory, and not looked at.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread;

use super::registry::DISKS;
use super::{links, lock, settings};
use crate::io::Dir;
use crate::io::real::RealDir;
use crate::{Error, ErrorKind, Result};

/// The group of a user whom the system does not know (Debian's `nogroup`).
const NO_GROUP: u32 = 65_534;
/// Mode bits that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

const KEEP_UID: Option<Uid> = None;
const KEEP_GID: Option<Gid> = None;

/// The owner of an account. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Owner {
    uid: Uid,
    /// What root becomes to reach the account; `None`: the caller stays who it is.
    ids: Option<Arc<Ids>>,
}

/// Two sets of ids: the owner's, and those of the caller to go back to.
#[derive(Debug)]
struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    caller_gid: Gid,
    caller_groups: Vec<Gid>,
    /// The owner's home directory; `None`: a user whom the system does not know.
    home: Option<PathBuf>,
}

impl Owner {
    /// The owner of the account directory `dir`, with what lies in it so far. [`ErrorKind::InvalidInput`] where it is
    /// not the caller's to trust.
    pub fn of(dir: &RealDir) -> Result<Self> {
        let failed = |error: Errno| Error::io("cannot examine the account", error.into()).at_path(dir.path());
        let stat = rustix::fs::fstat(dir).map_err(failed)?;
        let (uid, caller) = (Uid::from_raw(stat.st_uid), rustix::process::geteuid());
        if uid != caller && !uid.is_root() && !caller.is_root() {
            let what = format!("the account belongs to another user (uid {})", stat.st_uid);
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .at_path(dir.path())
                .hint(format!("be that user, or root: sudo -u '#{}' sealdisk ...", stat.st_uid)));
        }
        links::check(dir.path(), &stat)?;
        check_writers(&stat).map_err(|error| error.at_path(dir.path()))?;
        for name in [settings::FILE, lock::FILE, DISKS] {
            match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(entry) => check_entry(&entry, stat.st_uid).map_err(|error| error.at_path(dir.path().join(name)))?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let ids = (uid != caller && caller.is_root()).then(|| Ids::of(uid)).transpose()?;
        Ok(Self { uid, ids: ids.map(Arc::new) })
    }

    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Whether the owner is another user than the caller, who is root: what the caller can open the owner may not.
    #[must_use]
    pub fn is_another(&self) -> bool {
        self.ids.is_some()
    }

    /// The home directory of an owner who [is another user](Owner::is_another), as the system knows it.
    #[must_use]
    pub fn home(&self) -> Option<&Path> {
        self.ids.as_ref()?.home.as_deref()
    }

    /// Does `work` with the owner's rights. So do the threads that begin in it.
    pub fn act<T, E: From<Error>>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let Some(ids) = &self.ids else { return work() };
        let _as_owner = AsOwner::begin(ids)?;
        work()
    }

    /// Makes the whole process the owner's, for good: for a server, before it serves.
    pub fn become_for_good(&self) -> Result<()> {
        let Some(ids) = &self.ids else { return Ok(()) };
        let (uid, gid) = (unistd::Uid::from_raw(ids.uid.as_raw()), unistd::Gid::from_raw(ids.gid.as_raw()));
        let groups: Vec<_> = ids.groups.iter().map(|group| unistd::Gid::from_raw(group.as_raw())).collect();
        unistd::setgroups(&groups)
            .and_then(|()| unistd::setresgid(gid, gid, gid))
            .and_then(|()| unistd::setresuid(uid, uid, uid))
            .map_err(|error| cannot_become(ids, error.into()))?;
        stay_undumpable()
    }
}

impl Ids {
    fn of(uid: Uid) -> Result<Self> {
        let user = unistd::User::from_uid(unistd::Uid::from_raw(uid.as_raw())).ok().flatten();
        let gid = user.as_ref().map_or(NO_GROUP, |user| user.gid.as_raw());
        let home = user.as_ref().map(|user| user.dir.clone());
        let name = user.and_then(|user| CString::new(user.name).ok());
        let groups = name.and_then(|name| unistd::getgrouplist(&name, unistd::Gid::from_raw(gid)).ok());
        let groups = groups.unwrap_or_default().into_iter().map(|group| Gid::from_raw(group.as_raw())).collect();
        let caller_groups = rustix::process::getgroups()
            .map_err(|error| Error::io("the groups of this process are not known", error.into()))?;
        Ok(Self { uid, gid: Gid::from_raw(gid), groups, caller_gid: rustix::process::getegid(), caller_groups, home })
    }
}

/// While it lives, this thread's effective ids are the owner's. The real and saved ones stay, to go back by.
struct AsOwner<'a>(&'a Ids);

impl<'a> AsOwner<'a> {
    fn begin(ids: &'a Ids) -> Result<Self> {
        // From here on what fails is taken back.
        let this = Self(ids);
        thread::set_thread_groups(&ids.groups)
            .and_then(|()| thread::set_thread_res_gid(KEEP_GID, ids.gid, KEEP_GID))
            .and_then(|()| thread::set_thread_res_uid(KEEP_UID, ids.uid, KEEP_UID))
            .map_err(|error| cannot_become(ids, error.into()))?;
        stay_undumpable()?;
        Ok(this)
    }
}

impl Drop for AsOwner<'_> {
    fn drop(&mut self) {
        let Self(ids) = self;
        let back = thread::set_thread_res_uid(KEEP_UID, Uid::ROOT, KEEP_UID)
            .and_then(|()| thread::set_thread_res_gid(KEEP_GID, ids.caller_gid, KEEP_GID))
            .and_then(|()| thread::set_thread_groups(&ids.caller_groups));
        if let Err(error) = back {
            tracing::error!(%error, "the rights of the caller cannot be taken back");
        }
        if let Err(error) = stay_undumpable() {
            tracing::error!(%error);
        }
    }
}

/// The kernel may make a process dumpable again when its user changes (fs.suid_dumpable).
fn stay_undumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Error::io("the process cannot be made undumpable", error.into()))
}

fn cannot_become(ids: &Ids, error: std::io::Error) -> Error {
    let uid = ids.uid.as_raw();
    Error::io(format!("root cannot become the owner of the account (uid {uid})"), error)
        .hint(format!("be that user: in a container start it with `-u {uid}`"))
}

fn check_writers(stat: &Stat) -> Result<()> {
    let mode = stat.st_mode & 0o7777;
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    let what = format!("others than its owner may write in the account (mode {mode:03o}), so it is not trusted");
    Err(Error::new(ErrorKind::InvalidInput, what).hint("chmod go-w it, if what lies in it is still your own"))
}

fn check_entry(stat: &Stat, owner: u32) -> Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Error::new(ErrorKind::InvalidInput, "is a symbolic link, which no part of an account is")
            .hint("put what the link leads to in its place; the account directory itself may be named by a link"));
    }
    if stat.st_uid != owner {
        let what = format!("belongs to uid {}, the account to uid {owner}", stat.st_uid);
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .hint(format!("if it is as you left it, give it to the owner of the account: chown -R {owner} DIR")));
    }
    check_writers(stat)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refusal(dir: &tempfile::TempDir) -> String {
        let error = Owner::of(&RealDir::open(dir.path()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    }

    fn set_mode(path: impl AsRef<std::path::Path>, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_or_file_in_which_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner::of(&RealDir::open(dir.path()).unwrap()).unwrap();
        assert_eq!(owner.uid(), rustix::process::geteuid().as_raw());
        for mode in [0o720, 0o702, 0o1777] {
            set_mode(dir.path(), mode);
            assert!(refusal(&dir).contains("may write"), "{mode:o}");
        }
        set_mode(dir.path(), 0o755);
        for name in [settings::FILE, lock::FILE] {
            fs::write(dir.path().join(name), "").unwrap();
            set_mode(dir.path().join(name), 0o664);
            assert!(refusal(&dir).contains(name));
            set_mode(dir.path().join(name), 0o644);
            Owner::of(&RealDir::open(dir.path()).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_symbolic_link_is_no_part_of_an_account() {
        let dir = tempfile::tempdir().unwrap();
        for name in [settings::FILE, lock::FILE, DISKS] {
            symlink("/etc", dir.path().join(name)).unwrap();
            assert!(refusal(&dir).contains("symbolic link"));
            fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}
