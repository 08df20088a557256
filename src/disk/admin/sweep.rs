//! Bringing pages that were stored before under the current key, in steps, while clients write.
//!
//! A step reads and stores under the exclusive lock of its range, and only pages that the live view still takes from
//! an older layer (or the base) then: a newer write is never overwritten. It writes only while the top layer is an
//! encrypted one, checked inside the gate: a sweep never decrypts a disk whose encryption was turned off meanwhile.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::{BaseImage, BaseRun};
use crate::disk::core::Core;
use crate::disk::stack::Change;
use crate::disk::stack::extent_map::Mark;
use crate::disk::stack::layer::Layer;
use crate::disk::stack::resolve::{PageSource, Segment};
use crate::disk::table::settings::Kind;
use crate::io::mutant;
use crate::{Error, ErrorKind, PAGE, Result};

/// Pages of a step at the most: clients wait for one.
const STEP: u64 = 1024;

/// Room for the content of `pages`.
fn buffer(pages: &Range<u64>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![0; (pages.end - pages.start) as usize * PAGE])
}

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Go on from this page; so many bytes were encrypted anew.
    Next { page: u64, stored: u64 },
    /// Everything up to the end is under the current key.
    End,
}

impl Core {
    fn is_old(segment: &Segment, top: u32, include_base: bool) -> bool {
        match &segment.source {
            PageSource::Layer(layer) => layer.id != top,
            PageSource::Base => include_base,
            PageSource::Zero(_) => false,
        }
    }

    /// Bytes that a sweep has still to store.
    pub(crate) fn sweep_remaining(&self, include_base: bool) -> u64 {
        let top = self.stack.gate().top().map_or(0, |top| top.id);
        let layers: u64 = self.layers().iter().filter(|layer| layer.id != top).map(|layer| layer.live).sum();
        layers + if include_base { self.usage().base } else { 0 }
    }

    /// One step from `page` on.
    pub(crate) fn sweep(&self, page: u64, include_base: bool) -> Result<Swept> {
        self.check_writable()?;
        let paused = || {
            Error::new(ErrorKind::InUse, "encryption is off: nothing is re-encrypted")
                .hint("turn it on (sealdisk encryption on), then start again: it goes on where it was")
        };
        let top = {
            let gate = self.stack.gate();
            gate.check_open()?;
            if !gate.encryption() {
                return Err(paused());
            }
            gate.top().cloned().filter(|_| gate.has_log())
        };
        let nothing_yet = |page| Ok(Swept::Next { page, stored: 0 });
        let Some(top) = top else {
            self.begin_session()?;
            self.make_layer()?;
            return nothing_yet(page);
        };
        // Where the next old page is, without a lock: looked at again below.
        let mut first = None;
        {
            let state = self.stack.state();
            state.resolve(state.live(), page..state.size, &mut |segment| {
                first = Self::is_old(&segment, top.id, include_base).then_some(segment.pages.start);
                first.is_none()
            });
        }
        let Some(start) = first else { return Ok(Swept::End) };
        let step = STEP.min(self.commit.pending_limit() as u64 / 2);
        let lock = self.stack.lock_exclusive(start..if mutant!(SweptWithoutLock) { start } else { start + step });
        let gate = self.stack.gate();
        gate.check_open()?;
        let looks_again = !mutant!(SweptAfterSwitch);
        if looks_again && !gate.encryption() {
            return Err(paused());
        }
        let goes_on = |now: &Arc<Layer>| now.id == top.id && now.kind == Kind::Xts;
        if looks_again && !gate.top().is_some_and(goes_on) {
            return nothing_yet(start);
        }
        let segments = {
            let state = self.stack.state();
            let end = state.size.min(start + step);
            state.segments(state.live(), start..end, usize::MAX)
        };
        // All or nothing of a step has log space.
        let Some(_reserved) = self.reserve_extents(step as usize + 2) else {
            drop((gate, lock));
            self.make_room()?;
            return nothing_yet(start);
        };
        let change = Change::new(lock, gate, Arc::clone(&top));
        let (mut end, mut stored) = (start, 0);
        for segment in segments {
            end = segment.pages.end;
            if !Self::is_old(&segment, top.id, include_base) {
                continue;
            }
            match &segment.source {
                PageSource::Layer(layer) => {
                    stored += segment.pages.end - segment.pages.start;
                    let mut bytes = buffer(&segment.pages);
                    layer.read(segment.pages.start, &mut bytes)?;
                    self.take_up(&change, segment.pages, &bytes)?;
                }
                _ => {
                    let base = self.base()?;
                    let mut at = segment.pages.start;
                    base.runs(at * PAGE as u64, (end - at) * PAGE as u64, &mut |kind, len| {
                        let run = at..at + len / PAGE as u64;
                        at = run.end;
                        stored += self.take_up_base(&change, &*base, kind, run)?;
                        Ok(())
                    })?;
                }
            }
        }
        Ok(Swept::Next { page: end, stored: stored * PAGE as u64 })
    }

    /// Takes over a run of the base, and answers how many pages of it were stored. What is empty in an image stays
    /// empty, whether the format says so or the content; what another disk holds is taken over as it is.
    fn take_up_base(&self, change: &Change<'_>, base: &dyn BaseImage, kind: BaseRun, run: Range<u64>) -> Result<u64> {
        let empty = |pages: Range<u64>| self.publish(change, self.stack.state_mut(), pages, Mark::Zero);
        if kind == BaseRun::Zero {
            return empty(run).map(|()| 0);
        }
        let mut bytes = buffer(&run);
        base.read_at(run.start * PAGE as u64, &mut bytes)?;
        let is_empty = |page: &[u8]| kind == BaseRun::Data && page.iter().all(|&byte| byte == 0);
        let (mut at, mut stored) = (run.start, 0);
        while at < run.end {
            let rest = &bytes[(at - run.start) as usize * PAGE..];
            let is_hole = is_empty(&rest[..PAGE]);
            let len = rest.chunks(PAGE).take_while(|page| is_empty(page) == is_hole).count();
            let pages = at..at + len as u64;
            at = pages.end;
            if is_hole {
                empty(pages)?;
            } else {
                stored += len as u64;
                self.take_up(change, pages, &rest[..len * PAGE])?;
            }
        }
        Ok(stored)
    }

    /// Stores `pages` in the top layer and publishes them.
    fn take_up(&self, change: &Change<'_>, pages: Range<u64>, bytes: &[u8]) -> Result<()> {
        let top = change.top();
        let written = top.write(pages.start, bytes, true);
        let mut state = self.stack.state_mut();
        top.mark_dirty();
        match written {
            Ok(()) => self.publish(change, state, pages, Mark::Held),
            Err(error) => {
                state.write_failed(top.id, pages);
                Err(error)
            }
        }
    }
}
