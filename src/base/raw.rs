//! A raw image: byte n of the file is byte n of the disk.

use super::{BaseImage, BaseRun, VisitRun};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct RawImage {
    file: std::sync::Arc<HostFile>,
}

impl RawImage {
    pub(super) fn new(file: std::sync::Arc<HostFile>) -> Result<Self> {
        let size = file.size();
        if size == 0 {
            let error = Error::new(ErrorKind::InvalidInput, "an empty file is no image").at_path(file.path());
            return Err(error.hint("see how it was made; `sealdisk create NAME --size 10G` makes an empty disk"));
        }
        if !size.is_multiple_of(512) {
            let what = format!("a raw image of {size} bytes is no whole number of 512-byte pages");
            let error = Error::new(ErrorKind::InvalidInput, what).at_path(file.path());
            return Err(error.hint("`truncate -s %512 FILE` rounds a copy of it up"));
        }
        Ok(Self { file })
    }
}

impl BaseImage for RawImage {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.file.try_read_at(offset, buf)
    }

    fn runs(&self, _offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        visit(BaseRun::Data, len)
    }
}
