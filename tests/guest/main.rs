//! Linux guests on our disks: a boot loader, a kernel and its file systems, all through the server.
//!
//! The image is made by the script `image` beside this file, once, from Debian's packages. QEMU emulates the processor
//! (tcg), so that the tests need neither KVM nor root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod attach;
mod boot;
mod machine;
mod restart;
