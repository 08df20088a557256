//! What can lie under a disk's layers: read-only images, read by run.
//!
//! The seam is [`BaseImage`]. A base is never written. Its identity is recorded when the disk is made and checked when
//! the disk is opened, because a changed base would silently change every page that no layer holds.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod change_guard;
mod content;
mod detect;
mod identity;
mod raw;
pub mod read_ahead;
mod untracked;
pub mod verify;
mod vhd;

pub use content::Content;
pub(crate) use detect::ambiguous;
pub use detect::{detect, disagreement, is_called_vhd};
pub use identity::{BaseRecord, FileIdentity};
pub use untracked::UntrackedImage;

use self::change_guard::GuardedImage;
use crate::io::host_file::HostFile;
use crate::vhd::OptionNames;
use crate::{Error, ErrorKind, Result};

/// A read-only image: bytes by page.
///
/// Obligations of an implementation: `size` never changes while it is open; the same range always reads the same
/// bytes; no method panics on any content of the underlying file; all are safe to call from many threads at once.
/// Guarantees to an implementation: offsets and lengths are multiples of 512 and lie inside `size`.
pub trait BaseImage: Send + Sync + fmt::Debug {
    /// Virtual size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `offset`. An error fails this request only.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Like [`BaseImage::read_at`] but answers `false`, with `buf` in any state, where that would wait for a device.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// Visits the runs of `[offset, offset + len)` in order, without gap or overlap; neighbours may be of equal kind.
    /// A run is [`BaseRun::Zero`] only when the *format* says that it reads as zeros, never from holes of the file. An
    /// error of `visit` ends the visit, and is what this returns.
    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()>;

    /// Looks whether the files of the image are still what they were, at once. [`ErrorKind::BaseChanged`] where they
    /// are not; else a file that was deleted while it is open, if there is one.
    fn check(&self) -> Result<Option<DeletedFile>> {
        Ok(None)
    }

    /// Whether [`BaseImage::runs`] may say [`BaseRun::Held`].
    fn exposes_layers(&self) -> bool {
        false
    }
}

/// Takes the kind of a run and its length in bytes.
pub type VisitRun<'a> = dyn FnMut(BaseRun, u64) -> Result<()> + 'a;

/// How a run of a base image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseRun {
    Data,
    /// Not allocated by the image's own format: reads as zeros.
    Zero,
    /// Held by a layer of another disk, of which the image is a snapshot.
    Held {
        disk: Uuid,
        layer: u32,
        encrypted: bool,
    },
}

/// A file of an open image that no name leads to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedFile {
    /// Where it was.
    pub path: PathBuf,
    /// The number of its descriptor in this process.
    pub descriptor: i32,
}

/// The format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Raw,
    Vhd,
}

/// How an image is opened for the first time.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// `None`: [`detect`] says.
    pub format: Option<Format>,
    /// Further folders in which parents of a differencing disk may lie.
    pub roots: Vec<PathBuf>,
    /// Read a VHD by its footer copy where its footer is bad.
    pub recover: bool,
    pub names: OptionNames,
}

impl OpenOptions {
    fn of_vhd(&self) -> crate::vhd::OpenOptions {
        let Self { roots, recover, names, .. } = self.clone();
        crate::vhd::OpenOptions { roots, recover, names }
    }
}

/// Opens `path` for the first time and takes its identity. In time independent of the size of the image.
pub fn open(path: &Path, options: &OpenOptions) -> Result<(Arc<dyn BaseImage>, BaseRecord)> {
    let plain = UntrackedImage::of(HostFile::open(path)?, options)?;
    let format = plain.format();
    let (image, files) = plain.into_parts();
    let mut identities = Vec::with_capacity(files.len());
    let mut watched = Vec::with_capacity(files.len());
    for file in files {
        let identity = FileIdentity::of(&file)?;
        let stamp = identity.stamp.clone();
        identities.push(identity.clone());
        watched.push((file, identity, stamp));
    }
    let path = identities[0].path.clone();
    let record = BaseRecord { path, format, size: image.size(), recover: options.recover, files: identities };
    Ok((Arc::new(GuardedImage::new(image, watched)), record))
}

