//! Finding the parent of a differencing disk.
//!
//! The paths that an image names are hostile input: following them freely would let an image read any file of its host.
//! So a parent is opened only under an allowed folder (the child's own, and those the user names), by a lookup that the
//! kernel keeps beneath that folder, and only if it is a regular file. Candidates are tried in order, each locator as
//! written, then the names beside the child, then the names in the other folders; the first with the right unique id is
//! the parent.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::image::Image;
use super::locator::{self, Locator};
use super::meta::Notice;
use super::open::{OpenOptions, OptionNames};
use super::{Fault, Warning};
use crate::io::host_file::{HostFile, READ_FLAGS};
use crate::{Error, ErrorKind, Result};

/// One search, for the parent of one file.
pub(super) struct Search {
    child: PathBuf,
    /// The child's own folder first.
    roots: Vec<Root>,
    /// Paths and folders tried so far, so that none is tried twice.
    tried: Vec<PathBuf>,
    /// Locators that are of no use though the parent was found.
    pub(super) notices: Vec<Notice>,
    failure: Option<Failure>,
    names: OptionNames,
}

struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

/// Why the search found nothing; the greatest is reported.
struct Failure {
    rank: Rank,
    error: Error,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Missing,
    /// An absolute path elsewhere, such as a disk that was moved together with its parent still has.
    AbsoluteOutside,
    /// A path relative to the child at which there is nothing.
    MissingRelative,
    BadLocator,
    Forbidden,
    /// A file was there and was not the parent.
    Refused,
}

/// Where a name may be looked for.
enum Target {
    Path(PathBuf),
    /// A path of another system: of use only for its last part.
    Foreign,
    Forbidden(&'static str),
}

impl Search {
    pub(super) fn new(child: &HostFile, options: &OpenOptions) -> Result<Self> {
        let fail = |e| Error::io("cannot resolve the path", e).at_path(child.path());
        let path = child.path().canonicalize().map_err(fail)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut opened = vec![Root::open(&folder)?];
        for root in &options.roots {
            opened.push(Root::open(root)?);
        }
        let names = options.names;
        Ok(Self { child: path, roots: opened, tried: Vec::new(), notices: Vec::new(), failure: None, names })
    }

    /// Tries candidates until `admit` takes one as the parent of `child`.
    pub(super) fn find<T>(&mut self, child: &Image, admit: impl Fn(Arc<HostFile>) -> Result<T>) -> Result<T> {
        let meta = child.meta();
        let Some(header) = meta.header() else {
            return Err(Fault::ParentNotFound.error("has no parent").at_path(&self.child));
        };
        let mut names = Vec::new();
        let mut found = None;
        for (index, entry) in header.locators() {
            let at = meta.footer().data_offset() + 576 + index as u64 * 24;
            match locator::read(child.source(), &entry, meta.end()) {
                Err(error) if error.kind() != ErrorKind::Vhd(Fault::BadParentLocator) => return Err(error),
                Err(error) => {
                    self.notices.push(Notice::new(Warning::BadParentLocator, at, error.what()));
                    self.fail(Rank::BadLocator, error.at_path(&self.child));
                }
                Ok(locator) if found.is_none() => {
                    names.extend(text(&locator).and_then(last_part));
                    found = self.follow(&locator, at, &admit)?;
                }
                // Still read, so that a bad locator is told of whether or not it was needed.
                Ok(_) => {}
            }
        }
        let name = header.parent_name();
        names.splice(0..0, last_part(&name));
        for root in 0..self.roots.len() {
            for name in &names {
                if found.is_none() {
                    found = self.try_beneath(root, Path::new(name), Rank::Missing, &admit)?;
                }
            }
        }
        found.ok_or_else(|| self.give_up(&name, meta.footer().data_offset() + 64))
    }

