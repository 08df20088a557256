//! Certainty about a base image: the digest of every byte of every file, recorded once and compared from then on.
//!
//! Of a file under fs-verity that is the kernel's digest, and nothing is read for it.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;

use sha2::{Digest, Sha256};

use zeroize::Zeroizing;

use super::identity::{BaseRecord, FileIdentity};
use super::{OpenOptions, open, open_files, reopen_files, share};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::{Error, ErrorKind, Result};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Hears of bytes read and of how many there are; answers whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Reads every file of a base image whole, but for those under fs-verity. [`ErrorKind::BaseChanged`] if one is not as
/// recorded; else the record with the digests in it. A SHA-256 that is recorded is compared in any case but where an
/// fs-verity digest is recorded too. Stopped by `progress`: [`ErrorKind::Cancelled`].
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
        if !identity.is_certain() {
            identity.fs_verity = file.fs_verity()?;
        }
        if identity.fs_verity.is_some() {
            // The quick check has compared what was recorded.
            done += identity.size;
            if progress(done, total).is_break() {
                return Err(stopped(&file));
            }
            continue;
        }
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
    if !record.files.iter().any(|file| file.sha256.is_some()) {
        return Ok(found);
    }
    // What an fs-verity digest does not tell of a file whose SHA-256 is recorded is read.
    let mut asked = found.clone();
    for (ours, asked) in record.files.iter().zip(&mut asked.files) {
        if ours.sha256.is_some() && !ours.is_same_by_verity(asked) {
            (asked.sha256, asked.fs_verity) = (ours.sha256.clone(), None);
        }
    }
    let read = verify(&asked, progress)?;
    for (found, read) in found.files.iter_mut().zip(read.files) {
        found.sha256 = read.sha256;
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
            return Err(stopped(file));
        }
    }
    Ok(hex::encode(hash.finalize()))
}

fn stopped(file: &HostFile) -> Error {
    Error::new(ErrorKind::Cancelled, "stopped").at_path(file.path())
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
    use crate::io::verity::pretended;
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

    /// As if the kernel had fs-verity: the file is given a digest, and another.
    #[test]
    fn a_file_under_fs_verity_is_known_by_its_digest_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.img");
        let file = fs::File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        pretended::set(&path, Some("sha256:aa"));
        let (_, record) = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(record.files[0].fs_verity.as_deref(), Some("sha256:aa"));
        assert_eq!(toml::from_str::<BaseRecord>(&toml::to_string(&record).unwrap()).unwrap(), record);
        let mut calls = Vec::new();
        let verified = verify(&record, &mut |done, total| {
            calls.push((done, total));
            ControlFlow::Continue(())
        });
        assert_eq!((verified.unwrap(), calls), (record.clone(), vec![(SIZE, SIZE)]));
        // Times that were put back hide nothing, and others are no change.
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        super::super::reopen(&record).unwrap();
        for (now, what) in
            [(Some("sha256:bb"), "sha256:bb, recorded is sha256:aa"), (None, "not under fs-verity any more")]
        {
            pretended::set(&path, now);
            let stamp = HostFile::open(&path).unwrap().stamp().unwrap();
            let mut as_recorded = record.clone();
            as_recorded.files[0].stamp = stamp;
            for error in [super::super::reopen(&as_recorded).unwrap_err(), verify(&record, &mut go_on).unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::BaseChanged);
                assert!(error.to_string().contains(what) && error.hint_text().is_some(), "{error}");
            }
        }
    }

    #[test]
    fn a_digest_that_was_recorded_is_compared_though_fs_verity_came_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::File::create(path("a")).unwrap().set_len(SIZE).unwrap();
        let (_, record) = open(&path("a"), &OpenOptions::default()).unwrap();
        let read = verify(&record, &mut go_on).unwrap();
        pretended::set(&path("a"), Some("sha256:aa"));
        // Nothing was recorded: the digest of the kernel is. A SHA-256 was: it is what is compared.
        let first = verify(&record, &mut go_on).unwrap();
        assert_eq!((first.files[0].fs_verity.as_deref(), &first.files[0].sha256), (Some("sha256:aa"), &None));
        assert_eq!(verify(&read, &mut go_on).unwrap(), read);

        // A copy that differs where no sample looks.
        fs::copy(path("a"), path("b")).unwrap();
        fs::OpenOptions::new().write(true).open(path("b")).unwrap().write_all_at(b"x", HIDDEN).unwrap();
        pretended::set(&path("b"), Some("sha256:bb"));
        for known in [&read, &first] {
            let error = relocate(known, &path("b"), &OpenOptions::default(), &mut go_on).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BaseChanged, "{error}");
        }
        // One that does not, under fs-verity too, and on a file system that has none.
        fs::copy(path("a"), path("c")).unwrap();
        for digest in [Some("sha256:aa"), None] {
            pretended::set(&path("c"), digest);
            let moved = relocate(&first, &path("c"), &OpenOptions::default(), &mut go_on).unwrap();
            assert_eq!(moved.files[0].fs_verity.as_deref(), digest);
            let moved = relocate(&read, &path("c"), &OpenOptions::default(), &mut go_on).unwrap();
            assert_eq!((&moved.files[0].sha256, moved.files[0].fs_verity.as_deref()), (&read.files[0].sha256, digest));
        }
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
