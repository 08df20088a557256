//! The VHD wing from outside: disks generated from the specification, and judges that share no code with it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod build;
mod corpus;
mod figures;
mod hostile;
mod interop;
mod named;
mod nbd_base;
mod parents;
mod pieces;
mod replay;
mod verbs;
mod warnings;
mod writers;
