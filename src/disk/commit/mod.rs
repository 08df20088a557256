//! What makes changes durable: rounds of the one committer, the log, checkpoints, and what a failed sync forbids.

pub(crate) mod checkpoint;
mod checkpoints;
mod close;
mod costs;
pub(crate) mod guarded_dir;
pub(crate) mod log;
mod log_files;
pub(crate) mod log_replay;
pub(crate) mod pending;
pub(crate) mod poison;
mod reservation;
mod retire;
pub(crate) mod rounds;

use std::ops::Deref;
use std::sync::Arc;

use self::checkpoint::Checkpoint;
use self::costs::Costs;
use self::log::{Chain, Log};
use self::poison::Poison;
use crate::io::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::io::sync::{Condvar, Mutex, MutexGuard};
use crate::io::{File, mutant};

/// Whose turn it is to do what excludes rounds: one committer (invariant 5).
#[derive(Debug, Default)]
struct Rounds {
    busy: bool,
    /// Rounds begun and ended. A flush waits for the end of one that began after it was called.
    begun: u64,
    ended: u64,
    /// The last that made durable what it took. One that came while the keys were away took nothing.
    done: u64,
}

impl Rounds {
    /// The round whose end makes durable what is in no layer's mark and not pending any more; 0: there is none. Under
    /// the lock of the rounds: what a round took is still being made durable while `begun > ended`.
    fn under_way(&self) -> u64 {
        if self.begun > self.ended && !mutant!(EmptyFlushDoesNotWait) { self.begun } else { 0 }
    }
}

/// A checkpoint that waits to be written.
#[derive(Debug)]
struct Due {
    epoch: u64,
    state: Checkpoint,
}

/// What only the holder of the committer's turn touches, but for handing over `next_log` and `due`.
#[derive(Debug)]
struct Committer {
    /// `None` until the first change.
    log: Option<Log>,
    /// What a log begun now must chain to.
    chain: Chain,
    /// Above the number of every log and checkpoint there is.
    next_epoch: u64,
    /// Preallocated, zero-filled and durable under [`log::NEXT`].
    next_log: Option<Arc<dyn File>>,
    due: Option<Due>,
    /// The next round is to go over to the next log, full or not.
    turn_over: bool,
}

/// The one committer of a disk, and what has failed. Its locks, in this order: one for each writer of a checkpoint, the
/// turn, and what the holder of the turn works on.
#[derive(Debug)]
pub(crate) struct Commit {
    /// One checkpoint at a time: who finds none waiting knows that none is being written either.
    checkpointing: Mutex<()>,
    rounds: Mutex<Rounds>,
    turn: Condvar,
    committer: Mutex<Committer>,
    poison: Arc<Poison>,
    costs: Costs,
    /// Extents not yet durable after which a writer commits them itself: what the log in use has room for.
    pending_limit: AtomicUsize,
    /// Extents that changes under way may add to the pending ones.
    reserved: AtomicUsize,
    /// A round was asked for before one is needed, and has not begun yet.
    round_asked: AtomicBool,
    /// The log has no room for more than what is pending, and no next one could be made.
    log_full: AtomicBool,
    /// Nothing was written since a clean close.
    is_clean: AtomicBool,
}

/// The proof of having the committer's turn: a round, or something that excludes rounds.
#[derive(Debug)]
pub(crate) struct Turn(());

/// The turn of something that is no round, given back when dropped.
#[derive(Debug)]
pub(crate) struct CommitGuard<'a> {
    commit: &'a Commit,
    turn: Turn,
}

impl Deref for CommitGuard<'_> {
    type Target = Turn;

    fn deref(&self) -> &Turn {
        &self.turn
    }
}

impl Drop for CommitGuard<'_> {
    fn drop(&mut self) {
        self.commit.rounds.lock().busy = false;
        self.commit.turn.notify_all();
    }
}

/// No checkpoint is written by anybody else.
#[derive(Debug)]
pub(crate) struct CheckpointGuard<'a> {
    _lock: MutexGuard<'a, ()>,
}

impl Commit {
    /// Of a disk that was closed in order, if `is_clean`. Its first log will be at least that of `next_epoch`, chained
    /// to `chain`; until then at most `pending_limit` extents may be pending.
    pub(crate) fn new(
        poison: Arc<Poison>,
        chain: Chain,
        next_epoch: u64,
        pending_limit: usize,
        is_clean: bool,
    ) -> Self {
        let committer = Committer { log: None, chain, next_epoch, next_log: None, due: None, turn_over: false };
        Self {
            checkpointing: Mutex::new(()),
            rounds: Mutex::new(Rounds::default()),
            turn: Condvar::new(),
            committer: Mutex::new(committer),
            poison,
            costs: Costs::default(),
            pending_limit: AtomicUsize::new(pending_limit),
            reserved: AtomicUsize::new(0),
            round_asked: AtomicBool::new(false),
            log_full: AtomicBool::new(false),
            is_clean: AtomicBool::new(is_clean),
        }
    }

    /// Excludes other writers of checkpoints.
    pub(crate) fn lock_checkpoint(&self) -> CheckpointGuard<'_> {
        CheckpointGuard { _lock: self.checkpointing.lock() }
    }

    /// Takes the committer's turn for something that is no round, and gives it back when dropped.
    pub(crate) fn lock_commit(&self) -> CommitGuard<'_> {
        let mut rounds = self.rounds.lock();
        while rounds.busy {
            rounds = self.turn.wait(rounds);
        }
        rounds.busy = true;
        CommitGuard { commit: self, turn: Turn(()) }
    }

    /// What the holder of the turn works on.
    fn committer(&self, _turn: &Turn) -> MutexGuard<'_, Committer> {
        self.committer.lock()
    }

    pub(crate) fn poison(&self) -> &Poison {
        &self.poison
    }

    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Extents not yet durable after which a writer commits them itself.
    pub(crate) fn pending_limit(&self) -> usize {
        self.pending_limit.load(Ordering::SeqCst)
    }

    /// Whether nothing was written since a clean close.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_clean.load(Ordering::SeqCst)
    }

    /// The number of the next log.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.committer.lock().next_epoch
    }
}
