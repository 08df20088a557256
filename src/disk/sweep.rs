//! Bringing pages that were stored before under the current key, in steps, while clients write.
//!
//! A step reads and stores under the exclusive lock of its range, and only pages that the live view still takes from
//! an older layer (or the base) then: a newer write is never overwritten. It writes only while the top layer is an
//! encrypted one, checked inside the gate: a sweep never decrypts a disk whose encryption was turned off meanwhile.

use std::ops::Range;
use std::sync::Arc;

use super::core::Core;
use super::extent_map::Mark;
use super::layer::Layer;
use super::log::Op;
use super::resolve::{Segment, Source};
use super::settings::{DiskSettings, Kind};
use crate::base::BaseRun;
use crate::io::mutant;
use crate::{Error, ErrorKind, PAGE, Result};

/// Pages of a step at the most: clients wait for one.
const STEP: u64 = 1024;

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Go on from this page.
    Next(u64),
    /// Everything up to the end is under the current key.
    End,
}

impl Core {
    /// Seals every layer there is: the next change is stored under a fresh key. Durable when this returns.
    pub(crate) fn rotate_key(&self) -> Result<()> {
        self.check_writable()?;
        self.check_room()?;
        let mut growth = self.growth.lock();
        growth.settings.sealed_below = growth.settings.next_layer;
        self.store_settings(&mut growth)?;
        self.gate.write().top = None;
        Ok(())
    }

    fn is_old(segment: &Segment, top: u32, include_base: bool) -> bool {
        match &segment.source {
            Source::Layer(layer) => layer.id != top,
            Source::Base => include_base,
            Source::Zero(_) => false,
        }
    }

    /// Bytes that a sweep has still to store.
    pub(crate) fn sweep_remaining(&self, include_base: bool) -> u64 {
        let top = self.gate.read().top.as_ref().map_or(0, |top| top.id);
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
            let gate = self.gate.read();
            self.check_open(&gate)?;
            if !gate.encryption {
                return Err(paused());
            }
            gate.top.clone().filter(|_| gate.armed)
        };
        let Some(top) = top else {
            self.arm()?;
            self.make_layer()?;
            return Ok(Swept::Next(page));
        };
        // Where the next old page is, without a lock: looked at again below.
        let mut first = None;
        {
            let state = self.state.read();
            state.resolve(state.live(), page..state.size, &mut |segment| {
                first = Self::is_old(&segment, top.id, include_base).then_some(segment.pages.start);
                first.is_none()
            });
        }
        let Some(start) = first else { return Ok(Swept::End) };
        let step = STEP.min(self.options.pending_extents as u64 / 2);
        let lock = (!mutant!(SweptWithoutLock)).then(|| self.ranges.exclusive(start..start + step));
        let gate = self.gate.read();
        self.check_open(&gate)?;
        if !gate.encryption && !mutant!(SweptAfterSwitch) {
            return Err(paused());
        }
        let goes_on = |now: &Arc<Layer>| now.id == top.id && now.kind == Kind::Xts;
        if !gate.top.as_ref().is_some_and(goes_on) && !mutant!(SweptAfterSwitch) {
            return Ok(Swept::Next(start));
        }
        let segments = {
            let state = self.state.read();
            let end = state.size.min(start + step);
            state.segments(state.live(), start..end, usize::MAX)
        };
        // All or nothing of a step has log space.
        let Some(_reserved) = self.reserve_extents(step as usize + 2) else {
            drop((gate, lock));
            self.make_room()?;
            return Ok(Swept::Next(start));
        };
        let mut end = start;
        for segment in segments {
            end = segment.pages.end;
            if !Self::is_old(&segment, top.id, include_base) {
                continue;
            }
            match &segment.source {
                Source::Layer(layer) => {
                    self.take_up(&top, segment.pages, |first, bytes| layer.read(first, bytes))?;
                }
                _ => {
                    let base = self.base()?;
                    let (mut at, mut done) = (segment.pages.start, Ok(()));
                    base.runs(at * PAGE as u64, (end - at) * PAGE as u64, &mut |kind, len| {
                        let run = at..at + len / PAGE as u64;
                        at = run.end;
                        if done.is_err() {
                        } else if kind == BaseRun::Zero {
                            done = self.publish(&mut self.state.write(), top.id, run, Mark::Zero);
                        } else {
                            let read = |first, bytes: &mut [u8]| base.read_at(first * PAGE as u64, bytes);
                            done = self.take_up(&top, run, read);
                        }
                    })?;
                    done?;
                }
            }
        }
        Ok(Swept::Next(end))
    }

    /// Stores what `read` gives for `pages` in the top layer and publishes it.
    fn take_up(&self, top: &Layer, pages: Range<u64>, read: impl FnOnce(u64, &mut [u8]) -> Result<()>) -> Result<()> {
        let mut bytes = vec![0; (pages.end - pages.start) as usize * PAGE];
        read(pages.start, &mut bytes)?;
        let written = top.write(pages.start, &bytes, true);
        let mut state = self.state.write();
        top.mark_dirty();
        written
            .and_then(|()| self.publish(&mut state, top.id, pages.clone(), Mark::Held))
            .inspect_err(|_| state.write_failed(top.id, pages))
    }

    /// Lets go of a base that nothing reads any more, the live disk or a snapshot. `false`: something does.
    pub(crate) fn detach_base(&self) -> Result<bool> {
        self.check_writable()?;
        self.arm()?;
        {
            let _growth = self.growth.lock();
            let gate = self.gate.write();
            self.check_open(&gate)?;
            if self.usage().base > 0 || self.state.read().lines.iter().any(|line| line.base_limit > 0) {
                return Ok(false);
            }
            let mut state = self.state.write();
            state.base_limit = 0;
            let size = state.size;
            state.pending.ops.push(Op::Resize { size, base_limit: 0 });
        }
        // First the limit, then the record: a crash between them leaves a base that nothing reads.
        self.flush()?;
        self.change_settings(|settings| settings.base = None)?;
        Ok(true)
    }

    /// Gives the disk another name; durable when this returns. That it is unique is the caller's business.
    pub(crate) fn rename(&self, name: &str) -> Result<()> {
        self.change_settings(|settings| name.clone_into(&mut settings.name))
    }

    /// Changes the settings as one replacement of their file.
    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut DiskSettings)) -> Result<()> {
        self.check_writable()?;
        let mut growth = self.growth.lock();
        let before = growth.settings.clone();
        change(&mut growth.settings);
        self.store_settings(&mut growth).inspect_err(|_| growth.settings = before)
    }
}
