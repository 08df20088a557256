//! The life of a disk from end to end: clones, differences, live verbs under a verifying load.

#[path = "../support/mod.rs"]
mod support;

mod clones;
mod load;
mod model;
