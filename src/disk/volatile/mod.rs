//! What was answered and is in no log yet, kept for the case that only the process dies.

pub(crate) mod journal;
pub(crate) mod replay;
