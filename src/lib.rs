//! sealdisk: a virtual block device for page-blob VHD disks.
//!
//! An NBD server exposes page blobs as block devices and stores each 512-byte page either in plaintext or under
//! AES-256-XTS, as the account's encryption setting was when the page was written. The map of the crate:
//!
//! | module | job |
//! |---|---|
//! | [`account`] | the account directory: settings, keys, the registry of open disks, the control socket |
//! | [`disk`] | the core: one page blob as a stack of layers, with its log, checkpoint and committer |
//! | [`base`] | what can lie under a disk: raw images and VHDs, read-only |
//! | [`vhd`] | the VHD format: reader, writer, chain, checks |
//! | [`crypto`] | XTS over runs of pages, the key hierarchy, sources of the key-encryption key |
//! | [`io`] | the file seam over real files, and `sync`, the locks and waiting of the core |
//! | [`nbd`] | the NBD front end: wire types, handshake, transmission |
//! | [`serve`] | what every front end needs: exports, listeners, TLS, limits, counters, threads |
//! | [`confine`] | a server gives up what it does not need: landlock, seccomp |
//! | [`metrics`] | what a running server tells Prometheus |
//! | [`spool`] | lines to standard error and output that hold up no thread of a server |
//! | `text` | what comes from elsewhere, made harmless for terminals and logs |
//! | [`cli`] | the command line, one file a verb |
//!
//! A front end holds a [`disk::Disk`]; the core knows no front end.

pub mod account;
pub mod base;
pub mod cli;
pub mod confine;
pub mod copy;
pub mod crypto;
pub mod disk;
pub mod error;
pub mod io;
pub mod metrics;
pub mod nbd;
pub mod serve;
pub mod spool;
mod text;
pub mod vhd;

pub use error::{Error, ErrorKind, Result};

/// Bytes in a page: the unit of addressing, of state and of encryption.
pub const PAGE: usize = 512;
