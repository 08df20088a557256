//! The clients people use, unmodified, against a served account.

#[path = "../support/mod.rs"]
mod support;

mod fio;
mod kill;
mod libnbd;
mod nbdkit;
mod qemu;
