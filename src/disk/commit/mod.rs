//! What makes changes durable: rounds of the one committer, the log, checkpoints, and what a failed sync forbids.

pub(crate) mod checkpoint;
pub(crate) mod checkpoints;
mod close;
pub(crate) mod guarded_dir;
pub(crate) mod log;
pub(crate) mod log_files;
pub(crate) mod pending;
pub(crate) mod poison;
pub(crate) mod reservation;
pub(crate) mod retire;
pub(crate) mod rounds;
