//! The named causes for which a VHD is refused.

use serde::Serialize;

use crate::{Error, ErrorKind};

/// Why a VHD is refused. The names are part of the `--json` interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum VhdFault {
    /// The table offset of the dynamic header is no multiple of 512.
    BadBatOffset,
    /// The block size is no power of two from 4 KiB to 256 MiB.
    BadBlockSize,
    BadFooterChecksum,
    BadHeaderChecksum,
    /// No `cxsparse` where the footer says the dynamic header is.
    BadHeaderCookie,
    /// The data offset of a dynamic or differencing disk is no multiple of 512, or lies in the footer copy.
    BadHeaderOffset,
    /// No parent was found, and a parent locator is malformed.
    BadParentLocator,
    /// The virtual size is zero or no multiple of 512.
    BadSize,
    /// The block allocation table reaches past the end of the file.
    BatOutOfFile,
    /// The block allocation table has fewer entries than the virtual size needs.
    BatTooSmall,
    BlockOutOfFile,
    /// Two blocks share bytes of the file.
    BlockOverlap,
    HeaderOutOfFile,
    /// A VHDX, whatever its name says.
    IsVhdx,
    /// A limit that keeps memory and time bounded.
    LimitExceeded,
    /// A structure or a block lies on another structure.
    MetadataOverlap,
    /// No footer.
    NotVhd,
    ParentCycle,
    /// The parent lies outside the allowed folders, or is no regular file.
    ParentForbidden,
    ParentIdMismatch,
    ParentNotFound,
    /// More than 2040 GiB in a dynamic or differencing disk.
    SizeTooLarge,
    /// Too few bytes to hold a footer.
    TooSmall,
    /// The end of the file is missing.
    Truncated,
    UnsupportedDiskType,
    UnsupportedFeatures,
    UnsupportedVersion,
}

impl VhdFault {
    pub(crate) fn error(self, what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Vhd(self), what)
    }

    /// The fault as an error that names the byte of the file where it lies.
    pub(crate) fn at(self, offset: u64, what: impl Into<String>) -> Error {
        self.error(what).at_offset(offset)
    }
}
