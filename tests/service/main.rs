//! The service at home on a Linux server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod confined;
mod inside;
mod machine;
mod manager;
mod operate;
mod units;
