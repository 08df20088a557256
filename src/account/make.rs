//! Making an account directory.
//!
//! account.toml is written last: a directory without it is no account, and can be made into one. What a failed attempt
//! made is taken back. In a directory that another user owns already, root makes the account of that user, with that
//! user's rights.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lock::{self, AccountLock, Hold};
use super::owner::Owner;
use super::registry::DISKS;
use super::settings;
use crate::io::real::RealDir;
use crate::io::{Dir, File, Open};
use crate::{Error, ErrorKind, Result};

/// A directory that is ready to become an account, held by its lock. Dropping it takes back what was made.
#[derive(Debug)]
pub struct NewAccountDir {
    dir: Arc<RealDir>,
    owner: Owner,
    path: PathBuf,
    _lock: AccountLock,
    made: Undo,
}

impl NewAccountDir {
    /// Prepares `path`: an empty directory, or one that does not exist yet in one that does.
    pub fn prepare(path: &Path) -> Result<Self> {
        let failed = |what: &'static str| move |e: io::Error| Error::io(what, e).at_path(path);
        let mut made = Undo::default();
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => made.paths.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                let error = failed("cannot make the account directory")(error);
                return Err(if missing { error.hint("make the folder that it is to lie in first") } else { error });
            }
        }
        let dir = Arc::new(RealDir::open(path).map_err(failed("cannot open the account directory"))?);
        let owner = Owner::of(&dir)?;
        made.owner = Some(owner.clone());
        let lock = owner.act(|| -> Result<AccountLock> {
            check_empty(&*dir)?;
            if !path.join(lock::FILE).exists() {
                made.paths.push(path.join(lock::FILE));
            }
            let Some(lock) = AccountLock::try_take(&dir, Hold::Exclusive)? else { return Err(lock::in_use(&dir)) };
            check_holes(&*dir)?;
            match dir.create_dir(DISKS) {
                Ok(()) => made.paths.push(path.join(DISKS)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("cannot make the folder of the disks")(error)),
            }
            Ok(lock)
        })?;
        Ok(Self { dir, owner, path: path.to_owned(), _lock: lock, made })
    }

    /// Where account.toml belongs.
    #[must_use]
    pub fn dir(&self) -> &dyn Dir {
        &*self.dir
    }

    /// Whose the account is to be: what is put there is put with that user's rights.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Keeps what was made, after account.toml is in place: the names of the directory and of all in it are durable.
    pub fn keep(mut self) -> Result<()> {
        let failed = |e: io::Error| Error::io("the account cannot be made durable", e).at_path(&self.path);
        self.dir.sync().map_err(failed)?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        RealDir::open(parent).and_then(|parent| parent.sync()).map_err(failed)?;
        self.made.paths.clear();
        Ok(())
    }
}

impl Drop for NewAccountDir {
    fn drop(&mut self) {
        if !self.made.paths.is_empty() {
            // Only there if making it durable failed.
            self.made.paths.push(self.path.join(settings::FILE));
        }
    }
}

/// Files and empty directories that are removed again when this is dropped, the last one first, with the rights of the
/// owner that is known by then. What fails is left: there is nothing better to do.
#[derive(Debug, Default)]
struct Undo {
    paths: Vec<PathBuf>,
    owner: Option<Owner>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut remove = || -> Result<()> {
            for path in self.paths.drain(..).rev() {
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            }
            Ok(())
        };
        let _ = match &self.owner {
            Some(owner) => owner.act(remove),
            None => remove(),
        };
    }
}

/// An attempt that was cut off may have left a lock file and an empty folder of disks.
fn check_empty(dir: &dyn Dir) -> Result<()> {
    let failed = |e: io::Error| Error::io("cannot read the account directory", e).at_path(dir.path());
    let names = dir.list().map_err(failed)?;
    if names.iter().any(|name| name == settings::FILE) {
        return Err(Error::new(ErrorKind::AlreadyExists, "there is an account here already")
            .at_path(dir.path())
            .hint("`sealdisk status` shows it"));
    }
    let left_over = |name: &String| match name.as_str() {
        lock::FILE | PROBE => true,
        DISKS => dir.subdir(DISKS).and_then(|disks| disks.list()).is_ok_and(|disks| disks.is_empty()),
        _ => false,
    };
    if !names.iter().all(left_over) {
        return Err(Error::new(ErrorKind::AlreadyExists, "the directory is not empty")
            .at_path(dir.path())
            .hint("an account is made in an empty directory or a new one"));
    }
    Ok(())
}

/// Name of the file that [`check_holes`] tries its luck with.
const PROBE: &str = "probe.tmp";

/// Pages that are covered must be given back by punching holes: without that, plaintext would stay for ever.
fn check_holes(dir: &dyn Dir) -> Result<()> {
    const BLOCK: usize = 64 << 10;
    let failed = |e: io::Error| Error::io("cannot try the file system", e).at_path(dir.path());
    let tried = |file: &dyn File| -> io::Result<bool> {
        let mut done = 0;
        let mut block = vec![0xA5; BLOCK];
        while done < BLOCK {
            done += file.write_at(&block[done..], done as u64)?;
        }
        match file.punch(0, BLOCK as u64) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(false),
            other => other?,
        }
        let mut read = 0;
        while read < BLOCK {
            match file.read_at(&mut block[read..], read as u64)? {
                0 => return Ok(false),
                n => read += n,
            }
        }
        Ok(block.iter().all(|&byte| byte == 0))
    };
    let _ = dir.remove(PROBE);
    let file = dir.open(PROBE, Open::New).map_err(failed)?;
    let holes = tried(&*file);
    dir.remove(PROBE).map_err(failed)?;
    if holes.map_err(failed)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the file system cannot punch holes into files")
        .at_path(dir.path())
        .hint("ext4, xfs, btrfs and tmpfs can"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_taken_back() {
        let temporary = tempfile::tempdir().expect("dir");
        let path = temporary.path().join("account");
        let place = NewAccountDir::prepare(&path).expect("prepared");
        assert!(path.join(DISKS).is_dir());
        drop(place);
        assert!(!path.exists());
        let place = NewAccountDir::prepare(&path).expect("prepared again");
        fs::write(path.join(settings::FILE), "").expect("written");
        place.keep().expect("kept");
        assert_eq!(NewAccountDir::prepare(&path).expect_err("an account").kind(), ErrorKind::AlreadyExists);
        assert!(path.join(settings::FILE).exists() && path.join(DISKS).is_dir());
    }

    #[test]
    fn an_interrupted_attempt_is_no_obstacle_and_other_content_is() {
        let temporary = tempfile::tempdir().expect("dir");
        let path = temporary.path();
        fs::create_dir(path.join(DISKS)).expect("dir");
        fs::write(path.join(lock::FILE), "").expect("file");
        drop(NewAccountDir::prepare(path).expect("prepared"));
        assert!(path.join(DISKS).is_dir() && path.join(lock::FILE).exists(), "not ours to remove");
        fs::write(path.join("thesis.txt"), "mine").expect("file");
        let error = NewAccountDir::prepare(path).expect_err("not empty");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(path.join("thesis.txt").exists());
    }

    #[test]
    fn a_missing_parent_is_named() {
        let temporary = tempfile::tempdir().expect("dir");
        let error = NewAccountDir::prepare(&temporary.path().join("a/b")).expect_err("no parent");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!temporary.path().join("a").exists());
    }
}
