//! What is to become of keys where the system locks no memory for them (RLIMIT_MEMLOCK): by default they lie in memory
//! that may be swapped out, and the process says so once; a process that [requires](require) locked memory refuses to
//! hold them.
//!
//! Until a program has said [how it tells](tell_by), nothing is told: the self-test of the cipher comes before, and its
//! key is no secret.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use rustix::process::Resource;

use crate::{Error, ErrorKind, Result};

static REQUIRED: AtomicBool = AtomicBool::new(false);
static TELLER: OnceLock<Teller> = OnceLock::new();

struct Teller {
    tell: fn(&str),
    /// RLIMIT_MEMLOCK when the process began; later it may not ask any more.
    limit: String,
}

/// Has `tell` called, once, with one line if memory for keys cannot be locked. Only the first call counts.
pub fn tell_by(tell: fn(&str)) {
    let limit = match rustix::process::getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes >> 10),
        None => "unlimited".to_owned(),
    };
    let _ = TELLER.set(Teller { tell, limit });
}

/// From now on this process holds no key in memory that is not locked: making room for one fails with
/// [`ErrorKind::LimitExceeded`].
pub fn require() {
    REQUIRED.store(true, Ordering::Relaxed);
}

/// To be called where memory for a key was not locked.
pub(super) fn not_locked(error: &dyn Display) -> Result<()> {
    static TOLD: Once = Once::new();
    let limit = TELLER.get().map_or("unknown", |teller| &teller.limit);
    if REQUIRED.load(Ordering::Relaxed) {
        let what = format!("memory for keys cannot be locked (limit {limit}): {error}");
        return Err(Error::new(ErrorKind::LimitExceeded, what)
            .hint("raise the limit with `ulimit -l`, in a unit LimitMEMLOCK=, or do without --require-locked-memory"));
    }
    if let Some(teller) = TELLER.get() {
        TOLD.call_once(|| {
            (teller.tell)(&format!(
                "memory for keys cannot be locked, so they may be swapped out: the limit is {limit}; raise it with \
                 `ulimit -l`, in a unit LimitMEMLOCK="
            ));
        });
    }
    Ok(())
}
