//! Reads: from the page cache straight into the send buffer, piece by piece, holes as holes.
//!
//! A reply in chunks may stop between any two pieces while the disk is waited for, and others go on meanwhile. A reply
//! that is one block of bytes (a simple one, or one chunk for DF) cannot be interrupted once it has begun: before it
//! begins, a range that is not cached is read once on a thread of the pool; after that, this thread waits if it must.

use smallvec::SmallVec;

use super::output::{CONTROL, Output, ReplyTarget};
use super::request::Cause;
use super::wire::transmission::HeaderStyle;
use crate::disk::{DataRead, Disk, Hole, PageState, Run};
use crate::io::zeros::is_zero;
use crate::serve::buffers::Lease;
use crate::{Error, PAGE, Result};

/// Bytes of one piece at most.
pub(super) const PIECE: usize = 128 << 10;
/// Reads up to this are not looked up for holes before they are read; an answer of zeros becomes one afterwards.
const GLANCE: u64 = 4096;
/// Holes smaller than this are sent as data: a chunk more costs the client more than the bytes.
const MIN_HOLE: u64 = 4096;
/// Runs looked up at once.
const RUNS: usize = 16;

/// A read on its way.
#[derive(Debug)]
pub(super) struct ReadStream {
    to: ReplyTarget,
    next: u64,
    end: u64,
    /// The reply must be one block of bytes.
    whole: bool,
    /// The header of that block has been written.
    begun: bool,
    /// The range has been waited for: what is still not cached is read by this thread.
    warmed: bool,
    plan: SmallVec<[Extent; 2]>,
    /// Data that was waited for and not yet taken.
    piece: Option<Piece>,
    /// What ends it, once the reply is in a state to say so.
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    end: u64,
    hole: bool,
}

#[derive(Debug)]
struct Piece {
    buffer: Lease,
    taken: usize,
    len: usize,
}

#[derive(Debug)]
struct Failure {
    error: Error,
    /// Byte of the export.
    at: u64,
}

/// How far a read came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The reply is complete, be it with an error.
    Done,
    /// The reply has begun and cannot be ended with an error: the connection must be.
    Broken,
    /// The send buffer is full.
    Full,
    /// The disk must be waited for: `len` bytes at [`ReadStream::position`] are to be [supplied](ReadStream::supply).
    Cold { len: usize },
    /// The disk must be waited for before the reply begins: the whole range is to be [warmed](ReadStream::warmed).
    Warm,
}

impl ReadStream {
    pub(super) fn new(to: ReplyTarget, length: u64, whole: bool) -> Self {
        Self {
            to,
            next: to.offset,
            end: to.offset + length,
            whole,
            begun: false,
            warmed: false,
            plan: SmallVec::new(),
            piece: None,
            failure: None,
        }
    }

    /// The first byte that is still to be read.
    pub(super) fn position(&self) -> u64 {
        self.next
    }

    pub(super) fn remaining(&self) -> u64 {
        self.end - self.next
    }

    /// Whether nothing else may be written to the send buffer until this is done.
    pub(super) fn exclusive(&self) -> bool {
        self.begun
    }

    /// Brings `len` bytes that were waited for.
    pub(super) fn supply(&mut self, buffer: Lease, len: usize) {
        self.piece = Some(Piece { buffer, taken: 0, len });
    }

    pub(super) fn warmed(&mut self) {
        self.warmed = true;
    }

    /// The disk failed to read what was waited for.
    pub(super) fn fail(&mut self, error: Error) {
        self.failure = Some(Failure { error, at: self.next });
    }

    /// Writes as much of the reply as can be had without waiting; with `wait`, this thread waits for the disk.
    #[inline]
    pub(super) fn advance(&mut self, disk: &Disk, output: &mut Output, wait: bool) -> Progress {
        loop {
            if self.failure.is_some() && !self.begun {
                return self.end(output);
            }
            if self.next == self.end {
                return self.end(output);
            }
            let until = match self.extent(disk, wait) {
                Ok(Extent { end, hole: false }) => end,
                Ok(Extent { end, hole: true }) => {
                    if !output.room(CONTROL) {
                        return Progress::Full;
                    }
                    output.hole(self.to, self.next, end - self.next, end == self.end);
                    if self.step(end) {
                        output.record.answered(self.to.request());
                        return Progress::Done;
                    }
                    continue;
                }
                Err(error) => {
                    self.fail(error);
                    continue;
                }
            };
            let wanted = self.piece.as_ref().map_or((until - self.next).min(PIECE as u64) as usize, Piece::left);
            let header = if self.begun { 0 } else { self.to.data_header() };
            // A small send buffer makes for small pieces. What ends the reply must find room behind any of them.
            let len = wanted.min(output.capacity_for(header + wanted + CONTROL).saturating_sub(header + CONTROL));
            if len == 0 || !output.room(header + len + CONTROL) {
                return Progress::Full;
            }
            let slot = output.slot(header, len);
            let wait = wait || self.begun || self.warmed;
            let may_have_holes = self.may_have_holes();
            let read = match (&mut self.piece, &self.failure) {
                (Some(piece), _) => piece.take(slot),
                // A chunk that has begun is filled up, and the error follows it.
                (None, Some(_)) => Ok({
                    slot.fill(0);
                    true
                }),
                (None, None) if wait => disk.read(self.next, slot).map(|()| true),
                (None, None) if may_have_holes => {
                    let hole = Hole { least: MIN_HOLE, goes_on: (len as u64) < self.remaining() };
                    match disk.try_read_data(self.next, slot, hole) {
                        Ok(DataRead::HasHole) => {
                            if let Err(error) = self.look_up(disk) {
                                self.fail(error);
                            }
                            continue;
                        }
                        tried => tried.map(|tried| tried == DataRead::Done),
                    }
                }
                (None, None) => disk.try_read(self.next, slot),
            };
            match read {
                Ok(true) if self.frame(output, len) => {
                    output.record.answered(self.to.request());
                    return Progress::Done;
                }
                Ok(true) => {}
                Ok(false) if self.whole && (len as u64) < self.remaining() => return Progress::Warm,
                Ok(false) => return Progress::Cold { len },
                Err(_) if self.begun && self.to.style == HeaderStyle::Simple => return Progress::Broken,
                Err(error) => self.fail(error),
            }
            if self.piece.as_ref().is_some_and(|piece| piece.left() == 0) {
                self.piece = None;
            }
        }
    }

