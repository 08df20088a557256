//! The life of a disk from end to end: clones, differences, live verbs under a verifying load.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod clones;
mod family;
mod load;
mod model;
mod snapshot_reads;
