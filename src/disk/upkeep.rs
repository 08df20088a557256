//! Background work, in steps that a thread of the registry calls: checkpoints, space for the next log, finding and
//! punching dead pages, removing layers that hold nothing. The disk itself starts no thread.
//!
//! Invariant 4: a page of a layer is punched only with the committer's turn (so between rounds) and its range lock held
//! exclusively, after checking then that the live view has left it and that nothing of it is pending or in flight: so
//! the durable state has left it too.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::core::{Core, Progress};
use super::stack::layer::Layer;
use crate::io::mutant;
use crate::{ErrorKind, PAGE, Result};

/// Runs punched in one step, while flushes wait.
const PUNCHES: usize = 64;
/// Dead runs looked at to find those: what is not settled yet in one round is in the next.
const LOOKED_AT: usize = 64 * PUNCHES;
/// Pages of one punch, and of one look for dead pages.
const STEP_PAGES: u64 = 16 << 10;

impl Core {
    /// One step. `Ok(true)`: more can be done now.
    pub(crate) fn upkeep(&self) -> Result<bool> {
        if self.check_writable().is_err() || self.gate.read().closed {
            return Ok(false);
        }
        let early = self.half_full(&self.state.read());
        if early {
            self.flush()?;
        }
        let mut progress = self.upkeep.lock();
        // What needs space must not keep back what gives it.
        let prepare = || {
            self.write_checkpoint()?;
            self.ready_next_log()?;
            self.note_wear(self.options.note_pages())
        };
        let prepared = prepare();
        let scanning = self.look_for_dead(&mut progress)?;
        let punching = self.punch_some()?;
        let removing = self.remove_empty()?;
        let more = scanning || punching || removing;
        match prepared {
            Err(error) if error.kind() == ErrorKind::NoSpace && more => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => prepare()?,
            prepared => prepared?,
        }
        Ok(more)
    }

    /// After an unclean end: looks at stored pages that their layer does not hold for bytes left behind. Those that a
    /// record accounts for are dead; the others stay until the owner gives them up.
    fn look_for_dead(&self, progress: &mut Progress) -> Result<bool> {
        if self.state.read().dead_known {
            return Ok(false);
        }
        let (id, page) = progress.scan;
        let next = self.state.read().entries.iter().find(|entry| entry.layer.id >= id).map(|e| Arc::clone(&e.layer));
        let Some(layer) = next else {
            let mut state = self.state.write();
            state.dead_found();
            let unaccounted = state.unaccounted() * PAGE as u64;
            drop(state);
            if unaccounted > 0 {
                let path = self.dir.path();
                tracing::warn!(path = %path.display(), unaccounted, "bytes are stored that no record of the disk names");
            }
            return Ok(false);
        };
        let from = if layer.id == id { page } else { 0 };
        let Some(run) = layer.next_data(from)? else {
            // A hole that was seen may be one that a killed process made and that is not durable.
            let _state = self.state.write();
            layer.mark_dirty();
            progress.scan = (layer.id + 1, 0);
            return Ok(true);
        };
        let run = run.start..run.end.min(run.start + STEP_PAGES).min(layer.pages()?);
        // Where the look goes on once this piece was looked at: after a failed read it is looked at again.
        let next = (layer.id, run.end.max(run.start + 1));
        if run.is_empty() {
            progress.scan = next;
            return Ok(true);
        }
        let _lock = self.ranges.shared(run.clone());
        let mut unheld: Vec<Range<u64>> = Vec::new();
        {
            let state = self.state.read();
            let Some(index) = state.index_of(layer.id) else {
                progress.scan = (layer.id + 1, 0);
                return Ok(true);
            };
            let mut at = run.start;
            for held in state.entries[index].held().runs(run.clone()) {
                unheld.push(at..held.start);
                at = held.end;
            }
            unheld.push(at..run.end);
        }
        for gap in unheld.into_iter().filter(|gap| !gap.is_empty()) {
            let mut stored = Zeroizing::new(vec![0; (gap.end - gap.start) as usize * PAGE]);
            layer.read_stored(gap.start, &mut stored)?;
            let left = stored.chunks(PAGE).zip(gap.start..).filter(|(bytes, _)| bytes.iter().any(|&byte| byte != 0));
            let mut state = self.state.write();
            let Some(entry) = state.entry_mut(layer.id) else { break };
            for (_, page) in left {
                let dead = entry.accounts_for(page) || mutant!(UnaccountedPunched);
                let found = if dead { &mut entry.dead } else { &mut entry.unaccounted };
                found.insert(page..page + 1);
            }
        }
        progress.scan = next;
        Ok(true)
    }

    /// Dead runs that may be punched, as far as can be said without their locks.
    fn punchable(&self) -> Vec<(Arc<Layer>, Range<u64>)> {
        let state = self.state.read();
        let runs = state.entries.iter().flat_map(|entry| entry.dead.runs(0..u64::MAX).map(move |run| (entry, run)));
        let pieces = runs.flat_map(|(entry, run)| {
            let starts = run.clone().step_by(STEP_PAGES as usize);
            starts.map(move |at| (Arc::clone(&entry.layer), at..run.end.min(at + STEP_PAGES)))
        });
        pieces.take(LOOKED_AT).filter(|(_, piece)| state.is_durable(piece)).take(PUNCHES).collect()
    }

    fn punch_some(&self) -> Result<bool> {
        if self.punchable().is_empty() {
            return Ok(false);
        }
        let _turn = self.lock_commit();
        for (layer, piece) in self.punchable() {
            let _lock = self.ranges.exclusive(piece.clone());
            let dead: Vec<Range<u64>> = {
                let state = self.state.read();
                match state.index_of(layer.id) {
                    _ if mutant!(PunchNotLookedAtAgain) => vec![piece],
                    Some(index) if state.is_durable(&piece) => state.entries[index].dead.runs(piece).collect(),
                    _ => continue,
                }
            };
            for run in dead {
                debug_assert!(!self.state.read().holds(layer.id, &run), "a page that is held is dead");
                layer.punch(run.clone())?;
                let mut state = self.state.write();
                if !mutant!(PunchLeavesClean) {
                    layer.mark_dirty();
                }
                if let Some(entry) = state.entry_mut(layer.id) {
                    entry.dead.remove(run.clone());
                    entry.punched += run.end - run.start;
                }
            }
        }
        Ok(!self.punchable().is_empty())
    }

    /// Flushes, punches what is dead by then, and makes that durable. With `unaccounted` also what no record names, and
    /// files of layers that it is stored in.
    pub(crate) fn scrub(&self, unaccounted: bool) -> Result<()> {
        self.check_writable()?;
        self.flush()?;
        while self.upkeep()? {}
        if unaccounted {
            // Behind the look for them: what it finds later is another's.
            self.state.write().give_up_unaccounted();
            self.remove_strays()?;
            while self.upkeep()? {}
        }
        self.flush()?;
        // Layers that became empty go only after that flush.
        while self.upkeep()? {}
        Ok(())
    }
}
