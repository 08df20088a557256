//! Certainty about a base image: the digest of every byte of every file, recorded once and compared from then on.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;

use sha2::{Digest, Sha256};

use zeroize::Zeroizing;

use super::file::HostFile;
use super::identity::{BaseRecord, FileIdentity};
use super::{OpenOptions, open, open_files, reopen_files, share};
use crate::vhd::source::Source;
use crate::{Error, ErrorKind, Result};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Hears of bytes read and of how many there are; answers whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Reads every file of a base image whole. [`ErrorKind::BaseChanged`] if one is not as recorded; else the record with
/// the digests in it. Stopped by `progress`: [`ErrorKind::Cancelled`].
pub fn verify(record: &BaseRecord, progress: &mut Progress<'_>) -> Result<BaseRecord> {
    verify_files(record, open_files(record)?, progress)
}

/// [`verify`] from open files, one for each that the record names, in its order. No path is opened.
pub fn verify_files(record: &BaseRecord, files: Vec<OwnedFd>, progress: &mut Progress<'_>) -> Result<BaseRecord> {
    // What the quick check finds need not wait for the slow one.
    reopen_files(record, share(&files)?)?;
    let total = record.files.iter().map(|file| file.size).sum();
    let mut done = 0;
    let mut verified = record.clone();
    for (identity, file) in verified.files.iter_mut().zip(files) {
        let file = HostFile::from_fd(file, &identity.path)?;
        let digest = digest(&file, &mut |bytes| {
            done += bytes;
            progress(done, total)
        })?;
        identity.admit(digest)?;
    }
    Ok(verified)
}

/// The record of the image at `path`, which must have the content that `record` says, wherever its files lie. Reads it
/// whole if `record` has the digests of [`verify`]. `options.format` and `options.recover` are those of the record.
pub fn relocate(
    record: &BaseRecord,
    path: &Path,
    options: &OpenOptions,
    progress: &mut Progress<'_>,
) -> Result<BaseRecord> {
    let options = OpenOptions { format: Some(record.format), recover: record.recover, ..options.clone() };
    let (_, mut found) = open(path, &options)?;
    record.check_same(&found)?;
    if record.files.iter().any(|file| file.sha256.is_some()) {
        found = verify(&found, progress)?;
        record.check_same(&found)?;
    }
    Ok(found)
}

fn digest(file: &HostFile, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buf = Zeroizing::new(vec![0; PIECE.min(file.size() as usize)]);
    let mut at = 0;
    while at < file.size() {
        let len = (buf.len() as u64).min(file.size() - at);
        let part = &mut buf[..len as usize];
        file.read_at(at, part)?;
        file.read_ahead(at + len, PIECE as u64);
        hash.update(part);
        at += len;
        if progress(len).is_break() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped").at_path(file.path()));
        }
    }
    Ok(hex::encode(hash.finalize()))
}

impl FileIdentity {
    /// Compares `digest` with the one recorded, or records it.
    fn admit(&mut self, digest: String) -> Result<()> {
        match &self.sha256 {
            Some(recorded) if *recorded != digest => {
                Err(self.changed(format!("its SHA-256 is {digest}, recorded is {recorded}")))
            }
            _ => {
                self.sha256 = Some(digest);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::FileExt;

    const SIZE: u64 = 20 << 20;
    /// A byte that no sample covers (see below).
    const HIDDEN: u64 = 5_000_000;

    fn go_on(_: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn what_the_samples_miss_the_digest_finds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.img");
        let file = fs::File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        let (_, record) = open(&path, &OpenOptions::default()).unwrap();
        let mut last = (0, 0);
        let verified = verify(&record, &mut |done, total| {
            last = (done, total);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(last, (SIZE, SIZE));
        assert_eq!(verify(&verified, &mut go_on).unwrap(), verified);

        file.write_all_at(b"x", HIDDEN).unwrap();
        super::super::reopen(&verified).expect("no sample covers this byte");
        let error = verify(&verified, &mut go_on).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BaseChanged);
        assert!(error.to_string().contains("SHA-256"), "{error}");
        let stopped = verify(&verified, &mut |_, _| ControlFlow::Break(())).unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn only_an_identical_image_takes_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), vec![7; 1 << 20]).unwrap();
        let (_, record) = open(&path("a"), &OpenOptions::default()).unwrap();
        let verified = verify(&record, &mut go_on).unwrap();
        fs::copy(path("a"), path("b")).unwrap();
        for record in [&record, &verified] {
            let moved = relocate(record, &path("b"), &OpenOptions::default(), &mut go_on).unwrap();
            assert!(moved.path.ends_with("b") && moved.files[0].sha256 == record.files[0].sha256);
        }
        for (name, content) in [("c", vec![7; 1 << 19]), ("d", [vec![7; (1 << 20) - 1], vec![8]].concat())] {
            fs::write(path(name), content).unwrap();
            let error = relocate(&record, &path(name), &OpenOptions::default(), &mut go_on).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BaseChanged);
        }
    }
}
