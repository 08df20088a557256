//! The part of the oracle that knows snapshots, rollback and resize. Whoever asks for these asks for one at a time.

use std::collections::BTreeSet;

use smallvec::smallvec;

use crate::cells::CELLS_A_PAGE;
use crate::check::LineContent;
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
pub(crate) struct LineModel {
    name: String,
    /// Pages: one of these, several where it was drawn while the size of the disk was in doubt.
    pages: Vec<usize>,
    cells: Vec<Values>,
    status: Status,
}

impl LineModel {
    pub(crate) fn settled(content: &LineContent) -> Self {
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

    pub(crate) fn check_lines(&self, found: &[LineContent]) -> Result<(), String> {
        for line in self.lines.iter().filter(|line| line.status == Status::Drawn) {
            if !found.iter().any(|found| found.name == line.name) {
                return Err(format!("snapshot {} is gone", line.name));
            }
        }
        for content in found {
            let line = self.lines.iter().find(|line| line.name == content.name);
            let line = line.ok_or_else(|| format!("snapshot {} is there", content.name))?;
            if !line.pages.iter().any(|pages| content.values.len() == pages * CELLS_A_PAGE) {
                let (name, cells, pages) = (&line.name, content.values.len(), &line.pages);
                return Err(format!("snapshot {name} has {cells} cells and should have {pages:?} pages"));
            }
            for (cell, value) in content.values.iter().enumerate() {
                let now;
                let values = if let Status::Drawing(begin) = line.status {
                    now = self.since(cell, begin);
                    &now
                } else {
                    &line.cells[cell]
                };
                if !value.is_some_and(|value| values.contains(&value)) {
                    let possible: Vec<_> = values.iter().map(|value| show(Some(*value))).collect();
                    let (name, value) = (&line.name, show(*value));
                    return Err(format!("cell {cell} of snapshot {name} holds {value} instead of {possible:?}"));
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, name: &str) {
        self.lines.retain(|line| line.name != name);
    }
}

impl Oracle {
    /// Names of the snapshots that are there without doubt, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let state = self.state();
        state.lines.iter().filter(|line| line.status == Status::Drawn).map(|line| line.name.clone()).collect()
    }

    /// Whether the disk keeps its size, without doubt, where it is rolled back to this snapshot.
    pub(crate) fn has_size_of_line(&self, name: &str) -> bool {
        let state = self.state();
        let line = state.lines.iter().find(|line| line.name == name);
        state.pages.len() == 1 && line.is_some_and(|line| line.pages == state.pages)
    }

    /// A snapshot of a new name is asked for.
    pub(crate) fn draw(&self) -> (String, u64) {
        let mut state = self.state();
        let name = format!("s{}", state.next_request());
        let begin = state.tick();
        *state.reads.entry(begin).or_default() += 1;
        let (pages, status) = (state.pages.clone(), Status::Drawing(begin));
        state.lines.push(LineModel { name: name.clone(), pages, cells: Vec::new(), status });
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
        let model = LineModel { name: name.to_owned(), pages, cells, status };
        if let Some(line) = state.lines.iter_mut().find(|line| line.name == name) {
            *line = model;
        }
    }

    /// What a snapshot was read to hold is what it holds from now on.
    pub(crate) fn check_line(&self, content: LineContent) -> Result<(), String> {
        let mut state = self.state();
        if state.frozen {
            return Ok(());
        }
        let known = state.lines.clone();
        state.lines.retain(|line| line.name == content.name);
        let checked = state.check_lines(std::slice::from_ref(&content));
        state.lines = known;
        if let (Ok(()), Some(line)) = (&checked, state.lines.iter_mut().find(|line| line.name == content.name)) {
            *line = LineModel::settled(&content);
        }
        checked
    }

    pub(crate) fn erase(&self, name: &str) {
        let mut state = self.state();
        if let Some(line) = state.lines.iter_mut().find(|line| line.name == name) {
            line.status = Status::Doubtful;
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
        let at = state.lines.iter().position(|line| line.name == name).expect("a snapshot that is there");
        let line = state.lines[at].clone();
        state.pages.extend(&line.pages);
        state.lines[at + 1..].iter_mut().for_each(|line| line.status = Status::Doubtful);
        // Past its end there are zeros.
        let least = line.pages.iter().min().map_or(0, |pages| pages * CELLS_A_PAGE);
        for cell in 0..state.cells.len() {
            let mut values = line.cells.get(cell).cloned().unwrap_or_default();
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
            let at = state.lines.iter().position(|line| line.name == name).expect("a snapshot that is there");
            state.pages = state.lines[at].pages.clone();
            state.lines.truncate(at + 1);
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
        let checked = oracle.check_line(LineContent { name: name.clone(), values, layers });
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