    fn follow<T>(
        &mut self,
        locator: &Locator,
        at: u64,
        admit: &impl Fn(Arc<HostFile>) -> Result<T>,
    ) -> Result<Option<T>> {
        let (rank, absent) = match locator {
            Locator::Relative(_) => (Rank::Forbidden, Rank::MissingRelative),
            _ => (Rank::AbsoluteOutside, Rank::Missing),
        };
        match target(locator, self.roots[0].path.as_path()) {
            Target::Foreign => Ok(None),
            Target::Forbidden(why) => {
                self.forbid(Rank::Forbidden, at, why.to_owned());
                Ok(None)
            }
            Target::Path(path) => {
                let inside = |root: &Root| path.strip_prefix(&root.path).ok().map(Path::to_owned);
                let Some((root, rest)) = self.roots.iter().enumerate().find_map(|(n, root)| Some((n, inside(root)?)))
                else {
                    self.forbid(rank, at, format!("the parent {path:?} lies outside the allowed folders"));
                    return Ok(None);
                };
                self.try_beneath(root, &rest, absent, admit)
            }
        }
    }

    fn forbid(&mut self, rank: Rank, at: u64, what: String) {
        self.notices.push(Notice::new(Warning::BadParentLocator, at, what.clone()));
        let error = Fault::ParentForbidden.at(at, what).at_path(&self.child);
        let further = self.names.root.map(|option| format!("`{option} DIR` allows a further folder"));
        self.fail(rank, error.hint_if_none(further));
    }

    /// Tries the file `rest` of folder `root`. `absent`: how much it matters that there is none.
    fn try_beneath<T>(
        &mut self,
        root: usize,
        rest: &Path,
        absent: Rank,
        admit: &impl Fn(Arc<HostFile>) -> Result<T>,
    ) -> Result<Option<T>> {
        let path = self.roots[root].path.join(rest);
        if self.tried.contains(&path) {
            return Ok(None);
        }
        self.tried.push(path.clone());
        let result = self.roots[root].open_file(rest).and_then(|file| admit(Arc::new(file)));
        let error = match result {
            Ok(found) => return Ok(Some(found)),
            Err(error) => error,
        };
        let rank = match error.kind() {
            ErrorKind::Vhd(Fault::ParentNotFound) => absent,
            ErrorKind::Vhd(Fault::ParentForbidden) => Rank::Forbidden,
            ErrorKind::Vhd(_) => Rank::Refused,
            _ => return Err(error),
        };
        self.fail(rank, error);
        Ok(None)
    }

    /// Of failures of one rank the first counts.
    fn fail(&mut self, rank: Rank, error: Error) {
        if self.failure.as_ref().is_none_or(|failure| failure.rank < rank) {
            self.failure = Some(Failure { rank, error });
        }
    }

    fn give_up(&mut self, name: &str, at: u64) -> Error {
        match self.failure.take() {
            Some(failure) if !matches!(failure.rank, Rank::Missing | Rank::MissingRelative) => failure.error,
            _ => {
                let what = format!("the parent {name:?} is neither where the disk says nor beside it");
                let error = Fault::ParentNotFound.at(at, what).at_path(&self.child);
                let elsewhere = self.names.root.map(|option| format!(", or name its folder by `{option} DIR`"));
                error.hint(format!("put the parent beside the disk{}", elsewhere.unwrap_or_default()))
            }
        }
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self> {
        let fail = |e| Error::io("cannot open the folder for parents", e).at_path(path);
        let canonical = path.canonicalize().map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&canonical, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        Ok(Self { path: canonical, fd })
    }

    /// Opens a regular file beneath this folder, wherever symbolic links may point.
    fn open_file(&self, rest: &Path) -> Result<HostFile> {
        let path = self.path.join(rest);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let forbidden = |what: &str| Fault::ParentForbidden.error(what).at_path(&path);
        // The kernel answers AGAIN when something was renamed meanwhile.
        let mut attempts = 0;
        let fd = loop {
            match rustix::fs::openat2(&self.fd, rest, READ_FLAGS, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if attempts < 8 => attempts += 1,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL) => {
                    return Err(Fault::ParentNotFound.error("no such parent").at_path(&path));
                }
                Err(Errno::XDEV | Errno::LOOP) => return Err(forbidden("the parent lies outside the allowed folder")),
                Err(Errno::NXIO | Errno::NODEV) => return Err(forbidden("the parent is no regular file")),
                Err(Errno::NOSYS) => {
                    let what = "this kernel cannot open a parent safely (openat2)";
                    return Err(Error::new(ErrorKind::Unsupported, what).at_path(&path));
                }
                other => {
                    break other.map_err(|errno| Error::io("cannot open the parent", errno.into()).at_path(&path))?;
                }
            }
        };
        HostFile::from_fd(fd, &path).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => forbidden("the parent is no regular file"),
            _ => error,
        })
    }
}

