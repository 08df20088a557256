//! The service at home on a Linux server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../nbd/raw.rs"]
mod raw;
mod scrape;
#[path = "../support/mod.rs"]
mod support;

mod attacker;
mod audit_log;
mod confined;
mod faults;
mod inside;
mod logs;
mod machine;
mod manager;
mod many;
mod metrics;
mod onlookers;
mod operate;
mod reload;
mod rules;
mod soak;
mod units;
