//! What a disk may hold, told from the requests and their answers alone.
//!
//! For each cell the oracle keeps the writes that may still decide its content, each with the interval from request to
//! answer. A write A is *superseded* by B when A was answered before B was asked for. Then:
//! - a read may return any write that no successful write answered before the read began supersedes;
//! - after a crash a cell may hold any write that no *durable* write supersedes: durable is what was answered before a
//!   flush began that succeeded, and what was answered with FUA. Not answered or failed writes may have happened;
//! - where the process was killed and the kernel with a name for its boot runs on, everything answered counts as
//!   durable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};

use crate::cells::CELLS_A_PAGE;
use crate::check::Content;
use crate::snapshots::SnapshotModel;

/// Ways in which a page may be stored, as a set of bits.
pub(crate) type Kinds = u8;
pub(crate) const BASE: Kinds = 1;
pub(crate) const PLAIN: Kinds = 2;
pub(crate) const ENCRYPTED: Kinds = 4;
pub(crate) const ZERO: Kinds = 8;
pub(crate) const ANY: Kinds = 15;

/// What a cell may hold: one value, mostly.
pub(crate) type Values = SmallVec<[u64; 2]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    InFlight,
    Done,
    Failed,
}

#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) request: u64,
    /// One of these: a rollback brings back what a snapshot may hold.
    pub(crate) values: Values,
    pub(crate) kinds: Kinds,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) outcome: Outcome,
    pub(crate) durable: bool,
}

impl Write {
    pub(crate) fn may_be(&self, value: Option<u64>) -> bool {
        value.is_some_and(|value| self.values.contains(&value))
    }

