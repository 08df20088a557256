//! What tells a base image from any other: recorded when a disk is made over it, compared when the disk is opened.
//!
//! A digest of a whole image would take minutes. So the identity of a file is its length, its VHD unique id and a
//! digest over all that describes it and a sample of its content, spread over the file at places that only the length
//! decides. Files up to [`WHOLE`] bytes are digested whole. A change that keeps length, id and sample is told (the
//! file's times differ) but not refused; who wants certainty records the full digest too ([`super::verify`]).
//!
//! A file under fs-verity is certain from the beginning: its digest is recorded, and compared whenever it is opened.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Format;
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::{Error, ErrorKind, Result};

/// Bytes up to which a file is digested whole.
const WHOLE: u64 = 16 << 20;
/// Bytes digested at the beginning and at the end of a longer file.
const ENDS: u64 = 256 << 10;
/// Places sampled in between, and the bytes at each.
const SAMPLES: u64 = 256;
const SAMPLE: u64 = 4 << 10;

/// What a disk's settings record of its base: where it lies and what tells it from any other image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecord {
    /// Absolute.
    pub path: PathBuf,
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// A VHD read by its footer copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recover: bool,
    /// Every file that the image is read from: itself, its parent, and so on.
    pub files: Vec<FileIdentity>,
}

/// What tells one file of a base image from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Absolute.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub size: u64,
    /// Of a VHD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<Uuid>,
    /// SHA-256 over metadata and samples, in hexadecimal.
    pub sample: String,
    /// A hint: while inode, times and length stay, the sample need not be read.
    pub stamp: String,
    /// SHA-256 of the whole file, in hexadecimal, once it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The fs-verity digest that the file had when it was recorded, `ALGORITHM:HEXADECIMAL`; then no other is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_verity: Option<String>,
}

/// One file of an open image.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub(super) file: Arc<HostFile>,
    /// Of a VHD.
    pub(super) unique_id: Option<Uuid>,
    /// The ranges of the file that describe the image.
    pub(super) metadata: Vec<Range<u64>>,
}

impl BaseRecord {
    /// The path of every file: the image, its parent, and so on.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| &*file.path)
    }

    /// Whether `other` records the same content, wherever it lies; else [`ErrorKind::BaseChanged`] with what differs.
    pub fn check_same(&self, other: &BaseRecord) -> Result<()> {
        let fail = |what: String| Error::new(ErrorKind::BaseChanged, what).at_path(&other.path);
        if self.size != other.size {
            return Err(fail(format!("is another image: {} bytes, recorded are {}", other.size, self.size)));
        }
        if self.files.len() != other.files.len() {
            let (found, recorded) = (other.files.len(), self.files.len());
            return Err(fail(format!("is another image: it has {found} files, recorded are {recorded}")));
        }
        for (ours, theirs) in self.files.iter().zip(&other.files) {
            ours.check_same(theirs)?;
        }
        Ok(())
    }
}

impl FileIdentity {
    pub(super) fn of(image: &ImageFile) -> Result<Self> {
        let file = &image.file;
        let path = file.path().canonicalize();
        let path = path.map_err(|e| Error::io("cannot resolve the path", e).at_path(file.path()))?;
        if path.to_str().is_none() {
            let what = "the path of a base image is recorded as text, and this one is not UTF-8";
            let error = Error::new(ErrorKind::InvalidInput, what).at_path(&path);
            return Err(error.hint("rename the image or its folder; `sealdisk import` copies an image of any name"));
        }
        // Before the content: a change while it is read shows as a stamp that differs.
        let stamp = file.stamp()?;
        let (sample, fs_verity) = (sample(image)?, file.fs_verity()?);
        Ok(Self { path, size: file.size(), unique_id: image.unique_id, sample, stamp, sha256: None, fs_verity })
    }

    pub(super) fn changed(&self, what: String) -> Error {
        let error =
            Error::new(ErrorKind::BaseChanged, format!("the base image was changed: {what}")).at_path(&self.path);
        error.hint("restore the image; `rebase` names the place of an identical one")
    }

    pub(super) fn check_size(&self, file: &HostFile) -> Result<()> {
        if file.size() == self.size {
            return Ok(());
        }
        Err(self.changed(format!("it has {} bytes, recorded are {}", file.size(), self.size)))
    }

    /// Whether `image` is the file recorded; gives the stamp at which it was found right.
    pub(super) fn check(&self, image: &ImageFile) -> Result<String> {
        self.check_size(&image.file)?;
        let stamp = image.file.stamp()?;
        if let Some(recorded) = &self.fs_verity {
            // Names the whole content, and the kernel lets nothing change it: neither times nor samples say more.
            return self.check_verity(recorded, image.file.fs_verity()?.as_deref()).map(|()| stamp);
        }
        if stamp == self.stamp {
            return Ok(stamp);
        }
        if image.unique_id != self.unique_id {
            let text = |id: Option<Uuid>| id.map_or("none".to_owned(), |id| id.to_string());
            let what = format!("its unique id is {}, recorded is {}", text(image.unique_id), text(self.unique_id));
            return Err(self.changed(what));
        }
        if sample(image)? != self.sample {
            return Err(self.changed(format!("its content differs (now {stamp}; then {})", self.stamp)));
        }
        Ok(stamp)
    }

