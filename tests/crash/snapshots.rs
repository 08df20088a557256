//! The part of the oracle that knows snapshots, rollback and resize. Whoever asks for these asks for one at a time.

use std::collections::BTreeSet;

use smallvec::smallvec;

use crate::cells::CELLS_A_PAGE;
use crate::check::SnapshotContent;
use crate::oracle::{ANY, Oracle, State, Values, Write, ZERO, show};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// Asked for at this time, not answered.
    Drawing(u64),
    Drawn,
    /// Failed, or being erased: may be there.
    Doubtful,
}

/// A snapshot, and what each of its cells may hold.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotModel {
    name: String,
    /// Pages: one of these, several where it was drawn while the size of the disk was in doubt.
    pages: Vec<usize>,
    cells: Vec<Values>,
    status: Status,
}

impl SnapshotModel {
    pub(crate) fn settled(content: &SnapshotContent) -> Self {
        let cells = content.values.iter().map(|value| smallvec![value.expect("checked before")]).collect();
        let pages = vec![content.values.len() / CELLS_A_PAGE];
        Self { name: content.name.clone(), pages, cells, status: Status::Drawn }
    }
}

impl State {
    /// What a cell may have held at some time since `begin`.
    fn since(&self, cell: usize, begin: u64) -> Values {
        let history = &self.cells[cell];
        let gone = |write: &Write| history.iter().any(|other| write.superseded_by(other) && other.end < begin);
        let values: BTreeSet<u64> =
            history.iter().filter(|write| !gone(write)).flat_map(|write| write.values.iter().copied()).collect();
        values.into_iter().collect()
    }

