//! Small files read and replaced whole, through the seam.
//!
//! [`replace`] is atomic at any crash: the old content or the new, never a mixture and never neither. In order:
//! 1. the new content is written under a temporary name and synced;
//! 2. it is renamed over the old;
//! 3. the directory is synced: only now is the change durable, and only now may the caller act on it.
//!
//! [`replace_and_wipe`] goes on: 4. the old content, which has lost its name, is overwritten with zeros and synced.
//!
//! A process killed between 2 and 3 leaves a change that looks durable and is not: [`make_durable`] makes it so.

use std::io;

use super::transfer::{read_full, read_up_to, write_full};
use super::{Dir, File, Open, mutant};
use crate::{Error, ErrorKind, Result};

/// Bytes of a large file that are overwritten in one piece.
const PIECE: u64 = 1 << 20;

/// Reads all of `name`; [`ErrorKind::Corrupt`] when it is longer than `limit` bytes.
pub fn read(dir: &dyn Dir, name: &str, limit: usize) -> Result<Vec<u8>> {
    let failed = |source| Error::io("cannot be read", source).at_path(dir.path().join(name));
    let file = dir.open(name, Open::Read).map_err(failed)?;
    let size = file.size().map_err(failed)?;
    if size > limit as u64 {
        let what = format!("is {size} bytes long, which no file of this kind is");
        return Err(Error::new(ErrorKind::Corrupt, what).at_path(dir.path().join(name)));
    }
    let mut content = vec![0; size as usize];
    let read = read_up_to(&*file, &mut content, 0).map_err(failed)?;
    content.truncate(read);
    Ok(content)
}

