//! What changed between two snapshots, or between a snapshot and the live disk, from presence alone.
//!
//! A snapshot sees the layers up to `sees`. Whatever was written or cleared after it was created is in the presence of
//! a layer above, for as long as no later change of the same page took its place there. So the pages that changed
//! between a snapshot and a later view are the union of what the layers above the snapshot, and not above the view,
//! hold or have as zero: never too few. Too many where a page was written with what it had before. Pages past the end
//! of the earlier view are all different from nothing; where nothing of them is stored they read as zeros.

use std::ops::Range;

use super::page_set::PageSet;
use super::resolve::{PageSource, Segment, View};
use super::state::State;
use crate::disk::core::Core;
use crate::{Error, ErrorKind, Result};

/// Pages looked through first; then twice as many each time.
const FIRST_STEP: u64 = 1 << 16;

/// A run of pages that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// First page.
    pub start: u64,
    /// Length in pages.
    pub pages: u64,
    /// It reads as zeros now, and is stored nowhere.
    pub cleared: bool,
}

impl State {
    /// The pages of `range`, without the footer, that may differ between the view of `from` and the later one `to`.
    fn changed(&self, from: View, to: View, footer: u64, range: &Range<u64>) -> PageSet {
        let mut changed = PageSet::new();
        for entry in self.entries.iter().filter(|entry| entry.layer.id > from.sees && entry.layer.id <= to.sees) {
            for set in [entry.held(), entry.zero()] {
                set.runs(range.clone()).for_each(|run| changed.insert(run));
            }
        }
        let (was, now) = (from.size - footer, to.size - footer);
        if was < now {
            changed.insert(was.max(range.start)..now.min(range.end));
        }
        // Shrunk and grown again: what was cut off below the old size is marked as zero by the resize itself.
        changed.remove(now..u64::MAX);
        changed
    }
}

impl Core {
    /// What changed of `range` from snapshot `from` up to the view `to`, or up to now; in order, neighbours of one kind
    /// merged, at most `limit` of them.
    pub(crate) fn changes(&self, from: u32, to: Option<View>, range: Range<u64>, limit: usize) -> Result<Vec<Change>> {
        let state = self.stack.state();
        let to = to.unwrap_or_else(|| state.live());
        state.check_view(to)?;
        let from = state.snapshot(from).map(View::from);
        let from = from.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such snapshot"))?;
        if to.snapshot < from.snapshot && to.snapshot.is_some() {
            return Err(Error::new(ErrorKind::InvalidInput, "the snapshot to compare with is the older one")
                .hint("name the older one with --from"));
        }
        let mut found: Vec<Change> = Vec::new();
        let mut push = |run: Range<u64>, cleared: bool| {
            let room = found.len() < limit;
            match found.last_mut() {
                Some(last) if last.start + last.pages == run.start && last.cleared == cleared => {
                    last.pages += run.end - run.start;
                }
                _ if room => found.push(Change { start: run.start, pages: run.end - run.start, cleared }),
                _ => return false,
            }
            true
        };
        // A piece after the other, so that whoever asks for few does not pay for all.
        let (mut at, end, mut step) = (range.start, range.end.min(to.size), FIRST_STEP);
        while at < end {
            let piece = at..end.min(at.saturating_add(step));
            let changed = state.changed(from, to, u64::from(self.footer), &piece);
            for run in changed.runs(piece.clone()) {
                let mut visit = |segment: Segment| push(segment.pages, matches!(segment.source, PageSource::Zero(_)));
                if !state.resolve(to, run, &mut visit) {
                    return Ok(found);
                }
            }
            (at, step) = (piece.end, step.saturating_mul(2));
        }
        Ok(found)
    }
}
