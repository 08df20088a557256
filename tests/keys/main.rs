//! Keys as their owner meets them: where they come from, how they change while disks are in use, and what is left when
//! they are gone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod attacker;
mod audit;
mod client;
mod compromised;
mod erase;
mod export;
mod hidden;
mod key_usage;
mod load;
mod locked;
mod memory;
mod new_sources;
mod proof;
mod recipes;
mod reencrypt;
mod revoke;
mod rotate;
mod secrets;
mod source_pairs;
mod sources;
mod tamper;
mod tamper_log;
mod terminal;
