//! Reading and changing pages. Ranges are inside the blob: `mod.rs` checked them.
//!
//! A change, in this order: lock its pages exclusively; enter the gate; reserve log space if presence will change, so
//! that a full disk says so before any byte is written; store; publish; unlock; and only then wait, where the caller
//! asked for durability.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::extent_map::Mark;
use super::gate::Gate;
use super::layer::Layer;
use super::page_set::Share;
use super::publish::Change;
use super::resolve::{PageSource, Segments, View};
use super::state::State;
use crate::base::BaseImage;
use crate::disk::Durability;
use crate::disk::core::Core;
use crate::io::sync::atomic::Ordering;
use crate::io::{mutant, unless_mutant};
use crate::{Error, ErrorKind, PAGE, Result};

/// How an attempt at a change ended.
enum Attempt {
    /// In this layer; `None`: there was nothing to change.
    Done(Option<Arc<Layer>>),
    /// Not yet: this must be done first, with nothing locked.
    First(Need),
}

enum Need {
    BeginSession,
    Layer,
    Room,
}

/// The bytes of `buf` that belong to `part` of the pages from `first` on.
fn piece(buf: &mut [u8], first: u64, part: Range<u64>) -> &mut [u8] {
    &mut buf[(part.start - first) as usize * PAGE..(part.end - first) as usize * PAGE]
}

impl Core {
    pub(crate) fn base(&self) -> Result<Arc<dyn BaseImage>> {
        let base = self.base.read().clone();
        base.ok_or_else(|| match self.keys.are_here() {
            true => Error::new(ErrorKind::NotFound, "the base image is not open"),
            false => Error::new(
                ErrorKind::WrongKey,
                "the base image is not open: without a key nothing proves which one it is",
            ),
        })
    }

    pub(super) fn segments_of(&self, view: Option<View>, pages: Range<u64>) -> Result<Segments> {
        let state = self.stack.state();
        let view = view.unwrap_or_else(|| state.live());
        state.check_view(view)?;
        Ok(state.look_up(view, pages))
    }

    /// Fills `buf` with whole pages; the caller holds their range lock.
    fn read_locked(&self, view: Option<View>, pages: Range<u64>, buf: &mut [u8]) -> Result<()> {
        let first = pages.start;
        for segment in self.segments_of(view, pages)? {
            let part = piece(buf, first, segment.pages.clone());
            match segment.source {
                PageSource::Layer(layer) => layer.read(segment.pages.start, part)?,
                PageSource::Zero(_) => part.fill(0),
                PageSource::Base => self.base()?.read_at(segment.pages.start * PAGE as u64, part)?,
            }
        }
        Ok(())
    }

    /// Reads bytes of the live disk (`view` `None`) or of a snapshot's view.
    pub(crate) fn read(&self, view: Option<View>, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_admitted()?;
        let pages = Self::pages_of(offset, buf.len() as u64);
        let _lock = (!mutant!(ReadWithoutLock)).then(|| self.stack.lock_shared(pages.clone()));
        if is_whole(offset, buf.len()) {
            return self.read_locked(view, pages, buf);
        }
        // Guest data that is no longer needed stays nowhere: the keys may be taken back at any time.
        let mut whole = Zeroizing::new(vec![0; (pages.end - pages.start) as usize * PAGE]);
        let skip = (offset - pages.start * PAGE as u64) as usize;
        self.read_locked(view, pages, &mut whole)?;
        buf.copy_from_slice(&whole[skip..skip + buf.len()]);
        Ok(())
    }

    /// Like [`Core::read`], but `Ok(false)` where it would wait for a device or a lock.
    pub(crate) fn try_read(&self, view: Option<View>, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.check_admitted()?;
        if !is_whole(offset, buf.len()) {
            return Ok(false);
        }
        let pages = Self::pages_of(offset, buf.len() as u64);
        let Some(_lock) = self.stack.ranges.try_shared(pages.clone()) else { return Ok(false) };
        let segments = self.segments_of(view, pages.clone())?;
        self.try_read_locked(pages.start, segments, buf)
    }

