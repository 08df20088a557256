//! The verbs of a disk: its snapshots, its size, its keys, and looking at what is really stored.

pub(crate) mod audit;
pub(crate) mod resize;
pub(crate) mod snapshots;
pub(crate) mod sweep;
pub(crate) mod verify;
