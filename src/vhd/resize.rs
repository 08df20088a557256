//! Resizing a fixed disk in place.
//!
//! The new footer goes to the new end first, so that at every moment the last 512 bytes of the file are a footer: a
//! write behind the end of a file makes it longer in the same step. Then what is no longer needed goes: the old
//! footer's page when the disk grows, the bytes behind the new footer when it shrinks.

use std::fs;
use std::path::Path;

use super::meta::Metadata;
use super::write::check_size;
use super::{DiskType, FOOTER, Footer};
use crate::io::host_file::HostFile;
use crate::io::real::RealFile;
use crate::io::sink::{sync, write_all};
use crate::io::{File, system};
use crate::{Error, ErrorKind, Result};

/// Gives the fixed disk at `path` `size` bytes; answers how many it had. `shrink`: fewer are allowed, what lies behind
/// is lost.
pub fn resize(path: &Path, size: u64, shrink: bool) -> Result<u64> {
    let at_path = |error: Error| if error.path().is_some() { error } else { error.at_path(path) };
    check_size(size).map_err(at_path)?;
    let meta = Metadata::read(&HostFile::open(path)?, false, system::seconds()).map_err(at_path)?;
    let old = meta.footer().size();
    allowed(&meta, size, shrink).map_err(at_path)?;
    if size == old {
        return Ok(old);
    }
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.map_err(|e| Error::io("cannot open the disk for writing", e).at_path(path))?;
    move_footer(&RealFile::new(file), meta.footer(), size).map_err(at_path)?;
    Ok(old)
}

/// Gives the disk in `file`, a fixed one that ends in `footer`, another `size` in bytes.
pub fn move_footer(file: &dyn File, footer: &Footer, size: u64) -> Result<()> {
    let old = footer.size();
    let mut footer = footer.clone();
    footer.set_size(size);
    let footer = footer.to_bytes();
    if size > old { grow(file, old, size, &footer) } else { cut(file, size, &footer) }
}

fn allowed(meta: &Metadata, size: u64, shrink: bool) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::new(ErrorKind::Unsupported, what).hint(hint));
    let footer = meta.footer();
    footer.check_writable()?;
    if meta.kind() != DiskType::Fixed {
        return refuse("only fixed disks are resized", "`vhd convert --to fixed` makes a fixed disk of it");
    }
    if footer.saved_state() {
        return refuse("the disk belongs to a saved virtual machine", "start the machine and shut it down first");
    }
    if footer.size() != meta.end() {
        return refuse("bytes that belong to nothing lie before the footer", "`vhd convert` makes a copy without them");
    }
    if size < footer.size() && !shrink {
        let what = format!("the disk has {} bytes: what lies behind {size} would be lost", footer.size());
        return Err(Error::new(ErrorKind::InvalidInput, what).hint("`--shrink` cuts it off"));
    }
    Ok(())
}

fn grow(file: &dyn File, old: u64, size: u64, footer: &[u8; FOOTER]) -> Result<()> {
    let length = file.size().map_err(|e| Error::io("cannot examine the disk", e))?;
    // 1. The new footer, which becomes the end of the file.
    if let Err(error) = write_all(file, footer, size).and_then(|()| sync(file)) {
        // As it was: a file that is longer without a footer at its end would be no disk.
        let _ = file.set_size(length);
        return Err(error);
    }
    // 2. The old footer lies in the disk now, where zeros belong.
    write_all(file, &[0; FOOTER], old)?;
    sync(file)
}

fn cut(file: &dyn File, size: u64, footer: &[u8; FOOTER]) -> Result<()> {
    // 1. The new footer, over content that is cut off; the old one still ends the file.
    write_all(file, footer, size)?;
    sync(file)?;
    // 2. The new footer becomes the end of the file.
    file.set_size(size + FOOTER as u64).map_err(|e| Error::io("cannot cut the file", e))?;
    sync(file)
}