    /// Frames `len` bytes that lie in the slot. `true`: the reply is complete.
    #[inline]
    fn frame(&mut self, output: &mut Output, len: usize) -> bool {
        let (to, at) = (self.to, self.next);
        let last = at + len as u64 == self.end;
        if self.begun {
            output.raw(len);
            return self.step(at + len as u64) && to.style == HeaderStyle::Simple;
        }
        if self.whole && !last {
            // The one header of a reply of several pieces. An error may still come, so it is not marked as the last.
            output.data_header(to, at, self.remaining() as usize, false);
            output.raw(len);
            self.begun = true;
        } else if to.style != HeaderStyle::Simple && len as u64 <= GLANCE && is_zero(output.slot(to.data_header(), len))
        {
            output.hole(to, at, len as u64, last);
        } else {
            output.data(to, at, len, last);
        }
        self.step(at + len as u64)
    }

    /// Ends a reply whose last chunk is still to come.
    #[cold]
    fn end(&mut self, output: &mut Output) -> Progress {
        if !output.room(CONTROL) {
            return Progress::Full;
        }
        match &self.failure {
            Some(Failure { error, at }) => {
                output.failure(self.to, Cause::Disk(error), Some(*at));
            }
            // A read of no byte.
            None if self.to.style == HeaderStyle::Simple => output.success(self.to),
            None => output.finish(self.to),
        }
        Progress::Done
    }

    fn step(&mut self, next: u64) -> bool {
        self.next = next;
        if self.plan.first().is_some_and(|extent| extent.end <= next) {
            self.plan.remove(0);
        }
        next == self.end
    }

    /// Whether what comes next was not looked up, and may have holes.
    fn may_have_holes(&self) -> bool {
        !self.whole && self.remaining() > GLANCE && self.piece.is_none() && self.plan.is_empty()
    }

    /// What the bytes from `next` on are, as far as that was looked up. The rest counts as data: reading it without
    /// waiting tells of holes; where this thread waits (`wait`), it is looked up first.
    #[inline]
    fn extent(&mut self, disk: &Disk, wait: bool) -> Result<Extent> {
        if wait && self.may_have_holes() {
            self.look_up(disk)?;
        }
        match self.plan.first() {
            Some(extent) if self.piece.is_none() && self.remaining() > GLANCE => Ok(*extent),
            _ => Ok(Extent { end: self.end, hole: false }),
        }
    }

    /// Looks up what the next bytes are.
    fn look_up(&mut self, disk: &Disk) -> Result<()> {
        // A hole is not read.
        disk.check_served()?;
        let runs = disk.runs(self.next, self.remaining(), RUNS)?;
        self.plan = plan(&runs, self.next, self.end);
        if self.plan.is_empty() {
            self.plan.push(Extent { end: self.end, hole: false });
        }
        Ok(())
    }
}

impl Piece {
    fn left(&self) -> usize {
        self.len - self.taken
    }

    fn take(&mut self, slot: &mut [u8]) -> Result<bool> {
        slot.copy_from_slice(&self.buffer[self.taken..self.taken + slot.len()]);
        self.taken += slot.len();
        Ok(true)
    }
}

/// Runs of the disk as holes and data of a reply. It may end before `end`, as the runs do.
fn plan(runs: &[Run], from: u64, end: u64) -> SmallVec<[Extent; 2]> {
    let mut plan: SmallVec<[Extent; 2]> = SmallVec::new();
    let mut at = from;
    for run in runs {
        let until = ((run.start + run.pages) * PAGE as u64).min(end);
        if until <= at {
            continue;
        }
        let zero = matches!(run.state, PageState::Zero | PageState::Base { allocated: false });
        let hole = zero && until - at >= MIN_HOLE.min(end - from);
        match plan.last_mut() {
            Some(last) if last.hole == hole => last.end = until,
            _ => plan.push(Extent { end: until, hole }),
        }
        at = until;
    }
    plan
}
