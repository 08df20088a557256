//! Making empty disks.

use std::path::{Component, Path, PathBuf};

use uuid::Uuid;

use super::open::{self, OpenOptions};
use super::write::{self, Parent, SparseWriter};
use super::{Bat, DiskType, Fault, Image, MAX_ENTRIES};
use crate::io::host_file::HostFile;
use crate::io::output::Output;
use crate::io::sink::Sink;
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// What to make.
#[derive(Debug, Clone)]
pub enum New {
    /// Of so many bytes.
    Fixed {
        size: u64,
    },
    Dynamic {
        size: u64,
        block_size: u64,
    },
    /// Over the VHD at `parent`, as large as it unless `size` says otherwise; `open` opens it.
    Differencing {
        parent: PathBuf,
        size: Option<u64>,
        block_size: u64,
        open: OpenOptions,
    },
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Created {
    pub kind: DiskType,
    /// Virtual size in bytes.
    pub size: u64,
    pub unique_id: Uuid,
    /// The parent is not beneath the child's folder: opening needs it named as an allowed folder.
    pub parent_elsewhere: bool,
}

/// Makes an empty disk; fails if there is a file at `path`.
pub fn create(path: &Path, new: &New) -> Result<Created> {
    create_into(Output::create(path)?, path, new)
}

/// The same in a file that is open: nothing but parents is opened.
pub fn create_into(output: Output, path: &Path, new: &New) -> Result<Created> {
    let at_path = |error: Error| if error.path().is_some() { error } else { error.at_path(path) };
    let (id, now) = (system::uuid()?, system::seconds());
    let mut parent_elsewhere = false;
    let (kind, size) = match new {
        New::Fixed { size } => {
            write::fixed(Sink::empty(output.file()), *size, id, now).map_err(at_path)?;
            (DiskType::Fixed, *size)
        }
        New::Dynamic { size, block_size } => {
            let writer = SparseWriter::new(Sink::empty(output.file()), *size, *block_size, id, now, None);
            writer.and_then(SparseWriter::finish).map_err(at_path)?;
            (DiskType::Dynamic, *size)
        }
        New::Differencing { parent, size, block_size, open } => {
            let opened = open::open(parent, open)?;
            if opened.files.len() == super::MAX_DEPTH {
                let what = format!("a chain of more than {} files", super::MAX_DEPTH);
                return Err(Fault::LimitExceeded.error(what).at_path(parent));
            }
            let size = size.unwrap_or(opened.chain.size());
            let held: usize = opened.chain.images().iter().filter_map(Image::bat).map(Bat::len).sum();
            if held as u64 + size.div_ceil((*block_size).max(1)) > MAX_ENTRIES {
                let what = format!("with its parents the disk would have more than {MAX_ENTRIES} blocks");
                return Err(Fault::LimitExceeded.error(what).at_path(parent).hint("choose larger blocks"));
            }
            let described = describe(path, &opened.files[0], opened.chain.images()[0].meta().footer().unique_id())?;
            parent_elsewhere = described.relative.starts_with("..");
            let writer = SparseWriter::new(Sink::empty(output.file()), size, *block_size, id, now, Some(&described));
            writer.and_then(SparseWriter::finish).map_err(at_path)?;
            (DiskType::Differencing, size)
        }
    };
    output.publish()?;
    Ok(Created { kind, size, unique_id: id, parent_elsewhere })
}

/// How the disk at `child` is to name its parent.
fn describe(child: &Path, parent: &HostFile, unique_id: Uuid) -> Result<Parent> {
    let resolve = |path: &Path| path.canonicalize().map_err(|e| Error::io("cannot resolve the path", e).at_path(path));
    let folder = match child.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => resolve(folder)?,
        _ => resolve(Path::new("."))?,
    };
    let absolute = resolve(parent.path())?;
    let no_text = || {
        let what = "the path is no UTF-8: a locator cannot hold it";
        Error::new(ErrorKind::InvalidInput, what).at_path(&absolute)
    };
    let relative = relative(&folder, &absolute);
    let (relative, text) = (relative.to_str().ok_or_else(no_text)?, absolute.to_str().ok_or_else(no_text)?);
    if text.contains('\\') {
        let what = "a path with a backslash cannot be named in a locator";
        return Err(Error::new(ErrorKind::InvalidInput, what).at_path(&absolute));
    }
    let modified = parent.modified()?.max(0) as u64;
    Ok(Parent { unique_id, modified, relative: relative.to_owned(), absolute: text.to_owned() })
}

/// `target` as seen from `folder`; both absolute and without `.` and `..`.
fn relative(folder: &Path, target: &Path) -> PathBuf {
    let common = folder.components().zip(target.components()).take_while(|(a, b)| a == b).count();
    let ups = folder.components().skip(common).map(|_| Component::ParentDir);
    ups.chain(target.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_lead_from_the_folder_to_the_target() {
        for (folder, target, expected) in [
            ("/a/b", "/a/b/c.vhd", "c.vhd"),
            ("/a/b", "/a/c.vhd", "../c.vhd"),
            ("/a", "/x/y/c", "../x/y/c"),
            ("/", "/c", "c"),
        ] {
            assert_eq!(relative(Path::new(folder), Path::new(target)), Path::new(expected));
        }
    }
}
