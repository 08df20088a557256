//! A VHD of any kind as a base image.

use super::{BaseImage, BaseRun, VisitRun};
use crate::Result;
use crate::vhd::{Chain, Stored};

impl BaseImage for Chain {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read(offset, buf, true).map(|_| ())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read(offset, buf, false)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        Chain::runs(self, offset, len, &mut |stored, run| {
            let kind = match stored {
                Stored::Data => BaseRun::Data,
                Stored::Zero => BaseRun::Zero,
            };
            visit(kind, run)
        })
    }
}
