//! Everything that an open disk shows, and what must hold of it whatever its files say.

use sealdisk::disk::{Disk, Run};
use sealdisk::{ErrorKind, PAGE, Result};

/// Bytes up to which a view is read whole; of a larger one only the ends.
const WHOLE: u64 = 1 << 20;

/// The same for any two openings of the same state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) live: View,
    pub(crate) snapshots: Vec<(String, View)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Bytes.
    pub(crate) size: u64,
    /// As read, or how reading failed.
    pub(crate) content: Vec<std::result::Result<Vec<u8>, ErrorKind>>,
    pub(crate) runs: Vec<Run>,
}

impl View {
    /// The content of a small view that can be read.
    #[allow(dead_code, reason = "not every user of this file wants it")]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.content[..] {
            [Ok(bytes)] => bytes,
            other => panic!("cannot be read whole: {other:?}"),
        }
    }
}

pub(crate) fn look(disk: &Disk) -> Result<Seen> {
    let names = disk.snapshots().into_iter().map(|line| (line.name, line.id));
    let snapshots = names.map(|(name, id)| Ok((name, view(&disk.at_snapshot_id(id)?)?))).collect::<Result<_>>()?;
    let usage = disk.admin().usage()?;
    let sum = usage.base + usage.plain + usage.encrypted + usage.zero;
    assert_eq!(sum, disk.blob_size(), "every byte has one state: {usage:?}");
    disk.admin().layers();
    Ok(Seen { live: view(disk)?, snapshots })
}

fn view(disk: &Disk) -> Result<View> {
    let (size, blob) = (disk.size(), disk.blob_size());
    let pieces = if blob <= WHOLE { vec![(0, blob)] } else { vec![(0, WHOLE / 2), (blob - WHOLE / 2, WHOLE / 2)] };
    let mut runs = Vec::new();
    let mut content = Vec::new();
    for (start, len) in pieces {
        let part = disk.runs(start, len, usize::MAX)?;
        let mut at = start / PAGE as u64;
        for run in &part {
            assert!(run.start == at && run.pages > 0, "runs lie without gap and overlap: {part:?}");
            at += run.pages;
        }
        assert_eq!(at, (start + len) / PAGE as u64, "runs cover what was asked for");
        runs.extend(part);
        let mut bytes = vec![0xAA; (len.min(size - start.min(size))) as usize];
        content.push(disk.read(start, &mut bytes).map(|()| bytes).map_err(|error| error.kind()));
    }
    Ok(View { size, content, runs })
}