    /// Fills `buf` with the whole pages of `segments`, which begin at page `first`; `Ok(false)` where that would wait
    /// for a device. The caller holds their range lock.
    pub(super) fn try_read_locked(&self, first: u64, segments: Segments, buf: &mut [u8]) -> Result<bool> {
        for segment in segments {
            let part = piece(buf, first, segment.pages.clone());
            let done = match segment.source {
                PageSource::Layer(layer) => layer.try_read(segment.pages.start, part)?,
                PageSource::Base => self.base()?.try_read_at(segment.pages.start * PAGE as u64, part)?,
                PageSource::Zero(_) => {
                    part.fill(0);
                    true
                }
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The top layer to change, if everything is ready for a change of `pages`.
    fn ready(&self, gate: &Gate, pages: &Range<u64>) -> Result<std::result::Result<Arc<Layer>, Need>> {
        gate.check_open()?;
        // Checked before, but the disk may have shrunk since; that waits for the gate. The footer page, which by now
        // may lie there, is nobody's to change.
        if pages.end > self.stack.pages() - u64::from(self.footer) {
            return Err(
                Error::new(ErrorKind::OutOfRange, "past the end of the disk").at_offset(pages.start * PAGE as u64)
            );
        }
        if !gate.has_log() {
            return Ok(Err(Need::BeginSession));
        }
        Ok(gate.top().cloned().ok_or(Need::Layer))
    }

    fn meet(&self, need: &Need) -> Result<()> {
        match need {
            Need::BeginSession => self.begin_session(),
            Need::Layer => self.make_layer(),
            Need::Room => self.make_room(),
        }
    }

    /// Stores whole pages in the top layer and publishes them.
    fn store(&self, change: &Change<'_>, pages: Range<u64>, data: &[u8]) -> Result<Attempt> {
        let top = change.top();
        let held = self.stack.state().holding(top.id, &pages);
        if held == Share::All {
            let stored = self.write_top(top, &pages, data, held);
            Self::mark_written(top, &stored);
            stored?;
        } else {
            let Some(_reserved) = self.reserve() else { return Ok(Attempt::First(Need::Room)) };
            mutant!(PublishedBeforeStored => self.stack.state_mut().publish(top.id, pages.clone(), Mark::Held));
            self.store_new(change, pages, data, held)?;
        }
        mutant!(WaitsUnderRangeLock => self.flush()?);
        Ok(Attempt::Done(Some(Arc::clone(top))))
    }

    /// Stores pages of which the top layer holds `held`, not all.
    fn store_new(&self, change: &Change<'_>, pages: Range<u64>, data: &[u8], held: Share) -> Result<()> {
        let top = change.top();
        let stored = self.write_top(top, &pages, data, held);
        // Invariant 3: dirty mark, presence and delta under one lock. A failed write leaves presence as it was, but its
        // layer is dirty all the same, and what it left behind is dead.
        let mut state = self.stack.state_mut();
        unless_mutant!(DirtyAfterPublished => Self::mark_written(top, &stored));
        match stored {
            Ok(()) => self.publish(change, state, pages, Mark::Held)?,
            Err(error) => Self::fail_write(&mut state, top, pages, error)?,
        }
        mutant!(DirtyAfterPublished => top.mark_dirty());
        Ok(())
    }

    /// Writes pages of which the top layer holds `held`.
    fn write_top(&self, top: &Layer, pages: &Range<u64>, data: &[u8], held: Share) -> Result<()> {
        mutant!(DirtyBeforeStored => top.mark_dirty());
        let stored = if held == Share::Some && !mutant!(OverwritesFirst) {
            self.write_new_first(top, pages, data)
        } else {
            top.write(pages.start, data, held != Share::All)
        };
        if stored.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace) {
            self.stack.tight.store(true, Ordering::SeqCst);
        }
        stored
    }

    /// The layer is to be synced by the next round, whether the write succeeded or not.
    fn mark_written(top: &Layer, stored: &Result<()>) {
        let late = mutant!(DirtyBeforeStored) || (mutant!(FailedWriteLeavesClean) && stored.is_err());
        if !late {
            top.mark_dirty();
        }
    }

    fn fail_write(state: &mut State, top: &Layer, pages: Range<u64>, error: Error) -> Result<()> {
        if mutant!(FailedWritePublished) {
            state.publish(top.id, pages, Mark::Held);
            return Ok(());
        }
        unless_mutant!(FailedWriteNotDead => state.write_failed(top.id, pages));
        Err(error)
    }

    /// Writes to the top layer pages some of which it holds: the others first, because only these may find no space. So
    /// a write that is refused for want of space has changed nothing that is read.
    fn write_new_first(&self, top: &Layer, pages: &Range<u64>, data: &[u8]) -> Result<()> {
        let held = self.stack.state().held_runs(top.id, pages);
        let part = |run: &Range<u64>| {
            let byte = |page: u64| (page - pages.start) as usize * PAGE;
            &data[byte(run.start)..byte(run.end)]
        };
        gaps(pages, &held).iter().try_for_each(|gap| top.write(gap.start, part(gap), true))?;
        held.iter().try_for_each(|run| top.write(run.start, part(run), false))
    }

    /// Takes the space that changes of `pages` will need, for a request that is carried out in parts: where there is
    /// none, it is refused before the first. Nothing is done as long as there is plenty.
    pub(crate) fn allocate(&self, pages: &Range<u64>) -> Result<()> {
        /// Bytes in the file system that other writers hardly use up while one request is carried out.
        const PLENTY: u64 = 1 << 30;
        self.check_writable()?;
        loop {
            let need = {
                let gate = self.stack.gate();
                match self.ready(&gate, pages)? {
                    Err(need) => need,
                    Ok(top) if self.stack.state().holds(top.id, pages) || mutant!(OverwritesFirst) => return Ok(()),
                    Ok(top) => {
                        let wanted = (pages.end - pages.start) * PAGE as u64;
                        let tight = self.stack.tight.load(Ordering::SeqCst)
                            || self.dir.free_bytes().is_ok_and(|free| free < wanted.saturating_add(PLENTY));
                        return if tight { self.allocate_in(&top, pages) } else { Ok(()) };
                    }
                }
            };
            self.meet(&need)?;
        }
    }

    fn allocate_in(&self, top: &Layer, pages: &Range<u64>) -> Result<()> {
        let held = self.stack.state().held_runs(top.id, pages);
        gaps(pages, &held).into_iter().try_for_each(|gap| top.allocate(gap)).inspect_err(|_| {
            // What was allocated is given back.
            self.stack.state_mut().write_failed(top.id, pages.clone());
        })
    }

    fn attempt_write(&self, offset: u64, data: &[u8]) -> Result<Attempt> {
        let pages = Self::pages_of(offset, data.len() as u64);
        let lock = self.stack.lock_exclusive(if mutant!(WriteWithoutLock) { 0..0 } else { pages.clone() });
        let gate = self.stack.gate();
        let change = match self.ready(&gate, &pages)? {
            Ok(top) => Change::new(lock, gate, top),
            Err(need) => return Ok(Attempt::First(need)),
        };
        if is_whole(offset, data.len()) {
            return self.store(&change, pages, data);
        }
        let mut whole = Zeroizing::new(vec![0; (pages.end - pages.start) as usize * PAGE]);
        let skip = (offset - pages.start * PAGE as u64) as usize;
        // Only the first and the last page keep anything of what they hold.
        let (last, after) = (pages.end - 1, pages.end);
        self.read_locked(None, pages.start..pages.start + 1, &mut whole[..PAGE])?;
        if last > pages.start {
            let tail = whole.len() - PAGE;
            self.read_locked(None, last..after, &mut whole[tail..])?;
        }
        whole[skip..skip + data.len()].copy_from_slice(data);
        self.store(&change, pages, &whole)
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.check_writable()?;
        let pages = Self::pages_of(offset, data.len() as u64);
        let layer = loop {
            match self.attempt_write(offset, data)? {
                Attempt::Done(layer) => break layer,
                Attempt::First(need) => self.meet(&need)?,
            }
        };
        self.wait_durable(layer, &pages, durability)
    }

    /// A volatile write of whole blocks of 4 KiB, or `Ok(false)` with nothing changed where it would wait: smaller ones
    /// may make the kernel read the block first.
    pub(crate) fn try_write(&self, offset: u64, data: &[u8]) -> Result<bool> {
        const BLOCK: usize = 4096;
        self.check_writable()?;
        if !offset.is_multiple_of(BLOCK as u64) || !data.len().is_multiple_of(BLOCK) {
            return Ok(false);
        }
        let pages = Self::pages_of(offset, data.len() as u64);
        let Some(lock) = self.stack.ranges.try_exclusive(pages.clone()) else { return Ok(false) };
        let Some(gate) = self.stack.gate.try_read() else { return Ok(false) };
        let Ok(top) = self.ready(&gate, &pages)? else { return Ok(false) };
        Ok(matches!(self.store(&Change::new(lock, gate, top), pages, data)?, Attempt::Done(_)))
    }

    fn attempt_zero(&self, pages: &Range<u64>) -> Result<Attempt> {
        let lock = self.stack.lock_exclusive(pages.clone());
        let gate = self.stack.gate();
        // Marks only from the first page on that needs one: trimming what is empty changes nothing. While a rollback is
        // not durable what it emptied counts as stored: a killed process may come back without it.
        let first = {
            let state = self.stack.state();
            if state.ops_durable() { state.first_stored(pages.clone()) } else { Some(pages.start) }
        };
        let Some(first) = first else { return Ok(Attempt::Done(None)) };
        let change = match self.ready(&gate, pages)? {
            Ok(top) => Change::new(lock, gate, top),
            Err(need) => return Ok(Attempt::First(need)),
        };
        let Some(_reserved) = self.reserve() else { return Ok(Attempt::First(Need::Room)) };
        self.publish(&change, self.stack.state_mut(), first..pages.end, Mark::Zero)?;
        Ok(Attempt::Done(Some(Arc::clone(change.top()))))
    }

    /// Makes whole pages read as zeros: presence only.
    pub(crate) fn zero(&self, pages: Range<u64>, durability: Durability) -> Result<()> {
        self.check_writable()?;
        loop {
            match self.attempt_zero(&pages)? {
                Attempt::Done(_) => break,
                Attempt::First(need) => self.meet(&need)?,
            }
        }
        self.wait_durable(None, &pages, durability)
    }

    /// Invariant 5: a FUA request may go past the committer only if for every page it touches the live state is the
    /// durable one, with nothing of it in a batch in flight. Then the sync of the layer it wrote to is all it needs.
    fn wait_durable(&self, written: Option<Arc<Layer>>, pages: &Range<u64>, durability: Durability) -> Result<()> {
        if durability == Durability::Volatile {
            return Ok(());
        }
        let is_durable = self.stack.state().is_durable(pages) || mutant!(FuaPastThePending);
        match written {
            _ if !is_durable => self.flush(),
            Some(_) if mutant!(FuaNotSynced) => Ok(()),
            Some(layer) => layer.sync(self.commit.poison()),
            None => self.commit.poison().check(),
        }
    }

    /// Asks the kernel to read ahead what lies in layers. A few runs at a time, so that a long range takes no memory
    /// and holds nobody up; without its lock, as no content is looked at.
    pub(crate) fn read_ahead(&self, view: Option<View>, pages: Range<u64>) -> Result<()> {
        const RUNS: usize = 64;
        let mut at = pages.start;
        while at < pages.end {
            self.check_admitted()?;
            let segments = {
                let state = self.stack.state();
                let view = view.unwrap_or_else(|| state.live());
                state.check_view(view)?;
                state.segments(view, at..pages.end, RUNS)
            };
            for segment in segments {
                at = segment.pages.end;
                if let PageSource::Layer(layer) = segment.source {
                    layer.read_ahead(segment.pages)?;
                }
            }
        }
        Ok(())
    }
}

/// What lies between runs of `pages`.
fn gaps(pages: &Range<u64>, runs: &[Range<u64>]) -> Vec<Range<u64>> {
    let starts = std::iter::once(pages.start).chain(runs.iter().map(|run| run.end));
    let ends = runs.iter().map(|run| run.start).chain(std::iter::once(pages.end));
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect()
}

pub(super) fn is_whole(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE)
}