    fn check_verity(&self, recorded: &str, found: Option<&str>) -> Result<()> {
        match found {
            Some(found) if found == recorded => Ok(()),
            Some(found) => Err(self.changed(format!("its fs-verity digest is {found}, recorded is {recorded}"))),
            None => {
                let error = self.changed(format!("it is not under fs-verity any more, recorded is {recorded}"));
                Err(error.hint("`fsverity enable FILE` on the same content; `sealdisk rebase` takes it without"))
            }
        }
    }

    /// Whether the whole content is known, not only samples of it.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.sha256.is_some() || self.fs_verity.is_some()
    }

    /// Whether one fs-verity digest of both names their content.
    pub(super) fn is_same_by_verity(&self, other: &FileIdentity) -> bool {
        self.fs_verity.is_some() && self.fs_verity == other.fs_verity
    }

    fn check_same(&self, other: &FileIdentity) -> Result<()> {
        let fail = |what: String| Error::new(ErrorKind::BaseChanged, what).at_path(&other.path);
        if self.size != other.size {
            return Err(fail(format!("is another file: {} bytes, recorded are {}", other.size, self.size)));
        }
        if self.unique_id != other.unique_id {
            return Err(fail("is another file: its unique id is not the recorded one".to_owned()));
        }
        if self.is_same_by_verity(other) {
            return Ok(());
        }
        let whole = self.sha256.as_ref().zip(other.sha256.as_ref()).is_some_and(|(ours, theirs)| ours != theirs);
        if whole || self.sample != other.sample {
            return Err(fail("is another file: its content is not the recorded one".to_owned()));
        }
        // Where a digest of ours is recorded, the file is read whole for it. Else two digests are two contents, or one
        // under trees of different parameters, which is not told apart.
        if let (Some(ours), Some(theirs), None) = (&self.fs_verity, &other.fs_verity, &self.sha256) {
            return Err(fail(format!("is another file: its fs-verity digest is {theirs}, recorded is {ours}")));
        }
        Ok(())
    }
}

/// A file that no longer opens as the VHD it was: still a changed base, whatever the fault.
pub(super) fn changed(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Vhd(fault) => {
            let what = format!("the base image was changed: {} ({fault:?})", error.what());
            let changed = Error::new(ErrorKind::BaseChanged, what);
            match error.path() {
                Some(path) => changed.at_path(path),
                None => changed,
            }
        }
        _ => error,
    }
}

/// SHA-256 over the metadata and the sampled ranges of a file.
fn sample(image: &ImageFile) -> Result<String> {
    let file = &image.file;
    let ranges: Vec<_> = image.metadata.iter().cloned().chain(sampled(file.size())).collect();
    for range in &ranges {
        file.read_ahead(range.start, range.end - range.start);
    }
    let mut hash = Sha256::new();
    let mut buf = vec![0; 64 << 10];
    for range in ranges {
        hash.update(range.start.to_le_bytes());
        hash.update(range.end.to_le_bytes());
        let mut at = range.start;
        while at < range.end {
            let len = (buf.len() as u64).min(range.end - at) as usize;
            file.read_at(at, &mut buf[..len])?;
            hash.update(&buf[..len]);
            at += len as u64;
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// The sampled ranges of a file of `size` bytes.
fn sampled(size: u64) -> Vec<Range<u64>> {
    if size <= WHOLE {
        return std::iter::once(0..size).collect();
    }
    let stride = (size - 2 * ENDS) / SAMPLES;
    let mut ranges = Vec::from([0..ENDS, size - ENDS..size]);
    // Not at even distances: file systems repeat their structures at powers of two.
    let mut state = size;
    for n in 0..SAMPLES {
        state = splitmix(state);
        let start = ENDS + n * stride + state % (stride - SAMPLE);
        ranges.push(start / SAMPLE * SAMPLE..start / SAMPLE * SAMPLE + SAMPLE);
    }
    ranges
}

/// A step of the generator SplitMix64 (Steele, Lea, Flood 2014): all that is needed is a good spread.
fn splitmix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_inside_and_are_few() {
        for size in [WHOLE + 1, WHOLE + 511, 30 << 30, (30 << 30) + 512, 1 << 43] {
            let ranges = sampled(size);
            assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
            assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() < 2 << 20);
            assert_eq!(ranges, sampled(size));
        }
        assert_eq!(sampled(1000), std::iter::once(0..1000).collect::<Vec<_>>());
    }
}
