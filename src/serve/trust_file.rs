//! Reads the files that decide whom a server lets in (certificates, keys, lists, rules), in bounded time and memory.
//! What every user can change is refused, and a private key that every user can read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// Bytes of a certificate chain or revocation list: large authorities have lists of some MiB.
const LONGEST: u64 = 32 << 20;
/// Bytes of a private key.
const LONGEST_KEY: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Public,
    Secret,
}

/// The content of `path`; overwritten when it goes.
pub(crate) fn read(path: &Path, kind: Kind) -> Result<Zeroizing<Vec<u8>>> {
    let unread = |e: io::Error| Error::io("cannot be read", e).at_path(path);
    // A FIFO that nobody writes to must not hang a server that reads its files again; a regular file takes no notice.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unread(e.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a regular file, which could be read again")
            .at_path(path)
            .hint("it is read at the start and again after SIGHUP"));
    }
    if metadata.mode() & 0o002 != 0 {
        let what = format!("every user can change it (mode {:03o}), so it is not used", metadata.mode() & 0o777);
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .at_path(path)
            .hint("chmod o-w it, and look at what it says"));
    }
    if kind == Kind::Secret && metadata.mode() & 0o007 != 0 && !is_mounted_secret(&file, metadata.uid()) {
        let what =
            format!("every user can get at the private key (mode {:03o}), so it is not used", metadata.mode() & 0o777);
        return Err(Error::new(ErrorKind::InvalidInput, what)
            .at_path(path)
            .hint("chmod 600 it, or 640 for a group of its own, and take a new key if others had it"));
    }
    let longest = if kind == Kind::Secret { LONGEST_KEY } else { LONGEST };
    if metadata.len() > longest {
        return Err(Error::new(ErrorKind::InvalidInput, format!("longer than {} KiB", longest >> 10)).at_path(path));
    }
    // With room for all of it, so that no copy is left behind where a vector has grown.
    let mut text = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(longest).read_to_end(&mut text).map_err(unread)?;
    Ok(text)
}

/// Whether it is root's on a mount that is read-only, as container engines hand in secrets: nobody but who is given the
/// mount sees it, and its mode is not theirs to set.
fn is_mounted_secret(file: &File, owner: u32) -> bool {
    /// Of tmpfs and ramfs: statfs(2).
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let in_memory = rustix::fs::fstatfs(file).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u64)));
    let read_only = rustix::fs::fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    owner == 0 && in_memory && read_only
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_every_user_can_get_at_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "a key").unwrap();
        for (mode, taken) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o602, false), (0o601, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path, Kind::Secret).is_ok(), taken, "{mode:o}");
            assert_eq!(read(&path, Kind::Public).is_ok(), mode & 0o002 == 0, "{mode:o}");
        }
    }

    #[test]
    fn only_regular_files_of_some_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&fifo, Kind::Public).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read(dir.path(), Kind::Public).unwrap_err().kind(), ErrorKind::InvalidInput);
        let long = dir.path().join("long");
        File::create(&long).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(read(&long, Kind::Public).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read(&dir.path().join("missing"), Kind::Public).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
