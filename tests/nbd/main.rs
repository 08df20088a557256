//! The NBD server, driven from outside: raw bytes where no client sends what is to be tried, real clients elsewhere.
//!
//! `docs/nbd.md` lists what the protocol demands and which of these tests shows it.

#![allow(clippy::unwrap_used, reason = "in a test, that is how something unexpected fails it")]
#![allow(clippy::duplicate_mod, reason = "two fuzz harnesses share a file")]

#[path = "../support/mod.rs"]
mod support;

mod activation;
mod child;
mod clients;
mod docs;
mod fixture;
mod raw;

mod cold;
mod fuzz;
mod handshake;
mod hostile;
mod limits;
mod load;
mod options;
mod status;
mod tls;
mod transmission;
mod turned_away;
