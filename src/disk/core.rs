//! What the parts of an open disk share, and the order in which they lock it.
//!
//! Lock order, outermost first: `upkeep`, `table`, `checkpointing`, the committer's turn (`rounds`), range locks,
//! `gate`, `committer`, `state`. Nobody waits for a round, a checkpoint or log space while holding a range lock or the
//! gate.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::commit::checkpoint::Checkpoint;
use super::commit::log::{Chain, Log};
use super::commit::poison::Poison;
use super::stack::layer::Layer;
use super::stack::range_lock::RangeLock;
use super::stack::state::State;
use super::stack::stats::Costs;
use super::table::key_slots::KeySlots;
use super::table::settings::DiskSettings;
use super::{Access, Options};
use crate::base::BaseImage;
use crate::crypto::keyring::DiskKeys;
use crate::io::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::io::sync::{Condvar, Mutex, RwLock};
use crate::io::{Dir, File};
use crate::{Error, ErrorKind, PAGE, Result};

/// Invariant 2: every change holds this shared from reading `top` until its presence is updated; putting a layer on
/// top holds it exclusively, so it waits for the changes in flight, and does O(1) work inside.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Where writes go. `None`: the next change makes a layer first.
    pub(crate) top: Option<Arc<Layer>>,
    pub(crate) encryption: bool,
    /// Whether this opening has its own log, and so the clean mark is durably cleared.
    pub(crate) has_log: bool,
    pub(crate) closed: bool,
}

/// Whose turn it is to do what excludes rounds: one committer (invariant 5).
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) busy: bool,
    /// Rounds begun and ended. A flush waits for the end of one that began after it was called.
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    /// The last that made durable what it took. One that came while the keys were away took nothing.
    pub(crate) done: u64,
}

/// A checkpoint that waits to be written.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) epoch: u64,
    pub(crate) state: Checkpoint,
}

/// How far the steps of upkeep have come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Where the look for dead pages after an unclean end goes on: layer and page.
    pub(crate) scan: (u32, u64),
}

/// What only the holder of the committer's turn touches, but for handing over `next_log` and `due`.
#[derive(Debug)]
pub(crate) struct Committer {
    /// `None` until the first change.
    pub(crate) log: Option<Log>,
    /// What a log begun now must chain to.
    pub(crate) chain: Chain,
    /// Above the number of every log and checkpoint there is.
    pub(crate) next_epoch: u64,
    /// Preallocated, zero-filled and durable under [`super::commit::log::NEXT`].
    pub(crate) next_log: Option<Arc<dyn File>>,
    pub(crate) due: Option<Due>,
    /// The next round is to go over to the next log, full or not.
    pub(crate) turn_over: bool,
}

/// What changes with the set of layers. Holding its lock excludes making a layer, resize and rollback from one another.
#[derive(Debug)]
pub(crate) struct LayerTable {
    pub(crate) settings: DiskSettings,
    pub(crate) slots: KeySlots,
}

pub(crate) struct Core {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) layers_dir: Arc<dyn Dir>,
    pub(crate) uuid: Uuid,
    pub(crate) footer: bool,
    pub(crate) keys: RwLock<Option<DiskKeys>>,
    /// `None`: there is none, it is not open, or the disk was detached from it.
    pub(crate) base: RwLock<Option<Arc<dyn BaseImage>>>,
    pub(crate) access: Access,
    pub(crate) options: Options,
    pub(crate) table: Mutex<LayerTable>,
    pub(crate) rounds: Mutex<Rounds>,
    pub(crate) turn: Condvar,
    pub(crate) ranges: RangeLock,
    pub(crate) gate: RwLock<Gate>,
    pub(crate) committer: Mutex<Committer>,
    pub(crate) state: RwLock<State>,
    pub(crate) poison: Arc<Poison>,
    pub(crate) costs: Costs,
    /// Pages of the blob, as in `state`.
    pub(crate) pages: AtomicU64,
    /// Extents not yet durable after which a writer commits them itself: what the log in use has room for.
    pub(crate) pending_limit: AtomicUsize,
    /// Extents that changes under way may add to the pending ones.
    pub(crate) reserved: AtomicUsize,
    /// A round was asked for before one is needed, and has not begun yet.
    pub(crate) round_asked: AtomicBool,
    /// The log has no room for more than what is pending, and no next one could be made.
    pub(crate) log_full: AtomicBool,
    /// A write found no space: room for requests in parts is taken before the first of them.
    pub(crate) tight: AtomicBool,
    /// The owner took the keys back: nothing is served, plain layers and base neither.
    pub(crate) revoked: AtomicBool,
    /// Nothing was written since a clean close.
    pub(crate) opened_clean: AtomicBool,
    /// After an unclean end: pages that were found in logs and notes.
    pub(crate) recovered: Option<u64>,
    /// One checkpoint at a time: who finds none waiting knows that none is being written either.
    pub(crate) checkpointing: Mutex<()>,
    /// One upkeep step at a time.
    pub(crate) upkeep: Mutex<Progress>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({}, {:?})", self.uuid, self.access)
    }
}

impl Core {
    /// Bytes of the disk, without the footer page.
    pub(crate) fn size(&self) -> u64 {
        (self.pages.load(Ordering::Relaxed) - u64::from(self.footer)) * PAGE as u64
    }

    pub(crate) fn keys(&self) -> Result<DiskKeys> {
        self.keys.read().clone().ok_or_else(|| self.keyless())
    }

    pub(crate) fn keyless(&self) -> Error {
        Error::new(ErrorKind::Revoked, "the keys of this disk are not here").at_path(self.dir.path())
    }

    /// Whether anything may be served at all.
    pub(crate) fn check_admitted(&self) -> Result<()> {
        if self.revoked.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Revoked, "the keys of this disk are revoked"));
        }
        Ok(())
    }

    /// Whether changes may go on at all.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_admitted()?;
        if self.access == Access::ReadOnly {
            return Err(Error::new(ErrorKind::ReadOnly, "the disk is open read-only"));
        }
        self.poison.check()
    }

    pub(crate) fn check_open(&self, gate: &Gate) -> Result<()> {
        if gate.closed {
            return Err(Error::new(ErrorKind::Shutdown, "the disk is closed"));
        }
        Ok(())
    }

    /// Takes the committer's turn for something that is no round, and gives it back when dropped.
    pub(crate) fn lock_commit(&self) -> CommitGuard<'_> {
        let mut rounds = self.rounds.lock();
        while rounds.busy {
            rounds = self.turn.wait(rounds);
        }
        rounds.busy = true;
        CommitGuard(self)
    }

    /// Whole pages that cover the bytes.
    pub(crate) fn pages_of(offset: u64, len: u64) -> Range<u64> {
        offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64)
    }
}

pub(crate) struct CommitGuard<'a>(&'a Core);

impl Drop for CommitGuard<'_> {
    fn drop(&mut self) {
        self.0.rounds.lock().busy = false;
        self.0.turn.notify_all();
    }
}
