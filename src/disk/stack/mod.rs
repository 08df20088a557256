//! The layers of a disk, and what each of them holds: reading and changing pages.

pub(crate) mod access;
pub(crate) mod diff;
pub(crate) mod extent_map;
pub(crate) mod layer;
pub(crate) mod page_set;
mod publish;
pub(crate) mod range_lock;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod view_cache;
