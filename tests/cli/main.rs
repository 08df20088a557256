//! The program as its users see it: verbs, answers, the switch, what a server leaves behind, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../nbd/raw.rs"]
mod raw;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod client;
mod durable;
mod layers;
mod life;
mod listeners;
mod model;
mod quickstart;
mod read_only_mount;
mod refused;
mod served;
mod serving;
mod shapes;
mod switch;
mod terminal;
mod verity;
