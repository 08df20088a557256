//! The one error of the library: a kind to match on, and one line that says what, where and what to do.
//!
//! The NBD front end maps [`ErrorKind`] to an errno in one place; the command line prints `error:` and `hint:` lines.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

mod vhd_fault;

pub use vhd_fault::VhdFault;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for programs. People read [`Error`]'s `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, name, size or range that can never be accepted.
    InvalidInput,
    /// A request reaches past the end of the disk.
    OutOfRange,
    /// A change was asked of something opened read-only.
    ReadOnly,
    NotFound,
    AlreadyExists,
    /// Held by another process, client or operation.
    InUse,
    /// No space in the file system that holds the account.
    NoSpace,
    /// The system refused or failed an input or output operation.
    Io,
    /// What is stored fails its checksum, its MAC or its own rules: nothing was changed.
    Corrupt,
    /// A key-encryption key that does not open this account, or none where one is needed.
    WrongKey,
    /// The account's keys are revoked.
    Revoked,
    /// The base image is not the one the disk was made over.
    BaseChanged,
    /// The disk refuses changes since an fsync failed.
    Poisoned,
    /// The server is stopping.
    Shutdown,
    /// The system, file system or format lacks what is needed.
    Unsupported,
    /// A limit of the configuration was reached.
    LimitExceeded,
    /// Stopped by the user; nothing half-made is left.
    Cancelled,
    /// A named fault of a VHD file.
    Vhd(VhdFault),
}

/// See the module documentation. Cheap to pass: one pointer.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), path: None, offset: None, hint: None, source: None }))
    }

    /// An error of the system. Full file systems and quotas become [`ErrorKind::NoSpace`]. One of this type that came
    /// through an interface of the system's keeps its kind and hint.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let own = source.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        let kind = match (own, source.kind()) {
            (Some(own), _) => own.kind(),
            (None, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => ErrorKind::NoSpace,
            (None, io::ErrorKind::NotFound) => ErrorKind::NotFound,
            (None, io::ErrorKind::AlreadyExists) => ErrorKind::AlreadyExists,
            (None, _) => ErrorKind::Io,
        };
        let mut error = Self::new(kind, what);
        error.0.hint = own.and_then(Self::hint_text).or_else(|| system_hint(&source)).map(str::to_owned);
        error.0.source = Some(Box::new(source));
        error
    }

    /// What is stored has a version of its format that this program does not know: [`ErrorKind::Unsupported`].
    pub(crate) fn unknown_version(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
            .hint("open it with the version of sealdisk that wrote it, or a later one")
    }

    #[must_use]
    pub fn at_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    /// Byte offset in the file of [`Error::at_path`], or on the disk when there is none.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same, if there is one, and no other yet.
    #[must_use]
    pub(crate) fn hint_if_none(mut self, hint: Option<String>) -> Self {
        self.0.hint = self.0.hint.or(hint);
        self
    }

    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Whether the system lacked permission.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let source = self.0.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|source| source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether the time for it was over.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        let source = self.0.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut)
    }

    /// What to do about it, when there is something: the hint that was given, or the one of every error of this kind.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| self.0.kind.hint())
    }

    /// What went wrong, without path, offset and cause.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.what)?;
        if let Some(offset) = self.0.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

impl ErrorKind {
    /// The stable name that `--json` prints: the variant's own, or the VHD fault's.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            ErrorKind::Vhd(fault) => format!("{fault:?}"),
            kind => format!("{kind:?}"),
        }
    }

    /// What to do about every error of this kind that gives no hint of its own.
    fn hint(self) -> Option<&'static str> {
        match self {
            ErrorKind::NoSpace => Some(
                "make room in the file system that is written to; `sealdisk status` shows what a scrub of an account \
                 would give back",
            ),
            ErrorKind::Corrupt => Some(
                "it was damaged, or changed by something other than sealdisk: look for the cause, then restore it from \
                 a backup",
            ),
            _ => None,
        }
    }
}

/// What to do about an error of the system, where its kind alone does not say.
fn system_hint(source: &io::Error) -> Option<&'static str> {
    if source.kind() == io::ErrorKind::FileTooLarge {
        return Some("a disk is at most as large as the largest file of its file system: 16 TiB on ext4, 8 EiB on XFS");
    }
    (source.raw_os_error() == Some(Errno::LOOP.raw_os_error()))
        .then_some("it is a symbolic link, which is not followed here: name what the link leads to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_what_where_and_why() {
        let error = Error::io("write failed", io::Error::from_raw_os_error(28)).at_path("/a/b").at_offset(512);
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let line = error.to_string();
        assert!(line.starts_with("/a/b: write failed at byte 512: "), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn what_passed_through_the_system_keeps_kind_and_hint() {
        let inner = Error::new(ErrorKind::Poisoned, "storing failed").hint("restart");
        let error = Error::io("names cannot be made durable", io::Error::other(inner)).at_path("/a");
        assert_eq!((error.kind(), error.hint_text()), (ErrorKind::Poisoned, Some("restart")));
        assert_eq!(error.to_string(), "/a: names cannot be made durable: storing failed");
    }

    #[test]
    fn a_kind_has_a_hint_for_errors_that_give_none() {
        let full = |error: io::Error| Error::io("a disk cannot be made here", error);
        for number in [Errno::NOSPC, Errno::DQUOT] {
            assert!(full(number.into()).hint_text().is_some_and(|hint| hint.contains("make room")), "{number}");
        }
        assert_eq!(full(Errno::NOSPC.into()).hint("a larger disk").hint_text(), Some("a larger disk"));
        assert!(full(Errno::LOOP.into()).hint_text().is_some_and(|hint| hint.contains("symbolic link")));
        assert!(Error::new(ErrorKind::Corrupt, "has a damaged [seal]").hint_text().is_some());
        assert_eq!(Error::new(ErrorKind::OutOfRange, "past the end").hint_text(), None);
    }
}
