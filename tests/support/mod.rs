//! What the tests of the whole program share: an account in a temporary directory, a server over it, and programs run
//! to their end in bounded time.
//!
//! A server listens on a unix socket in the account's temporary directory (on loopback where a test asks for it) and is
//! stopped by its process id when it goes out of scope. A client that is not installed fails the test.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod account;
mod aes;
mod certificates;
mod command;
mod images;
mod server;

pub(crate) use account::Account;
pub(crate) use aes::{SCHEDULE, expand};
pub(crate) use certificates::Certificates;
pub(crate) use command::{program, run, stderr_of_failure, stdout_of};
pub(crate) use images::{file_system_image, sha256, vhd_of};
pub(crate) use server::Server;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
