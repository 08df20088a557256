//! The error values of the protocol, and the one place where an error of ours becomes one of them.

use crate::ErrorKind;
use crate::serve::counters::RequestError;

/// An error value of a reply ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

impl From<Errno> for RequestError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::Perm => Self::NotPermitted,
            Errno::Io => Self::Io,
            Errno::Inval => Self::Invalid,
            Errno::NoSpace => Self::NoSpace,
            Errno::Overflow => Self::TooLarge,
            Errno::NotSup => Self::NotSupported,
            Errno::Shutdown => Self::ShuttingDown,
        }
    }
}

impl From<ErrorKind> for Errno {
    /// ENOTSUP stays reserved for fast zeroing, EOVERFLOW for lengths, and ENOMEM is never sent, as the protocol asks.
    /// A range past the end is answered before the disk is asked; from below it means that the disk has shrunk.
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ReadOnly => Self::Perm,
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::Shutdown => Self::Shutdown,
            ErrorKind::InvalidInput | ErrorKind::OutOfRange | ErrorKind::Unsupported => Self::Inval,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_the_errno_a_guest_understands() {
        for (kind, errno) in [
            (ErrorKind::ReadOnly, Errno::Perm),
            (ErrorKind::NoSpace, Errno::NoSpace),
            (ErrorKind::Shutdown, Errno::Shutdown),
            (ErrorKind::OutOfRange, Errno::Inval),
            (ErrorKind::Io, Errno::Io),
            (ErrorKind::Poisoned, Errno::Io),
            (ErrorKind::Revoked, Errno::Io),
            (ErrorKind::Corrupt, Errno::Io),
            (ErrorKind::BaseChanged, Errno::Io),
        ] {
            assert_eq!(Errno::from(kind), errno, "{kind:?}");
        }
    }
}
