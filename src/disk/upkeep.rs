//! Background work, in steps that a thread of the registry calls: checkpoints, space for the next log, finding and
//! punching dead pages, removing layers that hold nothing. The disk itself starts no thread.
//!
//! Invariant 4: a page of a layer is punched only with the committer's turn (so between rounds) and its range lock held
//! exclusively, after checking then that the live view has left it and that nothing of it is pending or in flight: so
//! the durable state has left it too.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::commit::CommitGuard;
use super::core::Core;
use super::stack::layer::Layer;
use super::stack::range_lock::Exclusive;
use crate::io::sync::{Mutex, MutexGuard};
use crate::io::{mutant, unless_mutant};
use crate::{ErrorKind, PAGE, Result};

/// Runs punched in one step, while flushes wait.
const PUNCHES: usize = 64;
/// Dead runs looked at to find those: what is not settled yet in one round is in the next.
const LOOKED_AT: usize = 64 * PUNCHES;
/// Pages of one punch, and of one look for dead pages.
const STEP_PAGES: u64 = 16 << 10;

/// How far the steps have come.
#[derive(Debug, Default)]
struct Progress {
    /// Where the look for dead pages after an unclean end goes on: layer and page.
    scan: (u32, u64),
}

/// One step at a time.
#[derive(Debug, Default)]
pub(crate) struct Upkeep(Mutex<Progress>);

/// No other step is under way.
#[derive(Debug)]
pub(crate) struct UpkeepGuard<'a>(MutexGuard<'a, Progress>);

impl Upkeep {
    pub(crate) fn lock(&self) -> UpkeepGuard<'_> {
        UpkeepGuard(self.0.lock())
    }
}

impl Core {
    /// One step. `Ok(true)`: more can be done now.
    pub(crate) fn upkeep(&self) -> Result<bool> {
        if self.check_writable().is_err() || self.stack.gate().is_closed() {
            return Ok(false);
        }
        let early = self.half_full(&self.stack.state());
        if early {
            self.flush()?;
        }
        let mut upkeep = self.upkeep.lock();
        // What needs space must not keep back what gives it.
        let prepare = |upkeep: &UpkeepGuard<'_>| {
            self.write_checkpoint(upkeep)?;
            self.ready_next_log(upkeep)?;
            self.note_wear(self.options.note_pages())
        };
        let prepared = prepare(&upkeep);
        let scanning = self.look_for_dead(&mut upkeep)?;
        let punching = self.punch_some(&upkeep)?;
        let removing = self.remove_empty(&upkeep)?;
        let more = scanning || punching || removing;
        match prepared {
            Err(error) if error.kind() == ErrorKind::NoSpace && more => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => prepare(&upkeep)?,
            prepared => prepared?,
        }
        Ok(more)
    }

    /// After an unclean end: looks at stored pages that their layer does not hold for bytes left behind. Those that a
    /// record accounts for are dead; the others stay until the owner gives them up.
    fn look_for_dead(&self, upkeep: &mut UpkeepGuard<'_>) -> Result<bool> {
        if self.stack.state().dead_known {
            return Ok(false);
        }
        let progress = &mut upkeep.0;
        let (id, page) = progress.scan;
        let next = self.stack.state().entries.iter().find(|entry| entry.layer.id >= id).map(|e| Arc::clone(&e.layer));
        let Some(layer) = next else {
            let mut state = self.stack.state_mut();
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
            let _state = self.stack.state_mut();
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
        let _lock = self.stack.lock_shared(run.clone());
        let mut unheld: Vec<Range<u64>> = Vec::new();
        {
            let state = self.stack.state();
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
            let mut state = self.stack.state_mut();
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
        let state = self.stack.state();
        let runs = state.entries.iter().flat_map(|entry| entry.dead.runs(0..u64::MAX).map(move |run| (entry, run)));
        let pieces = runs.flat_map(|(entry, run)| {
            let starts = run.clone().step_by(STEP_PAGES as usize);
            starts.map(move |at| (Arc::clone(&entry.layer), at..run.end.min(at + STEP_PAGES)))
        });
        pieces.take(LOOKED_AT).filter(|(_, piece)| state.is_durable(piece)).take(PUNCHES).collect()
    }

    fn punch_some(&self, _upkeep: &UpkeepGuard<'_>) -> Result<bool> {
        if self.punchable().is_empty() {
            return Ok(false);
        }
        let turn = self.commit.lock_commit();
        for (layer, piece) in self.punchable() {
            let lock = self.stack.lock_exclusive(piece.clone());
            let dead: Vec<Range<u64>> = {
                let state = self.stack.state();
                match state.index_of(layer.id) {
                    _ if mutant!(PunchNotLookedAtAgain) => vec![piece],
                    Some(index) if state.is_durable(&piece) => state.entries[index].dead.runs(piece).collect(),
                    _ => continue,
                }
            };
            for run in dead {
                self.punch(&turn, &lock, &layer, run)?;
            }
        }
        Ok(!self.punchable().is_empty())
    }

    /// Punches pages of `layer` that are dead.
    fn punch(&self, _turn: &CommitGuard<'_>, _pages: &Exclusive<'_>, layer: &Layer, dead: Range<u64>) -> Result<()> {
        debug_assert!(!self.stack.state().holds(layer.id, &dead), "a page that is held is dead");
        layer.punch(dead.clone())?;
        let mut state = self.stack.state_mut();
        unless_mutant!(PunchLeavesClean => layer.mark_dirty());
        if let Some(entry) = state.entry_mut(layer.id) {
            entry.dead.remove(dead.clone());
            entry.punched += dead.end - dead.start;
        }
        Ok(())
    }

    /// Flushes, punches what is dead by then, and makes that durable. With `unaccounted` also what no record names, and
    /// files of layers that it is stored in.
    pub(crate) fn scrub(&self, unaccounted: bool) -> Result<()> {
        self.check_writable()?;
        self.flush()?;
        while self.upkeep()? {}
        if unaccounted {
            // Behind the look for them: what it finds later is another's.
            self.stack.state_mut().give_up_unaccounted();
            self.remove_strays()?;
            while self.upkeep()? {}
        }
        self.flush()?;
        // Layers that became empty go only after that flush.
        while self.upkeep()? {}
        Ok(())
    }
}
