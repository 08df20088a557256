//! The real program on a real file system: killed again and again under clients that note what was answered, on a full
//! file system, and read while it is written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod full;
mod full_account;
mod kill;
mod torn;
mod unaccounted;

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../cli/client.rs"]
mod client;