/// Opens the image of a record again. [`ErrorKind::BaseChanged`], saying what differs, when it is another one.
pub fn reopen(record: &BaseRecord) -> Result<Arc<dyn BaseImage>> {
    reopen_files(record, open_files(record)?)
}

/// An image that somebody else opened, with what is recorded of it.
#[derive(Debug)]
pub struct PassedImage {
    pub image: Arc<dyn BaseImage>,
    pub record: BaseRecord,
    /// Its files once more, where this process could not open them itself: to open the image again later.
    pub passed_fds: Vec<OwnedFd>,
}

impl PassedImage {
    /// Takes it over, as [`reopen_files`].
    pub fn take(record: BaseRecord, files: Vec<OwnedFd>) -> Result<Self> {
        let out_of_reach = record.files.iter().any(|file| HostFile::open(&file.path).is_err());
        let passed_fds = if out_of_reach { share(&files)? } else { Vec::new() };
        Ok(Self { image: reopen_files(&record, files)?, record, passed_fds })
    }
}

/// Descriptors of the same files.
pub(crate) fn share(files: &[OwnedFd]) -> Result<Vec<OwnedFd>> {
    let clone = |file: &OwnedFd| file.try_clone().map_err(|e| Error::io("cannot share the base image", e));
    files.iter().map(clone).collect()
}

/// Opens the files of a record for reading, for [`reopen_files`] here or in another process.
pub fn open_files(record: &BaseRecord) -> Result<Vec<OwnedFd>> {
    let open = |identity: &FileIdentity| match HostFile::open(&identity.path) {
        Ok(file) => Ok(file.into_fd()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let gone = Error::new(ErrorKind::NotFound, "the base image is gone").at_path(&identity.path);
            Err(gone.hint("`rebase` names its new place"))
        }
        // Most often not the file's mode but a server's confinement, which knows only what was there at its start.
        Err(error) if error.is_denied() => {
            Err(error.hint("if a confined server says so: `sealdisk rebase NAME --base IMAGE` hands the image to it"))
        }
        Err(error) => Err(error),
    };
    record.files.iter().map(open).collect()
}

/// Whether the files of a record are there and have the length that is recorded.
pub fn look_at_files(record: &BaseRecord) -> Result<()> {
    for (identity, file) in record.files.iter().zip(open_files(record)?) {
        identity.check_size(&HostFile::from_fd(file, &identity.path)?)?;
    }
    Ok(())
}

