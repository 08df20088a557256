//! Looking at what a layer really stores, byte by byte, and comparing it with what it is said to hold. Changes nothing.

use zeroize::Zeroizing;

use crate::disk::core::Core;
use crate::disk::table::settings::Kind;
use crate::{Error, ErrorKind, PAGE, Result};

/// Pages looked at under one lock.
const STEP: u64 = 1024;
/// Pages looked at in one piece: a few tens of milliseconds.
const PIECE: u64 = 64 * STEP;
/// Ciphertext has every byte value about twice in a page. That some value comes this often is less likely than one in
/// 10^13 pages (Poisson, mean 2, 256 values).
const TOO_OFTEN: u16 = 24;

/// What a piece of a layer stores. All numbers but `next` are counts of pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audited {
    /// The page to go on with; `None`: that was all.
    pub next: Option<u64>,
    pub held: u64,
    /// Said to be held, and not there: a hole, or zeros, in an encrypted layer.
    pub missing: u64,
    /// Held in an encrypted layer, and nothing like ciphertext.
    pub clear: u64,
    /// Stored, and not held: to be scrubbed.
    pub left: u64,
    /// Stored, and in no record of the disk, as far as it was looked through.
    pub unaccounted: u64,
}

impl Core {
    /// A piece of layer `id`, from page `page` on. A layer that has gone stores nothing. [`ErrorKind::NotFound`]: there
    /// never was such a layer.
    pub(crate) fn audit(&self, id: u32, page: u64) -> Result<Audited> {
        let layer = {
            let state = self.stack.state();
            state.index_of(id).map(|index| state.entries[index].layer.clone())
        };
        let mut found = Audited::default();
        let Some(layer) = layer else {
            // Upkeep removes emptied layers at any time; ids are never used again.
            let given_out = 1..self.table.lock().settings().next_layer;
            return match given_out.contains(&id) {
                true => Ok(found),
                false => Err(Error::new(ErrorKind::NotFound, format!("the disk has no layer {id}"))),
            };
        };
        let pages = layer.pages()?;
        if page >= pages {
            return Ok(found);
        }
        let (mut at, mut looked_at) = (page, 0);
        while looked_at < PIECE {
            // Where the layer stores nothing and holds nothing there is nothing to look at.
            let stored = layer.next_data(at)?.map(|run| run.start.max(at));
            let held = {
                let state = self.stack.state();
                let Some(index) = state.index_of(id) else { return Ok(found) };
                state.entries[index].held().next_run(at..u64::MAX).map(|run| run.start)
            };
            let Some(start) = stored.into_iter().chain(held).min().filter(|&start| start < pages) else {
                return Ok(found);
            };
            let end = pages.min(start + STEP);
            let _lock = self.stack.lock_shared(start..end);
            let mut bytes = Zeroizing::new(vec![0; (end - start) as usize * PAGE]);
            layer.read_stored(start, &mut bytes)?;
            let state = self.stack.state();
            let Some(index) = state.index_of(id) else { return Ok(found) };
            let held = state.entries[index].held().clipped(start..end);
            for (page, number) in bytes.chunks(PAGE).zip(start..) {
                let empty = page.iter().all(|&byte| byte == 0);
                if !held.contains_all(number..number + 1) {
                    let unaccounted = state.entries[index].unaccounted.contains_all(number..number + 1);
                    let of_its_kind = if unaccounted { &mut found.unaccounted } else { &mut found.left };
                    *of_its_kind += u64::from(!empty);
                    continue;
                }
                found.held += 1;
                if layer.kind == Kind::Xts {
                    found.missing += u64::from(empty);
                    found.clear += u64::from(!empty && is_clear(page));
                }
            }
            looked_at += end - start;
            at = end;
        }
        found.next = (at < pages).then_some(at);
        Ok(found)
    }
}

/// Whether some byte value comes more often than it does in ciphertext.
fn is_clear(page: &[u8]) -> bool {
    let mut counts = [0u16; 256];
    for &byte in page {
        counts[usize::from(byte)] += 1;
    }
    counts.into_iter().any(|count| count >= TOO_OFTEN)
}
