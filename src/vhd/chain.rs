//! A disk and its parents, read as one.

use super::image::Image;
use crate::Result;
use crate::io::source::read;

/// The disk itself first, then its parent, and so on to one that has none.
#[derive(Debug)]
pub struct Chain {
    images: Vec<Image>,
}

/// Whether a run of a chain is stored in any of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Data,
    /// In none: reads as zeros.
    Zero,
}

/// Takes whether a run is stored, and its length in bytes.
pub type VisitStored<'a> = dyn FnMut(Stored, u64) -> Result<()> + 'a;

impl Chain {
    pub(super) fn new(images: Vec<Image>) -> Self {
        debug_assert!(!images.is_empty());
        Self { images }
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.images[0].size()
    }

    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Fills `buf` from byte `offset`; both multiples of 512, inside the disk. `Ok(false)`, only if `wait` is false:
    /// would wait for a device, `buf` is in any state.
    pub fn read(&self, offset: u64, buf: &mut [u8], wait: bool) -> Result<bool> {
        self.fill(0, offset, buf, wait)
    }

    fn fill(&self, level: usize, offset: u64, buf: &mut [u8], wait: bool) -> Result<bool> {
        let Some(image) = self.images.get(level) else {
            buf.fill(0);
            return Ok(true);
        };
        // A parent may be shorter than its child: zeros past its end.
        let inside = image.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (buf, past) = buf.split_at_mut(inside);
        past.fill(0);
        if buf.is_empty() {
            return Ok(true);
        }
        let mut done = 0;
        let len = buf.len() as u64;
        image.extents(offset, len, wait, &mut |place, run| {
            let part = &mut buf[done..done + run as usize];
            let at = offset + done as u64;
            done += run as usize;
            match place {
                Some(place) => read(image.source(), wait, place, part),
                None => self.fill(level + 1, at, part, wait),
            }
        })
    }

    /// Visits the runs of `[offset, offset + len)`, in order, with their lengths in bytes; neighbours differ. An error
    /// of `visit` ends the visit, and is what this returns.
    pub fn runs(&self, offset: u64, len: u64, visit: &mut VisitStored<'_>) -> Result<()> {
        let mut pending: Option<(Stored, u64)> = None;
        self.level_runs(0, offset, len, &mut |stored, run| {
            match &mut pending {
                Some((last, total)) if *last == stored => *total += run,
                other => {
                    if let Some((last, total)) = other.replace((stored, run)) {
                        visit(last, total)?;
                    }
                }
            }
            Ok(())
        })?;
        pending.map_or(Ok(()), |(last, total)| visit(last, total))
    }

    fn level_runs(&self, level: usize, offset: u64, len: u64, visit: &mut VisitStored<'_>) -> Result<()> {
        let inside = self.images.get(level).map_or(0, |image| image.size().saturating_sub(offset).min(len));
        if inside > 0 {
            let mut at = offset;
            self.images[level].extents(offset, inside, true, &mut |place, run| {
                match place {
                    Some(_) => visit(Stored::Data, run)?,
                    None => self.level_runs(level + 1, at, run, visit)?,
                }
                at += run;
                Ok(true)
            })?;
        }
        if inside < len {
            visit(Stored::Zero, len - inside)?;
        }
        Ok(())
    }
}