fn text(locator: &Locator) -> Option<&str> {
    match locator {
        Locator::Relative(text) | Locator::Absolute(text) | Locator::Url(text) => Some(text),
        Locator::Legacy(_) => None,
    }
}

/// Where a locator points on this host. `folder`: the child's, absolute.
fn target(locator: &Locator, folder: &Path) -> Target {
    let Some(text) = text(locator) else { return Target::Foreign };
    let text = text.replace('\\', "/");
    // The forms in which Windows gives a path of a drive to programs: `\\?\C:\...`.
    let text =
        ["//?/", "//./"].iter().find_map(|prefix| text.strip_prefix(prefix)).filter(|t| drive(t)).unwrap_or(&text);
    if text.starts_with("//") {
        return Target::Forbidden("the parent is named by a network path");
    }
    if drive(text) {
        return Target::Foreign;
    }
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Target::Forbidden("the parent is named by a URL");
    }
    let mut path = folder.to_owned();
    for part in Path::new(text).components() {
        match part {
            Component::RootDir | Component::Prefix(_) => path = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
        }
    }
    Target::Path(path)
}

/// `C:...`.
fn drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// The name at the end of a path of any system.
fn last_part(text: &str) -> Option<String> {
    let name = text.rsplit(['/', '\\']).next()?;
    (!matches!(name, "" | "." | "..") && !name.contains(char::is_control)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(locator: Locator) -> Option<PathBuf> {
        match target(&locator, Path::new("/vm/images")) {
            Target::Path(path) => Some(path),
            Target::Foreign | Target::Forbidden(_) => None,
        }
    }

    #[test]
    fn locators_become_paths_of_this_host_or_none() {
        let relative = |text: &str| resolved(Locator::Relative(text.into()));
        assert_eq!(relative(".\\a\\b.vhd").unwrap(), Path::new("/vm/images/a/b.vhd"));
        assert_eq!(relative("..\\b.vhd").unwrap(), Path::new("/vm/b.vhd"));
        assert_eq!(relative("../../../../etc/passwd").unwrap(), Path::new("/etc/passwd"));
        assert_eq!(resolved(Locator::Absolute("/vm/x.vhd".into())).unwrap(), Path::new("/vm/x.vhd"));
        for text in
            ["\\\\server\\share\\a.vhd", "//server/a", "http://host/a", "json:{}", "nbd:unix:/x", "\\\\?\\UNC\\a"]
        {
            let target = target(&Locator::Absolute(text.into()), Path::new("/vm"));
            assert!(matches!(target, Target::Forbidden(_)), "{text}");
        }
        for text in ["C:\\vm\\a.vhd", "\\\\?\\C:\\vm\\a.vhd", "d:/a"] {
            assert!(matches!(target(&Locator::Absolute(text.into()), Path::new("/vm")), Target::Foreign), "{text}");
        }
        assert_eq!(last_part("C:\\vm\\a.vhd").as_deref(), Some("a.vhd"));
        assert_eq!(last_part("a/.."), None);
    }
}
