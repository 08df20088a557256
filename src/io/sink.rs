//! A file that is written front to back, and in which an earlier attempt may have left something: what is there already
//! is not written again, and what must not be there is taken away.

use std::io;

use crate::io::transfer::read_up_to;
use crate::io::{File, transfer};
use crate::{Error, ErrorKind, Result};

/// See the module documentation.
#[derive(Debug, Clone, Copy)]
pub struct Sink<'a> {
    file: &'a dyn File,
    /// Bytes that an earlier attempt left.
    before: u64,
}

impl<'a> Sink<'a> {
    /// A file in which nothing lies yet.
    #[must_use]
    pub fn empty(file: &'a dyn File) -> Self {
        Self { file, before: 0 }
    }

    /// A file in which anything may lie.
    pub fn over(file: &'a dyn File) -> Result<Self> {
        let before = file.size().map_err(|e| Error::io("cannot examine the file", e))?;
        // What a failed sync left in the cache alone must not be taken for what is stored. A hint: all is compared in
        // the end.
        let _ = file.drop_cache();
        Ok(Self { file, before })
    }

    /// Makes the file hold `bytes` at `offset`.
    pub fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if offset < self.before && self.holds(bytes, offset)? {
            return Ok(());
        }
        write_all(self.file, bytes, offset)
    }

    fn holds(&self, bytes: &[u8], offset: u64) -> Result<bool> {
        let mut there = vec![0; bytes.len()];
        let read = read_up_to(self.file, &mut there, offset);
        let read = read.map_err(|e| Error::io("cannot read the file", e).at_offset(offset))?;
        there.truncate(read);
        Ok(there == bytes)
    }

    /// Leaves a hole in `[from, to)`.
    pub fn clear(&self, from: u64, to: u64) -> Result<()> {
        let to = to.min(self.before);
        if from >= to {
            return Ok(());
        }
        match self.file.punch(from, to - from) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => self.fill_with_zeros(from, to),
            punched => punched.map_err(|e| Error::io("cannot leave a hole in the file", e).at_offset(from)),
        }
    }

    fn fill_with_zeros(&self, from: u64, to: u64) -> Result<()> {
        let zeros = [0; 64 << 10];
        let mut at = from;
        while at < to {
            let len = (to - at).min(zeros.len() as u64);
            self.put(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Makes the file `len` bytes long.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_size(len).map_err(|e| Error::io("cannot size the file", e))
    }

    /// Leaves nothing of an earlier attempt behind the first `len` bytes.
    pub fn cut(&self, len: u64) -> Result<()> {
        if self.before > len { self.set_len(len) } else { Ok(()) }
    }

    /// Puts all of it on stable storage.
    pub fn sync(&self) -> Result<()> {
        sync(self.file)
    }
}

pub(crate) fn write_all(file: &dyn File, bytes: &[u8], offset: u64) -> Result<()> {
    transfer::write_full(file, bytes, offset).map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => {
            Error::new(ErrorKind::NoSpace, "too large for the file system").at_offset(offset)
        }
        _ => Error::io("cannot write the file", e).at_offset(offset),
    })
}

pub(crate) fn sync(file: &dyn File) -> Result<()> {
    file.sync_data().map_err(|e| Error::io("cannot sync the file", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::real::RealFile;

    #[test]
    fn what_is_there_is_kept_and_the_rest_made_right() {
        let file = RealFile::new(tempfile::tempfile().expect("a file"));
        write_all(&file, &[7; 20_000], 0).expect("written");
        let sink = Sink::over(&file).expect("over it");
        sink.put(&[7; 4096], 0).expect("the same");
        sink.clear(4096, 8192).expect("cleared");
        sink.put(&[9; 4096], 8192).expect("another");
        sink.fill_with_zeros(0, 100).expect("the slow way");
        sink.clear(30_000, 40_000).expect("nothing is there");
        sink.cut(12_288).expect("cut");
        assert_eq!(file.size().expect("a size"), 12_288);
        let all = [&[0; 100][..], &[7; 3996], &[0; 4096], &[9; 4096]].concat();
        assert!(sink.holds(&all, 0).expect("read"));
        assert!(!sink.holds(&[9; 8192], 8192).expect("read"), "past the end");
    }
}
