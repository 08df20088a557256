//! The error values of the protocol, and the one place where an error of ours becomes one of them.

use crate::ErrorKind;

/// An error value of a reply ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

impl Errno {
    pub const ALL: [Self; 7] =
        [Self::Perm, Self::Io, Self::Inval, Self::NoSpace, Self::Overflow, Self::NotSup, Self::Shutdown];

    /// Place in [`Errno::ALL`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Perm => 0,
            Self::Io => 1,
            Self::Inval => 2,
            Self::NoSpace => 3,
            Self::Overflow => 4,
            Self::NotSup => 5,
            Self::Shutdown => 6,
        }
    }

    /// As the protocol calls it, without its prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::Inval => "EINVAL",
            Self::NoSpace => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
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
    fn each_has_its_own_place() {
        for (index, errno) in Errno::ALL.into_iter().enumerate() {
            assert_eq!(errno.index(), index);
        }
    }

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
