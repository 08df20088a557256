//! What changed between two lines, or between a line and the live disk, from presence alone.
//!
//! A line sees the layers up to `sees`. Whatever was written or cleared after it was drawn is in the presence of a layer
//! above, for as long as no later change of the same page took its place there. So the pages that changed between a
//! line and a later view are the union of what the layers above the line, and not above the view, hold or have as zero:
//! never too few. Too many where a page was written with what it had before. Pages past the end of the earlier view are
//! all different from nothing; where nothing of them is stored they read as zeros.

use std::ops::Range;

use super::core::Core;
use super::page_set::PageSet;
use super::resolve::{Source, View};
use super::state::State;
use crate::{Error, ErrorKind, Result};

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
    /// The pages without the footer that may differ between the view of `from` and the later one `to`.
    fn changed(&self, from: View, to: View, footer: u64) -> PageSet {
        let mut changed = PageSet::new();
        for entry in self.entries.iter().filter(|entry| entry.layer.id > from.sees && entry.layer.id <= to.sees) {
            changed.union_with(entry.held());
            changed.union_with(entry.zero());
        }
        let (was, now) = (from.size - footer, to.size - footer);
        if was < now {
            changed.insert(was..now);
        }
        // Shrunk and grown again: what was cut off below the old size is marked as zero by the resize itself.
        changed.remove(now..u64::MAX);
        changed
    }
}

impl Core {
    /// What changed since line `from` up to line `to`, or up to now; in order, neighbours of one kind merged.
    pub(crate) fn changed_since(&self, from: u32, to: Option<u32>) -> Result<Vec<Change>> {
        let state = self.state.read();
        let view = |id: u32| {
            let line = state.line(id);
            line.map(View::from).ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such snapshot"))
        };
        let (from, to) = (view(from)?, to.map_or_else(|| Ok(state.live()), view)?);
        if to.line < from.line && to.line.is_some() {
            return Err(Error::new(ErrorKind::InvalidInput, "the snapshot to compare with is the older one")
                .hint("name the older one with --from"));
        }
        let changed = state.changed(from, to, u64::from(self.footer));
        let mut found: Vec<Change> = Vec::new();
        let mut push = |run: Range<u64>, cleared: bool| match found.last_mut() {
            Some(last) if last.start + last.pages == run.start && last.cleared == cleared => {
                last.pages += run.end - run.start;
            }
            _ => found.push(Change { start: run.start, pages: run.end - run.start, cleared }),
        };
        for run in changed.runs(0..u64::MAX) {
            state.resolve(to, run, &mut |segment| {
                push(segment.pages, matches!(segment.source, Source::Zero(_)));
                true
            });
        }
        Ok(found)
    }
}