    pub(crate) fn superseded_by(&self, other: &Self) -> bool {
        other.outcome == Outcome::Done && self.end < other.begin
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    now: u64,
    /// The crash has happened: answers change nothing any more.
    pub(crate) frozen: bool,
    /// Those past the end of the disk, too: as zeros that a growing disk would show.
    pub(crate) cells: Vec<Vec<Write>>,
    /// Pages of the disk: what is answered, and then what it may have instead, while it is being resized or rolled back
    /// and after that has failed.
    pub(crate) pages: Vec<usize>,
    pub(crate) snapshots: Vec<SnapshotModel>,
    /// Begin of every read under way.
    pub(crate) reads: BTreeMap<u64, u64>,
    /// Sweeps under way.
    sweeps: u32,
    /// How new writes may be stored now.
    stored_as: Kinds,
    encryption: bool,
    requests: u64,
    /// The boot of the kernel in which a kill loses nothing that was answered.
    noting: Option<[u8; 16]>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Oracle(Mutex<State>);

/// What a request does to the cells of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Data,
    /// Presence only, where whole pages are covered.
    Zero,
    /// Stored zeros.
    WriteZeros,
}

impl Oracle {
    /// A disk of `pages` pages, of which the first hold these values, durable and page by page stored in these ways;
    /// the rest, and what it may grow by, reads as zeros.
    pub(crate) fn new(values: &[u64], kinds: &[Kinds], most_pages: usize, encryption: bool) -> Self {
        let settled = |cell: usize| {
            let kinds = kinds.get(cell / CELLS_A_PAGE).copied().unwrap_or(ZERO);
            let (outcome, durable) = (Outcome::Done, true);
            let values = smallvec![values.get(cell).copied().unwrap_or(0)];
            vec![Write { request: 0, values, kinds, begin: 0, end: 0, outcome, durable }]
        };
        let cells = (0..most_pages * CELLS_A_PAGE).map(settled).collect();
        let stored_as = if encryption { ENCRYPTED } else { PLAIN };
        let pages = vec![kinds.len()];
        Self(Mutex::new(State { now: 1, cells, pages, stored_as, encryption, ..State::default() }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account's setting, as it is stored.
    pub(crate) fn encryption(&self) -> bool {
        self.state().encryption
    }

    /// Pages of the disk, as far as is answered.
    pub(crate) fn pages(&self) -> usize {
        self.state().pages[0]
    }

    /// A request to change cells begins: its number, of which [`value_of`] tells what it writes.
    pub(crate) fn begin(&self, cells: Range<usize>, change: Change) -> u64 {
        let mut state = self.state();
        state.requests += 1;
        let request = state.requests;
        let begin = state.tick();
        for cell in cells.clone() {
            let page = cell - cell % CELLS_A_PAGE;
            let whole_page = cells.start <= page && page + CELLS_A_PAGE <= cells.end;
            let kinds = if change == Change::Zero && whole_page { ZERO } else { state.stored_as };
            let values = smallvec![if change == Change::Data { value_of(request, cell) } else { 0 }];
            state.push(cell, request, values, kinds, begin);
        }
        request
    }

    pub(crate) fn end(&self, request: u64, cells: Range<usize>, succeeded: bool, durable: bool) {
        let mut state = self.state();
        if state.frozen {
            return;
        }
        let end = state.tick();
        let quiet = state.reads.is_empty();
        for history in &mut state.cells[cells] {
            let write = history.iter_mut().find(|write| write.request == request);
            let write = write.expect("an unanswered write cannot have been superseded");
            write.end = end;
            write.outcome = if succeeded { Outcome::Done } else { Outcome::Failed };
            write.durable = succeeded && durable;
            if write.durable && quiet {
                prune(history);
            }
        }
    }

    /// The request was refused with nothing changed.
    pub(crate) fn cancel(&self, request: u64, cells: Range<usize>) {
        let mut state = self.state();
        if !state.frozen {
            state.cells[cells].iter_mut().for_each(|history| history.retain(|write| write.request != request));
        }
    }

    pub(crate) fn begin_flush(&self) -> u64 {
        self.state().tick()
    }

    pub(crate) fn flushed(&self, begin: u64) {
        let mut state = self.state();
        if state.frozen {
            return;
        }
        let quiet = state.reads.is_empty();
        for history in &mut state.cells {
            for write in history.iter_mut().filter(|write| write.outcome == Outcome::Done && write.end < begin) {
                write.durable = true;
            }
            if quiet {
                prune(history);
            }
        }
    }

    pub(crate) fn begin_read(&self) -> u64 {
        let mut state = self.state();
        let begin = state.tick();
        *state.reads.entry(begin).or_default() += 1;
        begin
    }

    /// Ends a read that succeeded with these values (`None`: noise) from cell `first` on.
    pub(crate) fn check_read(&self, begin: u64, first: usize, values: &[Option<u64>]) -> Result<(), String> {
        let mut state = self.state();
        state.reads.remove(&begin);
        for (cell, value) in (first..).zip(values) {
            let history = &state.cells[cell];
            let stale = |write: &Write| history.iter().any(|other| write.superseded_by(other) && other.end < begin);
            if !history.iter().any(|write| write.may_be(*value) && !stale(write)) {
                return Err(format!("a read of cell {cell} returned {}; {}", show(*value), listing(history)));
            }
        }
        Ok(())
    }

    /// Ends a read that failed.
    pub(crate) fn forget_read(&self, begin: u64) {
        self.state().reads.remove(&begin);
    }

    /// The new setting is stored; whoever writes until [`Oracle::toggled`] may store in either way.
    pub(crate) fn toggle(&self, encryption: bool) {
        let mut state = self.state();
        if state.frozen {
            return;
        }
        state.encryption = encryption;
        state.stored_as = PLAIN | ENCRYPTED;
        for write in state.cells.iter_mut().flatten() {
            if write.outcome == Outcome::InFlight && write.kinds != ZERO {
                write.kinds |= PLAIN | ENCRYPTED;
            }
        }
        if state.sweeps > 0 {
            state.take_up();
        }
    }

    pub(crate) fn toggled(&self) {
        let mut state = self.state();
        state.stored_as = if state.encryption { ENCRYPTED } else { PLAIN };
    }

    /// The crash happens now: later answers are those of the dead.
    pub(crate) fn freeze(&self) {
        self.state().frozen = true;
    }

    /// One step of a re-encryption begins or ends: what was stored before may now be encrypted.
    pub(crate) fn sweeping(&self, begins: bool) {
        let mut state = self.state();
        state.sweeps = if begins { state.sweeps + 1 } else { state.sweeps - 1 };
        state.take_up();
    }

    /// A recovered disk holds this, and it is durable: it was checked with [`Oracle::check_recovered`]. Numbers of
    /// requests go on.
    pub(crate) fn accept(&self, content: &Content) {
        let mut state = self.state();
        let values: Vec<u64> = content.values.iter().map(|value| value.expect("checked before")).collect();
        let settled = Self::new(&values, &content.kinds, state.cells.len() / CELLS_A_PAGE, state.encryption);
        let settled = std::mem::take(&mut *settled.state());
        let snapshots = content.lines.iter().map(SnapshotModel::settled).collect();
        *state = State { now: state.now, requests: state.requests, noting: state.noting, snapshots, ..settled };
    }

    /// From now on a kill loses nothing that is answered, as long as the kernel is in `boot`. `None`: it may, because
    /// notes cannot be kept, or what they are of may have been lost.
    pub(crate) fn note_in(&self, boot: Option<[u8; 16]>) {
        self.state().noting = boot;
    }

    /// Whether everything that was answered is in a disk that `boot` left.
    pub(crate) fn is_kept_by(&self, boot: [u8; 16]) -> bool {
        self.state().noting == Some(boot)
    }

    /// Whether a disk that was recovered after a power cut may hold this.
    pub(crate) fn check_recovered(&self, content: &Content) -> Result<(), String> {
        self.check_ended(content, false)
    }

    /// Whether a recovered disk may hold this; with `kept`, it holds everything that was answered.
    pub(crate) fn check_ended(&self, content: &Content, kept: bool) -> Result<(), String> {
        let state = self.state();
        if !state.pages.contains(&content.pages()) {
            return Err(format!("the disk has {} pages after the crash instead of {:?}", content.pages(), state.pages));
        }
        for (page, stored) in content.kinds.iter().enumerate() {
            let mut possible_kinds = 0;
            for cell in page * CELLS_A_PAGE..(page + 1) * CELLS_A_PAGE {
                let history = &state.cells[cell];
                let lost =
                    |write: &Write| history.iter().any(|other| (other.durable || kept) && write.superseded_by(other));
                let possible = history.iter().filter(|write| !lost(write));
                possible_kinds |= possible.clone().fold(0, |kinds, write| kinds | write.kinds);
                if !possible.clone().any(|write| write.may_be(content.values[cell])) {
                    let value = show(content.values[cell]);
                    let end = if kept { "kill" } else { "crash" };
                    return Err(format!("cell {cell} holds {value} after the {end}; {}", listing(history)));
                }
            }
            if stored & possible_kinds == 0 {
                let of = page * CELLS_A_PAGE;
                let histories: Vec<_> = (of..of + CELLS_A_PAGE).map(|cell| listing(&state.cells[cell])).collect();
                return Err(format!("page {page} is stored as {stored:#b} after the crash; {}", histories.join("; ")));
            }
        }
        state.check_snapshots(&content.lines)
    }
}

impl State {
    pub(crate) fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub(crate) fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    pub(crate) fn push(&mut self, cell: usize, request: u64, values: Values, kinds: Kinds, begin: u64) {
        let outcome = Outcome::InFlight;
        self.cells[cell].push(Write { request, values, kinds, begin, end: u64::MAX, outcome, durable: false });
    }

    fn take_up(&mut self) {
        if self.stored_as & ENCRYPTED != 0 {
            self.cells.iter_mut().flatten().for_each(|write| write.kinds |= ENCRYPTED | ZERO);
        }
    }
}

/// Drops the writes that neither a crash nor a later read can show.
fn prune(history: &mut Vec<Write>) {
    let last = history.iter().filter(|write| write.durable).map(|write| write.begin).max();
    history.retain(|write| last.is_none_or(|last| write.end >= last));
}

/// What request `request` writes to cell `cell`: unlike anything else ever written anywhere.
pub(crate) fn value_of(request: u64, cell: usize) -> u64 {
    request << 16 | cell as u64 | 1 << 62
}

pub(crate) fn show(value: Option<u64>) -> String {
    match value {
        None => "noise".into(),
        Some(0) => "zeros".into(),
        Some(value) if value >> 63 == 1 => format!("the base's {}", value & 0xffff),
        Some(value) => format!("request {} (of cell {})", (value & !(1 << 62)) >> 16, value & 0xffff),
    }
}

fn listing(history: &[Write]) -> String {
    let each = history.iter().map(|write| {
        let Write { request, kinds, begin, end, outcome, durable, .. } = write;
        let end = if *end == u64::MAX { "..".into() } else { end.to_string() };
        let durable = if *durable { " durable" } else { "" };
        format!(
            "[request {request} {} {begin}-{end} {outcome:?}{durable} as {kinds:#b}]",
            write.values.iter().map(|value| show(Some(*value))).collect::<Vec<_>>().join(" or ")
        )
    });
    format!("its writes: {}", each.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle() -> Oracle {
        Oracle::new(&[0, 0], &[ZERO], 1, true)
    }

    fn recovered(oracle: &Oracle, value: Option<u64>, kinds: Kinds) -> bool {
        let (values, kinds, layers) = (vec![value, Some(0)], vec![kinds], vec![None]);
        oracle.check_recovered(&Content { values, kinds, layers, lines: Vec::new() }).is_ok()
    }

    fn after(oracle: &Oracle, value: u64) -> bool {
        recovered(oracle, Some(value), ENCRYPTED | ZERO)
    }

    #[test]
    fn unflushed_writes_are_old_or_new_and_flushed_ones_exact() {
        let oracle = oracle();
        let first = oracle.begin(0..1, Change::Data);
        assert!(after(&oracle, 0) && after(&oracle, value_of(first, 0)));
        oracle.end(first, 0..1, true, false);
        let flush = oracle.begin_flush();
        let second = oracle.begin(0..1, Change::Data);
        oracle.end(second, 0..1, true, false);
        assert!(after(&oracle, 0));
        oracle.flushed(flush);
        assert!(!after(&oracle, 0) && after(&oracle, value_of(first, 0)) && after(&oracle, value_of(second, 0)));
        let third = oracle.begin(0..1, Change::Data);
        oracle.end(third, 0..1, true, true);
        assert!(!after(&oracle, value_of(second, 0)) && after(&oracle, value_of(third, 0)));
        assert!(!recovered(&oracle, None, ENCRYPTED));
        assert!(!recovered(&oracle, Some(value_of(third, 0)), PLAIN));
    }

    #[test]
    fn a_kill_loses_nothing_that_was_answered() {
        let oracle = oracle();
        let first = oracle.begin(0..1, Change::Data);
        oracle.end(first, 0..1, true, false);
        let second = oracle.begin(0..1, Change::Data);
        let holds = |value| {
            let (values, kinds, layers) = (vec![Some(value), Some(0)], vec![ENCRYPTED], vec![None]);
            oracle.check_ended(&Content { values, kinds, layers, lines: Vec::new() }, true).is_ok()
        };
        assert!(!holds(0) && holds(value_of(first, 0)) && holds(value_of(second, 0)));
        oracle.end(second, 0..1, true, false);
        assert!(!holds(value_of(first, 0)) && holds(value_of(second, 0)));
    }

    #[test]
    fn reads_are_never_stale() {
        let oracle = oracle();
        let early = oracle.begin_read();
        let write = oracle.begin(0..2, Change::Data);
        oracle.end(write, 0..2, true, false);
        let late = oracle.begin_read();
        assert!(oracle.check_read(early, 0, &[Some(0), Some(value_of(write, 1))]).is_ok());
        assert!(oracle.check_read(late, 0, &[Some(0)]).is_err());
        let failed = oracle.begin(0..1, Change::Zero);
        oracle.end(failed, 0..1, false, false);
        for value in [0, value_of(write, 0)] {
            let read = oracle.begin_read();
            assert!(oracle.check_read(read, 0, &[Some(value)]).is_ok());
        }
    }
}