/// [`reopen`] from open files, one for each that the record names, in its order. No path is opened.
pub fn reopen_files(record: &BaseRecord, files: Vec<OwnedFd>) -> Result<Arc<dyn BaseImage>> {
    if files.len() != record.files.len() {
        let what = format!("{} files for a base image of {}", files.len(), record.files.len());
        return Err(Error::new(ErrorKind::InvalidInput, what).at_path(&record.path));
    }
    let mut opened = Vec::with_capacity(files.len());
    for (identity, file) in record.files.iter().zip(files) {
        let file = HostFile::from_fd(file, &identity.path)?;
        identity.check_size(&file)?;
        opened.push(file);
    }
    let plain = match record.format {
        _ if opened.is_empty() => return Err(Error::new(ErrorKind::Corrupt, "a record of a base image names no file")),
        Format::Raw => UntrackedImage::raw(opened.swap_remove(0))?,
        Format::Vhd => {
            let files = opened.into_iter().map(Arc::new).collect();
            UntrackedImage::vhd(crate::vhd::open_files(files, record.recover).map_err(identity::changed)?)
        }
    };
    let (image, files) = plain.into_parts();
    if image.size() != record.size {
        let what = format!("the base image was changed: {} bytes, recorded are {}", image.size(), record.size);
        return Err(Error::new(ErrorKind::BaseChanged, what).at_path(&record.path));
    }
    let mut watched = Vec::with_capacity(files.len());
    for (file, identity) in files.into_iter().zip(&record.files) {
        let stamp = identity.check(&file)?;
        if stamp != identity.stamp && identity.fs_verity.is_none() {
            let path = identity.path.display();
            tracing::warn!(%path, "the base image was touched; its length and all of its sampled content are as recorded");
        }
        watched.push((file, identity.clone(), stamp));
    }
    Ok(Arc::new(GuardedImage::new(image, watched)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhd::Footer;
    use std::os::unix::fs::FileExt;

    const SIZE: usize = 64 << 10;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|n| (n / 512 * 7 + n) as u8).collect()
    }

    fn fixed_vhd(path: &Path) {
        let mut bytes = content();
        bytes.extend(Footer::fixed(SIZE as u64, Uuid::from_u128(5), 1 << 30).to_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    fn read_all(image: &dyn BaseImage) -> Vec<u8> {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn raw_and_fixed_images_are_told_apart_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, vhd) = (dir.path().join("a.img"), dir.path().join("b.vhd"));
        std::fs::write(&raw, content()).unwrap();
        fixed_vhd(&vhd);
        for (path, format) in [(&raw, Format::Raw), (&vhd, Format::Vhd)] {
            let (image, record) = open(path, &OpenOptions::default()).unwrap();
            assert_eq!((record.format, record.size), (format, SIZE as u64));
            assert_eq!(read_all(&*image), content());
            let text = toml::to_string(&record).unwrap();
            assert_eq!(toml::from_str::<BaseRecord>(&text).unwrap(), record);
            assert_eq!(read_all(&*reopen(&record).unwrap()), content());
        }
        let forced = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
        assert_eq!(open(&vhd, &forced).unwrap().1.size, SIZE as u64 + 512);
    }

    #[test]
    fn a_changed_base_is_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.vhd");
        fixed_vhd(&path);
        let (_, record) = open(&path, &OpenOptions::default()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let changed = |what: &str| {
            let error = reopen(&record).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BaseChanged);
            assert!(error.to_string().contains(what), "{error}");
        };
        file.write_all_at(b"x", 30_000).unwrap();
        changed("content differs");
        fixed_vhd(&path);
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        reopen(&record).unwrap();
        file.write_all_at(&Footer::fixed(SIZE as u64, Uuid::from_u128(6), 1 << 30).to_bytes(), SIZE as u64).unwrap();
        changed("unique id");
        file.set_len(SIZE as u64).unwrap();
        changed("bytes");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reopen(&record).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_base_that_changes_while_open_is_no_longer_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.vhd");
        fixed_vhd(&path);
        let (image, _) = open(&path, &OpenOptions::default()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut buf = [0; 512];
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        for _ in 0..1000 {
            image.read_at(0, &mut buf).unwrap();
        }
        file.write_all_at(b"x", 30_000).unwrap();
        let error = (0..1000).find_map(|_| image.read_at(0, &mut buf).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::BaseChanged);
        assert!(image.try_read_at(0, &mut buf).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            open(&path, &OpenOptions::default()).unwrap_err().kind()
        };
        use crate::vhd::Fault;
        assert_eq!(file("a.vhd", &[0; 4096]), ErrorKind::Vhd(Fault::NotVhd));
        assert_eq!(file("a.img", &[0; 1000]), ErrorKind::InvalidInput);
        assert_eq!(file("b.img", &[]), ErrorKind::InvalidInput);
        assert_eq!(file("c.img", &[&b"vhdxfile"[..], &[0; 1016]].concat()), ErrorKind::Vhd(Fault::IsVhdx));
        assert_eq!(file("d.img", &[&b"QFI\xFB"[..], &[0; 1020]].concat()), ErrorKind::Unsupported);
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert_eq!(open(&fifo, &OpenOptions::default()).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(open(dir.path(), &OpenOptions::default()).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
