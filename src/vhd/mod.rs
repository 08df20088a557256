//! The VHD format.

/// Named faults of a VHD file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    NotVhd,
}
