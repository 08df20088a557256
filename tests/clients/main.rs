//! The clients people use, unmodified, against a served account.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod fio;
mod kill;
mod libnbd;
mod nbdkit;
mod qemu;
mod tls;
