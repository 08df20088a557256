//! The named warnings about a VHD that is accepted.

use serde::Serialize;

/// What is odd about a VHD that is accepted all the same. The names are part of the `--json` interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Warning {
    /// A parent locator is malformed or may not be followed, but the parent was found.
    BadParentLocator,
    /// A dynamic disk stores other than zeros in sectors that its bitmap calls unused: readers that ignore the bitmap
    /// see other content.
    ClearBitNonZeroData,
    /// The data offset of a fixed disk is not all ones.
    DataOffsetNotAllOnes,
    /// The footer copy at offset 0 is valid and not the same as the footer.
    FooterCopiesDiffer,
    /// The footer copy at offset 0 is damaged.
    FooterCopyBad,
    /// The footer is damaged or missing and its copy at offset 0 was used, as was asked for.
    FooterRecovered,
    /// The parent was changed after the child was made.
    ParentTimestampMismatch,
    ReservedFeatureBitClear,
    /// The disk belongs to a saved virtual machine.
    SavedState,
    /// A footer of 511 bytes, as old Virtual PC wrote.
    ShortFooter,
    TimestampInFuture,
    /// Bytes between the last block (or the end of the disk) and the footer that belong to nothing.
    TrailingGap,
    /// Feature bits that the specification does not define.
    UnknownFeatureBits,
}