    pub(crate) fn check_snapshots(&self, found: &[SnapshotContent]) -> Result<(), String> {
        for snapshot in self.snapshots.iter().filter(|snapshot| snapshot.status == Status::Drawn) {
            if !found.iter().any(|found| found.name == snapshot.name) {
                return Err(format!("snapshot {} is gone", snapshot.name));
            }
        }
        for content in found {
            let snapshot = self.snapshots.iter().find(|snapshot| snapshot.name == content.name);
            let snapshot = snapshot.ok_or_else(|| format!("snapshot {} is there", content.name))?;
            if !snapshot.pages.iter().any(|pages| content.values.len() == pages * CELLS_A_PAGE) {
                let (name, cells, pages) = (&snapshot.name, content.values.len(), &snapshot.pages);
                return Err(format!("snapshot {name} has {cells} cells and should have {pages:?} pages"));
            }
            for (cell, value) in content.values.iter().enumerate() {
                let now;
                let values = if let Status::Drawing(begin) = snapshot.status {
                    now = self.since(cell, begin);
                    &now
                } else {
                    &snapshot.cells[cell]
                };
                if !value.is_some_and(|value| values.contains(&value)) {
                    let possible: Vec<_> = values.iter().map(|value| show(Some(*value))).collect();
                    let (name, value) = (&snapshot.name, show(*value));
                    return Err(format!("cell {cell} of snapshot {name} holds {value} instead of {possible:?}"));
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, name: &str) {
        self.snapshots.retain(|snapshot| snapshot.name != name);
    }
}

impl Oracle {
    /// Names of the snapshots that are there without doubt, oldest first.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let state = self.state();
        state
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.status == Status::Drawn)
            .map(|snapshot| snapshot.name.clone())
            .collect()
    }

    /// Whether the disk keeps its size, without doubt, where it is rolled back to this snapshot.
    pub(crate) fn has_size_of_line(&self, name: &str) -> bool {
        let state = self.state();
        let snapshot = state.snapshots.iter().find(|snapshot| snapshot.name == name);
        state.pages.len() == 1 && snapshot.is_some_and(|snapshot| snapshot.pages == state.pages)
    }

    /// A snapshot of a new name is asked for.
    pub(crate) fn draw(&self) -> (String, u64) {
        let mut state = self.state();
        let name = format!("s{}", state.next_request());
        let begin = state.tick();
        *state.reads.entry(begin).or_default() += 1;
        let (pages, status) = (state.pages.clone(), Status::Drawing(begin));
        state.snapshots.push(SnapshotModel { name: name.clone(), pages, cells: Vec::new(), status });
        (name, begin)
    }

    pub(crate) fn drawn(&self, name: &str, begin: u64, succeeded: bool) {
        let mut state = self.state();
        if state.frozen {
            return;
        }
        state.reads.remove(&begin);
        let pages = state.pages.clone();
        let most = pages.iter().max().map_or(0, |pages| pages * CELLS_A_PAGE);
        let cells = (0..most).map(|cell| state.since(cell, begin)).collect();
        let status = if succeeded { Status::Drawn } else { Status::Doubtful };
        let model = SnapshotModel { name: name.to_owned(), pages, cells, status };
        if let Some(snapshot) = state.snapshots.iter_mut().find(|snapshot| snapshot.name == name) {
            *snapshot = model;
        }
    }

    /// What a snapshot was read to hold is what it holds from now on.
    pub(crate) fn check_snapshot(&self, content: SnapshotContent) -> Result<(), String> {
        let mut state = self.state();
        if state.frozen {
            return Ok(());
        }
        let known = state.snapshots.clone();
        state.snapshots.retain(|snapshot| snapshot.name == content.name);
        let checked = state.check_snapshots(std::slice::from_ref(&content));
        state.snapshots = known;
        if let (Ok(()), Some(snapshot)) =
            (&checked, state.snapshots.iter_mut().find(|snapshot| snapshot.name == content.name))
        {
            *snapshot = SnapshotModel::settled(&content);
        }
        checked
    }

    pub(crate) fn erase(&self, name: &str) {
        let mut state = self.state();
        if let Some(snapshot) = state.snapshots.iter_mut().find(|snapshot| snapshot.name == name) {
            snapshot.status = Status::Doubtful;
        }
    }

    pub(crate) fn erased(&self, name: &str) {
        let mut state = self.state();
        if !state.frozen {
            state.forget(name);
        }
    }

    /// A rollback to a snapshot that is there is asked for.
    pub(crate) fn roll_back(&self, name: &str) -> u64 {
        let mut state = self.state();
        let (request, begin) = (state.next_request(), state.tick());
        let at = state.snapshots.iter().position(|snapshot| snapshot.name == name).expect("a snapshot that is there");
        let snapshot = state.snapshots[at].clone();
        state.pages.extend(&snapshot.pages);
        state.snapshots[at + 1..].iter_mut().for_each(|snapshot| snapshot.status = Status::Doubtful);
        // Past its end there are zeros.
        let least = snapshot.pages.iter().min().map_or(0, |pages| pages * CELLS_A_PAGE);
        for cell in 0..state.cells.len() {
            let mut values = snapshot.cells.get(cell).cloned().unwrap_or_default();
            if cell >= least && !values.contains(&0) {
                values.push(0);
            }
            state.push(cell, request, values, ANY, begin);
        }
        request
    }

    pub(crate) fn rolled_back(&self, name: &str, request: u64, succeeded: bool) {
        let cells = self.state().cells.len();
        self.end(request, 0..cells, succeeded, true);
        let mut state = self.state();
        if !state.frozen && succeeded {
            let at =
                state.snapshots.iter().position(|snapshot| snapshot.name == name).expect("a snapshot that is there");
            state.pages = state.snapshots[at].pages.clone();
            state.snapshots.truncate(at + 1);
        }
    }

    /// The disk is to have this number of pages.
    pub(crate) fn resize(&self, pages: usize) -> u64 {
        let mut state = self.state();
        let (request, begin) = (state.next_request(), state.tick());
        let kept = pages.min(state.pages[0]) * CELLS_A_PAGE;
        state.pages.push(pages);
        for cell in kept..state.cells.len() {
            state.push(cell, request, smallvec![0], ZERO, begin);
        }
        request
    }

    pub(crate) fn resized(&self, pages: usize, request: u64, succeeded: bool) {
        let (cells, before) = {
            let state = self.state();
            (state.cells.len(), state.pages[0])
        };
        self.end(request, pages.min(before) * CELLS_A_PAGE..cells, succeeded, true);
        let mut state = self.state();
        if !state.frozen && succeeded {
            // Whatever an earlier one that failed may have made of it.
            state.pages = vec![pages];
        }
    }

    /// Whether a failed resize or rollback has left the size in doubt.
    pub(crate) fn size_is_in_doubt(&self) -> bool {
        self.state().pages.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: usize = 3;

    fn drawn(oracle: &Oracle, pages: usize) -> Result<(), String> {
        let (name, begin) = oracle.draw();
        oracle.drawn(&name, begin, true);
        let (values, layers) = (vec![Some(0); pages * CELLS_A_PAGE], vec![None; pages]);
        let checked = oracle.check_snapshot(SnapshotContent { name: name.clone(), values, layers });
        oracle.erased(&name);
        checked
    }

    #[test]
    fn a_resize_that_succeeds_settles_what_one_that_failed_left_in_doubt() {
        let oracle = Oracle::new(&[0; 2 * CELLS_A_PAGE], &[ZERO; 2], NEW, true);
        let failed = oracle.resize(1);
        oracle.resized(1, failed, false);
        assert!(oracle.size_is_in_doubt());
        assert!(drawn(&oracle, 1).is_ok() && drawn(&oracle, 2).is_ok() && drawn(&oracle, NEW).is_err());
        let done = oracle.resize(NEW);
        oracle.resized(NEW, done, true);
        assert!(!oracle.size_is_in_doubt() && oracle.pages() == NEW);
        assert!(drawn(&oracle, 1).is_err() && drawn(&oracle, 2).is_err() && drawn(&oracle, NEW).is_ok());
    }

    #[test]
    fn a_rollback_brings_the_doubt_of_its_snapshot_back() {
        let oracle = Oracle::new(&[0; 2 * CELLS_A_PAGE], &[ZERO; 2], NEW, true);
        let failed = oracle.resize(1);
        oracle.resized(1, failed, false);
        let (name, begin) = oracle.draw();
        oracle.drawn(&name, begin, true);
        let done = oracle.resize(NEW);
        oracle.resized(NEW, done, true);
        assert!(!oracle.has_size_of_line(&name));
        let request = oracle.roll_back(&name);
        oracle.rolled_back(&name, request, true);
        assert!(drawn(&oracle, 1).is_ok() && drawn(&oracle, 2).is_ok() && drawn(&oracle, NEW).is_err());
    }
}
