//! A pinned snapshot of another disk of the account, as what lies under a clone.

use uuid::Uuid;

use super::attachment::Attachment;
use crate::base::{BaseImage, BaseRun, VisitRun};
use crate::disk::PageState;
use crate::{PAGE, Result};

/// Runs asked of the disk below at a time.
const RUNS: usize = 4096;

/// See the module documentation. It holds the disk below open.
#[derive(Debug)]
pub(super) struct SnapshotImage {
    view: Attachment,
    disk: Uuid,
}

impl SnapshotImage {
    /// `view`: what a snapshot sees, held for the clone.
    pub(super) fn new(view: Attachment) -> Self {
        let disk = view.admin().settings().uuid;
        Self { view, disk }
    }
}

impl BaseImage for SnapshotImage {
    fn size(&self) -> u64 {
        self.view.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.view.read(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.view.try_read(offset, buf)
    }

    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            for run in self.view.runs(at, end - at, RUNS)? {
                let layer = run.layer.unwrap_or_default();
                let kind = match run.state {
                    PageState::Base { allocated: true } => BaseRun::Data,
                    PageState::Base { allocated: false } | PageState::Zero => BaseRun::Zero,
                    PageState::Plain => BaseRun::Held { disk: self.disk, layer, encrypted: false },
                    PageState::Encrypted => BaseRun::Held { disk: self.disk, layer, encrypted: true },
                    PageState::Inherited { disk, layer, encrypted } => BaseRun::Held { disk, layer, encrypted },
                };
                let bytes = run.pages * PAGE as u64;
                visit(kind, bytes)?;
                at += bytes;
            }
        }
        Ok(())
    }

    fn exposes_layers(&self) -> bool {
        true
    }
}