/// Makes what [`read`] gives durable, and removes what an interrupted [`replace`] left. The first step of whoever is
/// going to act on the file, and excludes other writers.
pub fn make_durable(dir: &dyn Dir, name: &str) -> Result<()> {
    let failed = |source| Error::io("cannot be made durable", source).at_path(dir.path().join(name));
    match dir.open(&temporary(name), Open::ReadWrite) {
        Ok(left) => wipe(&*left).and_then(|()| dir.remove(&temporary(name))).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    dir.open(name, Open::ReadWrite).and_then(|file| file.sync_data()).and_then(|()| dir.sync()).map_err(failed)
}

/// Makes `content` the content of `name`, durably and atomically. The caller excludes other writers.
pub fn replace(dir: &dyn Dir, name: &str, content: &[u8]) -> Result<()> {
    let failed = |source| Error::io("cannot be written", source).at_path(dir.path().join(name));
    let temporary = temporary(name);
    write_new(dir, &temporary, content).and_then(|()| dir.rename(&temporary, name)).map_err(|error| {
        // Best effort: what is left is removed before the next use of the name.
        let _ = dir.remove(&temporary);
        failed(error)
    })?;
    if mutant!(ReplacedNotSynced) {
        return Ok(());
    }
    dir.sync().map_err(failed)
}

/// [`replace`] for content whose old version should not be found on the device again. That the old bytes are
/// overwritten is no promise where the file system or the device writes elsewhere; failing to is only warned of.
pub fn replace_and_wipe(dir: &dyn Dir, name: &str, content: &[u8]) -> Result<()> {
    let old = dir.open(name, Open::ReadWrite);
    replace(dir, name, content)?;
    let wiped = match old {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        old => old.and_then(|old| wipe(&*old)),
    };
    if let Err(error) = wiped {
        tracing::warn!(path = %dir.path().join(name).display(), %error, "the old content could not be overwritten");
    }
    Ok(())
}

/// Overwrites the content of `name` where it lies, with as many bytes, and checks by reading it back. This is no atomic
/// change: a crash leaves any mixture. It is for content that must go.
pub fn overwrite(dir: &dyn Dir, name: &str, content: &[u8]) -> Result<()> {
    let failed = |source| Error::io("cannot be overwritten", source).at_path(dir.path().join(name));
    let file = dir.open(name, Open::ReadWrite).map_err(failed)?;
    if file.size().map_err(failed)? != content.len() as u64 {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    write_full(&*file, content, 0).and_then(|()| file.sync_data()).and_then(|()| file.drop_cache()).map_err(failed)?;
    if read(dir, name, content.len())? != content {
        return Err(failed(io::Error::other("something else is read back")));
    }
    Ok(())
}

/// Overwrites all of `name` with zeros where it lies, whatever its length, and checks by reading it back. Not atomic
/// either; asked for again after a crash it finishes.
pub fn erase(dir: &dyn Dir, name: &str) -> Result<()> {
    let failed = |source| Error::io("cannot be overwritten", source).at_path(dir.path().join(name));
    let file = dir.open(name, Open::ReadWrite).map_err(failed)?;
    wipe(&*file).and_then(|()| file.drop_cache()).and_then(|()| check_wiped(&*file)).map_err(failed)
}

fn temporary(name: &str) -> String {
    format!("{name}.new")
}

/// Overwrites all of `file` with zeros, durably.
fn wipe(file: &dyn File) -> io::Result<()> {
    let size = file.size()?;
    let zeros = vec![0; PIECE.min(size) as usize];
    for at in (0..size).step_by(PIECE as usize) {
        write_full(file, &zeros[..(size - at).min(PIECE) as usize], at)?;
    }
    file.sync_data()
}

fn check_wiped(file: &dyn File) -> io::Result<()> {
    let size = file.size()?;
    let mut bytes = vec![0; PIECE.min(size) as usize];
    for at in (0..size).step_by(PIECE as usize) {
        let piece = &mut bytes[..(size - at).min(PIECE) as usize];
        read_full(file, piece, at)?;
        if piece.iter().any(|&byte| byte != 0) {
            return Err(io::Error::other("something else is read back"));
        }
    }
    Ok(())
}

fn write_new(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<()> {
    let file = match dir.open(name, Open::New) {
        // Left by a crash.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            dir.remove(name)?;
            dir.open(name, Open::New)?
        }
        other => other?,
    };
    write_full(&*file, content, 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::real::RealDir;

    #[test]
    fn replaces_whole_even_over_what_a_crash_left() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        std::fs::write(temporary.path().join("x.new"), "half-ma").unwrap();
        replace(&dir, "x", b"one").unwrap();
        assert_eq!(read(&dir, "x", 3).unwrap(), b"one");
        replace(&dir, "x", b"second").unwrap();
        assert_eq!(read(&dir, "x", 100).unwrap(), b"second");
        assert_eq!(dir.list().unwrap(), ["x"]);
    }

    #[test]
    fn the_old_content_is_overwritten_where_it_lay() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        replace(&dir, "x", b"secret").unwrap();
        let old = dir.open("x", Open::Read).unwrap();
        replace_and_wipe(&dir, "x", b"new").unwrap();
        let mut bytes = [1; 6];
        assert_eq!(old.read_at(&mut bytes, 0).unwrap(), 6);
        assert_eq!(bytes, [0; 6]);
        assert_eq!(read(&dir, "x", 100).unwrap(), b"new");
    }

    #[test]
    fn settling_removes_what_was_left_and_keeps_what_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        replace(&dir, "x", b"good").unwrap();
        std::fs::write(temporary.path().join("x.new"), "half-made").unwrap();
        let left = dir.open("x.new", Open::Read).unwrap();
        make_durable(&dir, "x").unwrap();
        assert_eq!(dir.list().unwrap(), ["x"]);
        assert_eq!(read(&dir, "x", 100).unwrap(), b"good");
        let mut bytes = [1; 9];
        left.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 9]);
    }

    #[test]
    fn overwriting_keeps_the_file_and_its_length() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        replace(&dir, "x", b"secret").unwrap();
        let file = dir.open("x", Open::Read).unwrap();
        overwrite(&dir, "x", b"******").unwrap();
        let mut bytes = [0; 6];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"******");
        assert_eq!(overwrite(&dir, "x", b"longer than it was").unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn erasing_leaves_zeros_of_any_length() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        for len in [0, 1, PIECE as usize, PIECE as usize + 513] {
            std::fs::write(temporary.path().join("x"), vec![7; len]).unwrap();
            let file = dir.open("x", Open::Read).unwrap();
            erase(&dir, "x").unwrap();
            let mut bytes = vec![1; len];
            std::os::unix::fs::FileExt::read_exact_at(
                &std::fs::File::open(temporary.path().join("x")).unwrap(),
                &mut bytes,
                0,
            )
            .unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0));
            assert_eq!(file.size().unwrap(), len as u64);
        }
        assert_eq!(erase(&dir, "y").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn too_long_and_missing_files_are_told_apart() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        assert_eq!(read(&dir, "x", 100).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(temporary.path().join("x"), "long").unwrap();
        assert_eq!(read(&dir, "x", 3).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
