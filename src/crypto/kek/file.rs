//! `--key-file`: a file of one key that only its owner can read, or whose mode a secret store imposes.
//!
//! The mode is looked at because of slips: a key copied under the usual umask is readable by every user of the machine.
//! It is no slip where the user of this process could not have set it, and could not change it:
//!
//! - a file of root, readable by a group of ours and by no other user (0440, as Kubernetes mounts a secret for a pod
//!   with an `fsGroup`): root has chosen the group for us;
//! - a file of root that nobody else writes (0444), in memory, on a mount that is read-only (as Docker and Kubernetes
//!   mount secrets): such a mount is made for secrets, and shows itself to those that are to have them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};

use super::{Kek, KekSource, SourceRecord, decode, pipe};
use crate::crypto::secret::SecretBytes;
use crate::{Error, ErrorKind, Result};

/// Bounds a file system that has stopped answering as far as that can be done.
const DEADLINE: Duration = Duration::from_secs(30);

/// See the module documentation.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// `path` may be relative to the current directory; what is recorded is absolute.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = std::path::absolute(path.as_ref()).map_err(|error| {
            Error::io(format!("the key file {:?} is no path", path.as_ref()), error).hint("give the PATH of a file")
        })?;
        if path.to_str().is_none() {
            let what = "the path of the key file is no UTF-8, so it could not be remembered";
            return Err(Error::new(ErrorKind::InvalidInput, what).at_path(path).hint("give the file another name"));
        }
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl KekSource for KeyFile {
    fn obtain(&self) -> Result<Kek> {
        read(&self.path, "key file", is_kept).and_then(decode::decode).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::NotFound => error.hint("if it was moved, name where it is now: --key-file PATH"),
                _ => error,
            };
            error.at_path(&self.path)
        })
    }

    fn record(&self) -> SourceRecord {
        SourceRecord::File { path: self.path.clone() }
    }
}

/// Reads the regular file `path`, called `what` in errors, if `allowed`, asked on the open file, has nothing against
/// it.
pub(super) fn read(path: &Path, what: &str, allowed: fn(&File) -> Result<()>) -> Result<SecretBytes> {
    // Opening a device may already do something, and account.toml may name one: only what is a file is opened at all.
    if let Ok(stat) = rustix::fs::stat(path)
        && FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
    {
        return Err(not_regular(what));
    }
    // NONBLOCK: opening a FIFO must not hang; it has no effect on regular files.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| Error::io(format!("the {what} cannot be opened"), error.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| Error::io(format!("the {what} cannot be examined"), error))?;
    if !metadata.is_file() {
        return Err(not_regular(what));
    }
    allowed(&file)?;
    pipe::read_to_end(&file, decode::LIMIT, Instant::now() + DEADLINE)
}

fn not_regular(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the {what} is no regular file"))
        .hint("a pipe is read with --key-fd, the output of a command with --key-command")
}

fn is_kept(file: &File) -> Result<()> {
    let metadata = file.metadata().map_err(|error| Error::io("the key file cannot be examined", error))?;
    let mode = metadata.mode() & 0o7777;
    let ours = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != 0 && owner != ours {
        let what = format!("the key file belongs to another user (uid {owner}), so it is not used");
        return Err(Error::new(ErrorKind::InvalidInput, what).hint("copy it to a file of your own, with mode 600"));
    }
    if mode & 0o077 == 0 || owner == 0 && (is_given_to_our_group(mode, metadata.gid()) || is_mounted_secret(file, mode))
    {
        return Ok(());
    }
    let what = format!("others can get at the key file (mode {mode:03o}), so it is not used");
    Err(Error::new(ErrorKind::InvalidInput, what).hint(
        "chmod 600 it, and take a new key if others had it; where its mode is not yours to set: --key-fd 3 3< FILE, \
         --key-command 'cat FILE', or a systemd credential (--key-credential)",
    ))
}

/// Whether a file of root of this mode is readable by a group of this process and by no other user. Root reads by no
/// group.
fn is_given_to_our_group(mode: u32, group: u32) -> bool {
    let in_group = || {
        let others = rustix::process::getgroups().unwrap_or_default();
        rustix::process::getegid().as_raw() == group || others.iter().any(|other| other.as_raw() == group)
    };
    mode & 0o037 == 0 && !rustix::process::geteuid().is_root() && in_group()
}

/// Whether a file of root of this mode lies in memory, on a mount on which neither it nor its mode can be changed.
fn is_mounted_secret(file: &File, mode: u32) -> bool {
    /// statfs(2).
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let in_memory = rustix::fs::fstatfs(file).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u64)));
    let read_only = rustix::fs::fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    mode & 0o022 == 0 && in_memory && read_only
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key_file(mode: u32) -> (tempfile::TempDir, KeyFile) {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("kek");
        fs::write(&path, [7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = KeyFile::new(&path).unwrap();
        (temporary, file)
    }

    #[test]
    fn a_private_file_gives_its_key() {
        for mode in [0o400, 0o600, 0o700] {
            let (_temporary, file) = key_file(mode);
            assert_eq!(file.obtain().unwrap().expose(), &[7; 32]);
        }
    }

    #[test]
    fn a_file_that_others_can_get_at_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o602, 0o610, 0o601, 0o644] {
            let (_temporary, file) = key_file(mode);
            let error = file.obtain().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{mode:o}");
            assert_eq!(error.path(), Some(file.path()));
        }
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = KeyFile::new(&path).unwrap().obtain().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.hint_text().unwrap().contains("--key-fd"));
    }

    #[test]
    fn missing_long_and_wrong_files_are_refused() {
        let (temporary, file) = key_file(0o600);
        assert_eq!(KeyFile::new(temporary.path()).unwrap().obtain().unwrap_err().kind(), ErrorKind::InvalidInput);
        fs::write(file.path(), vec![7; 100_000]).unwrap();
        assert_eq!(file.obtain().unwrap_err().kind(), ErrorKind::WrongKey);
        fs::write(file.path(), "no key").unwrap();
        assert_eq!(file.obtain().unwrap_err().kind(), ErrorKind::WrongKey);
        fs::remove_file(file.path()).unwrap();
        assert_eq!(file.obtain().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_recorded_is_absolute() {
        let file = KeyFile::new("some/key").unwrap();
        assert!(
            matches!(file.record(), SourceRecord::File { path } if path.is_absolute() && path.ends_with("some/key"))
        );
    }
}
