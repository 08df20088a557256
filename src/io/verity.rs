//! fs-verity: a file system that lets nothing write to a file any more, and checks whatever is read of it against a
//! digest. What is changed below the file system fails to be read.
//!
//! The digest is of the root of a hash tree over the content, with its length and the parameters of the tree: files of
//! one digest have one content (Linux, Documentation/filesystems/fsverity.rst). The kernel keeps it, so asking for it
//! takes the same time for any file.
//!
//! One of the two files of the crate with `unsafe`: the kernel tells the digest by an ioctl alone, which no safe crate
//! makes.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `FS_IOC_MEASURE_VERITY`: its number tells the size of the two fields before the digest.
pub(crate) const MEASURE: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);
/// Bytes of the longest digest, SHA-512.
const LONGEST: usize = 64;

/// `struct fsverity_digest`, with room for the longest digest.
#[repr(C)]
struct Measured {
    algorithm: u16,
    /// Bytes of `digest`: of its room on the way in, of what was written on the way out.
    size: u16,
    digest: [u8; LONGEST],
}

/// The digest of an open regular file under fs-verity, as `fsverity measure` prints it: `sha256:` and hexadecimal
/// digits. `None`: an ordinary file, or a kernel or file system that has no fs-verity.
pub(crate) fn digest(file: impl AsFd) -> io::Result<Option<String>> {
    #[cfg(test)]
    if let Some(digest) = pretended::digest(&file)? {
        return Ok(Some(digest));
    }
    let stat = match statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
        Err(Errno::NOSYS) => return Ok(None),
        stat => stat?,
    };
    if !stat.stx_attributes.contains(StatxAttributes::VERITY) {
        return Ok(None);
    }
    let mut measured = Measured { algorithm: 0, size: LONGEST as u16, digest: [0; LONGEST] };
    // SAFETY: the opcode is FS_IOC_MEASURE_VERITY, in the kernel since 5.4, and `Measured` has the layout that it
    // takes. The kernel reads the four bytes before the digest, and writes these and at most as many bytes behind them
    // as `size` says, which is the room that `digest` has; where the digest is longer it fails with EOVERFLOW. Every
    // byte may have any value. The attribute says that the file system knows this call by this number.
    let asked = unsafe { ioctl(&file, Updater::<MEASURE, Measured>::new(&mut measured)) };
    match asked {
        // A file system in between that passes attributes on and not this call.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NODATA) => return Ok(None),
        asked => asked?,
    }
    let algorithm = match measured.algorithm {
        1 => "sha256".to_owned(),
        2 => "sha512".to_owned(),
        other => format!("algorithm-{other}"),
    };
    let digest = measured.digest.get(..measured.size.into()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(format!("{algorithm}:{}", hex::encode(digest))))
}

/// Digests that tests of this thread take for those of files, as not every kernel has fs-verity.
#[cfg(test)]
pub(crate) mod pretended {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::io;
    use std::os::fd::AsFd;
    use std::path::Path;

    thread_local! {
        static DIGESTS: RefCell<HashMap<(u64, u64), String>> = RefCell::default();
    }

    fn identity(file: impl AsFd) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(file)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    pub(super) fn digest(file: impl AsFd) -> io::Result<Option<String>> {
        let identity = identity(file)?;
        Ok(DIGESTS.with_borrow(|digests| digests.get(&identity).cloned()))
    }

    /// From now on `path` has this digest, or none.
    pub(crate) fn set(path: &Path, digest: Option<&str>) {
        let identity = std::fs::File::open(path).and_then(identity).expect("a file");
        DIGESTS.with_borrow_mut(|digests| match digest {
            Some(digest) => digests.insert(identity, digest.to_owned()),
            None => digests.remove(&identity),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_file_has_no_digest_and_the_call_has_its_number() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(digest(&file).expect("asked"), None);
        assert_eq!(MEASURE, 0xC004_6686);
        assert_eq!((size_of::<Measured>(), std::mem::offset_of!(Measured, digest)), (4 + LONGEST, 4));
    }
}
