//! What was answered and is in no log yet, kept for the case that only the process dies.
//!
//! [`VolatileJournal`] is what an opening writes: `begin`, `append`, `void`. [`replay`] is what the next opening makes
//! of it. Nothing else knows what lies in these files, nor their names.

mod journal;
mod replay;

pub(crate) use self::journal::{Note, VolatileJournal, epochs};
pub(crate) use self::replay::{Replay, replay};
