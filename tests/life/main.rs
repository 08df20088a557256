//! The life of a disk from end to end: clones, differences, live verbs under a verifying load.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../keys/client.rs"]
mod client;

mod backup;
mod clones;
mod family;
mod in_use;
mod load;
mod model;
mod snapshot_reads;
