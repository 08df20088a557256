//! What makes changes durable: rounds of the one committer, the log, checkpoints, and what a failed sync forbids.

pub(crate) mod checkpoint;
pub(crate) mod guarded_dir;
pub(crate) mod log;
pub(crate) mod pending;
pub(crate) mod poison;
pub(crate) mod rounds;
