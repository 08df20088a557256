//! The VHD format: fixed, dynamic and differencing disks, read and written from the specification.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (2006), and what implementations really write;
//! `docs/vhd.md` says where the two part. All integers are big-endian, a sector is 512 bytes.
//!
//! Every byte of a file is hostile input. The rules that hold throughout: offsets and lengths are `u64` in checked
//! arithmetic; nothing is allocated before its size is known to fit into the file; every refusal is a named [`Fault`]
//! with the offset of what is wrong; nothing panics.

pub mod azure;
mod bat;
mod bitmap;
mod chain;
pub mod check;
pub mod create;
mod footer;
pub(crate) mod foreign;
mod header;
mod image;
mod locator;
mod meta;
mod open;
mod parent;
pub mod repair;
pub mod resize;
mod warning;
pub mod write;

pub use crate::error::VhdFault as Fault;
pub use bat::{Bat, MAX_ENTRIES};
pub use chain::{Chain, Stored, VisitStored};
pub use footer::{DiskType, FOOTER, Footer, Geometry};
pub use header::{DEFAULT_BLOCK, HEADER, Header};
pub use image::Image;
pub use meta::{Metadata, Notice};
pub use open::{
    MAX_DEPTH, OpenChain, OpenOptions, OptionNames, open, open_file, open_files, open_single, open_sources,
    parent_folders,
};
pub use warning::Warning;

/// The most bytes of a dynamic or differencing disk: 2040 GiB.
pub const MAX_SPARSE_SIZE: u64 = 2040 << 30;
/// Bytes in a sector.
pub const SECTOR: u64 = 512;
