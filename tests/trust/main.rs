//! What a verb trusts: directories, files, commands and servers of its own user and of root, and no others.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod namespaces;
mod owners;
mod rig;
mod servers;
